package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/pkiwarden/pkiwarden/pki"
	"github.com/pkiwarden/pkiwarden/pki/vaultpki"
)

// lists has a Vault build lists of any size, quickly.
//
// Certificates with very long serial numbers, made here, are revoked, so that
// few entries make a large list. What gives the size to the byte is the length
// of the issuer's name, which stands in the list once: Vault puts a revoked
// certificate whose issuer it no longer has on the list of its default issuer,
// whatever that is called.
type lists struct {
	t      *testing.T
	ctx    context.Context
	client *api.Client
	vault  *vaultpki.Vault
	mount  pki.Mount

	issuer  *x509.Certificate // the default and only one
	serials int64             // used so far by issuers
	revoked []x509.RevocationListEntry
	writes  int // of lists, by crl/rotate
}

// shortestName is the length from which on one character more is one byte
// more: above 255 its length takes two bytes, as those of what is around it.
const shortestName = 300

// limitsKey signs everything: an RSA signature has a constant length.
var limitsKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

// newIssuer replaces the issuer by one with a name of so many characters and
// the same key. Vault writes the list at once; a refusal comes again in write.
// A root that Vault does not have signs the issuer, so that the long name
// stands in its certificate once.
func (l *lists) newIssuer(name int) {
	l.t.Helper()
	key, err := limitsKey()
	must(l.t, err)
	// Else each of the two changes that follow would build the whole list.
	must(l.t, l.setCRL("disable", true))
	if l.issuer != nil {
		_, err := l.client.Logical().DeleteWithContext(l.ctx, "pki/issuer/default")
		must(l.t, err)
	}
	l.serials++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(l.serials), Subject: pkix.Name{CommonName: strings.Repeat("n", name)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour * 24),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCRLSign | x509.KeyUsageCertSign,
		SubjectKeyId: []byte("the one key of all"),
	}
	root := &x509.Certificate{Subject: pkix.Name{CommonName: "root"}, SubjectKeyId: template.SubjectKeyId}
	der, err := x509.CreateCertificate(rand.Reader, template, root, &key.PublicKey, key)
	must(l.t, err)
	l.issuer, err = x509.ParseCertificate(der)
	must(l.t, err)
	bundle := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	bundle = append(bundle, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})...)
	_, err = l.client.Logical().WriteWithContext(l.ctx, "pki/issuers/import/bundle", map[string]any{"pem_bundle": string(bundle)})
	if err != nil {
		text, _, _ := strings.Cut(err.Error(), "-----BEGIN")
		l.t.Fatalf("importing an issuer with a name of %d characters: %s", name, text)
	}
	if err := l.setCRL("disable", false); err != nil && !strings.Contains(err.Error(), "error storing CRL") {
		l.t.Fatal(err)
	}
}

// setCRL changes config/crl, upon some changes of which Vault writes the list.
func (l *lists) setCRL(setting string, value any) error {
	_, err := l.client.Logical().WriteWithContext(l.ctx, "pki/config/crl", map[string]any{setting: value})
	return err
}

// revoke makes a certificate whose serial number has so many octets and has
// Vault revoke it.
func (l *lists) revoke(octets int) {
	l.t.Helper()
	key, err := limitsKey()
	must(l.t, err)
	serial := bytes.Repeat([]byte{0x55}, octets)
	copy(serial, big.NewInt(int64(1<<24+len(l.revoked))).Bytes())
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial), Subject: pkix.Name{CommonName: "pod"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, l.issuer, &key.PublicKey, key)
	must(l.t, err)
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	_, err = l.client.Logical().WriteWithContext(l.ctx, "pki/revoke", map[string]any{"certificate": string(text)})
	must(l.t, err)
	l.revoked = append(l.revoked, x509.RevocationListEntry{SerialNumber: template.SerialNumber, RevocationTime: time.Now().UTC()})
}

func (l *lists) revokeMany(n, octets int) {
	l.t.Helper()
	for range n {
		l.revoke(octets)
	}
}

// encoded is the size of the list of what is revoked, by an encoder that is
// not Vault's process. The number is that which Vault gives to a new list.
func (l *lists) encoded(number *big.Int) int {
	l.t.Helper()
	key, err := limitsKey()
	must(l.t, err)
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: number, ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour), RevokedCertificateEntries: l.revoked,
	}, l.issuer, key)
	must(l.t, err)
	return len(der)
}

