package wire

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// newServer starts a TLS server with a certificate of its own.
func newServer(t *testing.T, h http.HandlerFunc, configure func(*tls.Config)) (*httptest.Server, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		DNSNames: []string{"vault.test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	if configure != nil {
		configure(s.TLS)
	}
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func get(tr *Transport, url string) (string, error) {
	c := &http.Client{Transport: tr, Timeout: 5 * time.Second}
	resp, err := c.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

func TestTransportFollowsTheCAFile(t *testing.T) {
	hello := func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello") }
	first, firstCA := newServer(t, hello, nil)
	second, secondCA := newServer(t, hello, nil)
	ca := filepath.Join(t.TempDir(), "ca.crt")
	now := time.Now()
	var log bytes.Buffer
	tr := NewTransport(TransportOptions{
		Server: "Vault", Setting: "vault.address", CAFile: ca, ServerName: "vault.test",
		Log: slog.New(slog.NewTextHandler(&log, nil)), Now: func() time.Time { return now },
	})
	if _, err := get(tr, first.URL); err == nil || !strings.Contains(err.Error(), "reading Vault's CA file: open "+ca) {
		t.Errorf("no CA file yet: %v", err)
	}
	write(t, ca, firstCA) // it arrives: no wait
	if got, err := get(tr, first.URL); got != "hello" || err != nil {
		t.Errorf("CA file arrived: %q, %v", got, err)
	}
	var unknown x509.UnknownAuthorityError
	if _, err := get(tr, second.URL); !errors.As(err, &unknown) {
		t.Errorf("a server of another CA: %v", err)
	}
	write(t, ca, secondCA)
	now = now.Add(11 * time.Second)
	if got, err := get(tr, second.URL); got != "hello" || err != nil {
		t.Errorf("CA file changed: %q, %v", got, err)
	}
	if _, err := get(tr, first.URL); !errors.As(err, &unknown) {
		t.Errorf("the CA of before is trusted still: %v", err)
	}
	write(t, ca, []byte("no PEM"))
	for range 3 {
		now = now.Add(11 * time.Second)
		if got, err := get(tr, second.URL); got != "hello" || err != nil {
			t.Errorf("CA file spoilt: %q, %v", got, err)
		}
	}
	if text := log.String(); strings.Count(text, "keeping the CA") != 1 || strings.Count(text, "CA file changed") != 1 {
		t.Errorf("log:\n%s", text)
	}
}

func TestTransportVerifies(t *testing.T) {
	hello := func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello") }
	server, ca := newServer(t, hello, nil)
	old, oldCA := newServer(t, hello, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS11; c.MinVersion = tls.VersionTLS10 })
	dir := t.TempDir()
	write(t, filepath.Join(dir, "ca"), ca)
	write(t, filepath.Join(dir, "old"), oldCA)
	for _, tc := range []struct{ name, url, ca, serverName, want string }{
		{"name in the certificate", server.URL, filepath.Join(dir, "ca"), "vault.test", ""},
		{"address not in the certificate", server.URL, filepath.Join(dir, "ca"), "", "127.0.0.1"},
		{"other name", server.URL, filepath.Join(dir, "ca"), "other.test", "other.test"},
		{"system's CAs", server.URL, "", "vault.test", "unknown authority"},
		{"TLS 1.1", old.URL, filepath.Join(dir, "old"), "vault.test", "protocol version"},
	} {
		_, err := get(NewTransport(TransportOptions{Server: "Vault", CAFile: tc.ca, ServerName: tc.serverName}), tc.url)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
}

func TestTransportRefusesRedirects(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("redirect followed") }))
	defer elsewhere.Close()
	for _, code := range []int{301, 302, 303, 307, 308} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", elsewhere.URL+"/v1/sys/mounts?x=1")
			w.WriteHeader(code)
		}))
		_, err := get(NewTransport(TransportOptions{Server: "Vault", Setting: "vault.address"}), server.URL)
		server.Close()
		var redirect *RedirectError
		if !errors.As(err, &redirect) || redirect.Location != elsewhere.URL {
			t.Errorf("%d: %v", code, err)
			continue
		}
		if text := err.Error(); !strings.Contains(text, "set vault.address to that address") {
			t.Errorf("%d: %q does not say what to set", code, text)
		}
	}
}

func TestTransportBounds(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/error":
			w.WriteHeader(http.StatusInternalServerError)
		case "/headers":
			w.Header().Set("X-Long", strings.Repeat("x", 128<<10))
		}
		w.Write(bytes.Repeat([]byte("x"), 200<<10))
	}))
	defer server.Close()
	tr := NewTransport(TransportOptions{Server: "Vault", MaxBody: func(r *http.Request) int64 {
		if r.URL.Path == "/small" {
			return 1 << 10
		}
		return 0
	}})
	var tooLarge *http.MaxBytesError
	for path, bounded := range map[string]bool{"/": false, "/small": true, "/error": true} {
		b, err := get(tr, server.URL+path)
		if bounded != errors.As(err, &tooLarge) || !bounded && len(b) != 200<<10 {
			t.Errorf("%s: %d bytes, %v", path, len(b), err)
		}
	}
	if _, err := get(tr, server.URL+"/headers"); err == nil || !strings.Contains(err.Error(), "header") {
		t.Errorf("huge header: %v", err)
	}
}

