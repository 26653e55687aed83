package main

import (
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/k8scsr"
	"github.com/pkiwarden/pkiwarden/k8scsr/issuer"
)

func leafUntil(end time.Time) *x509.Certificate {
	return &x509.Certificate{Raw: []byte(end.String()), NotBefore: end.Add(-24 * time.Hour), NotAfter: end}
}

var (
	oldLeaf = leafUntil(time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC))
	newLeaf = leafUntil(time.Date(2026, 3, 3, 12, 0, 0, 0, time.UTC))
)

// What became of each certificate, in a table, in the exit code and in what is
// left to do.
func TestRenewVerdict(t *testing.T) {
	renewal := func(edit func(*issuer.Renewal)) issuer.Renewal {
		r := issuer.Renewal{Certificate: "vault", Namespace: "vault", Secret: "vault-tls", Observed: true, Before: oldLeaf, After: oldLeaf,
			Step: k8scsr.Step{Kind: k8scsr.Nothing, Reason: "good until tomorrow"}}
		edit(&r)
		return r
	}
	const head = "CERTIFICATE  SECRET           RENEWED  VALID UNTIL           REASON\n"
	for _, c := range []struct {
		name  string
		edit  func(*issuer.Renewal)
		dry   bool
		code  int
		err   string
		hint  string
		table string
	}{
		{name: "not due", edit: func(*issuer.Renewal) {}, table: "vault        vault/vault-tls  no       2026-03-02T12:00:00Z  good until tomorrow\n"},
		{name: "renewed", edit: func(r *issuer.Renewal) { r.After = newLeaf }, table: "vault        vault/vault-tls  yes      2026-03-03T12:00:00Z  good until tomorrow\n"},
		{name: "held back", edit: func(r *issuer.Renewal) {
			r.Needed, r.Step.Reason = "it expired", "six requests failed"
			r.Findings = []k8scsr.Finding{{Remedy: "ask less"}, {Remedy: "ask less"}, {}}
		}, code: 2, err: "certificate vault is not renewed: six requests failed", hint: "vault: ask less", table: "vault        vault/vault-tls  no       2026-03-02T12:00:00Z  six requests failed\n"},
		{name: "waits", edit: func(r *issuer.Renewal) {
			r.Step = k8scsr.Step{Kind: k8scsr.AwaitApproval, Reason: "request x awaits approval"}
		}, code: 2, err: "certificate vault is not renewed: not within 1m0s: request x awaits approval",
			hint: `the request of certificate vault stays; a running controller goes on with it, or "pkiwarden renew vault"`, table: "vault        vault/vault-tls  no       2026-03-02T12:00:00Z  request x awaits approval\n"},
		{name: "obstacle", edit: func(r *issuer.Renewal) { r.Obstructed, r.Step.Reason = true, "wrong type" }, dry: true, code: 2, err: "certificate vault is not renewed: wrong type",
			table: "vault        vault/vault-tls  no       2026-03-02T12:00:00Z  wrong type\n"},
		{name: "failed", edit: func(r *issuer.Renewal) { r.After, r.Before, r.Err = nil, nil, errors.New("a right is\nmissing") }, code: 2, err: "certificate vault: a right is\nmissing",
			table: "vault        vault/vault-tls  no       -            a right is; missing\n"},
		{name: "not looked at", edit: func(r *issuer.Renewal) {
			*r = issuer.Renewal{Certificate: "vault", Namespace: "vault", Secret: "vault-tls", Err: issuer.ErrUnfinished}
		}, dry: true, code: 3,
			err: "certificate vault: its state was not determined in time", table: "vault        vault/vault-tls  no       unknown      its state was not determined in time\n"},
		{name: "paused", edit: func(r *issuer.Renewal) {
			r.Needed, r.Paused, r.Step.Reason = "it expired", true, "paused by configuration"
		}, dry: true, code: 2, err: "certificate vault is not renewed: paused by configuration", hint: "vault: set paused: false in the configuration",
			table: "vault        vault/vault-tls  no       2026-03-02T12:00:00Z  paused by configuration\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			done := []issuer.Renewal{renewal(c.edit)}
			var exit *exitError
			err := renewVerdict(done, issuer.RenewRequest{DryRun: c.dry}, time.Minute)
			switch {
			case c.code == 0 && err != nil:
				t.Errorf("%v", err)
			case c.code != 0 && (!errors.As(err, &exit) || exit.code != c.code || exit.Error() != c.err || strings.Join(exit.hints, "|") != c.hint):
				t.Errorf("%v, want %d %q, hint %q", err, c.code, c.err, c.hint)
			}
			var out strings.Builder
			if err := writeRenewals(&out, outputTable, done, false); err != nil {
				t.Fatal(err)
			}
			_, rows, _ := strings.Cut(out.String(), "\n")
			if head := strings.Replace(head, "VALID UNTIL           ", "VALID UNTIL  ", 1); c.name == "failed" && out.String() != head+c.table {
				t.Errorf("have\n%swant\n%s", out.String(), head+c.table)
			} else if rows != c.table {
				t.Errorf("have\n%swant\n%s", rows, c.table)
			}
		})
	}
}

