package main

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/config"
)

// TestReloadIsFound: a changed file is found by the next look, also one that is
// written in place within the same second at the same size, one that another
// takes the place of, and, within minutes, one that keeps its time.
func TestReloadIsFound(t *testing.T) {
	const first, second = "crl: {interval: 11m}\n", "crl: {interval: 22m}\n"
	for _, test := range []struct {
		name   string
		age    time.Duration // of the file at the start
		change func(t *testing.T, file string, now time.Time)
		within time.Duration
	}{
		{"in place, at once", 0, func(t *testing.T, file string, now time.Time) {
			write(t, file, second, now)
		}, 2 * reloadInterval},
		{"in place, with the time of the first", 0, func(t *testing.T, file string, now time.Time) {
			write(t, file, second, now.Add(-time.Second))
		}, 2 * reloadInterval},
		{"in place, of an old file", time.Hour, func(t *testing.T, file string, now time.Time) {
			write(t, file, second, now)
		}, 2 * reloadInterval},
		{"replaced by one of the same time", time.Hour, func(t *testing.T, file string, now time.Time) {
			write(t, file+".new", second, now.Add(-time.Hour-time.Second))
			if err := os.Rename(file+".new", file); err != nil {
				t.Fatal(err)
			}
		}, 2 * reloadInterval},
		{"in place, with the time of an old file", time.Hour, func(t *testing.T, file string, now time.Time) {
			write(t, file, second, now.Add(-time.Hour-time.Second))
		}, rereadInterval + 2*reloadInterval},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "config.yaml")
			synctest.Test(t, func(t *testing.T) {
				write(t, file, first, time.Now().Add(-test.age))
				a := &app{stderr: io.Discard, env: func(string) string { return "" }, now: time.Now, configFile: file}
				f, err := a.watchConfig()
				if err != nil {
					t.Fatal(err)
				}
				f.log = slog.New(slog.DiscardHandler)
				found := make(chan *config.Config)
				go func() { found <- f.watch(t.Context(), func(bool, time.Time) {}) }()
				time.Sleep(time.Second)
				test.change(t, file, time.Now())
				start := time.Now()
				if cfg := <-found; cfg == nil || cfg.CRL.Interval != 22*time.Minute {
					t.Errorf("got %+v", cfg)
				}
				if took := time.Since(start); took > test.within {
					t.Errorf("found after %s", took)
				}
			})
		})
	}
}

// write gives the file that content and time.
func write(t *testing.T, file, content string, at time.Time) {
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(file, at, at); err != nil {
		t.Fatal(err)
	}
}

// TestReloadOnSignal: SIGHUP reads a file again that looks unchanged.
func TestReloadOnSignal(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	synctest.Test(t, func(t *testing.T) {
		old := time.Now().Add(-time.Hour)
		write(t, file, "crl: {interval: 11m}\n", old)
		a := &app{stderr: io.Discard, env: func(string) string { return "" }, now: time.Now, configFile: file}
		f, err := a.watchConfig()
		if err != nil {
			t.Fatal(err)
		}
		hup := make(chan os.Signal, 1)
		f.log, f.hup = slog.New(slog.DiscardHandler), hup
		write(t, file, "crl: {interval: 22m}\n", old)
		hup <- os.Interrupt // which one it is does not matter
		start := time.Now()
		if cfg := f.watch(t.Context(), func(bool, time.Time) {}); cfg == nil || cfg.CRL.Interval != 22*time.Minute {
			t.Errorf("got %+v", cfg)
		}
		if took := time.Since(start); took >= reloadInterval {
			t.Errorf("found after %s", took)
		}
	})
}
