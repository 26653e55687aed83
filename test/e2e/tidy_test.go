package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
	"github.com/pkiwarden/pkiwarden/pki/tidier"
	"github.com/pkiwarden/pkiwarden/pki/tidier/tidiertest"
	"github.com/pkiwarden/pkiwarden/pki/vaultpki"
	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
	"github.com/pkiwarden/pkiwarden/test/e2e/servers/serverstest"
)

// tidyVault is a Vault with one PKI mount whose certificates live seconds. Vault
// refuses to revoke what has less than two left.
type tidyVault struct {
	t      *testing.T
	ctx    context.Context
	set    *servers.Set
	server *servers.Vault
	vault  *vaultpki.Vault
	mount  pki.Mount
}

func startTidyVault(t *testing.T, o servers.VaultOptions, autoRebuild bool) *tidyVault {
	t.Helper()
	ctx := serverstest.Context(t)
	o.Storage = servers.RaftStorage{}
	set := serverstest.New(t)
	server, err := set.StartVault(ctx, o)
	must(t, err)
	v := &tidyVault{t: t, ctx: ctx, set: set, server: server}
	must(t, server.Client().Sys().MountWithContext(ctx, "pki", &api.MountInput{Type: "pki", Config: api.MountConfigInput{MaxLeaseTTL: "1h"}}))
	v.write("pki/root/generate/internal", map[string]any{"common_name": "root", "key_type": "ec", "key_bits": 256, "issuer_name": "root", "ttl": "1h"})
	v.write("pki/roles/brief", map[string]any{"allow_any_name": true, "enforce_hostnames": false, "key_type": "ec", "key_bits": 256, "max_ttl": "5s"})
	v.write("pki/config/crl", map[string]any{"auto_rebuild": autoRebuild})
	v.vault = v.adapter(server.Client())
	mounts, err := v.vault.Mounts(ctx)
	must(t, err)
	if len(mounts) != 1 || mounts[0].Path != "pki" || mounts[0].UUID == "" {
		t.Fatalf("mounts %+v", mounts)
	}
	v.mount = mounts[0]
	return v
}

func (v *tidyVault) adapter(c *api.Client) *vaultpki.Vault {
	v.t.Helper()
	a, err := vaultpki.New(vaultpki.Options{Client: c})
	must(v.t, err)
	return a
}

// limited is an adapter whose token has the given policy only.
func (v *tidyVault) limited(policy string) *vaultpki.Vault {
	v.t.Helper()
	must(v.t, v.server.Client().Sys().PutPolicyWithContext(v.ctx, "limited", policy))
	secret := v.write("auth/token/create", map[string]any{"policies": []string{"limited"}})
	c, err := v.server.ClientWithToken(secret.Auth.ClientToken)
	must(v.t, err)
	return v.adapter(c)
}

func (v *tidyVault) write(path string, data map[string]any) *api.Secret {
	v.t.Helper()
	secret, err := v.server.Client().Logical().WriteWithContext(v.ctx, path, data)
	must(v.t, err)
	return secret
}

// revoke issues and revokes n certificates of the given lifetime.
func (v *tidyVault) revoke(n int, ttl string) {
	v.t.Helper()
	var wg sync.WaitGroup
	errs := make(chan error, n)
	work := make(chan int)
	for range 4 {
		wg.Go(func() {
			for i := range work {
				errs <- v.revokeOne(i, ttl)
			}
		})
	}
	for i := range n {
		work <- i
	}
	close(work)
	wg.Wait()
	close(errs)
	for err := range errs {
		must(v.t, err)
	}
}

func (v *tidyVault) revokeOne(i int, ttl string) error {
	logical := v.server.Client().Logical()
	issued, err := logical.WriteWithContext(v.ctx, "pki/issue/brief", map[string]any{"common_name": fmt.Sprintf("pod-%d", i), "ttl": ttl})
	if err != nil {
		return err
	}
	_, err = logical.WriteWithContext(v.ctx, "pki/revoke", map[string]any{"serial_number": issued.Data["serial_number"]})
	return err
}

// Measure, Entries and Latest make v what measures lists for a tidier.
func (v *tidyVault) Measure(ctx context.Context, m pki.Mount) ([]pki.CRL, error) {
	return v.Entries(ctx, m, func(pki.Issuer) func(crl.Entry) error { return nil })
}

