package watch_test

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
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

// run does what the loop does, for some time, and returns the last error.
func (b *bench) run(d time.Duration) error {
	b.Helper()
	var last error
	for end := time.Now().Add(d); time.Now().Before(end); {
		next, err := b.watch.OnceUntil(b.Context())
		last = err
		pause := time.Second
		if err == nil {
			pause = max(time.Until(next), pause)
		}
		time.Sleep(min(pause, time.Minute, time.Until(end)))
	}
	return last
}

// even draws no jitter.
func even(o *watch.Options) { o.Random = func() float64 { return 0.5 } }

func (b *bench) wantRequests(what string, low, high int) {
	b.Helper()
	if n := b.vault.Requests(what); n < low || n > high {
		b.Errorf("%d requests for %s, want %d to %d", n, what, low, high)
	}
}

// TestConditional: a tuned mount is read whole at first, once more after each
// change, and once an hour; in between 304 confirms what is known.
func TestConditional(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, even)
		m := b.vault.Mount("pki")
		b.vault.Tune(m, true)
		b.vault.Issuer(m, "ca", watchtest.IssuerOptions{})
		b.publish(m, "ca", 5)
		if err := b.run(50*time.Minute + time.Second); err != nil {
			t.Fatal(err)
		}
		b.wantRequests("200", 2, 2)
		b.wantRequests("304", 47, 49)
		now := time.Now().Unix()
		success := b.value("pkiwarden_crl_last_success_timestamp_seconds")
		if success < now-61 || success > now {
			t.Errorf("last success %d s ago", now-success)
		}
		b.wantSeries("pkiwarden_crl_entries", "issuer=ca,mount=pki 5")

		if err := b.run(time.Hour); err != nil {
			t.Fatal(err)
		}
		b.wantRequests("200", 3, 4) // at least once an hour

		// A change is seen, and the request after it is whole again: a list built
		// within the same second would answer 304.
		whole := b.vault.Requests("200")
		b.publish(m, "ca", 6)
		if err := b.run(5 * time.Minute); err != nil {
			t.Fatal(err)
		}
		b.wantSeries("pkiwarden_crl_entries", "issuer=ca,mount=pki 6")
		b.wantRequests("200", whole+2, whole+2)

		// So is the one after an error.
		b.vault.FailCRL(m, "ca", errors.New("status 500"))
		if err := b.run(90 * time.Second); err != nil {
			t.Fatal(err)
		}
		b.wantRules("unknown crl-unreadable: mount pki, issuer ca")
		b.vault.FailCRL(m, "ca", nil)
		whole = b.vault.Requests("200")
		if err := b.run(5 * time.Minute); err != nil {
			t.Fatal(err)
		}
		b.wantRequests("200", whole+1, whole+1)
		b.wantRules()

		// And those for a tidier, always.
		whole = b.vault.Requests("200")
		for range 2 {
			if _, err := b.watch.Measure(t.Context(), m); err != nil {
				t.Fatal(err)
			}
		}
		b.wantRequests("200", whole+2, whole+2)

		b.vault.Tune(m, false)
		whole, confirmed := b.vault.Requests("200"), b.vault.Requests("304")
		if err := b.run(10*time.Minute + time.Second); err != nil {
			t.Fatal(err)
		}
		b.wantRequests("200", whole+8, whole+10)
		b.wantRequests("304", confirmed, confirmed+1)
	})
}

// value is that of the only series of a metric.
func (b *bench) value(name string) int64 {
	b.Helper()
	families, err := b.registry.Gather()
	if err != nil {
		b.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name && len(f.GetMetric()) == 1 {
			return int64(f.GetMetric()[0].GetGauge().GetValue())
		}
	}
	b.Fatalf("no single series %s", name)
	return 0
}

