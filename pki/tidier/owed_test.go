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

// owing is a world whose lists Vault rebuilds by time, and where crl/rotate fails
// until the error is taken away.
func owing(t *testing.T, err error) (w *world, grant func()) {
	t.Helper()
	w = newWorld(t, func(m *tidiertest.Mount) { m.Config.AutoRebuild = true })
	w.vault.Before = func(op string, _ pki.Mount) error {
		if op == "Rotate" {
			return err
		}
		return nil
	}
	return w, func() { w.vault.Before = nil }
}

var noRotate = &pki.PermissionError{Path: "pki/crl/rotate", Capability: "read"}

// A rotation that tidy owes and that fails is an error of the call, is
// remembered, and made up for by the next call that can.
func TestOwedRotationIsMadeUpForByTheNextCall(t *testing.T) {
	for name, failure := range map[string]error{
		"no right":  noRotate,
		"too large": &pki.TooLargeError{Message: "put failed due to value being too large"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, grant := owing(t, failure)
				reports, err := w.instance("job-1").Tidy(t.Context(), tidier.Request{Wait: true})
				if err == nil || !strings.Contains(err.Error(), "300 revocations were deleted, and the CRL was not rebuilt: ") || len(reports) != 1 || !reports[0].Run {
					t.Fatalf("%s, %v", form(t, reports), err)
				}
				w.concluded(1, pki.OutcomeFailed, "")

				// Still not: the debt stays, and so does the exit code.
				time.Sleep(time.Minute)
				reports, err = w.instance("job-2").Tidy(t.Context(), tidier.Request{Wait: true})
				if err == nil || !strings.Contains(err.Error(), "a rotation is owed since the run that ended at 2000-01-01T00:01:25Z: ") || len(reports) != 1 || reports[0].Run {
					t.Errorf("%s, %v", form(t, reports), err)
				}
				reports, err = w.instance("job-2").Tidy(t.Context(), tidier.Request{DryRun: true})
				if err != nil || !strings.HasPrefix(reports[0].Reason, "a rotation of the CRL is owed since the run that ended at 2000-01-01T00:01:25Z, and would come first; ") {
					t.Errorf("%s, %v", form(t, reports), err)
				}

				grant()
				reports, err = w.instance("job-3").Tidy(t.Context(), tidier.Request{Wait: true})
				if err != nil || len(reports) != 1 || reports[0].Run ||
					!strings.HasPrefix(reports[0].Reason, "the CRL was rotated, which the run that ended at 2000-01-01T00:01:25Z owed: 400 entries before, 100 after; ") {
					t.Errorf("%s, %v", form(t, reports), err)
				}
				w.want("entries", float64(w.entries()), 100)
				run := w.concluded(1, pki.OutcomeOK, "made up for at")
				if !run.Rotated || run.Error != "" || run.Denied != nil || w.record().Owed != nil {
					t.Errorf("run %+v, owed %+v", run, w.record().Owed)
				}
				rotations := w.mount.Rotations
				if _, err := w.instance("job-4").Tidy(t.Context(), tidier.Request{Wait: true}); err != nil || w.mount.Rotations != rotations {
					t.Errorf("%d rotations, %v", w.mount.Rotations, err)
				}
			})
		})
	}
}

// A running instance makes up for it by itself, and does not ask over and over.
func TestOwedRotationIsMadeUpForByALook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, grant := owing(t, nil)
		asked := 0
		w.vault.Before = func(op string, _ pki.Mount) error {
			if op == "Rotate" {
				asked++
				return noRotate
			}
			return nil
		}
		tr := w.instance("pod-1")
		for range 60 {
			w.once(tr)
			time.Sleep(time.Minute)
		}
		if asked < 5 || asked > 8 {
			t.Errorf("asked %d times in an hour", asked)
		}
		if len(w.findings) != 2 || w.findings[0].Rule != "crl-rotate-needed" || w.findings[1].Rule != "tidy-permission" {
			t.Errorf("findings %+v", w.findings)
		}
		grant()
		for range 31 {
			w.once(tr)
			time.Sleep(time.Minute)
		}
		w.concluded(1, pki.OutcomeOK, "made up for at")
		w.want("entries", float64(w.entries()), 100)
		if len(w.findings) != 0 {
			t.Errorf("findings %+v", w.findings)
		}
		w.want("runs", float64(w.mount.Runs), 1)
	})
}

// Where Vault has rebuilt the list by itself nothing is owed any more.
func TestOwedRotationThatVaultMadeUpFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, grant := owing(t, noRotate)
		if _, err := w.instance("job-1").Tidy(t.Context(), tidier.Request{Wait: true}); err == nil {
			t.Fatal("no error")
		}
		grant()
		time.Sleep(hour)
		if err := w.vault.Rotate(t.Context(), w.mount.Mount); err != nil {
			t.Fatal(err)
		}
		reports, err := w.instance("job-2").Tidy(t.Context(), tidier.Request{Wait: true})
		if err != nil || len(reports) != 1 || w.mount.Rotations != 1 || w.record().Owed != nil {
			t.Errorf("%s, %v, %d rotations", form(t, reports), err, w.mount.Rotations)
		}
		w.concluded(1, pki.OutcomeOK, "")
	})
}
