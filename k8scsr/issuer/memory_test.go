package issuer

import (
	"context"
	"log/slog"
	"runtime"
	"slices"
	"testing"
	"time"
)

// TestMemoryOfAFleet holds what a certificate at rest keeps in memory, beside its
// configuration: ten thousand of them live in one small process.
func TestMemoryOfAFleet(t *testing.T) {
	n, most := 200, int64(2<<10)
	if testing.Short() {
		n = 100
	}
	heap := func() int64 {
		for range 3 { // what is pooled leaves with the second one
			runtime.GC()
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	certificates := fleet(n)
	before := heap()
	c := newCluster(t)
	c.mayOpen = n
	cs := c.process("pod-a").client()
	s := c.issuerOn(cs, func(o *Options) { o.State, o.Log = &kept{}, slog.New(slog.DiscardHandler) }, certificates...)
	s.watching.Store(true)
	for range 2 {
		if _, err := s.OnceUntil(context.Background()); err != nil {
			t.Fatal(err)
		}
		for _, csr := range c.csrs() {
			s.noteRequest(csr)
		}
		c.now = c.now.Add(time.Second)
	}
	for _, status := range s.Status() {
		if status.NotAfter.IsZero() {
			t.Fatalf("%s has no certificate", status.Name)
		}
	}
	s.events.queue, s.books = nil, nil // bounded
	c.objects, c.keysUsed, c.writes = nil, nil, nil
	cs.ClearActions()
	each := (heap() - before) / int64(n)
	runtime.KeepAlive(s)
	t.Logf("%d bytes each", each)
	if each > most {
		t.Errorf("each certificate at rest keeps %d bytes, want at most %d", each, most)
	}
}

// TestEachLookReads: where certificates are looked at less often than once in the
// interval, each look reads what is there, once in so long on average.
func TestEachLookReads(t *testing.T) {
	c := newCluster(t)
	cs := c.process("pod-a").client()
	chance := 0.0
	s := c.issuerOn(cs, func(o *Options) {
		o.Log, o.Reads = slog.New(slog.DiscardHandler), readsPerLook/600.0 // once in ten minutes
		o.Chance = func() float64 { chance += 0.37; return chance - float64(int(chance)) }
	}, vaultTLS(func(c *Certificate) { c.Spec.Lifetime = 1000 * time.Hour }))
	s.until(t)
	began, last, reads := c.now, c.now, 0
	for c.now.Sub(began) < 10*time.Hour {
		cs.ClearActions()
		next, err := s.OnceUntil(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(callsOf(cs), "get secrets") {
			if gap := c.now.Sub(last); gap > 12*time.Minute+30*time.Second {
				t.Errorf("nothing was read for %v", gap)
			}
			last, reads = c.now, reads+1
		}
		c.now = maxTime(next, c.now.Add(time.Second))
	}
	if reads < 55 || reads > 65 {
		t.Errorf("read %d times in ten hours, want once in ten minutes", reads)
	}
}
