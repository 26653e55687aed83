package main

import (
	"bufio"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// runCRLScripts runs the sessions of a folder, beside lists made for the test,
// in lists/ and on a server at $URL/lists, and a server at $RUDE_URL that breaks
// the rules.
func runCRLScripts(t *testing.T, sessions string, write func(listFolder)) {
	t.Helper()
	folder := t.TempDir()
	write(listFolder{t, folder})
	server := serveLists(t, folder)
	rude, _ := serveRudely(t, nil)
	testscript.Run(t, testscript.Params{
		Dir:                 sessions,
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("URL", server)
			e.Setenv("SECRET_URL", strings.Replace(server, "://", "://user:hush@", 1))
			e.Setenv("RUDE_URL", rude)
			e.Setenv("TAB", "\t")
			e.Setenv("PKIWARDEN_CONFIG", "")
			return os.CopyFS(filepath.Join(e.WorkDir, "lists"), os.DirFS(folder))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"code": exitCode},
	})
}

// listFolder is where the lists and issuers of a test are written.
type listFolder struct {
	*testing.T
	folder string
}

func (l listFolder) write(name string, content []byte) {
	l.Helper()
	if err := os.WriteFile(filepath.Join(l.folder, name), content, 0o600); err != nil {
		l.Fatal(err)
	}
}

// sign writes a list in DER. An ECDSA signature in DER has from about 66 to 72
// bytes, by chance: of P-256, only one of 71 is taken, so that the list has the
// same size in each run.
func (l listFolder) sign(name string, list x509.RevocationList, cert *x509.Certificate, key crypto.Signer) []byte {
	l.Helper()
	for {
		der, err := x509.CreateRevocationList(rand.Reader, &list, cert, key)
		if err != nil {
			l.Fatal(err)
		}
		signed, err := x509.ParseRevocationList(der)
		if err != nil {
			l.Fatal(err)
		}
		if signed.SignatureAlgorithm == x509.ECDSAWithSHA256 && len(signed.Signature) != 71 {
			continue
		}
		l.write(name, der)
		return der
	}
}

// unsigned writes a list that crypto/x509 would not make.
func (l listFolder) unsigned(name string, issuer *x509.Certificate, list rawList) {
	l.Helper()
	list.Version, list.Issuer = 1, asn1.RawValue{FullBytes: issuer.RawSubject}
	if list.Algorithm.Algorithm == nil {
		list.Algorithm.Algorithm = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
	}
	der, err := asn1.Marshal(struct {
		List      rawList
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{list, list.Algorithm, asn1.BitString{Bytes: []byte{1}, BitLength: 8}})
	if err != nil {
		l.Fatal(err)
	}
	l.write(name, der)
}

// rawList is a TBSCertList.
type rawList struct {
	Version    int
	Algorithm  pkix.AlgorithmIdentifier
	Issuer     asn1.RawValue
	ThisUpdate time.Time
	NextUpdate time.Time        `asn1:"optional"`
	Entries    []rawEntry       `asn1:"optional"`
	Extensions []pkix.Extension `asn1:"tag:0,optional,explicit"`
}

type rawEntry struct {
	Serial     *big.Int
	Date       time.Time
	Extensions []pkix.Extension `asn1:"optional"`
}

// extension is one below id-ce, 2.5.29.
func extension(last int, critical bool, value ...byte) pkix.Extension {
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, last}, Critical: critical, Value: value}
}

// caOnly is an issuing distribution point: CA certificates, at a URI.
func caOnly() pkix.Extension {
	uri := append([]byte{0x86, 24}, "http://ca.example/ca.crl"...)     // uniformResourceIdentifier
	point := append([]byte{0xa0, 28, 0xa0, 26}, uri...)                // distributionPoint, fullName
	about := append(append([]byte{0x30, 33}, point...), 0x82, 1, 0xff) // onlyContainsCACerts
	return extension(28, true, about...)
}

func pemBlock(label string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: label, Bytes: der})
}

// flipped is a list with another last octet, one of its signature.
func flipped(der []byte) []byte {
	return append(der[:len(der)-1:len(der)-1], der[len(der)-1]^1)
}

func newECKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newEdwardsKey(t *testing.T) crypto.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
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
	mux.HandleFunc("/elsewhere", func(w http.ResponseWriter, r *http.Request) {
		to := r.URL.Query().Get("to")
		if to == "" {
			to = "/lists/full.crl"
		}
		http.Redirect(w, r, to, http.StatusFound)
	})
	mux.HandleFunc("/samequery", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/next?"+r.URL.RawQuery, http.StatusTemporaryRedirect)
	})
	mux.HandleFunc("/loop", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/loop", http.StatusFound) })
	mux.HandleFunc("/huge", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "5000000")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	mux.HandleFunc("/v1/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, `{"data":{"crl":"-----BEGIN X509 CRL-----\nMIIB\n-----END X509 CRL-----\n"}}`)
	})
	mux.HandleFunc("/nothing", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("/empty", func(w http.ResponseWriter, r *http.Request) {})
	mux.HandleFunc("/silent", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
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

// serveRudely answers in ways that net/http's server would not, /chatty with the
// list and more than was asked for. gone tells of each connection that the
// client has closed.
func serveRudely(t *testing.T, list []byte) (url string, gone <-chan struct{}) {
	t.Helper()
	answers := map[string]string{
		"/status": "HTTP/1.1 503 \x1b[31mgo away\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
		"/header": "HTTP/1.1 200 OK\r\n\x1b[31mno header\r\n\r\n",
		"/chatty": fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s\x1b[31mand more", len(list), list),
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	closed := make(chan struct{}, 10)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			in := bufio.NewReader(conn)
			if request, err := http.ReadRequest(in); err == nil {
				io.WriteString(conn, answers[request.URL.Path])
				io.Copy(io.Discard, in)
			}
			conn.Close()
			closed <- struct{}{}
		}
	}()
	return "http://" + listener.Addr().String(), closed
}