// TestFailuresBackOffAlone: a list that fails is asked for less and less often,
// and the others go on as before.
func TestFailuresBackOffAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, even)
		good, bad := b.vault.Mount("good"), b.vault.Mount("bad")
		b.vault.Issuer(good, "ca", watchtest.IssuerOptions{})
		b.vault.Issuer(bad, "ca", watchtest.IssuerOptions{})
		b.publish(good, "ca", 1)
		b.publish(bad, "ca", 2)
		attempts := 0
		b.vault.Serve(bad, "ca", func([]byte) io.Reader { attempts++; return strings.NewReader("nonsense") })
		if err := b.run(time.Hour); err != nil {
			t.Fatalf("the loop fails with the list: %v", err)
		}
		b.wantRules("critical crl-unreadable: mount bad, issuer ca")
		if attempts < 12 || attempts > 16 { // after 1, 2, 4, and then every 5 minutes
			t.Errorf("%d attempts in an hour", attempts)
		}
		if others := b.vault.Requests("200") - attempts; others < 58 || others > 62 {
			t.Errorf("the other list was asked for %d times", others)
		}
		b.vault.Serve(bad, "ca", nil)
		if err := b.run(6 * time.Minute); err != nil {
			t.Fatal(err)
		}
		b.wantRules()
		b.wantSeries("pkiwarden_crl_entries", "issuer=ca,mount=bad 2", "issuer=ca,mount=good 1")
	})
}

// TestSlowListDelaysNobody: while Vault takes its time over one list, the
// others are measured on time.
func TestSlowListDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, even)
		slow := b.vault.Mount("slow")
		b.vault.Issuer(slow, "ca", watchtest.IssuerOptions{})
		b.publish(slow, "ca", 1)
		for n := range 5 {
			m := b.vault.Mount(fmt.Sprintf("quick-%d", n))
			b.vault.Issuer(m, "ca", watchtest.IssuerOptions{})
			b.publish(m, "ca", 2)
		}
		b.vault.Serve(slow, "ca", func([]byte) io.Reader {
			return readFunc(func([]byte) (int, error) {
				time.Sleep(95 * time.Second)
				return 0, fmt.Errorf("%w: no answer within 95 s", pki.ErrUnreachable)
			})
		})
		if err := b.run(30 * time.Minute); err != nil {
			t.Fatal(err)
		}
		b.wantRequests("200", 5*28, 5*32+10)
		b.wantRules("unknown crl-unreadable: mount slow, issuer ca")
	})
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// TestAway: a Vault that is sealed or gone is one error and one finding, costs
// a request or two each time, and when it is back everything is measured within
// an interval.
func TestAway(t *testing.T) {
	for _, cause := range []error{pki.ErrSealed, fmt.Errorf("asking: %w: connection refused", pki.ErrUnreachable), &pki.RedirectError{Address: "a", Location: "b"}} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, even)
			for n := range 20 {
				m := b.vault.Mount(fmt.Sprintf("pki-%02d", n))
				b.vault.Issuer(m, "ca", watchtest.IssuerOptions{})
				b.publish(m, "ca", 1)
			}
			if err := b.run(5 * time.Minute); err != nil {
				t.Fatal(err)
			}
			b.wantRules()
			b.vault.Away(cause)
			if err := b.run(2 * time.Minute); !errors.Is(err, cause) {
				t.Errorf("error %v", err)
			}
			b.wantRules("unknown crl-unreadable: Vault")
			before := b.vault.Requests("200") + b.vault.Requests("issuers") + b.vault.Requests("mounts")
			for range 10 {
				if _, err := b.watch.OnceUntil(t.Context()); err == nil {
					t.Fatal("no error")
				}
			}
			if n := b.vault.Requests("200") + b.vault.Requests("issuers") + b.vault.Requests("mounts") - before; n > 40 {
				t.Errorf("%d requests by 10 units", n)
			}
			b.vault.Away(nil)
			back := b.vault.Requests("200")
			if err := b.run(70 * time.Second); err != nil {
				t.Fatal(err)
			}
			b.wantRules()
			b.wantRequests("200", back+20, back+45)
		})
	}
}

// TestNoMounts: not to be allowed to see any mount is an error of the loop.
func TestNoMounts(t *testing.T) {
	b := newBench(t, even)
	denied := &pki.PermissionError{Path: "sys/mounts", Capability: "read"}
	b.vault.FailMounts(denied)
	for range 3 {
		if _, err := b.watch.OnceUntil(t.Context()); !errors.Is(err, denied) {
			t.Errorf("error %v", err)
		}
	}
	b.wantRules("unknown crl-unreadable: Vault")
}

