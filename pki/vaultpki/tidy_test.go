package vaultpki_test

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/pkiwarden/pkiwarden/pki"
	"github.com/pkiwarden/pkiwarden/pki/vaultpki"
)

func TestTidyStatus(t *testing.T) {
	f := newFake(t, map[string]string{"GET team/pki/tidy-status": `{"data":{"state":"Inactive","error":null,"message":null,"time_started":null,"time_finished":null,"safety_buffer":null,"tidy_cert_store":null,"tidy_revoked_certs":null,"cert_store_deleted_count":null,"revoked_cert_deleted_count":null,"current_cert_store_count":null,"current_revoked_cert_count":null,"last_auto_tidy_finished":"2026-03-01T10:00:00Z","internal_backend_uuid":"x"}}`})
	s, err := f.vault().TidyStatus(t.Context(), mount)
	if err != nil || s != (pki.TidyStatus{State: pki.TidyInactive}) {
		t.Errorf("%+v, %v", s, err)
	}

	f.answers["GET team/pki/tidy-status"] = `{"data":{"state":"Error","error":"unable to parse stored certificate with serial \"aa-bb\": x","message":"Tidying revoked certificates: checking certificate 7 of 9","time_started":"2026-03-01T10:00:00.123456789Z","time_finished":"2026-03-01T10:01:00Z","safety_buffer":259200,"tidy_cert_store":true,"tidy_revoked_certs":true,"pause_duration":"10ms","cert_store_deleted_count":4,"revoked_cert_deleted_count":6,"current_cert_store_count":100,"current_revoked_cert_count":9,"certificate_counting_error":"re-initialize"}}`
	s, err = f.vault().TidyStatus(t.Context(), mount)
	if err != nil || s.CertStoreCount == nil || *s.CertStoreCount != 100 || s.RevokedCount == nil || *s.RevokedCount != 9 {
		t.Fatalf("%+v, %v", s, err)
	}
	s.CertStoreCount, s.RevokedCount = nil, nil
	want := pki.TidyStatus{
		State: pki.TidyError, Error: `unable to parse stored certificate with serial "aa-bb": x`,
		Message:   "Tidying revoked certificates: checking certificate 7 of 9",
		StartedAt: time.Date(2026, 3, 1, 10, 0, 0, 123456789, time.UTC), FinishedAt: time.Date(2026, 3, 1, 10, 1, 0, 0, time.UTC),
		SafetyBuffer: 72 * time.Hour, CertStore: true, RevokedCerts: true, CertStoreDeleted: 4, RevokedDeleted: 6,
		CountingError: "re-initialize",
	}
	if s != want {
		t.Errorf("%+v, want %+v", s, want)
	}
}

