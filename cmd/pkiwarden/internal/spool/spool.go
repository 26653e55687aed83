// Package spool keeps octets for a moment: what is short in memory, what is
// longer in a file without a name, which is gone with the process whatever
// happens. It is what crl.Options.Spool asks for.
package spool

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// The defaults of Options.
const (
	DefaultMemory   = 1 << 20
	DefaultMaxBytes = 256 << 20
)

// ErrFull is what Write returns beyond Options.MaxBytes.
var ErrFull = errors.New("spool full")

// Options are the bounds of a Spool. The zero value is ready for use.
type Options struct {
	// Dir is the folder for the file, "" the system's own for temporary files
	// (TMPDIR). It is touched only when a file is needed.
	Dir string
	// Memory is how many octets stay in memory; 0 means DefaultMemory. It is
	// taken from the heap as it is needed.
	Memory int
	// MaxBytes is how many octets are accepted at all; 0 means DefaultMaxBytes.
	MaxBytes int64
}

// Spool is an io.Writer whose content can be had as one slice. It is not for
// use by several goroutines at once.
type Spool struct {
	options Options
	size    int64
	head    []byte   // of what was written, or what the file does not have yet
	file    *os.File // nil while all is in memory
	mapped  []byte   // the file, since Bytes
	failed  error    // of the first Write that failed, or of Close
}

// New returns an empty spool, which takes nothing until it is written to. Close
// gives back what it took.
func New(o Options) *Spool {
	if o.Dir == "" {
		o.Dir = os.TempDir()
	}
	if o.Memory <= 0 {
		o.Memory = DefaultMemory
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	return &Spool{options: o}
}

// Write appends b, or nothing: then its error wraps ErrFull, or names the folder
// that the file could not be made or written in. After an error, and after
// Close, there is nothing but that error.
func (s *Spool) Write(b []byte) (int, error) {
	if s.failed == nil {
		s.failed = s.append(b)
	}
	if s.failed != nil {
		return 0, s.failed
	}
	s.size += int64(len(b))
	return len(b), nil
}

func (s *Spool) append(b []byte) error {
	switch {
	case s.mapped != nil:
		return errors.New("writing to the spool: its content has been read, so nothing may follow")
	case int64(len(b)) > s.options.MaxBytes-s.size:
		return fmt.Errorf("writing %d bytes after %d: %w: it holds at most %d", len(b), s.size, ErrFull, s.options.MaxBytes)
	case s.file == nil && len(s.head)+len(b) <= s.options.Memory:
		if need := len(s.head) + len(b); need > cap(s.head) { // doubled, and never above the bound
			s.head = append(make([]byte, 0, min(s.options.Memory, max(need, 2*cap(s.head), 4<<10))), s.head...)
		}
		s.head = append(s.head, b...)
		return nil
	case s.file == nil:
		if err := s.create(); err != nil {
			return err
		}
	}
	if _, err := s.file.Write(b); err != nil {
		return fmt.Errorf("writing a temporary file in %s: %w (free space there, or set TMPDIR to a folder with more)", s.options.Dir, err)
	}
	return nil
}

// create makes the file, takes its name away and moves what is in memory to it.
func (s *Spool) create() error {
	file, err := os.CreateTemp(s.options.Dir, "pkiwarden-spool-*")
	if err != nil {
		return fmt.Errorf("making a temporary file for more than %d bytes in %s: %w (make it writable, or set TMPDIR to a folder that is)",
			s.options.Memory, s.options.Dir, err)
	}
	s.file = file
	if err := os.Remove(file.Name()); err != nil {
		return fmt.Errorf("unlinking the temporary file in %s: %w", s.options.Dir, err)
	}
	if _, err := file.Write(s.head); err != nil {
		return fmt.Errorf("writing a temporary file in %s: %w (free space there, or set TMPDIR to a folder with more)", s.options.Dir, err)
	}
	s.head = nil
	return nil
}

// Bytes returns all that was written, which nobody may change. It is valid
// until Close. What is in a file is mapped, not read: the heap does not grow.
func (s *Spool) Bytes() ([]byte, error) {
	switch {
	case s.failed != nil:
		return nil, s.failed
	case s.file == nil:
		return s.head, nil
	case s.mapped == nil:
		mapped, err := unix.Mmap(int(s.file.Fd()), 0, int(s.size), unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			return nil, fmt.Errorf("mapping the temporary file of %d bytes in %s: %w", s.size, s.options.Dir, err)
		}
		s.mapped = mapped
	}
	return s.mapped, nil
}

// Close gives memory and file back. It may be called again.
func (s *Spool) Close() error {
	var unmap, closing error
	if s.mapped != nil {
		unmap = unix.Munmap(s.mapped)
	}
	if s.file != nil {
		closing = s.file.Close()
	}
	*s = Spool{options: s.options, failed: errors.New("the spool is closed")}
	if err := errors.Join(unmap, closing); err != nil {
		return fmt.Errorf("closing the spool's temporary file in %s: %w", s.options.Dir, err)
	}
	return nil
}
