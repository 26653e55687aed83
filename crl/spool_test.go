package crl

import (
	"bytes"
	"crypto/x509"
	"errors"
	"io"
	"strings"
	"testing"
)

// memory is a spool that fails on demand.
type memory struct {
	held      []byte
	failAfter int   // octets, 0: never
	failing   error // of Write beyond failAfter, or of Bytes
}

func (m *memory) Write(b []byte) (int, error) {
	if m.failAfter > 0 && len(m.held)+len(b) > m.failAfter {
		return 0, m.failing
	}
	m.held = append(m.held, b...)
	return len(b), nil
}

func (m *memory) Bytes() ([]byte, error) {
	if m.failAfter == 0 && m.failing != nil {
		return nil, m.failing
	}
	return m.held, nil
}

// TestSpool: exactly what is signed is kept, where it is needed, and verified.
func TestSpool(t *testing.T) {
	for _, a := range authorities(t) {
		t.Run(a.name, func(t *testing.T) {
			der := a.sign(t, listOf(2000)) // more than the window holds
			parsed, err := x509.ParseRevocationList(der)
			if err != nil {
				t.Fatal(err)
			}
			want := parsed.RawTBSRevocationList
			if a.algorithm != x509.PureEd25519 {
				want = nil
			}
			for _, input := range []string{string(der), pemBlock("X509 CRL", der)} {
				m := &memory{}
				s, err := Scan(strings.NewReader(input), Options{Spool: m})
				if err != nil {
					t.Fatal(err)
				}
				compare(t, der, s)
				if !bytes.Equal(m.held, want) {
					t.Errorf("%d bytes in the spool, want %d", len(m.held), len(want))
				}
				if err := s.Verify(a.cert); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestSpoolRefuses(t *testing.T) {
	key := ed25519Key(t)
	a := newAuthority(t, named("Ed25519"), key, x509.PureEd25519)
	der := a.sign(t, listOf(2000))
	scan := func(der []byte, m *memory) Summary {
		t.Helper()
		s, err := Scan(bytes.NewReader(der), Options{Spool: m})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for name, at := range map[string]int{"signature": len(der) - 1, "number": bytes.Index(der, []byte("\x55\x1d\x14")) + 8} {
		changed := bytes.Clone(der)
		changed[at] ^= 1
		if err := scan(changed, &memory{}).Verify(a.cert); !errors.Is(err, ErrNotSigned) || errors.Is(err, ErrNotVerifiable) {
			t.Errorf("%s changed: %v", name, err)
		}
	}
	other := reissued(t, a, ed25519Key(t).Public(), func(*x509.Certificate) {})
	if err := scan(der, &memory{}).Verify(other); !errors.Is(err, ErrNotSigned) {
		t.Errorf("another key: %v", err)
	}
	rsa := reissued(t, a, rsaKey(t).Public(), func(*x509.Certificate) {})
	if err := scan(der, &memory{}).Verify(rsa); !errors.Is(err, ErrNotSigned) || !strings.Contains(err.Error(), "signed with Ed25519, the key is *rsa.PublicKey") {
		t.Errorf("a key of another kind: %v", err)
	}

	m := &memory{}
	s := scan(der, m)
	m.held = append(m.held, 0)
	if err := s.Verify(a.cert); !errors.Is(err, ErrNotVerifiable) || errors.Is(err, ErrNotSigned) {
		t.Errorf("a spool that changed: %v", err)
	}
	broken := errors.New("no space left")
	m = &memory{}
	s = scan(der, m)
	m.failing = broken
	if err := s.Verify(a.cert); !errors.Is(err, ErrNotVerifiable) || !errors.Is(err, broken) {
		t.Errorf("a spool that cannot be read: %v", err)
	}
	for _, after := range []int{1, 40000, 78000} { // in the first, second and third window
		s, err := Scan(bytes.NewReader(der), Options{Spool: &memory{failAfter: after, failing: broken}})
		if !errors.Is(err, broken) || !strings.Contains(err.Error(), "writing the CRL's signed part to the spool: no space left") || s.Entries != 0 {
			t.Errorf("a spool that fails after %d of %d bytes: %v", after, len(der), err)
		}
	}
	full := &memory{failAfter: len(der), failing: io.ErrShortWrite}
	if _, err := Scan(bytes.NewReader(der), Options{Spool: full}); err != nil {
		t.Errorf("a spool that is large enough: %v", err)
	}
}
