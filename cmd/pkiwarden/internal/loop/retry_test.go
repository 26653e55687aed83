package loop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var errDown = errors.New("down")

func TestRetryOutcomes(t *testing.T) {
	for _, tc := range []struct {
		name   string
		policy Policy
		op     func(n int) error
		calls  int
		want   string
	}{
		{"done", Policy{}, func(int) error { return nil }, 1, ""},
		{"done at last", Policy{}, func(n int) error {
			if n < 4 {
				return errDown
			}
			return nil
		}, 4, ""},
		{"stop", Policy{}, func(int) error { return Stop(errDown) }, 1, "down"},
		{"wrapped stop keeps its text", Policy{}, func(int) error { return fmt.Errorf("writing state: %w", Stop(errDown)) }, 1, "writing state: down"},
		{"attempts", Policy{Attempts: 3}, func(n int) error { return fmt.Errorf("attempt %d: %w", n, errDown) }, 3, "attempt 3: down"},
		{"one attempt", Policy{Attempts: 1}, func(n int) error { return errDown }, 1, "down"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				// Twice: a policy holds no state.
				for range 2 {
					calls := 0
					err := Retry(t.Context(), tc.policy, func(context.Context) error { calls++; return tc.op(calls) })
					got := ""
					if err != nil {
						got = err.Error()
						if !errors.Is(err, errDown) {
							t.Errorf("%v does not wrap its cause", err)
						}
					}
					if got != tc.want || calls != tc.calls {
						t.Errorf("error %q after %d calls, want %q after %d", got, calls, tc.want, tc.calls)
					}
				}
			})
		})
	}
}

func TestRetryDeadlineKeepsTheCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		n := 0
		err := Retry(ctx, Policy{}, func(ctx context.Context) error {
			if n++; n < 3 {
				return errDown
			}
			<-ctx.Done() // cut short
			return ctx.Err()
		})
		if !errors.Is(err, errDown) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Retry = %v, want both the cause and the deadline", err)
		}
	})
}

func TestRetryEndedContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := Retry(ctx, Policy{}, func(context.Context) error { t.Error("called"); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Retry = %v, want canceled", err)
	}
}

func TestStopNil(t *testing.T) {
	if err := Stop(nil); err != nil {
		t.Errorf("Stop(nil) = %v", err)
	}
}

func TestConditionLogsChangesOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		c := NewCondition(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{
			ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey {
					return slog.Attr{}
				}
				return a
			},
		})))
		dial := func(port int) error {
			return fmt.Errorf("dial tcp 127.0.0.1:%d: connection refused", port)
		}
		c.Set(nil)
		for i := range 50 { // two causes in turn, with changing numbers
			time.Sleep(time.Second)
			c.Set(dial(40000 + i))
			c.Set(errors.New("timeout"))
		}
		time.Sleep(time.Second)
		c.Set(nil)
		c.Set(nil)
		c.Set(errors.New("timeout"))
		want := `level=WARN msg=failing error="dial tcp 127.0.0.1:40000: connection refused"
level=WARN msg="failing for another cause" error=timeout failures=2
level=INFO msg=recovered failures=100 after=50s
level=WARN msg=failing error=timeout
`
		if got := log.String(); got != want {
			t.Errorf("log:\n%swant:\n%s", got, want)
		}
	})
}

func TestGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		joined := false
		err := Group(t.Context(),
			func(ctx context.Context) error { return nil },
			func(ctx context.Context) error { time.Sleep(time.Second); return errDown },
			func(ctx context.Context) error {
				<-ctx.Done()
				time.Sleep(time.Second) // winding down
				joined = true
				return errors.New("later")
			})
		if !errors.Is(err, errDown) || !joined {
			t.Errorf("Group = %v, joined %t; want the first error after all have ended", err, joined)
		}
	})
}

func TestPanicErrorNamesTheFunctions(t *testing.T) {
	l, err := New(Options{Name: "x", Interval: time.Second, Once: func(context.Context) error { panic(errDown) }})
	if err != nil {
		t.Fatal(err)
	}
	_, err = l.once(t.Context())
	if err == nil || !strings.Contains(err.Error(), "*errors.errorString (in ") || !strings.Contains(err.Error(), "TestPanicErrorNamesTheFunctions") {
		t.Errorf("once = %v", err)
	}
}
