package watch_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkiwarden/pkiwarden/crl/watch"
	"github.com/pkiwarden/pkiwarden/crl/watch/watchtest"
	"github.com/pkiwarden/pkiwarden/pki"
)

// gone tells of mounts and lists that go, over restarts.
type gone struct {
	*bench
	cells *cells
}

func (g *gone) mount(path string, entries int) pki.Mount {
	m := g.vault.Mount(path)
	g.vault.Issuer(m, "ca", watchtest.IssuerOptions{})
	g.publish(m, "ca", entries)
	return m
}

// restart ends the instance and begins another one, the given time later.
func (g *gone) restart(after time.Duration, edit func(*watch.Options)) {
	g.Helper()
	g.watch.Flush(g.Context())
	time.Sleep(after)
	vault := g.vault
	g.bench = newBench(g.T, func(o *watch.Options) {
		even(o)
		o.State, o.Vault = g.cells, vault
		if edit != nil {
			edit(o)
		}
	})
	g.vault = vault
}

func (g *gone) step(d time.Duration, want ...string) {
	g.Helper()
	if err := g.run(d); err != nil {
		g.Fatal(err)
	}
	g.wantRules(want...)
}

func goneStory(t *testing.T, name string, story func(g *gone)) {
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := newCells()
			g := &gone{cells: c, bench: newBench(t, func(o *watch.Options) { even(o); o.State = c })}
			g.mount("stays", 1)
			story(g)
		})
	})
}

