package watch_test

import (
	"crypto/x509"
	"errors"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkiwarden/pkiwarden/crl/watch"
	"github.com/pkiwarden/pkiwarden/crl/watch/watchtest"
	"github.com/pkiwarden/pkiwarden/pki"
)

// revocations are what a test's list holds: serial numbers, and how long ago
// each was revoked when the test began.
type revocations map[int64]time.Duration

// lossBench is a bench on one list, whose contents are set by hand.
type lossBench struct {
	*bench
	mount  pki.Mount
	cells  *cells
	began  time.Time
	number int64
}

func newLossBench(t *testing.T, edit func(*watch.Options)) *lossBench {
	c := newCells()
	b := newBench(t, func(o *watch.Options) {
		even(o)
		o.State = c
		if edit != nil {
			edit(o)
		}
	})
	m := b.vault.Mount("pki")
	b.vault.Issuer(m, "ca", watchtest.IssuerOptions{})
	b.vault.Set(m, pki.CRLConfig{AutoRebuild: true}, pki.TidyStatus{State: pki.TidyInactive}, nil)
	return &lossBench{bench: b, mount: m, cells: c, began: time.Now().Truncate(time.Second), number: 10}
}

// build makes the next list, now.
func (b *lossBench) build(r revocations) { b.number++; b.buildAs(b.number, time.Now(), r) }

func (b *lossBench) buildAs(number int64, at time.Time, r revocations) {
	at = at.Truncate(time.Second)
	template := &x509.RevocationList{Number: big.NewInt(number), ThisUpdate: at, NextUpdate: at.Add(72 * time.Hour)}
	for _, serial := range slices.Sorted(maps.Keys(r)) {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: big.NewInt(1<<40 + serial), RevocationTime: b.began.Add(-r[serial])})
	}
	b.vault.Build(b.mount, "ca", template)
}

func (b *lossBench) step(d time.Duration, want ...string) {
	b.Helper()
	if err := b.run(d); err != nil {
		b.Fatal(err)
	}
	b.wantRules(want...)
}

// wantText is part of the summary or the evidence of the first finding.
func (b *bench) wantText(part string) {
	b.Helper()
	if len(b.findings) == 0 || !strings.Contains(b.findings[0].Summary+"\n"+b.findings[0].Evidence, part) {
		b.Errorf("%q is not in %+v", part, b.findings)
	}
}

// at has the test's list with n entries that were revoked that long before it
// began.
func at(ago time.Duration, n int) revocations {
	r := revocations{}
	for i := range n {
		r[int64(ago/time.Second)*1000+int64(i)] = ago
	}
	return r
}

const (
	early   = "critical crl-removed-early: mount pki, issuer ca"
	assumed = "warning crl-removed-early: mount pki, issuer ca"
)

