package watch_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/crl/watch"
	"github.com/pkiwarden/pkiwarden/crl/watch/watchtest"
	"github.com/pkiwarden/pkiwarden/pki"
)

// cells is a compare-and-swap store in memory.
type cells struct {
	mu      sync.Mutex
	data    map[string][]byte
	version map[string]int
	puts    map[string]int
	err     error
}

func newCells() *cells {
	return &cells{data: map[string][]byte{}, version: map[string]int{}, puts: map[string]int{}}
}

func (c *cells) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

func (c *cells) set(key, value string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.data[key] = []byte(value)
	c.version[key]++
}

func (c *cells) get(key string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.data[key])
}

// count is how often the record of a mount was written, or tried to be.
func (c *cells) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := -c.puts[mountsKey]
	for _, puts := range c.puts {
		n += puts
	}
	return n
}

func (c *cells) countOf(key string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.puts[key]
}

func (c *cells) versionOf(key string) string {
	if c.data[key] == nil {
		return ""
	}
	return fmt.Sprint(c.version[key])
}

func (c *cells) Get(_ context.Context, key string) ([]byte, string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.data[key], c.versionOf(key), c.err
}

func (c *cells) Put(_ context.Context, key string, data []byte, version string) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.puts[key]++
	if c.err != nil {
		return "", c.err
	}
	if version != c.versionOf(key) {
		return "", fmt.Errorf("writing: %w", pki.ErrConflict)
	}
	c.data[key] = data
	c.version[key]++
	return c.versionOf(key), nil
}

const (
	recordKey = "crl-cluster-1-uuid-0-pki"
	mountsKey = "crlmounts-cluster-1-all"
)

// keeping is a bench with state and one list.
func keeping(t *testing.T, c *cells) (*bench, pki.Mount) {
	b := newBench(t, func(o *watch.Options) { even(o); o.State = c })
	m := b.vault.Mount("pki")
	b.vault.Issuer(m, "ca", watchtest.IssuerOptions{})
	return b, m
}

// another is a second instance on the same Vault and state.
func (b *bench) another(c *cells) *bench {
	other := newBench(b.T, func(o *watch.Options) { even(o); o.State = c; o.Vault = b.vault })
	other.vault = b.vault
	return other
}

// TestHistoryIsKept: a second instance goes on counting where the first ended.
func TestHistoryIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCells()
		b, m := keeping(t, c)
		b.publish(m, "ca", 5)
		if err := b.run(6 * time.Minute); err != nil {
			t.Fatal(err)
		}
		record, err := crl.ParseHistoryRecord([]byte(c.get(recordKey)))
		if err != nil || record.Mount != "pki" || len(record.Lists) != 1 {
			t.Fatalf("%+v, %v", record, err)
		}
		time.Sleep(time.Hour)
		b.publish(m, "ca", 8)
		second := b.another(c)
		if err := second.run(2 * time.Minute); err != nil {
			t.Fatal(err)
		}
		second.wantCounter("pkiwarden_crl_entries_added_total", 3)
		second.wantCounter("pkiwarden_crl_entries_removed_total", 0)
	})
}

// TestReturns: what is remembered of an issuer outlives its absence.
func TestReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCells()
		b, m := keeping(t, c)
		key := b.vault.Issuer(m, "guest", watchtest.IssuerOptions{})
		b.publish(m, "ca", 1)
		b.publish(m, "guest", 5)
		step := func() crl.HistoryRecord {
			t.Helper()
			if err := b.run(12 * time.Minute); err != nil {
				t.Fatal(err)
			}
			record, err := crl.ParseHistoryRecord([]byte(c.get(recordKey)))
			if err != nil {
				t.Fatal(err)
			}
			return record
		}
		step()
		b.vault.RemoveIssuer(m, "guest")
		b.publish(m, "ca", 2)
		if record := step(); len(record.Lists) != 2 {
			t.Errorf("%d lists in the record", len(record.Lists))
		}
		b.wantSeries("pkiwarden_crl_entries", "issuer=ca,mount=pki 2")
		b.vault.Issuer(m, "guest", watchtest.IssuerOptions{Key: key})
		b.publish(m, "guest", 8)
		for _, l := range step().Lists {
			if l.Issuer == "guest" && len(l.History.Samples()) != 2 {
				t.Errorf("%d samples", len(l.History.Samples()))
			}
		}
	})
}

