package vaultpki_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/pkiwarden/pkiwarden/pki"
	"github.com/pkiwarden/pkiwarden/pki/vaultpki"
)

const token = "hvs.canary-of-the-token"

// id makes a UUID of one letter.
func id(letter string) string {
	return "00000000-0000-4000-8000-00000000000" + fmt.Sprintf("%x", letter[0]&15)
}

var mount = pki.Mount{Path: "team/pki", UUID: "u-1"}

// fake answers requests by "METHOD path", where a LIST is LIST. What it does
// not know is a 404 as Vault gives it.
type fake struct {
	t        *testing.T
	answers  map[string]string // body; "NNN body" for another status than 200
	requests []*http.Request
	bodies   []string
	server   *httptest.Server
}

func newFake(t *testing.T, answers map[string]string) *fake {
	f := &fake{t: t, answers: answers}
	f.server = httptest.NewServer(http.HandlerFunc(f.serve))
	t.Cleanup(f.server.Close)
	return f
}

func (f *fake) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		f.t.Error(err)
	}
	f.requests, f.bodies = append(f.requests, r), append(f.bodies, string(body))
	method := r.Method
	if r.URL.Query().Get("list") == "true" {
		method = "LIST"
	}
	answer, ok := f.answers[method+" "+strings.TrimPrefix(r.URL.Path, "/v1/")]
	if !ok {
		answer = `404 {"errors":[]}`
	}
	status := 200
	if len(answer) > 3 && answer[0] != '{' && answer[3] == ' ' {
		fmt.Sscanf(answer, "%d", &status)
		answer = answer[4:]
	}
	if status == 307 {
		w.Header().Set("Location", answer)
		answer = ""
	}
	w.WriteHeader(status)
	io.WriteString(w, answer)
}

func (f *fake) client() *api.Client {
	f.t.Helper()
	config := api.DefaultConfig()
	config.Address = f.server.URL
	c, err := api.NewClient(config)
	if err != nil {
		f.t.Fatal(err)
	}
	c.SetToken(token)
	return c
}

func (f *fake) vault() *vaultpki.Vault {
	f.t.Helper()
	v, err := vaultpki.New(vaultpki.Options{Client: f.client(), Timeout: 20 * time.Second, SlowTimeout: 20 * time.Second})
	if err != nil {
		f.t.Fatal(err)
	}
	return v
}

// last is the last request.
func (f *fake) last() *http.Request { return f.requests[len(f.requests)-1] }

func TestNewWantsAClient(t *testing.T) {
	if _, err := vaultpki.New(vaultpki.Options{}); err == nil {
		t.Error("no error")
	}
}

func TestMounts(t *testing.T) {
	const table = `"team/pki/":{"type":"pki","uuid":"u-1","config":{"max_lease_ttl":0}},"secret/":{"type":"kv","uuid":"u-2"},"pki/":{"type":"pki","uuid":"u-3"}`
	f := newFake(t, map[string]string{"GET sys/mounts": `{"data":{` + table + `}}`})
	mounts, err := f.vault().Mounts(t.Context())
	if err != nil || len(mounts) != 2 || mounts[0] != (pki.Mount{Path: "pki", UUID: "u-3"}) || mounts[1] != mount {
		t.Errorf("mounts %+v, %v", mounts, err)
	}
	if f.last().Header.Get("X-Vault-Token") != token {
		t.Error("asked without the token")
	}

	f = newFake(t, map[string]string{
		"GET sys/mounts":             `403 {"errors":["1 error occurred:\n\t* permission denied\n\n"]}`,
		"GET sys/internal/ui/mounts": `{"data":{"auth":{},"secret":{` + table + `}}}`,
	})
	if mounts, err := f.vault().Mounts(t.Context()); err != nil || len(mounts) != 2 {
		t.Errorf("mounts %+v, %v", mounts, err)
	}

	// Neither: what is named is the better way.
	f.answers["GET sys/internal/ui/mounts"] = `{"data":{"auth":{},"secret":{}}}`
	if _, err := f.vault().Mounts(t.Context()); text(err) != `finding PKI mounts: permission denied: needs capability "read" on path "sys/mounts"` {
		t.Errorf("error %v", err)
	}
}

