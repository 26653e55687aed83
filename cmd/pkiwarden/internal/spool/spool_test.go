package spool

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
)

// TestSpool: what was written comes back, from memory and from the file, and
// nothing is left in the folder.
func TestSpool(t *testing.T) {
	for _, c := range []struct {
		writes []int
		memory int
		file   bool
	}{
		{nil, 10, false},
		{[]int{0}, 10, false},
		{[]int{10}, 10, false},
		{[]int{4, 6}, 10, false},
		{[]int{11}, 10, true},
		{[]int{4, 6, 1}, 10, true},
		{[]int{4, 7, 0, 5000, 100000}, 10, true},
		{[]int{1 << 20}, 0, false},
		{[]int{1 << 20, 1}, 0, true},
	} {
		t.Run(fmt.Sprint(c.writes, c.memory), func(t *testing.T) {
			dir := t.TempDir()
			s := New(Options{Dir: dir, Memory: c.memory})
			var want []byte
			for i, n := range c.writes {
				b := bytes.Repeat([]byte{byte('a' + i)}, n)
				want = append(want, b...)
				if n, err := s.Write(b); n != len(b) || err != nil {
					t.Fatal(n, err)
				}
				clear(b) // which the caller may do
			}
			for range 2 {
				got, err := s.Bytes()
				if err != nil || !bytes.Equal(got, want) {
					t.Fatalf("%d bytes, %v, want %d", len(got), err, len(want))
				}
			}
			if (s.file != nil) != c.file {
				t.Errorf("file: %v, want %v", s.file != nil, c.file)
			}
			if left, err := os.ReadDir(dir); len(left) != 0 || err != nil {
				t.Errorf("left in the folder: %v, %v", left, err)
			}
			for range 2 {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
			if _, err := s.Bytes(); err == nil {
				t.Error("read after Close")
			}
			if _, err := s.Write([]byte{1}); err == nil {
				t.Error("written after Close")
			}
		})
	}
}

func TestSpoolRefuses(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "absent")
	full := New(Options{Dir: dir, MaxBytes: 5})
	if _, err := full.Write(make([]byte, 5)); err != nil {
		t.Errorf("at the cap: %v", err)
	}
	if n, err := full.Write(make([]byte, 1)); n != 0 || !errors.Is(err, ErrFull) {
		t.Errorf("above the cap: %d, %v", n, err)
	}
	if _, err := full.Bytes(); !errors.Is(err, ErrFull) {
		t.Errorf("a part of what was to be written is given out: %v", err)
	}

	nowhere := New(Options{Dir: dir, Memory: 5})
	if _, err := nowhere.Write(make([]byte, 5)); err != nil {
		t.Errorf("in memory: %v", err)
	}
	if got, err := nowhere.Bytes(); len(got) != 5 || err != nil {
		t.Errorf("in memory: %d bytes, %v", len(got), err)
	}
	_, err := nowhere.Write(make([]byte, 1))
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "TMPDIR") {
		t.Errorf("no folder for the file: %v", err)
	}

	late := New(Options{Dir: t.TempDir(), Memory: 5})
	defer late.Close()
	if _, err := late.Write(make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	if _, err := late.Bytes(); err != nil {
		t.Fatal(err)
	}
	if _, err := late.Write(make([]byte, 1)); err == nil {
		t.Error("written behind a slice that was given out")
	}

	t.Setenv("TMPDIR", dir)
	if _, err := New(Options{Memory: 1}).Write(make([]byte, 2)); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("TMPDIR is not heeded: %v", err)
	}
}

// issuer is an Ed25519 authority made for a test.
func issuer(t *testing.T) (*x509.Certificate, crypto.Signer) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Ed25519"}, NotAfter: time.Date(2060, 1, 1, 0, 0, 0, 0, time.UTC),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCRLSign, SubjectKeyId: []byte{1},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// TestEd25519 verifies a list larger than the memory part, and refuses one whose
// signature, content or issuer is another. The heap does not hold it.
func TestEd25519(t *testing.T) {
	cert, key := issuer(t)
	template := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Unix(1e9, 0), NextUpdate: time.Unix(2e9, 0)}
	for i := range int64(60000) {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: new(big.Int).Lsh(big.NewInt(i+1), 130), RevocationTime: time.Unix(1e9, 0)})
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, cert, key)
	if err != nil {
		t.Fatal(err)
	}
	if len(der) < DefaultMemory+1<<19 {
		t.Fatalf("the list has %d bytes", len(der))
	}
	verify := func(der []byte, issuer *x509.Certificate) error {
		s := New(Options{Dir: t.TempDir()})
		defer s.Close()
		list, err := crl.Scan(bytes.NewReader(der), crl.Options{Spool: s})
		if err != nil {
			t.Fatal(err)
		}
		if s.file == nil {
			t.Error("no file was needed")
		}
		return list.Verify(issuer)
	}
	if err := verify(der, cert); err != nil {
		t.Error(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := verify(der, cert); err != nil {
		t.Error(err)
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 3*DefaultMemory { // doubled slices, one after the other, are twice the last
		t.Errorf("%d bytes allocated for a list of %d", grown, len(der))
	}
	parsed, err := x509.ParseRevocationList(der)
	if err != nil {
		t.Fatal(err)
	}
	for name, at := range map[string]int{
		"signature":   len(der) - 1,
		"first entry": bytes.Index(der, parsed.RevokedCertificateEntries[0].Raw) + 10,
		"last entry":  bytes.Index(der, parsed.RevokedCertificateEntries[59999].Raw) + 10,
	} {
		changed := bytes.Clone(der)
		changed[at] ^= 1
		if err := verify(changed, cert); !errors.Is(err, crl.ErrNotSigned) {
			t.Errorf("%s changed: %v", name, err)
		}
	}
	other, _ := issuer(t)
	if err := verify(der, other); !errors.Is(err, crl.ErrNotSigned) {
		t.Errorf("another issuer: %v", err)
	}
}

// TestEd25519NoFolder: a list too long for memory is an error that says so,
// and not one of the list.
func TestEd25519NoFolder(t *testing.T) {
	cert, key := issuer(t)
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Unix(1e9, 0), NextUpdate: time.Unix(2e9, 0)}, cert, key)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "absent")
	list, err := crl.Scan(bytes.NewReader(der), crl.Options{Spool: New(Options{Dir: dir})})
	if err != nil {
		t.Fatal(err)
	}
	if err := list.Verify(cert); err != nil {
		t.Error(err)
	}
	_, err = crl.Scan(bytes.NewReader(der), crl.Options{Spool: New(Options{Dir: dir, Memory: 50})})
	var syntax *crl.SyntaxError
	if !errors.Is(err, os.ErrNotExist) || errors.As(err, &syntax) || !strings.Contains(err.Error(), dir) {
		t.Errorf("no folder: %v", err)
	}
}
