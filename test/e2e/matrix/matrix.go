package matrix

import (
	"context"
	"errors"
	"strings"
	"sync"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
)

// Options say what is tried.
type Options struct {
	Runs  int      // trials altogether; the cases take turns
	Lanes int      // trials at a time, each lane on servers of its own
	Seed  uint64   // of the first trial; each next one has the next
	Cases []string // default all
	// NewSet makes the servers' set of one lane. Whoever makes it closes it.
	NewSet func() (*servers.Set, error)
	Each   func(Outcome)
}

// Run makes the trials. It stops early, without an error, when ctx ends.
func Run(ctx context.Context, o Options) ([]Outcome, error) {
	if len(o.Cases) == 0 {
		o.Cases = Cases()
	}
	type trial struct {
		name string
		seed uint64
	}
	todo := make(chan trial)
	go func() {
		defer close(todo)
		for n := range o.Runs {
			select {
			case todo <- trial{o.Cases[n%len(o.Cases)], o.Seed + uint64(n)}:
			case <-ctx.Done():
				return
			}
		}
	}()
	var (
		mu       sync.Mutex
		outcomes []Outcome
		errs     []error
		lanes    sync.WaitGroup
	)
	for range o.Lanes {
		lanes.Go(func() {
			l, err := newLane(ctx, o.NewSet)
			if err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
				return
			}
			defer l.close()
			for next := range todo {
				outcome := l.run(ctx, next.name, next.seed)
				if ctx.Err() != nil {
					return // it was cut short
				}
				mu.Lock()
				outcomes = append(outcomes, outcome)
				if o.Each != nil {
					o.Each(outcome)
				}
				mu.Unlock()
				if outcome.Failed() != "" {
					// What is left of it must not make the next ones fail.
					l.close()
					if l, err = newLane(ctx, o.NewSet); err != nil {
						mu.Lock()
						errs = append(errs, err)
						mu.Unlock()
						return
					}
				}
			}
		})
	}
	lanes.Wait()
	return outcomes, errors.Join(errs...)
}

// Failed tells why a trial does not count as good, "" when it does.
func (o Outcome) Failed() string {
	var why []string
	if o.Err != nil {
		why = append(why, "the harness: "+o.Err.Error())
	}
	if o.Err == nil && !o.Hit {
		why = append(why, "the point was not reached")
	}
	why = append(why, o.Violations...)
	return strings.Join(why, "; ")
}