func TestStartTidy(t *testing.T) {
	tests := []struct {
		name, answer string
		started      bool
		err          string
	}{
		{"started", `202 {"data":null,"warnings":["Tidy operation successfully started. Any information from the operation will be printed to Vault's server logs."]}`, true, ""},
		{"beside another", `{"data":null,"warnings":["Tidy operation already in progress."]}`, false, ""},
		{"neither", `{"data":null,"warnings":["something new"]}`, false, `unexpected status 200 with warnings ["something new"]`},
		{"refused", `400 {"errors":["safety_buffer must be greater than zero"]}`, false, "vault refused team/pki/tidy with status 400: safety_buffer must be greater than zero"},
		{"denied", `403 {"errors":["1 error occurred:\n\t* permission denied\n\n"]}`, false, `permission denied: needs capability "update" on path "team/pki/tidy"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t, map[string]string{"POST team/pki/tidy": tt.answer})
			started, err := f.vault().StartTidy(t.Context(), mount, pki.TidyParams{CertStore: true, RevokedCerts: true, SafetyBuffer: 72 * time.Hour, Pause: 10 * time.Millisecond})
			if started != tt.started || !contains(err, tt.err) {
				t.Errorf("started %t, %v", started, err)
			}
			want := `{"pause_duration":"0.01s","safety_buffer":"259200s","tidy_cert_store":true,"tidy_revoked_cert_issuer_associations":false,"tidy_revoked_certs":true}`
			if f.bodies[0] != want {
				t.Errorf("sent %s, want %s", f.bodies[0], want)
			}
		})
	}
}

// Only what a version knows is sent to it.
func TestStartTidyOfVersions(t *testing.T) {
	const all = `{"pause_duration":"0.01s","safety_buffer":"259200s","tidy_cert_store":false,"tidy_revoked_cert_issuer_associations":false,"tidy_revoked_certs":true}`
	for version, want := range map[string]string{
		"1.11.9": `{"safety_buffer":"259200s","tidy_cert_store":false,"tidy_revoked_certs":true}`,
		"1.12.0": all, "1.13.0": all, "1.17.6": all, "1.21.1": all, "2.4.4": all, "": all,
	} {
		f := newFake(t, map[string]string{"POST team/pki/tidy": `202 {"data":null,"warnings":["Endpoint ignored these unrecognized parameters: [x]", "Tidy operation successfully started."]}`})
		started, err := f.vault().StartTidy(t.Context(), mount, pki.TidyParams{RevokedCerts: true, SafetyBuffer: 72 * time.Hour, Pause: 10 * time.Millisecond, Version: version})
		if err != nil || !started || f.bodies[0] != want {
			t.Errorf("%s: started %t, %v, sent %s, want %s", version, started, err, f.bodies[0], want)
		}
	}
}

func TestCancelTidy(t *testing.T) {
	f := newFake(t, map[string]string{"POST team/pki/tidy-cancel": `{"data":{"state":"Cancelling"}}`})
	if asked, err := f.vault().CancelTidy(t.Context(), mount); err != nil || !asked {
		t.Errorf("%t, %v", asked, err)
	}
	f.answers["POST team/pki/tidy-cancel"] = `{"warnings":["Tidy operation cannot be cancelled as none is currently running."]}`
	if asked, err := f.vault().CancelTidy(t.Context(), mount); err != nil || asked {
		t.Errorf("%t, %v", asked, err)
	}
}

// The words are those of real servers: Vault 1.21.1 on raft and on Consul
// 1.21.0, and Vault 1.13.0 on the same Consul.
func TestRotateOverTheLimit(t *testing.T) {
	tests := []struct {
		name, message string
		limit         int64 // -1: another error
	}{
		{"raft", "error encountered during CRL building: error building CRLs: error storing CRL: put failed due to value being too large, max value size for key logical/2a/crls/3b is 1048576, got 1048617", 1048576},
		{"raft, whole entry", "error storing CRL: put failed due to value being too large; got 1048600 bytes, max: 1048576 bytes", 1048576},
		{"consul, transaction", "error storing CRL: Unexpected response code: 413 (Request body(524515 bytes) too large, max size: 524288 bytes. See https://developer.hashicorp.com/docs/agent/config/config-files#txn_max_req_len.)", 524288},
		{"consul, value", "error storing CRL: Unexpected response code: 413 (Value for key \"vault/x\" exceeds 524288 byte limit)", 524288},
		{"max_crl_entries", "error encountered during CRL building: error building CRL: revocation list size (100001) exceeds configured maximum (100000)", 100000},
		{"consul, value in a transaction", `error storing CRL: 1 error occurred: Value for key "vault/logical/2a/crls/3b" is too large (65537 > 65536 bytes)`, 65536},
		{"unknown form", "put failed due to value being too large - see above", 0},
		{"another error", "error storing CRL: context deadline exceeded", -1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			body := strings.ReplaceAll(tt.message, `"`, `\"`)
			f := newFake(t, map[string]string{"GET team/pki/crl/rotate": `500 {"errors":["1 error occurred:\n\t* ` + body + `\n\n"]}`})
			err := f.vault().Rotate(t.Context(), mount)
			var tooLarge *pki.TooLargeError
			switch {
			case tt.limit < 0:
				if err == nil || errors.As(err, &tooLarge) {
					t.Errorf("error %v", err)
				}
			case !errors.As(err, &tooLarge) || tooLarge.Limit != tt.limit || !strings.Contains(err.Error(), tt.message):
				t.Errorf("error %v, want the limit %d", err, tt.limit)
			}
		})
	}
	f := newFake(t, map[string]string{"GET team/pki/crl/rotate": `{"data":{"success":true}}`})
	if err := f.vault().Rotate(t.Context(), mount); err != nil {
		t.Error(err)
	}
}

