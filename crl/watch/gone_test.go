package watch_test

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkiwarden/pkiwarden/crl/watch"
	"github.com/pkiwarden/pkiwarden/crl/watch/watchtest"
	"github.com/pkiwarden/pkiwarden/pki"
)

// TestNoMount: where nothing is watched, silence would look like health.
func TestNoMount(t *testing.T) {
	const none, some = "unknown crl-no-mount: Vault", "warning crl-no-mount: Vault"
	for _, c := range []struct {
		name     string
		mounts   []string
		patterns []string
		refused  []pki.RefusedMount
		want     []string
		evidence string
	}{
		{name: "none is shown", want: []string{none}, evidence: "Vault shows 0 PKI mounts; crl.mounts is not set"},
		{name: "a typo", mounts: []string{"pki", "pki_int"}, patterns: []string{"pki-int"}, want: []string{none}, evidence: `Vault shows 2 PKI mounts, pki, pki_int; crl.mounts is ["pki-int"]`},
		{name: "many", mounts: []string{"a", "b", "c", "d", "e", "f"}, patterns: []string{"!*"}, want: []string{none}, evidence: "Vault shows 6 PKI mounts, a, b, c, d, e …"},
		{name: "one is selected", mounts: []string{"pki", "pki_int"}, patterns: []string{"pki"}},
		{name: "one of several is a typo", mounts: []string{"p3", "p33"}, patterns: []string{"p3", "pkii", "p3"}, want: []string{some}, evidence: `no mount matches "pkii"; Vault shows 2 PKI mounts, p3, p33`},
		{name: "what is to be left out is a typo", mounts: []string{"pki", "pki-test"}, patterns: []string{"!pki_test"}, want: []string{some}, evidence: `no mount matches "!pki_test"; Vault shows 2 PKI mounts, pki, pki-test`},
		{name: "two typos", mounts: []string{"pki"}, patterns: []string{"pki", "a*", "!b"}, want: []string{some}, evidence: `no mount matches "a*", "!b"; Vault`},
		{name: "what is left out is there", mounts: []string{"pki", "pki-test"}, patterns: []string{"pki*", "!pki-t*"}},
		{name: "what is taken in is left out", mounts: []string{"pki", "pki-test"}, patterns: []string{"pki", "pki-test", "!*test"}},
		{name: "a pattern for one that is refused", mounts: []string{"pki"}, refused: []pki.RefusedMount{{Name: "a..b", Reason: "why"}}, patterns: []string{"pki", "a*"}, want: []string{"unknown crl-mount-refused: mount a..b"}},
		{name: "one is refused", refused: []pki.RefusedMount{{Name: `"a/../b"`, Reason: "why"}}, want: []string{`unknown crl-mount-refused: mount "a/../b"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, func(o *watch.Options) { even(o); o.Mounts = c.patterns })
				for _, path := range c.mounts {
					m := b.vault.Mount(path)
					b.vault.Issuer(m, "ca", watchtest.IssuerOptions{})
					b.publish(m, "ca", 1)
				}
				b.vault.Refuse(c.refused...)
				if err := b.run(3 * time.Minute); err != nil {
					t.Fatal(err)
				}
				b.wantRules(c.want...)
				if c.evidence != "" {
					b.wantText(c.evidence)
				}
			})
		})
	}
	t.Run("as long as it is so", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, func(o *watch.Options) { even(o); o.Mounts = []string{"pki", "later"} })
			b.vault.Issuer(b.vault.Mount("pki"), "ca", watchtest.IssuerOptions{})
			m := pki.Mount{Path: "pki", UUID: "uuid-0-pki"}
			b.publish(m, "ca", 1)
			for range 30 {
				if err := b.run(time.Hour); err != nil {
					t.Fatal(err)
				}
				b.wantRules(some)
			}
			b.vault.Issuer(b.vault.Mount("later"), "ca", watchtest.IssuerOptions{})
			b.publish(pki.Mount{Path: "later", UUID: "uuid-1-later"}, "ca", 1)
			if err := b.run(3 * time.Minute); err != nil {
				t.Fatal(err)
			}
			b.wantRules()
		})
	})
	t.Run("mounts cannot be listed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, even)
			b.vault.FailMounts(&pki.PermissionError{})
			if err := b.run(3 * time.Minute); err == nil {
				t.Error("no error")
			}
			b.wantRules("unknown crl-unreadable: Vault")
		})
	})
}

// TestVanishedIsSaid: a list or a mount that is gone is said to be, for a day or
// until it is back; a restart forgets no list.
func TestVanishedIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		c := newCells()
		b := newBench(t, func(o *watch.Options) { even(o); o.State = c; o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
		a, other := b.vault.Mount("a"), b.vault.Mount("other")
		b.vault.Issuer(a, "one", watchtest.IssuerOptions{})
		b.vault.Issuer(a, "two", watchtest.IssuerOptions{})
		b.vault.Issuer(other, "ca", watchtest.IssuerOptions{})
		b.vault.Issuer(a, "never measured", watchtest.IssuerOptions{})
		b.vault.FailCRL(a, "never measured", errors.New("status 500"))
		b.publish(a, "one", 1)
		b.publish(a, "two", 1)
		b.publish(other, "ca", 1)
		step := func(d time.Duration, want ...string) {
			t.Helper()
			if err := b.run(d); err != nil {
				t.Fatal(err)
			}
			b.wantRules(want...)
		}
		step(12*time.Minute, "unknown crl-unreadable: mount a, issuer never measured")
		const list, mount = "warning crl-vanished: mount a, issuer two", "unknown crl-vanished: mount other"

		b.vault.RemoveIssuer(a, "never measured")
		b.vault.HideIssuer(a, "two", true)
		step(12*time.Minute, list)
		if !strings.Contains(log.String(), `level=WARN msg="CRL is no longer there: its issuer is gone, or has no key" mount=a issuer=two`) {
			t.Error(log.String())
		}
		second := b.another(c)
		if err := second.run(2 * time.Minute); err != nil {
			t.Fatal(err)
		}
		second.wantRules(list)
		time.Sleep(23 * time.Hour)
		step(10*time.Minute, list)
		time.Sleep(time.Hour)
		step(10 * time.Minute)

		b.publish(a, "one", 1)
		b.publish(other, "ca", 1)
		b.vault.HideIssuer(a, "two", false)
		b.publish(a, "two", 1)
		step(3 * time.Minute)
		b.vault.HideIssuer(a, "two", true)
		step(3*time.Minute, list)
		b.vault.HideIssuer(a, "two", false)
		b.publish(a, "two", 1)
		step(3 * time.Minute)

		b.vault.Hide(other, true)
		step(3*time.Minute, mount)
		if !strings.Contains(log.String(), `level=WARN msg="PKI mount is no longer seen" mount=other crls=1`) {
			t.Error(log.String())
		}
		b.vault.Hide(other, false)
		step(3 * time.Minute)
		b.vault.Unmount(other)
		step(10*time.Minute, mount)
		time.Sleep(23 * time.Hour)
		b.publish(a, "one", 1)
		b.publish(a, "two", 1)
		step(10*time.Minute, mount)
		time.Sleep(time.Hour)
		step(10 * time.Minute)
	})
}

// TestMoved: a mount under another path is no loss, one with the same path and
// another identity is.
func TestMoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, even)
		m := b.vault.Mount("pki")
		b.vault.Issuer(m, "ca", watchtest.IssuerOptions{})
		b.publish(m, "ca", 1)
		if err := b.run(3 * time.Minute); err != nil {
			t.Fatal(err)
		}
		moved := b.vault.Move(m, "elsewhere")
		if err := b.run(3 * time.Minute); err != nil {
			t.Fatal(err)
		}
		b.wantRules()
		b.vault.Unmount(moved)
		anew := b.vault.Mount("elsewhere")
		b.vault.Issuer(anew, "ca", watchtest.IssuerOptions{})
		b.publish(anew, "ca", 1)
		if err := b.run(3 * time.Minute); err != nil {
			t.Fatal(err)
		}
		b.wantRules("warning crl-vanished: mount elsewhere")
	})
}

// TestVanishedIsBounded: issuers that come and go do not fill memory or record.
func TestVanishedIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCells()
		b, m := keeping(t, c)
		b.publish(m, "ca", 1)
		for n := range 300 {
			name := fmt.Sprintf("guest-%03d", n)
			b.vault.Issuer(m, name, watchtest.IssuerOptions{})
			b.publish(m, name, 1)
			b.once()
			b.vault.RemoveIssuer(m, name)
			b.once()
		}
		if n := len(b.findings); n != 256 {
			t.Errorf("%d findings", n)
		}
	})
}

// TestJustDeleted: of a mount that went since the last look for mounts it is said
// that it is gone, and not that a right is missing, as Vault answers then. A right
// that is missing is said at once.
func TestJustDeleted(t *testing.T) {
	denied := &pki.PermissionError{Path: "pki/issuers", Capability: "list"}
	for _, gone := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, even)
			var mounts []pki.Mount
			for n := range 8 { // of which some are looked at before mounts are looked for
				m := b.vault.Mount(fmt.Sprint("m", n))
				b.vault.Issuer(m, "ca", watchtest.IssuerOptions{})
				b.publish(m, "ca", 1)
				mounts = append(mounts, m)
			}
			if err := b.run(10 * time.Minute); err != nil {
				t.Fatal(err)
			}
			b.wantRules()
			for _, m := range mounts {
				b.vault.FailIssuers(m, denied)
				b.vault.FailCRL(m, "ca", denied)
				b.vault.Hide(m, gone)
			}
			said := map[string]bool{}
			for end := time.Now().Add(5 * time.Minute); time.Now().Before(end); time.Sleep(time.Second) {
				if _, err := b.watch.OnceUntil(t.Context()); err != nil {
					t.Fatal(err)
				}
				for _, f := range b.findings {
					said[f.Rule] = true
				}
			}
			if said["crl-vanished"] != gone || said["crl-unreadable"] == gone {
				t.Errorf("gone %t: said %v", gone, said)
			}
		})
	}
}

// TestDisabled: revocations go nowhere, and each list is empty and valid.
func TestDisabled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, even)
		m, other := b.vault.Mount("pki"), b.vault.Mount("other")
		for _, m := range []pki.Mount{m, other} {
			b.vault.Issuer(m, "ca", watchtest.IssuerOptions{})
			b.publish(m, "ca", 0)
		}
		b.vault.Set(m, pki.CRLConfig{Disabled: true}, pki.TidyStatus{}, nil)
		if err := b.run(3 * time.Minute); err != nil {
			t.Fatal(err)
		}
		b.wantRules("warning crl-disabled: mount pki")
		b.vault.Set(m, pki.CRLConfig{}, pki.TidyStatus{}, nil)
		b.publish(m, "ca", 1) // as Vault does then
		if err := b.run(3 * time.Minute); err != nil {
			t.Fatal(err)
		}
		b.wantRules()
	})
}
