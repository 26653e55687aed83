package servers

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Linking the product takes seconds of both cores, so the Sets of one process
// that live at the same time share one build.
var (
	building sync.Mutex // held while BuildPkiwarden builds

	builtMu sync.Mutex
	built   = map[*Set]string{} // where each open Set has the product
)

// BuildPkiwarden builds the product's own program from this checkout, static
// as it is shipped, into the Set's folder and returns its path. Where another
// open Set of this process has built it, that program is taken. Later calls of
// the same Set return the same file.
func (s *Set) BuildPkiwarden(ctx context.Context) (string, error) {
	building.Lock()
	defer building.Unlock()
	path := filepath.Join(s.dir, "bin", "pkiwarden")
	if isProgram(path) {
		return path, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", fmt.Errorf("building pkiwarden: %w", err)
	}
	if !linkBuilt(path) {
		if err := s.buildPkiwarden(ctx, path); err != nil {
			return "", fmt.Errorf("building pkiwarden: %w", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		builtMu.Lock()
		defer builtMu.Unlock()
		built[s] = path
	}
	return path, nil
}

// linkBuilt gives what another Set has built a name of its own, which stays
// when that Set closes. Folders on two file systems have no link between them.
func linkBuilt(path string) bool {
	builtMu.Lock()
	defer builtMu.Unlock()
	for _, other := range built {
		if os.Link(other, path) == nil {
			return true
		}
	}
	return false
}

func forgetBuilt(s *Set) {
	builtMu.Lock()
	defer builtMu.Unlock()
	delete(built, s)
}

func (s *Set) buildPkiwarden(ctx context.Context, path string) error {
	root, err := sourceDir()
	if err != nil {
		return err
	}
	start := time.Now()
	stop := s.report.counting(func() string { return "pkiwarden: building" })
	out, err := goCommand(ctx, root, "build", "-trimpath", "-buildvcs=false", "-o", path, "./cmd/pkiwarden").CombinedOutput()
	stop()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("%w\n%s", err, lastLines(string(out), logTail))
	}
	s.report.line("pkiwarden: built in %s", time.Since(start).Round(100*time.Millisecond))
	return nil
}
