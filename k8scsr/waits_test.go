package k8scsr

import (
	"testing"
	"time"
)

// TestWaitsAreToldInTime: whether the certificate lives for ten minutes or for a
// year, that nobody approves or signs is told before the last fifth of its life.
func TestWaitsAreToldInTime(t *testing.T) {
	for _, c := range []struct {
		lifetime time.Duration
		edit     func(*Spec)
		from, to float64 // share of the lifetime within which it is told first
	}{
		{10 * time.Minute, nil, 0.74, 0.8},
		{time.Hour, nil, 0.74, 0.8},
		{day, nil, 0.67, 0.72},
		{8760 * time.Hour, nil, 0.66, 0.71},
		{10 * time.Minute, func(s *Spec) { s.AlertAt, s.CriticalAt = 0.85, 0.95 }, 0.78, 0.8001},
		{10 * time.Minute, func(s *Spec) { s.RenewAt, s.AlertAt, s.CriticalAt = 0.8, 0.9, 0.95 }, 0.79, 0.8001}, // renewed at the default share, since a tenth leaves too little
	} {
		for _, approved := range []bool{false, true} {
			w := newWorld(t)
			w.want.Lifetime, w.want.Approve = c.lifetime, false
			if c.edit != nil {
				c.edit(&w.want)
			}
			w.live(0)
			published := w.now
			w.now = w.want.Schedule(w.Live.Leaf, w.Live.IssuedAt).RenewAt
			w.request(0)
			w.Request.Approved = approved
			rule := map[bool]string{false: RuleNeverApproved, true: RuleNeverSigned}[approved]
			told, step := -1.0, max(time.Second, c.lifetime/10_000)
			for ; told < 0 && w.now.Before(w.Live.Leaf.NotAfter); w.now = w.now.Add(step) {
				for _, f := range Findings(w.State, w.want, w.now) {
					if f.Rule == rule {
						told = float64(w.now.Sub(published)) / float64(c.lifetime)
					}
				}
				if w.now.Sub(published) > c.lifetime {
					break
				}
			}
			if told < c.from || told > c.to {
				t.Errorf("lifetime %v, alertAt %v: %s is told at %.3f of its life", c.lifetime, w.want.AlertAt, rule, told)
			}
		}
	}
}

// TestFailuresListedWithoutARecord: where the record was lost, requests that
// were denied or failed count as what they are.
func TestFailuresListedWithoutARecord(t *testing.T) {
	var listed []Request
	for n := range 6 {
		listed = append(listed, Request{CreatedAt: epoch.Add(-time.Duration(50-n) * time.Minute), Denied: n%2 == 0, Failed: n%2 == 1})
	}
	until, why := Record{}.holdUntil(wanted(t), listed, epoch)
	if got := until.Sub(epoch); got != 10*time.Minute {
		t.Errorf("held for %v: %s", got, why)
	}
}
