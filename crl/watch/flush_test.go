package watch_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/crl/watch"
	"github.com/pkiwarden/pkiwarden/crl/watch/watchtest"
	"github.com/pkiwarden/pkiwarden/pki"
)

// lead does what an instance does while it leads: units, and at the end what was
// not written yet.
func (b *bench) lead(d time.Duration) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), d)
	defer cancel()
	for ctx.Err() == nil {
		next, err := b.watch.OnceUntil(ctx)
		if err != nil && ctx.Err() == nil {
			b.Fatal(err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(max(time.Until(next), time.Second)):
		}
	}
	b.watch.Flush(ctx)
}

// TestCountsOnce: what an instance has counted is not counted again by the next,
// however soon after it the instance ends.
func TestCountsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCells()
		b, m := keeping(t, c)
		b.publish(m, "ca", 5)
		for c.count() == 0 { // the next write by the clock is five minutes from here
			if err := b.run(time.Second); err != nil {
				t.Fatal(err)
			}
		}
		b.publish(m, "ca", 9)
		b.lead(90 * time.Second)
		b.wantCounter("pkiwarden_crl_entries_added_total", 4)
		if n := c.count(); n != 2 {
			t.Errorf("%d writes", n)
		}

		second := b.another(c)
		time.Sleep(time.Second)
		b.publish(m, "ca", 10)
		second.lead(90 * time.Second)
		second.wantCounter("pkiwarden_crl_entries_added_total", 1)
		writes := c.count()
		second.watch.Flush(t.Context())
		if n := c.count(); n != writes {
			t.Error("a record that has not changed was written again")
		}
	})
}

// TestFlushLeavesOthersRecord: who finds at the end that somebody else has
// written does not write over it.
func TestFlushLeavesOthersRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCells()
		b, m := keeping(t, c)
		b.publish(m, "ca", 5)
		for c.count() == 0 {
			if err := b.run(time.Second); err != nil {
				t.Fatal(err)
			}
		}
		b.publish(m, "ca", 6)
		if err := b.run(61 * time.Second); err != nil {
			t.Fatal(err)
		}
		const theirs = `{"version":1,"mount":"theirs","lists":{}}`
		c.set(recordKey, theirs)
		tried := c.count()
		b.watch.Flush(t.Context())
		if got := c.get(recordKey); got != theirs || c.count() != tried+1 {
			t.Errorf("after %d attempts the record is %.80s", c.count()-tried, got)
		}
	})
}

// stuck never answers a Put, and notes when it was given up.
type stuck struct {
	*cells
	on     bool
	gaveUp time.Duration
}

func (s *stuck) Put(ctx context.Context, key string, data []byte, version string) (string, error) {
	if !s.on {
		return s.cells.Put(ctx, key, data, version)
	}
	began := time.Now()
	<-ctx.Done()
	s.gaveUp = time.Since(began)
	return "", ctx.Err()
}

// TestFlushEnds: a state that hangs holds up nobody's end, nor does one that
// fails.
func TestFlushEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stuck{cells: newCells()}
		b := newBench(t, func(o *watch.Options) { even(o); o.State = s })
		for i := range 3 {
			m := b.vault.Mount(fmt.Sprintf("pki-%d", i))
			b.vault.Issuer(m, "ca", watchtest.IssuerOptions{})
			b.publish(m, "ca", 1)
		}
		if err := b.run(2 * time.Minute); err != nil {
			t.Fatal(err)
		}
		s.on = true
		began := time.Now()
		b.watch.Flush(t.Context())
		if took := time.Since(began); took != 5*time.Second || s.gaveUp != took {
			t.Errorf("ended after %s", took)
		}
		s.on = false
		s.fail(errors.New("refused"))
		b.watch.Flush(t.Context())
	})
}

