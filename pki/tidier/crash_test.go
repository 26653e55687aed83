package tidier_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
	"github.com/pkiwarden/pkiwarden/pki/tidier"
	"github.com/pkiwarden/pkiwarden/pki/tidier/tidiertest"
)

// killer ends a process at its n-th step towards the outside: before the step
// has an effect, or after it and before the process learns so.
type killer struct {
	n, steps int
	kill     context.CancelFunc
	at       string
}

var errKilled = errors.New("killed")

func (k *killer) step(name string) error {
	k.steps++
	if k.steps < k.n {
		return nil
	}
	if k.steps == k.n {
		k.at = name
	}
	k.kill()
	return errKilled
}

func (k *killer) attach(w *world) {
	w.vault.Before = func(op string, _ pki.Mount) error { return k.step("before " + op) }
	w.vault.After = func(op string, _ pki.Mount) error { return k.step("after " + op) }
	w.state.Before = func(op, _ string) error { return k.step("before " + op) }
}

func (k *killer) detach(w *world) { w.vault.Before, w.vault.After, w.state.Before = nil, nil, nil }

// Whatever step an instance dies at, the next one finds where the run is, and
// exactly one run reaches Vault.
func TestKilledAtEveryStep(t *testing.T) {
	for _, auto := range []bool{false, true} {
		var places []string
		for n := 1; ; n++ {
			done := false
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, func(m *tidiertest.Mount) {
					m.Config.AutoRebuild = auto
					m.Revoked = nil // few: each certificate that is read is a step
					m.Revoke(6, time.Now().Add(-200*hour), time.Now().Add(-190*hour))
					m.Revoke(2, time.Now().Add(-hour), time.Now().Add(hour))
				})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				k := &killer{n: n, kill: cancel}
				k.attach(w)
				begin := time.Now()
				err := w.instance("first").Once(ctx)
				if k.at == "" {
					done = true
					return
				}
				places = append(places, k.at)
				if err == nil {
					t.Errorf("killed %s at step %d: no error", k.at, n)
				}
				if took := time.Since(begin); took > 40*time.Second {
					t.Errorf("killed %s at step %d: returned after %s", k.at, n, took)
				}
				k.detach(w)
				second := w.instance("second")
				for range 5 {
					w.once(second)
					time.Sleep(time.Minute)
				}
				if w.mount.Runs != 1 || w.entries() != 2 {
					t.Errorf("killed %s at step %d: %d runs, %d entries left", k.at, n, w.mount.Runs, w.entries())
				}
				r := w.record()
				if r.Run != nil || len(r.History) == 0 || r.Last().Outcome != pki.OutcomeOK || r.EffectiveAt.IsZero() {
					t.Errorf("killed %s at step %d: record %+v", k.at, n, r)
				}
				for _, run := range r.History[:len(r.History)-1] {
					if run.Outcome != pki.OutcomeInterrupted {
						t.Errorf("killed %s at step %d: earlier run %+v", k.at, n, run)
					}
				}
			})
			if done {
				break
			}
		}
		// The crashes that matter were among them.
		all := strings.Join(places, ", ")
		for _, place := range []string{"before StartTidy", "after StartTidy", "before Put", "after TidyStatus", "before Measure"} {
			if !strings.Contains(all, place) {
				t.Errorf("auto_rebuild %t: never killed %s: %s", auto, place, all)
			}
		}
		if auto && !strings.Contains(all, "after Rotate") {
			t.Errorf("never killed after Rotate: %s", all)
		}
	}
}

// A request of which the answer is lost may have started a run or not.
func TestLostAnswer(t *testing.T) {
	for _, arrived := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			lost := false
			lose := func(op string, _ pki.Mount) error {
				if op == "StartTidy" && !lost {
					lost = true
					return pki.ErrUnreachable
				}
				return nil
			}
			if arrived {
				w.vault.After = lose
			} else {
				w.vault.Before = lose
			}
			tr := w.instance("pod-1")
			w.once(tr)
			if arrived {
				w.concluded(1, pki.OutcomeOK, "")
			} else {
				w.concluded(1, pki.OutcomeInterrupted, "never began")
				w.once(tr)
				w.concluded(2, pki.OutcomeOK, "")
			}
			w.want("runs", float64(w.mount.Runs), 1)
		})
	}
}

func TestConflictOnTheRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		tr := w.instance("pod-1")
		key := w.mount.Mount.StateKey("tidy", "0F3A-cluster")
		puts := 0
		w.state.Before = func(op, _ string) error {
			if op != "Put" {
				return nil
			}
			if puts++; puts == 2 { // the first is that the mount is watched, the second decides
				other := pki.Record{Version: 1, Mount: "pki", WatchedSince: time.Now(), Run: &pki.Run{
					ID: "theirs", Holder: "pod-2/X", Step: pki.StepDecided, DecidedAt: time.Now(), Deadline: time.Now().Add(time.Minute),
				}}
				data, err := json.Marshal(other)
				if err != nil {
					return err
				}
				w.state.Set(key, data)
			}
			return nil
		}
		w.once(tr)
		w.want("runs beside another's record", float64(w.mount.Runs), 0)
		if r := w.record(); r.Run == nil || r.Run.ID != "theirs" {
			t.Fatalf("record %+v", r)
		}
		// They never come back.
		w.once(tr)
		w.concluded(1, pki.OutcomeInterrupted, "never began")
		w.once(tr)
		w.concluded(2, pki.OutcomeOK, "")
		w.want("runs", float64(w.mount.Runs), 1)
	})
}

// Two jobs and the controller at once make one run; the others see it through.
func TestTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(m *tidiertest.Mount) { m.Config.AutoRebuild = true })
		started := make(chan bool, 2)
		results := make(chan *tidier.Result, 2)
		for _, name := range []string{"job-1", "job-2"} {
			tr := w.instance(name)
			go func() {
				reports, err := tr.Tidy(t.Context(), tidier.Request{Wait: true})
				if err != nil || len(reports) != 1 {
					t.Errorf("%s: %+v, %v", name, reports, err)
					reports = make([]tidier.Report, 1)
				}
				started <- reports[0].Run
				results <- reports[0].Result
			}()
		}
		w.once(w.instance("controller"))
		runs := 0
		for range 2 {
			if <-started {
				runs++
			}
			if r := <-results; r == nil || r.EntriesAfter != 100 || !r.CRLRotated {
				t.Errorf("result %+v", r)
			}
		}
		if w.mount.Runs != 1 || w.mount.Rotations != 1 || runs > 1 {
			t.Errorf("%d runs and %d rotations, %d jobs say that they ran", w.mount.Runs, w.mount.Rotations, runs)
		}
		w.concluded(1, pki.OutcomeOK, "")
	})
}

func TestSomebodyElsesRunIsSeenThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(m *tidiertest.Mount) { m.Config.AutoRebuild = true })
		if _, err := w.vault.StartTidy(t.Context(), w.mount.Mount, pki.TidyParams{RevokedCerts: true, SafetyBuffer: 72 * hour}); err != nil {
			t.Fatal(err)
		}
		w.once(w.instance("pod-1"))
		if run := w.concluded(1, pki.OutcomeOK, ""); !run.Foreign || !run.Rotated {
			t.Errorf("run %+v", run)
		}
		w.want("entries", float64(w.entries()), 100)
		w.want("runs of ours", w.value("pkiwarden_tidy_runs_total", "pki", "ok"), 0)
	})
}

// Somebody's run begins between our look and our request.
func TestComingSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		beaten := false
		w.vault.Before = func(op string, m pki.Mount) error {
			if op == "StartTidy" && !beaten {
				beaten = true
				_, err := w.vault.StartTidy(context.Background(), m, pki.TidyParams{RevokedCerts: true, SafetyBuffer: 72 * hour})
				return err
			}
			return nil
		}
		reports, err := w.instance("job").Tidy(t.Context(), tidier.Request{Wait: true})
		if err != nil || len(reports) != 1 || reports[0].Run || reports[0].Result == nil || *reports[0].Result.Deleted != 300 {
			t.Fatalf("%+v, %v", reports, err)
		}
		w.want("runs", float64(w.mount.Runs), 1)
		w.want("refused", w.value("pkiwarden_tidy_runs_total", "pki", "refused"), 1)
	})
}

func TestRotationIsTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(m *tidiertest.Mount) { m.Config.AutoRebuild = true })
		fails := 2
		w.vault.Before = func(op string, _ pki.Mount) error {
			if op == "Rotate" && fails > 0 {
				fails--
				return errors.New("status 500: storage hiccup")
			}
			return nil
		}
		tr := w.instance("pod-1")
		for range 2 {
			if err := tr.Once(t.Context()); err == nil {
				t.Fatal("no error")
			}
		}
		// The second of the failures' holder is gone; its claim lasts three minutes.
		next := w.instance("pod-2")
		w.once(next)
		w.want("rotations within the claim", float64(w.mount.Rotations), 0)
		w.once(next)
		run := w.concluded(1, pki.OutcomeOK, "")
		if !run.Rotated {
			t.Errorf("run %+v", run)
		}
	})
}
