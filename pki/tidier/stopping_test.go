package tidier_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
	"github.com/pkiwarden/pkiwarden/pki/tidier"
	"github.com/pkiwarden/pkiwarden/pki/tidier/tidiertest"
)

// A run that somebody cancels is said to be stopping, at once and once, by the
// controller and by the command; it is running no longer.
func TestSomebodyCancelsTheRun(t *testing.T) {
	for name, act := range map[string]func(*world) error{
		"controller": func(w *world) error { return w.instance("pod-1").Once(w.t.Context()) },
		"one-shot": func(w *world) error {
			_, err := w.instance("job").Tidy(w.t.Context(), tidier.Request{Wait: true})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, func(m *tidiertest.Mount) { m.Pace = 80 * time.Second })
				began := time.Now()
				go func() {
					time.Sleep(10 * time.Second)
					w.vault.Change(func(_ *pki.Health, mounts []*tidiertest.Mount) { mounts[0].Status.State = pki.TidyCancelling })
				}()
				log := w.logged()
				var shown []pki.TidyState
				w.watch = func(_ pki.Mount, s pki.TidyStatus) { shown = append(shown, s.State) }
				if err := act(w); err != nil && !strings.Contains(err.Error(), "cancelled") {
					t.Fatal(err)
				}
				if n := strings.Count(log.String(), `level=WARN msg="Vault is stopping tidy" mount=pki why="somebody else cancelled it"`); n != 1 {
					t.Errorf("said %d times, want once:\n%s", n, log)
				}
				if strings.Contains(log.String(), "tidy is running") || !strings.Contains(log.String(), "Vault is still stopping tidy") {
					t.Errorf("after %s the log says that it runs on:\n%s", time.Since(began), log)
				}
				if shown[len(shown)-2] != pki.TidyCancelling {
					t.Errorf("states shown: %v", shown)
				}
			})
		})
	}
}

// What is cancelled here is no surprise.
func TestOwnCancelIsNoWarning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(m *tidiertest.Mount) { m.Pace = 80 * time.Second })
		w.usually(2*time.Millisecond, 800*time.Millisecond, time.Now().Add(10*time.Second))
		w.vault.After = func(op string, _ pki.Mount) error {
			if op == "CancelTidy" {
				w.vault.Change(func(_ *pki.Health, mounts []*tidiertest.Mount) { mounts[0].Stopping(12 * time.Second) })
			}
			return nil
		}
		log := w.logged()
		w.once(w.instance("pod-1"))
		if !strings.Contains(log.String(), `level=INFO msg="Vault is stopping tidy" mount=pki why="Vault got slow`) || strings.Contains(log.String(), "somebody else") {
			t.Errorf("log:\n%s", log)
		}
	})
}
