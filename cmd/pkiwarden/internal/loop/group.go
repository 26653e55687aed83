package loop

import (
	"context"
	"sync"
)

// Group runs all functions side by side and returns when every one of them
// has returned. The first that returns an error ends the context of the
// others, and that error is returned; one that returns nil leaves the others
// running.
func Group(ctx context.Context, runs ...func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		wg    sync.WaitGroup
		once  sync.Once
		first error
	)
	for _, run := range runs {
		wg.Go(func() {
			if err := run(ctx); err != nil {
				once.Do(func() {
					first = err
					cancel()
				})
			}
		})
	}
	wg.Wait()
	return first
}
