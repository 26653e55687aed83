package crl

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	mathrand "math/rand/v2"
	"testing"
)

// differs fails where Scan and crypto/x509 disagree on der, other than by a
// rule in which Scan is stricter.
func differs(t *testing.T, der []byte) {
	t.Helper()
	s, err := Scan(bytes.NewReader(der), Options{})
	_, x509Err := x509.ParseRevocationList(der)
	var syntax *SyntaxError
	switch {
	case err == nil && x509Err == nil:
		compare(t, der, s)
	case err == nil:
		t.Errorf("accepted, crypto/x509 has %v\n%x", x509Err, der)
	case errors.Is(err, ErrTooLarge) && x509Err != nil:
		// A length beyond the cap is one beyond the end of the input.
	case !errors.As(err, &syntax):
		t.Errorf("neither accepted nor a syntax error: %v\n%x", err, der)
	case syntax.Offset > int64(len(der)):
		t.Errorf("the error is beyond the end: %v\n%x", err, der)
	case x509Err == nil && syntax.Rule == "":
		t.Errorf("%v, crypto/x509 accepts it\n%x", err, der)
	}
}

// TestScanMutations changes, drops and repeats single octets.
func TestScanMutations(t *testing.T) {
	a := p256(t)
	random := mathrand.New(mathrand.NewPCG(3, 5))
	for name, template := range lists() {
		t.Run(name, func(t *testing.T) {
			der := a.sign(t, template)
			if len(der) > 700 {
				template.RevokedCertificateEntries = template.RevokedCertificateEntries[:4]
				der = a.sign(t, template)
			}
			for at := range der {
				for _, value := range []byte{0, 1, 0x30, 0x7f, 0x80, 0xff, der[at] ^ 1, der[at] ^ 0x80, der[at] + 1, der[at] - 1, byte(random.Uint32())} {
					changed := bytes.Clone(der)
					changed[at] = value
					differs(t, changed)
				}
				differs(t, append(bytes.Clone(der[:at]), der[at+1:]...))
				differs(t, append(append(bytes.Clone(der[:at+1]), der[at]), der[at+1:]...))
			}
			// Two at once: a length and what it covers.
			for range 3000 {
				changed := bytes.Clone(der)
				changed[random.IntN(len(der))] += byte(random.IntN(5)) - 2
				changed[random.IntN(len(der))] += byte(random.IntN(5)) - 2
				differs(t, changed)
			}
		})
	}
}

func FuzzScan(f *testing.F) {
	for _, a := range authorities(f) {
		for _, template := range lists() {
			if len(template.RevokedCertificateEntries) > 6 {
				template.RevokedCertificateEntries = template.RevokedCertificateEntries[:6]
			}
			f.Add(a.sign(f, template))
		}
	}
	f.Add(small().der())
	f.Fuzz(func(t *testing.T, der []byte) {
		if !(&window{src: bytes.NewReader(der), buf: make([]byte, windowSize)}).looksLikeDER() {
			t.Skip("PEM or nothing")
		}
		differs(t, der)
	})
}

// FuzzScanPEM holds that PEM never panics, and that what is accepted is the one
// list that encoding/pem finds.
func FuzzScanPEM(f *testing.F) {
	a := p256(f)
	block := pemBlock("X509 CRL", a.sign(f, listOf(2)))
	f.Add([]byte(block))
	f.Add([]byte("text\n" + pemBlock("CERTIFICATE", []byte("x")) + block + "text"))
	f.Add([]byte("-----BEGIN CRL-----\nA: b\n\nMA==\n-----END CRL-----"))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := Scan(bytes.NewReader(text), Options{})
		if err != nil || s.Format != FormatPEM {
			return
		}
		for rest := text; ; {
			var found *pem.Block
			if found, rest = pem.Decode(rest); found == nil {
				t.Fatalf("accepted, encoding/pem finds no list in %q", text)
			}
			if found.Type == "X509 CRL" || found.Type == "CRL" {
				if int64(len(found.Bytes)) != s.Bytes {
					t.Fatalf("%d bytes, encoding/pem finds %d", s.Bytes, len(found.Bytes))
				}
				return
			}
		}
	})
}
