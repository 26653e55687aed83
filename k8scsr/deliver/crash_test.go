package deliver

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// strace runs one publish of the pair into the directory under strace, in a
// process of its own, and returns what it printed and how it ended.
func strace(t *testing.T, directory, pair string, options ...string) (output string, err error) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := slices.Concat([]string{"-f", "-qq"}, options, []string{self, directory, pair})
	c := exec.Command("strace", args...)
	c.Env = append(os.Environ(), roleVariable+"="+rolePublish, "GOMAXPROCS=1", "GODEBUG=asyncpreemptoff=1")
	var stdout bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stdout
	err = c.Run()
	return stdout.String(), err
}

func needStrace(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("strace is not installed: crashes at system calls are not tested")
	}
	if out, err := exec.Command("strace", "-f", "-qq", "-o", os.DevNull, "true").CombinedOutput(); err != nil {
		t.Skipf("strace may not trace here: crashes at system calls are not tested: %v %s", err, out)
	}
}

// fastDirectory is in memory where it can be, since nothing here is about disks.
func fastDirectory(t *testing.T) string {
	t.Helper()
	directory, err := os.MkdirTemp("/dev/shm", "deliver")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(directory) })
	return directory
}

type scene struct {
	name   string
	before []Pair // published in order, before the publish that is hit
	next   Pair
}

func scenes(t *testing.T) []scene {
	ca := newAuthority(t)
	a, b, c := ca.issue(t, time.Hour), ca.issue(t, time.Hour), ca.issue(t, time.Hour)
	c.CA = nil // so that ca.crt goes away
	return []scene{{"first", nil, a}, {"second", []Pair{a}, b}, {"third", []Pair{a, b}, c}}
}

// stage makes a fresh directory as the scene has it before.
func (s scene) stage(t *testing.T) (directory, pair string) {
	t.Helper()
	directory, pair = fastDirectory(t), fastDirectory(t)
	writeDirectory(t, pair, s.next)
	for _, p := range s.before {
		mustSync(t, newPublisher(directory), p, true)
	}
	return directory, pair
}

// examine checks what a server would find now: the pair before or the next
// one, whole; nothing only where nothing was there before.
func (s scene) examine(directory string) (isNext bool, err error) {
	got, err := readDirectory(directory)
	if len(s.before) == 0 && errors.Is(err, os.ErrNotExist) {
		for _, name := range []string{"tls.crt", "tls.key", "ca.crt"} {
			if _, err := os.Stat(filepath.Join(directory, name)); err == nil {
				return false, fmt.Errorf("%s is there and others are not", name)
			}
		}
		return false, nil
	}
	if err != nil {
		return false, err
	}
	serial, err := serialOf(got)
	if err != nil {
		return false, err
	}
	next, err := serialOf(s.next)
	if err != nil || serial == next {
		return true, err
	}
	if len(s.before) > 0 {
		last, err := serialOf(s.before[len(s.before)-1])
		if err != nil || serial == last {
			return false, err
		}
	}
	return false, fmt.Errorf("the pair with serial %d is neither the one before nor the next", serial)
}

// heal publishes again and checks that all is as it should be.
func (s scene) heal(t *testing.T, directory string) {
	t.Helper()
	if _, err := newPublisher(directory).sync(s.next); err != nil {
		t.Errorf("the next run does not heal: %v", err)
		return
	}
	if isNext, err := s.examine(directory); err != nil || !isNext {
		t.Errorf("after healing: next %t, %v", isNext, err)
	}
	generations := 0
	for _, name := range names(t, directory) {
		switch name {
		case "..pkiwarden-":
			generations++
		case "..data", "tls.crt", "tls.key", "ca.crt":
		default:
			t.Errorf("%s is left behind", name)
		}
	}
	if generations > 2 {
		t.Errorf("%d generations are left, want the current and at most one before", generations)
	}
}