// TestRemovedEarly: entries that are gone although tidy, as far as it is known,
// leaves what is that young.
func TestRemovedEarly(t *testing.T) {
	const hour = time.Hour
	auto := func(buffer time.Duration) *pki.AutoTidy {
		return &pki.AutoTidy{Enabled: true, RevokedCerts: true, SafetyBuffer: buffer}
	}
	ran := func(ago, buffer time.Duration) *pki.TidyStatus {
		return &pki.TidyStatus{
			State: pki.TidyFinished, StartedAt: time.Now().Add(-ago - time.Minute), FinishedAt: time.Now().Add(-ago), RevokedCerts: true, SafetyBuffer: buffer,
		}
	}
	for _, c := range []struct {
		name     string
		age      time.Duration // of the entries, of which 5 of 7 go
		status   func() *pki.TidyStatus
		auto     *pki.AutoTidy
		denied   error
		own      watch.Tidying
		want     string
		evidence string
	}{
		{name: "no tidy is known", age: hour, want: assumed, evidence: "had 5 entries fewer and 0 more"},
		{name: "no tidy is known, and they were old", age: 30 * hour},
		{name: "nothing may be read", age: hour, denied: &pki.PermissionError{}, want: assumed, evidence: "one that leaves what was revoked within 24 h is assumed"},
		{name: "a tidy that removes certificates alone", age: hour, status: func() *pki.TidyStatus { s := ran(hour, hour); s.RevokedCerts = false; return s }, want: assumed},
		{name: "the last tidy leaves them", age: 30 * hour, status: func() *pki.TidyStatus { return ran(hour, 72*hour) }, want: early, evidence: "within 72 h here"},
		{name: "the last tidy does not", age: 30 * hour, status: func() *pki.TidyStatus { return ran(hour, 24*hour) }},
		{name: "auto-tidy leaves them", age: 30 * hour, auto: auto(72 * hour), want: early},
		{name: "auto-tidy does not", age: 30 * hour, auto: auto(24 * hour), status: func() *pki.TidyStatus { return ran(hour, 72*hour) }},
		{name: "auto-tidy would not, and is off", age: 30 * hour, auto: &pki.AutoTidy{RevokedCerts: true, SafetyBuffer: hour}, status: func() *pki.TidyStatus { return ran(hour, 72*hour) }, want: early},
		{name: "auto-tidy with a buffer of a second", age: hour, auto: auto(time.Second)},
		{name: "our own tidy leaves them", age: 30 * hour, own: watch.Tidying{SafetyBuffer: 72 * hour, Every: hour}, want: early},
		{name: "our own tidy does not", age: 30 * hour, own: watch.Tidying{SafetyBuffer: 24 * hour, Every: hour}},
		{name: "our own tidy is off", age: hour, own: watch.Tidying{SafetyBuffer: time.Second}, want: assumed},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newLossBench(t, func(o *watch.Options) { o.Tidy = c.own })
				status := pki.TidyStatus{State: pki.TidyInactive}
				if c.status != nil {
					status = *c.status()
				}
				b.vault.Set(b.mount, pki.CRLConfig{AutoRebuild: true}, status, c.denied)
				if c.auto != nil {
					b.vault.SetAutoTidy(b.mount, *c.auto)
				}
				b.build(at(c.age, 7))
				b.step(3 * time.Minute)
				b.build(at(c.age, 2))
				if c.want == "" {
					b.step(3 * time.Minute)
					return
				}
				b.step(3*time.Minute, c.want)
				b.wantText("At least 5 entries")
				b.wantText(c.evidence)
			})
		})
	}
}

// TestRestoredFromBackup: what was revoked after the backup is counted while the
// old list is served, over restarts, and after the next list is built.
func TestRestoredFromBackup(t *testing.T) {
	const (
		back = "critical crl-number-backwards: mount pki, issuer ca"
		old  = "warning crl-number-backwards: mount pki, issuer ca"
		lost = "At least 30 entries were removed"
	)
	synctest.Test(t, func(t *testing.T) {
		b := newLossBench(t, nil)
		before := at(time.Hour, 10)
		b.build(before)
		b.step(3 * time.Minute)
		backup := time.Now()
		time.Sleep(10 * time.Minute)
		after := maps.Clone(before)
		for n := range 30 {
			after[int64(n)] = b.began.Sub(time.Now().Add(-time.Duration(n) * time.Second).Truncate(time.Second))
		}
		b.number = 40
		b.build(after)
		b.step(3 * time.Minute)

		b.buildAs(11, backup, before) // restored
		b.step(2*time.Minute, back)
		b.wantText("at least 30 certificates that were revoked are ones that Vault no longer knows as revoked")
		b.wantText("but for any that have expired since, which cannot be told")
		b.wantText("at least 30 of them were revoked less than 24 h ago")
		b.watch.Flush(b.Context())
		second := b.another(b.cells)
		if err := second.run(2 * time.Minute); err != nil {
			t.Fatal(err)
		}
		second.wantRules(back)
		second.wantText("at least 30 certificates")

		b.number = 11
		b.build(before)
		b.step(3*time.Minute, old, early)
		b.findings = b.findings[1:]
		b.wantText(lost)
		b.wantText("the CRL number went backwards, as after a restore")
	})
	// What was revoked longer ago than tidy leaves it may be gone in any case.
	synctest.Test(t, func(t *testing.T) {
		b := newLossBench(t, func(o *watch.Options) { o.Tidy = watch.Tidying{SafetyBuffer: 24 * time.Hour, Every: time.Hour} })
		b.number = 40
		b.build(at(30*time.Hour, 40))
		b.step(3 * time.Minute)
		b.buildAs(11, b.began.Add(-time.Minute), at(30*time.Hour, 10))
		b.step(2*time.Minute, old)
		b.wantText("at least 30 certificates")
		b.wantText("Whether they have expired cannot be told")
	})
}

