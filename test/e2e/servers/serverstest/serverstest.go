// Package serverstest ties a set of servers to a test.
package serverstest

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
)

// LogsVariable names the environment variable with the folder into which the
// logs of failed tests are copied; a new temporary one by default.
const LogsVariable = "PKIWARDEN_E2E_LOGS"

// endBefore is how long before its deadline a test is told to stop, so that
// it can still end its servers and keep their logs.
const endBefore = 20 * time.Second

// New makes a set of servers that ends with the test. When the test failed,
// the servers' logs are kept, and where they are and how each ends is logged.
func New(t testing.TB) *servers.Set {
	t.Helper()
	s, err := servers.New(servers.Options{Progress: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			keep(t, s)
		}
		if err := s.Close(); err != nil {
			t.Errorf("closing the servers: %v", err)
		}
	})
	return s
}

// Context ends a little before the test's deadline, or with the test.
func Context(t testing.TB) context.Context {
	t.Helper()
	with, ok := t.(interface{ Deadline() (time.Time, bool) })
	if !ok {
		return t.Context()
	}
	deadline, ok := with.Deadline()
	if !ok {
		return t.Context()
	}
	ctx, cancel := context.WithDeadline(t.Context(), deadline.Add(-endBefore))
	t.Cleanup(cancel)
	return ctx
}

func keep(t testing.TB, s *servers.Set) {
	for _, p := range s.Programs() {
		t.Logf("the end of the log of %s:\n%s", p.Name(), p.LogTail(20))
	}
	base := os.Getenv(LogsVariable)
	if base == "" {
		base = os.TempDir()
	} else if err := os.MkdirAll(base, 0o755); err != nil {
		t.Errorf("keeping logs: %v", err)
		return
	}
	dir, err := os.MkdirTemp(base, "pkiwarden-logs-"+filepath.Base(t.Name())+"-")
	if err != nil {
		t.Errorf("keeping logs: %v", err)
		return
	}
	if _, err := s.KeepLogs(dir); err != nil {
		t.Errorf("keeping logs: %v", err)
	}
	t.Logf("the servers' logs are in %s", dir)
}
