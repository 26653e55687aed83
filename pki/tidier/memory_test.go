package tidier_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
	"github.com/pkiwarden/pkiwarden/pki/tidier"
	"github.com/pkiwarden/pkiwarden/pki/tidier/tidiertest"
)

// watched are the lists as the CRL watch keeps them: measured, and remembered.
type watched struct {
	*tidiertest.Vault
	lists map[pki.Mount][]pki.CRL
}

func (w *watched) Measure(ctx context.Context, m pki.Mount) ([]pki.CRL, error) {
	lists, err := w.Vault.Measure(ctx, m)
	w.lists[m] = lists
	return lists, err
}

func (w *watched) Latest(m pki.Mount) ([]pki.CRL, bool) {
	lists, ok := w.lists[m]
	return lists, ok
}

// cluster is a Vault with n mounts of which nothing is due, and its tidier.
func cluster(t *testing.T, n int, change func(*tidier.Options)) (*tidiertest.Vault, []*tidiertest.Mount, *tidier.Tidier) {
	t.Helper()
	var mounts []*tidiertest.Mount
	for i := range n {
		m := &tidiertest.Mount{
			Mount:      pki.Mount{Path: fmt.Sprintf("pki-%03d", i), UUID: fmt.Sprintf("U-%03d", i)},
			LongestTTL: pki.LongestTTL{Duration: 24 * hour, Source: "max_ttl of role web"}, Pace: 20 * time.Second,
		}
		m.Revoke(3, time.Now().Add(-hour), time.Now().Add(hour))
		mounts = append(mounts, m)
	}
	v, err := tidiertest.New(time.Now, mounts...)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Minute)
	o := tidier.Options{
		Vault: v, CRLs: &watched{v, map[pki.Mount][]pki.CRL{}}, State: new(tidiertest.State), Identity: "pod-1",
		Policy: pki.Policy{
			Enabled: true, SafetyBuffer: 72 * hour, MinInterval: hour, Rotate: true,
			Trigger: pki.Trigger{ReclaimableShare: 0.2, ReclaimableEntries: 1000, AtLeastEvery: 168 * hour},
		},
	}
	if change != nil {
		change(&o)
	}
	tr, err := tidier.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return v, mounts, tr
}

// rolesRead is how many roles the mounts of this test have: their longest TTL
// takes a list of them and one request each.
const rolesRead = 3

// costs are the requests that each operation makes of Vault: health asks
// sys/health and sys/leader.
var costs = map[string]int{
	"Health": 2, "Mounts": 1, "TidyStatus": 1, "CRLConfig": 1, "AutoTidy": 1, "Leases": 1, "LongestTTL": 1 + rolesRead,
	"StartTidy": 1, "Rotate": 1, "DisableAutoTidy": 1, "Certificate": 1,
}

// What looking each minute costs Vault in the hours in which nothing is due,
// after a first look at everything; lists are the CRL watch's.
func TestRequestsAnHour(t *testing.T) {
	for _, tt := range []struct{ mounts, first, most, mostInOnePass int }{
		{1, 12, 175, 13},
		{300, 2105, 8600, 300},
	} {
		t.Run(fmt.Sprint(tt.mounts), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v, _, tr := cluster(t, tt.mounts, nil)
				ops, pass := map[string]int{}, 0
				v.Before = func(op string, _ pki.Mount) error {
					if op != "Measure" && costs[op] == 0 {
						t.Errorf("%s costs nothing", op)
					}
					ops[op] += costs[op]
					pass += costs[op]
					return nil
				}
				look := func() int {
					pass = 0
					if err := tr.Once(t.Context()); err != nil {
						t.Fatal(err)
					}
					return pass
				}
				if first := look(); first > tt.first {
					t.Errorf("%d requests at first, want at most %d", first, tt.first)
				}
				clear(ops)
				most := 0
				const hours = 1
				for range hours * 60 {
					time.Sleep(time.Minute)
					most = max(most, look())
				}
				all := 0
				for _, op := range []string{"Health", "Mounts", "TidyStatus", "CRLConfig", "AutoTidy", "LongestTTL", "Leases"} {
					t.Logf("%4d mounts: %6.1f requests an hour for %s", tt.mounts, float64(ops[op])/hours, op)
					all += ops[op]
				}
				t.Logf("%4d mounts: %6.1f requests an hour in all, at most %d in one minute", tt.mounts, float64(all)/hours, most)
				if all/hours > tt.most || most > tt.mostInOnePass {
					t.Errorf("%d requests an hour, want at most %d; %d in one minute, want at most %d", all/hours, tt.most, most, tt.mostInOnePass)
				}
			})
		})
	}
}

