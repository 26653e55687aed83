package tidier_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
	"github.com/pkiwarden/pkiwarden/pki/tidier"
	"github.com/pkiwarden/pkiwarden/pki/tidier/tidiertest"
)

// doubtful makes a mount of which the dates say next to nothing: with a longest
// TTL of 30 days all but 50 of its entries are in question, and ripe of them
// are reclaimable.
func doubtful(path string, ripe, unripe int) *tidiertest.Mount {
	now := time.Now()
	m := &tidiertest.Mount{
		Mount:      pki.Mount{Path: path, UUID: "UUID-" + path},
		LongestTTL: pki.LongestTTL{Duration: 720 * hour, Source: "max_ttl of role web"},
		Pace:       20 * time.Second,
	}
	m.Revoke(ripe, now.Add(-200*hour), now.Add(-100*hour))
	m.Revoke(unripe, now.Add(-200*hour), now.Add(100*hour))
	m.Revoke(50, now.Add(-hour), now.Add(hour))
	return m
}

// watching is a world that decides nothing, on such mounts.
func watching(t *testing.T, mounts ...*tidiertest.Mount) *world {
	t.Helper()
	w := newWorld(t)
	v, err := tidiertest.New(time.Now, mounts...)
	if err != nil {
		t.Fatal(err)
	}
	w.vault, w.mount = v, mounts[0]
	w.policy.Enabled, w.policy.Trigger = false, pki.Trigger{}
	time.Sleep(time.Minute)
	return w
}

// requests counts what is asked of the Vault from now on, by name.
func (w *world) requests() map[string]int {
	counts := map[string]int{}
	w.vault.Before = func(op string, m pki.Mount) error {
		counts[op]++
		counts[op+" "+m.Path]++
		return nil
	}
	return counts
}

// One call reads no more than its budget, and slowly; the next ones go on where
// it stopped, and when the estimate lacks nothing, nothing more is read.
func TestOnceSamplesWithinItsBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watching(t, doubtful("pki", 400, 250))
		tr, counts := w.instance("pod-1"), w.requests()
		var reads []int
		for range 8 {
			before, begin := counts["Certificate"], time.Now()
			w.once(tr)
			reads = append(reads, counts["Certificate"]-before)
			if took, slow := time.Since(begin), time.Duration(reads[len(reads)-1])*50*time.Millisecond; took > 11*time.Second || took < slow {
				t.Errorf("%d reads in %s", reads[len(reads)-1], took)
			}
			time.Sleep(time.Minute)
		}
		if got := fmt.Sprint(reads); got != "[200 200 200 50 0 0 0 0]" {
			t.Errorf("reads %s, want the 650 in question, each once", got)
		}
		w.want("passes", float64(counts["Entries"]), 1)
		w.want("reclaimable", w.value("pkiwarden_crl_reclaimable_entries", "pki"), 400)
	})
}

// What is revoked later is read when it comes into question, and tidied away it
// is forgotten.
func TestSampleFollowsTheMount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watching(t, doubtful("pki", 20, 10))
		tr, counts := w.instance("pod-1"), w.requests()
		w.once(tr)
		w.want("reads", float64(counts["Certificate"]), 30)
		time.Sleep(74 * hour) // the 50 come into question, and ended 73 h ago
		w.once(tr)
		w.want("reads after three days", float64(counts["Certificate"]), 80)
		w.want("passes", float64(counts["Entries"]), 1)
		w.want("reclaimable", w.value("pkiwarden_crl_reclaimable_entries", "pki"), 70)

		w.policy.Enabled, w.policy.Trigger = true, pki.Trigger{ReclaimableEntries: 70}
		tr = w.instance("pod-2")
		w.once(tr)
		run := w.concluded(1, pki.OutcomeOK, "predicted 70, deleted 70")
		if run.Reason != "at least 70 entries are reclaimable, the threshold is 70" {
			t.Errorf("reason %q", run.Reason)
		}
		time.Sleep(11 * time.Minute)
		w.once(tr)
		w.want("reclaimable after a tidy", w.value("pkiwarden_crl_reclaimable_entries", "pki"), 0)
		w.want("reads by both", float64(counts["Certificate"]), 160) // 10 are left, and known
	})
}

// The neediest mount, the one nearest to its limit, is read first; and what can
// wait is read when no estimate is bad any more.
func TestSampleByNeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calm, full := doubtful("calm", 100, 60), doubtful("full", 90, 80)
		full.Limit.Known, full.Limit.MaxBytes = true, 10_000
		w := watching(t, calm, full)
		tr, counts := w.instance("pod-1"), w.requests()
		w.once(tr)
		if full, calm := counts["Certificate full"], counts["Certificate calm"]; full < 100 || full > 165 || calm < 35 || full+calm != 200 {
			t.Errorf("%d reads of the full one and %d of the calm one, want about two thirds first", full, calm)
		}
		for range 3 {
			time.Sleep(time.Minute)
			w.once(tr)
		}
		w.want("reads in all", float64(counts["Certificate"]), 330)
		w.want("calm", w.value("pkiwarden_crl_reclaimable_entries", "calm"), 100)
		w.want("full", w.value("pkiwarden_crl_reclaimable_entries", "full"), 90)
	})
}

