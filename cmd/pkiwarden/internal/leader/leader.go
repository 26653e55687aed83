// Package leader chooses which instance does the cluster's work.
//
// Election does not fence: an instance that was paused may act for a moment
// after another has taken over. So every write that the leader makes is
// compare-and-swap, and state is read again after the election is won.
package leader

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
)

// Elector runs work in one instance at a time.
type Elector interface {
	// Run campaigns, and calls lead each time that this instance has become
	// the leader. lead's context ends when leadership is lost or ctx ends; lead
	// returns when all its work has, and only then is leadership given up for
	// others to take at once. After a loss, or when lead returns of itself, Run
	// campaigns again. That the other side is down, or refuses, ends nothing:
	// it is logged once per change, and tried again.
	//
	// Run returns nil when ctx has ended and lead has returned.
	Run(ctx context.Context, lead func(ctx context.Context)) error
}

// Alone is the elector of a single instance, which always leads.
type Alone struct {
	OnChange func(leading bool) // default: nothing
}

// Run calls lead once, with ctx.
func (a Alone) Run(ctx context.Context, lead func(ctx context.Context)) error {
	if ctx.Err() != nil {
		return nil
	}
	if a.OnChange != nil {
		a.OnChange(true)
		defer a.OnChange(false)
	}
	lead(ctx)
	<-ctx.Done()
	return nil
}

// Identity names this instance among the candidates: the pod's name
// (POD_NAME), else the host's, and a random suffix, since a restarted container
// is another candidate than the one before it.
func Identity() (string, error) {
	name := os.Getenv("POD_NAME")
	if name == "" {
		host, err := os.Hostname()
		if err != nil {
			return "", fmt.Errorf("naming this instance: %w; set POD_NAME", err)
		}
		name = host
	}
	return name + "_" + rand.Text()[:8], nil
}