// TestMountsAreFoundAgain within an interval of Vault allowing it, however long
// it did not.
func TestMountsAreFoundAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, even)
		m := b.vault.Mount("pki")
		b.vault.Issuer(m, "ca", watchtest.IssuerOptions{})
		b.publish(m, "ca", 1)
		b.vault.FailMounts(&pki.PermissionError{Path: "sys/mounts", Capability: "read"})
		for end := time.Now().Add(time.Hour); time.Now().Before(end); time.Sleep(10 * time.Second) {
			if _, err := b.watch.OnceUntil(t.Context()); err == nil {
				t.Fatal("no mount can be found, and all is well")
			}
		}
		b.vault.FailMounts(nil)
		for end := time.Now().Add(80 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Second) {
			_, _ = b.watch.OnceUntil(t.Context())
		}
		if _, known := b.watch.Latest(m); !known {
			t.Error("not measured within 80 seconds")
		}
	})
}

// TestRefusedMounts are a finding, and the others are watched.
func TestRefusedMounts(t *testing.T) {
	b := newBench(t, nil)
	m := b.vault.Mount("pki")
	b.vault.Issuer(m, "ca", watchtest.IssuerOptions{})
	b.publish(m, "ca", 1)
	b.vault.Refuse(pki.RefusedMount{Name: `"pki/../sys"`, Reason: `it holds the segment ".."`})
	b.once()
	b.wantRules(`unknown crl-mount-refused: mount "pki/../sys"`)
	b.wantSeries("pkiwarden_crl_entries", "issuer=ca,mount=pki 1")
}

// TestEd25519 is verified where there is a spool, and said not to be without.
func TestEd25519(t *testing.T) {
	freed := 0
	b := newBench(t, func(o *watch.Options) {
		o.Spool = func() (crl.Spool, func()) { return &memory{}, func() { freed++ } }
	})
	m := b.vault.Mount("pki")
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	b.vault.Issuer(m, "edwards", watchtest.IssuerOptions{Key: key})
	b.publish(m, "edwards", 4)
	b.once()
	b.wantRules()
	b.wantSeries("pkiwarden_crl_entries", "issuer=edwards,mount=pki 4")
	b.vault.Serve(m, "edwards", func(der []byte) io.Reader {
		der[len(der)-1] ^= 1
		return strings.NewReader(string(der))
	})
	if err := b.watch.Once(t.Context()); !errors.Is(err, crl.ErrNotSigned) {
		t.Error(err)
	}
	if freed != 2 {
		t.Errorf("%d spools were freed", freed)
	}
}

type memory struct{ b []byte }

func (m *memory) Write(p []byte) (int, error) { m.b = append(m.b, p...); return len(p), nil }
func (m *memory) Bytes() ([]byte, error)      { return m.b, nil }

// TestDelta: a delta is read where the mount makes them, belongs to its base or
// is a finding, and has no series.
func TestDelta(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, even)
		m := b.vault.Mount("pki")
		b.vault.Issuer(m, "ca", watchtest.IssuerOptions{})
		b.publish(m, "ca", 5) // number 1
		delta := func(base int64) {
			now := time.Now().Truncate(time.Second)
			b.vault.Build(m, "ca", &x509.RevocationList{Number: big.NewInt(base + 1), ThisUpdate: now, NextUpdate: now.Add(72 * time.Hour), ExtraExtensions: watchtest.DeltaOf(base)})
		}
		delta(1)
		b.vault.Set(m, pki.CRLConfig{AutoRebuild: true}, pki.TidyStatus{}, nil)
		b.once()
		b.wantRequests("delta", 0, 0)

		b.vault.Set(m, pki.CRLConfig{AutoRebuild: true, EnableDelta: true}, pki.TidyStatus{}, nil)
		time.Sleep(time.Hour)
		b.once()
		b.wantRequests("delta", 1, 1)
		b.wantRules()
		b.wantSeries("pkiwarden_crl_entries", "issuer=ca,mount=pki 5")

		delta(2) // its base was never published
		b.once()
		b.wantRules("warning crl-delta-without-base: mount pki, issuer ca, delta CRL")

		b.publish(m, "ca", 6) // number 2
		b.once()
		b.wantRules()

		// Rebuilt between the two requests: the full list is asked for again.
		b.vault.Serve(m, "ca", func(list []byte) io.Reader {
			old := strings.NewReader(string(list))
			var rebuilt sync.Once
			return readFunc(func(p []byte) (int, error) {
				rebuilt.Do(func() {
					b.vault.Serve(m, "ca", nil)
					b.publish(m, "ca", 7) // number 3
					delta(3)
				})
				return old.Read(p)
			})
		})
		whole := b.vault.Requests("200")
		b.once()
		b.wantRules()
		b.wantRequests("200", whole+2, whole+2)
		b.wantSeries("pkiwarden_crl_entries", "issuer=ca,mount=pki 7")

		// Where it may not be read whether there are deltas, Vault shows one or none.
		b.vault.Set(m, pki.CRLConfig{}, pki.TidyStatus{}, &pki.PermissionError{Path: "pki/config/crl", Capability: "read"})
		time.Sleep(2 * time.Hour)
		before := b.vault.Requests("delta")
		b.once()
		b.once()
		b.wantRequests("delta", before+1, before+1)
	})
}