func (v *tidyVault) Entries(ctx context.Context, m pki.Mount, begin func(pki.Issuer) func(crl.Entry) error) ([]pki.CRL, error) {
	issuers, err := v.vault.Issuers(ctx, m)
	if err != nil {
		return nil, err
	}
	var lists []pki.CRL
	for _, issuer := range issuers {
		body, err := v.vault.CRL(ctx, m, pki.CRLRequest{IssuerID: issuer.ID, Form: vaultpki.FormJSON})
		if err != nil {
			return nil, err
		}
		summary, err := crl.Scan(body, crl.Options{Each: begin(issuer)})
		body.Close()
		if err != nil {
			return nil, err
		}
		if err := summary.Verify(issuer.Certificate); err != nil {
			return nil, err
		}
		lists = append(lists, pki.CRL{Mount: m, Issuer: issuer, Summary: summary, MeasuredAt: time.Now()})
	}
	return lists, nil
}

func (v *tidyVault) Latest(pki.Mount) ([]pki.CRL, bool) { return nil, false }

func (v *tidyVault) tidier(state tidier.State) *tidier.Tidier {
	v.t.Helper()
	return v.newTidier(v.options(state))
}

// options are those of a tidier whose periods of days take seconds.
func (v *tidyVault) options(state tidier.State) tidier.Options {
	return tidier.Options{
		Vault: v.vault, CRLs: v, State: state, Identity: "test",
		Policy: pki.Policy{
			SafetyBuffer: time.Second, AllowShortSafetyBuffer: true,
			Trigger: pki.Trigger{ReclaimableShare: 0.2}, CertStore: true, Rotate: true,
			Pause: 2 * time.Millisecond, Settle: time.Nanosecond,
		},
	}
}

func (v *tidyVault) newTidier(o tidier.Options) *tidier.Tidier {
	v.t.Helper()
	tr, err := tidier.New(o)
	must(v.t, err)
	return tr
}

// Tidy on a real Vault takes the expired revocations off the list, whether or
// not Vault rebuilds it at the end of a run.
func TestTidyShrinksTheCRL(t *testing.T) {
	t.Parallel()
	for _, auto := range []bool{false, true} {
		t.Run(fmt.Sprintf("auto_rebuild=%t", auto), func(t *testing.T) {
			t.Parallel()
			v := startTidyVault(t, servers.VaultOptions{Audit: true}, auto)
			v.revoke(60, "5s")
			must(t, v.vault.Rotate(v.ctx, v.mount))
			state := new(tidiertest.State)

			reports, err := v.tidier(state).Tidy(v.ctx, tidier.Request{DryRun: true, Wait: true})
			must(t, err)
			if len(reports) != 1 || reports[0].Run || reports[0].Result != nil {
				t.Fatalf("dry run: %+v", reports)
			}
			time.Sleep(7 * time.Second) // at most 5 s to live and 1 s of buffer

			// Two jobs at once: one run; the other sees it through as well, or
			// comes when it is over and finds nothing left to do.
			var wg sync.WaitGroup
			both := make([]tidier.Report, 2)
			for i := range both {
				tr := v.tidier(state)
				wg.Go(func() {
					reports, err := tr.Tidy(v.ctx, tidier.Request{Wait: true})
					if err != nil || len(reports) != 1 {
						t.Errorf("job %d: %+v, %v", i, reports, err)
						return
					}
					both[i] = reports[0]
				})
			}
			wg.Wait()
			runs := 0
			for i, r := range both {
				if r.Run {
					runs++
				}
				if late := !r.Run && r.Result == nil && r.Predicted.Reclaimable == 0; late {
					continue
				}
				if r.Predicted.Reclaimable != 60 || r.Result == nil {
					t.Fatalf("job %d: %+v", i, r)
				}
				if res := r.Result; res.State != pki.RunFinished || *res.Deleted != 60 || res.EntriesBefore != 60 || res.EntriesAfter != 0 || res.CRLRotated != auto {
					t.Errorf("job %d: %s, %d deleted, %+v", i, res.State, *res.Deleted, *res)
				}
				// ECDSA signatures differ in length by a few octets, and the last
				// entry takes the list of entries with it.
				if off := r.Result.BytesAfter - r.Predicted.BytesAfter; off < -8 || off > 8 {
					t.Errorf("job %d: %d bytes after, predicted %d", i, r.Result.BytesAfter, r.Predicted.BytesAfter)
				}
			}
			if runs != 1 {
				t.Errorf("%d jobs say that they ran, want 1", runs)
			}
			lists, err := v.Measure(v.ctx, v.mount)
			must(t, err)
			if n := pki.SizeOf(lists).Entries; n != 0 {
				t.Errorf("%d entries are left", n)
			}
		})
	}
}

