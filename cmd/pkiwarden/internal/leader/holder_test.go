package leader

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Who leads is known to who does not, as long as that is fresh.
func TestHolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &api{}
		first := campaign(t, a, "a", func(ctx context.Context) { <-ctx.Done() })
		time.Sleep(5 * time.Second)
		l, err := NewLease(LeaseOptions{
			Client: a.client("b"), Namespace: "vault", Name: "pkiwarden", Identity: "b",
			LeaseDuration: 15 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: 2 * time.Second,
			Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		want := func(what, identity string) {
			t.Helper()
			synctest.Wait()
			got, at := l.Holder()
			if last, lastAt := l.LastHolder(); identity != "" && (last != identity || !lastAt.Equal(at)) {
				t.Errorf("%s: the last was %q, seen at %s", what, last, lastAt)
			}
			if got != identity || at.IsZero() != (identity == "") || time.Since(at) > 15*time.Second && identity != "" {
				t.Errorf("%s: %q, seen at %s, want %q", what, got, at, identity)
			}
		}
		want("before it campaigns", "")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx, func(ctx context.Context) { <-ctx.Done() }) }()
		time.Sleep(5 * time.Second)
		want("while another leads", "a")

		a.setFail(func(client, _ string) error {
			if client == "b" {
				return errRefused
			}
			return nil
		})
		time.Sleep(10 * time.Second)
		want("the API is away for a moment", "a")
		time.Sleep(10 * time.Second)
		want("the API is away", "")
		if last, at := l.LastHolder(); last != "a" || time.Since(at) < 15*time.Second || time.Since(at) > 25*time.Second {
			t.Errorf("the last was %q, seen at %s", last, at)
		}

		// The other one dies, and this one may not write.
		a.setFail(func(client, verb string) error {
			if client == "a" || verb == "update" {
				return errors.New("forbidden")
			}
			return nil
		})
		time.Sleep(5 * time.Second)
		want("it may have died", "a")
		time.Sleep(30 * time.Second)
		want("it has died", "")

		first.cancel()
		cancel()
		<-first.done
		if err := <-done; err != nil {
			t.Error(err)
		}
		want("after the end", "")
	})
}

// Who loses the Lease knows when, why, and that it held it last, until it leads
// again.
func TestLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &api{}
		l, err := NewLease(LeaseOptions{
			Client: a.client("a"), Namespace: "vault", Name: "pkiwarden", Identity: "a",
			LeaseDuration: 15 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: 2 * time.Second,
			Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx, func(ctx context.Context) { <-ctx.Done() }) }()
		time.Sleep(5 * time.Second)
		if at, why := l.Lost(); !at.IsZero() || why != nil {
			t.Errorf("while it leads it lost it at %s: %v", at, why)
		}
		away := time.Now()
		a.setFail(down)
		time.Sleep(30 * time.Second)
		at, why := l.Lost()
		if lasted := at.Sub(away); lasted < 7*time.Second || lasted > 12*time.Second || why == nil || !strings.Contains(why.Error(), "the Kubernetes API cannot be reached") {
			t.Errorf("lost %s after the API went away: %v", lasted, why)
		}
		if holder, _ := l.Holder(); holder != "" {
			t.Errorf("%q holds it", holder)
		}
		if last, seenAt := l.LastHolder(); last != "a" || away.Sub(seenAt) < 0 || away.Sub(seenAt) > 3*time.Second {
			t.Errorf("the last was %q, seen %s before the API went away", last, away.Sub(seenAt))
		}
		a.setFail(nil)
		time.Sleep(30 * time.Second)
		if at, why := l.Lost(); !at.IsZero() || why != nil {
			t.Errorf("when it leads again it lost it at %s: %v", at, why)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
