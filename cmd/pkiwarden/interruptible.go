package main

import (
	"context"
	"io"
	"os"
)

// interruptible reads from what cannot be interrupted, such as a pipe: the read
// itself happens beside its caller, who no longer waits for it when ctx has
// ended. One that is under way then goes on alone, with a buffer of its own, and
// is the last.
type interruptible struct {
	ctx context.Context
	src io.Reader
	buf []byte
}

// Read implements io.Reader. Once ctx has ended its error is ctx's.
func (r *interruptible) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	if len(r.buf) < len(p) {
		r.buf = make([]byte, len(p))
	}
	type result struct {
		n   int
		err error
	}
	done := make(chan result, 1)
	go func() {
		n, err := r.src.Read(r.buf[:len(p)])
		done <- result{n, err}
	}()
	select {
	case <-r.ctx.Done():
		return 0, r.ctx.Err()
	case got := <-done:
		return copy(p, r.buf[:got.n]), got.err
	}
}

// openFile opens a file to read until ctx ends. A pipe that nobody writes to is
// opened beside the caller too.
func openFile(ctx context.Context, name string) (io.ReadCloser, error) {
	type result struct {
		f   *os.File
		err error
	}
	opened := make(chan result, 1)
	go func() {
		f, err := os.Open(name)
		opened <- result{f, err}
	}()
	select {
	case <-ctx.Done():
		return nil, ctx.Err() // the process ends, and with it what is opened yet
	case got := <-opened:
		if got.err != nil {
			return nil, got.err
		}
		return struct {
			io.Reader
			io.Closer
		}{&interruptible{ctx: ctx, src: got.f}, got.f}, nil
	}
}
