package tidier_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pkiwarden/pkiwarden/pki"
	"github.com/pkiwarden/pkiwarden/pki/tidier"
	"github.com/pkiwarden/pkiwarden/pki/tidier/tidiertest"
)

const hour = time.Hour

// world is a Vault with one mount, of which 300 of 400 revocations are surely
// reclaimable, a state, and any number of instances that share both.
type world struct {
	t     *testing.T
	vault *tidiertest.Vault
	mount *tidiertest.Mount
	state *tidiertest.State

	policy   pki.Policy
	findings []pki.Finding
	registry *prometheus.Registry

	auto  bool // the pause is chosen
	log   *slog.Logger
	watch func(pki.Mount, pki.TidyStatus)

	sampling   func(m pki.Mount, read, of int64)
	sampleSize int
}

func newWorld(t *testing.T, change ...func(*tidiertest.Mount)) *world {
	t.Helper()
	m := ripeMount("pki")
	for _, f := range change {
		f(m)
	}
	v, err := tidiertest.New(time.Now, m)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Minute) // lists are a minute old
	return &world{
		t: t, vault: v, mount: m, state: new(tidiertest.State),
		policy: pki.Policy{
			Enabled:      true,
			SafetyBuffer: 72 * hour,
			Trigger:      pki.Trigger{ReclaimableShare: 0.2, AtLeastEvery: 168 * hour},
			MinInterval:  hour,
			Rotate:       true,
		},
	}
}

func ripeMount(path string) *tidiertest.Mount {
	now := time.Now()
	m := &tidiertest.Mount{
		Mount:      pki.Mount{Path: path, UUID: "UUID-" + path},
		LongestTTL: pki.LongestTTL{Duration: 24 * hour, Source: "max_ttl of role web"},
		Pace:       20 * time.Second,
	}
	m.Revoke(300, now.Add(-200*hour), now.Add(-190*hour))
	m.Revoke(100, now.Add(-hour), now.Add(hour))
	return m
}

