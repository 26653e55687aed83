package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
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
	"golang.org/x/sys/unix"
)

// TestCRLScripts runs the sessions of testdata/crl, in a folder with lists made
// for the test and beside a server of them at $URL.
func TestCRLScripts(t *testing.T) {
	folder := t.TempDir()
	writeLists(t, folder)
	server := serveLists(t, folder)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/crl",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("URL", server)
			e.Setenv("SECRET_URL", strings.Replace(server, "://", "://user:hush@", 1))
			e.Setenv("PKIWARDEN_CONFIG", "")
			return os.CopyFS(filepath.Join(e.WorkDir, "lists"), os.DirFS(folder))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"code": exitCode},
	})
}

// writeLists makes two issuers with one name, and lists of the first.
func writeLists(t *testing.T, folder string) {
	t.Helper()
	write := func(name string, content []byte) {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	block := func(label string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: label, Bytes: der}) }
	ca, key := testIssuer(t, newECKey(t))
	other, _ := testIssuer(t, newECKey(t))
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	edwards, edSigner := testIssuer(t, edKey)
	write("ca.pem", append([]byte("The issuer:\n"), block("CERTIFICATE", ca.Raw)...))
	write("ca.der", ca.Raw)
	write("other.pem", block("CERTIFICATE", other.Raw))
	write("edwards.pem", block("CERTIFICATE", edwards.Raw))
	write("key.pem", block("PUBLIC KEY", []byte("x")))

	start := time.Date(2026, 5, 1, 10, 0, 0, 0, time.UTC)
	full := x509.RevocationList{Number: new(big.Int).Lsh(big.NewInt(1), 70), ThisUpdate: start, NextUpdate: start.AddDate(100, 0, 0)}
	for i := range 30 {
		entry := x509.RevocationListEntry{SerialNumber: big.NewInt(int64(1000 + i)), RevocationTime: start.AddDate(0, 0, -i)}
		if i < 3 {
			entry.ReasonCode = 1
		} else if i < 5 {
			entry.ReasonCode = 4
		}
		full.RevokedCertificateEntries = append(full.RevokedCertificateEntries, entry)
	}
	sign := func(template x509.RevocationList, cert *x509.Certificate, key crypto.Signer) []byte {
		der, err := x509.CreateRevocationList(rand.Reader, &template, cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	der := sign(full, ca, key)
	write("full.crl", der)
	write("full.pem", append(append([]byte("Some text\n"), block("CERTIFICATE", ca.Raw)...), block("X509 CRL", der)...))
	scoped := full
	uri := append([]byte{0x86, 24}, "http://ca.example/ca.crl"...)     // uniformResourceIdentifier
	point := append([]byte{0xa0, 28, 0xa0, 26}, uri...)                // distributionPoint, fullName
	about := append(append([]byte{0x30, 33}, point...), 0x82, 1, 0xff) // onlyContainsCACerts
	scoped.ExtraExtensions = []pkix.Extension{
		{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: about},
		{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}},
	}
	write("scoped.crl", sign(scoped, ca, key))
	edwardsList := sign(full, edwards, edSigner)
	write("edwards.crl", edwardsList)
	write("edwards-forged.crl", append(edwardsList[:len(edwardsList)-1:len(edwardsList)-1], edwardsList[len(edwardsList)-1]^1))
	write("cut.crl", der[:700])
	write("longer.crl", append(append([]byte{}, der...), 0))
	write("empty.crl", nil)
	forged := append([]byte{}, der...)
	forged[len(forged)-1] ^= 1
	write("forged.crl", forged)

	delta := x509.RevocationList{Number: big.NewInt(9), ThisUpdate: start, NextUpdate: start.Add(time.Hour), ExtraExtensions: []pkix.Extension{
		{Id: asn1.ObjectIdentifier{2, 5, 29, 27}, Critical: true, Value: []byte{2, 1, 8}},
		{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}},
	}}
	write("delta.crl", sign(delta, ca, key))
}

func newECKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func testIssuer(t *testing.T, key crypto.Signer) (*x509.Certificate, crypto.Signer) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{"Example"}, CommonName: "Test\x1b[31m CA"},
		NotBefore: time.Now(), NotAfter: time.Now().AddDate(1, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCRLSign,
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

// serveLists serves the folder, and some ways in which a server does not.
func serveLists(t *testing.T, folder string) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle("/lists/", http.StripPrefix("/lists/", http.FileServer(http.Dir(folder))))
	mux.HandleFunc("/elsewhere", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/lists/full.crl", http.StatusFound) })
	mux.HandleFunc("/nothing", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("/empty", func(w http.ResponseWriter, r *http.Request) {})
	mux.HandleFunc("/stuck", func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte("\x30\x82\x10\x00"))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	mux.HandleFunc("/broken", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "5000")
		w.Write([]byte("\x30\x82\x10\x00"))
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

func TestRoughly(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                             "less than a second",
		time.Second:                   "1 second",
		90 * time.Second:              "1 minute 30 seconds",
		2 * time.Hour:                 "2 hours",
		53*time.Hour + 59*time.Minute: "2 days 5 hours",
		366 * 24 * time.Hour:          "1 year 1 day",
		24*time.Hour + 30*time.Second: "1 day",
	} {
		if got := roughly(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

func TestBar(t *testing.T) {
	for value, want := range map[int64]string{0: "░░░░", 12: "░░░░", 13: "█░░░", 50: "██░░", 100: "████", 1000: "████"} {
		if got := bar(value, 100, 4); got != want {
			t.Errorf("%d %%: %s, want %s", value, got, want)
		}
	}
}

func TestGrouped(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 1048445: "1,048,445", -1000: "-1,000"} {
		if got := grouped(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestPrintable(t *testing.T) {
	if got := printable("CN=\x1b[31mé\u202e"); strings.ContainsAny(got, "\x1b\u202e") || !strings.Contains(got, "é") {
		t.Errorf("%q", got)
	}
}

// TestInspectInterrupted: a pipe that nobody writes to does not make the
// command deaf to the end of its context, which is what a signal is.
func TestInspectInterrupted(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	a := &app{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard, env: func(string) string { return "" }, now: time.Now, output: outputTable}
	root := newRootCmd(a)
	root.SetArgs([]string{"crl", "inspect", pipe})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if err := root.ExecuteContext(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want the context's end", err)
	}
	// The goroutine that opens the pipe ends with the process, here with this.
	if w, err := os.OpenFile(pipe, os.O_WRONLY|unix.O_NONBLOCK, 0); err == nil {
		w.Close()
	}
}