// TestDisabledIsNoLoss: the list of a mount that was disabled is empty for a
// reason that is said. What does not come back with it is lost.
func TestDisabledIsNoLoss(t *testing.T) {
	for back, want := range map[int]string{7: "", 4: assumed} {
		synctest.Test(t, func(t *testing.T) {
			b := newLossBench(t, nil)
			b.build(at(time.Hour, 7))
			b.step(3 * time.Minute)
			b.vault.Set(b.mount, pki.CRLConfig{AutoRebuild: true, Disabled: true}, pki.TidyStatus{State: pki.TidyInactive}, nil)
			b.build(nil)
			for range 30 {
				if err := b.run(10 * time.Second); err != nil {
					t.Fatal(err)
				}
				if len(b.findings) > 0 && b.findings[0].Rule != "crl-disabled" || len(b.findings) > 1 {
					t.Fatalf("%+v", b.findings)
				}
			}
			b.wantRules("warning crl-disabled: mount pki")
			b.vault.Set(b.mount, pki.CRLConfig{AutoRebuild: true}, pki.TidyStatus{State: pki.TidyInactive}, nil)
			b.build(at(time.Hour, back))
			if want == "" {
				b.step(5 * time.Minute)
				return
			}
			b.step(5*time.Minute, want)
			b.wantText("At least 3 entries")
		})
	}
}

// TestRemovedEarlyStays: what is built later hides nothing, nor does a restart;
// the finding ends when the entries are back, or after a day.
func TestRemovedEarlyStays(t *testing.T) {
	run := func(name string, story func(b *lossBench)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newLossBench(t, nil)
				b.vault.SetAutoTidy(b.mount, pki.AutoTidy{Enabled: true, RevokedCerts: true, SafetyBuffer: 72 * time.Hour})
				b.build(at(time.Hour, 14))
				b.step(10 * time.Minute)
				story(b)
			})
		})
	}
	run("the next revocations", func(b *lossBench) {
		b.build(at(time.Hour, 9))
		b.step(3*time.Minute, early)
		r := at(time.Hour, 9)
		for n := range 10 {
			r[int64(n)] = -time.Since(b.began) // one more, revoked now
			b.build(r)
			b.step(2*time.Minute, early)
			b.wantText("At least 5 entries")
		}
		time.Sleep(23 * time.Hour)
		b.step(10*time.Minute, early)
		time.Sleep(time.Hour)
		b.step(10 * time.Minute)
		r[99] = -time.Since(b.began)
		b.build(r) // and does not come back
		b.step(10 * time.Minute)
	})
	run("back again", func(b *lossBench) {
		b.build(at(time.Hour, 9))
		b.step(3*time.Minute, early)
		b.build(at(time.Hour, 12))
		b.step(3*time.Minute, early)
		b.wantText("At least 2 entries")
		b.build(at(time.Hour, 14))
		b.step(3 * time.Minute)
	})
	run("more is removed", func(b *lossBench) {
		b.build(at(time.Hour, 13))
		b.step(3*time.Minute, early)
		b.build(at(time.Hour, 3))
		b.step(3*time.Minute, early)
		b.wantText("At least 10 entries")
	})
	run("a tidy with another buffer afterwards", func(b *lossBench) {
		b.build(at(time.Hour, 9))
		b.step(3*time.Minute, early)
		b.vault.SetAutoTidy(b.mount, pki.AutoTidy{Enabled: true, RevokedCerts: true, SafetyBuffer: time.Second})
		b.step(30*time.Minute, early)
		b.build(at(time.Hour, 3)) // that one may have been tidy's
		b.step(3*time.Minute, early)
		b.wantText("At least 5 entries")
	})
	run("a tidy with another buffer just now", func(b *lossBench) {
		ran := pki.TidyStatus{State: pki.TidyFinished, StartedAt: time.Now(), FinishedAt: time.Now(), RevokedCerts: true, SafetyBuffer: time.Second}
		b.vault.Set(b.mount, pki.CRLConfig{AutoRebuild: true}, ran, nil)
		b.build(at(time.Hour, 9))
		for range 180 { // at no moment is it judged by what is no longer so
			b.step(time.Second)
		}
		b.wantSeries("pkiwarden_crl_entries", "issuer=ca,mount=pki 9")
	})
	run("a tidy that Vault has forgotten", func(b *lossBench) {
		b.vault.SetAutoTidy(b.mount, pki.AutoTidy{})
		short := pki.TidyStatus{State: pki.TidyFinished, StartedAt: time.Now(), FinishedAt: time.Now(), RevokedCerts: true, SafetyBuffer: time.Minute}
		b.vault.Set(b.mount, pki.CRLConfig{AutoRebuild: true}, short, nil)
		b.step(15 * time.Minute)
		b.vault.Set(b.mount, pki.CRLConfig{AutoRebuild: true}, pki.TidyStatus{State: pki.TidyInactive}, nil)
		b.build(at(time.Hour, 9))
		b.step(15 * time.Minute)
	})
	run("a restart", func(b *lossBench) {
		b.build(at(time.Hour, 9))
		b.step(3*time.Minute, early)
		b.watch.Flush(b.Context())
		second := b.another(b.cells)
		if err := second.run(3 * time.Minute); err != nil {
			b.Fatal(err)
		}
		second.wantRules(early)
		b.build(at(time.Hour, 14))
		if err := second.run(3 * time.Minute); err != nil {
			b.Fatal(err)
		}
		second.wantRules()
	})
	run("an old list in between", func(b *lossBench) {
		const backwards = "critical crl-number-backwards: mount pki, issuer ca"
		b.buildAs(9, b.began.Add(-time.Minute), at(time.Hour, 6)) // replayed
		b.step(5*time.Minute, backwards)
		b.build(at(time.Hour, 10))
		b.step(3*time.Minute, early)
		b.wantText("At least 4 entries")
	})
	run("an old list, and nothing lost", func(b *lossBench) {
		b.buildAs(9, b.began.Add(-time.Minute), at(time.Hour, 6))
		b.step(5*time.Minute, "critical crl-number-backwards: mount pki, issuer ca")
		r := at(time.Hour, 14)
		r[1] = -time.Since(b.began)
		b.build(r)
		b.step(3 * time.Minute)
		b.wantCounter("pkiwarden_crl_entries_added_total", 1)
		b.wantCounter("pkiwarden_crl_entries_removed_total", 0)
	})
	run("a list from the future in between", func(b *lossBench) {
		b.number++
		b.buildAs(b.number, time.Now().AddDate(9, 0, 0), at(time.Hour, 14))
		b.step(3*time.Minute, "warning crl-dates: mount pki, issuer ca")
		b.build(at(time.Hour, 14))
		b.step(3 * time.Minute)
		b.build(at(time.Hour, 9))
		b.step(3*time.Minute, early)
	})
	run("decided when Vault tells again", func(b *lossBench) {
		b.vault.Set(b.mount, pki.CRLConfig{}, pki.TidyStatus{}, errors.New("status 500"))
		b.build(at(time.Hour, 9))
		b.step(20*time.Minute, "unknown crl-unreadable: mount pki")
		b.vault.Set(b.mount, pki.CRLConfig{AutoRebuild: true}, pki.TidyStatus{}, nil)
		b.step(10*time.Minute, early)
	})
}

