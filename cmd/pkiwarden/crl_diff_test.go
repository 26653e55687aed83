package main

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestCRLDiffScripts runs the sessions of testdata/crl-diff, in a folder with
// lists made for the test and beside a server of them at $URL.
func TestCRLDiffScripts(t *testing.T) {
	folder := t.TempDir()
	writeStates(t, folder)
	server := httptest.NewServer(http.FileServer(http.Dir(folder)))
	t.Cleanup(server.Close)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/crl-diff",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("URL", server.URL)
			e.Setenv("PKIWARDEN_CONFIG", "")
			return os.CopyFS(filepath.Join(e.WorkDir, "lists"), os.DirFS(folder))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"code": exitCode},
	})
}

// states signs the states of lists.
type states struct {
	*testing.T
	folder string
}

func (s states) write(name string, content []byte) {
	s.Helper()
	if err := os.WriteFile(filepath.Join(s.folder, name), content, 0o600); err != nil {
		s.Fatal(err)
	}
}

// list writes the list of a day, in DER.
func (s states) list(name string, cert *x509.Certificate, key crypto.Signer, number int64, at time.Time, serials []*big.Int, extra ...pkix.Extension) []byte {
	s.Helper()
	l := x509.RevocationList{Number: big.NewInt(number), ThisUpdate: at, NextUpdate: at.AddDate(100, 0, 0), ExtraExtensions: extra}
	for _, serial := range serials {
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: serial, RevocationTime: at.AddDate(0, 0, -1)})
	}
	der, err := x509.CreateRevocationList(rand.Reader, &l, cert, key)
	if err != nil {
		s.Fatal(err)
	}
	s.write(name, der)
	return der
}

func writeStates(t *testing.T, folder string) {
	t.Helper()
	s := states{t, folder}
	block := func(label string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: label, Bytes: der}) }
	ca, key := testIssuer(t, newECKey(t))
	other, otherKey := testIssuer(t, newECKey(t))
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	edwards, edSigner := testIssuer(t, edKey)
	s.write("ca.pem", block("CERTIFICATE", ca.Raw))
	s.write("other.pem", block("CERTIFICATE", other.Raw))
	s.write("edwards.pem", block("CERTIFICATE", edwards.Raw))

	day := time.Date(2026, 5, 1, 10, 0, 0, 0, time.UTC)
	later := day.Add(25 * time.Hour)
	var before, after []*big.Int
	for i := range int64(33) {
		if i < 30 {
			before = append(before, big.NewInt(1029-i)) // from 03:e8 on
		}
		if i >= 3 {
			after = append(after, big.NewInt(1000+i))
		}
	}
	after = append(after, big.NewInt(0xff01), big.NewInt(0x7f0102))
	s.list("before.crl", ca, key, 7, day, before)
	der := s.list("after.crl", ca, key, 8, later, after)
	s.write("after.pem", append([]byte("The next day:\n"), block("X509 CRL", der)...))
	s.write("cut.crl", der[:700])
	forged := append([]byte{}, der...)
	forged[len(forged)-1] ^= 1
	s.write("forged.crl", forged)
	s.list("twice.crl", ca, key, 9, later, []*big.Int{before[0], big.NewInt(5), before[0]})
	s.list("otherkey.crl", other, otherKey, 8, later, after)
	s.list("edwards.crl", edwards, edSigner, 7, day, before)
	s.list("delta.crl", ca, key, 9, later, before[:1], pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 27}, Critical: true, Value: []byte{2, 1, 8}})

	var long [2][]*big.Int
	const n = 122_400
	for i := range uint64(n) {
		at := i * 7919 % n // in no order
		if at%102 < 100 {
			long[0] = append(long[0], serialOf(at))
		}
		if at%102 != 50 {
			long[1] = append(long[1], serialOf(at))
		}
	}
	s.list("long-before.crl", ca, key, 70, day, long[0])
	s.list("long-after.crl", ca, key, 71, later, long[1])
}

// serialOf is a serial number of 20 octets.
func serialOf(i uint64) *big.Int {
	serial := make([]byte, 20)
	serial[0] = 0x40
	binary.BigEndian.PutUint64(serial[3:], i*0x9e3779b97f4a7c15)
	return new(big.Int).SetBytes(serial)
}

// TestDiffInterrupted: the end of the command's context, which is what a signal
// is, ends the comparison itself.
func TestDiffInterrupted(t *testing.T) {
	s := states{t, t.TempDir()}
	ca, key := testIssuer(t, newECKey(t))
	var lists [2][]*big.Int // with nothing in common, so that much is printed
	for i := range uint64(20_000) {
		lists[i%2] = append(lists[i%2], serialOf(i))
	}
	s.list("before.crl", ca, key, 7, time.Now(), lists[0])
	s.list("after.crl", ca, key, 8, time.Now(), lists[1])
	ctx, cancel := context.WithCancel(t.Context())
	stdout := writerFunc(func(b []byte) (int, error) { cancel(); return len(b), nil })
	a := &app{stdin: strings.NewReader(""), stdout: stdout, stderr: io.Discard, env: func(string) string { return "" }, now: time.Now, output: outputTable}
	root := newRootCmd(a)
	root.SetArgs([]string{"crl", "diff", "--serials", filepath.Join(s.folder, "before.crl"), filepath.Join(s.folder, "after.crl")})
	if err := root.ExecuteContext(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want the context's end", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
