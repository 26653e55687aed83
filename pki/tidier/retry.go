package tidier

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
)

const (
	// retries is how often a command reads again what Vault could not answer, and
	// retryFirst how long it waits before the first time unless it is told; the
	// pause doubles.
	retries    = 3
	retryFirst = time.Second
	// retryLongest bounds what an answer may ask to wait.
	retryLongest = 15 * time.Second
)

// retry calls what only reads until Vault is able to answer, a few times: a
// command has no next look.
func (t *Tidier) retry(ctx context.Context, read func() error) error {
	pause := retryFirst
	for n := 0; ; n++ {
		err := read()
		var failing *pki.FailingError
		if n == retries || !errors.As(err, &failing) {
			return err
		}
		wait := min(retryLongest, cmp.Or(failing.RetryAfter, pause))
		t.log.Warn("asking Vault again", "in", wait, "error", err)
		if sleep(ctx, wait) != nil {
			return err
		}
		pause *= 2
	}
}
