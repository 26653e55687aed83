// Package watchtest holds a small stateful Vault, for tests of what measures
// revocation lists. It signs real lists.
package watchtest

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"slices"
	"sync"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
)

// Vault is a fake of what crl/watch reads. The zero value has no mounts. Its
// methods may be called concurrently.
type Vault struct {
	mu     sync.Mutex
	made   int // mounts, ever
	mounts []*mount

	requests   map[string]int
	mountsErr  error
	away       error
	refused    []pki.RefusedMount
	storage    crl.Storage
	storageErr error
}

type mount struct {
	pki.Mount
	issuers []*issuer
	err     error
	tuned   bool
	hidden  bool
	config  pki.CRLConfig
	status  pki.TidyStatus
	auto    pki.AutoTidy
	denied  error // of reading config and status
}

type issuer struct {
	pki.Issuer
	key    crypto.Signer
	number int64
	list   []byte
	delta  []byte
	built  time.Time // when list was begun to be built, as Vault remembers it
	err    error
	serve  func([]byte) io.Reader
	unused bool // its usage does not include crl-signing
	hidden bool

	revoked []x509.RevocationListEntry // what Publish lists
	serial  int64                      // of the last
}

// Mount adds a mount.
func (v *Vault) Mount(path string) pki.Mount {
	v.mu.Lock()
	defer v.mu.Unlock()
	m := &mount{Mount: pki.Mount{Path: path, UUID: fmt.Sprintf("uuid-%d-%s", v.made, path)}}
	v.made++
	v.mounts = append(v.mounts, m)
	return m.Mount
}

// Unmount removes a mount.
func (v *Vault) Unmount(m pki.Mount) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.mounts = slices.DeleteFunc(v.mounts, func(x *mount) bool { return x.Mount == m })
}

// Hide keeps a mount from being listed, as a policy without a right on it does.
func (v *Vault) Hide(m pki.Mount, on bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.find(m).hidden = on
}

// Move gives a mount another path.
func (v *Vault) Move(m pki.Mount, path string) pki.Mount {
	v.mu.Lock()
	defer v.mu.Unlock()
	x := v.find(m)
	x.Path = path
	return x.Mount
}

// IssuerOptions describe an issuer that is not the usual one.
type IssuerOptions struct {
	Key      crypto.Signer // default: a new P-256 key
	Subject  string        // default: the name
	KeyUsage x509.KeyUsage // default: CRL and certificate signing
	Default  bool
	NoKey    bool // an imported certificate without its key
}

// Issuer adds an issuer with an empty list.
func (v *Vault) Issuer(m pki.Mount, name string, o IssuerOptions) crypto.Signer {
	if o.Key == nil {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(err)
		o.Key = key
	}
	if o.Subject == "" {
		o.Subject = name
	}
	if o.KeyUsage == 0 {
		o.KeyUsage = x509.KeyUsageCRLSign | x509.KeyUsageCertSign
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: o.Subject}, KeyUsage: o.KeyUsage,
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, o.Key.Public(), o.Key)
	must(err)
	cert, err := x509.ParseCertificate(der)
	must(err)

	v.mu.Lock()
	defer v.mu.Unlock()
	to := v.find(m)
	i := &issuer{key: o.Key, Issuer: pki.Issuer{ID: fmt.Sprintf("id-%d", len(to.issuers)), Name: name, KeyID: "key-" + name, Default: o.Default, Certificate: cert}}
	if o.NoKey {
		i.KeyID = ""
	}
	to.issuers = append(to.issuers, i)
	return o.Key
}

// HideIssuer deletes an issuer so that it can be had again as it was.
func (v *Vault) HideIssuer(m pki.Mount, name string, on bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.issuer(m, name).hidden = on
}

// RemoveIssuer removes an issuer.
func (v *Vault) RemoveIssuer(m pki.Mount, name string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	from := v.find(m)
	from.issuers = slices.DeleteFunc(from.issuers, func(i *issuer) bool { return i.Name == name })
}