func TestNamespace(t *testing.T) {
	f := newFake(t, map[string]string{
		"GET sys/mounts":           `{"data":{"pki/":{"type":"pki","uuid":"u"}}}`,
		"GET pki/config/crl":       `{"data":{}}`,
		"GET sys/seal-status":      `{"cluster_id":"c"}`,
		"GET other/config/crl":     `{"data":{}}`,
		"GET pki/config/auto-tidy": `{"data":{}}`,
	})
	c := f.client()
	c.SetNamespace("ns1/")
	v, err := vaultpki.New(vaultpki.Options{Client: c})
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := v.Mounts(t.Context())
	if err != nil || len(mounts) != 1 || mounts[0].Name() != "ns1/pki" {
		t.Fatalf("mounts %+v, %v", mounts, err)
	}
	if _, err := v.CRLConfig(t.Context(), mounts[0]); err != nil || f.last().Header.Get("X-Vault-Namespace") != "ns1" {
		t.Errorf("namespace %q, %v", f.last().Header.Get("X-Vault-Namespace"), err)
	}
	if _, err := v.ClusterID(t.Context()); err != nil || f.last().Header.Get("X-Vault-Namespace") != "" {
		t.Errorf("namespace %q of a system request, %v", f.last().Header.Get("X-Vault-Namespace"), err)
	}
}

