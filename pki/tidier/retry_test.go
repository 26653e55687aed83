package tidier_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
	"github.com/pkiwarden/pkiwarden/pki/tidier"
	"github.com/pkiwarden/pkiwarden/pki/tidier/tidiertest"
)

// A command asks again what Vault could not answer, as late as it is told, and
// gives up with that after a while; a run is never asked for twice.
func TestTidyAsksAgain(t *testing.T) {
	for _, tt := range []struct {
		op    string
		fails int
		after time.Duration
		runs  int
	}{
		{"Health", 2, time.Second, 1},
		{"Health", 1, 4 * time.Second, 1},
		{"TidyStatus", 3, 0, 1},
		{"CRLConfig", 1, 0, 1},
		{"TidyStatus", 1000, 0, 0},
		{"Health", 1000, 0, 0},
	} {
		t.Run(fmt.Sprint(tt.op, " ", tt.fails), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				failed, told := 0, time.Time{}
				w.vault.Before = func(op string, _ pki.Mount) error {
					if op != tt.op || failed >= tt.fails {
						return nil
					}
					if since := time.Since(told); failed > 0 && since < tt.after {
						t.Errorf("asked again after %s", since)
					}
					failed, told = failed+1, time.Now()
					return fmt.Errorf("asking Vault: %w", &pki.FailingError{Status: 503, RetryAfter: tt.after, Message: "later"})
				}
				begin := time.Now()
				reports, err := w.instance("job").Tidy(t.Context(), tidier.Request{Wait: true, Mounts: []string{"pki"}})
				if (err == nil) != (tt.runs == 1) || err != nil && !errors.As(err, new(*pki.FailingError)) || w.mount.Runs != tt.runs || time.Since(begin) > 2*time.Minute {
					t.Errorf("%s, %v, %d runs, %s", form(t, reports), err, w.mount.Runs, time.Since(begin))
				}
			})
		})
	}
}

// A mount whose tidy-status fails does not keep another from being tidied.
func TestTidyOfOneMountWhileAnotherFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		bad := ripeMount("bad")
		v, err := tidiertest.New(time.Now, bad, w.mount)
		if err != nil {
			t.Fatal(err)
		}
		w.vault = v
		v.Before = func(op string, m pki.Mount) error {
			if op == "TidyStatus" && m.Path == "bad" {
				return fmt.Errorf("asking Vault: %w", &pki.FailingError{Status: 500, Message: "boom"})
			}
			return nil
		}
		reports, err := w.instance("job").Tidy(t.Context(), tidier.Request{Wait: true})
		if !errors.As(err, new(*pki.FailingError)) || len(reports) != 1 || reports[0].Mount != "pki" || !reports[0].Run || bad.Runs != 0 {
			t.Errorf("%s, %v", form(t, reports), err)
		}
	})
}
