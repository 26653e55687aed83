package issuer

import (
	"context"
	"log/slog"
	"runtime"
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
		runtime.GC()
		runtime.GC()
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
