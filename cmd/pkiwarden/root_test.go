package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/cobra"
)

// runWith runs the program with one more command.
func runWith(t *testing.T, env map[string]string, command func(*cobra.Command, []string) error, args ...string) (code int, stderr string) {
	t.Helper()
	old := commands
	t.Cleanup(func() { commands = old })
	commands = append(commands[:len(commands):len(commands)], func(*app) *cobra.Command {
		return &cobra.Command{Use: "try", Args: cobra.NoArgs, RunE: command}
	})
	var errs bytes.Buffer
	code = run(args, strings.NewReader(""), io.Discard, &errs, func(name string) string { return env[name] })
	return code, errs.String()
}

func TestExitCodes(t *testing.T) {
	for _, test := range []struct {
		name   string
		err    error
		code   int
		stderr string
	}{
		{"done", nil, 0, ""},
		{"failed", errors.New("reading x: no"), exitCritical, "error: reading x: no\n"},
		{"chosen", &exitError{code: exitUnknown, err: errors.New("no answer"), hints: []string{"a", "b"}}, exitUnknown, "error: no answer\nhint: a\nhint: b\n"},
		{"wrapped", fmt.Errorf("outer: %w", &exitError{code: exitWarning}), exitWarning, ""},
		{"several", errors.Join(errors.New("one"), errors.New("two")), exitCritical, "error: one\nerror: two\n"},
		{"several lines", errors.New("Code: 403. Errors:\n\n* denied"), exitCritical, "error: Code: 403. Errors:; * denied\n"},
		{"what another said", errors.New("it says \x1b[2Jhello\u202e"), exitCritical, "error: it says \ufffd[2Jhello\ufffd\n"},
		{"cancelled by itself", context.Canceled, exitCritical, "error: context canceled\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			code, stderr := runWith(t, nil, func(*cobra.Command, []string) error { return test.err }, "try")
			if code != test.code || stderr != test.stderr {
				t.Errorf("exit code %d, stderr %q; want %d, %q", code, stderr, test.code, test.stderr)
			}
		})
	}
}

func TestUsageBeforeTheCommandRuns(t *testing.T) {
	never := func(*cobra.Command, []string) error { t.Error("it ran"); return nil }
	for _, args := range [][]string{{"try", "extra"}, {"try", "--nope"}, {"try", "-x"}, {"tri"}, {}, {"try", "-o", "yaml"}, {"help", "nope"}} {
		if code, stderr := runWith(t, nil, never, args...); code != exitUsage || stderr == "" {
			t.Errorf("%q: exit code %d, stderr %q; want 64 and a message", args, code, stderr)
		}
	}
}

func TestPanic(t *testing.T) {
	panics := func(*cobra.Command, []string) error { panic("boom\nbang") }
	code, stderr := runWith(t, nil, panics, "try")
	if want := "error: internal error: boom; bang\nhint: this is a defect in pkiwarden; PKIWARDEN_DEBUG=1 prints where it happened\n"; code != exitInternal || stderr != want {
		t.Errorf("exit code %d, stderr %q; want 70, %q", code, stderr, want)
	}
	_, stderr = runWith(t, map[string]string{"PKIWARDEN_DEBUG": "1"}, panics, "try")
	if !strings.Contains(stderr, "root_test.go") {
		t.Errorf("PKIWARDEN_DEBUG=1 shows no stack: %q", stderr)
	}
}

func TestInterrupted(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		code, stderr := runWith(t, nil, func(cmd *cobra.Command, _ []string) error {
			if err := syscall.Kill(os.Getpid(), signal); err != nil {
				return err
			}
			<-cmd.Context().Done()
			return fmt.Errorf("waiting: %w", cmd.Context().Err())
		}, "try")
		if code != exitInterrupted || stderr != "error: interrupted\n" {
			t.Errorf("%s: exit code %d, stderr %q; want 130", signal, code, stderr)
		}
	}
}

// TestHelp holds that every command explains itself with an example.
func TestHelp(t *testing.T) {
	a := &app{stdout: io.Discard, stderr: io.Discard}
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Short == "" || cmd.Example == "" && cmd.Name() != "help" {
			t.Errorf("%s has no short description or no example", cmd.CommandPath())
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(newRootCmd(a))
}

// TestHelpExitCodes holds that each command's help says which exit codes it has.
func TestHelpExitCodes(t *testing.T) {
	want := map[string]string{
		"pkiwarden":             "0 1 2 3 64 70 130",
		"pkiwarden run":         "0 2 64 70", // a signal is its orderly end
		"pkiwarden status":      "0 1 2 3 64 70 130",
		"pkiwarden tidy":        "0 2 3 64 70 130",
		"pkiwarden renew":       "0 2 3 64 70 130",
		"pkiwarden crl inspect": "0 2 3 64 70 130",
		"pkiwarden crl diff":    "0 2 3 64 70 130",
		"pkiwarden crl limit":   "0 2 3 64 70 130",
		"pkiwarden validate":    "0 2 64 70",
		"pkiwarden version":     "0 2 64 70",
		"pkiwarden completion":  "0 2 64 70",
		"pkiwarden help":        "0 2 64 70",
	}
	line := regexp.MustCompile(`^  ([0-9]+) +\S`)
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
		if cmd.CommandPath() == "pkiwarden crl" { // which only groups
			return
		}
		var stdout bytes.Buffer
		run(append(strings.Fields(cmd.CommandPath())[1:], "--help"), strings.NewReader(""), &stdout, io.Discard, func(string) string { return "" })
		_, help, _ := strings.Cut(stdout.String(), "\nExit codes:\n")
		help, _, _ = strings.Cut(help, "\n\n")
		var codes []string
		for text := range strings.Lines(help) {
			if found := line.FindStringSubmatch(text); found != nil {
				codes = append(codes, found[1])
			}
			if len(text) > 81 {
				t.Errorf("%s --help: more than 80 characters: %s", cmd.CommandPath(), text)
			}
		}
		if got := strings.Join(codes, " "); got != want[cmd.CommandPath()] {
			t.Errorf("%s --help has the exit codes %q, want %q", cmd.CommandPath(), got, want[cmd.CommandPath()])
		}
	}
	root := newRootCmd(&app{stdout: io.Discard, stderr: io.Discard})
	root.InitDefaultHelpCmd()
	walk(root)
}
