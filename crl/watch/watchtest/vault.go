// Package watchtest holds a small stateful Vault, for tests of what measures
// revocation lists. It signs real lists.
package watchtest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
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
	mu      sync.Mutex
	mounts  []*mount
	fetches int

	mountsErr  error
	storage    crl.Storage
	storageErr error
}

type mount struct {
	pki.Mount
	issuers []*issuer
	err     error
}

type issuer struct {
	pki.Issuer
	key    crypto.Signer
	number int64
	list   []byte
	err    error
	serve  func([]byte) io.Reader
}

// Mount adds a mount.
func (v *Vault) Mount(path string) pki.Mount {
	v.mu.Lock()
	defer v.mu.Unlock()
	m := &mount{Mount: pki.Mount{Path: path, UUID: fmt.Sprintf("uuid-%d-%s", len(v.mounts), path)}}
	v.mounts = append(v.mounts, m)
	return m.Mount
}

// Unmount removes a mount.
func (v *Vault) Unmount(m pki.Mount) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.mounts = slices.DeleteFunc(v.mounts, func(x *mount) bool { return x.Mount == m })
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

// RemoveIssuer removes an issuer.
func (v *Vault) RemoveIssuer(m pki.Mount, name string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	from := v.find(m)
	from.issuers = slices.DeleteFunc(from.issuers, func(i *issuer) bool { return i.Name == name })
}

// Publish builds the issuer's list anew, with so many entries.
func (v *Vault) Publish(m pki.Mount, name string, entries int, thisUpdate, nextUpdate time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	i := v.issuer(m, name)
	i.number++
	template := &x509.RevocationList{Number: big.NewInt(i.number), ThisUpdate: thisUpdate, NextUpdate: nextUpdate}
	for n := range entries {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: big.NewInt(int64(1<<40 + n)), RevocationTime: thisUpdate.Add(-time.Duration(n) * time.Second)})
	}
	if i.Certificate.KeyUsage&x509.KeyUsageCRLSign == 0 {
		i.list = []byte("never fetched")
		return
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, i.Certificate, i.key)
	must(err)
	i.list = der
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

// SetStorage is what Storage returns.
func (v *Vault) SetStorage(s crl.Storage, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.storage, v.storageErr = s, err
}

// Fetches is the number of lists that were opened.
func (v *Vault) Fetches() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.fetches
}

// Mounts implements watch.Vault.
func (v *Vault) Mounts(context.Context) ([]pki.Mount, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.mountsErr != nil {
		return nil, v.mountsErr
	}
	var all []pki.Mount
	for _, m := range v.mounts {
		all = append(all, m.Mount)
	}
	return all, nil
}

// Issuers implements watch.Vault.
func (v *Vault) Issuers(_ context.Context, m pki.Mount) ([]pki.Issuer, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	from := v.find(m)
	if from.err != nil {
		return nil, from.err
	}
	var all []pki.Issuer
	for _, i := range from.issuers {
		all = append(all, i.Issuer)
	}
	return all, nil
}

// CRL implements watch.Vault.
func (v *Vault) CRL(_ context.Context, m pki.Mount, q pki.CRLRequest) (io.ReadCloser, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.fetches++
	for _, i := range v.find(m).issuers {
		switch {
		case i.ID != q.IssuerID:
		case i.err != nil:
			return nil, i.err
		case i.serve != nil:
			return io.NopCloser(i.serve(i.list)), nil
		case i.list == nil:
			return nil, fmt.Errorf("%w: status 204", pki.ErrNoCRL)
		case q.Form == "json":
			return io.NopCloser(bytes.NewReader(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: i.list}))), nil
		default:
			return io.NopCloser(bytes.NewReader(i.list)), nil
		}
	}
	return nil, fmt.Errorf("no issuer %s", q.IssuerID)
}

// Storage implements watch.StorageReader.
func (v *Vault) Storage(context.Context) (crl.Storage, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.storage, v.storageErr
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
