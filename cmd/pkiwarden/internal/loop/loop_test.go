package loop

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

func start(t *testing.T, o Options) (l *Loop, end func()) {
	t.Helper()
	if o.Name == "" {
		o.Name = "test"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	l, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	return l, func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
	}
}

func TestLoopSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var runs []time.Duration
		_, end := start(t, Options{Interval: time.Minute, Once: func(context.Context) error {
			runs = append(runs, time.Since(begin))
			return nil
		}})
		time.Sleep(2*time.Minute + time.Second)
		end()
		want := []time.Duration{0, time.Minute, 2 * time.Minute}
		if !equal(runs, want) {
			t.Errorf("runs at %v, want %v", runs, want)
		}
	})
}

func TestLoopJitterStaysInBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		last := time.Now()
		var pauses []time.Duration
		_, end := start(t, Options{Interval: time.Minute, Jitter: 10 * time.Second, Once: func(context.Context) error {
			pauses = append(pauses, time.Since(last))
			last = time.Now()
			return nil
		}})
		time.Sleep(200 * time.Minute)
		end()
		distinct := map[time.Duration]bool{}
		for _, p := range pauses[1:] {
			distinct[p] = true
			if p < 50*time.Second || p > 70*time.Second {
				t.Errorf("pause %s, want within 1m ± 10s", p)
			}
		}
		if len(distinct) < 10 {
			t.Errorf("%d distinct pauses in %d, want jitter", len(distinct), len(pauses))
		}
	})
}

func TestLoopBacksOffAndRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var last time.Time
		var pauses []time.Duration
		var fail atomic.Bool
		fail.Store(true)
		l, end := start(t, Options{Interval: 10 * time.Second, Once: func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			if !last.IsZero() {
				pauses = append(pauses, time.Since(last))
			}
			last = time.Now()
			if fail.Load() {
				return errors.New("down")
			}
			return nil
		}})
		// Waking it all the time must not shorten the back-off.
		for range 6000 {
			time.Sleep(100 * time.Millisecond)
			l.Wake()
		}
		mu.Lock()
		for i, p := range pauses {
			nominal := min(time.Second<<i, time.Minute)
			if low, high := max(nominal*8/10, time.Second), nominal*12/10; p < low || p > high {
				t.Errorf("pause %d is %s, want %s to %s", i, p, low, high)
			}
		}
		if len(pauses) < 10 || len(pauses) > 20 {
			t.Errorf("%d runs in 10 minutes of failure, want 10 to 20", len(pauses))
		}
		mu.Unlock()

		fail.Store(false)
		time.Sleep(2 * time.Minute)
		fail.Store(true)
		mu.Lock()
		pauses = nil
		mu.Unlock()
		time.Sleep(14 * time.Second)
		mu.Lock()
		if len(pauses) < 2 || pauses[0] != 10*time.Second || pauses[1] > 1200*time.Millisecond {
			t.Errorf("pauses into a new outage %v, want 10s and about 1s", pauses)
		}
		mu.Unlock()
		end()
	})
}

func TestLoopWake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var runs atomic.Int64
		l, end := start(t, Options{Interval: time.Hour, Once: func(context.Context) error { runs.Add(1); return nil }})
		time.Sleep(time.Minute)
		for range 5 {
			l.Wake()
		}
		synctest.Wait()
		if runs.Load() != 2 {
			t.Errorf("%d runs after waking, want 2", runs.Load())
		}
		l.Wake()
		synctest.Wait()
		if runs.Load() != 2 {
			t.Errorf("%d runs within the shortest pause, want 2", runs.Load())
		}
		time.Sleep(minPause)
		synctest.Wait()
		if runs.Load() != 3 {
			t.Errorf("%d runs after the shortest pause, want 3", runs.Load())
		}
		end()
	})
}

// TestLoopEager: what failed is tried again when woken, else after its back-off,
// which goes on growing.
func TestLoopEager(t *testing.T) {
	for _, eager := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			var runs atomic.Int64
			l, end := start(t, Options{Interval: time.Hour, Eager: eager, Once: func(context.Context) error {
				if runs.Add(1) < 7 {
					return errors.New("away")
				}
				return nil
			}})
			defer end()
			time.Sleep(40 * time.Second) // six failures, and a pause of half a minute or so
			n := runs.Load()
			l.Wake()
			time.Sleep(time.Second)
			if woken := runs.Load() == n+1; woken != eager {
				t.Errorf("eager %t: %d runs in 40 s, then woken: %d", eager, n, runs.Load())
			}
			time.Sleep(2 * time.Minute)
			if runs.Load() != 7 {
				t.Errorf("eager %t: %d runs, want 7", eager, runs.Load())
			}
		})
	}
}

func TestLoopOnceUntil(t *testing.T) {
	for _, tc := range []struct {
		name string
		next time.Duration
		want time.Duration
	}{
		{"in time", 7 * time.Second, 7 * time.Second},
		{"past", -time.Hour, minNext},
		{"later than the interval", 24 * time.Hour, time.Minute},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				last := time.Now()
				var pause time.Duration
				_, end := start(t, Options{Interval: time.Minute, OnceUntil: func(context.Context) (time.Time, error) {
					pause, last = time.Since(last), time.Now()
					return last.Add(tc.next), nil
				}})
				time.Sleep(2 * time.Minute)
				end()
				if pause != tc.want {
					t.Errorf("pause %s, want %s", pause, tc.want)
				}
			})
		})
	}
}

func TestLoopTimeoutAndEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var took []time.Duration
		reg := prometheus.NewRegistry()
		m, err := NewMetrics(reg)
		if err != nil {
			t.Fatal(err)
		}
		_, end := start(t, Options{Interval: time.Minute, Timeout: 5 * time.Second, Metrics: m, Once: func(ctx context.Context) error {
			begin := time.Now()
			<-ctx.Done()
			took = append(took, time.Since(begin))
			return ctx.Err()
		}})
		time.Sleep(5*time.Second + time.Millisecond)
		if got := exposition(reg); !strings.Contains(got, `loop_runs_total{loop="test",result="error"} 1`) {
			t.Errorf("metrics after a timeout:\n%s", got)
		}
		time.Sleep(2 * time.Second)
		end()
		if len(took) != 2 || took[0] != 5*time.Second {
			t.Errorf("runs took %v, want one of 5s and one cut short", took)
		}
	})
}

func TestLoopMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // its clock starts at 2000-01-01T00:00:00Z
		reg := prometheus.NewRegistry()
		m, err := NewMetrics(reg)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		_, end := start(t, Options{Interval: time.Minute, Metrics: m, Once: func(context.Context) error {
			if n++; n == 1 {
				return errors.New("down")
			}
			return nil
		}})
		synctest.Wait()
		if got := exposition(reg); strings.Contains(got, "loop_last_success") {
			t.Errorf("a heartbeat before the first success:\n%s", got)
		}
		time.Sleep(10 * time.Second)
		got := exposition(reg)
		for _, want := range []string{
			`loop_last_success_timestamp_seconds{loop="test"} 9.466848`,
			`loop_runs_total{loop="test",result="error"} 1`,
			`loop_runs_total{loop="test",result="ok"} 1`,
		} {
			if !strings.Contains(got, want) {
				t.Errorf("metrics lack %s:\n%s", want, got)
			}
		}
		end()
		if got := exposition(reg); strings.Contains(got, `loop="test"`) {
			t.Errorf("series outlive the loop:\n%s", got)
		}
	})
}

func TestLoopPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		n := 0
		_, end := start(t, Options{
			Interval: time.Minute,
			Log:      slog.New(slog.NewTextHandler(&log, nil)),
			Once: func(context.Context) error {
				switch n++; n {
				case 1:
					panic("key is hunter2")
				case 2:
					var none []int
					_ = none[n]
				}
				return nil
			},
		})
		time.Sleep(30 * time.Second)
		end()
		text := log.String()
		if strings.Contains(text, "hunter2") {
			t.Errorf("the log holds the panic's value:\n%s", text)
		}
		for _, want := range []string{"a value of type string", "index out of range [2] with length 0", "TestLoopPanic", "msg=recovered", "failures=2"} {
			if !strings.Contains(text, want) {
				t.Errorf("the log lacks %q:\n%s", want, text)
			}
		}
	})
}

func TestNewRefuses(t *testing.T) {
	once := func(context.Context) error { return nil }
	until := func(context.Context) (time.Time, error) { return time.Time{}, nil }
	for name, o := range map[string]Options{
		"no name":       {Interval: time.Second, Once: once},
		"no interval":   {Name: "x", Once: once},
		"jitter":        {Name: "x", Interval: time.Second, Jitter: time.Second, Once: once},
		"timeout":       {Name: "x", Interval: time.Second, Timeout: -1, Once: once},
		"no unit":       {Name: "x", Interval: time.Second},
		"two functions": {Name: "x", Interval: time.Second, Once: once, OnceUntil: until},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func equal(a, b []time.Duration) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func exposition(g prometheus.Gatherer) string {
	w := httptest.NewRecorder()
	promhttp.HandlerFor(g, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

// A unit that paces itself names its next time also when something failed, and
// is woken then; it has no heartbeat all the same.
func TestLoopOwnPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		m, err := NewMetrics(reg)
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		var at []time.Duration
		l, end := start(t, Options{Interval: time.Minute, OwnPace: true, Metrics: m, OnceUntil: func(context.Context) (time.Time, error) {
			at = append(at, time.Since(begin))
			if len(at) == 4 {
				return time.Time{}, errors.New("all down") // and no time: as without
			}
			return time.Now().Add(20 * time.Second), errors.New("one of ten is down")
		}})
		time.Sleep(45 * time.Second)
		l.Wake()
		time.Sleep(1300 * time.Millisecond) // the first pause, with its jitter
		end()
		want := []time.Duration{0, 20 * time.Second, 40 * time.Second, 45 * time.Second, 46 * time.Second}
		if len(at) != len(want) {
			t.Fatalf("ran at %v, want %v", at, want)
		}
		for n := range want {
			if d := at[n] - want[n]; d < 0 || d > 250*time.Millisecond {
				t.Errorf("ran at %v, want %v", at, want)
			}
		}
		if got := exposition(reg); strings.Contains(got, "loop_last_success") {
			t.Errorf("a heartbeat:\n%s", got)
		}
	})
}