func certificate(t *testing.T, name string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func data(t *testing.T, fields map[string]any) string {
	t.Helper()
	raw, err := json.Marshal(map[string]any{"request_id": "r", "warnings": nil, "data": fields})
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// TestIssuersOfAnOldVault: 1.13 does not tell which issuers have a key.
func TestIssuersOfAnOldVault(t *testing.T) {
	f := newFake(t, map[string]string{
		"LIST team/pki/issuers":                    `{"data":{"keys":["` + id("a") + `"],"key_info":{"` + id("a") + `":{"issuer_name":"root"}}}}`,
		"GET team/pki/issuer/" + id("a") + "/json": data(t, map[string]any{"certificate": certificate(t, "one")}),
	})
	issuers, err := f.vault().Issuers(t.Context(), mount)
	if err != nil || len(issuers) != 1 || issuers[0].KeyID != pki.UnknownKey {
		t.Errorf("%+v, %v", issuers, err)
	}
}

func TestIssuersAreReadOnce(t *testing.T) {
	f := newFake(t, map[string]string{
		"LIST team/pki/issuers":                    `{"data":{"keys":["` + id("b") + `","` + id("a") + `"],"key_info":{"` + id("b") + `":{"issuer_name":"","is_default":false,"key_id":"kb"},"` + id("a") + `":{"issuer_name":"root","is_default":true,"key_id":"ka"}}}}`,
		"GET team/pki/issuer/" + id("a") + "/json": data(t, map[string]any{"certificate": certificate(t, "one"), "ca_chain": []string{}}),
		"GET team/pki/issuer/" + id("b") + "/json": data(t, map[string]any{"certificate": certificate(t, "two")}),
		"GET team/pki/issuer/" + id("d") + "/json": data(t, map[string]any{"certificate": "nothing"}),
	})
	v := f.vault()
	for range 2 {
		issuers, err := v.Issuers(t.Context(), mount)
		if err != nil || len(issuers) != 2 {
			t.Fatalf("issuers %+v, %v", issuers, err)
		}
		if a := issuers[0]; a.ID != id("a") || a.Name != "root" || !a.Default || a.KeyID != "ka" || a.Certificate.Subject.CommonName != "one" {
			t.Errorf("issuer %+v", a)
		}
		if b := issuers[1]; b.Label() != id("b") || b.Default || b.Certificate.Subject.CommonName != "two" {
			t.Errorf("issuer %+v", b)
		}
	}
	if len(f.requests) != 4 { // two lists, two certificates
		t.Errorf("%d requests", len(f.requests))
	}
	for _, r := range f.requests {
		if r.Header.Get("X-Vault-Token") != "" {
			t.Errorf("%s carries the token", r.URL.Path)
		}
	}
	f.answers["LIST team/pki/issuers"] = `{"data":{"keys":["` + id("d") + `"],"key_info":{"` + id("d") + `":{}}}}`
	if _, err := v.Issuers(t.Context(), mount); text(err) != "reading issuer "+id("d")+" of mount team/pki: no PEM certificate in the answer" {
		t.Errorf("error %v", err)
	}
	delete(f.answers, "LIST team/pki/issuers") // Vault's way to list nothing
	if issuers, err := v.Issuers(t.Context(), mount); err != nil || len(issuers) != 0 {
		t.Errorf("issuers %+v, %v", issuers, err)
	}
}

func TestCRL(t *testing.T) {
	list := "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"
	f := newFake(t, map[string]string{
		"GET team/pki/issuer/" + id("i") + "/crl":     data(t, map[string]any{"crl": list, "z": 1}),
		"GET team/pki/issuer/" + id("i") + "/crl/der": "0\x82\x01\x00...",
		"GET team/pki/issuer/" + id("e") + "/crl":     data(t, map[string]any{"crl": ""}),
		"GET team/pki/issuer/" + id("e") + "/crl/der": "204 ",
		"GET team/pki/issuer/" + id("0") + "/crl/der": "",
		"GET team/pki/issuer/" + id("x") + "/crl":     `500 {"errors":["storage is away"]}`,
		"GET team/pki/issuer/" + id("z") + "/crl":     `<html>`,
	})
	v := f.vault()
	tests := []struct {
		issuer, form string
		want         string
		err          string
		noCRL        bool
	}{
		{"i", "json", list, "", false},
		{"i", "der", "0\x82\x01\x00...", "", false},
		{"e", "json", "", "vault has no CRL for this issuer: empty body", true},
		{"e", "der", "", "vault has no CRL for this issuer: status 204", true},
		{"0", "der", "", "vault has no CRL for this issuer: empty body", true},
		{"x", "json", "", "fetching CRL of issuer " + id("x") + " of mount team/pki: asking Vault for team/pki/issuer/" + id("x") + "/crl: status 500: storage is away", false},
		{"z", "json", "", "finding data in the JSON answer: no object where one is expected", false},
		{"i", "pem", "", `form "pem" is neither "json" nor "der"`, false},
	}
	for _, tt := range tests {
		t.Run(tt.issuer+" "+tt.form, func(t *testing.T) {
			body, err := v.CRL(t.Context(), mount, pki.CRLRequest{IssuerID: id(tt.issuer), Form: tt.form})
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) || errors.Is(err, pki.ErrNoCRL) != tt.noCRL {
					t.Errorf("error %v, want %s", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(body)
			if err != nil || string(got) != tt.want {
				t.Errorf("read %q, %v, want %q", got, err, tt.want)
			}
			if err := body.Close(); err != nil {
				t.Error(err)
			}
			if f.last().Header.Get("X-Vault-Token") != "" {
				t.Error("carries the token")
			}
		})
	}
}

// A list that stops in the middle is an error, and one that never goes on ends
// at the deadline.
func TestCRLCutShort(t *testing.T) {
	hang := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `{"data":{"crl":"-----BEGIN`)
		w.(http.Flusher).Flush()
		if strings.Contains(r.URL.Path, id("h")) {
			<-hang
		}
	}))
	defer server.Close()
	defer close(hang)
	f := &fake{t: t, server: server}
	v, err := vaultpki.New(vaultpki.Options{Client: f.client(), SlowTimeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	for issuer, want := range map[string]error{"s": io.ErrUnexpectedEOF, "h": pki.ErrUnreachable} {
		body, err := v.CRL(t.Context(), mount, pki.CRLRequest{IssuerID: id(issuer), Form: "json"})
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(body)
		if string(got) != "-----BEGIN" || !errors.Is(err, want) {
			t.Errorf("%s: read %q, %v, want %v", issuer, got, err, want)
		}
		body.Close()
	}
}

func TestStorage(t *testing.T) {
	tests := []struct {
		name, seal, config string
		backend            string
		size               int64
		err                string
	}{
		{"raft by default", `{"storage_type":"raft","version":"1.21.1"}`, `{"data":{"storage":{"type":"raft","raft":{"max_entry_size":""}}}}`, "raft", 0, ""},
		{"raft of a version that shows none", `{"storage_type":"raft","version":"1.13.0"}`, `{"data":{"storage":{"type":"raft"}}}`, "raft", 0, ""},
		{"raft", `{"storage_type":"raft","version":"1.21.1"}`, `{"data":{"storage":{"type":"raft","raft":{"max_entry_size":"65536"}}}}`, "raft", 65536, ""},
		{"raft, hidden", `{"storage_type":"raft","version":"1.21.1"}`, `403 {"errors":["permission denied"]}`, "raft", 0, `needs capability "read" on path "sys/config/state/sanitized"`},
		{"raft, nonsense", `{"storage_type":"raft"}`, `{"data":{"storage":{"raft":{"max_entry_size":"1MB"}}}}`, "raft", 0, "parsing \"1MB\""},
		{"consul", `{"storage_type":"consul","version":"1.21.1"}`, "", "consul", 0, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t, map[string]string{"GET sys/seal-status": tt.seal, "GET sys/config/state/sanitized": tt.config})
			s, err := f.vault().Storage(t.Context())
			read := tt.err == "" && tt.backend == "raft"
			if s.Backend != tt.backend || s.Raft.MaxEntrySize != tt.size || err == nil && s.Raft.Read != read || !contains(err, tt.err) {
				t.Errorf("%+v, %v", s, err)
			}
		})
	}
}

