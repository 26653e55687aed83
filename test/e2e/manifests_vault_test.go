package e2e

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
	"github.com/pkiwarden/pkiwarden/test/e2e/servers/serverstest"
)

// vaultRequest is one request that a token is tried with.
type vaultRequest struct {
	method, path string
	body         map[string]any
}

// What the shipped policies are for, and what they must never allow. "ISSUER"
// stands for the ID of an issuer.
var (
	toObserve = []vaultRequest{
		{method: "GET", path: "sys/mounts"},
		{method: "GET", path: "sys/config/state/sanitized"},
		{method: "GET", path: "pki/config/crl"},
		{method: "GET", path: "pki/config/auto-tidy"},
		{method: "GET", path: "pki/tidy-status"},
		{method: "LIST", path: "pki/roles"},
		{method: "GET", path: "pki/roles/pod"},
		{method: "LIST", path: "pki/certs"},
		{method: "LIST", path: "pki/issuers"},
		{method: "GET", path: "pki/issuer/ISSUER"},
		{method: "GET", path: "pki/issuer/ISSUER/json"},
		{method: "GET", path: "pki/issuer/ISSUER/crl/der"},
		{method: "GET", path: "sys/internal/ui/mounts"},
		{method: "GET", path: "auth/token/lookup-self"},
		{method: "POST", path: "auth/token/renew-self"},
		// Another mount, by the same lines.
		{method: "GET", path: "pki_int/tidy-status"},
	}
	toTidy = []vaultRequest{
		{method: "POST", path: "pki/tidy", body: map[string]any{"tidy_revoked_certs": true, "safety_buffer": "72h"}},
		{method: "POST", path: "pki/tidy-cancel"},
		{method: "GET", path: "pki/crl/rotate"},
	}
	toOwn    = []vaultRequest{{method: "POST", path: "pki/config/auto-tidy", body: map[string]any{"enabled": false}}}
	notToOwn = []vaultRequest{
		{method: "POST", path: "pki/config/auto-tidy", body: map[string]any{"enabled": true}},
		{method: "POST", path: "pki/config/auto-tidy", body: map[string]any{"enabled": false, "safety_buffer": "1s"}},
		{method: "POST", path: "pki/config/crl", body: map[string]any{"disable": true}},
	}
	toNobody = []vaultRequest{
		// Issuers, keys and certificates.
		{method: "POST", path: "pki/issuer/ISSUER", body: map[string]any{"issuer_name": "taken"}},
		{method: "PATCH", path: "pki/issuer/ISSUER", body: map[string]any{"issuer_name": "taken"}},
		{method: "DELETE", path: "pki/issuer/ISSUER"},
		{method: "POST", path: "pki/issuer/ISSUER/revoke"},
		{method: "POST", path: "pki/issuers/import/bundle"},
		{method: "POST", path: "pki/root/rotate/internal", body: map[string]any{"common_name": "another"}},
		{method: "DELETE", path: "pki/root"},
		{method: "POST", path: "pki/issue/pod", body: map[string]any{"common_name": "a.example.com"}},
		{method: "POST", path: "pki/sign/pod"},
		{method: "POST", path: "pki/sign-verbatim"},
		{method: "POST", path: "pki/revoke", body: map[string]any{"serial_number": "00:11"}},
		{method: "POST", path: "pki/revoke-with-key"},
		{method: "LIST", path: "pki/keys"},
		{method: "LIST", path: "pki/certs/revoked"},
		{method: "GET", path: "pki/key/ISSUER"},
		{method: "POST", path: "pki/keys/generate/exported"},
		// Settings.
		{method: "POST", path: "pki/config/crl", body: map[string]any{"disable": true}},
		{method: "POST", path: "pki/config/auto-tidy", body: map[string]any{"enabled": false}},
		{method: "POST", path: "pki/config/urls"},
		{method: "POST", path: "pki/config/issuers"},
		{method: "POST", path: "pki/roles/pod", body: map[string]any{"allow_any_name": true}},
		{method: "DELETE", path: "pki/roles/pod"},
		{method: "PUT", path: "pki/crl/rotate"},
		// Vault itself. All of its telemetry is given by whoever wants leases counted.
		{method: "GET", path: "sys/metrics"},
		{method: "POST", path: "sys/mounts/another", body: map[string]any{"type": "kv"}},
		{method: "DELETE", path: "sys/mounts/pki"},
		{method: "POST", path: "sys/mounts/pki/tune"},
		{method: "GET", path: "sys/raw/core/mounts"},
		{method: "LIST", path: "sys/raw/"},
		{method: "PUT", path: "sys/seal"},
		{method: "PUT", path: "sys/step-down"},
		{method: "GET", path: "sys/audit"},
		{method: "LIST", path: "sys/policies/acl"},
		{method: "POST", path: "sys/policies/acl/pkiwarden-tidy", body: map[string]any{"policy": ""}},
		{method: "GET", path: "sys/storage/raft/snapshot"},
		{method: "POST", path: "sys/config/cors"},
		{method: "POST", path: "auth/token/create"},
		{method: "POST", path: "auth/token/revoke", body: map[string]any{"token": "x"}},
		{method: "LIST", path: "auth/token/accessors"},
		{method: "POST", path: "identity/entity"},
		// A neighbour: "+" is one segment, of any mount.
		{method: "GET", path: "kv/team"},
		{method: "POST", path: "kv/team", body: map[string]any{"a": "b"}},
		{method: "LIST", path: "kv/"},
		{method: "POST", path: "kv/tidy-status", body: map[string]any{"a": "b"}},
		{method: "POST", path: "kv/config/crl", body: map[string]any{"a": "b"}},
	}
)

