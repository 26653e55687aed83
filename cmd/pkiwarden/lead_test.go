package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/config"
)

// leading is an instance under this configuration that opens nothing.
func leading(t *testing.T, text string) (*instance, *bytes.Buffer) {
	t.Helper()
	cfg, err := config.Parse("test.yaml", []byte(text), func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	i, err := newInstance(&app{now: time.Now}, slog.New(slog.NewTextHandler(&log, nil)), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return i, &log
}

// value is that of the series with this name and these labels; -1 is none.
func value(t *testing.T, i *instance, name string, labels map[string]string) float64 {
	t.Helper()
	families, err := i.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
	series:
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if want, asked := labels[l.GetName()]; asked && l.GetValue() != want {
					continue series
				}
			}
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return -1
}

// TestLeadCannotStart: work that cannot be prepared is tried again, and is a
// loop that has never worked and a finding. One part does not hold back another.
func TestLeadCannotStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, log := leading(t, "certificates: [{name: a, secret: {namespace: vault, name: a}}]\n")
		i.cfg.Vault.Address = "http://127.0.0.1:18300/x" // which the configuration's check refuses
		ctx, cancel := context.WithCancel(t.Context())
		go i.lead(ctx)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		for _, name := range []string{"crl", "certificates"} {
			if n := value(t, i, "pkiwarden_loop_runs_total", map[string]string{"loop": name, "result": "error"}); n < 5 || n > 12 {
				t.Errorf("loop %s: %v failed runs after 5 minutes, want 5 to 12", name, n)
			}
			if at := value(t, i, "pkiwarden_loop_last_success_timestamp_seconds", map[string]string{"loop": name}); at != -1 {
				t.Errorf("loop %s has worked at %v", name, at)
			}
		}
		if n := value(t, i, "pkiwarden_findings", map[string]string{"rule": "work-not-started", "severity": "unknown"}); n != 2 {
			t.Errorf("%v findings work-not-started, want 2", n)
		}
		for _, want := range []string{`have \"http://127.0.0.1:18300/x\"`, "certificates are declared, and there is no cluster"} {
			if n := strings.Count(log.String(), "msg=failing loop=") + strings.Count(log.String(), "msg=failing\n"); !strings.Contains(log.String(), want) || n != 2 {
				t.Errorf("want %q, and one line for each of two failures, have %d:\n%s", want, n, log)
			}
		}
		cancel()
		synctest.Wait()
		if all := i.findings.All(); len(all) != 0 {
			t.Errorf("findings of one that leads no longer: %v", all)
		}
	})
}

// TestPartStartsLater: once it can be prepared it runs, the finding clears, and
// the attempts leave no success that nothing was done for.
func TestPartStartsLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, log := leading(t, "")
		attempts, running, ended := 0, false, false
		p := part{loop: "crl", does: "watching the CRLs, and tidy", prepare: func() ([]func(context.Context) error, func(), error) {
			if attempts++; attempts == 2 {
				panic("prepared badly")
			}
			if attempts < 4 {
				return nil, nil, errors.New("not yet")
			}
			run := func(ctx context.Context) error { running = true; <-ctx.Done(); return nil }
			return []func(context.Context) error{run}, func() { ended = true }, nil
		}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- i.do(ctx, p) }()
		time.Sleep(time.Hour)
		synctest.Wait()
		if attempts != 4 || !running || ended {
			t.Errorf("%d attempts, running %t, ended %t; want 4, running, not ended", attempts, running, ended)
		}
		if all := i.findings.All(); len(all) != 0 || !strings.Contains(log.String(), "finding cleared") {
			t.Errorf("the finding has not cleared: %v\n%s", all, log)
		}
		if at := value(t, i, "pkiwarden_loop_last_success_timestamp_seconds", map[string]string{"loop": "crl"}); at != -1 {
			t.Errorf("preparing it counts as a success at %v", at)
		}
		cancel()
		if err := <-done; err != nil || !ended {
			t.Errorf("ending: %v, ended %t", err, ended)
		}
	})
}

// TestPreparedTwice: what fails half-way leaves nothing behind that would keep
// the next attempt from working.
func TestPreparedTwice(t *testing.T) {
	i, _ := leading(t, "vault: {address: 'http://127.0.0.1:18300'}\n")
	good := i.cfg.Tidy.SafetyBuffer
	i.cfg.Tidy.SafetyBuffer = time.Millisecond
	for range 2 {
		if _, _, err := i.watching(); err == nil || !strings.Contains(err.Error(), "safety buffer 1ms") {
			t.Fatalf("a policy that is wrong: %v", err)
		}
	}
	i.cfg.Tidy.SafetyBuffer = good
	_, end, err := i.watching()
	if err != nil {
		t.Fatal(err)
	}
	end()
}
