package kube

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/client-go/util/flowcontrol"
)

// ErrNotSent is why a request was not sent: its deadline comes before its turn
// under Options.QPS and Options.Burst. It counts as [context.DeadlineExceeded]
// for [errors.Is], and not as [Unreachable]: the API was not asked.
var ErrNotSent error = notSent{}

type notSent struct{}

func (notSent) Error() string {
	return "not sent, since the deadline comes before its turn under the client's own limit: see kubernetes.qps and kubernetes.burst"
}

// Is is what client-go asks, too, before it adds words of its own to the error
// of a limiter (rest/request.go, tryThrottleWithInfo). There is no Unwrap:
// context.DeadlineExceeded is a net.Error, which is taken for a broken way.
func (notSent) Is(target error) bool { return target == context.DeadlineExceeded }

// limiter is client-go's own, but for the error when the time does not suffice:
// the one of golang.org/x/time/rate has no value to be told by.
type limiter struct{ flowcontrol.RateLimiter }

func newLimiter(qps float32, burst int) flowcontrol.RateLimiter {
	return limiter{flowcontrol.NewTokenBucketRateLimiter(qps, burst)}
}

// Wait returns when it is the request's turn. It fails with the context's error
// where that is canceled, and with [ErrNotSent], at once, where its deadline comes
// first.
func (l limiter) Wait(ctx context.Context) error {
	err := l.RateLimiter.Wait(ctx)
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	if _, limited := ctx.Deadline(); !limited {
		return err // none that is known
	}
	return fmt.Errorf("waiting to send the request: %w", ErrNotSent)
}