// What is remembered of other mounts does not start a run beside theirs: right
// before one is started, all are asked.
func TestRunOfAnotherMountIsSeenBeforeAStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, mounts, tr := cluster(t, 30, nil)
		if err := tr.Once(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if _, err := v.StartTidy(t.Context(), mounts[17].Mount, pki.TidyParams{SafetyBuffer: 72 * hour}); err != nil {
			t.Fatal(err)
		}
		v.Change(func(_ *pki.Health, mounts []*tidiertest.Mount) {
			mounts[3].Pace = hour
			mounts[3].Revoke(2000, time.Now().Add(-200*hour), time.Now().Add(-190*hour))
		})
		if err := v.Rotate(t.Context(), mounts[3].Mount); err != nil {
			t.Fatal(err)
		}
		reports, err := tr.Tidy(t.Context(), tidier.Request{Mounts: []string{"pki-003"}, Wait: true})
		if err != nil || len(reports) != 1 || reports[0].Run || !strings.Contains(reports[0].Reason, "a tidy is on in mount pki-017") {
			t.Errorf("%+v, %v", reports, err)
		}
		if mounts[3].Runs != 0 {
			t.Errorf("%d runs", mounts[3].Runs)
		}
	})
}

// A run of somebody's is found within the time that statuses are remembered, and
// followed; one that is on is then read each time.
func TestSomebodysRunIsFoundAmongMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, mounts, tr := cluster(t, 30, nil)
		if err := tr.Once(t.Context()); err != nil {
			t.Fatal(err)
		}
		v.Change(func(_ *pki.Health, mounts []*tidiertest.Mount) { mounts[17].Pace = 10 * time.Minute })
		if _, err := v.StartTidy(t.Context(), mounts[17].Mount, pki.TidyParams{SafetyBuffer: 72 * hour, RevokedCerts: true}); err != nil {
			t.Fatal(err)
		}
		found := time.Time{}
		v.Before = func(op string, m pki.Mount) error {
			if op == "Measure" && m == mounts[17].Mount && found.IsZero() {
				found = time.Now()
			}
			return nil
		}
		for range 15 {
			time.Sleep(time.Minute)
			if err := tr.Once(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if late := found.Sub(mounts[17].Status.FinishedAt); found.IsZero() || late > 2*time.Minute {
			t.Errorf("proved at %s, %s after its end", found, late)
		}
	})
}

// While a run of a mount that is not ours holds back the others, its end is seen
// at the next look.
func TestEndOfAnotherMountsRunIsSeenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, mounts, tr := cluster(t, 30, func(o *tidier.Options) { o.Mounts = []string{"*", "!pki-017"} })
		v.Change(func(_ *pki.Health, mounts []*tidiertest.Mount) {
			mounts[17].Pace = 7 * time.Minute
			mounts[3].Revoke(2000, time.Now().Add(-200*hour), time.Now().Add(-190*hour))
		})
		if err := v.Rotate(t.Context(), mounts[3].Mount); err != nil {
			t.Fatal(err)
		}
		if _, err := v.StartTidy(t.Context(), mounts[17].Mount, pki.TidyParams{SafetyBuffer: 72 * hour, RevokedCerts: true}); err != nil {
			t.Fatal(err)
		}
		for range 9 {
			if err := tr.Once(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		late := mounts[3].Status.StartedAt.Sub(mounts[17].Status.FinishedAt)
		if mounts[3].Runs != 1 || late < 0 || late > time.Minute+time.Second {
			t.Errorf("%d runs, begun %s after the other's end", mounts[3].Runs, late)
		}
	})
}