// The adapter says about a real Vault what an operator knows of it.
func TestVaultAdapter(t *testing.T) {
	t.Parallel()
	v := startTidyVault(t, servers.VaultOptions{}, false)
	v.revoke(3, "5s")

	health, err := v.vault.Health(v.ctx)
	must(t, err)
	if !health.Initialized || health.Sealed || health.Standby || health.ActiveSince.IsZero() || !strings.HasPrefix(health.Version, "1.") {
		t.Errorf("health %+v", health)
	}
	id, err := v.vault.ClusterID(v.ctx)
	must(t, err)
	if id == "" || id != health.ClusterID {
		t.Errorf("cluster %q, health says %q", id, health.ClusterID)
	}
	storage, err := v.vault.Storage(v.ctx)
	must(t, err)
	if storage.Backend != "raft" || !storage.Raft.Read || storage.Limit().MaxBytes != 1048445 || storage.VaultVersion != health.Version {
		t.Errorf("storage %+v", storage)
	}
	longest, err := v.vault.LongestTTL(v.ctx, v.mount)
	must(t, err)
	if longest.Duration != 5*time.Second || longest.Source != "max_ttl of role brief" {
		t.Errorf("longest TTL %+v", longest)
	}
	v.write("pki/roles/open", map[string]any{"allow_any_name": true})
	longest, err = v.vault.LongestTTL(v.ctx, v.mount)
	must(t, err)
	if longest.Duration != time.Hour {
		t.Errorf("longest TTL %+v, want the mount's hour", longest)
	}
	config, err := v.vault.CRLConfig(v.ctx, v.mount)
	must(t, err)
	if config.AutoRebuild || config.Disabled || config.Expiry != 72*time.Hour || config.MaxEntries != 100000 {
		t.Errorf("config/crl %+v", config)
	}
	auto, err := v.vault.AutoTidy(v.ctx, v.mount)
	must(t, err)
	if auto.Enabled || auto.Interval != 12*time.Hour || auto.SafetyBuffer != 72*time.Hour {
		t.Errorf("auto-tidy %+v", auto)
	}

	issuers, err := v.vault.Issuers(v.ctx, v.mount)
	must(t, err)
	if len(issuers) != 1 || issuers[0].Name != "root" || !issuers[0].Default || issuers[0].Certificate.Subject.CommonName != "root" || issuers[0].KeyID == "" {
		t.Fatalf("issuers %+v", issuers)
	}
	var forms []crl.Summary
	for _, form := range []string{vaultpki.FormJSON, vaultpki.FormDER} {
		body, err := v.vault.CRL(v.ctx, v.mount, pki.CRLRequest{IssuerID: issuers[0].ID, Form: form})
		must(t, err)
		summary, err := crl.Scan(body, crl.Options{})
		must(t, err)
		must(t, body.Close())
		must(t, summary.Verify(issuers[0].Certificate))
		forms = append(forms, summary)
	}
	if forms[0].Entries != 3 || forms[0].Bytes != forms[1].Bytes || forms[0].Format != crl.FormatPEM || forms[1].Format != crl.FormatDER {
		t.Errorf("lists of %d and %d entries", forms[0].Entries, forms[1].Entries)
	}

	status, err := v.vault.TidyStatus(v.ctx, v.mount)
	must(t, err)
	if status.State != pki.TidyInactive || !status.StartedAt.IsZero() {
		t.Errorf("status %+v", status)
	}
	slow := pki.TidyParams{CertStore: true, RevokedCerts: true, SafetyBuffer: 72 * time.Hour, Pause: 300 * time.Millisecond}
	started, err := v.vault.StartTidy(v.ctx, v.mount, slow)
	must(t, err)
	again, err := v.vault.StartTidy(v.ctx, v.mount, slow)
	must(t, err)
	if !started || again {
		t.Errorf("first run started: %t, second beside it: %t", started, again)
	}
	eventually(t, v.ctx, 10*time.Second, "the run shows", func(ctx context.Context) error {
		s, err := v.vault.TidyStatus(ctx, v.mount)
		if err == nil && (s.State != pki.TidyRunning || s.SafetyBuffer != 72*time.Hour || !s.CertStore || !s.RevokedCerts) {
			err = fmt.Errorf("status %+v", s)
		}
		return err
	})
	asked, err := v.vault.CancelTidy(v.ctx, v.mount)
	must(t, err)
	if !asked {
		t.Error("no run to cancel")
	}
	eventually(t, v.ctx, 20*time.Second, "the run ends", func(ctx context.Context) error {
		s, err := v.vault.TidyStatus(ctx, v.mount)
		if err == nil && (s.State != pki.TidyCancelled || s.FinishedAt.IsZero()) {
			err = fmt.Errorf("status %+v", s)
		}
		return err
	})
	asked, err = v.vault.CancelTidy(v.ctx, v.mount)
	must(t, err)
	if asked {
		t.Error("a run to cancel where none is on")
	}
}