// TestStaleDelta: a delta that is switched off is not judged, nor one that may
// be; one that is on and has passed its nextUpdate is a warning.
func TestStaleDelta(t *testing.T) {
	denied := &pki.PermissionError{Path: "pki/config/crl", Capability: "read"}
	for _, c := range []struct {
		name    string
		enabled bool
		denied  error
		entries int
		want    []string
	}{
		{"on", true, nil, 0, []string{"warning crl-stale: mount pki, issuer ca, delta CRL"}},
		{"on, with entries", true, nil, 2, []string{"warning crl-stale: mount pki, issuer ca, delta CRL"}},
		{"off", false, nil, 2, nil},
		{"not known, and empty", false, denied, 0, nil},
		{"not known, with entries", false, denied, 2, []string{"warning crl-stale: mount pki, issuer ca, delta CRL"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, even)
			m := b.vault.Mount("pki")
			b.vault.Issuer(m, "ca", watchtest.IssuerOptions{})
			b.publish(m, "ca", 5) // number 1
			now := time.Now().Truncate(time.Second)
			delta := &x509.RevocationList{Number: big.NewInt(2), ThisUpdate: now, NextUpdate: now.Add(2 * time.Hour), ExtraExtensions: watchtest.DeltaOf(1)}
			for n := range c.entries {
				delta.RevokedCertificateEntries = append(delta.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(int64(n + 1)), RevocationTime: now})
			}
			b.vault.Build(m, "ca", delta)
			b.vault.Set(m, pki.CRLConfig{AutoRebuild: true, EnableDelta: c.enabled}, pki.TidyStatus{}, c.denied)
			if err := b.run(time.Hour); err != nil {
				t.Fatal(err)
			}
			b.wantRules()
			if err := b.run(2 * time.Hour); err != nil {
				t.Fatal(err)
			}
			t.Log(c.name)
			b.wantRules(c.want...)

			// Switched off: said of at once, whatever was read before.
			b.vault.Set(m, pki.CRLConfig{AutoRebuild: true}, pki.TidyStatus{}, nil)
			if err := b.run(11 * time.Minute); err != nil {
				t.Fatal(err)
			}
			b.wantRules()
		})
	}
}

// TestCancelledUnit leaves nothing behind.
func TestCancelledUnit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, even)
		m := b.vault.Mount("pki")
		b.vault.Issuer(m, "ca", watchtest.IssuerOptions{})
		b.publish(m, "ca", 1)
		ctx, cancel := context.WithCancel(t.Context())
		b.vault.Serve(m, "ca", func([]byte) io.Reader {
			cancel()
			return readFunc(func([]byte) (int, error) { time.Sleep(time.Second); return 0, context.Canceled })
		})
		var err error
		for range 5 {
			if _, err = b.watch.OnceUntil(ctx); err != nil {
				break
			}
			time.Sleep(time.Second)
		}
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		b.vault.Serve(m, "ca", nil)
		if err := b.run(time.Minute); err != nil {
			t.Fatal(err)
		}
		b.wantSeries("pkiwarden_crl_entries", "issuer=ca,mount=pki 1")
	})
}
