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
		MaxLeaseTTL        seconds  `json:"max_lease_ttl"`
		PassthroughHeaders []string `json:"passthrough_request_headers"`
	} `json:"config"`
}

// Mounts are the PKI secrets engines of all Namespaces, by namespace and path,
// without those that MountsIn refuses and without namespaces whose mounts the
// policy hides.
func (v *Vault) Mounts(ctx context.Context) ([]pki.Mount, error) {
	namespaces, err := v.Namespaces(ctx)
	if len(namespaces) == 0 {
		return nil, fmt.Errorf("finding PKI mounts: %w", err)
	}
	var mounts []pki.Mount
	for _, namespace := range namespaces {
		found, err := v.MountsIn(ctx, namespace)
		var denied *pki.PermissionError
		if err != nil && (len(namespaces) == 1 || !errors.As(err, &denied)) {
			return nil, err
		}
		mounts = append(mounts, found.Mounts...)
	}
	return mounts, nil
}

// MountsIn are the PKI secrets engines of one namespace, "" being the root.
// Where the policy does not allow to read sys/mounts, they are those that it
// lets the token touch (sys/internal/ui/mounts).
func (v *Vault) MountsIn(ctx context.Context, namespace string) (pki.Discovery, error) {
	var all map[string]mountInfo
	err := v.read(ctx, request{method: http.MethodGet, path: "sys/mounts", namespace: namespace}, &all)
	var denied *pki.PermissionError
	if errors.As(err, &denied) && !denied.InvalidToken {
		var own struct {
			Secret map[string]mountInfo `json:"secret"`
		}
		ui := request{method: http.MethodGet, path: "sys/internal/ui/mounts", namespace: namespace}
		if v.read(ctx, ui, &own) == nil && len(own.Secret) > 0 {
			all, err = own.Secret, nil
		}
	}
	if err != nil {
		in := ""
		if namespace != "" {
			in = " of namespace " + namespace
		}
		return pki.Discovery{}, fmt.Errorf("finding PKI mounts%s: %w", in, err)
	}
	found := pki.Discovery{Conditional: make(map[pki.Mount]bool)}
	for path, info := range all {
		if info.Type != "pki" {
			continue
		}
		m := pki.Mount{Namespace: namespace, Path: strings.TrimSuffix(path, "/"), UUID: info.UUID}
		if err := cmp.Or(checkPath(m.Path), checkUUID(m.UUID)); err != nil {
			found.Refused = append(found.Refused, pki.RefusedMount{Name: quote(strings.TrimPrefix(m.Namespace+"/"+m.Path, "/")), Reason: err.Error()})
			continue
		}
		found.Mounts = append(found.Mounts, m)
		if slices.ContainsFunc(info.Config.PassthroughHeaders, func(h string) bool { return strings.EqualFold(h, "If-Modified-Since") }) {
			found.Conditional[m] = true
		}
	}
	slices.SortFunc(found.Mounts, func(a, b pki.Mount) int { return cmp.Compare(a.Path, b.Path) })
	slices.SortFunc(found.Refused, func(a, b pki.RefusedMount) int { return cmp.Compare(a.Name, b.Name) })
	return found, nil
}

type issuerKey struct{ namespace, mount, mountUUID, id string }

// Issuers are the issuers of a mount, by ID, with their certificates. A
// certificate is read once: it never changes under its ID. No token is needed.
// An error does not name the mount.
func (v *Vault) Issuers(ctx context.Context, m pki.Mount) ([]pki.Issuer, error) {
	var list struct {
		Info map[string]struct {
			Name    string  `json:"issuer_name"`
			Default bool    `json:"is_default"`
			KeyID   *string `json:"key_id"` // nil: this version does not tell
		} `json:"key_info"`
	}
	r := request{method: "LIST", path: m.Path + "/issuers", namespace: m.Namespace, public: true}
	if err := v.read(ctx, r, &list); err != nil && !notFound(err) {
		return nil, err
	}
	var issuers []pki.Issuer
	for id, info := range list.Info {
		if err := checkID(id); err != nil {
			return nil, err
		}
		issuer, err := v.issuer(ctx, m, id)
		if err != nil {
			return nil, err
		}
		issuer.Default, issuer.KeyID = info.Default, pki.UnknownKey
		if info.KeyID != nil {
			issuer.KeyID = *info.KeyID
		}
		if isPrintable(info.Name) && len(info.Name) <= maxName { // else it goes by its ID
			issuer.Name = info.Name
		}
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

// MaySignCRLs tells whether Vault lets an issuer sign lists: whether its usage
// holds crl-signing. Unlike the issuers' certificates, it needs a token with
// the capability read on issuer/ID.
func (v *Vault) MaySignCRLs(ctx context.Context, m pki.Mount, issuerID string) (bool, error) {
	var data struct {
		Usage string `json:"usage"`
	}
	err := checkID(issuerID)
	if err == nil {
		err = v.read(ctx, get(m, "issuer/"+issuerID), &data)
	}
	if err != nil {
		return false, fmt.Errorf("reading the usage of issuer %s of mount %s: %w", quote(issuerID), m.Name(), err)
	}
	return slices.Contains(strings.Split(data.Usage, ","), "crl-signing"), nil
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