func TestTransportAuthorizes(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Header.Get("X-Vault-Token"))
	}))
	defer server.Close()
	var refuse error
	tr := NewTransport(TransportOptions{Authorize: func(r *http.Request) error {
		r.Header.Set("X-Vault-Token", "t")
		return refuse
	}})
	r, err := http.NewRequest("GET", server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); string(b) != "t" {
		t.Errorf("the server saw token %q", b)
	}
	if r.Header.Get("X-Vault-Token") != "" {
		t.Error("the caller's request was changed")
	}
	refuse = errors.New("no token yet")
	if _, err := tr.RoundTrip(r); !errors.Is(err, refuse) {
		t.Errorf("RoundTrip = %v", err)
	}
}

func TestSecretShowsNothing(t *testing.T) {
	const canary = "hvs.canary-token"
	s := Secret(canary)
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "t", s, "struct", struct{ T Secret }{s}, "any", []Secret{s})
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "t", s, "struct", struct{ T Secret }{s}, "any", []Secret{s})
	j, err := json.Marshal(map[string]any{"t": s, "p": &s, "s": struct{ T Secret }{s}})
	if err != nil {
		t.Fatal(err)
	}
	all := log.String() + string(j)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		all += fmt.Sprintf(verb, s) + fmt.Sprintf(verb, &s) + fmt.Sprintf(verb, struct{ T Secret }{s}) + fmt.Sprintf(verb, []Secret{s})
	}
	for _, not := range []string{canary, fmt.Sprintf("%x", canary), fmt.Sprintf("%X", canary), "104 118 115"} {
		if strings.Contains(all, not) {
			t.Errorf("output holds %q:\n%s", not, all)
		}
	}
	if s.Reveal() != canary {
		t.Error("Reveal does not")
	}
}

func TestScrub(t *testing.T) {
	got := Scrub("bad token hvs.canary-token\n\t* in  ns", "hvs.canary-token", "")
	if got != "bad token [redacted] * in ns" {
		t.Errorf("Scrub = %q", got)
	}
	if got := Scrub(strings.Repeat("é", 5000)); len(got) > 1010 {
		t.Errorf("Scrub leaves %d bytes", len(got))
	}
}

func TestSecretFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	now := time.Now()
	f := &SecretFile{Path: path, Now: func() time.Time { return now }}
	if _, err := f.Cached(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	for text, want := range map[string]string{"": "empty", " \n": "empty", "a b": "more than one", strings.Repeat("x", maxFile+1): "more than 1048576 bytes"} {
		write(t, path, []byte(text))
		if _, err := f.Read(); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%.10q: %v, want %q and the path", text, err, want)
		}
	}
	step := func(d time.Duration, want string) {
		t.Helper()
		now = now.Add(d)
		if got, err := f.Cached(); err != nil || got.Reveal() != want {
			t.Errorf("Cached = %q, %v, want %q", got.Reveal(), err, want)
		}
	}
	write(t, path, []byte("first\n"))
	step(0, "first")
	write(t, path, []byte("second"))
	step(5*time.Second, "first")
	step(6*time.Second, "second")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	step(time.Minute, "second")
	if _, err := (&SecretFile{Path: t.TempDir()}).Read(); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a folder: %v", err)
	}
}

func TestWithoutEnviron(t *testing.T) {
	t.Setenv("WIRETEST_A", "1")
	err := WithoutEnviron("WIRETEST_", func() error {
		if _, set := os.LookupEnv("WIRETEST_A"); set {
			t.Error("set inside")
		}
		return io.EOF
	})
	if err != io.EOF || os.Getenv("WIRETEST_A") != "1" {
		t.Errorf("%v, afterwards %q", err, os.Getenv("WIRETEST_A"))
	}
}

func TestCheckAddress(t *testing.T) {
	for address, ok := range map[string]bool{
		"https://vault-active.vault.svc:8200": true, "http://127.0.0.1:8200": true, "https://vault:8200/": true,
		"": false, "vault:8200": false, "unix:///run/vault.sock": false, "https://": false,
		"https://user:canary@vault": false, "https://vault/v1": false, "https://vault?x": false, "https://canary@vault:port": false,
	} {
		err := CheckAddress("vault.address", address)
		if (err == nil) != ok || err != nil && strings.Contains(err.Error(), "canary") {
			t.Errorf("%q: %v", address, err)
		}
	}
}
