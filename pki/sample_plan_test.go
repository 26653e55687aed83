package pki_test

import (
	"strings"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
)

// Thresholds count what is sure by a sample, and reasons state its error.
func TestPlanBySample(t *testing.T) {
	const buffer = 72 * hour
	ca := newAuthority(t, "root")
	month := pki.LongestTTL{Duration: 30 * days, Source: "max_ttl of role web"}
	// By dates alone all of these are in question.
	some := together(batchOf(60, 80*hour, 73*hour), batchOf(140, 80*hour, 71*hour))
	many := together(batchOf(1600, 80*hour, 73*hour), batchOf(400, 80*hour, 71*hour))
	none := together(batchOf(150, 80*hour, 71*hour), batchOf(50, 90*hour, 70*hour))
	tests := []struct {
		name         string
		certificates []certificate
		reads        int
		full         bool // the list is near its limit
		change       func(*pki.Policy, *pki.Observation)
		verdict      pki.Verdict
		reason       string
		until        time.Time
	}{
		{"exactly, over the threshold", some, 1000, false, nil, pki.RunNow, "at least 60 of 200 entries (30 %) are reclaimable, the threshold is 20 %", time.Time{}},
		{"exactly, under it", some, 1000, false, func(p *pki.Policy, _ *pki.Observation) { p.Trigger.ReclaimableShare = 0.31 }, pki.Wait,
			"nothing makes a run due: 60 of 200 entries are reclaimable", now.Add(5 * days)},
		{"unread", some, 0, false, nil, pki.Wait, "nothing makes a run due: between 0 and 200 of 200 entries are reclaimable", now.Add(5 * days)},
		{"about, over the threshold", many, 2000, false, nil, pki.RunNow, ") are reclaimable (about 1", time.Time{}},
		{"about, under it", many, 2000, false, func(p *pki.Policy, _ *pki.Observation) {
			p.Trigger = pki.Trigger{ReclaimableEntries: 1999}
		}, pki.Wait, "nothing makes a run due: about 1", time.Time{}},
		{"near the limit and nothing to take off", none, 1000, true, nil, pki.CannotHelp,
			"none of its certificates has been expired for longer than the safety buffer of 72h0m0s: all 200 in question were read; the first is reclaimable at 2026-03-01T13:00:00Z", now.Add(hour)},
		{"no run known and nothing to take off", none, 1000, false, func(_ *pki.Policy, o *pki.Observation) {
			o.Status = &pki.TidyStatus{State: pki.TidyInactive}
		}, pki.Wait, "nothing makes a run due: 0 of 200 entries are reclaimable", now.Add(4 * days)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newTruth(t, ca, 0, tt.certificates)
			if tt.full {
				m.crl.Limit = crl.Limit{Backend: "raft", MaxBytes: 9000, Known: true}
			}
			s := pki.NewSample(keyOf(1), 10_000)
			if tt.reads > 0 {
				m.complete(t, s, month, buffer, false, tt.reads)
			}
			o, p := observation(m.crl), policy()
			o.LongestTTL, o.Sample = month, s
			p.Trigger.ReclaimableEntries = 0
			if tt.change != nil {
				tt.change(&p, &o)
			}
			d := pki.Plan(o, p, now)
			if d.Verdict != tt.verdict || !strings.Contains(d.Reason, tt.reason) || !d.Until.Equal(tt.until) {
				t.Errorf("%s until %s: %s\nwant %s until %s: … %s …", d.Verdict, d.Until, d.Reason, tt.verdict, tt.until, tt.reason)
			}
			if e := d.Estimate; d.Predicted.Reclaimable != e.Likely || d.Predicted.BytesAfter != m.crl.Summary.Bytes-39*e.Likely {
				t.Errorf("predicted %+v of %d bytes, likely %d", d.Predicted, m.crl.Summary.Bytes, e.Likely)
			}
		})
	}
}

// A longest TTL that certificates outlive is a finding that names one.
func TestFindingOfABrokenTTL(t *testing.T) {
	m := newTruth(t, newAuthority(t, "root"), 0, together(batchOf(300, 200*hour, 190*hour), batchOf(100, 200*hour, -50*hour)))
	s := pki.NewSample(keyOf(1), 10_000)
	o := observation(m.crl)
	m.complete(t, s, o.LongestTTL, 72*hour, false, 10_000)
	o.Sample = s
	d := pki.Plan(o, policy(), now)
	for _, f := range pki.Findings(o, policy(), d, now) {
		if f.Rule != "tidy-estimate-unknown" {
			continue
		}
		want := "a certificate that was revoked at 2026-02-21T04:00:00Z is valid until 2026-03-03T14:00:00Z, the longest TTL is 24h0m0s (max_ttl of role web); 300 of 400 entries are reclaimable"
		if f.Evidence != want {
			t.Errorf("evidence %q, want %q", f.Evidence, want)
		}
		return
	}
	t.Error("no finding")
}

// What was read of the certificates makes the effect of a shorter buffer exact.
func TestLeverBySample(t *testing.T) {
	m := newTruth(t, newAuthority(t, "root"), 0, together(batchOf(150, 80*hour, 71*hour), batchOf(50, 90*hour, 20*hour)))
	s := pki.NewSample(keyOf(1), 10_000)
	o := observation(m.crl)
	o.LongestTTL = pki.LongestTTL{Duration: 30 * days, Source: "max_ttl of role web"}
	m.complete(t, s, o.LongestTTL, 72*hour, false, 10_000)
	o.Sample = s
	p := policy()
	for _, l := range pki.Levers(o, p, pki.Plan(o, p, now).Estimate, now) {
		if l.Name != pki.ShorterBuffer {
			continue
		}
		// Expired for longer than 24 h: the 150.
		if want := "a run then takes 150 of 200 entries off"; !l.Known || l.Bytes != m.crl.Summary.Bytes-39*150 || !strings.Contains(l.Effect, want) {
			t.Errorf("%+v, want %s", l, want)
		}
		return
	}
	t.Error("no such lever")
}
