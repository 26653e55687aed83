package servers

import (
	"context"
	"os"
	"testing"
	"time"
)

// newSet is serverstest.New without the import cycle that would make.
func newSet(t *testing.T) *Set {
	t.Helper()
	s, err := New(Options{Progress: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, p := range s.Programs() {
				t.Logf("the end of the log of %s:\n%s", p.Name(), p.LogTail(logTail))
			}
		}
		if err := s.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	return s
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// eventually repeats do until it returns nil.
func eventually(t *testing.T, do func() error) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := do()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still after 20 s: %v", err)
		}
		time.Sleep(pollInterval)
	}
}
