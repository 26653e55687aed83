package vaultpki_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/pkiwarden/pkiwarden/pki"
	"github.com/pkiwarden/pkiwarden/pki/vaultpki"
)

func TestCertificatesAreListed(t *testing.T) {
	const list = "LIST team/pki/certs"
	for name, tc := range map[string]struct {
		answer string // none: 404
		want   []string
		err    string
	}{
		"three":          {`{"request_id":"r","data":{"keys":["0a:ff", "1b-22","7"]},"warnings":null}`, []string{"0a:ff", "1b-22", "7"}, ""},
		"other keys":     {`{"data":{"key_info":{"keys":["1"]},"keys":["0a"]}}`, []string{"0a"}, ""},
		"none":           {"", nil, ""},
		"no mount":       {`404 {"errors":["no handler for route \"team/pki/certs\". route entry not found."]}`, nil, "no handler for route"},
		"an empty list":  {`{"data":{"keys":[]}}`, nil, ""},
		"cut short":      {`{"data":{"keys":["0a:ff","1b`, []string{"0a:ff"}, "unexpected EOF"},
		"cut at a comma": {`{"data":{"keys":["0a:ff",`, []string{"0a:ff"}, "unexpected EOF"},
		"no keys":        {`{"data":{}}`, nil, "finding keys in the JSON answer"},
		"no array":       {`{"data":{"keys":"0a"}}`, nil, "no array"},
		"numbers":        {`{"data":{"keys":[1]}}`, nil, "unexpected '1'"},
		"another path":   {`{"data":{"keys":["../../sys/seal"]}}`, nil, `"../../sys/seal" is no serial number`},
		"a long one":     {`{"data":{"keys":["` + strings.Repeat("a", 5000) + `"]}}`, nil, "is no serial number"},
		"denied":         {`403 {"errors":["permission denied"]}`, nil, `needs capability "list" on path "team/pki/certs"`},
		"sealed":         {`503 {"errors":["Vault is sealed"]}`, nil, "vault is sealed"},
	} {
		answers := map[string]string{list: tc.answer}
		if tc.answer == "" {
			answers = nil
		}
		var got []string
		err := newFake(t, answers).vault().Certificates(t.Context(), mount, func(serial string) error {
			got = append(got, serial)
			return nil
		})
		if !slices.Equal(got, tc.want) || !contains(err, tc.err) {
			t.Errorf("%s: %q, %v, want %q, %q", name, got, err, tc.want, tc.err)
		}
		if err != nil && !contains(err, "listing certificates of mount team/pki: ") {
			t.Errorf("%s: %v does not say where", name, err)
		}
	}
	enough := errors.New("enough")
	err := newFake(t, map[string]string{list: `{"data":{"keys":["01","02"]}}`}).vault().Certificates(t.Context(), mount, func(string) error { return enough })
	if !errors.Is(err, enough) {
		t.Errorf("an error of the caller: %v", err)
	}
}

// A list without end is given up after about a million certificates.
func TestCertificatesAreCapped(t *testing.T) {
	endless := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `{"data":{"keys":[`)
		chunk := strings.Repeat(`"`+strings.Repeat("ab:", 19)+`ab",`, 1000)
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, chunk); err != nil {
				return
			}
		}
	}))
	t.Cleanup(endless.Close)
	config := api.DefaultConfig()
	config.Address = endless.URL
	client, err := api.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	v, err := vaultpki.New(vaultpki.Options{Client: client, SlowTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	err = v.Certificates(t.Context(), mount, func(string) error { n++; return nil })
	if !contains(err, "the answer is longer than 67108864 bytes: there are too many certificates to list") || n < 1_000_000 {
		t.Errorf("after %d serial numbers: %v", n, err)
	}
}

func TestCertificate(t *testing.T) {
	f := newFake(t, map[string]string{
		"GET team/pki/cert/0a:ff": data(t, map[string]any{"certificate": certificate(t, "live"), "revocation_time": 0, "issuer_id": ""}),
		"GET team/pki/cert/0b-00": data(t, map[string]any{"certificate": certificate(t, "revoked"), "revocation_time": 1767571200}),
		"GET team/pki/cert/0c":    data(t, map[string]any{"certificate": "nothing"}),
		"GET team/pki/cert/0d":    `500 {"errors":["no storage"]}`,
	})
	v := f.vault()
	for _, tc := range []struct {
		serial, want, err string
		revokedAt         time.Time
	}{
		{"0a:ff", "live", "", time.Time{}},
		{"0b-00", "revoked", "", time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)},
		{"0c", "", "reading certificate \"0c\" of mount team/pki: no PEM certificate in the answer", time.Time{}},
		{"0d", "", "status 500", time.Time{}},
		{"0e", "", "", time.Time{}}, // tidied since
		{"../issuer", "", `"../issuer" is no serial number`, time.Time{}},
		{"", "", "is no serial number", time.Time{}},
	} {
		cert, revokedAt, err := v.Certificate(t.Context(), mount, tc.serial)
		name := ""
		if cert != nil {
			name = cert.Subject.CommonName
		}
		if name != tc.want || !revokedAt.Equal(tc.revokedAt) || !contains(err, tc.err) {
			t.Errorf("%s: %q, %s, %v, want %q, %s, %q", tc.serial, name, revokedAt, err, tc.want, tc.revokedAt, tc.err)
		}
	}
	for _, r := range f.requests {
		if r.Header.Get("X-Vault-Token") != "" {
			t.Errorf("%s carries the token", r.URL.Path)
		}
	}
	var denied *pki.PermissionError
	if _, _, err := v.Certificate(t.Context(), mount, fmt.Sprintf("%x", strings.Repeat("x", 60))); err == nil || errors.As(err, &denied) {
		t.Errorf("a serial number of 60 octets: %v", err)
	}
}
