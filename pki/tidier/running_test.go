package tidier_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
	"github.com/pkiwarden/pkiwarden/pki/tidier"
	"github.com/pkiwarden/pkiwarden/pki/tidier/tidiertest"
)

// usually makes Vault answer small reads in some time, and in another from an
// instant on.
func (w *world) usually(took time.Duration, slow time.Duration, from time.Time) {
	w.vault.Before = func(op string, _ pki.Mount) error {
		if op != "TidyStatus" && op != "Health" {
			return nil
		}
		if time.Now().Before(from) {
			time.Sleep(took)
		} else {
			time.Sleep(slow)
		}
		return nil
	}
}

func TestSlowVaultStopsOurRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(m *tidiertest.Mount) { m.Pace = 10 * time.Minute })
		w.policy.Pause = 10 * time.Millisecond
		w.usually(2*time.Millisecond, 800*time.Millisecond, time.Now().Add(10*time.Second))
		tr := w.instance("pod-1")
		w.once(tr)
		run := w.concluded(1, pki.OutcomeOK, "250 and")
		if run.State != pki.RunCancelled || *run.Deleted != 150 || !run.Rotated || !strings.Contains(run.Cancel, "Vault got slow: Vault answers small reads in 800ms, usually in 2ms") {
			t.Errorf("run %+v", run)
		}
		if !strings.Contains(run.Explanation, "stopped early: Vault got slow") {
			t.Errorf("explanation %q", run.Explanation)
		}
		w.want("cancels", float64(w.mount.Cancels), 1)
		w.want("entries", float64(w.entries()), 250)
		w.want("first pause in ms", float64(w.mount.Params.Pause.Milliseconds()), 10)

		// The next one is gentler, and the one after that as before.
		w.usually(2*time.Millisecond, 0, time.Now().Add(1000*hour))
		for i, pause := range []float64{20, 10} {
			w.vault.Change(func(_ *pki.Health, mounts []*tidiertest.Mount) {
				mounts[0].Revoke(300, time.Now().Add(-200*hour), time.Now().Add(-190*hour))
				mounts[0].Pace = time.Minute
			})
			if err := w.vault.Rotate(t.Context(), w.mount.Mount); err != nil {
				t.Fatal(err)
			}
			time.Sleep(hour + time.Minute)
			w.once(tr)
			w.concluded(2+i, pki.OutcomeOK, "")
			w.want("pause in ms", float64(w.mount.Params.Pause.Milliseconds()), pause)
		}
	})
}

// What is slow by habit, or for a moment, stops nothing; nor does anybody stop
// a run that is not ours.
func TestSlowVaultLeavesTheRun(t *testing.T) {
	tests := []struct {
		name  string
		setup func(*world)
	}{
		{"always slow", func(w *world) { w.usually(800*time.Millisecond, 800*time.Millisecond, time.Now()) }},
		{"slow and nobody minds", func(w *world) {
			w.usually(2*time.Millisecond, 400*time.Millisecond, time.Now().Add(10*time.Second))
		}},
		{"for a moment", func(w *world) {
			from := time.Now().Add(10 * time.Second)
			w.vault.Before = func(op string, _ pki.Mount) error {
				if op == "TidyStatus" && time.Now().After(from) && time.Now().Before(from.Add(6*time.Second)) {
					time.Sleep(2 * time.Second)
				}
				return nil
			}
		}},
		{"somebody else's", func(w *world) {
			if _, err := w.vault.StartTidy(context.Background(), w.mount.Mount, pki.TidyParams{RevokedCerts: true, SafetyBuffer: 72 * hour}); err != nil {
				w.t.Fatal(err)
			}
			w.usually(2*time.Millisecond, 2*time.Second, time.Now().Add(10*time.Second))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, func(m *tidiertest.Mount) { m.Pace = 90 * time.Second })
				tt.setup(w)
				w.once(w.instance("pod-1"))
				w.want("cancels", float64(w.mount.Cancels), 0)
				if run := w.concluded(1, pki.OutcomeOK, ""); run.State != pki.RunFinished || run.Cancel != "" {
					t.Errorf("run %+v", run)
				}
			})
		})
	}
}

