package pki_test

import (
	"strings"
	"testing"

	"github.com/pkiwarden/pkiwarden/pki"
)

// What was predicted stands beside what was achieved.
func TestJudgeComparesWithThePrediction(t *testing.T) {
	ca := newAuthority(t, "root")
	n := func(n int64) *int64 { return &n }
	after := ca.list(t, 0, 0, batch{199, 9 * hour})
	tests := []struct {
		name string
		run  pki.Run
		says string
	}{
		{"sampled", pki.Run{State: pki.RunFinished, Deleted: n(801), Predicted: pki.Prediction{Reclaimable: 812}, Margin: 40, Sampled: 378}, "; predicted 812 ± 40, deleted 801"},
		{"exact", pki.Run{State: pki.RunFinished, Deleted: n(801), Predicted: pki.Prediction{Reclaimable: 801}, Sampled: 1000}, "; predicted 801, deleted 801"},
		{"bounds only", pki.Run{State: pki.RunFinished, Deleted: n(801), Predicted: pki.Prediction{Reclaimable: 700}, Margin: 300}, "; predicted at least 700, deleted 801"},
		{"forgotten by Vault", pki.Run{State: pki.RunUnknown, Predicted: pki.Prediction{Reclaimable: 812}, Margin: 40, Sampled: 378}, "; predicted 812 ± 40, 801 entries are gone"},
		{"cancelled by a person", pki.Run{State: pki.RunCancelled, Deleted: n(801)}, ", deleted 801; stopped early"},
		{"cancelled by us", pki.Run{State: pki.RunCancelled, Deleted: n(801)}.CancelForLoad("it answers in 2s"), "; stopped early: Vault got slow: it answers in 2s"},
	}
	for _, tt := range tests {
		run := tt.run
		run.Before, run.SafetyBuffer = pki.Size{Entries: 1000, Bytes: 39250}, 72*hour
		run.DecidedAt, run.StartedAt, run.EndedAt = now.Add(-hour), now.Add(-hour), now
		got := run.Judge([]pki.CRL{after}, nil, observation().LongestTTL)
		if got.Outcome != pki.OutcomeOK || !strings.HasSuffix(got.Explanation, tt.says) {
			t.Errorf("%s: %s: %s; want ok: … %s", tt.name, got.Outcome, got.Explanation, tt.says)
		}
	}
}

// A run that achieved nothing is explained: the buffer, the count, or a list
// that Vault does not rebuild.
func TestJudgeExplainsNothing(t *testing.T) {
	root, retired := newAuthority(t, "root"), newAuthority(t, "retired")
	n := func(n int64) *int64 { return &n }
	day := pki.LongestTTL{Duration: 24 * hour, Source: "max_ttl of role web"}
	fresh := root.list(t, 0, 0, batch{100, 9 * hour})
	old := root.list(t, 0, 0, batch{30, 60 * hour}, batch{70, 30 * hour}) // revoked 60 and 30 h ago
	left := retired.list(t, 300*hour, 0, batch{40, 310 * hour})
	tests := []struct {
		name    string
		run     pki.Run
		after   []pki.CRL
		longest pki.LongestTTL
		says    string
	}{
		{"nothing expired whatever the buffer", pki.Run{Deleted: n(0)}, []pki.CRL{fresh}, day, "more than the safety buffer of 72h0m0s before; with 24h0m0s neither"},
		// With 24 h: surely what was revoked 24+24 h ago, perhaps what was 24 h ago.
		{"buffer too long", pki.Run{Deleted: n(0)}, []pki.CRL{old}, day, "72h0m0s before; with 24h0m0s it would have been 30 to 100"},
		{"buffer too long, one bound", pki.Run{Deleted: n(0), Possible: 9}, []pki.CRL{old}, pki.LongestTTL{}, "72h0m0s yet; with 24h0m0s it would have been 100 at most"},
		{"buffer too long, exact", pki.Run{Deleted: n(0), Possible: 9}, []pki.CRL{old}, pki.LongestTTL{Duration: hour}, "72h0m0s yet; with 24h0m0s it would have been 100"},
		{"the count was wrong", pki.Run{Deleted: n(0), Possible: 90, Predicted: pki.Prediction{Reclaimable: 50}, Margin: 5, Sampled: 80}, []pki.CRL{fresh}, day,
			"the count was wrong: predicted 50 ± 5 by reading 80 certificates"},
		{"deleted of a retired issuer", pki.Run{Deleted: n(40)}, []pki.CRL{fresh, left}, day, "40 revocations were deleted, of issuer retired, whose CRL Vault no longer rebuilds"},
		{"predicted of a retired issuer", pki.Run{Deleted: n(0), Possible: 40, Predicted: pki.Prediction{Reclaimable: 40}}, []pki.CRL{fresh, left}, day,
			"what was predicted is on the CRL of issuer retired, which Vault no longer rebuilds"},
	}
	for _, tt := range tests {
		run := tt.run
		run.State, run.Before, run.SafetyBuffer = pki.RunFinished, pki.SizeOf(tt.after), 72*hour
		run.DecidedAt, run.StartedAt, run.EndedAt = now.Add(-hour), now.Add(-hour), now
		got := run.Judge(tt.after, &pki.CRLConfig{}, tt.longest)
		if got.Outcome != pki.OutcomeNoEffect || !strings.Contains(got.Explanation, tt.says) {
			t.Errorf("%s: %s: %s; want no_effect: … %s …", tt.name, got.Outcome, got.Explanation, tt.says)
		}
	}
	// One list that stays as it is does not undo what became of the other.
	run := pki.Run{State: pki.RunFinished, Deleted: n(60), Before: pki.Size{Entries: 200}, DecidedAt: now.Add(-hour), StartedAt: now.Add(-hour)}
	got := run.Judge([]pki.CRL{fresh, left}, &pki.CRLConfig{}, day)
	if got.Outcome != pki.OutcomeOK || !strings.Contains(got.Explanation, "Vault left the CRL of issuer retired as it was") {
		t.Errorf("beside a retired issuer: %s: %s", got.Outcome, got.Explanation)
	}
	run.Error = "storing CRL"
	if got := run.Judge([]pki.CRL{fresh, left}, &pki.CRLConfig{}, day); got.Outcome != pki.OutcomeNoEffect {
		t.Errorf("beside a failed rebuild: %s: %s", got.Outcome, got.Explanation)
	}
}

func TestNoRotationForARunThatWasStoppedAtOnce(t *testing.T) {
	none := int64(0)
	run := pki.Run{State: pki.RunCancelled, Deleted: &none, Predicted: pki.Prediction{Reclaimable: 9}}
	if run.NeedsRotation(&pki.CRLConfig{AutoRebuild: true}) {
		t.Error("rotation of a list from which nothing was deleted")
	}
}

func TestSlower(t *testing.T) {
	slow := pki.Run{State: pki.RunCancelled}.CancelForLoad("x")
	var r pki.Record
	for i, step := range []struct {
		run  pki.Run
		want int
	}{
		{pki.Run{State: pki.RunFinished}, 0},
		{slow, 1}, {slow, 2},
		{pki.Run{State: pki.RunCancelled, Cancel: "the command that started it was interrupted"}, 2},
		{pki.Run{State: pki.RunFinished, Foreign: true}, 2},
		{pki.Run{State: pki.RunFinished}, 1},
		{slow, 2}, {slow, 3}, {slow, 4}, {slow, 5}, {slow, 5},
	} {
		if r = r.Conclude(step.run); r.Slower != step.want {
			t.Errorf("after run %d: doubled %d times, want %d", i, r.Slower, step.want)
		}
	}
}