// Publish builds the issuer's list anew, with so many entries: those of the list
// before and, where they are more, others that were revoked in the last seconds;
// where they are fewer, the oldest are gone.
func (v *Vault) Publish(m pki.Mount, name string, entries int, thisUpdate, nextUpdate time.Time) {
	v.mu.Lock()
	i := v.issuer(m, name)
	i.revoked = i.revoked[max(0, len(i.revoked)-entries):]
	for n := entries - len(i.revoked); n > 0; n-- {
		i.serial++
		i.revoked = append(i.revoked, x509.RevocationListEntry{
			SerialNumber: big.NewInt(1<<40 + i.serial), RevocationTime: thisUpdate.Add(-time.Duration(n-1) * time.Second),
		})
	}
	revoked := slices.Clone(i.revoked)
	v.mu.Unlock()
	v.Build(m, name, &x509.RevocationList{ThisUpdate: thisUpdate, NextUpdate: nextUpdate, RevokedCertificateEntries: revoked})
}

// Build signs a list for the issuer; its number is the next one unless it has
// one. With a base number it is the delta.
func (v *Vault) Build(m pki.Mount, name string, template *x509.RevocationList) {
	v.mu.Lock()
	defer v.mu.Unlock()
	i := v.issuer(m, name)
	if template.Number == nil {
		i.number++
		template.Number = big.NewInt(i.number)
	}
	if i.Certificate.KeyUsage&x509.KeyUsageCRLSign == 0 {
		i.list = []byte("never fetched")
		return
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, i.Certificate, i.key)
	must(err)
	if len(template.ExtraExtensions) > 0 {
		i.delta = der
		return
	}
	i.list, i.built = der, template.ThisUpdate
}

// DeltaOf is the extension that makes a list a delta on a base.
func DeltaOf(base int64) []pkix.Extension {
	value, err := asn1.Marshal(big.NewInt(base))
	must(err)
	return []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 27}, Critical: true, Value: value}}
}

// List is what the issuer's endpoint serves, in DER.
func (v *Vault) List(m pki.Mount, name string) []byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	return bytes.Clone(v.issuer(m, name).list)
}

// Serve makes the issuer's endpoint serve something else; nil ends that.
func (v *Vault) Serve(m pki.Mount, name string, serve func(der []byte) io.Reader) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.issuer(m, name).serve = serve
}

// FailMounts makes listing the mounts fail; nil ends that.
func (v *Vault) FailMounts(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.mountsErr = err
}

// FailIssuers makes listing the mount's issuers fail; nil ends that.
func (v *Vault) FailIssuers(m pki.Mount, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.find(m).err = err
}

// FailCRL makes fetching the issuer's list fail; nil ends that.
func (v *Vault) FailCRL(m pki.Mount, name string, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.issuer(m, name).err = err
}

// Away makes every request fail; nil ends that.
func (v *Vault) Away(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.away = err
}

// Refuse is what MountsIn names as refused.
func (v *Vault) Refuse(all ...pki.RefusedMount) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.refused = all
}

// Tune lets If-Modified-Since through to the mount, or no longer.
func (v *Vault) Tune(m pki.Mount, on bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.find(m).tuned = on
}

// Set is what the mount's config/crl and tidy-status are, or why they may not
// be read.
func (v *Vault) Set(m pki.Mount, c pki.CRLConfig, s pki.TidyStatus, denied error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	x := v.find(m)
	x.config, x.status, x.denied = c, s, denied
}

// ForbidSigning takes crl-signing out of the issuer's usage.
func (v *Vault) ForbidSigning(m pki.Mount, name string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.issuer(m, name).unused = true
}

// SetStorage is what Storage returns.
func (v *Vault) SetStorage(s crl.Storage, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.storage, v.storageErr = s, err
}

// Fetches is the number of lists that were opened.
func (v *Vault) Fetches() int { return v.Requests("200") }

// Requests is how often something was asked for: "namespaces", "mounts",
// "issuers", "config", "status", "usage"; "200", "304", or "delta".
func (v *Vault) Requests(what string) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.requests[what]
}

// count is called with v.mu held.
func (v *Vault) count(what string) {
	if v.requests == nil {
		v.requests = map[string]int{}
	}
	v.requests[what]++
}

// Namespaces implements watch.Vault.
func (v *Vault) Namespaces(context.Context) ([]string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.count("namespaces")
	all := []string{""}
	for _, m := range v.mounts {
		if !slices.Contains(all, m.Namespace) {
			all = append(all, m.Namespace)
		}
	}
	return all, v.away
}

// MountsIn implements watch.Vault.
func (v *Vault) MountsIn(_ context.Context, namespace string) (pki.Discovery, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.count("mounts")
	if err := cmp.Or(v.away, v.mountsErr); err != nil {
		return pki.Discovery{}, err
	}
	found := pki.Discovery{Conditional: map[pki.Mount]bool{}, Refused: v.refused}
	for _, m := range v.mounts {
		if m.Namespace == namespace && !m.hidden {
			found.Mounts = append(found.Mounts, m.Mount)
			found.Conditional[m.Mount] = m.tuned
		}
	}
	return found, nil
}

