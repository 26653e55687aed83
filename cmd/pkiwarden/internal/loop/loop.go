// Package loop says when things run: on a schedule with jitter, again after a
// failure, at once when woken. It holds the only retry of the program.
//
// A unit of work is a function that does one thing and returns; a [Loop] calls
// it over and over, [Retry] until it has worked once, and a [Group] runs
// several side by side and joins them. None of them exits because something
// outside is down: that is a state, logged once per change (see [Condition])
// and shown in a metric.
package loop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"strings"
	"time"

	"github.com/sethvargo/go-retry"
)

// The back-off after failures: the first pause, and the longest.
const (
	backoffFirst = time.Second
	backoffMax   = time.Minute
)

// The shortest time between the end of one run and the start of the next:
// however often the loop is woken, and whatever time its unit names.
const (
	minPause = 200 * time.Millisecond
	minNext  = time.Second
)

// Options describe a loop.
type Options struct {
	// Name is the loop in logs and in the label "loop" of the metrics.
	Name string
	// Interval is the time from the end of a run that worked to the next one.
	Interval time.Duration
	// Jitter is added to or taken from Interval, drawn anew each time. It must
	// be smaller than Interval; 0 is none.
	Jitter time.Duration
	// Timeout ends the context of one run; 0 is no limit, for units that bound
	// their own waits.
	Timeout time.Duration
	// Once does one unit of work.
	Once func(ctx context.Context) error
	// OnceUntil is Once for units that know when they are due next. The zero
	// time means after Interval, and so does a later one: clocks jump, so no
	// pause is longer. Exactly one of the two is set.
	OnceUntil func(ctx context.Context) (next time.Time, err error)
	// OwnPace is for an OnceUntil that does many things, each with a back-off
	// of its own: after a run that failed the time it names counts too, and
	// [Loop.Wake] works. Failed it has all the same: no heartbeat.
	OwnPace bool
	// Eager lets [Loop.Wake] end the back-off after a failure: for units that
	// are woken only where what failed may have been mended.
	Eager bool

	Log     *slog.Logger // default: slog.Default()
	Metrics *Metrics     // default: none
}

// Loop runs one unit of work over and over.
type Loop struct {
	o         Options
	wake      chan struct{}
	condition *Condition
}

// New makes a loop. It starts nothing.
func New(o Options) (*Loop, error) {
	if o.Name == "" {
		return nil, errors.New("making loop: it has no name")
	}
	if o.Interval <= 0 || o.Jitter < 0 || o.Jitter >= o.Interval || o.Timeout < 0 {
		return nil, fmt.Errorf("making loop %s: want interval > jitter >= 0 and timeout >= 0, have interval %s, jitter %s, timeout %s",
			o.Name, o.Interval, o.Jitter, o.Timeout)
	}
	if (o.Once == nil) == (o.OnceUntil == nil) {
		return nil, fmt.Errorf("making loop %s: want exactly one of Once and OnceUntil", o.Name)
	}
	if o.OnceUntil == nil {
		once := o.Once
		o.OnceUntil = func(ctx context.Context) (time.Time, error) { return time.Time{}, once(ctx) }
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return &Loop{
		o:         o,
		wake:      make(chan struct{}, 1),
		condition: NewCondition(o.Log.With("loop", o.Name)),
	}, nil
}

// Wake asks for a run at once. While a run is under way it asks for one more
// after it; several calls before that run count as one. It never blocks, and
// it never shortens the back-off after a failure, but with OwnPace or Eager.
func (l *Loop) Wake() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Run runs the unit at once and then on schedule until ctx ends; it returns
// nil, after the run under way has returned. A failed or panicked run is tried
// again after a back-off that doubles from one second to a minute. The loop's
// metric series end with Run, so that they are not read as current.
func (l *Loop) Run(ctx context.Context) error {
	defer l.o.Metrics.forget(l.o.Name)
	var failing retry.Backoff // nil while all is well
	for ctx.Err() == nil {
		l.o.Metrics.begun(l.o.Name)
		next, err := l.once(ctx)
		if err != nil && ctx.Err() != nil {
			return nil // cut short by our own end: not a failure
		}
		now := time.Now()
		l.condition.Set(err)
		l.o.Metrics.observe(l.o.Name, now, err)
		if err != nil && (!l.o.OwnPace || next.IsZero()) {
			if failing == nil {
				failing = Policy{}.backoff()
			}
			pause, _ := failing.Next()
			l.rest(ctx, pause, l.o.Eager)
			continue
		}
		failing = nil
		l.rest(ctx, l.until(next, now), true)
	}
	return nil
}

// until is the pause after a run that worked and ended now.
func (l *Loop) until(next, now time.Time) time.Duration {
	pause := l.o.Interval
	if l.o.Jitter > 0 {
		pause += rand.N(2*l.o.Jitter) - l.o.Jitter
	}
	if next.IsZero() {
		return pause
	}
	return min(max(next.Sub(now), minNext), pause)
}

// rest is a pause that Wake ends early where it may, but not at once.
func (l *Loop) rest(ctx context.Context, pause time.Duration, eager bool) {
	l.o.Metrics.rests(l.o.Name, pause)
	if !eager {
		l.sleep(ctx, pause, nil)
		return
	}
	if l.sleep(ctx, minPause, nil) {
		l.sleep(ctx, pause-minPause, l.wake)
	}
}

// sleep waits for d, for a wake-up, or for the end of ctx, and says whether
// ctx still goes on.
func (l *Loop) sleep(ctx context.Context, d time.Duration, wake <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-wake:
	case <-timer.C:
	}
	return true
}

func (l *Loop) once(ctx context.Context) (next time.Time, err error) {
	if l.o.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, l.o.Timeout)
		defer cancel()
	}
	defer func() {
		if v := recover(); v != nil {
			err = panicError(v)
		}
	}()
	// What was asked for until here, this run answers.
	select {
	case <-l.wake:
	default:
	}
	return l.o.OnceUntil(ctx)
}

// panicError describes a panic by what cannot hold a secret: the text of the
// runtime's own errors, else only the value's type; and the functions on the
// stack, without the arguments that debug.Stack prints.
func panicError(v any) error {
	what := fmt.Sprintf("a value of type %T", v)
	if e, ok := v.(runtime.Error); ok {
		what = e.Error()
	}
	var pcs [16]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(4, pcs[:])])
	var where []string
	for {
		f, more := frames.Next()
		if f.Function == "" || strings.HasSuffix(f.Function, ".(*Loop).once") {
			break
		}
		where = append(where, fmt.Sprintf("%s:%d", f.Function, f.Line))
		if !more {
			break
		}
	}
	return fmt.Errorf("panic: %s (in %s)", what, strings.Join(where, " < "))
}