// Killed before any of its system calls, a publish leaves the old pair or the
// new one, and the next run mends the rest.
func TestCrashAtEverySystemCall(t *testing.T) {
	needStrace(t)
	for _, s := range scenes(t) {
		for _, call := range []string{"openat", "mkdirat", "write", "fchmod", "fsync", "symlinkat", "/^renameat", "unlinkat"} {
			t.Run(s.name+"/"+strings.Trim(call, "/^"), func(t *testing.T) {
				t.Parallel()
				kills := 0
				step := 1
				if testing.Short() {
					step = 3
				}
				for n := 1; ; n += step {
					directory, pair := s.stage(t)
					output, err := strace(t, directory, pair, "-o", os.DevNull, "-e", fmt.Sprintf("inject=%s:signal=SIGKILL:when=%d", call, n))
					if err == nil {
						break // it came to its end: there is no n-th call
					}
					if status, ok := killed(err); !ok {
						t.Fatalf("call %d: %s: %v %s", n, status, err, output)
					}
					kills++
					if _, err := s.examine(directory); err != nil {
						t.Errorf("killed at call %d: %v", n, err)
					}
					s.heal(t, directory)
				}
				if kills == 0 && call != "unlinkat" {
					t.Error("never killed")
				}
				t.Logf("%d kills", kills)
			})
		}
	}
}

// killed reports whether strace ended as its tracee did, by SIGKILL.
func killed(err error) (string, bool) {
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		return "not run", false
	}
	status := exit.Sys().(syscall.WaitStatus)
	return exit.String(), status.Signaled() && status.Signal() == syscall.SIGKILL || status.ExitStatus() == 137
}

// A full, failing or read-only disk leaves the old pair and an error that names
// the path.
func TestFaultAtEverySystemCall(t *testing.T) {
	needStrace(t)
	s := scenes(t)[1]
	for _, fault := range []struct {
		call, errno string
		message     string
	}{
		{"write", "ENOSPC", "no space left on device"},
		{"fsync", "EIO", "input/output error"},
		{"mkdirat", "EROFS", "read-only file system"},
		{"symlinkat", "ENOSPC", "no space left on device"},
		{"/^renameat", "EIO", "input/output error"},
	} {
		t.Run(strings.Trim(fault.call, "/^")+" "+fault.errno, func(t *testing.T) {
			t.Parallel()
			faults := 0
			for n := 1; ; n++ {
				directory, pair := s.stage(t)
				output, err := strace(t, directory, pair, "-o", os.DevNull, "-e", fmt.Sprintf("inject=%s:error=%s:when=%d", fault.call, fault.errno, n))
				isNext, wrong := s.examine(directory)
				if wrong != nil {
					t.Errorf("fault at call %d: %v", n, wrong)
				}
				if err == nil {
					if !isNext {
						t.Errorf("fault at call %d is not reported", n)
					}
					break
				}
				faults++
				if !strings.Contains(output, directory) || !strings.Contains(output, fault.message) {
					t.Errorf("fault at call %d: the error is %q", n, output)
				}
				s.heal(t, directory)
			}
			if faults == 0 {
				t.Error("no fault had an effect")
			}
			t.Logf("%d faults", faults)
		})
	}
}

// A power loss finds either pair whole: the files and their directory are on
// disk before the rename, the rename before anything else.
func TestSyncOrder(t *testing.T) {
	needStrace(t)
	s := scenes(t)[1]
	directory, pair := s.stage(t)
	trace := filepath.Join(t.TempDir(), "trace")
	if output, err := strace(t, directory, pair, "-y", "-o", trace, "-e", "trace=fsync,/^renameat,unlinkat"); err != nil {
		t.Fatal(err, output)
	}
	data, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	generation := regexp.QuoteMeta(directory) + `/\.\.pkiwarden-[^/>]+`
	steps := []string{
		`fsync\(\d+<` + generation + `/tls\.crt>`,
		`fsync\(\d+<` + generation + `/tls\.key>`,
		`fsync\(\d+<` + generation + `/ca\.crt>`,
		`fsync\(\d+<` + generation + `>`,
		`renameat2?\(.*"\.\.data_tmp".*"\.\.data"`,
		`fsync\(\d+<` + regexp.QuoteMeta(directory) + `>`,
	}
	rest := string(data)
	for _, step := range steps {
		at := regexp.MustCompile(step + `.*= 0\n`).FindStringIndex(rest)
		if at == nil {
			t.Fatalf("%s does not come where it should; the whole trace:\n%s", step, data)
		}
		rest = rest[at[1]:]
	}
	if strings.Contains(rest, "rename") || strings.Contains(rest, "fsync") {
		t.Errorf("after the last step:\n%s", rest)
	}
}
