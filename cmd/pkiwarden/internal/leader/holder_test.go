package leader

import (
	"context"
	"errors"
	"log/slog"
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
