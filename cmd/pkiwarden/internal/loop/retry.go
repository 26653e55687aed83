package loop

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sethvargo/go-retry"
)

// Policy says how an operation is retried. The zero Policy pauses for 1 s, 2 s,
// 4 s … up to a minute, each a fifth shorter or longer by chance, and goes on
// until the context ends. It holds no state: each operation gets its own
// back-off.
type Policy struct {
	First    time.Duration // pause after the first failure; default 1 s
	Max      time.Duration // longest pause, before jitter; default 1 min
	Attempts int           // calls in all; 0: no limit but the context
}

const jitterPercent = 20

func (p Policy) backoff() retry.Backoff {
	if p.First <= 0 {
		p.First = backoffFirst
	}
	if p.Max <= 0 {
		p.Max = backoffMax
	}
	capped := retry.WithCappedDuration(max(p.First, p.Max), retry.NewExponential(p.First))
	jittered := retry.WithJitterPercent(jitterPercent, capped)
	// The floor keeps jitter from making the first pause shorter than First.
	var b retry.Backoff = retry.BackoffFunc(func() (time.Duration, bool) {
		pause, stop := jittered.Next()
		return max(p.First, pause), stop
	})
	if p.Attempts > 0 {
		b = retry.WithMaxRetries(uint64(p.Attempts-1), b)
	}
	return b
}

type stopError struct{ err error }

func (e *stopError) Error() string { return e.err.Error() }
func (e *stopError) Unwrap() error { return e.err }

// Stop marks an error that trying again cannot mend. Stop(nil) is nil.
func Stop(err error) error {
	if err == nil {
		return nil
	}
	return &stopError{err}
}

// Retry calls op until it is done (nil), until it says [Stop], until the
// policy's attempts are used up, or until ctx ends. It returns nil, or the last
// cause; where ctx ended, beside the context's
// error, with both to be found by errors.Is.
func Retry(ctx context.Context, p Policy, op func(ctx context.Context) error) error {
	var last error
	err := retry.Do(ctx, p.backoff(), func(ctx context.Context) error {
		err := op(ctx)
		var stop *stopError
		switch {
		case err == nil:
			last = nil
			return nil
		case errors.As(err, &stop):
			if err == error(stop) {
				err = stop.err
			}
			last = err
			return err
		case last != nil && ctx.Err() != nil:
			// The attempt was cut short: what it says hides the cause.
			return retry.RetryableError(last)
		}
		last = err
		return retry.RetryableError(err)
	})
	if err == nil || last == nil || errors.Is(err, last) {
		return err
	}
	return fmt.Errorf("giving up (%w): %w", err, last)
}