// instance is one process's tidier.
func (w *world) instance(name string) *tidier.Tidier {
	w.t.Helper()
	w.registry = prometheus.NewRegistry()
	tr, err := tidier.New(tidier.Options{
		Vault: w.vault, CRLs: w.vault, State: w.state, Policy: w.policy,
		Identity: name, Registerer: w.registry, AutoPause: w.auto, Watch: w.watch,
		Sampling: w.sampling, SampleSize: w.sampleSize,
		Log:    cmp.Or(w.log, slog.New(slog.NewTextHandler(w.t.Output(), nil))),
		Report: func(f []pki.Finding) { w.findings = f },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return tr
}

func (w *world) once(tr *tidier.Tidier) {
	w.t.Helper()
	if err := tr.Once(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// record is what is in the state.
func (w *world) record() pki.Record {
	w.t.Helper()
	data, _, err := w.state.Get(context.Background(), w.mount.Mount.StateKey("tidy", "0F3A-cluster"))
	if err != nil {
		w.t.Fatal(err)
	}
	var r pki.Record
	if data != nil {
		if err := json.Unmarshal(data, &r); err != nil {
			w.t.Fatal(err)
		}
	}
	return r
}

// concluded checks the only or latest run of the record.
func (w *world) concluded(runs int, outcome pki.Outcome, says string) pki.Run {
	w.t.Helper()
	r := w.record()
	if r.Run != nil {
		w.t.Fatalf("run is still open at step %s", r.Run.Step)
	}
	if len(r.History) != runs {
		w.t.Fatalf("%d runs in the history, want %d: %+v", len(r.History), runs, r.History)
	}
	last := r.History[runs-1]
	if last.Outcome != outcome || !strings.Contains(last.Explanation, says) {
		w.t.Fatalf("run ended %s: %s\nwant %s: … %s …", last.Outcome, last.Explanation, outcome, says)
	}
	return last
}

// entries is the number of entries of the list that Vault serves.
func (w *world) entries() int64 {
	w.t.Helper()
	crls, err := w.vault.Measure(context.Background(), w.mount.Mount)
	if err != nil {
		w.t.Fatal(err)
	}
	return pki.SizeOf(crls).Entries
}

// value is a series' value, -1 where it is absent.
func (w *world) value(name string, labels ...string) float64 {
	w.t.Helper()
	families, err := w.registry.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var has []string
			for _, l := range m.GetLabel() {
				has = append(has, l.GetValue())
			}
			if f.GetName() == name && strings.Join(has, ",") == strings.Join(labels, ",") {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return -1
}

// near allows for ECDSA signatures, which differ in length by a few octets.
func near(got, want int64) bool { return got-want >= -4 && got-want <= 4 }

func (w *world) want(name string, got, want float64) {
	w.t.Helper()
	if got != want {
		w.t.Errorf("%s is %v, want %v", name, got, want)
	}
}

func TestOnceTidies(t *testing.T) {
	for _, auto := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, func(m *tidiertest.Mount) { m.Config.AutoRebuild = auto })
			tr := w.instance("pod-1")
			w.once(tr)

			run := w.concluded(1, pki.OutcomeOK, "400 entries")
			if run.State != pki.RunFinished || *run.Deleted != 300 || run.Predicted.Reclaimable != 300 || run.After.Entries != 100 {
				t.Errorf("run %+v", run)
			}
			if !near(run.After.Bytes, run.Predicted.BytesAfter) {
				t.Errorf("%d bytes after, predicted %d", run.After.Bytes, run.Predicted.BytesAfter)
			}
			if run.Rotated != auto || (w.mount.Rotations == 1) != auto {
				t.Errorf("auto_rebuild %t: rotated %t, %d times", auto, run.Rotated, w.mount.Rotations)
			}
			w.want("entries", float64(w.entries()), 100)
			w.want("ok", w.value("pkiwarden_tidy_runs_total", "pki", "ok"), 1)
			w.want("failed", w.value("pkiwarden_tidy_runs_total", "pki", "failed"), 0)
			w.want("reclaimable", w.value("pkiwarden_crl_reclaimable_entries", "pki"), 0)
			if got := w.value("pkiwarden_tidy_last_effective_timestamp_seconds", "pki"); time.Since(time.UnixMilli(int64(got*1000))) > 10*time.Second {
				t.Errorf("last effective at %v", got)
			}
			// What is left was revoked an hour ago, and lives a day at the longest.
			if got := w.value("pkiwarden_tidy_next_timestamp_seconds", "pki"); (time.Until(time.Unix(int64(got), 0)) - 95*hour).Abs() > hour {
				t.Errorf("next at %v", got)
			}
			if len(w.findings) != 0 {
				t.Errorf("findings %+v", w.findings)
			}

			w.once(tr)
			w.want("runs started", float64(w.mount.Runs), 1)
			tr.Unregister()
			w.want("runs after unregistering", w.value("pkiwarden_tidy_runs_total", "pki", "ok"), -1)
		})
	}
}

func TestOnceDisabledChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.policy.Enabled = false
		w.once(w.instance("pod-1"))
		if w.mount.Runs != 0 || w.record().Version != 0 {
			t.Errorf("%d runs, record %+v", w.mount.Runs, w.record())
		}
		if len(w.findings) != 1 || w.findings[0].Rule != "tidy-would-run" {
			t.Errorf("findings %+v", w.findings)
		}
		w.want("reclaimable", w.value("pkiwarden_crl_reclaimable_entries", "pki"), 300)
		w.want("next", w.value("pkiwarden_tidy_next_timestamp_seconds", "pki"), -1)
		w.want("runs", w.value("pkiwarden_tidy_runs_total", "pki", "ok"), -1)
	})
}

func TestUnknownIsAbsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(m *tidiertest.Mount) { m.LongestTTL = pki.LongestTTL{} })
		w.policy.Trigger.AtLeastEvery = 0
		w.unreadable()
		tr := w.instance("pod-1")
		w.once(tr)
		w.want("reclaimable", w.value("pkiwarden_crl_reclaimable_entries", "pki"), -1)
		w.want("next", w.value("pkiwarden_tidy_next_timestamp_seconds", "pki"), -1)
		w.want("effective", w.value("pkiwarden_tidy_last_effective_timestamp_seconds", "pki"), -1)

		w.vault.Change(func(h *pki.Health, _ []*tidiertest.Mount) { h.Sealed = true })
		if err := tr.Once(t.Context()); !errors.Is(err, pki.ErrSealed) {
			t.Errorf("sealed: %v", err)
		}
	})
}

func TestOnceGivesUpFollowingInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(m *tidiertest.Mount) { m.Pace = 10 * time.Minute })
		tr := w.instance("pod-1")
		begin := time.Now()
		w.once(tr)
		if took := time.Since(begin); took < 2*time.Minute || took > 2*time.Minute+10*time.Second {
			t.Errorf("followed for %s", took)
		}
		if r := w.record(); r.Run == nil || r.Run.Step != pki.StepRunning {
			t.Fatalf("record %+v", r)
		}
		for range 4 {
			w.once(tr)
		}
		w.concluded(1, pki.OutcomeOK, "")
		w.want("runs started", float64(w.mount.Runs), 1)
	})
}

func TestOneMountAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		small, big := w.mount, ripeMount("big")
		big.Revoke(600, time.Now().Add(-200*hour), time.Now().Add(-190*hour))
		v, err := tidiertest.New(time.Now, small, big)
		if err != nil {
			t.Fatal(err)
		}
		w.vault = v
		var order []string
		running := ""
		v.Before = func(op string, m pki.Mount) error {
			if op == "StartTidy" {
				order = append(order, m.Path)
				if running != "" {
					t.Errorf("%s started beside %s", m.Path, running)
				}
				running = m.Path
			}
			if op == "Measure" && m.Path == running {
				running = ""
			}
			return nil
		}
		w.once(w.instance("pod-1"))
		if got := strings.Join(order, " "); got != "big pki" {
			t.Errorf("started %q, want the neediest first", got)
		}
		if small.Runs != 1 || big.Runs != 1 || small.Status.FinishedAt.Before(big.Status.FinishedAt) {
			t.Errorf("runs %d and %d", small.Runs, big.Runs)
		}
	})
}

func TestOtherMountsRunHoldsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		other := ripeMount("other")
		other.Pace = hour
		v, err := tidiertest.New(time.Now, w.mount, other)
		if err != nil {
			t.Fatal(err)
		}
		w.vault = v
		if _, err := v.StartTidy(t.Context(), other.Mount, pki.TidyParams{SafetyBuffer: 72 * hour}); err != nil {
			t.Fatal(err)
		}
		reports, err := w.instance("job").Tidy(t.Context(), tidier.Request{Mounts: []string{"pki"}, Wait: true})
		if err != nil || len(reports) != 1 || reports[0].Run || !strings.Contains(reports[0].Reason, "a tidy is on in mount other") {
			t.Errorf("%+v, %v", reports, err)
		}
	})
}

// unreadable keeps certificates from being read, so that estimates rest on dates
// alone.
func (w *world) unreadable() {
	w.vault.Before = func(op string, _ pki.Mount) error {
		if op == "Certificate" {
			return errors.New("parsing certificate: x509: malformed")
		}
		return nil
	}
}

func TestNothingReclaimedIsExplained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(m *tidiertest.Mount) {
			m.Revoked = nil
			// Issued with an explicit not_after: longer than any role allows.
			m.Revoke(100, time.Now().Add(-200*hour), time.Now().Add(hour))
		})
		w.unreadable()
		tr := w.instance("pod-1")
		w.once(tr)
		w.concluded(1, pki.OutcomeNoEffect, "certificates live longer than 24h0m0s (max_ttl of role web), which the prediction of 100 rests on")
		w.want("no_effect", w.value("pkiwarden_tidy_runs_total", "pki", "no_effect"), 1)
		if len(w.findings) != 1 || w.findings[0].Rule != "tidy-no-effect" {
			t.Errorf("findings %+v", w.findings)
		}
		// The minimum interval doubles.
		time.Sleep(hour + time.Minute)
		w.once(tr)
		w.want("runs after an hour", float64(w.mount.Runs), 1)
		time.Sleep(hour)
		w.once(tr)
		w.want("runs after two hours", float64(w.mount.Runs), 2)
	})
}