// TestRenewDryRunForAPerson: the marks of diff, the reason, and the end of what
// is live.
func TestRenewDryRunForAPerson(t *testing.T) {
	done := []issuer.Renewal{
		{Certificate: "vault", Namespace: "vault", Secret: "vault-tls", Observed: true, Before: oldLeaf, After: oldLeaf, Needed: "a name is missing",
			Step: k8scsr.Step{Kind: k8scsr.StoreNextKey, Reason: "a name is missing"}, Differences: []k8scsr.Difference{
				{What: "DNS name", Value: "a.example", Change: "kept"}, {What: "DNS name", Value: "b.example", Change: "added"}, {What: "key", Value: "RSA 2048", Change: "removed"},
				{What: "trusted CA", Value: "CN=old", Change: "kept", Note: "stays until tomorrow"}}},
		{Certificate: "new", Namespace: "vault", Secret: "new-tls", Observed: true, Needed: "there is no certificate yet", Step: k8scsr.Step{Kind: k8scsr.Nothing, Reason: "paused by configuration"}},
		{Certificate: "good", Namespace: "consul", Secret: "good-tls", Observed: true, Before: newLeaf, After: newLeaf, Step: k8scsr.Step{Kind: k8scsr.Nothing, Reason: "good until 2026-03-03"}},
	}
	var out strings.Builder
	if err := writeRenewals(&out, outputTable, done, true); err != nil {
		t.Fatal(err)
	}
	const want = `vault (Secret vault/vault-tls): valid until 2026-03-02T12:00:00Z, would be renewed: a name is missing
  = DNS name    a.example
  + DNS name    b.example
  - key         RSA 2048
  = trusted CA  CN=old: stays until tomorrow
new (Secret vault/new-tls): is to be renewed (there is no certificate yet), and next is: paused by configuration
good (Secret consul/good-tls): valid until 2026-03-03T12:00:00Z, would not be renewed now: good until 2026-03-03
`
	if out.String() != want {
		t.Errorf("have\n%s\nwant\n%s", out.String(), want)
	}
	out.Reset()
	if err := writeRenewals(&out, outputJSON, done[2:], false); err != nil {
		t.Fatal(err)
	}
	const json = `[{"certificate":"good","secret":"consul/good-tls","renewed":false,"needed":"","reason":"good until 2026-03-03",` +
		`"observed":true,"before":{"notBefore":"2026-03-02T12:00:00Z","notAfter":"2026-03-03T12:00:00Z","sha256":"ID"},"after":{"notBefore":"2026-03-02T12:00:00Z","notAfter":"2026-03-03T12:00:00Z","sha256":"ID"}}]`
	if got := strings.ReplaceAll(strings.TrimSpace(out.String()), k8scsr.LeafID(newLeaf), "ID"); got != json {
		t.Errorf("have\n%s\nwant\n%s", got, json)
	}
}