func TestHealth(t *testing.T) {
	f := newFake(t, map[string]string{
		"GET sys/health": `{"initialized":true,"sealed":false,"standby":false,"performance_standby":false,"replication_dr_mode":"disabled","server_time_utc":1,"version":"1.21.1","cluster_name":"n","cluster_id":"c-1"}`,
		"GET sys/leader": `{"ha_enabled":true,"is_self":true,"active_time":"2026-03-01T10:00:00.5Z","leader_address":"https://10.0.0.1:8200"}`,
	})
	h, err := f.vault().Health(t.Context())
	want := pki.Health{Initialized: true, Version: "1.21.1", ClusterID: "c-1", ActiveAddress: "https://10.0.0.1:8200", ActiveSince: time.Date(2026, 3, 1, 10, 0, 0, 5e8, time.UTC)}
	if err != nil || h != want {
		t.Errorf("%+v, %v, want %+v", h, err, want)
	}
	for _, code := range []string{"activecode", "standbycode", "performancestandbycode", "drsecondarycode", "haunhealthycode", "removedcode", "sealedcode", "uninitcode"} {
		if f.requests[0].URL.Query().Get(code) != "200" {
			t.Errorf("asked without %s=200", code)
		}
	}
	f.answers["GET sys/health"] = `{"initialized":true,"sealed":true,"standby":true,"version":"1.21.1"}`
	f.answers["GET sys/leader"] = `503 {"errors":["Vault is sealed"]}`
	if h, err := f.vault().Health(t.Context()); err != nil || !h.Sealed || !h.ActiveSince.IsZero() {
		t.Errorf("sealed: %+v, %v", h, err)
	}
	f.answers["GET sys/health"] = `{"initialized":true,"standby":false,"replication_dr_mode":"secondary"}`
	f.answers["GET sys/leader"] = `{"ha_enabled":false,"is_self":false,"active_time":"0001-01-01T00:00:00Z","leader_address":""}`
	if h, err := f.vault().Health(t.Context()); err != nil || !h.Standby || !h.ActiveSince.IsZero() {
		t.Errorf("DR secondary: %+v, %v", h, err)
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func contains(err error, want string) bool {
	if want == "" {
		return err == nil
	}
	return strings.Contains(text(err), want)
}
