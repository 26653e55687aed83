package tidier_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
	"github.com/pkiwarden/pkiwarden/pki/tidier"
	"github.com/pkiwarden/pkiwarden/pki/tidier/tidiertest"
)

// threeMounts are in the order in which Vault lists them, which is that of
// their names: the neediest is the last one, whose list nears its limit, and
// the middle one has the most to lose.
func threeMounts(t *testing.T) (*tidiertest.Vault, []*tidiertest.Mount) {
	t.Helper()
	mounts := []*tidiertest.Mount{ripeMount("a"), ripeMount("b"), ripeMount("c")}
	now := time.Now()
	mounts[1].Revoke(200, now.Add(-200*hour), now.Add(-190*hour))
	mounts[2].Limit = crl.Limit{Backend: "raft", Known: true, MaxBytes: 20_000}
	v, err := tidiertest.New(time.Now, mounts...)
	if err != nil {
		t.Fatal(err)
	}
	return v, mounts
}

func mountsOf(reports []tidier.Report) string {
	var names []string
	for _, r := range reports {
		names = append(names, r.Mount)
	}
	return strings.Join(names, " ")
}

// The command takes several mounts in the order in which the controller does.
func TestTidyTakesTheNeediestFirst(t *testing.T) {
	policy := pki.Policy{Enabled: true, SafetyBuffer: 72 * hour, Trigger: pki.Trigger{ReclaimableShare: 0.2}, MinInterval: hour, Rotate: true}
	for name, act := range map[string]func(*testing.T, *tidier.Tidier){
		"controller": func(t *testing.T, tr *tidier.Tidier) {
			if err := tr.Once(t.Context()); err != nil {
				t.Error(err)
			}
		},
		"one-shot": func(t *testing.T, tr *tidier.Tidier) {
			reports, err := tr.Tidy(t.Context(), tidier.Request{Wait: true})
			if got := mountsOf(reports); err != nil || got != "c b a" {
				t.Errorf("reports of %q, %v", got, err)
			}
			for _, r := range reports {
				if !r.Run || r.Result == nil {
					t.Errorf("mount %s: run %t, result %v: %s", r.Mount, r.Run, r.Result, r.Reason)
				}
			}
		},
		"dry run": func(t *testing.T, tr *tidier.Tidier) {
			reports, err := tr.Tidy(t.Context(), tidier.Request{DryRun: true})
			if got := mountsOf(reports); err != nil || got != "c b a" {
				t.Errorf("reports of %q, %v", got, err)
			}
		},
		"without waiting": func(t *testing.T, tr *tidier.Tidier) {
			reports, err := tr.Tidy(t.Context(), tidier.Request{})
			if got := mountsOf(reports); err != nil || got != "c b a" || !reports[0].Run || reports[1].Run || reports[2].Run {
				t.Fatalf("reports of %q, %v: %s", got, err, form(t, reports))
			}
			if want := "one mount at a time: a tidy is on in mount c"; reports[1].Reason != want || reports[2].Reason != want {
				t.Errorf("reasons %q, %q", reports[1].Reason, reports[2].Reason)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v, _ := threeMounts(t)
				var started []string
				v.After = func(op string, m pki.Mount) error {
					if op == "StartTidy" {
						started = append(started, m.Path)
					}
					return nil
				}
				tr, err := tidier.New(tidier.Options{Vault: v, CRLs: v, State: new(tidiertest.State), Policy: policy})
				if err != nil {
					t.Fatal(err)
				}
				act(t, tr)
				want := map[string]string{"dry run": "", "without waiting": "c"}
				if _, fewer := want[name]; !fewer {
					want[name] = "c b a"
				}
				if got := strings.Join(started, " "); got != want[name] {
					t.Errorf("runs in %q, want %q", got, want[name])
				}
			})
		})
	}
}

// A mount that cannot be looked at keeps no other from its run.
func TestTidyWithoutOneOfSeveral(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, mounts := threeMounts(t)
		broken := errors.New("no such list")
		v.Before = func(op string, m pki.Mount) error {
			if op == "Measure" && m.Path == "c" {
				return broken
			}
			return nil
		}
		tr, err := tidier.New(tidier.Options{Vault: v, CRLs: v, State: new(tidiertest.State), Policy: pki.Policy{SafetyBuffer: 72 * hour}})
		if err != nil {
			t.Fatal(err)
		}
		reports, err := tr.Tidy(t.Context(), tidier.Request{Wait: true, Force: true})
		if got := mountsOf(reports); !errors.Is(err, broken) || got != "b a" || mounts[0].Runs != 1 || mounts[1].Runs != 1 {
			t.Errorf("reports of %q, %v", got, err)
		}
	})
}