func (b *bench) wantCounter(name string, want float64) {
	b.Helper()
	families, err := b.registry.Gather()
	if err != nil {
		b.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name && len(f.GetMetric()) == 1 {
			if got := f.GetMetric()[0].GetCounter().GetValue(); got != want {
				b.Errorf("%s is %v, want %v", name, got, want)
			}
			return
		}
	}
	b.Errorf("no single series %s", name)
}

// TestWritesAreRare: what does not change is written once an hour, and what
// does every five minutes.
func TestWritesAreRare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCells()
		b, m := keeping(t, c)
		b.publish(m, "ca", 5)
		if err := b.run(10 * time.Minute); err != nil {
			t.Fatal(err)
		}
		before := c.count()
		if err := b.run(3 * time.Hour); err != nil {
			t.Fatal(err)
		}
		if n := c.count() - before; n < 2 || n > 4 {
			t.Errorf("%d writes in three hours without a change", n)
		}
		before = c.count()
		for n := range 60 {
			b.publish(m, "ca", 6+n)
			if err := b.run(time.Minute); err != nil {
				t.Fatal(err)
			}
		}
		if n := c.count() - before; n < 10 || n > 13 {
			t.Errorf("%d writes in an hour of changes", n)
		}
	})
}

// TestTwoWrite: what two instances saw is one history.
func TestTwoWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCells()
		b, m := keeping(t, c)
		b.publish(m, "ca", 1)
		other := b.another(c)
		for n := range 20 {
			b.publish(m, "ca", 2+n)
			on := b
			if n%2 == 1 {
				on = other
			}
			if err := on.run(4 * time.Minute); err != nil {
				t.Fatal(err)
			}
		}
		b.wantRules()
		other.wantRules()
		record, err := crl.ParseHistoryRecord([]byte(c.get(recordKey)))
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range record.Lists {
			if s := l.History.Samples(); len(s) < 3 || l.Mark == nil {
				t.Errorf("%d samples, mark %v", len(s), l.Mark)
			}
		}
	})
}

// TestDamagedRecord is a finding and is left as it is; lists are measured.
func TestDamagedRecord(t *testing.T) {
	for name, damaged := range map[string]string{"no JSON": "{", "another version": `{"version":99,"lists":{}}`} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCells()
				c.set(recordKey, damaged)
				b, m := keeping(t, c)
				b.publish(m, "ca", 5)
				if err := b.run(time.Hour); err != nil {
					t.Fatal(err)
				}
				b.wantRules("warning crl-history-unreadable: mount pki")
				b.wantSeries("pkiwarden_crl_entries", "issuer=ca,mount=pki 5")
				if got := c.get(recordKey); got != damaged || c.count() != 0 {
					t.Errorf("the record is %q after %d writes", got, c.count())
				}

				c.set(recordKey, `{"version":1,"lists":{}}`) // repaired
				if err := b.run(20 * time.Minute); err != nil {
					t.Fatal(err)
				}
				b.wantRules()
				if record, err := crl.ParseHistoryRecord([]byte(c.get(recordKey))); err != nil || len(record.Lists) != 1 {
					t.Errorf("%+v, %v", record, err)
				}
			})
		})
	}
}

// TestDamagedLater: a record that is damaged while it is in use is not
// overwritten either.
func TestDamagedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCells()
		b, m := keeping(t, c)
		b.publish(m, "ca", 5)
		if err := b.run(10 * time.Minute); err != nil {
			t.Fatal(err)
		}
		c.set(recordKey, "{")
		b.publish(m, "ca", 6)
		if err := b.run(time.Hour); err != nil {
			t.Fatal(err)
		}
		b.wantRules("warning crl-history-unreadable: mount pki")
		if got := c.get(recordKey); got != "{" {
			t.Errorf("the record is %q", got)
		}
	})
}

func TestStateAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCells()
		c.fail(errors.New("connection refused"))
		b, m := keeping(t, c)
		b.publish(m, "ca", 5)
		if err := b.run(10 * time.Minute); err != nil {
			t.Fatal(err)
		}
		b.wantRules("warning crl-history-unreadable: mount pki")
		b.wantSeries("pkiwarden_crl_entries", "issuer=ca,mount=pki 5")
		c.fail(nil)
		if err := b.run(15 * time.Minute); err != nil {
			t.Fatal(err)
		}
		b.wantRules()
		if c.get(recordKey) == "" {
			t.Error("nothing was written")
		}
	})
}

