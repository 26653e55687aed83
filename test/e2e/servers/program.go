package servers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	logTail = 20
	// pollInterval is the first pause between two looks at a server, and
	// longestPoll the longest: many servers start side by side, and asking one
	// whether it is there yet must not slow the others.
	pollInterval = 20 * time.Millisecond
	longestPoll  = 250 * time.Millisecond
	// stopBound is how long a process may take to end after SIGTERM, then how
	// long after SIGKILL.
	stopBound = 15 * time.Second
	// disposeBound is the same for servers when their Set closes: a Vault that
	// has just stepped down sleeps for ten seconds first.
	disposeBound = 2 * time.Second
)

// ProgramOptions describe a process to control.
type ProgramOptions struct {
	// Name is for folders, logs and errors; the base name of Path by default.
	Name string
	Path string
	Args []string
	// Env is added to PATH, HOME and TMPDIR (both the program's own folder)
	// and GOCOVERDIR; nothing else is inherited, since a VAULT_ADDR of the
	// caller's would change what is tested.
	Env []string
	// Ready is asked several times a second after a start until it returns nil;
	// without it a started process counts as ready.
	Ready func(context.Context) error
	// ReadyWithin bounds the wait for Ready; a minute by default.
	ReadyWithin time.Duration
	// StopWithin bounds the wait after SIGTERM before SIGKILL; 15 s by default.
	StopWithin time.Duration
}

// Program is one controlled process, which can be started many times. Its
// methods may be called from several goroutines, except that starting and
// stopping are the business of one.
type Program struct {
	set     *Set
	options ProgramOptions
	dir     string
	log     string
	// disposable is a server whose data goes with the Set: when that closes
	// there is nothing to wait long for.
	disposable bool

	mu  sync.Mutex
	run *run
}

// run is one start of a program.
type run struct {
	cmd    *exec.Cmd
	offset int64 // of this start's output in the log
	ended  chan struct{}
}

// NewProgram prepares a program with a folder and a log of its own and does
// not start it.
func (s *Set) NewProgram(o ProgramOptions) (*Program, error) {
	if o.Name == "" {
		o.Name = filepath.Base(o.Path)
	}
	dir, err := s.folder(o.Name)
	if err != nil {
		return nil, err
	}
	return s.newProgramIn(dir, o)
}

func (s *Set) newProgramIn(dir string, o ProgramOptions) (*Program, error) {
	if o.ReadyWithin == 0 {
		o.ReadyWithin = time.Minute
	}
	if o.StopWithin == 0 {
		o.StopWithin = stopBound
	}
	p := &Program{set: s, options: o, dir: dir, log: filepath.Join(dir, filepath.Base(dir)+".log")}
	return p, s.add(p)
}

// StartProgram is NewProgram and Start.
func (s *Set) StartProgram(ctx context.Context, o ProgramOptions) (*Program, error) {
	p, err := s.NewProgram(o)
	if err != nil {
		return nil, err
	}
	return p, p.Start(ctx)
}

// Start starts the process and returns when it is ready. When it ends before
// that or is not ready in time, it is ended and the error carries the last
// lines of its log.
func (p *Program) Start(ctx context.Context) error {
	if err := p.start(); err != nil {
		return fmt.Errorf("starting %s: %w", p.Name(), err)
	}
	err := p.awaitReady(ctx)
	if err == nil {
		return nil
	}
	err = fmt.Errorf("starting %s: %w; the end of its log %s:\n%s", p.Name(), err, p.log, p.LogTail(logTail))
	return errors.Join(err, p.Kill())
}

