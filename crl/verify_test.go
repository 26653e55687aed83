package crl

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"
)

// reissued is a's certificate with changes, over key.
func reissued(t *testing.T, a authority, key any, edit func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: a.cert.Subject, RawSubject: a.cert.RawSubject, NotBefore: a.cert.NotBefore, NotAfter: a.cert.NotAfter,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCRLSign, SubjectKeyId: a.cert.SubjectKeyId,
	}
	edit(template)
	der, err := x509.CreateCertificate(rand.Reader, template, template, key, a.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestVerifyRefuses(t *testing.T) {
	same := func(*x509.Certificate) {}
	for _, a := range authorities(t) {
		if a.algorithm == x509.PureEd25519 {
			continue
		}
		t.Run(a.name, func(t *testing.T) {
			der := a.sign(t, listOf(10))
			s, err := Scan(bytes.NewReader(der), Options{})
			if err != nil {
				t.Fatal(err)
			}
			other := p256(t)
			for name, c := range map[string]struct {
				issuer *x509.Certificate
				want   string // "" where it verifies
			}{
				"reissued":            {reissued(t, a, a.key.Public(), same), ""},
				"no key usage":        {reissued(t, a, a.key.Public(), func(c *x509.Certificate) { c.KeyUsage = 0 }), ""},
				"no key identifier":   {reissued(t, a, a.key.Public(), func(c *x509.Certificate) { c.IsCA = false; c.SubjectKeyId = nil }), ""},
				"other key usage":     {reissued(t, a, a.key.Public(), func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign }), "key usage"},
				"other identifier":    {reissued(t, a, a.key.Public(), func(c *x509.Certificate) { c.SubjectKeyId = []byte{9} }), "it was signed by key 0102030405060708, the certificate holds key 09"},
				"other name":          {reissued(t, a, a.key.Public(), func(c *x509.Certificate) { c.RawSubject = nil; c.Subject = pkix.Name{CommonName: "x"} }), `the certificate is for "CN=x"`},
				"other key":           {reissued(t, a, other.key.Public(), same), ""},
				"key of another kind": {reissued(t, a, ed25519Key(t).Public(), same), "the key is ed25519.PublicKey"},
			} {
				err := s.Verify(c.issuer)
				if name == "other key" {
					if !errors.Is(err, ErrNotSigned) {
						t.Errorf("%s: %v", name, err)
					}
					continue
				}
				if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, ErrNotSigned) || !strings.Contains(err.Error(), c.want)) {
					t.Errorf("%s: %v, want %q", name, err, c.want)
				}
			}
		})
	}
}

// TestVerifyTampered changes one octet of an entry, of the number and of the
// signature: still a list, and no longer the issuer's.
func TestVerifyTampered(t *testing.T) {
	a := p256(t)
	der := a.sign(t, listOf(2000))
	parsed, err := x509.ParseRevocationList(der)
	if err != nil {
		t.Fatal(err)
	}
	for name, at := range map[string]int{
		"first entry": bytes.Index(der, parsed.RevokedCertificateEntries[0].Raw) + 10,
		"last entry":  bytes.Index(der, parsed.RevokedCertificateEntries[1999].Raw) + 10,
		"number":      bytes.Index(der, []byte("\x55\x1d\x14")) + 8,
		"signature":   len(der) - 1,
	} {
		changed := bytes.Clone(der)
		changed[at] ^= 1
		s, err := Scan(bytes.NewReader(changed), Options{})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := s.Verify(a.cert); !errors.Is(err, ErrNotSigned) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestVerifyNotVerifiable: algorithms without a digest to check are told apart
// from wrong signatures.
func TestVerifyNotVerifiable(t *testing.T) {
	a := p256(t)
	for name, algorithm := range map[string][]byte{
		"MD5 with RSA":            tlv(0x30, []byte("\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x04"), []byte{5, 0}),
		"unknown":                 tlv(0x30, []byte{6, 2, 0x2a, 3}),
		"PSS without parameters":  tlv(0x30, []byte("\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a")),
		"Ed25519 with parameters": tlv(0x30, []byte("\x06\x03\x2b\x65\x70\x05\x00")),
	} {
		p := small()
		p.algorithm, p.outer, p.issuer = algorithm, algorithm, a.cert.RawSubject
		s, err := Scan(bytes.NewReader(p.der()), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if want, _ := x509.ParseRevocationList(p.der()); s.SignatureAlgorithm != want.SignatureAlgorithm {
			t.Errorf("%s: algorithm %v, crypto/x509 has %v", name, s.SignatureAlgorithm, want.SignatureAlgorithm)
		}
		if err := s.Verify(a.cert); !errors.Is(err, ErrNotVerifiable) || errors.Is(err, ErrNotSigned) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := (Summary{}).Verify(&x509.Certificate{}); !errors.Is(err, ErrNotVerifiable) {
		t.Errorf("zero summary: %v", err)
	}
}

// TestVerifySHA1 verifies a list in SHA-1, which crypto/x509 still reads and no
// longer makes.
func TestVerifySHA1(t *testing.T) {
	key := rsaKey(t).(*rsa.PrivateKey)
	a := newAuthority(t, pkix.Name{CommonName: "old"}, key, x509.SHA256WithRSA)
	sha1WithRSA := tlv(0x30, []byte("\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05"), []byte{5, 0})
	p := small()
	tbs := tlv(0x30, p.version, sha1WithRSA, a.cert.RawSubject, p.this, p.next, p.revoked)
	signature := signSHA1(t, key, tbs)
	der := tlv(0x30, tbs, sha1WithRSA, tlv(3, []byte{0}, signature))
	s, err := Scan(bytes.NewReader(der), Options{})
	if err != nil {
		t.Fatal(err)
	}
	compare(t, der, s)
	if err := s.Verify(a.cert); err != nil {
		t.Error(err)
	}
	if s.ThisUpdate != time.Date(2026, 5, 1, 10, 0, 0, 0, time.UTC) {
		t.Error(s.ThisUpdate)
	}
}

func signSHA1(t *testing.T, key *rsa.PrivateKey, message []byte) []byte {
	t.Helper()
	digest := sha1.Sum(message)
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA1, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return signature
}