func TestErrorAfterDeletingIsRepaired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(m *tidiertest.Mount) { m.RunError = "error storing CRL: connection lost" })
		w.once(w.instance("pod-1"))
		run := w.concluded(1, pki.OutcomeOK, "")
		if run.State != pki.RunError || !run.Rotated || w.entries() != 100 {
			t.Errorf("state %s, rotated %t, %d entries", run.State, run.Rotated, w.entries())
		}
		if len(w.findings) != 1 || w.findings[0].Rule != "tidy-failed" || !strings.Contains(w.findings[0].Summary, "connection lost") {
			t.Errorf("findings %+v", w.findings)
		}
	})
}

func TestRebuildOverTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.mount.RebuildErr = &pki.TooLargeError{Limit: 1000, Message: "put failed due to value being too large"}
		w.once(w.instance("pod-1"))
		run := w.concluded(1, pki.OutcomeFailed, "300 revocations were deleted, and the CRL was not rebuilt: CRL over the limit of Vault's storage")
		if run.State != pki.RunError || run.Rotated || w.mount.Rotations != 1 {
			t.Errorf("state %s, rotated %t in %d attempts", run.State, run.Rotated, w.mount.Rotations)
		}
		if len(w.findings) != 2 || w.findings[0].Rule != "tidy-failed" || w.findings[1].Rule != "tidy-stale-crl" {
			t.Errorf("findings %+v", w.findings)
		}
	})
}

