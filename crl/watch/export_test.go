package watch

import (
	"context"
	"errors"
)

// Once does all that there is to do, due or not, one after the other, and
// reports the findings. It returns what kept it from measuring; mounts and
// lists are independent of each other in that. What it could not read keeps its
// former values.
func (w *Watch) Once(ctx context.Context) error {
	var errs []error
	var away error
	done := map[*schedule]bool{}
	for t := w.other(done); t != nil && away == nil && ctx.Err() == nil; t = w.other(done) {
		done[t.schedule] = true
		err := w.run(ctx, t)
		away = w.settle(ctx, result{t, err})
		errs = append(errs, err)
	}
	if ctx.Err() != nil {
		return ctx.Err() // what was cut short says nothing about Vault
	}
	w.conclude(ctx, away)
	return errors.Join(errs...)
}

// other is a task that is not done yet, nil when all are.
func (w *Watch) other(done map[*schedule]bool) *task {
	w.mu.Lock()
	defer w.mu.Unlock()
	for t := range w.tasks() {
		if !done[t.schedule] {
			return &t
		}
	}
	return nil
}
