package vaultpki_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
	"github.com/pkiwarden/pkiwarden/pki/vaultpki"
)

// TestHostileMounts: a name that could make a request mean something else is
// refused, shown in quotes, and keeps nobody from the others.
func TestHostileMounts(t *testing.T) {
	table := map[string]any{"pki/": map[string]any{"type": "pki", "uuid": "u"}, "team/my pki/": map[string]any{"type": "pki", "uuid": "v"}}
	hostile := map[string]string{
		"pki/../sys/":                         `".."`,
		"../sys/raw/":                         `".."`,
		"a//b/":                               `segment ""`,
		"/pki/":                               `segment ""`,
		"./pki/":                              `"."`,
		"pki?list=true/":                      "? # %",
		"pki#x/":                              "? # %",
		"pki%2f..%2fsys/":                     "? # %",
		`pki\x/`:                              "? # %",
		"pki\nlevel=INFO/":                    "not printed",
		"pki\x1b[2J/":                         "not printed",
		"pki\u202etxt/":                       "not printed",
		strings.Repeat("long/", 300) + "pki/": "longer than",
	}
	for path := range hostile {
		table[path] = map[string]any{"type": "pki", "uuid": "h"}
	}
	table["odd/"] = map[string]any{"type": "pki", "uuid": "u\n2"}
	hostile["odd/"] = "its UUID"
	table["kv\n/"] = map[string]any{"type": "kv", "uuid": "k"} // not ours to judge
	f := newFake(t, map[string]string{"GET sys/mounts": data(t, table)})
	found, err := f.vault().MountsIn(t.Context(), "")
	if err != nil || len(found.Mounts) != 2 || found.Mounts[0].Name() != "pki" || found.Mounts[1].Name() != "team/my pki" {
		t.Fatalf("mounts %+v, %v", found.Mounts, err)
	}
	if len(found.Refused) != len(hostile) {
		t.Errorf("%d refused, want %d", len(found.Refused), len(hostile))
	}
	for _, r := range found.Refused {
		if !ascii(r.Name) || !ascii(r.Reason) || len(r.Name) > 1200 {
			t.Errorf("shown as %q: %q", r.Name, r.Reason)
		}
		known := false
		for path, reason := range hostile {
			name := fmt.Sprintf("%+q", strings.TrimSuffix(path, "/"))
			if r.Name == name || len(path) > 1000 && strings.HasPrefix(name, strings.TrimSuffix(strings.TrimSuffix(r.Name, `"`), `\u2026`)) {
				known = known || strings.Contains(r.Reason, reason)
			}
		}
		if !known {
			t.Errorf("%s is refused because %q", r.Name, r.Reason)
		}
	}
}

func ascii(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) < 0
}

// TestHostilePathsAreNotSent: whoever calls with such a mount, nothing is sent.
func TestHostilePathsAreNotSent(t *testing.T) {
	f := newFake(t, nil)
	v := f.vault()
	for _, path := range []string{"pki/../sys", "pki?x", "pki%2e%2e", "pki#", "a//b", "", "pki\n"} {
		m := pki.Mount{Path: path}
		_, err := v.CRLConfig(t.Context(), m)
		if err == nil || strings.ContainsAny(err.Error(), "\n") {
			t.Errorf("%q: %v", path, err)
		}
		if _, err := v.CRL(t.Context(), m, pki.CRLRequest{IssuerID: id("i"), Form: "json"}); err == nil {
			t.Errorf("%q: a list", path)
		}
	}
	for _, issuer := range []string{"", "..", "default", "../../sys/health?", strings.Repeat("0", 36), "00000000-0000-4000-8000-00000000000g", "00000000-0000-4000-8000-0000000000\n0"} {
		if _, err := v.CRL(t.Context(), mount, pki.CRLRequest{IssuerID: issuer, Form: "json"}); err == nil || !strings.Contains(err.Error(), "is no UUID") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", issuer, err)
		}
		if _, err := v.MaySignCRLs(t.Context(), mount, issuer); err == nil {
			t.Errorf("%q: a usage", issuer)
		}
	}
	if len(f.requests) != 0 {
		t.Errorf("%d requests, the first for %s", len(f.requests), f.requests[0].URL)
	}

	f.answers = map[string]string{"LIST team/pki/issuers": `{"data":{"key_info":{"../../../sys/seal":{}}}}`}
	if _, err := v.Issuers(t.Context(), mount); err == nil || !strings.Contains(err.Error(), "is no UUID") || len(f.requests) != 1 {
		t.Errorf("%v after %d requests", err, len(f.requests))
	}
	f.answers = map[string]string{"LIST team/pki/roles": `{"data":{"keys":["../../sys/seal"]}}`}
	if l, err := v.LongestTTL(t.Context(), mount); err != nil || l.Known() || !strings.Contains(l.Source, "not asked for") {
		t.Errorf("%+v, %v", l, err)
	}
}

