package tidier_test

import (
	"context"
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
	"github.com/pkiwarden/pkiwarden/pki/tidier"
	"github.com/pkiwarden/pkiwarden/pki/tidier/tidiertest"
)

var sizes = regexp.MustCompile(`"bytes(\w*)":\d+`)

// form is a report as the command prints it.
func form(t *testing.T, reports []tidier.Report) string {
	t.Helper()
	data, err := json.Marshal(reports)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestTidyReports(t *testing.T) {
	tests := []struct {
		name    string
		change  func(*world)
		request tidier.Request
		runs    int
		want    string // the report's form, but for sizes of signatures
	}{
		{"to the proof", nil, tidier.Request{Wait: true}, 1,
			`[{"mount":"pki","run":true,"reason":"at least 300 of 400 entries (75 %) are reclaimable, the threshold is 20 %","predicted":{"reclaimable":300,"bytesAfter":N},"result":{"state":"finished","deleted":300,"entriesBefore":400,"entriesAfter":100,"bytesBefore":N,"bytesAfter":N,"crlRotated":false}}]`},
		{"switched off in the configuration", func(w *world) { w.policy.Enabled = false }, tidier.Request{Wait: true}, 1,
			`[{"mount":"pki","run":true,"reason":"at least 300 of 400 entries (75 %) are reclaimable, the threshold is 20 %","predicted":{"reclaimable":300,"bytesAfter":N},"result":{"state":"finished","deleted":300,"entriesBefore":400,"entriesAfter":100,"bytesBefore":N,"bytesAfter":N,"crlRotated":false}}]`},
		{"without waiting", nil, tidier.Request{}, 1,
			`[{"mount":"pki","run":true,"reason":"at least 300 of 400 entries (75 %) are reclaimable, the threshold is 20 %","predicted":{"reclaimable":300,"bytesAfter":N},"result":null}]`},
		{"dry run", nil, tidier.Request{DryRun: true, Wait: true}, 0,
			`[{"mount":"pki","run":false,"reason":"dry run, a run is due: at least 300 of 400 entries (75 %) are reclaimable, the threshold is 20 %","predicted":{"reclaimable":300,"bytesAfter":N},"result":null}]`},
		{"not due", func(w *world) { w.policy.Trigger.ReclaimableShare = 0.8; w.policy.Trigger.AtLeastEvery = 0 }, tidier.Request{Wait: true}, 0,
			`[{"mount":"pki","run":false,"reason":"nothing makes a run due: 300 of 400 entries are reclaimable","predicted":{"reclaimable":300,"bytesAfter":N},"result":null}]`},
		{"forced", func(w *world) { w.policy.Trigger = pki.Trigger{} }, tidier.Request{Wait: true, Force: true, Mounts: []string{"pki/"}}, 1,
			`[{"mount":"pki","run":true,"reason":"forced; 300 of 400 entries are reclaimable","predicted":{"reclaimable":300,"bytesAfter":N},"result":{"state":"finished","deleted":300,"entriesBefore":400,"entriesAfter":100,"bytesBefore":N,"bytesAfter":N,"crlRotated":false}}]`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				if tt.change != nil {
					tt.change(w)
				}
				reports, err := w.instance("job").Tidy(t.Context(), tt.request)
				if err != nil {
					t.Fatal(err)
				}
				if got := sizes.ReplaceAllString(form(t, reports), `"bytes$1":N`); got != tt.want {
					t.Errorf("report\n%s, want\n%s", got, tt.want)
				}
				w.want("runs", float64(w.mount.Runs), float64(tt.runs))
				if tt.request.DryRun && w.record().Version != 0 {
					t.Errorf("record %+v", w.record())
				}
				if r := reports[0].Result; r != nil && !near(r.BytesAfter, reports[0].Predicted.BytesAfter) {
					t.Errorf("%d bytes after, predicted %d", r.BytesAfter, reports[0].Predicted.BytesAfter)
				}
			})
		})
	}
}

func TestTidyUnknownMount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		_, err := w.instance("job").Tidy(t.Context(), tidier.Request{Mounts: []string{"pkj"}})
		if err == nil || err.Error() != `no PKI mount "pkj" among those that Vault shows: pki` {
			t.Errorf("error %v", err)
		}
	})
}