// TestGoneOverRestarts: a mount that is gone is said to be whoever looks, and
// when it went.
func TestGoneOverRestarts(t *testing.T) {
	const hidden, replaced = "unknown crl-vanished: mount other", "warning crl-vanished: mount other"
	stamp := func(at time.Time) string { return at.UTC().Format(time.RFC3339) }
	goneStory(t, "before a restart", func(g *gone) {
		m := g.mount("other", 1)
		g.step(12 * time.Minute)
		g.vault.Hide(m, true)
		g.step(3*time.Minute, hidden)
		evidence := g.findings[0].Evidence
		for range 3 {
			g.restart(time.Hour, nil)
			g.step(3*time.Minute, hidden)
			if got := g.findings[0].Evidence; got != evidence || !strings.HasPrefix(got, "CRLs it had: 1; last seen at ") {
				t.Errorf("%s, and before %s", got, evidence)
			}
		}
		g.vault.Hide(m, false)
		g.publish(m, "ca", 1)
		g.step(3 * time.Minute)
		g.restart(0, nil)
		g.step(3 * time.Minute)
		g.vault.Unmount(m)
		g.step(3*time.Minute, hidden)
		g.restart(23*time.Hour, nil)
		g.step(3*time.Minute, hidden)
		time.Sleep(time.Hour)
		g.publish(pki.Mount{Path: "stays", UUID: "uuid-0-stays"}, "ca", 1)
		g.step(3 * time.Minute)
	})
	goneStory(t, "while nobody looks", func(g *gone) {
		m := g.mount("other", 1)
		g.step(12 * time.Minute)
		seen := time.Now()
		g.watch.Flush(t.Context())
		g.vault.Unmount(m)
		g.restart(40*time.Hour, nil)
		missed := time.Now()
		g.publish(pki.Mount{Path: "stays", UUID: "uuid-0-stays"}, "ca", 1)
		g.step(3*time.Minute, hidden)
		var last, at time.Time
		parts := strings.Fields(g.findings[0].Evidence) // CRLs it had: 1; last seen at T, missed at T
		last, _ = time.Parse(time.RFC3339, strings.TrimSuffix(parts[7], ","))
		at, _ = time.Parse(time.RFC3339, parts[10])
		if late := seen.Sub(last); late < 0 || late > 2*time.Minute {
			t.Errorf("last seen %s, want about %s", last, stamp(seen))
		}
		if late := at.Sub(missed); late < -time.Second || late > 2*time.Minute {
			t.Errorf("missed %s, want about %s", at, stamp(missed))
		}
	})
	goneStory(t, "crashed", func(g *gone) {
		m := g.mount("other", 1)
		g.step(12 * time.Minute)
		g.vault.Unmount(m)
		second := g.another(g.cells) // nobody has flushed
		if err := second.run(3 * time.Minute); err != nil {
			t.Fatal(err)
		}
		second.wantRules(hidden)
	})
	goneStory(t, "another in its place, while nobody looks", func(g *gone) {
		m := g.mount("other", 1)
		g.step(12 * time.Minute)
		g.vault.Unmount(m)
		g.mount("other", 1)
		g.restart(time.Hour, nil)
		g.step(3*time.Minute, replaced)
	})
	goneStory(t, "another in its place, later", func(g *gone) {
		m := g.mount("other", 1)
		g.step(12 * time.Minute)
		g.vault.Unmount(m)
		g.step(10*time.Minute, hidden)
		g.mount("other", 1)
		g.step(3*time.Minute, replaced)
		g.restart(time.Minute, nil)
		g.step(3*time.Minute, replaced)
	})
	goneStory(t, "another in its place, which goes too", func(g *gone) {
		m := g.mount("other", 1)
		g.step(12 * time.Minute)
		g.vault.Unmount(m)
		g.step(10*time.Minute, hidden)
		m = g.mount("other", 1)
		g.step(3*time.Minute, replaced)
		g.vault.Unmount(m)
		for range 5 {
			g.step(3*time.Minute, hidden)
		}
	})
	goneStory(t, "moved while nobody looks", func(g *gone) {
		m := g.mount("other", 1)
		g.step(12 * time.Minute)
		g.vault.Move(m, "elsewhere")
		g.restart(time.Hour, nil)
		g.step(3 * time.Minute)
	})
	goneStory(t, "no longer wanted", func(g *gone) {
		m := g.mount("other", 1)
		g.mount("third", 1)
		g.step(12 * time.Minute)
		g.vault.Unmount(m)
		g.restart(time.Hour, func(o *watch.Options) { o.Mounts = []string{"stays"} })
		g.step(3 * time.Minute)
		g.restart(time.Hour, nil) // and is forgotten
		g.step(3 * time.Minute)
	})
	goneStory(t, "an issuer", func(g *gone) {
		m := g.mount("other", 40)
		g.vault.Issuer(m, "two", watchtest.IssuerOptions{})
		g.publish(m, "two", 3)
		began := time.Now().Truncate(time.Second)
		g.step(12 * time.Minute)
		g.vault.RemoveIssuer(m, "ca")
		const list = "warning crl-vanished: mount other, issuer ca"
		g.step(3*time.Minute, list)
		evidence := g.findings[0].Evidence
		if want := "its CRL had 40 entries and nextUpdate " + stamp(began.Add(72*time.Hour)) + "; last seen at "; !strings.HasPrefix(evidence, want) {
			t.Errorf("%s, want %s", evidence, want)
		}
		for range 3 {
			g.restart(100*time.Minute, nil)
			g.step(10*time.Minute, list)
			if got := g.findings[0].Evidence; got != evidence {
				t.Errorf("%s, and before %s", got, evidence)
			}
		}
		g.watch.Flush(t.Context())
		g.vault.RemoveIssuer(m, "two") // while nobody looks, for long
		g.restart(40*time.Hour, nil)
		g.publish(pki.Mount{Path: "stays", UUID: "uuid-0-stays"}, "ca", 1)
		g.step(10*time.Minute, "warning crl-vanished: mount other, issuer two")
		if got := g.findings[0].Evidence; !strings.HasPrefix(got, "its CRL had 3 entries and ") {
			t.Error(got)
		}
	})
}

