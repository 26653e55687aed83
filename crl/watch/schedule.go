package watch

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"iter"
	"slices"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
)

const (
	// parallel is how many requests are under way at once. One would do for the
	// work; the others are there so that a list that takes Vault a minute to
	// build does not keep the rest waiting.
	parallel = 4

	// stuckAfter is how long a request is under way before others are begun
	// beside it although the unit should end.
	stuckAfter = 5 * time.Second
	// unitAtMost bounds a unit all the same: its end is the loop's heartbeat.
	unitAtMost = 5 * time.Minute

	// backoffMax is the longest time between two attempts at what goes on
	// failing, unless the interval is longer.
	backoffMax = 5 * time.Minute

	// fleetEvery is how often live certificates are counted: what that costs
	// Vault is bounded by whoever counts.
	fleetEvery = 10 * time.Minute

	// startGap is the time between two mounts when they are first looked at.
	startGap = 200 * time.Millisecond
)

// schedule says when something is due. The zero value is due now.
type schedule struct {
	key      string // decides the phase
	due      time.Time
	failures int // since it last worked
	running  bool
	tried    bool
}

// phase spreads keys evenly over the interval: the same key has the same place
// in every process.
func (s *schedule) phase(interval time.Duration) time.Duration {
	h := fnv.New64a()
	_, _ = h.Write([]byte(s.key)) // never fails
	// FNV alone leaves keys that differ in their last octets close together.
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	return time.Duration(float64(interval) * (float64(x>>11) / (1 << 53)))
}

// slot is the first instant after which is phase past a multiple of interval.
func (s *schedule) slot(after time.Time, interval time.Duration) time.Time {
	past := time.Duration((after.UnixNano() - int64(s.phase(interval))) % int64(interval))
	if past < 0 {
		past += interval
	}
	// Add keeps the monotonic clock: a jump of the wall clock moves nothing.
	return after.Add(interval - past)
}

// next moves what was attempted at now to its next slot, a tenth of the
// interval earlier or later by chance, or to the end of its back-off.
func (s *schedule) next(now time.Time, interval time.Duration, failed bool, chance float64) {
	if !failed {
		s.failures = 0
		jitter := time.Duration((2*chance - 1) * float64(interval) / 10)
		s.due = s.slot(now.Add(interval/2), interval).Add(jitter)
		return
	}
	s.failures++
	pause := interval
	for range s.failures - 1 {
		pause = min(2*pause, max(interval, backoffMax))
	}
	s.due = now.Add(pause*9/10 + time.Duration(chance*float64(pause)/5))
}

// task is one thing to do when its schedule says so: measuring a list, counting
// the live certificates of a mount, looking at it, finding the mounts of a
// namespace, or finding namespaces; the first of these that is set.
type task struct {
	*schedule
	every     time.Duration
	failed    *error // where its error is remembered, unless it is all of Vault's
	list      *list  // of mount
	fleet     bool   // of mount
	mount     *pki.Mount
	namespace *string
	startedAt time.Time
}

// run does a task. Vault answers a request below a mount that is gone as one
// that lacks a right, so before it is said that one is missing, or a path, it is
// asked whether the mount is still there.
func (w *Watch) run(ctx context.Context, t *task) error {
	err := w.attempt(ctx, t)
	var refused *pki.RefusedError
	if t.mount == nil || !errors.As(err, new(*pki.PermissionError)) && !errors.As(err, &refused) || w.tokenless(err) {
		return err
	}
	w.mu.Lock()
	known := *t.failed != nil // the next look for mounts finds out
	w.mu.Unlock()
	if known || w.findMounts(ctx, t.mount.Namespace) != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mounts[*t.mount] == nil {
		return nil // which is a finding of its own
	}
	return err
}

func (w *Watch) attempt(ctx context.Context, t *task) error {
	switch {
	case t.list != nil:
		return w.measure(ctx, *t.mount, t.list, false)
	case t.fleet:
		return w.o.Fleet.Refresh(ctx, *t.mount)
	case t.mount != nil:
		return w.look(ctx, *t.mount)
	case t.namespace != nil:
		return w.findMounts(ctx, *t.namespace)
	}
	return w.findNamespaces(ctx)
}

// tasks are all that there is to do, in no order. The caller holds w.mu.
func (w *Watch) tasks() iter.Seq[task] {
	return func(yield func(task) bool) {
		if !yield(task{schedule: &w.walk, every: w.o.Interval, failed: &w.walkErr}) {
			return
		}
		for _, n := range w.namespaces {
			if !yield(task{schedule: &n.schedule, every: w.o.Interval, failed: &n.err, namespace: &n.name}) {
				return
			}
		}
		for _, state := range w.mounts {
			if !yield(task{schedule: &state.schedule, every: w.o.Interval, failed: &state.err, mount: &state.mount}) {
				return
			}
			if w.o.Fleet != nil && !yield(task{schedule: &state.fleet, every: fleetEvery, failed: &state.fleetErr, fleet: true, mount: &state.mount}) {
				return
			}
			for _, l := range state.lists {
				if !l.cannotSign && !yield(task{schedule: &l.schedule, every: w.o.Interval, failed: &l.full.err, list: l, mount: &state.mount}) {
					return
				}
			}
		}
	}
}

type result struct {
	*task
	err error
}