func TestLongestTTL(t *testing.T) {
	roles := func(keys string) string { return `{"data":{"keys":[` + keys + `]}}` }
	role := func(ttl string) string { return `{"data":{"max_ttl":` + ttl + `,"ttl":0,"not_after":""}}` }
	tests := []struct {
		name    string
		answers map[string]string
		want    time.Duration // 0: unknown
		source  string
		err     string
	}{
		{"the longest role", map[string]string{
			"LIST team/pki/roles": roles(`"a","b","gone"`), "GET team/pki/roles/a": role("3600"), "GET team/pki/roles/b": role("7200"),
		}, 2 * time.Hour, "max_ttl of role b", ""},
		{"a role without", map[string]string{
			"LIST team/pki/roles": roles(`"a","b"`), "GET team/pki/roles/a": role("3600"), "GET team/pki/roles/b": role("0"),
			"GET sys/internal/ui/mounts/team/pki": `{"data":{"config":{"max_lease_ttl":86400}}}`,
		}, 24 * time.Hour, "the mount's max_lease_ttl (role b sets no max_ttl)", ""},
		{"a role longer than the mount", map[string]string{
			"LIST team/pki/roles": roles(`"a","b"`), "GET team/pki/roles/a": role("172800"), "GET team/pki/roles/b": role("0"),
			"GET sys/internal/ui/mounts/team/pki": `{"data":{"config":{"max_lease_ttl":86400}}}`,
		}, 48 * time.Hour, "max_ttl of role a", ""},
		{"no role, the mount's own from sys/mounts", map[string]string{
			"GET sys/mounts": `{"data":{"team/pki/":{"type":"pki","config":{"max_lease_ttl":60}}}}`,
		}, time.Minute, "the mount's max_lease_ttl (no role)", ""},
		{"no role, the server's", map[string]string{
			"GET sys/mounts": `{"data":{"team/pki/":{"type":"pki","config":{"max_lease_ttl":0}}}}`, "GET sys/config/state/sanitized": `{"data":{"max_lease_ttl":120}}`,
		}, 2 * time.Minute, "no role", ""},
		{"no role, Vault's default", map[string]string{
			"GET sys/mounts": `{"data":{"team/pki/":{"type":"pki"}}}`, "GET sys/config/state/sanitized": `{"data":{"max_lease_ttl":0}}`,
		}, 768 * time.Hour, "no role", ""},
		{"fixed end", map[string]string{
			"LIST team/pki/roles": roles(`"a"`), "GET team/pki/roles/a": `{"data":{"max_ttl":3600,"not_after":"9999-12-31T23:59:59Z"}}`,
		}, 0, "role a issues with a fixed not_after, 9999-12-31T23:59:59Z", ""},
		{"roles hidden", map[string]string{"LIST team/pki/roles": `403 {"errors":["permission denied"]}`}, 0,
			`needs capability "list" on path "team/pki/roles"`, `needs capability "list" on path "team/pki/roles"`},
		{"a role hidden", map[string]string{"LIST team/pki/roles": roles(`"a"`), "GET team/pki/roles/a": `403 {"errors":["permission denied"]}`}, 0,
			`needs capability "read" on path "team/pki/roles/a"`, `needs capability "read" on path "team/pki/roles/a"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := newFake(t, tt.answers).vault().LongestTTL(t.Context(), mount)
			if got.Duration != tt.want || !strings.Contains(got.Source, tt.source) || !contains(err, tt.err) {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	tests := []struct {
		name, answer string
		is           error
		says         string
	}{
		{"sealed", `503 {"errors":["Vault is sealed"]}`, pki.ErrSealed, "vault is sealed"},
		{"no leader", `503 {"errors":["no active Vault instance found"]}`, pki.ErrNoActiveNode, "no active"},
		{"leader unknown to a standby", `500 {"errors":["local node not active but active cluster node not found"]}`, pki.ErrNoActiveNode, "no active"},
		{"token", `403 {"errors":["2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"]}`, nil, "the token is not valid (expired or revoked); log in again"},
		{"redirect", "307 https://10.0.0.7:8200/v1/team/pki/tidy-status", nil, "redirects to https://10.0.0.7:8200: set vault.address"},
		{"overloaded", `429 {"errors":["request path: rate limit quota exceeded"]}`, nil, "status 429: request path: rate limit quota exceeded"},
		{"not Vault", `502 <html><body>Bad gateway</body></html>`, nil, `status 502: "<html><body>Bad gateway`},
		{"no JSON", `<html>`, pki.ErrNotVault, "not Vault's answer: decoding answer"},
		{"no data", `{"data":null}`, nil, ""},
		{"endless", `{"data":{"state":"` + strings.Repeat("a", 9<<20) + `"}}`, pki.ErrNotVault, "longer than 8388608 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t, map[string]string{"GET team/pki/tidy-status": tt.answer})
			_, err := f.vault().TidyStatus(t.Context(), mount)
			if tt.says != "" && !contains(err, tt.says) || tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("error %v", err)
			}
			if strings.Contains(text(err), token) {
				t.Errorf("the token is in %v", err)
			}
			if len(f.requests) != 1 {
				t.Errorf("%d requests: something retries or follows", len(f.requests))
			}
		})
	}
}

// What may pass by itself is told apart, with how long it asks to wait.
func TestFailing(t *testing.T) {
	for header, want := range map[string]time.Duration{"": 0, "7": 7 * time.Second, "-1": 0, "Sat, 21 Nov 2026 14:00:00 GMT": 0, "99999999999999999999": 0} {
		for status, failing := range map[int]bool{429: true, 500: true, 503: true, 400: false, 404: false, 403: false} {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", header)
				w.WriteHeader(status)
			}))
			_, err := (&fake{t: t, server: server}).vault().TidyStatus(t.Context(), mount)
			server.Close()
			var f *pki.FailingError
			if errors.As(err, &f) != failing || failing && (f.Status != status || f.RetryAfter != want) {
				t.Errorf("%d with Retry-After %q: %v", status, header, err)
			}
		}
	}
}

func TestUnreachable(t *testing.T) {
	f := newFake(t, nil)
	v := f.vault()
	f.server.Close()
	if _, err := v.Health(t.Context()); !errors.Is(err, pki.ErrUnreachable) {
		t.Errorf("closed: %v", err)
	}

	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	config := api.DefaultConfig()
	config.Address = "http://" + silent.Addr().String()
	c, err := api.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	v, err = vaultpki.New(vaultpki.Options{Client: c, Timeout: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Health(t.Context()); !errors.Is(err, pki.ErrUnreachable) || !contains(err, "no answer within 50ms") {
		t.Errorf("silent: %v", err)
	}
}