// TestExplains walks through what mount settings, tidy and former lists say.
func TestExplains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, even)
		m := b.vault.Mount("pki")
		b.vault.Issuer(m, "ca", watchtest.IssuerOptions{})
		rebuilt := pki.CRLConfig{Expiry: 72 * time.Hour, GracePeriod: 12 * time.Hour, MaxEntries: -1}
		count := func(n int64) pki.TidyStatus { return pki.TidyStatus{State: pki.TidyFinished, RevokedCount: &n} }
		step := func(d time.Duration, want ...string) {
			t.Helper()
			if err := b.run(d); err != nil {
				t.Fatal(err)
			}
			b.wantRules(want...)
		}

		// What tidy removes here is no finding of its own.
		b.vault.SetAutoTidy(m, pki.AutoTidy{Enabled: true, RevokedCerts: true, SafetyBuffer: time.Second})

		// Vault's count and the list agree, and then no longer.
		b.vault.Set(m, rebuilt, count(5), nil)
		b.publish(m, "ca", 5)
		step(30 * time.Minute)
		b.vault.Set(m, rebuilt, count(9), nil)
		step(35*time.Minute, "critical crl-count-drift: mount pki")
		doubtful := count(9)
		doubtful.CountingError = "re-initialize this mount"
		b.vault.Set(m, rebuilt, doubtful, nil)
		step(20 * time.Minute)
		wrapped := count(1<<32 - 2)
		b.vault.Set(m, rebuilt, wrapped, nil)
		step(40 * time.Minute)
		byTime := rebuilt
		byTime.AutoRebuild = true
		b.vault.Set(m, byTime, count(9), nil) // comes by itself
		step(40 * time.Minute)

		// A busy mount: the count is always ahead of a list read a moment ago.
		for n := range 40 {
			b.vault.Set(m, rebuilt, count(int64(60+10*n)), nil)
			b.publish(m, "ca", 55+10*n)
			step(time.Minute)
		}
		b.publish(m, "ca", 5)
		b.vault.Set(m, rebuilt, count(0), nil) // and one whose tidy did not rebuild
		step(35*time.Minute, "warning crl-count-drift: mount pki")
		b.vault.Set(m, byTime, count(9), nil)
		step(20 * time.Minute)

		// Vault could not store a list, until it could.
		b.watch.NoteRefused(m, fmt.Errorf("rotating: %w", &pki.TooLargeError{Limit: 524288, Message: "Request body(524515 bytes) too large, max size: 524288 bytes"}))
		step(time.Minute, "critical crl-not-written: mount pki, issuer ca")
		b.watch.NoteRefused(m, errors.New("status 500")) // says nothing new
		step(time.Minute, "critical crl-not-written: mount pki, issuer ca")
		b.publish(m, "ca", 6)
		step(2 * time.Minute)
		b.watch.NoteRefused(m, &pki.TooLargeError{Message: "too large"})
		b.watch.NoteRefused(m, nil)
		step(time.Minute)

		// A tidy that was not ours, whose rebuild failed.
		auto := pki.TidyStatus{State: pki.TidyError, StartedAt: time.Now(), FinishedAt: time.Now(), TooLarge: &pki.TooLargeError{Message: "max value size for key k is 65536, got 65569"}}
		b.vault.Set(m, byTime, auto, nil)
		step(20*time.Minute, "critical crl-not-written: mount pki, issuer ca")
		b.publish(m, "ca", 6)
		step(2 * time.Minute)

		// More entries than config/crl allows, near at first.
		b.limit.Storage.VaultVersion = "1.21.4"
		capped := byTime
		capped.MaxEntries = 7
		b.vault.Set(m, capped, pki.TidyStatus{}, nil)
		step(20*time.Minute, "critical crl-near-limit: mount pki, issuer ca")
		b.vault.Set(m, byTime, pki.TidyStatus{}, nil)
		step(20 * time.Minute)

		// A number that is lower than that of a list still valid.
		now := time.Now().Truncate(time.Second)
		b.vault.Build(m, "ca", &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now, NextUpdate: now.Add(2 * time.Hour)})
		step(2*time.Minute, "warning crl-number-backwards: mount pki, issuer ca")
		b.vault.Build(m, "ca", &x509.RevocationList{Number: big.NewInt(99), ThisUpdate: now.Add(time.Minute), NextUpdate: now.Add(2 * time.Hour)})
		step(2 * time.Minute)

		// An old list of an issuer that may no longer sign.
		b.vault.ForbidSigning(m, "ca")
		step(110*time.Minute, "warning crl-stale: mount pki, issuer ca", "warning crl-no-issuer-usage: mount pki, issuer ca")
	})
}