func TestPermissionLost(t *testing.T) {
	denied := func(op, path, capability string) func(string, pki.Mount) error {
		return func(o string, _ pki.Mount) error {
			if o == op {
				return &pki.PermissionError{Path: path, Capability: capability}
			}
			return nil
		}
	}
	t.Run("tidy", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.vault.Before = denied("StartTidy", "pki/tidy", "update")
			tr := w.instance("pod-1")
			for range 3 { // held back: no hot loop
				w.once(tr)
				w.concluded(1, pki.OutcomeRefused, `"pki/tidy"`)
				w.want("refused", w.value("pkiwarden_tidy_runs_total", "pki", "refused"), 1)
				if len(w.findings) != 1 || w.findings[0].Rule != "tidy-permission" || !strings.Contains(w.findings[0].Remedy, `path "pki/tidy" { capabilities = ["update"] }`) {
					t.Errorf("findings %+v", w.findings)
				}
			}
			for n := 2; n < 5; n++ { // the interval stays: nothing speaks against a run
				time.Sleep(hour + time.Second)
				w.once(tr)
				w.concluded(n, pki.OutcomeRefused, "")
			}

			// Who asks is answered, each time, and is not held back once granted.
			for n := 5; n < 7; n++ {
				reports, err := w.instance("job").Tidy(t.Context(), tidier.Request{Wait: true})
				if err == nil || !strings.Contains(err.Error(), `needs capability "update" on path "pki/tidy"`) || len(reports) != 1 || reports[0].Run {
					t.Fatalf("%+v, %v", reports, err)
				}
				w.concluded(n, pki.OutcomeRefused, "")
			}
			w.vault.Before = nil
			reports, err := w.instance("job").Tidy(t.Context(), tidier.Request{Wait: true})
			if err != nil || len(reports) != 1 || !reports[0].Run {
				t.Fatalf("%+v, %v", reports, err)
			}
			w.once(tr)
			if len(w.findings) != 0 {
				t.Errorf("findings %+v", w.findings)
			}
		})
	})
	t.Run("status", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			status := denied("TidyStatus", "pki/tidy-status", "read")
			config := denied("CRLConfig", "pki/config/crl", "read")
			w.vault.Before = func(op string, m pki.Mount) error { return errors.Join(status(op, m), config(op, m)) }
			w.once(w.instance("pod-1"))
			if w.mount.Runs != 0 || len(w.findings) != 1 || w.findings[0].Rule != "tidy-permission" {
				t.Fatalf("%d runs, findings %+v", w.mount.Runs, w.findings)
			}
			const first, second = `permission denied: needs capability "read" on path "pki/tidy-status"`, `permission denied: needs capability "read" on path "pki/config/crl"`
			if f := w.findings[0]; f.Evidence != first+"; "+second || !strings.Contains(f.Summary, "tidy-status") || !strings.Contains(f.Remedy, `path "pki/config/crl"`) {
				t.Errorf("finding %+v", f)
			}

			// Who asks is told by the exit code that nothing was done.
			reports, err := w.instance("job").Tidy(t.Context(), tidier.Request{Wait: true})
			var missing *pki.PermissionError
			if !errors.As(err, &missing) || !strings.Contains(err.Error(), first) || len(reports) != 1 || reports[0].Run || !strings.Contains(reports[0].Reason, first) {
				t.Errorf("%+v, %v", reports, err)
			}
			reports, err = w.instance("job").Tidy(t.Context(), tidier.Request{DryRun: true})
			if err != nil || len(reports) != 1 || !strings.Contains(reports[0].Reason, "; a run would not be begun: "+first) {
				t.Errorf("dry run: %+v, %v", reports, err)
			}
		})
	})
	t.Run("in mid-run", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.vault.Before = func(op string, _ pki.Mount) error {
				if op == "TidyStatus" && w.mount.Runs > 0 {
					return &pki.PermissionError{Path: "pki/tidy-status", Capability: "read"}
				}
				return nil
			}
			tr := w.instance("pod-1")
			for range 3 { // one finding, whether it is met in mid-run or at a first look
				w.once(tr)
				if len(w.findings) != 1 || w.findings[0].Rule != "tidy-permission" || !strings.Contains(w.findings[0].Evidence, "pki/tidy-status") {
					t.Errorf("findings %+v", w.findings)
				}
			}
			w.want("tidy_running while nobody can tell", w.value("pkiwarden_tidy_running", "pki"), -1)
			w.vault.Before = nil // granted again
			w.once(tr)
			w.concluded(1, pki.OutcomeOK, "")
			w.want("runs", float64(w.mount.Runs), 1)
		})
	})
	t.Run("rotation", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, func(m *tidiertest.Mount) { m.Config.AutoRebuild = true })
			w.vault.Before = denied("Rotate", "pki/crl/rotate", "read")
			w.once(w.instance("pod-1"))
			w.concluded(1, pki.OutcomeFailed, `the CRL was not rebuilt: permission denied: needs capability "read" on path "pki/crl/rotate"`)
			if !slices.ContainsFunc(w.findings, func(f pki.Finding) bool {
				return f.Rule == "tidy-permission" && strings.Contains(f.Evidence, "pki/crl/rotate")
			}) {
				t.Errorf("findings %+v", w.findings)
			}
		})
	})
}

func TestStatusLost(t *testing.T) {
	for _, effective := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			go func() {
				time.Sleep(10 * time.Second)
				w.vault.Change(func(_ *pki.Health, mounts []*tidiertest.Mount) {
					if effective {
						mounts[0].Revoked = mounts[0].Revoked[200:] // deleted until then
					}
					mounts[0].Forget()
				})
			}()
			w.once(w.instance("pod-1"))
			want, says := pki.OutcomeInterrupted, "forgot"
			if effective {
				want, says = pki.OutcomeOK, "200 and"
			}
			run := w.concluded(1, want, says)
			if run.State != pki.RunUnknown || run.Deleted != nil || !run.Rotated {
				t.Errorf("state %s, deleted %v, rotated %t", run.State, run.Deleted, run.Rotated)
			}
		})
	}
}
