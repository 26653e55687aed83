package watch_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkiwarden/pkiwarden/crl/watch"
	"github.com/pkiwarden/pkiwarden/crl/watch/watchtest"
	"github.com/pkiwarden/pkiwarden/pki"
)

// TestLoggedOut: a token that Vault does not take is not told of each mount,
// lists are measured all the same, and with another one all is looked at anew.
func TestLoggedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := false
		var log bytes.Buffer
		counted := &fleet{}
		b := newBench(t, func(o *watch.Options) {
			even(o)
			o.LoggedOut = func() bool { return out }
			o.Log = slog.New(slog.NewTextHandler(&log, nil))
			o.Fleet = sized{counted}
		})
		var mounts []pki.Mount
		for _, path := range []string{"a", "b", "c"} {
			m := b.vault.Mount(path)
			b.vault.Issuer(m, "ca", watchtest.IssuerOptions{})
			b.publish(m, "ca", 1)
			mounts = append(mounts, m)
		}
		if err := b.run(30 * time.Minute); err != nil {
			t.Fatal(err)
		}
		b.wantRules()

		// As Vault 1.21 says it, and before the session has found out.
		invalid := &pki.PermissionError{Path: "x", Capability: "read", InvalidToken: true}
		b.vault.FailMounts(invalid)
		counted.err = invalid
		for _, m := range mounts {
			b.vault.Set(m, pki.CRLConfig{}, pki.TidyStatus{}, invalid)
			b.publish(m, "ca", 2)
		}
		_ = b.run(30 * time.Minute)
		b.wantRules()
		b.wantSeries("pkiwarden_crl_entries", "issuer=ca,mount=a 2", "issuer=ca,mount=b 2", "issuer=ca,mount=c 2")

		// As older versions say it.
		out = true
		denied := &pki.PermissionError{Path: "x", Capability: "read"}
		b.vault.FailMounts(denied)
		counted.err = denied
		for _, m := range mounts {
			b.vault.Set(m, pki.CRLConfig{}, pki.TidyStatus{}, denied)
		}
		_ = b.run(30 * time.Minute)
		b.wantRules()
		if strings.Contains(log.String(), "could not be counted") {
			t.Errorf("log:\n%s", log.String())
		}

		// Another token.
		out = false
		b.vault.FailMounts(nil)
		for _, m := range mounts {
			b.vault.Set(m, pki.CRLConfig{Disabled: true}, pki.TidyStatus{}, nil)
		}
		b.watch.Again()
		if _, err := b.watch.OnceUntil(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.wantRules("warning crl-disabled: mount a", "warning crl-disabled: mount b", "warning crl-disabled: mount c")

		// A right that is missing is said, and looked at with the next token.
		b.vault.FailIssuers(mounts[0], denied)
		for _, m := range mounts {
			b.vault.Set(m, pki.CRLConfig{}, pki.TidyStatus{}, denied)
		}
		_ = b.run(30 * time.Minute)
		b.wantRules("unknown crl-unreadable: mount a", "warning crl-disabled: mount a")
		b.vault.FailIssuers(mounts[0], nil)
		for _, m := range mounts {
			b.vault.Set(m, pki.CRLConfig{Disabled: true}, pki.TidyStatus{}, nil)
		}
		b.watch.Again()
		if _, err := b.watch.OnceUntil(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.wantRules("warning crl-disabled: mount a", "warning crl-disabled: mount b", "warning crl-disabled: mount c")
	})
}