// TestRemovedUntidied: many entries are gone that are old enough for a tidy, and
// none is known.
func TestRemovedUntidied(t *testing.T) {
	const old, unknown = 100 * time.Hour, "unknown crl-removed-early: mount pki, issuer ca"
	now := time.Now
	run := func(name string, n int, story func(b *lossBench)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newLossBench(t, nil)
				b.build(at(old, n))
				b.step(40 * time.Minute)
				story(b)
			})
		})
	}
	set := func(b *lossBench, s pki.TidyStatus) { b.vault.Set(b.mount, pki.CRLConfig{AutoRebuild: true}, s, nil) }
	ran := func(started, finished time.Time) pki.TidyStatus {
		return pki.TidyStatus{State: pki.TidyFinished, StartedAt: started, FinishedAt: finished, RevokedCerts: true, SafetyBuffer: time.Hour}
	}
	run("all", 500, func(b *lossBench) {
		b.build(nil)
		b.step(3*time.Minute, unknown)
		b.wantText("At least 500 of 500 entries were removed from the CRL, and no tidy is known")
		b.wantText("had 500 of them fewer and 0 more, and 500 have not come back; tidy-status tells of no run since, and auto-tidy is off")
		if !strings.Contains(b.findings[0].Remedy, "crl diff --serials") {
			t.Error(b.findings[0].Remedy)
		}
		b.watch.Flush(b.Context())
		second := b.another(b.cells) // a restart
		if err := second.run(3 * time.Minute); err != nil {
			t.Fatal(err)
		}
		second.wantRules(unknown)
		time.Sleep(23 * time.Hour)
		b.step(10*time.Minute, unknown)
		time.Sleep(time.Hour)
		b.step(10 * time.Minute)
	})
	run("half of twenty", 20, func(b *lossBench) { b.build(at(old, 10)); b.step(3*time.Minute, unknown) })
	run("less than half", 20, func(b *lossBench) { b.build(at(old, 11)); b.step(3 * time.Minute) })
	run("few", 19, func(b *lossBench) { b.build(nil); b.step(3 * time.Minute) })
	run("back again", 500, func(b *lossBench) {
		b.build(at(old, 100))
		b.step(3*time.Minute, unknown)
		b.build(at(old, 400))
		b.step(3*time.Minute, unknown)
		b.wantText("At least 100 of 500 entries")
		b.build(at(old, 500))
		b.step(3 * time.Minute)
	})
	run("a tidy long before", 500, func(b *lossBench) {
		set(b, ran(now().Add(-3*time.Hour), now().Add(-2*time.Hour)))
		b.build(nil)
		b.step(15*time.Minute, unknown)
	})
	run("a tidy since the list before, seconds ago", 500, func(b *lossBench) {
		set(b, ran(now().Add(-time.Second), now()))
		b.build(nil)
		b.step(time.Hour)
	})
	run("a tidy hours ago, since the list before, with auto_rebuild", 500, func(b *lossBench) {
		time.Sleep(30 * time.Hour)
		b.build(at(old, 500))
		b.step(40 * time.Minute)
		began := now()
		time.Sleep(40 * time.Hour)
		set(b, ran(began.Add(time.Minute), began.Add(2*time.Minute)))
		b.build(nil)
		b.step(time.Hour)
	})
	run("a tidy that had begun before the list before", 500, func(b *lossBench) {
		set(b, ran(now().Add(-5*time.Hour), now()))
		b.build(nil)
		b.step(time.Hour)
	})
	run("a tidy that is on", 500, func(b *lossBench) {
		set(b, pki.TidyStatus{State: pki.TidyRunning, StartedAt: now().Add(-9 * time.Hour), RevokedCerts: true, SafetyBuffer: time.Hour})
		b.build(nil)
		b.step(time.Hour)
	})
	run("a tidy that failed", 500, func(b *lossBench) {
		s := ran(now().Add(-time.Second), now())
		s.State = pki.TidyError
		set(b, s)
		b.build(nil)
		b.step(time.Hour)
	})
	run("a tidy that Vault has forgotten, and an instance saw", 500, func(b *lossBench) {
		set(b, ran(now().Add(-time.Second), now()))
		b.step(15 * time.Minute)
		set(b, pki.TidyStatus{State: pki.TidyInactive})
		b.step(15 * time.Minute)
		b.watch.Flush(b.Context())
		b.build(nil)
		b.step(15 * time.Minute)
		second := b.another(b.cells)
		if err := second.run(15 * time.Minute); err != nil {
			t.Fatal(err)
		}
		second.wantRules()
	})
	run("auto-tidy is on", 500, func(b *lossBench) {
		b.vault.SetAutoTidy(b.mount, pki.AutoTidy{Enabled: true, RevokedCerts: true, SafetyBuffer: time.Hour})
		b.build(nil)
		b.step(time.Hour)
	})
	run("auto-tidy was on", 500, func(b *lossBench) {
		b.vault.SetAutoTidy(b.mount, pki.AutoTidy{Enabled: true, RevokedCerts: true, SafetyBuffer: time.Hour})
		b.step(15 * time.Minute)
		b.vault.SetAutoTidy(b.mount, pki.AutoTidy{})
		b.build(nil)
		b.step(time.Hour)
	})
	run("tidy-status may not be read", 500, func(b *lossBench) {
		b.vault.Set(b.mount, pki.CRLConfig{}, pki.TidyStatus{}, &pki.PermissionError{})
		b.build(nil)
		b.step(time.Hour)
	})
	run("certain afterwards, and the other way round", 500, func(b *lossBench) {
		young := at(old, 200)
		young[1] = -time.Since(b.began)
		b.build(young)
		b.step(3*time.Minute, unknown)
		b.build(at(old, 200))
		b.step(3*time.Minute, assumed)
		b.build(nil)
		b.step(3*time.Minute, assumed)
	})
}

// TestSameNumber: two lists with one number, in one process and after a restart.
func TestSameNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newLossBench(t, nil)
		b.build(at(time.Hour, 3))
		b.step(10 * time.Minute)
		const same = "warning crl-number-backwards: mount pki, issuer ca"
		b.buildAs(b.number, time.Now(), at(time.Hour, 4))
		b.step(3*time.Minute, same)
		b.wantText("number 11 is that of the CRL of")
		b.watch.Flush(t.Context())
		b.build(at(time.Hour, 4))
		b.step(3 * time.Minute)

		b.watch.Flush(t.Context())
		b.buildAs(b.number, time.Now(), at(time.Hour, 5))
		second := b.another(b.cells)
		if err := second.run(3 * time.Minute); err != nil {
			t.Fatal(err)
		}
		second.wantRules(same)
	})
}
