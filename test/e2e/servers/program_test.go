package servers

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// script is a program that does what the shell is told.
func script(commands string) ProgramOptions {
	return ProgramOptions{Name: "script", Path: "/bin/sh", Args: []string{"-c", commands}}
}

func TestProgram(t *testing.T) {
	s := newSet(t)
	ctx := within(t, 30*time.Second)
	p, err := s.StartProgram(ctx, script(`trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.01; done`))
	if err != nil {
		t.Fatal(err)
	}
	if line, err := p.WaitForLog(ctx, "^u.$"); err != nil || line != "up" {
		t.Fatalf("WaitForLog: %q, %v", line, err)
	}
	if err := p.Start(ctx); err == nil || !strings.Contains(err.Error(), "already runs") {
		t.Errorf("starting what runs: %v", err)
	}
	if err := p.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if code, err := p.Wait(ctx); err != nil || code != 7 || p.Running() {
		t.Errorf("after Stop: exit code %d, %v, running %t; want 7", code, err, p.Running())
	}
	if err := p.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := p.WaitForLog(ctx, "up"); err != nil {
		t.Fatal(err)
	}
	if log := p.Log(); strings.Contains(log, "bye") {
		t.Errorf("the log since the last start holds the one before: %q", log)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if code, err := p.Wait(ctx); err != nil || code != -9 {
		t.Errorf("after Kill: exit code %d, %v; want -9", code, err)
	}
	if _, err := p.WaitForLog(ctx, "never"); err == nil || !strings.Contains(err.Error(), "it ended") {
		t.Errorf("waiting for a line of what ended: %v", err)
	}
}

func TestStopKillsWhatDoesNotListen(t *testing.T) {
	s := newSet(t)
	ctx := within(t, 30*time.Second)
	deaf := script(`trap '' TERM; echo up; while :; do sleep 0.01; done`)
	deaf.StopWithin = 100 * time.Millisecond
	p, err := s.StartProgram(ctx, deaf)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.WaitForLog(ctx, "up"); err != nil {
		t.Fatal(err)
	}
	if err := p.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if code, err := p.Wait(ctx); err != nil || code != -9 {
		t.Errorf("exit code %d, %v; want -9", code, err)
	}
}

func TestStartThatFails(t *testing.T) {
	s := newSet(t)
	ctx := within(t, 30*time.Second)
	never := func(context.Context) error { return errors.New("not yet") }
	dies := script(`for i in $(seq 30); do echo "line $i;"; done; exit 3`)
	dies.Ready = never
	_, err := s.StartProgram(ctx, dies)
	if err == nil {
		t.Fatal("a program that ended counts as started")
	}
	for _, want := range []string{"exit status 3", "line 30;", "line 11;", "script.log"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "line 10;") {
		t.Errorf("more than 20 lines in %v", err)
	}

	hangs := script(`sleep 1000`)
	hangs.Ready, hangs.ReadyWithin = never, 100*time.Millisecond
	p, err := s.StartProgram(ctx, hangs)
	if err == nil || !strings.Contains(err.Error(), "not ready within 100ms: not yet") {
		t.Errorf("a program that is never ready: %v", err)
	}
	if p.Running() {
		t.Error("it still runs")
	}
}

func TestRun(t *testing.T) {
	s := newSet(t)
	ctx := within(t, 30*time.Second)
	t.Setenv("VAULT_ADDR", "https://elsewhere.invalid")
	o := script(`echo "out $GREETING$VAULT_ADDR"; echo err >&2; exit 64`)
	o.Env = []string{"GREETING=hello"}
	got, err := s.Run(ctx, o)
	if want := (Result{Stdout: "out hello\n", Stderr: "err\n", ExitCode: 64}); err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	if _, err := s.Run(within(t, 100*time.Millisecond), script(`sleep 1000`)); err == nil {
		t.Error("a program that was cut short counts as run")
	}
}

func TestLaunchRetriesTakenPorts(t *testing.T) {
	s := newSet(t)
	ctx := within(t, 30*time.Second)
	paths, err := s.find(ctx, "etcd")
	if err != nil {
		t.Fatal(err)
	}
	var tried []int
	_, err = s.launch(ctx, "etcd", 2, func(dir string, ports []int) (ProgramOptions, error) {
		tried = append(tried, ports[0])
		if len(tried) == 1 {
			l, err := net.Listen("tcp", loopback(ports[0]))
			if err != nil {
				return ProgramOptions{}, err
			}
			t.Cleanup(func() { l.Close() })
		}
		url, peer := "http://"+loopback(ports[0]), "http://"+loopback(ports[1])
		return ProgramOptions{
			Path: paths["etcd"],
			Args: []string{
				"--data-dir=" + dir, "--listen-client-urls=" + url, "--advertise-client-urls=" + url, "--listen-peer-urls=" + peer,
				"--initial-advertise-peer-urls=" + peer, "--initial-cluster=default=" + peer,
			},
			Ready: httpReady(nil, url+"/health"),
		}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(tried) != 2 || tried[0] == tried[1] {
		t.Errorf("tried ports %v, want a second after the taken one", tried)
	}
}

func TestKeepLogs(t *testing.T) {
	s, err := New(Options{TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	ctx := within(t, 30*time.Second)
	for range 2 {
		p, err := s.StartProgram(ctx, script(`echo said`))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Wait(ctx); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(t.TempDir(), "kept")
	kept, err := s.KeepLogs(dir)
	if err != nil || len(kept) != 2 {
		t.Fatalf("kept %v, %v; want two", kept, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, path := range kept {
		if content, err := os.ReadFile(path); err != nil || string(content) != "said\n" {
			t.Errorf("kept log %s: %q, %v", path, content, err)
		}
	}
	if _, err := os.Stat(s.Dir()); !os.IsNotExist(err) {
		t.Errorf("the folder after Close: %v, want none", err)
	}
	if _, err := s.StartProgram(ctx, script(`:`)); err == nil {
		t.Error("a closed set starts programs")
	}
}

func TestKeep(t *testing.T) {
	s, err := New(Options{TempDir: t.TempDir(), Keep: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.Dir()); err != nil {
		t.Errorf("the folder to keep: %v", err)
	}
}

func TestBuildPkiwarden(t *testing.T) {
	s := newSet(t)
	ctx := within(t, 10*time.Minute)
	path, err := s.BuildPkiwarden(ctx)
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Run(ctx, ProgramOptions{Path: path, Args: []string{"version"}})
	if err != nil || got.ExitCode != 0 || !strings.Contains(got.Stdout, "pkiwarden") {
		t.Errorf("pkiwarden version: %+v, %v", got, err)
	}
	again, err := s.BuildPkiwarden(ctx)
	if err != nil || again != path {
		t.Errorf("built again: %s, %v; want %s", again, err, path)
	}
}

// Sets that live at the same time share one build, each under a name of its
// own: what one has outlives the other.
func TestBuildPkiwardenIsShared(t *testing.T) {
	ctx := within(t, 10*time.Minute)
	first, err := New(Options{TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	original, err := first.BuildPkiwarden(ctx)
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(original)
	if err != nil {
		t.Fatal(err)
	}
	second := newSet(t)
	path, err := second.BuildPkiwarden(ctx)
	if err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(path, second.Dir()) || !os.SameFile(before, after) {
		t.Errorf("%s was built again, or is not the second set's own, %s", path, second.Dir())
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := second.Run(ctx, ProgramOptions{Path: path, Args: []string{"version"}})
	if err != nil || got.ExitCode != 0 {
		t.Errorf("pkiwarden version after the other set has closed: %+v, %v", got, err)
	}
}