// OnceUntil does what is due: looks for mounts, lists issuers, measures lists,
// each about once per interval and at a time of its own, so that hundreds of
// mounts make no bursts. It says when the next is due, and reports the findings.
//
// What fails alone is a finding, and is tried again after a back-off of its own
// that grows to five minutes; the others go on. An error says that nothing can
// be measured: Vault is away or sealed, or no mount can be found.
func (w *Watch) OnceUntil(ctx context.Context) (next time.Time, err error) {
	done := make(chan result)
	running := map[*task]bool{}
	began := w.o.Now()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if n := parallel - len(running); n > 0 && err == nil && ctx.Err() == nil && !w.ending(began, running) {
			for _, t := range w.take(n) {
				running[t] = true
				go func() { done <- result{t, w.run(ctx, t)} }()
			}
		}
		if len(running) == 0 {
			break
		}
		select {
		case r := <-done:
			delete(running, r.task)
			if e := w.settle(ctx, r); err == nil {
				err = e
			}
		case <-tick.C: // something else may be due, or stuck
		}
	}
	if ctx.Err() != nil {
		return time.Time{}, ctx.Err() // what was cut short says nothing about Vault
	}
	w.conclude(ctx, err)
	if err == nil {
		err = w.blind()
	}
	return w.earliest(), err
}

// ending tells whether the unit begins nothing more.
func (w *Watch) ending(began time.Time, running map[*task]bool) bool {
	now := w.o.Now()
	if now.Sub(began) < w.o.Interval {
		return false
	}
	for t := range running {
		if now.Sub(t.startedAt) >= stuckAfter {
			return now.Sub(began) >= unitAtMost
		}
	}
	return true
}

// take marks at most n tasks that are due as running: those that are due for
// longest.
func (w *Watch) take(n int) []*task {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.o.Now()
	var due []task
	for t := range w.tasks() {
		if !t.running && !t.due.After(now) {
			due = append(due, t)
		}
	}
	slices.SortFunc(due, func(a, b task) int { return a.due.Compare(b.due) })
	var taken []*task
	for _, t := range due {
		if len(taken) == n {
			break
		}
		if t.fleet && w.counting {
			continue // it takes a while: one at a time, lest the lists wait
		}
		w.counting = w.counting || t.fleet
		t.running, t.startedAt = true, now
		taken = append(taken, &t)
	}
	return taken
}

// settle schedules a task anew. Its error is one that concerns all of Vault.
func (w *Watch) settle(ctx context.Context, r result) error {
	away := w.awayFor(ctx, r.err)
	w.mu.Lock()
	defer w.mu.Unlock()
	r.running = false
	w.counting = w.counting && !r.fleet
	switch {
	case ctx.Err() != nil:
		return nil
	case away != nil:
		return away // nobody's fault: it stays due
	}
	if r.fleet && r.err != nil && !w.tokenless(r.err) && (*r.failed == nil || (*r.failed).Error() != r.err.Error()) {
		w.o.Log.Info("live certificates could not be counted, so rollout headroom is unknown or old", "mount", r.mount.Name(), "error", r.err)
	}
	*r.failed, r.tried = r.err, true
	if r.mount == nil {
		r.failures = 0 // finding mounts is one small request: it backs off no further
	}
	r.next(w.o.Now(), r.every, r.err != nil, w.o.Random())
	return nil
}

// Again makes due at once what failed, and what was left unknown for want of a
// right: Vault has taken another token since.
func (w *Watch) Again() {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.o.Now()
	for t := range w.tasks() {
		if *t.failed != nil {
			t.due, t.failures = now, 0
		}
	}
	for _, state := range w.mounts {
		if s := &state.settings; !s.readAt.IsZero() && (s.config == nil || s.auto == nil || s.status == nil) {
			s.until, state.due = time.Time{}, now
		}
	}
}

// Complete tells whether it is known what there is, and all of it was looked at:
// before that, a finding that is not there may be one still to come.
func (w *Watch) Complete() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for t := range w.tasks() {
		if !t.tried || t.mount == nil && *t.failed != nil {
			return false
		}
	}
	return true
}

// awayFor is why all other requests would fail too, when err of one of them
// means that; nil when it concerns that one alone. Whatever was asked for, it is
// the same error, so that it is one line in the log. A request that was not
// answered is not enough: Vault may be taking its time over one list.
func (w *Watch) awayFor(ctx context.Context, err error) error {
	var redirect *pki.RedirectError
	switch {
	case errors.As(err, &redirect):
		return fmt.Errorf("asking Vault for CRLs: %w", redirect)
	case errors.Is(err, pki.ErrSealed):
		return fmt.Errorf("asking Vault for CRLs: %w", pki.ErrSealed)
	case errors.Is(err, pki.ErrNoActiveNode):
		return fmt.Errorf("asking Vault for CRLs: %w", pki.ErrNoActiveNode)
	case errors.Is(err, pki.ErrUnreachable):
		if _, err := w.o.Vault.ClusterID(ctx); err != nil {
			return fmt.Errorf("asking Vault for CRLs: %w", err)
		}
	}
	return nil
}

// earliest is when the next task is due.
func (w *Watch) earliest() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	var first time.Time
	for t := range w.tasks() {
		if first.IsZero() || t.due.Before(first) {
			first = t.due
		}
	}
	return first
}