// TestVaultPolicies tries tokens that have exactly the shipped policies, and
// not even "default", on a real Vault.
func TestVaultPolicies(t *testing.T) {
	t.Parallel()
	ctx := serverstest.Context(t)
	vault, err := serverstest.New(t).StartVault(ctx, servers.VaultOptions{Storage: servers.RaftStorage{}})
	if err != nil {
		t.Fatal(err)
	}
	root := vault.Client()
	issuer := preparePKI(t, ctx, root)

	observer := policyToken(t, ctx, vault, "pkiwarden-observe")
	both := policyToken(t, ctx, vault, "pkiwarden-observe", "pkiwarden-tidy")
	tidyOnly := policyToken(t, ctx, vault, "pkiwarden-tidy")
	owner := policyToken(t, ctx, vault, "pkiwarden-observe", "pkiwarden-tidy", "pkiwarden-auto-tidy")
	for _, try := range []struct {
		who      string
		client   *api.Client
		requests []vaultRequest
		allowed  bool
	}{
		{"observe", observer, toNobody, false},
		{"observe and tidy", both, toNobody, false},
		{"observe", observer, toTidy, false},
		{"observe", observer, toObserve, true},
		{"observe and tidy", both, toObserve, true},
		{"tidy", tidyOnly, toTidy, true},
		{"observe and tidy", both, toTidy, true},
		{"owner of auto-tidy", owner, toObserve, true},
		{"owner of auto-tidy", owner, toOwn, true},
		{"owner of auto-tidy", owner, notToOwn, false},
	} {
		for _, r := range try.requests {
			status, err := send(ctx, try.client, r, issuer)
			if err != nil {
				t.Fatal(err)
			}
			if denied := status == http.StatusForbidden; denied == try.allowed || try.allowed && status >= 300 {
				t.Errorf("%s: %s %s answers %d, want it allowed: %t", try.who, r.method, r.path, status, try.allowed)
			}
		}
	}
	// Each of these exists for somebody who may: a 403 above is the policy's.
	for _, r := range toNobody {
		if r.method != "GET" && r.method != "LIST" || strings.HasPrefix(r.path, "sys/raw") {
			continue
		}
		if status, err := send(ctx, root, r, issuer); err != nil || status == http.StatusForbidden {
			t.Errorf("root: %s %s answers %d (%v)", r.method, r.path, status, err)
		}
	}
}

// preparePKI makes two PKI mounts and a neighbour, and returns the first
// mount's issuer.
func preparePKI(t *testing.T, ctx context.Context, root *api.Client) string {
	t.Helper()
	for path, kind := range map[string]string{"pki": "pki", "pki_int": "pki", "kv": "kv"} {
		if err := root.Sys().MountWithContext(ctx, path, &api.MountInput{Type: kind}); err != nil {
			t.Fatal(err)
		}
	}
	must := func(path string, body map[string]any) *api.Secret {
		t.Helper()
		secret, err := root.Logical().WriteWithContext(ctx, path, body)
		if err != nil {
			t.Fatal(err)
		}
		return secret
	}
	answer := must("pki/root/generate/internal", map[string]any{"common_name": "policy test", "key_type": "ec", "key_bits": 256, "ttl": "24h"})
	must("pki/roles/pod", map[string]any{"allow_any_name": true, "key_type": "ec", "key_bits": 256, "max_ttl": "1h"})
	must("kv/team", map[string]any{"password": "x"})
	issuer, _ := answer.Data["issuer_id"].(string)
	if issuer == "" {
		t.Fatalf("the new root has no issuer ID: %v", answer.Data)
	}
	return issuer
}

// policyToken writes the shipped policies and makes a token of them alone.
func policyToken(t *testing.T, ctx context.Context, vault *servers.Vault, policies ...string) *api.Client {
	t.Helper()
	files := map[string]string{"pkiwarden-observe": "observe.hcl", "pkiwarden-tidy": "tidy.hcl", "pkiwarden-auto-tidy": "auto-tidy.hcl"}
	for _, name := range policies {
		if err := vault.Client().Sys().PutPolicyWithContext(ctx, name, readFile(t, manifestsDir+"/vault/"+files[name])); err != nil {
			t.Fatal(err)
		}
	}
	answer, err := vault.Client().Auth().Token().CreateWithContext(ctx, &api.TokenCreateRequest{Policies: policies, NoDefaultPolicy: true, TTL: "1h"})
	if err != nil {
		t.Fatal(err)
	}
	client, err := vault.ClientWithToken(answer.Auth.ClientToken)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// send returns the status of the answer, whatever it is.
func send(ctx context.Context, client *api.Client, r vaultRequest, issuer string) (int, error) {
	request := client.NewRequest(r.method, "/v1/"+strings.ReplaceAll(r.path, "ISSUER", issuer))
	if r.method == "PATCH" {
		request.Headers.Set("Content-Type", "application/merge-patch+json")
	}
	if r.body != nil {
		if err := request.SetJSONBody(r.body); err != nil {
			return 0, err
		}
	}
	//lint:ignore SA1019 the typed methods cannot send every one of these
	answer, err := client.RawRequestWithContext(ctx, request)
	if answer != nil {
		defer answer.Body.Close()
		return answer.StatusCode, nil
	}
	var refused *api.ResponseError
	if errors.As(err, &refused) {
		return refused.StatusCode, nil
	}
	return 0, err
}
