package tidier_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
	"github.com/pkiwarden/pkiwarden/pki/tidier"
)

// What was decided is shown with its moment, also while a run is followed, and
// is gone with what it rests on.
func TestStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		tr := w.instance("a")
		only := func() tidier.Status {
			t.Helper()
			all := tr.Status()
			if len(all) != 1 || all[0].Mount != w.mount.Mount {
				t.Fatalf("statuses %+v", all)
			}
			return all[0]
		}
		if all := tr.Status(); len(all) != 0 {
			t.Errorf("before the first look: %+v", all)
		}

		began := time.Now()
		done := make(chan error, 1)
		go func() { done <- tr.Once(t.Context()) }()
		time.Sleep(10 * time.Second) // the run takes twenty
		if s := only(); s.Verdict != pki.RunNow || !strings.HasPrefix(s.Reason, "at least 300 of 400 entries (75 %) are reclaimable") || s.DecidedAt.Before(began) || s.DecidedAt.After(began.Add(time.Second)) {
			t.Errorf("while it runs: %+v", s)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		s := only()
		if s.Verdict != pki.Wait || !strings.HasPrefix(s.Reason, "nothing makes a run due") || s.Run != nil || s.Owed {
			t.Errorf("after the run: %+v", s)
		}
		if l := s.Last; l == nil || l.Outcome != pki.OutcomeOK || *l.Deleted != 300 || !l.EndedAt.After(began.Add(19*time.Second)) {
			t.Errorf("the last run: %+v", s.Last)
		}
		if s.NextAt.Before(time.Now().Add(hour-time.Minute)) || s.NextAt.After(time.Now().Add(168*hour)) {
			t.Errorf("the next is due in %s", time.Until(s.NextAt))
		}

		w.vault.Before = func(string, pki.Mount) error { return errors.New("connection refused") }
		time.Sleep(20 * time.Minute)
		if err := tr.Once(t.Context()); err == nil {
			t.Fatal("it looked at a Vault that is away")
		}
		if all := tr.Status(); len(all) != 0 {
			t.Errorf("with Vault away: %+v", all)
		}
	})
}