// TestHostileTexts: what Vault says is shown in one printed line.
func TestHostileTexts(t *testing.T) {
	const evil = "storage\x1b[2J is \u202eaway\r\nlevel=INFO msg=fine"
	raw, err := json.Marshal(map[string]any{"errors": []string{evil}})
	if err != nil {
		t.Fatal(err)
	}
	info := map[string]any{id("a"): map[string]any{"issuer_name": "root\nlevel=INFO", "key_id": "k"}, id("b"): map[string]any{"issuer_name": "fine", "key_id": "k"}}
	f := newFake(t, map[string]string{
		"GET team/pki/config/crl":                  "500 " + string(raw),
		"GET team/pki/config/auto-tidy":            "502 <html>\x1b[2J",
		"GET team/pki/tidy-status":                 data(t, map[string]any{"state": "Error", "error": evil, "message": evil}),
		"LIST team/pki/issuers":                    data(t, map[string]any{"key_info": info}),
		"GET team/pki/issuer/" + id("a") + "/json": data(t, map[string]any{"certificate": certificate(t, "one")}),
		"GET team/pki/issuer/" + id("b") + "/json": data(t, map[string]any{"certificate": certificate(t, "two")}),
	})
	v := f.vault()
	clean := func(what, text string) {
		t.Helper()
		if text == "" || strings.ContainsAny(text, "\x1b\n\r\u202e") {
			t.Errorf("%s: %q", what, text)
		}
	}
	_, err = v.CRLConfig(t.Context(), mount)
	clean("JSON error", text(err))
	_, err = v.AutoTidy(t.Context(), mount)
	clean("error page", text(err))
	s, err := v.TidyStatus(t.Context(), mount)
	if err != nil {
		t.Fatal(err)
	}
	clean("tidy's error", s.Error)
	clean("tidy's message", s.Message)
	issuers, err := v.Issuers(t.Context(), mount)
	if err != nil || issuers[0].Label() == issuers[1].Label() {
		t.Fatalf("%+v, %v", issuers, err)
	}
	for _, i := range issuers {
		if i.Name != "" && i.Name != "fine" {
			t.Errorf("issuer is called %q", i.Name)
		}
	}
}