// Issuers implements watch.Vault.
func (v *Vault) Issuers(_ context.Context, m pki.Mount) ([]pki.Issuer, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.count("issuers")
	from, err := v.served(m)
	if err != nil {
		return nil, err
	}
	if err := cmp.Or(v.away, from.err); err != nil {
		return nil, err
	}
	var all []pki.Issuer
	for _, i := range from.issuers {
		if !i.hidden {
			all = append(all, i.Issuer)
		}
	}
	return all, nil
}

// CRL implements watch.Vault.
func (v *Vault) CRL(_ context.Context, m pki.Mount, q pki.CRLRequest) (io.ReadCloser, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	from, err := v.served(m)
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(from.issuers, func(i *issuer) bool { return i.ID == q.IssuerID })
	if at < 0 {
		return nil, fmt.Errorf("no issuer %s", q.IssuerID)
	}
	i := from.issuers[at]
	if err := cmp.Or(v.away, i.err); err != nil {
		v.count("200")
		return nil, err
	}
	if since := q.IfModifiedSince; from.tuned && !since.IsZero() && i.built.Before(since) {
		v.count("304")
		return nil, pki.ErrNotModified
	}
	list := i.list
	if q.Delta {
		v.count("delta")
		list = i.delta
	} else {
		v.count("200")
	}
	switch {
	case i.serve != nil:
		return io.NopCloser(i.serve(list)), nil
	case list == nil:
		return nil, fmt.Errorf("%w: status 204", pki.ErrNoCRL)
	case q.Form == "json":
		return io.NopCloser(bytes.NewReader(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: list}))), nil
	}
	return io.NopCloser(bytes.NewReader(list)), nil
}

// ClusterID implements watch.Vault.
func (v *Vault) ClusterID(context.Context) (string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return "Cluster-1", v.away
}

// CRLConfig implements watch.Vault.
func (v *Vault) CRLConfig(_ context.Context, m pki.Mount) (pki.CRLConfig, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.count("config")
	from, err := v.served(m)
	return from.config, cmp.Or(v.away, err, from.denied)
}

// TidyStatus implements watch.Vault.
func (v *Vault) TidyStatus(_ context.Context, m pki.Mount) (pki.TidyStatus, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.count("status")
	from, err := v.served(m)
	return from.status, cmp.Or(v.away, err, from.denied)
}

// SetAutoTidy is what the mount's config/auto-tidy is.
func (v *Vault) SetAutoTidy(m pki.Mount, a pki.AutoTidy) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.find(m).auto = a
}

// AutoTidy implements watch.Vault.
func (v *Vault) AutoTidy(_ context.Context, m pki.Mount) (pki.AutoTidy, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.count("auto")
	from, err := v.served(m)
	return from.auto, cmp.Or(v.away, err, from.denied)
}

// MaySignCRLs implements watch.Vault.
func (v *Vault) MaySignCRLs(_ context.Context, m pki.Mount, id string) (bool, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.count("usage")
	from, err := v.served(m)
	if err != nil {
		return false, err
	}
	at := slices.IndexFunc(from.issuers, func(i *issuer) bool { return i.ID == id })
	return !from.issuers[at].unused, cmp.Or(v.away, from.denied)
}

// Storage implements watch.StorageReader.
func (v *Vault) Storage(context.Context) (crl.Storage, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.storage, v.storageErr
}

// served is the mount that answers a request, or the error of one that is not
// there.
func (v *Vault) served(m pki.Mount) (*mount, error) {
	at := slices.IndexFunc(v.mounts, func(x *mount) bool { return x.Mount == m })
	if at < 0 {
		return &mount{}, fmt.Errorf("no handler for route %s/", m.Path)
	}
	return v.mounts[at], nil
}

func (v *Vault) find(m pki.Mount) *mount {
	at := slices.IndexFunc(v.mounts, func(x *mount) bool { return x.Mount == m })
	if at < 0 {
		panic("no mount " + m.Name())
	}
	return v.mounts[at]
}

func (v *Vault) issuer(m pki.Mount, name string) *issuer {
	from := v.find(m)
	at := slices.IndexFunc(from.issuers, func(x *issuer) bool { return x.Name == name })
	if at < 0 {
		panic("no issuer " + name)
	}
	return from.issuers[at]
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