// Without the right to cancel the run goes on, and that is said once. The next
// one is gentler all the same.
func TestSlowVaultWithoutTheRightToCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(m *tidiertest.Mount) { m.Pace = 100 * time.Second })
		slow := time.Now().Add(10 * time.Second)
		w.vault.Before = func(op string, _ pki.Mount) error {
			switch {
			case op == "CancelTidy":
				return &pki.PermissionError{Path: "pki/tidy-cancel", Capability: "update"}
			case op == "TidyStatus" && time.Now().After(slow):
				time.Sleep(2 * time.Second)
			case op == "TidyStatus":
				time.Sleep(time.Millisecond)
			}
			return nil
		}
		log := w.logged()
		w.once(w.instance("pod-1"))
		run := w.concluded(1, pki.OutcomeOK, "")
		if run.State != pki.RunFinished || run.Denied != nil {
			t.Errorf("run %+v", run)
		}
		if n := strings.Count(log.String(), `it may not be cancelled`); n != 1 || !strings.Contains(log.String(), `pki/tidy-cancel`) {
			t.Errorf("said %d times:\n%s", n, log)
		}
		w.want("doublings", float64(w.record().Slower), 1)
		if len(w.findings) != 0 {
			t.Errorf("findings %+v", w.findings)
		}
	})
}

// A cancel that another instance recorded and did not get to is carried out by
// whoever follows.
func TestCancelIsTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(m *tidiertest.Mount) { m.Pace = 10 * time.Minute })
		ctx, kill := context.WithCancel(t.Context())
		w.usually(2*time.Millisecond, 800*time.Millisecond, time.Now().Add(10*time.Second))
		slowly := w.vault.Before
		w.vault.Before = func(op string, m pki.Mount) error {
			if op == "CancelTidy" {
				kill()
				return errKilled
			}
			return slowly(op, m)
		}
		if err := w.instance("pod-1").Once(ctx); err == nil {
			t.Fatal("no error")
		}
		w.vault.Before = nil
		w.once(w.instance("pod-2"))
		if run := w.concluded(1, pki.OutcomeOK, ""); run.State != pki.RunCancelled {
			t.Errorf("run %+v", run)
		}
		w.want("cancels", float64(w.mount.Cancels), 1)
	})
}

func TestAutoPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		certs, revoked := int64(999_600), int64(400)
		w.vault.Change(func(_ *pki.Health, mounts []*tidiertest.Mount) {
			mounts[0].Status.CertStoreCount, mounts[0].Status.RevokedCount = &certs, &revoked
		})
		w.policy.CertStore = true
		w.usually(500*time.Microsecond, 0, time.Now().Add(hour))
		w.auto = true
		w.once(w.instance("pod-1"))
		// 30 min for 1,000,000 entries are 1.8 ms each, of which the read takes 0.5.
		if p := w.mount.Params; p.Pause != time.Millisecond || p.Version != "1.21.1" {
			t.Errorf("asked with %+v", p)
		}
		if run := w.record().Last(); run.Pause != time.Millisecond || !strings.Contains(run.PauseReason, "400 revocations and 999600 certificates: to be through within 30m0s") {
			t.Errorf("pause %s: %s", run.Pause, run.PauseReason)
		}
	})
}

// A run that begins near the end of its window hurries.
func TestAutoPauseWithinAWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // at midnight, UTC, and a minute
		w := newWorld(t)
		revoked := int64(60_000)
		w.vault.Change(func(_ *pki.Health, mounts []*tidiertest.Mount) { mounts[0].Status.RevokedCount = &revoked })
		w.policy.Windows = []pki.Window{{From: 0, To: 5*time.Minute + 30*time.Second}}
		w.auto = true
		w.once(w.instance("pod-1"))
		// Four and a half minutes are left, five are the next whole ones: 5 ms for each of 60,000.
		if p := w.mount.Params; p.Pause != 5*time.Millisecond {
			t.Errorf("asked with %+v: %s", p, w.record().Last().PauseReason)
		}
	})
}

func TestLeasesAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.vault.Counted = pki.Leases{Total: 12, Irrevocable: 3}
		reads, deny := 0, false
		w.vault.Before = func(op string, _ pki.Mount) error {
			if op != "Leases" {
				return nil
			}
			if reads++; deny {
				return &pki.PermissionError{Path: "sys/metrics", Capability: "read"}
			}
			return nil
		}
		log := w.logged()
		tr := w.instance("pod-1")
		for range 20 { // nineteen minutes, and one run
			w.once(tr)
			time.Sleep(time.Minute)
		}
		w.want("reads in 20 min", float64(reads), 2)
		deny = true
		for range 30 {
			w.once(tr)
			time.Sleep(time.Minute)
		}
		if n := strings.Count(log.String(), "leases are not counted"); n != 1 || !strings.Contains(log.String(), `level=INFO msg="leases are not counted`) {
			t.Errorf("said %d times:\n%s", n, log)
		}
		for _, f := range w.findings {
			if f.Rule == "tidy-permission" {
				t.Errorf("finding %+v", f)
			}
		}
	})
}

func TestProgressIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(m *tidiertest.Mount) { m.Pace = 100 * time.Second })
		var seen []pki.TidyState
		w.watch = func(_ pki.Mount, s pki.TidyStatus) { seen = append(seen, s.State) }
		w.vault.Before = func(op string, _ pki.Mount) error {
			if op == "TidyStatus" {
				w.vault.Change(func(_ *pki.Health, mounts []*tidiertest.Mount) {
					if mounts[0].Status.State == pki.TidyRunning {
						mounts[0].Status.Message = "Tidying revoked certificates: checking certificate 40 of 400"
					}
				})
			}
			return nil
		}
		running := make(chan float64, 1)
		go func() {
			time.Sleep(50 * time.Second)
			running <- w.value("pkiwarden_tidy_running", "pki")
		}()
		log := w.logged()
		w.once(w.instance("pod-1"))
		if n := strings.Count(log.String(), `level=INFO msg="tidy is running"`); n != 3 || !strings.Contains(log.String(), "phase=revocations done=40 total=400") {
			t.Errorf("progress was told %d times in 100 s:\n%s", n, log)
		}
		for _, once := range []string{"starting tidy", "tidy has ended", "tidy is concluded"} {
			if n := strings.Count(log.String(), `level=INFO msg="`+once); n != 1 {
				t.Errorf("%q was told %d times", once, n)
			}
		}
		if n := len(seen); n < 20 || seen[0] != pki.TidyRunning || seen[n-1] != pki.TidyFinished {
			t.Errorf("seen %v", seen)
		}
		w.want("tidy_running during the run", <-running, 1)
		w.want("tidy_running after it", w.value("pkiwarden_tidy_running", "pki"), 0)
	})
}