func TestConditionalRequests(t *testing.T) {
	f := newFake(t, map[string]string{
		"GET sys/mounts": `{"data":{"a/":{"type":"pki","config":{"passthrough_request_headers":["X","if-modified-SINCE"]}},"b/":{"type":"pki","config":{"passthrough_request_headers":["X"]}},"c/":{"type":"pki"}}}`,
		"GET team/pki/issuer/" + id("i") + "/crl":           "304 ",
		"GET team/pki/issuer/" + id("i") + "/crl/delta/der": "304 ",
		"GET team/pki/issuer/" + id("e") + "/crl/delta":     data(t, map[string]any{"crl": ""}),
	})
	v := f.vault()
	found, err := v.MountsIn(t.Context(), "")
	if err != nil || len(found.Conditional) != 1 || !found.Conditional[pki.Mount{Path: "a"}] {
		t.Errorf("%+v, %v", found, err)
	}
	since := time.Date(2026, 3, 1, 13, 0, 7, 0, time.FixedZone("", 3600))
	for _, q := range []pki.CRLRequest{{IssuerID: id("i"), Form: "json", IfModifiedSince: since}, {IssuerID: id("i"), Form: "der", Delta: true, IfModifiedSince: since}} {
		if _, err := v.CRL(t.Context(), mount, q); !errors.Is(err, pki.ErrNotModified) {
			t.Errorf("%+v: %v", q, err)
		}
		if got := f.last().Header.Get("If-Modified-Since"); got != "Sun, 01 Mar 2026 12:00:07 GMT" {
			t.Errorf("If-Modified-Since: %s", got)
		}
	}
	if _, err := v.CRL(t.Context(), mount, pki.CRLRequest{IssuerID: id("e"), Form: "json", Delta: true}); !errors.Is(err, pki.ErrNoCRL) || f.last().Header.Get("If-Modified-Since") != "" {
		t.Errorf("%v, If-Modified-Since %q", err, f.last().Header.Get("If-Modified-Since"))
	}
}

func TestUsage(t *testing.T) {
	f := newFake(t, map[string]string{
		"GET team/pki/issuer/" + id("a"): data(t, map[string]any{"usage": "read-only,issuing-certificates,crl-signing,ocsp-signing"}),
		"GET team/pki/issuer/" + id("b"): data(t, map[string]any{"usage": "read-only,issuing-certificates"}),
		"GET team/pki/issuer/" + id("c"): `403 {"errors":["permission denied"]}`,
	})
	v := f.vault()
	for letter, want := range map[string]bool{"a": true, "b": false} {
		if may, err := v.MaySignCRLs(t.Context(), mount, id(letter)); err != nil || may != want {
			t.Errorf("%s: %t, %v", letter, may, err)
		}
	}
	var denied *pki.PermissionError
	if _, err := v.MaySignCRLs(t.Context(), mount, id("c")); !errors.As(err, &denied) || denied.Capability != "read" {
		t.Errorf("error %v", err)
	}
}

// spaces is a server with namespaces: their children by name, and the status of
// listing those.
type spaces struct {
	mu       sync.Mutex
	children map[string][]string
	status   map[string]int
	lists    int
}

