package k8scsr

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"testing"
	"time"
)

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// wanted is a Spec that names one of everything.
func wanted(t *testing.T, edit ...func(*Spec)) Spec {
	t.Helper()
	s := Spec{
		Name: "vault-server", CommonName: "vault", Organizations: []string{"ops", "security"},
		DNSNames:    []string{"vault.example", "*.vault-internal"},
		IPAddresses: []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("fd00::1")},
		URIs:        []string{"spiffe://example/vault"},
		Usages:      []string{"server auth", "client auth", "digital signature"},
		Signer:      "ca.example/serving", Lifetime: 24 * time.Hour, Approve: true,
	}
	for _, f := range edit {
		f(&s)
	}
	s = s.WithDefaults()
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	return s
}

func ecKey(t *testing.T) crypto.Signer {
	t.Helper()
	return newKey(t, Key{ECDSA, 256})
}

func newKey(t *testing.T, want Key) crypto.Signer {
	t.Helper()
	var k crypto.Signer
	var err error
	switch want.Algorithm {
	case ECDSA:
		k, err = ecdsa.GenerateKey(map[int]elliptic.Curve{224: elliptic.P224(), 256: elliptic.P256(), 384: elliptic.P384(), 521: elliptic.P521()}[want.Size], rand.Reader)
	case RSA:
		k, err = rsa.GenerateKey(rand.Reader, want.Size)
	case Ed25519:
		_, k, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func keyPEM(t *testing.T, k crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// requestPEM signs a request from the template.
func requestPEM(t *testing.T, template *x509.CertificateRequest, k crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, template, k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// authority is a CA, possibly under another one.
type authority struct {
	cert  *x509.Certificate
	key   crypto.Signer
	chain []*x509.Certificate // what a server sends after its leaf
}

func newAuthority(t *testing.T, name string, parent *authority, edit ...func(*x509.Certificate)) *authority {
	t.Helper()
	k := ecKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: epoch.AddDate(-1, 0, 0), NotAfter: epoch.AddDate(9, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	for _, f := range edit {
		f(template)
	}
	a := &authority{key: k}
	issuer, signer := template, k
	if parent != nil {
		issuer, signer = parent.cert, parent.key
	}
	a.cert = sign(t, template, issuer, k.Public(), signer)
	if parent != nil {
		a.chain = append([]*x509.Certificate{a.cert}, parent.chain...)
	}
	return a
}

func sign(t *testing.T, template, issuer *x509.Certificate, public crypto.PublicKey, signer crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, public, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// leafTemplate is what a well-behaved signer makes of the Spec at now: as the
// built-in one does, NotBefore is five minutes back.
func leafTemplate(t *testing.T, s Spec, now time.Time) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: s.CommonName, Organization: s.Organizations},
		DNSNames: slices.Clone(s.DNSNames), NotBefore: now.Add(-5 * time.Minute), NotAfter: now.Add(s.Lifetime),
		BasicConstraintsValid: true,
	}
	for _, ip := range s.IPAddresses {
		template.IPAddresses = append(template.IPAddresses, net.IP(ip.AsSlice()))
	}
	for _, raw := range s.URIs {
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs = append(template.URIs, u)
	}
	for _, u := range s.Usages {
		switch u {
		case "digital signature":
			template.KeyUsage |= x509.KeyUsageDigitalSignature
		case "key encipherment":
			template.KeyUsage |= x509.KeyUsageKeyEncipherment
		case "server auth":
			template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		case "client auth":
			template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
		default:
			t.Fatalf("usage %q", u)
		}
	}
	return template
}

func (a *authority) issue(t *testing.T, template *x509.Certificate, public crypto.PublicKey) []byte {
	t.Helper()
	leaf := sign(t, template, a.cert, public, a.key)
	return toPEM(append([]*x509.Certificate{leaf}, a.chain...)...)
}

func toPEM(certs ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

func (a *authority) trust(t *testing.T) Trust {
	t.Helper()
	trust, err := ParseTrust(toPEM(a.cert))
	if err != nil {
		t.Fatal(err)
	}
	return trust
}
