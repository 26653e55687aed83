package servers

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// lines is a Progress that can be read while it is written.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func writeFile(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

func TestFindInstalled(t *testing.T) {
	own, onPath := t.TempDir(), t.TempDir()
	t.Setenv(DirVariable, own)
	t.Setenv("PATH", onPath+":"+os.Getenv("PATH"))
	reports := func(dir, version string) string {
		path := filepath.Join(dir, "etcd")
		writeFile(t, path, fmt.Sprintf("#!/bin/sh\necho 'etcd Version: %s'\n", version), 0o755)
		return path
	}
	find := func() (string, string) {
		t.Helper()
		var progress lines
		paths, err := Find(t.Context(), Options{Progress: &progress}, "etcd")
		if err != nil {
			t.Fatal(err)
		}
		return paths["etcd"], progress.String()
	}
	first, second := reports(own, "3.6.1"), reports(onPath, "3.6.2")
	if got, _ := find(); got != first {
		t.Errorf("found %s, want %s", got, first)
	}
	reports(own, "3.4.9")
	got, said := find()
	if got != second {
		t.Errorf("found %s, want %s", got, second)
	}
	if want := fmt.Sprintf("passing over %s: it reports \"etcd Version: 3.4.9\", wanted \"etcd Version: 3.6.*\"\n", first); said != want {
		t.Errorf("said %q, want %q", said, want)
	}
	reports(onPath, "2.0.0")
	if got, _ := find(); !strings.Contains(got, filepath.Join("pkiwarden", "servers", "kubernetes-")) {
		t.Errorf("found %s, want the cached build", got)
	}
}

func TestFindErrors(t *testing.T) {
	if _, err := Find(t.Context(), Options{}, "nomad"); err == nil || !strings.Contains(err.Error(), "known: etcd,") {
		t.Errorf("an unknown program: %v", err)
	}
	t.Setenv("PATH", "/nowhere")
	t.Chdir(t.TempDir())
	if _, err := Find(t.Context(), Options{}, "etcd"); err == nil || !strings.Contains(err.Error(), DirVariable) {
		t.Errorf("outside a checkout: %v, want the remedy named", err)
	}
}

// tiny is a build of a module that has no dependencies.
func tiny(t *testing.T, source string) build {
	t.Helper()
	module := t.TempDir()
	writeFile(t, filepath.Join(module, "go.mod"), "module example.invalid/tiny\n\ngo 1.26\n", 0o644)
	writeFile(t, filepath.Join(module, "main.go"), source, 0o644)
	return build{
		program: program{name: "tiny", pkg: "example.invalid/tiny", ldflags: "-s -w"},
		module:  module,
		target:  filepath.Join(t.TempDir(), "tiny-key", "tiny"),
	}
}

func TestBuildHappensOnce(t *testing.T) {
	ctx := within(t, time.Minute)
	b := tiny(t, "package main\n\nfunc main() {}\n")
	// The test holds the lock until both wait for it.
	if err := os.MkdirAll(filepath.Dir(b.target), 0o755); err != nil {
		t.Fatal(err)
	}
	unlock, err := lock(ctx, filepath.Dir(b.target)+".lock", nil)
	if err != nil {
		t.Fatal(err)
	}
	var progress lines
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() {
			if err := b.ensure(ctx, newProgress(&progress), "1 of 1"); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, func() error {
		if n := strings.Count(progress.String(), "waiting for another process"); n != 2 {
			return fmt.Errorf("%d wait, want 2", n)
		}
		return nil
	})
	unlock()
	both.Wait()
	if said := progress.String(); strings.Count(said, "built in") != 1 {
		t.Errorf("want one build:\n%s", said)
	}
	if _, err := versionLine(ctx, b.target, nil); err != nil {
		t.Error(err)
	}
}

func TestBuildThatFails(t *testing.T) {
	b := tiny(t, "package main\n\nfunc main() { undefinedThing() }\n")
	err := b.ensure(within(t, time.Minute), newProgress(nil), "1 of 1")
	if err == nil || !strings.Contains(err.Error(), "undefined: undefinedThing") {
		t.Errorf("%v, want the compiler's reason", err)
	}
	if isProgram(b.target) {
		t.Error("a failed build was kept")
	}
}