func (s *spaces) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	namespace := strings.Trim(r.Header.Get("X-Vault-Namespace"), "/")
	switch {
	case r.URL.Path == "/v1/sys/namespaces":
		s.lists++
		status := s.status[namespace]
		if children := s.children[namespace]; status == 0 && len(children) > 0 {
			_ = json.NewEncoder(w).Encode(map[string]any{"data": map[string]any{"keys": children}})
			return
		}
		if status == 0 {
			status = http.StatusNotFound
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, `{"errors":[]}`)
	case r.URL.Path == "/v1/sys/mounts":
		if s.status[namespace+" mounts"] != 0 {
			w.WriteHeader(s.status[namespace+" mounts"])
			_, _ = io.WriteString(w, `{"errors":["permission denied"]}`)
			return
		}
		_, _ = fmt.Fprintf(w, `{"data":{"pki/":{"type":"pki","uuid":"u-%s"}}}`, namespace)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// TestAllNamespaces walks a server with namespaces. Vault Enterprise was not at
// hand; this is its documented behaviour.
func TestAllNamespaces(t *testing.T) {
	walk := func(s *spaces, namespace string) *vaultpki.Vault {
		server := httptest.NewServer(s)
		t.Cleanup(server.Close)
		c := (&fake{t: t, server: server}).client()
		if namespace != "" {
			c.SetNamespace(namespace)
		}
		v, err := vaultpki.New(vaultpki.Options{Client: c, AllNamespaces: true})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	s := &spaces{children: map[string][]string{"": {"b/", "a/"}, "a": {"x/"}, "a/x": {"deep/"}}, status: map[string]int{}}
	v := walk(s, "")
	for range 3 {
		if all, err := v.Namespaces(t.Context()); err != nil || strings.Join(all, ",") != ",a,b,a/x,a/x/deep" {
			t.Fatalf("namespaces %q, %v", all, err)
		}
	}
	if s.lists != 5 {
		t.Errorf("%d lists: they are asked for once in a while", s.lists)
	}
	mounts, err := v.Mounts(t.Context())
	if err != nil || len(mounts) != 5 || mounts[4].Name() != "a/x/deep/pki" || mounts[4].UUID != "u-a/x/deep" {
		t.Errorf("mounts %+v, %v", mounts, err)
	}
	s.mu.Lock()
	s.status["b mounts"] = 403
	s.mu.Unlock()
	if mounts, err := v.Mounts(t.Context()); err != nil || len(mounts) != 4 {
		t.Errorf("mounts %+v, %v", mounts, err)
	}

	for name, c := range map[string]struct {
		s         *spaces
		namespace string
		want, err string
	}{
		"no namespaces":      {&spaces{}, "", "", ""},
		"below its own":      {&spaces{children: map[string][]string{"": {"b/"}, "team": {"x/"}}}, "team/", "team,team/x", ""},
		"one may not be":     {&spaces{children: map[string][]string{"": {"a/", "b/"}}, status: map[string]int{"a": 403}}, "", ",a,b", `needs capability "list" on path "sys/namespaces"`},
		"hostile":            {&spaces{children: map[string][]string{"": {"a/", "../", "b?/", "c\n/"}}}, "", ",a", "is left out"},
		"one within another": {&spaces{children: map[string][]string{"": {"a/", "a/"}}}, "", ",a", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if c.s.status == nil {
				c.s.status = map[string]int{}
			}
			all, err := walk(c.s, c.namespace).Namespaces(t.Context())
			if strings.Join(all, ",") != c.want || !contains(err, c.err) || strings.Contains(text(err), "c\n") {
				t.Errorf("namespaces %q, %v", all, err)
			}
		})
	}

	many := &spaces{children: map[string][]string{}, status: map[string]int{}}
	for n := range 2000 {
		many.children[""] = append(many.children[""], fmt.Sprintf("n%04d/", n))
	}
	if all, err := walk(many, "").Namespaces(t.Context()); len(all) != 1000 || !contains(err, "more than 1000 namespaces") {
		t.Errorf("%d namespaces, %v", len(all), err)
	}
	deep := &spaces{children: map[string][]string{"": {"d/"}}, status: map[string]int{}}
	for at := "d"; len(at) < 80; at += "/d" {
		deep.children[at] = []string{"d/"}
	}
	if all, err := walk(deep, "").Namespaces(t.Context()); len(all) != 17 || !contains(err, "16 levels") {
		t.Errorf("%d namespaces, %v", len(all), err)
	}
}

// TestTidyTooLarge: a tidy whose rebuild did not fit says so in its error.
func TestTidyTooLarge(t *testing.T) {
	for said, limit := range map[string]int64{
		"error storing CRL: put failed due to value being too large, max value size for key logical/u/crls/c is 65536, got 65569": 65536,
		"error storing CRL: Unexpected response code: 413 (Request body(524515 bytes) too large, max size: 524288 bytes)":         524288,
		"unable to parse stored certificate": 0,
	} {
		f := newFake(t, map[string]string{"GET team/pki/tidy-status": data(t, map[string]any{"state": "Error", "error": said})})
		s, err := f.vault().TidyStatus(t.Context(), mount)
		var tooLarge *pki.TooLargeError
		if err != nil || errors.As(s.TooLarge, &tooLarge) != (limit > 0) || limit > 0 && tooLarge.Limit != limit {
			t.Errorf("%s: %v, %v", said, s.TooLarge, err)
		}
	}
}