func (p *Program) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.run != nil && !p.run.over() {
		return fmt.Errorf("it already runs as process %d", p.run.cmd.Process.Pid)
	}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("opening its log: %w", err)
	}
	defer log.Close()
	info, err := log.Stat()
	if err != nil {
		return fmt.Errorf("opening its log: %w", err)
	}
	cmd := p.command()
	cmd.Stdout, cmd.Stderr = log, log
	if err := spawn(cmd); err != nil {
		return err
	}
	r := &run{cmd: cmd, offset: info.Size(), ended: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // how it ended is in cmd.ProcessState
		close(r.ended)
	}()
	p.run = r
	return nil
}

func (p *Program) command() *exec.Cmd {
	cmd := exec.Command(p.options.Path, p.options.Args...)
	cmd.Dir = p.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.dir, "TMPDIR=" + p.dir}
	if cover := os.Getenv("GOCOVERDIR"); cover != "" {
		cmd.Env = append(cmd.Env, "GOCOVERDIR="+cover)
	}
	cmd.Env = append(cmd.Env, p.options.Env...)
	return cmd
}

func (p *Program) awaitReady(ctx context.Context) error {
	if p.options.Ready == nil {
		return nil
	}
	r := p.current()
	ctx, cancel := context.WithTimeoutCause(ctx, p.options.ReadyWithin, fmt.Errorf("not ready within %s", p.options.ReadyWithin))
	defer cancel()
	go func() {
		select {
		case <-r.ended:
			cancel() // Ready may hang on another's listener
		case <-ctx.Done():
		}
	}()
	var polls poll
	for {
		err := p.options.Ready(ctx)
		waitErr := context.Cause(ctx)
		if err != nil && waitErr == nil {
			waitErr = polls.pause(ctx)
		}
		switch {
		case r.over(): // though someone answered, perhaps
			return fmt.Errorf("it ended before it was ready: %s", r.cmd.ProcessState)
		case err == nil:
			return nil
		case waitErr != nil:
			return fmt.Errorf("%w: %w", waitErr, err)
		}
	}
}

func (p *Program) current() *run {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.run
}

func (r *run) over() bool {
	select {
	case <-r.ended:
		return true
	default:
		return false
	}
}

// Name is the program's name in logs and errors.
func (p *Program) Name() string { return filepath.Base(p.dir) }

// Dir is the program's own folder, which is also its working directory.
func (p *Program) Dir() string { return p.dir }

// LogPath is the file that holds the output of every start of the program.
func (p *Program) LogPath() string { return p.log }

// Running says whether the process lives; a paused one does.
func (p *Program) Running() bool {
	r := p.current()
	return r != nil && !r.over()
}

// PID is the process ID of the last start, 0 when there was none.
func (p *Program) PID() int {
	if r := p.current(); r != nil {
		return r.cmd.Process.Pid
	}
	return 0
}

// Signal sends a signal to the process; one that ended is an error.
func (p *Program) Signal(s os.Signal) error {
	r := p.current()
	if r == nil {
		return fmt.Errorf("signalling %s: it was never started", p.Name())
	}
	if err := r.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("signalling %s: %w", p.Name(), err)
	}
	return nil
}

// Pause stops the process where it is (SIGSTOP): its connections stay open and
// nobody answers. Resume lets it go on.
func (p *Program) Pause() error { return p.Signal(syscall.SIGSTOP) }

// Resume lets a paused process go on.
func (p *Program) Resume() error { return p.Signal(syscall.SIGCONT) }

// Stop asks the process to end (SIGTERM) and kills it when it has not within
// the bound, or when ctx ends. It returns when the process is gone; stopping
// what does not run does nothing.
func (p *Program) Stop(ctx context.Context) error {
	r := p.current()
	if r == nil || r.over() {
		return nil
	}
	// The error of signalling a process that ends meanwhile says nothing.
	_ = p.Signal(syscall.SIGTERM)
	_ = p.Resume()
	select {
	case <-r.ended:
		return nil
	case <-ctx.Done():
	case <-time.After(p.options.StopWithin):
	}
	return p.Kill()
}

// end is Stop for the end of the Set.
func (p *Program) end() error {
	ctx := context.Background()
	if p.disposable {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, disposeBound)
		defer cancel()
	}
	return p.Stop(ctx)
}