// A command decides by a sample that is good enough, and says how good it is.
func TestTidySamplesBeforeItDecides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watching(t, doubtful("pki", 1400, 600))
		w.policy.Trigger = pki.Trigger{ReclaimableShare: 0.5}
		counts := w.requests()
		begin := time.Now()
		reports, err := w.instance("job").Tidy(t.Context(), tidier.Request{DryRun: true})
		if err != nil || len(reports) != 1 {
			t.Fatalf("%+v, %v", reports, err)
		}
		if took := time.Since(begin); took > 10*time.Second {
			t.Errorf("took %s", took)
		}
		reads := counts["Certificate"]
		if p := reports[0].Predicted.Reclaimable; p < 1200 || p > 1600 || reads < 200 || reads > 450 {
			t.Errorf("%d predicted by %d reads, the truth is 1400", p, reads)
		}
		for _, want := range []string{"dry run, a run is due: at least 1", " of 2050 entries", fmt.Sprintf("by a sample of %d)", reads), "the threshold is 50 %"} {
			if !strings.Contains(reports[0].Reason, want) {
				t.Errorf("reason %q, want … %s …", reports[0].Reason, want)
			}
		}
		w.want("passes", float64(counts["Entries"]), 1)
	})
}

// A command does not wait for ever: after a minute it decides with what it has.
func TestTidySamplesForAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watching(t, doubtful("pki", 900, 900))
		reads := 0
		w.vault.Before = func(op string, _ pki.Mount) error {
			if op == "Certificate" {
				reads++
				time.Sleep(300 * time.Millisecond) // and four times that in between
			}
			return nil
		}
		var progress []int64
		w.sampling = func(_ pki.Mount, read, of int64) {
			if progress = append(progress, read); of < read || of > 2000 {
				t.Errorf("%d of %d read", read, of)
			}
		}
		begin := time.Now()
		reports, err := w.instance("job").Tidy(t.Context(), tidier.Request{DryRun: true})
		if err != nil || len(reports) != 1 || !strings.Contains(reports[0].Reason, " of 1850 entries are reclaimable (sample of 40)") {
			t.Errorf("%+v, %v", reports, err)
		}
		if took := time.Since(begin); reads != 40 || took < time.Minute || took > 62*time.Second {
			t.Errorf("%d reads in %s, want 40 in a minute", reads, took)
		}
		if len(progress) != 40 || progress[39] != 40 {
			t.Errorf("progress %v", progress)
		}
	})
}

// A Vault that suddenly answers slowly is left alone until the next call.
func TestSamplingStopsWhenVaultIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watching(t, doubtful("pki", 400, 250))
		reads := 0
		w.vault.Before = func(op string, _ pki.Mount) error {
			if op == "Certificate" {
				reads++
				time.Sleep(2 * time.Millisecond)
				if reads == 60 {
					time.Sleep(200 * time.Millisecond)
				}
			}
			return nil
		}
		tr := w.instance("pod-1")
		w.once(tr)
		w.want("reads", float64(reads), 60)
		w.once(tr)
		if reads < 60+180 || reads > 60+200 {
			t.Errorf("%d reads by two calls", reads)
		}
	})
}

// Certificates that are no longer stored, or cannot be read, make the estimate
// worse and keep nobody from tidying; nothing is retried at once.
func TestSampleOfUnreadable(t *testing.T) {
	t.Run("no longer stored", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := doubtful("pki", 40, 20)
			for i := range 10 {
				m.Revoked[i].Unstored = true
			}
			w := watching(t, m)
			reports, err := w.instance("job").Tidy(t.Context(), tidier.Request{DryRun: true})
			if err != nil || !strings.Contains(reports[0].Reason, "about 35 ± 5 of 110 entries are reclaimable (sample of 60; the certificates of 10 are no longer stored)") {
				t.Errorf("%+v, %v", reports, err)
			}
		})
	})
	t.Run("malformed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := watching(t, doubtful("pki", 400, 250))
			w.unreadable()
			tr := w.instance("pod-1")
			for range 3 {
				w.once(tr)
				time.Sleep(time.Minute)
			}
			w.want("reclaimable", w.value("pkiwarden_crl_reclaimable_entries", "pki"), 0)
		})
	})
	t.Run("Vault is away", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := watching(t, doubtful("pki", 400, 250))
			reads := 0
			w.vault.Before = func(op string, _ pki.Mount) error {
				if op == "Certificate" {
					reads++
					return fmt.Errorf("reading certificate: %w", pki.ErrUnreachable)
				}
				return nil
			}
			tr := w.instance("pod-1")
			w.once(tr)
			w.want("reads", float64(reads), 1)
			w.vault.Before = nil
			w.once(tr)
			w.want("reads then", float64(w.mount.Reads), 200)
		})
	})
}

// A list whose entries were shown and then turned out not to be the issuer's
// is not sampled.
func TestSampleTakesVerifiedListsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watching(t, doubtful("pki", 400, 250))
		w.vault.Broken = fmt.Errorf("verifying CRL: not signed by this issuer")
		w.once(w.instance("pod-1"))
		w.want("reads", float64(w.mount.Reads), 0)
	})
}

// Samples of all mounts together stay within their room.
func TestSampleRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mounts []*tidiertest.Mount
		for i := range 8 {
			mounts = append(mounts, doubtful(fmt.Sprintf("pki-%d", i), 400, 250))
		}
		w := watching(t, mounts...)
		w.sampleSize = 1000
		tr := w.instance("pod-1")
		for range 20 {
			w.once(tr)
			time.Sleep(time.Minute)
		}
		reads := 0
		for _, m := range mounts {
			if m.Reads > 250 {
				t.Errorf("%d reads of one mount, want a quarter of the room at most", m.Reads)
			}
			reads += m.Reads
		}
		if reads < 500 || reads > 1000 {
			t.Errorf("%d certificates read, there is room for 1000", reads)
		}
	})
}