func TestCancelOnInterrupt(t *testing.T) {
	tests := []struct {
		name    string
		cancel  bool
		deny    bool
		want    tidier.Left
		cancels float64
	}{
		{"not asked for", false, false, tidier.LeftRunning, 0},
		{"asked for", true, false, tidier.LeftCancelled, 1},
		{"asked for, without the right", true, true, tidier.LeftRunning, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				if tt.deny {
					w.vault.Before = func(op string, _ pki.Mount) error {
						if op == "CancelTidy" {
							return &pki.PermissionError{Path: "pki/tidy-cancel", Capability: "update"}
						}
						return nil
					}
				}
				ctx, interrupt := context.WithCancel(t.Context())
				go func() {
					time.Sleep(3500 * time.Millisecond)
					interrupt()
				}()
				reports, err := w.instance("job-1").Tidy(ctx, tidier.Request{Wait: true, CancelOnInterrupt: tt.cancel})
				if !errors.Is(err, context.Canceled) || len(reports) != 1 || reports[0].Left != tt.want || reports[0].Result != nil {
					t.Errorf("left %+v, %v; want %s", reports, err, tt.want)
				}
				w.want("cancels", float64(w.mount.Cancels), tt.cancels)

				// The next one sees it through.
				reports, err = w.instance("job-2").Tidy(t.Context(), tidier.Request{Wait: true})
				if err != nil || reports[0].Run || reports[0].Result == nil {
					t.Fatalf("report %s, %v", form(t, reports), err)
				}
				entries, state := int64(100), pki.RunFinished
				if tt.cancels > 0 {
					entries, state = 250, pki.RunCancelled
				}
				if r := reports[0].Result; r.EntriesAfter != entries || r.State != state || r.CRLRotated != (tt.cancels > 0) {
					t.Errorf("result %+v", r)
				}
				w.want("doublings", float64(w.record().Slower), 0) // Vault was not slow
				w.want("runs", float64(w.mount.Runs), 1)
			})
		})
	}
	t.Run("somebody else's", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			if _, err := w.vault.StartTidy(t.Context(), w.mount.Mount, pki.TidyParams{RevokedCerts: true, SafetyBuffer: 72 * hour}); err != nil {
				t.Fatal(err)
			}
			ctx, interrupt := context.WithCancel(t.Context())
			go func() {
				time.Sleep(3500 * time.Millisecond)
				interrupt()
			}()
			reports, err := w.instance("job").Tidy(ctx, tidier.Request{Wait: true, CancelOnInterrupt: true})
			if !errors.Is(err, context.Canceled) || len(reports) != 1 || reports[0].Left != "" {
				t.Errorf("left %+v, %v", reports, err)
			}
			w.want("cancels", float64(w.mount.Cancels), 0)
		})
	})
}

// A token that Vault no longer takes in mid-run is replaced by the session; the
// run is followed on.
func TestTokenLostInMidRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		from := time.Now().Add(5 * time.Second)
		w.vault.Before = func(op string, _ pki.Mount) error {
			if now := time.Now(); now.After(from) && now.Before(from.Add(20*time.Second)) {
				return &pki.PermissionError{Path: "pki/" + op, Capability: "read", InvalidToken: true}
			}
			return nil
		}
		reports, err := w.instance("job").Tidy(t.Context(), tidier.Request{Wait: true})
		if err != nil || !reports[0].Run || reports[0].Result == nil || reports[0].Result.EntriesAfter != 100 {
			t.Errorf("report %s, %v", form(t, reports), err)
		}
		w.want("runs", float64(w.mount.Runs), 1)
	})
}

// At the moments at which a token may be lost nothing is lost with it, and no
// interval is waited for.
func TestTokenLostAtEachRequest(t *testing.T) {
	for _, op := range []string{"StartTidy", "Rotate"} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, func(m *tidiertest.Mount) { m.Config.AutoRebuild = true })
			lost := false
			w.vault.Before = func(o string, _ pki.Mount) error {
				if o == op && !lost {
					lost = true
					return &pki.PermissionError{Path: "pki/x", Capability: "update", InvalidToken: true}
				}
				return nil
			}
			tr := w.instance("pod-1")
			if err := tr.Once(t.Context()); err == nil || !strings.Contains(err.Error(), "log in again") {
				t.Errorf("%s: error %v", op, err)
			}
			time.Sleep(time.Second)
			w.once(tr)
			last := w.record().Last()
			if last == nil || last.Outcome != pki.OutcomeOK || !last.Rotated || w.entries() != 100 || w.mount.Runs != 1 {
				t.Errorf("%s: %d runs, last %+v", op, w.mount.Runs, last)
			}
			if len(w.findings) != 0 {
				t.Errorf("%s: findings %+v", op, w.findings)
			}
		})
	}
}

// logged keeps what the instances made afterwards log.
func (w *world) logged() *bytes.Buffer {
	var b bytes.Buffer
	w.log = slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug}))
	return &b
}