// Kill ends the process and what it started in its process group at once
// (SIGKILL) and returns when it is gone.
func (p *Program) Kill() error {
	r := p.current()
	if r == nil || r.over() {
		return nil
	}
	_ = syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL)
	select {
	case <-r.ended:
		return nil
	case <-time.After(stopBound):
		return fmt.Errorf("killing %s: process %d still there after %s", p.Name(), r.cmd.Process.Pid, stopBound)
	}
}

// Restart is Stop and Start.
func (p *Program) Restart(ctx context.Context) error {
	if err := p.Stop(ctx); err != nil {
		return err
	}
	return p.Start(ctx)
}

// Wait waits for the process to end and returns its exit code, or minus the
// signal's number when a signal ended it.
func (p *Program) Wait(ctx context.Context) (int, error) {
	r := p.current()
	if r == nil {
		return 0, fmt.Errorf("waiting for %s: it was never started", p.Name())
	}
	select {
	case <-r.ended:
		return exitCode(r.cmd.ProcessState), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("waiting for the end of %s: %w", p.Name(), context.Cause(ctx))
	}
}

func exitCode(state *os.ProcessState) int {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return -int(status.Signal())
	}
	return state.ExitCode()
}

// Log is the output since the last start.
func (p *Program) Log() string {
	r := p.current()
	content, err := os.ReadFile(p.log)
	if r == nil || err != nil || int64(len(content)) < r.offset {
		return ""
	}
	return string(content[r.offset:])
}

// LogTail is the last n lines of the output since the last start.
func (p *Program) LogTail(n int) string { return lastLines(p.Log(), n) }

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// WaitForLog waits until a line of the output since the last start matches the
// regular expression and returns that line. It fails at once when the process
// ends without such a line.
func (p *Program) WaitForLog(ctx context.Context, pattern string) (string, error) {
	expression, err := regexp.Compile(pattern)
	if err != nil {
		return "", fmt.Errorf("waiting for a line of %s: %w", p.Name(), err)
	}
	var polls poll
	for {
		over := !p.Running() // asked first: what it wrote last must be seen
		for line := range strings.SplitSeq(p.Log(), "\n") {
			if expression.MatchString(line) {
				return line, nil
			}
		}
		if over {
			return "", fmt.Errorf("waiting for a line of %s that matches %q: it ended; the end of its log:\n%s", p.Name(), pattern, p.LogTail(logTail))
		}
		if err := polls.pause(ctx); err != nil {
			return "", fmt.Errorf("waiting for a line of %s that matches %q: %w; the end of its log:\n%s", p.Name(), pattern, err, p.LogTail(logTail))
		}
	}
}

// Result is what a program that ran to its end has said.
type Result struct {
	Stdout   string
	Stderr   string
	ExitCode int // minus the signal's number when a signal ended it
}

// Run runs a program to its end and returns its output, standard output and
// error apart. Only a program that could not be run, or that ctx cut short, is
// an error. Ready is not asked.
func (s *Set) Run(ctx context.Context, o ProgramOptions) (Result, error) {
	p, err := s.NewProgram(o)
	if err != nil {
		return Result{}, err
	}
	defer s.remove(p)
	cmd := p.command()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := spawn(cmd); err != nil {
		return Result{}, fmt.Errorf("running %s: %w", p.Name(), err)
	}
	release := context.AfterFunc(ctx, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer release()
	cmd.WaitDelay = stopBound
	_ = cmd.Wait() // how it ended is in cmd.ProcessState
	result := Result{Stdout: stdout.String(), Stderr: stderr.String(), ExitCode: exitCode(cmd.ProcessState)}
	if ctx.Err() != nil {
		return result, fmt.Errorf("running %s: %w", p.Name(), context.Cause(ctx))
	}
	return result, nil
}