// What Vault refuses is named as a policy would grant it, and a Vault that is
// sealed, or gone, is told apart.
func TestVaultAdapterRefusals(t *testing.T) {
	t.Parallel()
	v := startTidyVault(t, servers.VaultOptions{}, false)
	nothing := v.limited(`path "pki/tidy-status" { capabilities = ["read"] }`)

	mounts, err := nothing.Mounts(v.ctx) // by sys/internal/ui/mounts
	must(t, err)
	if len(mounts) != 1 || mounts[0] != v.mount {
		t.Errorf("mounts %+v", mounts)
	}
	_, err = nothing.StartTidy(v.ctx, v.mount, pki.TidyParams{RevokedCerts: true, SafetyBuffer: 72 * time.Hour})
	wantDenied(t, err, "update", "pki/tidy")
	wantDenied(t, nothing.Rotate(v.ctx, v.mount), "read", "pki/crl/rotate")
	_, err = nothing.LongestTTL(v.ctx, v.mount)
	wantDenied(t, err, "list", "pki/roles")
	storage, err := nothing.Storage(v.ctx)
	wantDenied(t, err, "read", "sys/config/state/sanitized")
	if storage.Backend != "raft" {
		t.Errorf("storage %+v", storage)
	}
	if _, err := nothing.TidyStatus(v.ctx, v.mount); err != nil {
		t.Error(err)
	}
	issuers, err := nothing.Issuers(v.ctx, v.mount)
	must(t, err)
	if _, err := nothing.CRL(v.ctx, v.mount, pki.CRLRequest{IssuerID: "00000000-0000-4000-8000-000000000000", Form: vaultpki.FormDER}); err == nil {
		t.Error("a CRL of no issuer")
	}
	body, err := nothing.CRL(v.ctx, v.mount, pki.CRLRequest{IssuerID: issuers[0].ID, Form: vaultpki.FormDER})
	must(t, err)
	_, err = io.Copy(io.Discard, body)
	must(t, err)
	must(t, body.Close())

	stale, err := v.server.ClientWithToken("hvs.no-such-token")
	must(t, err)
	_, err = v.adapter(stale).TidyStatus(v.ctx, v.mount)
	var denied *pki.PermissionError
	if !errors.As(err, &denied) || !denied.InvalidToken || strings.Contains(err.Error(), "hvs.") {
		t.Errorf("unknown token: %v", err)
	}

	must(t, v.server.Seal(v.ctx))
	if _, err := v.vault.Mounts(v.ctx); !errors.Is(err, pki.ErrSealed) {
		t.Errorf("sealed: %v", err)
	}
	if health, err := v.vault.Health(v.ctx); err != nil || !health.Sealed {
		t.Errorf("sealed: %+v, %v", health, err)
	}
	if _, err := v.vault.ClusterID(v.ctx); !errors.Is(err, pki.ErrSealed) {
		t.Errorf("sealed: %v", err)
	}
	must(t, v.server.Stop(v.ctx))
	if _, err := v.vault.Health(v.ctx); !errors.Is(err, pki.ErrUnreachable) {
		t.Errorf("gone: %v", err)
	}
}

func wantDenied(t *testing.T, err error, capability, path string) {
	t.Helper()
	want := fmt.Sprintf("permission denied: needs capability %q on path %q", capability, path)
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %s", err, want)
	}
}

// A list over raft's limit is told from every other failure, with the limit.
func TestRotateOverTheLimit(t *testing.T) {
	t.Parallel()
	ctx := serverstest.Context(t)
	server, err := serverstest.New(t).StartVault(ctx, servers.VaultOptions{Storage: servers.RaftStorage{MaxEntrySize: 65536}})
	must(t, err)
	v := &tidyVault{t: t, ctx: ctx, server: server}
	v.vault = v.adapter(server.Client())
	must(t, server.Client().Sys().MountWithContext(ctx, "pki", &api.MountInput{Type: "pki"}))
	v.write("pki/root/generate/internal", map[string]any{"common_name": "root", "key_type": "ec", "key_bits": 256, "issuer_name": "root", "ttl": "1h"})
	v.write("pki/roles/brief", map[string]any{"allow_any_name": true, "enforce_hostnames": false, "key_type": "ec", "key_bits": 256, "max_ttl": "30m"})
	v.write("pki/config/crl", map[string]any{"auto_rebuild": true})
	v.revoke(1700, "30m")
	err = v.vault.Rotate(ctx, pki.Mount{Path: "pki"})
	var tooLarge *pki.TooLargeError
	if !errors.As(err, &tooLarge) || tooLarge.Limit != 65536 {
		t.Errorf("error %v", err)
	}
	storage, err := v.vault.Storage(ctx)
	must(t, err)
	if storage.Raft.MaxEntrySize != 65536 {
		t.Errorf("storage %+v", storage)
	}
}
