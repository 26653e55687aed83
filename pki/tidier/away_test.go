package tidier_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
	"github.com/pkiwarden/pkiwarden/pki/tidier"
)

// leaves makes Vault answer everything with an error, some seconds from now on.
func (w *world) leaves(after time.Duration, err error) {
	var away atomic.Bool
	w.vault.Before = func(string, pki.Mount) error {
		if away.Load() {
			return err
		}
		return nil
	}
	go func() {
		time.Sleep(after)
		away.Store(true)
	}()
}

// A command that waits for a Vault which went away in mid-run says so, and for
// how long at most.
func TestTidySaysWhatItWaitsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var said bytes.Buffer
		w.log = slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelWarn}))
		w.leaves(5*time.Second, fmt.Errorf("asking Vault: %w", pki.ErrSealed))
		_, err := w.instance("job").Tidy(t.Context(), tidier.Request{Wait: true})
		if !errors.Is(err, pki.ErrSealed) || !strings.Contains(err.Error(), "nothing was learned of the run for 5m0s: the next call finds out") {
			t.Errorf("error %v", err)
		}
		lines := strings.Split(strings.TrimSpace(said.String()), "\n")
		if len(lines) < 8 || len(lines) > 12 || !strings.Contains(lines[0], "mount=pki since=1") || !strings.Contains(lines[0], "at_most=4m") || !strings.Contains(lines[0], "vault is sealed") {
			t.Errorf("said:\n%s", said.String())
		}
	})
}

// Interrupted while Vault does not answer, nothing is claimed of the run.
func TestInterruptedWhileVaultIsAway(t *testing.T) {
	for away, want := range map[bool]tidier.Left{true: tidier.LeftUnknown, false: tidier.LeftRunning} {
		for _, cancels := range []bool{false, true} {
			if cancels && !away {
				continue
			}
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				if away {
					w.leaves(5*time.Second, pki.ErrUnreachable)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
				defer cancel()
				reports, err := w.instance("job").Tidy(ctx, tidier.Request{Wait: true, CancelOnInterrupt: cancels})
				if err == nil || len(reports) != 1 || reports[0].Left != want {
					t.Errorf("away %t, cancels %t: %+v, %v", away, cancels, reports, err)
				}
			})
		}
	}
}

// A token that is revoked in mid-run does not end the run.
func TestTokenRevokedInMidRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.leaves(5*time.Second, &pki.PermissionError{Path: "pki/tidy-status", Capability: "read", InvalidToken: true})
		_, err := w.instance("job").Tidy(t.Context(), tidier.Request{Wait: true})
		if err == nil || !strings.Contains(err.Error(), "log in again; the run goes on in Vault, and the next call follows it to the proof") {
			t.Errorf("error %v", err)
		}
	})
}
