package vaultpki

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/pkiwarden/pkiwarden/pki"
)

type mountInfo struct {
	Type   string `json:"type"`
	UUID   string `json:"uuid"`
	Config struct {
		MaxLeaseTTL seconds `json:"max_lease_ttl"`
	} `json:"config"`
}

// Mounts are the PKI secrets engines of the client's namespace, by path. Where
// the policy does not allow to read sys/mounts, they are those that it lets
// the token touch (sys/internal/ui/mounts).
func (v *Vault) Mounts(ctx context.Context) ([]pki.Mount, error) {
	var all map[string]mountInfo
	err := v.read(ctx, request{method: http.MethodGet, path: "sys/mounts"}, &all)
	var denied *pki.PermissionError
	if errors.As(err, &denied) && !denied.InvalidToken {
		var own struct {
			Secret map[string]mountInfo `json:"secret"`
		}
		if v.read(ctx, request{method: http.MethodGet, path: "sys/internal/ui/mounts"}, &own) == nil && len(own.Secret) > 0 {
			all, err = own.Secret, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("finding PKI mounts: %w", err)
	}
	namespace := strings.Trim(v.client.Namespace(), "/")
	var mounts []pki.Mount
	for path, info := range all {
		if info.Type == "pki" {
			mounts = append(mounts, pki.Mount{Namespace: namespace, Path: strings.Trim(path, "/"), UUID: info.UUID})
		}
	}
	slices.SortFunc(mounts, func(a, b pki.Mount) int { return cmp.Compare(a.Path, b.Path) })
	return mounts, nil
}

type issuerKey struct{ namespace, mount, mountUUID, id string }

// Issuers are the issuers of a mount, by ID, with their certificates. A
// certificate is read once: it never changes under its ID. No token is needed.
func (v *Vault) Issuers(ctx context.Context, m pki.Mount) ([]pki.Issuer, error) {
	var list struct {
		Info map[string]struct {
			Name    string `json:"issuer_name"`
			Default bool   `json:"is_default"`
			KeyID   string `json:"key_id"`
		} `json:"key_info"`
	}
	r := request{method: "LIST", path: m.Path + "/issuers", namespace: m.Namespace, public: true}
	if err := v.read(ctx, r, &list); err != nil && !notFound(err) {
		return nil, fmt.Errorf("listing issuers of mount %s: %w", m.Name(), err)
	}
	var issuers []pki.Issuer
	for id, info := range list.Info {
		issuer, err := v.issuer(ctx, m, id)
		if err != nil {
			return nil, err
		}
		issuer.Name, issuer.Default, issuer.KeyID = info.Name, info.Default, info.KeyID
		issuers = append(issuers, issuer)
	}
	v.forget(m, issuers)
	slices.SortFunc(issuers, func(a, b pki.Issuer) int { return cmp.Compare(a.ID, b.ID) })
	return issuers, nil
}

// issuer reads one issuer's certificate, unless it is known.
func (v *Vault) issuer(ctx context.Context, m pki.Mount, id string) (pki.Issuer, error) {
	key := issuerKey{m.Namespace, m.Path, m.UUID, id}
	v.mu.Lock()
	issuer, known := v.issuers[key]
	v.mu.Unlock()
	if known {
		return issuer, nil
	}
	var data struct {
		Certificate string `json:"certificate"`
	}
	r := request{method: http.MethodGet, path: m.Path + "/issuer/" + id + "/json", namespace: m.Namespace, public: true}
	if err := v.read(ctx, r, &data); err != nil {
		return pki.Issuer{}, fmt.Errorf("reading issuer %s of mount %s: %w", id, m.Name(), err)
	}
	block, _ := pem.Decode([]byte(data.Certificate))
	if block == nil {
		return pki.Issuer{}, fmt.Errorf("reading issuer %s of mount %s: no PEM certificate in the answer", id, m.Name())
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return pki.Issuer{}, fmt.Errorf("reading issuer %s of mount %s: parsing certificate: %w", id, m.Name(), err)
	}
	issuer = pki.Issuer{ID: id, Certificate: cert}
	v.mu.Lock()
	v.issuers[key] = issuer
	v.mu.Unlock()
	return issuer, nil
}

// forget drops what is remembered of the mount and is no longer there.
func (v *Vault) forget(m pki.Mount, present []pki.Issuer) {
	v.mu.Lock()
	defer v.mu.Unlock()
	maps.DeleteFunc(v.issuers, func(k issuerKey, _ pki.Issuer) bool {
		return k.namespace == m.Namespace && k.mount == m.Path &&
			(k.mountUUID != m.UUID || !slices.ContainsFunc(present, func(i pki.Issuer) bool { return i.ID == k.id }))
	})
}

// notFound tells whether Vault answered 404, which is how it lists nothing.
func notFound(err error) bool {
	var refused *pki.RefusedError
	return errors.As(err, &refused) && refused.Status == http.StatusNotFound
}