// fleet is one of a fixed size.
type fleet struct {
	crl.Fleet
	refreshed int
	err       error
}

func (f *fleet) Refresh(context.Context, pki.Mount) error    { f.refreshed++; return f.err }
func (f *fleet) Forget([]pki.Mount)                          {}
func (f *fleet) size(pki.Mount, *x509.Certificate) crl.Fleet { return f.Fleet }

type sized struct{ *fleet }

func (s sized) Fleet(m pki.Mount, c *x509.Certificate) crl.Fleet { return s.size(m, c) }

// TestHeadroom is absent until the fleet's size is known.
func TestHeadroom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fleet{Fleet: crl.UnknownFleet("not counted"), err: errors.New("permission denied")}
		b := newBench(t, func(o *watch.Options) { even(o); o.Fleet = sized{f} })
		b.limit.MaxBytes = 4000
		m := b.vault.Mount("pki")
		b.vault.Issuer(m, "ca", watchtest.IssuerOptions{})
		b.publish(m, "ca", 1)
		if err := b.run(30 * time.Minute); err != nil {
			t.Fatal(err)
		}
		b.wantSeries("pkiwarden_crl_rollout_headroom")
		b.wantRules() // that it is not known is no finding
		if f.refreshed < 2 || f.refreshed > 4 {
			t.Errorf("counted %d times", f.refreshed)
		}
		f.Fleet, f.err = crl.ConfiguredFleet(60), nil
		if err := b.run(2 * time.Minute); err != nil {
			t.Fatal(err)
		}
		b.wantSeries("pkiwarden_crl_rollout_headroom", "issuer=ca,mount=pki 1")
		b.wantRules("warning crl-near-limit: mount pki, issuer ca")
	})
}

// TestSteady: what is said about a list near its limit says where its growth
// stops by itself, from what was seen and how the mount is tidied.
func TestSteady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const life = 24 * time.Hour
		f := &fleet{Fleet: crl.Fleet{Known: true, Certificates: 1, RemainingLife: life}}
		b := newBench(t, func(o *watch.Options) { even(o); o.Fleet = sized{f} })
		b.limit = crl.Limit{Known: true, MaxBytes: 5000}
		m := b.vault.Mount("pki")
		b.vault.Issuer(m, "ca", watchtest.IssuerOptions{})
		b.vault.SetAutoTidy(m, pki.AutoTidy{Enabled: true, RevokedCerts: true, Interval: 12 * time.Hour, SafetyBuffer: 72 * time.Hour})
		// Three revocations an hour for 40 hours.
		list := &x509.RevocationList{}
		for hour := range 40 {
			now := time.Now().Truncate(time.Second)
			list.Number, list.ThisUpdate, list.NextUpdate = big.NewInt(int64(hour+1)), now, now.Add(72*time.Hour)
			for i := range 3 {
				list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{
					SerialNumber: big.NewInt(1<<40 + int64(3*hour+i)), RevocationTime: now.Add(-time.Duration(i) * time.Minute),
				})
			}
			b.vault.Build(m, "ca", list)
			if err := b.run(time.Hour); err != nil {
				t.Fatal(err)
			}
		}
		// 72 a day, each listed for a day of life, three of buffer and half a
		// day until tidy runs.
		if len(b.findings) != 1 || !strings.Contains(b.findings[0].Evidence, "growth stops by itself at 324 entries") {
			t.Errorf("%+v", b.findings)
		}
		if !strings.Contains(b.findings[0].Evidence, "beyond the limit") {
			t.Error(b.findings[0].Evidence)
		}
		// Whoever decides about tidy gets the same with the lists.
		lists, ok := b.watch.Latest(m)
		if !ok || len(lists) != 1 {
			t.Fatalf("%d lists, %t", len(lists), ok)
		}
		growth, ahead := lists[0].Growth, lists[0].Projection
		if growth.Revocations.PerDay != 72 || growth.RemainingLife != life || growth.SafetyBuffer != 72*time.Hour || growth.TidyInterval != 12*time.Hour {
			t.Errorf("growth %+v", growth)
		}
		if !ahead.GrowthKnown || ahead.EntriesPerDay < 70 || ahead.EntriesPerDay > 74 {
			t.Errorf("projection %+v", ahead)
		}
		f.RemainingLife = 0
		if err := b.run(time.Minute); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(b.findings[0].Evidence, "growth stops") {
			t.Errorf("without the remaining life: %s", b.findings[0].Evidence)
		}
	})
}
