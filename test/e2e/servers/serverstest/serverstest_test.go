package serverstest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
)

// failing is a test that has failed and writes down what it logs.
type failing struct {
	testing.TB
	cleanups []func()
	logged   strings.Builder
}

func (f *failing) Failed() bool               { return true }
func (f *failing) Cleanup(do func())          { f.cleanups = append(f.cleanups, do) }
func (f *failing) Logf(s string, args ...any) { fmt.Fprintf(&f.logged, s+"\n", args...) }

func TestFailedTestKeepsLogs(t *testing.T) {
	base := filepath.Join(t.TempDir(), "logs")
	t.Setenv(LogsVariable, base)
	f := &failing{TB: t}
	s := New(f)
	p, err := s.StartProgram(t.Context(), servers.ProgramOptions{Name: "talker", Path: "/bin/sh", Args: []string{"-c", "echo the reason"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, do := range f.cleanups {
		do()
	}
	kept, err := filepath.Glob(filepath.Join(base, "*", "talker.log"))
	if err != nil || len(kept) != 1 {
		t.Fatalf("kept %v, %v; want one log", kept, err)
	}
	if content, err := os.ReadFile(kept[0]); err != nil || string(content) != "the reason\n" {
		t.Errorf("kept %q, %v", content, err)
	}
	for _, want := range []string{"the end of the log of talker:\nthe reason", filepath.Dir(kept[0])} {
		if !strings.Contains(f.logged.String(), want) {
			t.Errorf("no %q in what the test logs:\n%s", want, f.logged.String())
		}
	}
	if _, err := os.Stat(s.Dir()); !os.IsNotExist(err) {
		t.Errorf("the servers' folder after the test: %v, want none", err)
	}
}
