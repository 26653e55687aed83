package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
)

// screen is what a person sees of a terminal's output: its lines.
func screen(output string) []string {
	var lines []string
	current := ""
	for output != "" {
		switch rest, cleared := strings.CutPrefix(output, clearLine); {
		case cleared:
			output, current = rest, ""
		case output[0] == '\n':
			lines, current, output = append(lines, current), "", output[1:]
		default:
			current, output = current+output[:1], output[1:]
		}
	}
	return append(lines, current)
}

func TestProgress(t *testing.T) {
	var terminal bytes.Buffer
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	columns := 100
	p := &progress{w: &terminal, now: func() time.Time { return now }, columns: func() int { return columns }}
	mount := pki.Mount{Path: "pki"}
	at := func(message string, deleted int64) pki.TidyStatus {
		return pki.TidyStatus{State: pki.TidyRunning, Message: message, RevokedDeleted: deleted}
	}
	steps := []struct {
		do   func()
		want string
	}{
		{func() { p.reading(mount, 100, 400) }, "pki: reading certificates [######------------------] 100 of 400"},
		{func() { p.reading(mount, 400, 400) }, ""},
		{func() { p.tidy(mount, at("", 0)) }, "pki: tidy has begun"},
		{func() { p.tidy(mount, at("Tidying certificate store: checking entry 0 of 50", 0)) }, "pki: certificates [------------------------] 0 of 50, 0 deleted"},
		// Ten in two seconds; forty left.
		{func() { p.tidy(mount, at("Tidying certificate store: checking entry 10 of 50", 3)) }, "pki: certificates [####--------------------] 10 of 50, 5/s, 8s left, 3 deleted"},
		// The pace is of one phase.
		{func() { p.tidy(mount, at("Tidying revoked certificates: checking certificate 20 of 40", 3)) }, "pki: revocations [############------------] 20 of 40, 3 deleted"},
		{func() { fmt.Fprintln(p, "a warning") }, "pki: revocations [############------------] 20 of 40, 3 deleted"},
		{func() {
			columns = 20
			p.tidy(mount, at("Tidying revoked certificates: checking certificate 30 of 40", 3))
		}, "pki: revocations [#"},
		{func() { columns = 100; p.tidy(mount, pki.TidyStatus{State: pki.TidyCancelling, RevokedDeleted: 9}) }, "pki: Vault is stopping tidy, 9 deleted"},
		{func() { p.tidy(mount, pki.TidyStatus{State: pki.TidyFinished, RevokedDeleted: 9, CertStoreDeleted: 2}) }, "pki: tidy has ended, 11 deleted; measuring the CRL"},
		{func() { p.clear() }, ""},
	}
	for i, step := range steps {
		step.do()
		lines := screen(terminal.String())
		if got := lines[len(lines)-1]; got != step.want {
			t.Errorf("step %d: the last line is\n%s, want\n%s", i, got, step.want)
		}
		now = now.Add(2 * time.Second)
	}
	if lines := screen(terminal.String()); len(lines) != 2 || lines[0] != "a warning" {
		t.Errorf("screen:\n%s", strings.Join(lines, "\n"))
	}
}

// Where there is no terminal there is no line.
func TestNoProgress(t *testing.T) {
	file, err := os.Create(t.TempDir() + "/stderr")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, stderr := range []any{file, null, new(bytes.Buffer)} {
		a := &app{stderr: stderr.(interface{ Write([]byte) (int, error) }), env: func(string) string { return "" }, now: time.Now}
		p := newProgress(a)
		if p != nil {
			t.Errorf("progress on %T", stderr)
		}
		p.tidy(pki.Mount{}, pki.TidyStatus{})
		p.reading(pki.Mount{}, 1, 2)
		p.clear()
	}
}