// A setting that is changed is seen within ten minutes, a right that is granted
// at once.
func TestSettingsAreReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var found []pki.Finding
		v, _, tr := cluster(t, 1, func(o *tidier.Options) { o.Report = func(f []pki.Finding) { found = f } })
		v.Before = func(op string, _ pki.Mount) error {
			if op == "CRLConfig" {
				return &pki.PermissionError{Path: "pki-000/config/crl", Capability: "read"}
			}
			return nil
		}
		rules := func() string {
			t.Helper()
			if err := tr.Once(t.Context()); err != nil {
				t.Fatal(err)
			}
			var rules []string
			for _, f := range found {
				rules = append(rules, f.Rule)
			}
			return strings.Join(rules, " ")
		}
		if got := rules(); got != "tidy-permission" {
			t.Fatalf("findings %s", got)
		}
		time.Sleep(30 * time.Second)
		if got := rules(); got != "tidy-permission" {
			t.Fatalf("findings %s", got)
		}
		v.Before = nil
		if got := rules(); got != "" {
			t.Fatalf("findings %s", got)
		}
		v.Change(func(_ *pki.Health, mounts []*tidiertest.Mount) {
			mounts[0].Auto = pki.AutoTidy{Enabled: true, CertStore: true, RevokedCerts: true}
		})
		time.Sleep(10 * time.Minute)
		if got := rules(); got != "tidy-auto-tidy" {
			t.Fatalf("findings %s", got)
		}
	})
}

// Who looks more often remembers for less long: what was read of a quiet mount
// holds for five looks, its settings for ten.
func TestMemoryIsCountedInLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, _, tr := cluster(t, 1, func(o *tidier.Options) { o.Interval = time.Second })
		asked := map[string]int{}
		v.Before = func(op string, _ pki.Mount) error { asked[op]++; return nil }
		for range 61 {
			if err := tr.Once(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		for op, want := range map[string]int{"Health": 61, "TidyStatus": 13, "Mounts": 13, "CRLConfig": 7, "AutoTidy": 7, "LongestTTL": 1} {
			if n := asked[op]; n < want-1 || n > want+1 {
				t.Errorf("%s: asked %d times, want about %d", op, n, want)
			}
		}
	})
}

// While Vault is away nothing that is remembered stands for it.
func TestErrorsAreNotRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, _, tr := cluster(t, 2, nil)
		away := fmt.Errorf("reading: %w", pki.ErrUnreachable)
		for _, op := range []string{"Mounts", "TidyStatus", "AutoTidy"} {
			v.Before = func(got string, _ pki.Mount) error {
				if got == op {
					return away
				}
				return nil
			}
			time.Sleep(15 * time.Minute)
			for range 2 {
				if err := tr.Once(t.Context()); !errors.Is(err, pki.ErrUnreachable) {
					t.Errorf("%s: %v", op, err)
				}
			}
			v.Before = nil
			if err := tr.Once(t.Context()); err != nil {
				t.Errorf("after %s: %v", op, err)
			}
		}
	})
}

// Lists of a mount that nobody watches are measured once in ten looks, and anew
// before a run.
func TestUnwatchedListsAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, _, tr := cluster(t, 2, func(o *tidier.Options) { o.CRLs = o.Vault.(tidier.CRLs) }) // which watches none
		measured := 0
		v.Before = func(op string, _ pki.Mount) error {
			if op == "Measure" {
				measured++
			}
			return nil
		}
		for range 61 {
			if err := tr.Once(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		if measured < 2*6 || measured > 2*8 {
			t.Errorf("two mounts were measured %d times in 61 looks, want 7 times each", measured)
		}
	})
}

// A mount that is gone is looked for once more, not for minutes.
func TestMountThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, mounts, tr := cluster(t, 2, nil)
		if err := tr.Once(t.Context()); err != nil {
			t.Fatal(err)
		}
		gone := mounts[0].Mount
		v.Before = func(op string, m pki.Mount) error {
			if m == gone {
				return &pki.RefusedError{Path: m.Path, Status: 404, Message: "no handler for route"}
			}
			return nil
		}
		time.Sleep(15 * time.Minute)
		reads := 0
		v.After = func(op string, _ pki.Mount) error {
			if op == "Mounts" {
				reads++
			}
			return nil
		}
		for range 3 {
			_ = tr.Once(t.Context()) // says that it is gone
			time.Sleep(time.Second)
		}
		if reads != 3 {
			t.Errorf("the mounts were read %d times in 3 looks at one that is gone, want each time", reads)
		}
	})
}
