package servers

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
)

// ownerFile is locked by the folder's owner for as long as it lives. A lock
// says more than a process ID, which may be another's by now, or mean nothing
// in a container that shares the folder.
const ownerFile = "owner.lock"

// dirPrefix begins the name of everything that the harness leaves in the
// temporary folder, which other users may share.
func dirPrefix() string { return fmt.Sprintf("pkiwarden-servers-%d-", os.Getuid()) }

// Set owns a temporary folder and every process that was started in it.
type Set struct {
	options Options
	dir     string
	owner   *os.File
	report  *progress

	mu       sync.Mutex
	programs []*Program
	closed   bool
}

// New makes the Set's folder and removes those of owners that died without
// closing theirs. It starts nothing.
func New(o Options) (*Set, error) {
	if o.TempDir == "" {
		o.TempDir = os.TempDir()
	}
	// Between its making and its locking a folder looks ownerless, so both
	// that and the sweep happen under one lock.
	unlock, err := lock(context.Background(), filepath.Join(o.TempDir, dirPrefix()+"sweep.lock"), func() func() { return func() {} })
	if err != nil {
		return nil, fmt.Errorf("preparing the servers' folder: %w", err)
	}
	defer unlock()
	if err := sweep(o.TempDir); err != nil {
		return nil, fmt.Errorf("removing folders of dead owners: %w", err)
	}
	dir, err := os.MkdirTemp(o.TempDir, fmt.Sprintf("%s%d-", dirPrefix(), os.Getpid()))
	if err != nil {
		return nil, fmt.Errorf("making the servers' folder: %w", err)
	}
	owner, err := os.OpenFile(filepath.Join(dir, ownerFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("marking the servers' folder: %w", err)
	}
	if err := syscall.Flock(int(owner.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		owner.Close()
		return nil, fmt.Errorf("marking the servers' folder: %w", err)
	}
	return &Set{options: o, dir: dir, owner: owner, report: newProgress(o.Progress)}, nil
}

// sweep removes the folders whose owner's lock is free.
func sweep(temp string) error {
	dirs, err := filepath.Glob(filepath.Join(temp, dirPrefix()+"*", ownerFile))
	if err != nil {
		return err
	}
	for _, path := range dirs {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			continue // another user's, or gone this moment
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			err = os.RemoveAll(filepath.Dir(path))
		}
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// Dir is the Set's folder; it is gone after Close.
func (s *Set) Dir() string { return s.dir }

// folder makes a new folder for one server, named after it.
func (s *Set) folder(name string) (string, error) {
	dir := filepath.Join(s.dir, name)
	for i := 2; ; i++ {
		err := os.Mkdir(dir, 0o700)
		if err == nil {
			return dir, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return "", fmt.Errorf("making the folder of %s: %w", name, err)
		}
		dir = filepath.Join(s.dir, fmt.Sprintf("%s-%d", name, i))
	}
}

// Close ends every process, the last started first, and removes the folder
// unless [Options.Keep] is set. Calling it again does nothing.
func (s *Set) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	forgetBuilt(s)
	programs := slices.Clone(s.programs)
	s.mu.Unlock()
	var errs []error
	for _, p := range slices.Backward(programs) {
		if err := p.end(); err != nil {
			errs = append(errs, err)
		}
	}
	if s.options.Keep {
		s.report.line("kept %s", s.dir)
	} else if err := os.RemoveAll(s.dir); err != nil {
		errs = append(errs, fmt.Errorf("removing the servers' folder: %w", err))
	}
	s.owner.Close()
	return errors.Join(errs...)
}

// KeepLogs copies the logs of every program started so far into dir, which is
// made when missing, and returns their paths.
func (s *Set) KeepLogs(dir string) ([]string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("keeping logs: %w", err)
	}
	var kept []string
	for _, p := range s.Programs() {
		content, err := os.ReadFile(p.LogPath())
		if errors.Is(err, fs.ErrNotExist) {
			continue // never started
		}
		if err != nil {
			return kept, fmt.Errorf("keeping logs: %w", err)
		}
		path := filepath.Join(dir, filepath.Base(p.LogPath()))
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return kept, fmt.Errorf("keeping logs: %w", err)
		}
		kept = append(kept, path)
	}
	return kept, nil
}

// Programs are all programs of the Set in the order of their making, running
// or not.
func (s *Set) Programs() []*Program {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.programs)
}

func (s *Set) add(p *Program) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("starting %s: the set of servers is closed", p.Name())
	}
	s.programs = append(s.programs, p)
	return nil
}

func (s *Set) remove(p *Program) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.programs = slices.DeleteFunc(s.programs, func(q *Program) bool { return q == p })
}

// find is [Find] with the Set's own progress.
func (s *Set) find(ctx context.Context, names ...string) (map[string]string, error) {
	return Find(ctx, s.options, names...)
}
