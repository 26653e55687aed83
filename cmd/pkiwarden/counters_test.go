package main

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/config"
	"github.com/pkiwarden/pkiwarden/pki"
	"github.com/pkiwarden/pkiwarden/pki/tidier"
	"github.com/pkiwarden/pkiwarden/pki/tidier/tidiertest"
)

// TestCountersSurviveAReload: runs of tidy are counted on by the next instance
// of the process, and by one that leads again; another process begins anew.
func TestCountersSurviveAReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &tidiertest.Mount{Mount: pki.Mount{Path: "pki"}, LongestTTL: pki.LongestTTL{Duration: time.Hour}, Pace: 10 * time.Second}
		v, err := tidiertest.New(time.Now, m)
		if err != nil {
			t.Fatal(err)
		}
		process := &app{now: time.Now}
		newOne := func(a *app) *instance {
			cfg, err := config.Parse("test.yaml", nil, func(string) string { return "" })
			if err != nil {
				t.Fatal(err)
			}
			i, err := newInstance(a, slog.New(slog.DiscardHandler), cfg)
			if err != nil {
				t.Fatal(err)
			}
			return i
		}
		state := new(tidiertest.State)
		lead := func(i *instance, revoke int) *tidier.Tidier {
			v.Change(func(_ *pki.Health, mounts []*tidiertest.Mount) {
				mounts[0].Revoke(revoke, time.Now().Add(-200*time.Hour), time.Now().Add(-190*time.Hour))
			})
			if err := v.Rotate(t.Context(), m.Mount); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Hour)
			tr, err := tidier.New(tidier.Options{
				Vault: v, CRLs: v, State: state, Registerer: i.registry,
				Policy: pki.Policy{Enabled: true, SafetyBuffer: 72 * time.Hour, MinInterval: time.Hour, Trigger: pki.Trigger{ReclaimableShare: 0.2}},
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := tr.Once(t.Context()); err != nil {
				t.Fatal(err)
			}
			return tr
		}
		want := func(i *instance, result string, n float64) {
			t.Helper()
			if got := value(t, i, "pkiwarden_tidy_runs_total", map[string]string{"result": result}); got != n {
				t.Errorf("%s: %v, want %v", result, got, n)
			}
		}

		first := newOne(process)
		tr := lead(first, 20)
		want(first, "ok", 1)
		tr.Unregister() // it leads no longer, and then again
		want(first, "ok", -1)
		lead(first, 20)
		want(first, "ok", 2)
		first.registry.End()

		second := newOne(process)
		want(second, "ok", -1)
		lead(second, 0)
		want(second, "ok", 2)
		want(second, "failed", 0)

		want(newOne(process), "ok", -1)
		another := newOne(&app{now: time.Now})
		lead(another, 0)
		want(another, "ok", 0)
	})
}