// TestSightingsRecord is written when it changes and at the end; what is not
// readable is a finding and stays as it is.
func TestSightingsRecord(t *testing.T) {
	const finding = "warning crl-history-unreadable: Vault"
	goneStory(t, "rarely", func(g *gone) {
		g.step(12 * time.Minute)
		before := g.cells.countOf(mountsKey)
		if before < 1 || before > 3 {
			t.Errorf("%d writes at the start", before)
		}
		g.step(3 * time.Hour)
		if n := g.cells.countOf(mountsKey) - before; n < 2 || n > 4 {
			t.Errorf("%d writes in three hours without a change", n)
		}
		before = g.cells.countOf(mountsKey)
		g.watch.Flush(t.Context())
		g.watch.Flush(t.Context())
		if n := g.cells.countOf(mountsKey) - before; n != 1 {
			t.Errorf("%d writes at the end", n)
		}
	})
	for name, damaged := range map[string]string{
		"no JSON": "{", "another version": `{"version":99,"mounts":[]}`, "no version": `{}`, "no mounts": `{"version":1}`,
		"a mount without a path": `{"version":1,"mounts":[{"seen":1}]}`,
	} {
		goneStory(t, name, func(g *gone) {
			g.cells.set(mountsKey, damaged)
			g.step(time.Hour, finding)
			g.wantText("delete the record to begin anew")
			g.wantText(`state "crlmounts-cluster-1-all"`)
			g.watch.Flush(t.Context())
			if got := g.cells.get(mountsKey); got != damaged || g.cells.countOf(mountsKey) != 0 {
				t.Errorf("the record is %q after %d writes", got, g.cells.countOf(mountsKey))
			}
			g.cells.set(mountsKey, `{"version":1,"mounts":[{"path":"away","uuid":"x","seen":1,"crls":7}]}`) // repaired
			g.step(20*time.Minute, "unknown crl-vanished: mount away")
			g.wantText("CRLs it had: 7; last seen at 1970-01-01T00:00:01Z")
		})
	}
	goneStory(t, "damaged later", func(g *gone) {
		g.step(12 * time.Minute)
		g.cells.set(mountsKey, "{")
		g.mount("new", 1)
		g.step(20*time.Minute, finding)
		g.watch.Flush(t.Context())
		if got := g.cells.get(mountsKey); got != "{" {
			t.Errorf("the record is %q", got)
		}
	})
	goneStory(t, "somebody else's", func(g *gone) {
		g.step(12 * time.Minute)
		g.cells.set(mountsKey, fmt.Sprintf(`{"version":1,"mounts":[{"path":"theirs","uuid":"x","seen":%d}]}`, time.Now().Unix()))
		g.mount("new", 1)
		g.step(20*time.Minute, "unknown crl-vanished: mount theirs")
		for _, part := range []string{`"theirs"`, `"stays"`, `"new"`} {
			if got := g.cells.get(mountsKey); !strings.Contains(got, part) {
				t.Errorf("%s is not in %s", part, got)
			}
		}
	})
	goneStory(t, "cannot be reached", func(g *gone) {
		g.step(12 * time.Minute)
		g.cells.fail(errors.New("connection refused"))
		g.mount("new", 1)
		g.step(20*time.Minute, "warning crl-history-unreadable: mount new") // once is enough
		g.cells.fail(nil)
		g.step(12 * time.Minute)
	})
	goneStory(t, "is bounded", func(g *gone) {
		var all []pki.Mount
		for n := range 900 {
			all = append(all, g.vault.Mount(fmt.Sprintf("department-%03d/%s", n, strings.Repeat("x", 20))))
		}
		g.once()
		g.watch.Flush(t.Context())
		for _, m := range all[:300] {
			g.vault.Unmount(m)
		}
		g.once()
		n := 0
		for _, f := range g.findings {
			if f.Rule == "crl-vanished" {
				n++
			}
		}
		if n != 256 {
			t.Errorf("%d mounts are gone", n)
		}
		g.watch.Flush(t.Context())
		record := g.cells.get(mountsKey)
		if len(record) > 65536 || len(record) < 65000 || strings.Count(record, `"gone"`) != 256 || !json.Valid([]byte(record)) {
			t.Errorf("%d bytes, %d gone", len(record), strings.Count(record, `"gone"`))
		}
	})
}
