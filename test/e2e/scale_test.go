package e2e

import (
	"os"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/test/e2e/scale"
	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
	"github.com/pkiwarden/pkiwarden/test/e2e/servers/serverstest"
)

// A hundred certificates are born, left alone, all renewed at once, and known
// again after a SIGKILL; `make scale` measures up to ten thousand.
func TestScale(t *testing.T) {
	t.Parallel()
	ctx := serverstest.Context(t)
	const size = 100
	results, err := scale.Run(ctx, scale.Options{
		// A little more than the minute in which each certificate is looked at.
		Sizes: []int{size}, Steady: 65 * time.Second, Progress: os.Stderr,
		NewSet: func() (*servers.Set, error) {
			return serverstest.New(t), nil
		},
	})
	must(t, err)
	if len(results) != 1 {
		t.Fatalf("%d results", len(results))
	}
	r := results[0]
	must(t, r.Err)
	t.Log("\n" + scale.Report(results, scale.Made{At: time.Now(), Sizes: []int{size}}))
	for _, wrong := range r.Wrong {
		t.Error(wrong)
	}
	// A slow machine takes so long that the looks of every minute come between.
	looks := 2 * r.Renewal.Over.Minutes()
	if each := r.Renewal.Each(size) - looks; each > scale.GoalCalls {
		t.Errorf("%.1f API calls for each renewal, beside %.1f of the looks of every minute, want at most %d", each, looks, scale.GoalCalls)
	}
	// Of these, half are for the Lease.
	const aMinute, perCertificate = 120, 4
	if asked := r.Steady.PerMinute(); asked > aMinute+perCertificate*size {
		t.Errorf("%.0f requests a minute while nothing is due, want at most %d", asked, aMinute+perCertificate*size)
	}
	for name, p := range map[string]*scale.Phase{"birth": r.Birth, "while nothing is due": r.Steady, "renewal": r.Renewal, "restart": r.Restart} {
		if p.Calls.Throttled > size/10 {
			t.Errorf("%s: %d requests were answered with 429", name, p.Calls.Throttled)
		}
	}
}