// served is the list of the default issuer that Vault serves now.
func (l *lists) served() *x509.RevocationList {
	l.t.Helper()
	answer, err := l.client.Logical().ReadRawWithContext(l.ctx, "pki/issuer/default/crl/der")
	must(l.t, err)
	defer answer.Body.Close()
	der, err := io.ReadAll(answer.Body)
	must(l.t, err)
	list, err := x509.ParseRevocationList(der)
	must(l.t, err)
	return list
}

// write has Vault write the list. It returns the size that is stored, or the
// storage's refusal.
func (l *lists) write() (int, error) {
	l.t.Helper()
	l.writes++
	if err := l.vault.Rotate(l.ctx, l.mount); err != nil {
		var refused *pki.TooLargeError
		if !errors.As(err, &refused) {
			l.t.Fatalf("writing a list of %d entries: %v", len(l.revoked), err)
		}
		return 0, err
	}
	list := l.served()
	if err := list.CheckSignatureFrom(l.issuer); err != nil {
		l.t.Fatalf("the list that is served: %v", err)
	}
	if n := len(list.RevokedCertificateEntries); n != len(l.revoked) {
		l.t.Fatalf("%d entries are served, want %d", n, len(l.revoked))
	}
	if size := l.encoded(list.Number); size != len(list.Raw) {
		l.t.Fatalf("a list of %d bytes is served, want %d", len(list.Raw), size)
	}
	return len(list.Raw), nil
}

// edge finds the size that is stored while one byte more is refused. The guess
// is tried first, and is right where pkiwarden is; else, and without one, the
// search begins with half of bound, a setting that no list exceeds.
func (l *lists) edge(bound int, guess *int64) int {
	l.t.Helper()
	octets := min(8192, bound/16)
	// An issuer is stored too, with its certificate twice and in base64.
	longest := bound / 4
	l.newIssuer(shortestName)
	l.revokeMany(bound/2/octets, octets)
	if guess != nil && l.isEdge(int(*guess), octets) {
		return int(*guess)
	}
	for {
		l.newIssuer(longest)
		if _, err := l.write(); err != nil {
			break
		}
		// So many that the list is not larger than this one with a short name.
		l.newIssuer(shortestName)
		l.revokeMany((longest-shortestName)/(octets+32), octets)
	}
	return l.bisect(shortestName, longest)
}

// isEdge tells whether a list of so many bytes is stored and one of a byte more
// is refused.
func (l *lists) isEdge(size, octets int) bool {
	l.t.Helper()
	free := size - l.encoded(big.NewInt(1))
	if free < 0 {
		return false
	}
	l.revokeMany(free/(octets+32), octets) // the name takes the rest
	l.resize(size)
	if stored, err := l.write(); err != nil || stored != size {
		return false
	}
	l.resize(size + 1)
	_, err := l.write()
	return err != nil
}

// bisect finds that edge between a name with which the list is stored and one
// with which it is refused.
func (l *lists) bisect(stored, refused int) int {
	l.t.Helper()
	over := l.encoded(big.NewInt(1))
	l.newIssuer(stored)
	size, err := l.write()
	must(l.t, err)
	for refused-stored > 1 {
		name := (stored + refused) / 2
		l.newIssuer(name)
		if wrote, err := l.write(); err != nil {
			refused, over = name, l.encoded(big.NewInt(1))
		} else {
			stored, size = name, wrote
		}
	}
	if over != size+1 {
		l.t.Fatalf("stored %d bytes, refused %d: not neighbours", size, over)
	}
	return size
}

// resize makes the next list one of this size.
func (l *lists) resize(size int) {
	l.t.Helper()
	// Twice, since beyond 64 KiB the lengths around the name are longer.
	for range 2 {
		l.newIssuer(len(l.issuer.Subject.CommonName) + size - l.encoded(big.NewInt(1)))
	}
	if got := l.encoded(big.NewInt(1)); got != size {
		l.t.Fatalf("a list of %d bytes came out with %d", size, got)
	}
}

// refuses checks with which words a list of this size is refused.
func (l *lists) refuses(size int, words string, named int64) {
	l.t.Helper()
	l.resize(size)
	_, err := l.write()
	isTooLarge(l.t, err, words, named)
}

// keepsOld checks that the list which fitted is served when the one with a
// revocation more does not.
func (l *lists) keepsOld(edge int) {
	l.t.Helper()
	l.resize(edge)
	size, err := l.write()
	must(l.t, err)
	before := l.served()
	l.revoke(20)
	if more, err := l.write(); err == nil {
		l.t.Fatalf("stored %d bytes and then %d", size, more)
	}
	if !bytes.Equal(l.served().Raw, before.Raw) {
		l.t.Error("after the refusal another list is served than before")
	}
}