// TestManyIssuers: of more lists than a record holds the largest are kept, and
// it is said how many are not.
func TestManyIssuers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCells()
		b, m := keeping(t, c)
		b.publish(m, "ca", 1)
		issuers := 300
		if testing.Short() {
			issuers = 130
		}
		for n := range issuers {
			name := fmt.Sprintf("issuer-%03d", n)
			b.vault.Issuer(m, name, watchtest.IssuerOptions{})
			b.publish(m, name, n)
		}
		if err := b.run(20 * time.Minute); err != nil {
			t.Fatal(err)
		}
		record, err := crl.ParseHistoryRecord([]byte(c.get(recordKey)))
		if err != nil {
			t.Fatal(err)
		}
		kept := len(record.Lists)
		if len(c.get(recordKey)) > crl.MaxHistoryRecord || kept < 60 || kept >= issuers {
			t.Errorf("%d lists in %d bytes", kept, len(c.get(recordKey)))
		}
		for _, l := range record.Lists {
			var n int
			if _, err := fmt.Sscanf(l.Issuer, "issuer-%d", &n); err != nil || n < issuers-kept {
				t.Errorf("%s is kept in place of a larger one", l.Issuer)
			}
		}
		b.wantRules("info crl-history-full: mount pki")
		b.wantText(fmt.Sprintf("its %d smallest CRLs", issuers+1-kept))
		// All of them are measured, and what is not written is known all the same.
		if lists, known := b.watch.Latest(m); !known || len(lists) != issuers+1 {
			t.Errorf("%d lists measured", len(lists))
		}
		b.publish(m, "issuer-003", 5)
		if err := b.run(3 * time.Minute); err != nil {
			t.Fatal(err)
		}
		families, err := b.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() != "pkiwarden_crl_entries_added_total" {
				continue
			}
			for _, series := range f.GetMetric() {
				if series.GetLabel()[0].GetValue() == "issuer-003" && series.GetCounter().GetValue() != 2 {
					t.Errorf("%v entries added to a list that is not in the record", series.GetCounter().GetValue())
				}
			}
		}

		for n := range issuers {
			b.vault.RemoveIssuer(m, fmt.Sprintf("issuer-%03d", n))
		}
		b.vault.Set(m, pki.CRLConfig{AutoRebuild: true}, pki.TidyStatus{}, nil)
		b.publish(m, "ca", 2)
		if err := b.run(10 * time.Minute); err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(b.findings, func(f crl.Finding) bool { return f.Rule == "crl-history-full" }) {
			t.Error("those that are gone take room from those that are there")
		}
		time.Sleep(25 * time.Hour)
		if err := b.run(10 * time.Minute); err != nil {
			t.Fatal(err)
		}
		b.wantRules()
	})
}

// TestManyIssuersOneGone: where a record is full, what is to be said of a list
// that is gone, or lost entries, is kept before empty lists that are there.
func TestManyIssuersOneGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCells()
		b, m := keeping(t, c)
		b.publish(m, "ca", 500)
		b.vault.Issuer(m, "lost", watchtest.IssuerOptions{})
		b.publish(m, "lost", 30)
		for n := range 150 {
			name := fmt.Sprintf("issuer-%03d", n)
			b.vault.Issuer(m, name, watchtest.IssuerOptions{})
			b.publish(m, name, 3*(n%2))
		}
		if err := b.run(20 * time.Minute); err != nil {
			t.Fatal(err)
		}
		const full, gone, lost = "info crl-history-full: mount pki", "warning crl-vanished: mount pki, issuer ca", "warning crl-removed-early: mount pki, issuer lost"
		b.wantRules(full)
		b.vault.RemoveIssuer(m, "ca")
		b.publish(m, "lost", 0)
		if err := b.run(3 * time.Minute); err != nil {
			t.Fatal(err)
		}
		b.wantRules(full, lost, gone)
		b.watch.Flush(t.Context())
		second := b.another(c)
		if err := second.run(10 * time.Minute); err != nil {
			t.Fatal(err)
		}
		second.wantRules(full, lost, gone)
	})
}