func TestTidyOutcomes(t *testing.T) {
	tests := []struct {
		name   string
		change func(*tidiertest.Mount)
		err    string // "": none
		reason string
	}{
		{"no effect is no error", func(m *tidiertest.Mount) {
			m.Revoked = nil
			m.Revoke(9, time.Now().Add(-200*hour), time.Now().Add(hour))
		}, "", "; afterwards: no revoked certificate had been expired for more than the safety buffer of 72h0m0s yet"},
		{"failed", func(m *tidiertest.Mount) {
			m.Revoked = nil
			m.Revoke(9, time.Now().Add(-200*hour), time.Now().Add(hour))
			m.RunError = "bad certificate aa-bb"
		}, "tidy of mount pki: failed: Vault stopped the run: bad certificate aa-bb", "; afterwards: Vault stopped the run"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, tt.change)
				reports, err := w.instance("job").Tidy(t.Context(), tidier.Request{Wait: true, Force: true})
				if got := text(err); got != tt.err {
					t.Errorf("error %q, want %q", got, tt.err)
				}
				if len(reports) != 1 || !strings.Contains(reports[0].Reason, tt.reason) || reports[0].Result == nil {
					t.Errorf("report %s", form(t, reports))
				}
			})
		})
	}
}

// An interrupted command returns at once, and the next one carries on.
func TestTidyInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			time.Sleep(3500 * time.Millisecond)
			cancel()
		}()
		begin := time.Now()
		reports, err := w.instance("job-1").Tidy(ctx, tidier.Request{Wait: true})
		if !errors.Is(err, context.Canceled) || time.Since(begin) != 3500*time.Millisecond {
			t.Errorf("after %s: %v", time.Since(begin), err)
		}
		if len(reports) != 1 || !reports[0].Run || reports[0].Result != nil {
			t.Errorf("report %s", form(t, reports))
		}
		reports, err = w.instance("job-2").Tidy(t.Context(), tidier.Request{Wait: true})
		if err != nil || reports[0].Run || reports[0].Result == nil || reports[0].Result.EntriesAfter != 100 {
			t.Errorf("report %s, %v", form(t, reports), err)
		}
		w.want("runs", float64(w.mount.Runs), 1)
	})
}

// A failover in mid-run is waited for, and then measured.
func TestTidyPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var down atomic.Bool
		w.vault.Before = func(string, pki.Mount) error {
			if down.Load() {
				return pki.ErrUnreachable
			}
			return nil
		}
		go func() {
			time.Sleep(5 * time.Second)
			down.Store(true)
			w.vault.Change(func(_ *pki.Health, mounts []*tidiertest.Mount) { mounts[0].Forget() })
			time.Sleep(2 * time.Minute)
			down.Store(false)
		}()
		_, err := w.instance("job").Tidy(t.Context(), tidier.Request{Wait: true})
		if got := text(err); !strings.Contains(got, "interrupted: Vault forgot the run") {
			t.Errorf("error %q", got)
		}

		down.Store(true)
		if _, err := w.instance("job").Tidy(t.Context(), tidier.Request{Wait: true}); !errors.Is(err, pki.ErrUnreachable) {
			t.Errorf("unreachable: %v", err)
		}
	})
}

// A job that was killed before it asked Vault does not cost the next one its
// run.
func TestTidyAfterAnAbandonedDecision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ctx, cancel := context.WithCancel(t.Context())
		w.vault.Before = func(op string, _ pki.Mount) error {
			if op == "StartTidy" {
				cancel()
			}
			return nil
		}
		if _, err := w.instance("job-1").Tidy(ctx, tidier.Request{Wait: true}); err == nil {
			t.Fatal("no error")
		}
		w.vault.Before = nil
		reports, err := w.instance("job-2").Tidy(t.Context(), tidier.Request{Wait: true})
		if err != nil || len(reports) != 1 || !reports[0].Run || reports[0].Result == nil {
			t.Errorf("report %s, %v", form(t, reports), err)
		}
		w.want("runs", float64(w.mount.Runs), 1)
	})
}

// A new active node is waited for by a command that waits at all.
func TestTidyWaitsForVaultToSettle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		elected := time.Now()
		w.vault.Change(func(h *pki.Health, _ []*tidiertest.Mount) { h.ActiveSince = elected })
		reports, err := w.instance("job").Tidy(t.Context(), tidier.Request{})
		if err != nil || reports[0].Run || !strings.Contains(reports[0].Reason, "settle") {
			t.Errorf("report %s, %v", form(t, reports), err)
		}
		reports, err = w.instance("job").Tidy(t.Context(), tidier.Request{Wait: true})
		if err != nil || !reports[0].Run || w.mount.Status.StartedAt.Before(elected.Add(2*time.Minute)) {
			t.Errorf("report %s, %v, started at %s", form(t, reports), err, w.mount.Status.StartedAt)
		}
	})
}

