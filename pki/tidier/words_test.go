package tidier_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
	"github.com/pkiwarden/pkiwarden/pki/tidier"
	"github.com/pkiwarden/pkiwarden/pki/tidier/tidiertest"
)

// A call that follows a run to its end says so, and not where the run once was.
func TestFollowedToTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		if _, err := w.instance("job-1").Tidy(t.Context(), tidier.Request{}); err != nil {
			t.Fatal(err)
		}
		reports, err := w.instance("job-2").Tidy(t.Context(), tidier.Request{Wait: true})
		if err != nil || len(reports) != 1 || reports[0].Result == nil || strings.Contains(reports[0].Reason, "at step") ||
			!strings.HasPrefix(reports[0].Reason, "a run decided at 2000-01-01T00:01:00Z was followed to its end: at least 300") {
			t.Errorf("%s, %v", form(t, reports), err)
		}
	})
}

// The call after an interrupted one that had its run cancelled concludes that run
// and begins the one that is still due.
func TestTheRunAfterACancelledOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.policy.MinInterval = time.Second
		ctx, interrupt := context.WithTimeout(t.Context(), 3500*time.Millisecond)
		defer interrupt()
		if _, err := w.instance("job-1").Tidy(ctx, tidier.Request{Wait: true, CancelOnInterrupt: true}); err == nil {
			t.Fatal("no error")
		}
		time.Sleep(10 * time.Second)
		reports, err := w.instance("job-2").Tidy(t.Context(), tidier.Request{Wait: true})
		if err != nil || len(reports) != 1 || !reports[0].Run || reports[0].Result == nil || reports[0].Result.EntriesAfter != 100 ||
			!strings.HasPrefix(reports[0].Reason, "the run decided at 2000-01-01T00:01:00Z was cancelled and is concluded: ") {
			t.Errorf("%s, %v", form(t, reports), err)
		}
		w.want("runs", float64(w.mount.Runs), 2)
	})
}

// placed is a state that tells what its values are kept in.
type placed struct{ *tidiertest.State }

func (placed) Where(key string) string { return "file /state/" + key + ".json" }

// A damaged record is named by what a person finds it by.
func TestDamagedRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		key := w.mount.Mount.StateKey("tidy", "0F3A-cluster")
		w.state.Set(key, []byte("{"))
		tr, err := tidier.New(tidier.Options{Vault: w.vault, CRLs: w.vault, State: placed{w.state}, Policy: w.policy})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tr.Tidy(t.Context(), tidier.Request{}); err == nil || !strings.Contains(err.Error(), "decoding file /state/"+key+".json (delete it to begin anew)") {
			t.Errorf("error %v", err)
		}
	})
}

// One mount of many is tidied without asking all of them over and over: once,
// right before a run, and not at all where none is due.
func TestOneMountOfMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		mounts := []*tidiertest.Mount{w.mount}
		for n := range 12 {
			mounts = append(mounts, &tidiertest.Mount{Mount: pki.Mount{Path: fmt.Sprintf("other-%d", n), UUID: fmt.Sprint(n)}})
		}
		v, err := tidiertest.New(time.Now, mounts...)
		if err != nil {
			t.Fatal(err)
		}
		w.vault = v
		asked := 0
		v.Before = func(op string, m pki.Mount) error {
			if op == "TidyStatus" && m != w.mount.Mount {
				asked++
			}
			return nil
		}
		for _, want := range []int{12, 12} { // the second is not due
			if _, err := w.instance("job").Tidy(t.Context(), tidier.Request{Wait: true, Mounts: []string{"pki"}}); err != nil || asked != want {
				t.Errorf("other mounts were asked %d times, want %d; %v", asked, want, err)
			}
		}
		w.want("runs", float64(w.mount.Runs), 1)
	})
}
