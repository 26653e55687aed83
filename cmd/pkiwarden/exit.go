package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// The exit codes of every command. Commands that judge use 0 to 3 as a verdict;
// commands that only do something use 0 for done, 2 for failed or refused, and
// 3 when it could not be determined.
const (
	exitWarning     = 1
	exitCritical    = 2 // also: failed or refused
	exitUnknown     = 3 // could not be determined
	exitUsage       = 64
	exitInternal    = 70
	exitInterrupted = 130
)

// exitError is how a command chooses its exit code and what stderr says.
// Any other error that a command returns is exit code 2.
type exitError struct {
	code  int
	err   error    // "error:" lines, one for each joined error; nil: the command has said it all
	hints []string // "hint:" lines
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// codes are what exit codes mean for one command.
type codes map[int]string

// interrupted is for the commands that a signal ends before they are done.
const interrupted = "interrupted"

// help is the part of a command's help about its exit codes: its own, and those
// that every command has. What they mean is one line of at most 72 characters,
// or several.
func (c codes) help() string {
	all := codes{
		exitCritical: "the output could not be written",
		exitUsage:    "wrong usage",
		exitInternal: "internal error, a defect of pkiwarden",
	}
	maps.Copy(all, c)
	var b strings.Builder
	b.WriteString("\n\nExit codes:")
	for _, code := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&b, "\n  %-4d %s", code, strings.ReplaceAll(all[code], "\n", "\n       "))
	}
	return b.String()
}

// usageError is a command line that is wrong, exit code 64.
func usageError(cmd *cobra.Command, err error) *exitError {
	return &exitError{code: exitUsage, err: err, hints: []string{fmt.Sprintf("%q explains the command", cmd.CommandPath()+" --help")}}
}

// argumentsError is a command line with other arguments than the command's.
func argumentsError(cmd *cobra.Command, given []string) *exitError {
	got := "nothing"
	if len(given) > 0 {
		var shown []string
		for _, arg := range given {
			shown = append(shown, strconv.Quote(sourceName(arg)))
		}
		got = strings.Join(shown, " ")
	}
	_, wanted, _ := strings.Cut(cmd.Use, " ")
	if wanted == "" {
		wanted = "no arguments"
	}
	err := usageError(cmd, fmt.Errorf("%s wants %s, got %s", cmd.CommandPath(), wanted, got))
	example, _, _ := strings.Cut(strings.TrimSpace(cmd.Example), "\n")
	if example != "" {
		err.hints = append([]string{"for example: " + example}, err.hints...)
	}
	return err
}

// wantPositive is the error for a flag whose value is not above zero.
func wantPositive[N int64 | time.Duration](cmd *cobra.Command, name string, value N, want string) error {
	if value > 0 {
		return nil
	}
	return usageError(cmd, fmt.Errorf("--%s is %v: want %s", name, value, want))
}

// The last argument of wantPositive.
const (
	wantBytes = "a number of bytes above 0"
	wantTime  = "a time above 0, such as 30s"
)

// report prints err and returns its exit code.
func (a *app) report(err error) int {
	if err == nil {
		return 0
	}
	var exit *exitError
	if !errors.As(err, &exit) {
		exit = &exitError{code: exitCritical, err: err}
	}
	if exit.err == nil {
		return exit.code
	}
	// What a server or a list said is in some messages.
	lines := []error{exit.err}
	if joined, ok := exit.err.(interface{ Unwrap() []error }); ok {
		lines = joined.Unwrap()
	}
	for _, line := range lines {
		fmt.Fprintf(a.stderr, "error: %s\n", printable(oneLine(line.Error())))
	}
	for _, hint := range exit.hints {
		fmt.Fprintf(a.stderr, "hint: %s\n", printable(hint))
	}
	return exit.code
}

// panicked turns a panic into one line. Stack traces are for developers, who
// ask for them with PKIWARDEN_DEBUG.
func (a *app) panicked(cause any, stack []byte) int {
	fmt.Fprintf(a.stderr, "error: internal error: %s\n", oneLine(fmt.Sprint(cause)))
	if a.env("PKIWARDEN_DEBUG") != "" {
		fmt.Fprintf(a.stderr, "%s", stack)
	} else {
		fmt.Fprintln(a.stderr, "hint: this is a defect in pkiwarden; PKIWARDEN_DEBUG=1 prints where it happened")
	}
	return exitInternal
}

// oneLine keeps a message of several lines (a server's answer, say) on one.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}