// Without a state nothing is run, and what would be is said.
func TestStateless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		tr, err := tidier.New(tidier.Options{Vault: w.vault, CRLs: w.vault, Policy: w.policy})
		if err != nil {
			t.Fatal(err)
		}
		if reports, err := tr.Tidy(t.Context(), tidier.Request{DryRun: true}); err != nil || !strings.Contains(form(t, reports), "dry run, a run is due") {
			t.Errorf("report %s, %v", form(t, reports), err)
		}
		if _, err := tr.Tidy(t.Context(), tidier.Request{}); err == nil || !strings.Contains(err.Error(), "set state in the configuration") {
			t.Errorf("error %v", err)
		}
		w.want("runs", float64(w.mount.Runs), 0)
	})
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// A run that another call started and that got lost is no success of the call
// that follows it.
func TestFollowedRunGetsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		reports, err := w.instance("job-1").Tidy(t.Context(), tidier.Request{})
		if err != nil || !reports[0].Run {
			t.Fatalf("%s, %v", form(t, reports), err)
		}
		time.Sleep(2 * time.Second)
		w.vault.Change(func(_ *pki.Health, mounts []*tidiertest.Mount) { mounts[0].Forget() })
		reports, err = w.instance("job-2").Tidy(t.Context(), tidier.Request{Wait: true})
		if got := text(err); !strings.Contains(got, "tidy of mount pki: interrupted: Vault forgot the run") || len(reports) != 1 || reports[0].Run {
			t.Errorf("%s, error %q", form(t, reports), got)
		}
	})
}

// Two calls that do not share a record: the second says that a run was on.
func TestAnotherState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		first := true
		w.vault.Before = func(op string, _ pki.Mount) error {
			if op != "StartTidy" || !first {
				return nil
			}
			first = false
			_, err := w.vault.StartTidy(context.Background(), w.mount.Mount, pki.TidyParams{RevokedCerts: true, SafetyBuffer: 72 * hour})
			return err
		}
		reports, err := w.instance("job").Tidy(t.Context(), tidier.Request{Wait: true})
		if err != nil || len(reports) != 1 || reports[0].Run || !strings.Contains(reports[0].Reason, "; when Vault was asked, a run was on that is not in the record") {
			t.Errorf("%s, %v", form(t, reports), err)
		}
	})
}

// Somebody's tidy that leaves revocations alone is waited for, and does not count
// as a run: what is due comes right after it.
func TestForeignTidyOfCertificatesOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		if _, err := w.vault.StartTidy(t.Context(), w.mount.Mount, pki.TidyParams{CertStore: true, SafetyBuffer: 72 * hour}); err != nil {
			t.Fatal(err)
		}
		reports, err := w.instance("job").Tidy(t.Context(), tidier.Request{Wait: true})
		if err != nil || len(reports) != 1 || reports[0].Run || !strings.HasPrefix(reports[0].Reason, "a tidy that leaves revocations alone is on since ") {
			t.Errorf("%s, %v", form(t, reports), err)
		}
		if r := w.record(); r.Run != nil || len(r.History) != 0 {
			t.Errorf("record %+v", r)
		}
		time.Sleep(5 * time.Minute)
		reports, err = w.instance("job").Tidy(t.Context(), tidier.Request{Wait: true})
		if err != nil || len(reports) != 1 || !reports[0].Run || reports[0].Result == nil || *reports[0].Result.Deleted != 300 {
			t.Errorf("%s, %v", form(t, reports), err)
		}
	})
}

// Where Vault shows no PKI mount at all, that is the answer, not that the one
// asked for is not among none.
func TestTidyMountOfNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, err := tidiertest.New(time.Now)
		if err != nil {
			t.Fatal(err)
		}
		tr, err := tidier.New(tidier.Options{Vault: v, CRLs: v, State: new(tidiertest.State), Policy: pki.Policy{SafetyBuffer: 72 * hour}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tr.Tidy(t.Context(), tidier.Request{Mounts: []string{"pki"}}); !errors.Is(err, tidier.ErrNoMount) {
			t.Errorf("error %v", err)
		}
	})
}
