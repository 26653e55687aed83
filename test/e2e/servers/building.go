package servers

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// build makes one program from its nested module into the cache folder.
type build struct {
	program program
	module  string
	target  string
}

// ensure builds the program unless another process has done so meanwhile.
func (b build) ensure(ctx context.Context, report *progress, position string) error {
	if err := os.MkdirAll(filepath.Dir(b.target), 0o755); err != nil {
		return fmt.Errorf("making the cache folder: %w", err)
	}
	lockFile := filepath.Dir(b.target) + ".lock"
	unlock, err := lock(ctx, lockFile, func() func() {
		return report.during("%s (%s): waiting for another process that builds it (lock %s)", b.program.name, position, lockFile)
	})
	if err != nil {
		return err
	}
	defer unlock()
	if isProgram(b.target) {
		return nil
	}
	start := time.Now()
	report.line("%s (%s): building from %s, about %.0f min on two cores when nothing of it is cached", b.program.name, position, b.program.pkg, b.program.minutes)
	temporary := fmt.Sprintf("%s.building-%d", b.target, os.Getpid())
	defer os.Remove(temporary)
	total, err := b.list(ctx, report, position)
	if err != nil {
		return err
	}
	if err := b.compile(ctx, report, position, total, temporary); err != nil {
		return err
	}
	if err := os.Rename(temporary, b.target); err != nil {
		return fmt.Errorf("publishing the build: %w", err)
	}
	info, err := os.Stat(b.target)
	if err != nil {
		return fmt.Errorf("publishing the build: %w", err)
	}
	report.line("%s (%s): built in %s, %d MB, kept as %s", b.program.name, position, time.Since(start).Round(time.Second), info.Size()>>20, b.target)
	return nil
}

// list downloads the modules and counts the packages, so that compiling can
// say how far it is.
func (b build) list(ctx context.Context, report *progress, position string) (int, error) {
	var packages, downloads atomic.Int64
	stop := report.counting(func() string {
		return fmt.Sprintf("%s (%s): downloading modules, %d so far", b.program.name, position, downloads.Load())
	})
	defer stop()
	err := b.run(ctx, func(string) { packages.Add(1) }, func(line string) {
		if strings.Contains(line, "downloading") {
			downloads.Add(1)
		}
	}, "list", "-mod=readonly", "-deps", "-f", "{{.ImportPath}}", b.program.pkg)
	return int(packages.Load()), err
}

func (b build) compile(ctx context.Context, report *progress, position string, total int, output string) error {
	var compiled atomic.Int64
	stop := report.counting(func() string {
		return fmt.Sprintf("%s (%s): compiling and linking, %d of at most %d packages done", b.program.name, position, compiled.Load(), total)
	})
	defer stop()
	return b.run(ctx, func(string) {}, func(string) { compiled.Add(1) },
		"build", "-v", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", b.program.ldflags, "-o", output, b.program.pkg)
}

// run runs the go command in the nested module. Its error carries the last
// lines of what the command said.
func (b build) run(ctx context.Context, stdout, stderr func(line string), args ...string) error {
	cmd := goCommand(ctx, b.module, args...)
	out, outWriter := io.Pipe()
	errs, errWriter := io.Pipe()
	cmd.Stdout, cmd.Stderr = outWriter, errWriter
	var tail []string
	var readers sync.WaitGroup
	readers.Go(func() { eachLine(out, stdout) })
	readers.Go(func() {
		eachLine(errs, func(line string) {
			stderr(line)
			tail = append(tail, line)
			tail = tail[max(0, len(tail)-logTail):]
		})
	})
	err := cmd.Run()
	outWriter.Close()
	errWriter.Close()
	readers.Wait()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("running the go command (install Go, or set %s to a folder with the programs): %w", DirVariable, err)
	case ctx.Err() != nil:
		return fmt.Errorf("running go %s: %w", args[0], ctx.Err())
	case err != nil:
		return fmt.Errorf("running go %s in %s: %w\n%s", args[0], b.module, err, strings.Join(tail, "\n"))
	}
	return nil
}

// goCommand is the go command in a folder, for static programs. When ctx ends
// it may still end its compilers.
func goCommand(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	// A GOFLAGS or a workspace of the caller's would change what is built.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

func eachLine(r io.Reader, do func(string)) {
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		do(s.Text())
	}
	// What does not scan must still be read, or the writer would block.
	_, _ = io.Copy(io.Discard, r)
}

// lock takes the exclusive lock of a file, which the kernel gives back when
// the process dies. When it must wait it says so through waiting, whose result
// is called when the wait is over.
func lock(ctx context.Context, path string, waiting func() (done func())) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening the lock file: %w", err)
	}
	unlock = func() { f.Close() }
	done := func() {}
	for first := true; ; first = false {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			done()
			return unlock, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			done()
			unlock()
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		if first {
			done = waiting()
		}
		if err := sleep(ctx, 200*time.Millisecond); err != nil {
			done()
			unlock()
			return nil, fmt.Errorf("waiting for the lock %s: %w", path, err)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// poll is a series of looks at something, whose pauses grow from pollInterval
// to longestPoll.
type poll struct{ last time.Duration }

// pause is the time to the next look; its error says why ctx ended meanwhile.
func (p *poll) pause(ctx context.Context) error {
	p.last = min(max(pollInterval, p.last*3/2), longestPoll)
	return sleep(ctx, p.last)
}
