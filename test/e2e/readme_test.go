package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers/serverstest"
)

// transcript is what the README shows below "$ command".
func transcript(t *testing.T, command string) []string {
	t.Helper()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(readme), "```console\n$ "+command+"\n")
	if !ok {
		t.Fatalf("the README has no transcript of %q", command)
	}
	text, _, _ := strings.Cut(rest, "```")
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}

var (
	hexWord = regexp.MustCompile(`leaf [0-9a-f]{12}`)
	number  = regexp.MustCompile(`[0-9]+(\.[0-9]+)?`)
	column  = regexp.MustCompile(`^ +`)
)

// shape is a line without its figures, which differ from run to run.
func shape(line string) string {
	return number.ReplaceAllString(hexWord.ReplaceAllString(column.ReplaceAllString(line, " "), "leaf X"), "N")
}

// shows checks that a transcript of the README, in which a line "…" leaves some
// out, is what a command has printed, but for its figures.
func shows(t *testing.T, transcript []string, printed string) {
	t.Helper()
	// Columns are as wide as their figures.
	form := func(line string) string { return strings.Join(strings.Fields(shape(line)), " ") }
	lines := strings.Split(printed, "\n")
	for _, want := range transcript {
		if want == "…" {
			continue
		}
		at := slices.IndexFunc(lines, func(l string) bool { return form(l) == form(want) })
		if at < 0 {
			t.Errorf("the README shows a line that is not printed, or not there:\n%s\nprinted:\n%s", want, printed)
			return
		}
		lines = lines[at+1:]
	}
}

// TestDemo runs the demo as `make demo` does: it tells the README's story, in
// time, and leaves nothing behind.
func TestDemo(t *testing.T) {
	t.Parallel()
	ctx := serverstest.Context(t)
	folder := t.TempDir()
	binary := folder + "/demo"
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", binary, "./demo").CombinedOutput(); err != nil {
		t.Fatalf("building the demo: %v\n%s", err, out)
	}
	temp := folder + "/tmp"
	must(t, os.Mkdir(temp, 0o700))
	began := time.Now()
	out := runDemo(t, ctx, binary, temp)
	if took := time.Since(began); took > 6*time.Minute { // two, where nothing runs beside it
		t.Errorf("the demo took %s, want less than six minutes", took.Round(time.Second))
	}

	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	lines = slices.DeleteFunc(lines, func(line string) bool { return strings.HasPrefix(line, "passing over ") })
	shown := transcript(t, "make demo")
	for _, line := range shown {
		if !slices.ContainsFunc(lines, func(l string) bool { return shape(l) == shape(line) }) {
			t.Errorf("the README shows a line that the demo does not print:\n%s", line)
		}
	}
	for _, line := range lines {
		if !slices.ContainsFunc(shown, func(l string) bool { return shape(l) == shape(line) }) {
			t.Errorf("the demo prints a line that the README does not show:\n%s", line)
		}
	}
	if t.Failed() {
		t.Logf("the demo printed:\n%s", out)
	}
	nothingLeft(t, temp)
}

// TestDemoInterrupted presses Ctrl-C in the middle.
func TestDemoInterrupted(t *testing.T) {
	t.Parallel()
	ctx := serverstest.Context(t)
	folder := t.TempDir()
	binary, temp := folder+"/demo", folder+"/tmp"
	must(t, os.Mkdir(temp, 0o700))
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", binary, "./demo").CombinedOutput(); err != nil {
		t.Fatalf("building the demo: %v\n%s", err, out)
	}
	cmd := exec.CommandContext(ctx, binary)
	cmd.Env = append(os.Environ(), "TMPDIR="+temp)
	var out lockedBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	must(t, cmd.Start())
	eventually(t, ctx, 2*time.Minute, "Vault is started", func(context.Context) error {
		if !strings.Contains(out.String(), "starting Vault") {
			return context.DeadlineExceeded
		}
		return nil
	})
	must(t, cmd.Process.Signal(os.Interrupt))
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("exit code %d after Ctrl-C, want 130; it printed:\n%s", code, out.String())
	}
	nothingLeft(t, temp)
}

func runDemo(t *testing.T, ctx context.Context, binary, temp string) string {
	t.Helper()
	cmd := exec.CommandContext(ctx, binary)
	cmd.Env = append(os.Environ(), "TMPDIR="+temp)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("the demo: %v; it printed:\n%s", err, out)
	}
	return string(out)
}

// nothingLeft checks that no folder of servers and no process in one is left.
func nothingLeft(t *testing.T, temp string) {
	t.Helper()
	entries, err := os.ReadDir(temp)
	must(t, err)
	for _, e := range entries {
		if e.IsDir() {
			t.Errorf("the folder %s is left behind", e.Name())
		}
	}
	processes, err := os.ReadDir("/proc")
	must(t, err)
	for _, p := range processes {
		line, err := os.ReadFile("/proc/" + p.Name() + "/cmdline")
		if err == nil && bytes.Contains(line, []byte(temp)) {
			t.Errorf("process %s is left behind: %s", p.Name(), bytes.ReplaceAll(line, []byte{0}, []byte{' '}))
		}
	}
}

// TestMakeTest holds the README's transcript of `make test` against what make
// would run.
func TestMakeTest(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "make", "-n", "test")
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "MAKEFLAGS=", "MAKELEVEL=")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("make -n test: %v", err)
	}
	printed := strings.Split(string(out), "\n")
	for _, line := range transcript(t, "make test") {
		if !slices.Contains(printed, line) {
			t.Errorf("the README says that make test runs %q; make runs:\n%s", line, out)
		}
	}
}
