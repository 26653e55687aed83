package k8scsr

import (
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	var p Pace
	if !p.Due(epoch) {
		t.Error("one that was never looked at is not due")
	}
	now := epoch
	for n, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second, 45 * time.Second, 45 * time.Second} {
		p = p.Failed(now, 0, 0)
		if got := p.NextAt.Sub(now); got != want {
			t.Errorf("failure %d: again after %v, want %v", n+1, got, want)
		}
		if p.Due(p.NextAt.Add(-time.Millisecond)) || !p.Due(p.NextAt) {
			t.Errorf("failure %d: due too early or too late", n+1)
		}
		now = p.NextAt
	}
	if p = p.Looked(now, now.Add(time.Minute)); p.Failures != 0 || p.Due(now.Add(59*time.Second)) || !p.Due(now.Add(time.Minute)) {
		t.Errorf("after a look that worked: %+v", p)
	}
	if !p.Due(now.Add(-time.Second)) {
		t.Error("a clock that went back puts it off")
	}
}

func TestPaceOfFailures(t *testing.T) {
	for _, c := range []struct {
		name     string
		failures int
		asked    time.Duration
		chance   float64
		want     time.Duration
	}{
		{"with chance", 0, 0, 0.5, 1100 * time.Millisecond},
		{"longest, with all chance", 100, 0, 1, 54 * time.Second},
		{"asked for less", 3, 3 * time.Second, 0, 8 * time.Second},
		{"asked for more", 0, 30 * time.Second, 0, 30 * time.Second},
		{"asked for more, with chance", 0, 30 * time.Second, 1, 36 * time.Second},
		{"asked for a day", 0, day, 0, 10 * time.Minute},
	} {
		if got := (Pace{Failures: c.failures}).Failed(epoch, c.asked, c.chance).NextAt.Sub(epoch); got != c.want {
			t.Errorf("%s: again after %v, want %v", c.name, got, c.want)
		}
	}
}
