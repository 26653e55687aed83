package main

import (
	"bytes"
	"context"
	stdlog "log"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/config"
)

// output may be written while it is read.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// TestLogDurations: a duration is text in both formats, also one that every line
// carries, or that is in a group.
func TestLogDurations(t *testing.T) {
	for format, want := range map[string]string{
		"json": `"buffer":"72h0m0s","safety_buffer":"24h0m0s","tidy":{"pause":"1.5s"}}`,
		"text": "buffer=72h0m0s safety_buffer=24h0m0s tidy.pause=1.5s",
	} {
		var out bytes.Buffer
		newLogger(&out, config.Log{Format: format}).With("buffer", 72*time.Hour).
			Info("x", "safety_buffer", 24*time.Hour, slog.Group("tidy", "pause", 1500*time.Millisecond))
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s: want %s in\n%s", format, want, out.String())
		}
	}
}

// TestRunNothing: without a Vault and without certificates there is nothing to
// lead. It says so, stays leader, and ends in order. What Go's own packages say
// meanwhile is in its log.
func TestRunNothing(t *testing.T) {
	var out output
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	env := map[string]string{"PKIWARDEN_CONFIG": t.TempDir() + "/c.yaml"}
	if err := os.WriteFile(env["PKIWARDEN_CONFIG"], []byte("apiVersion: pkiwarden/v1\nlisten: {address: \""+address+"\"}\nlog: {level: debug, format: json}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := &app{stderr: &out, env: func(key string) string { return env[key] }, now: time.Now}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- runForever(ctx, a) }()
	deadline := time.Now().Add(10 * time.Second)
	for !strings.Contains(out.String(), "nothing to do: set vault.address") {
		select {
		case err := <-ended:
			t.Fatalf("it ended: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("it does not say that there is nothing to do:\n%s", out.String())
		}
	}
	if strings.Contains(out.String(), "no longer leading") {
		t.Errorf("it stopped leading by itself:\n%s", out.String())
	}
	stdlog.Print("Unsolicited response: \"\x1b[31m\"")
	if want := `"level":"DEBUG","msg":"Unsolicited response: \"\u001b[31m\"","component":"go"}`; !strings.Contains(out.String(), want) {
		t.Errorf("the log has no %s:\n%s", want, out.String())
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("ending: %v", err)
	}
	if !strings.Contains(out.String(), "stopped") {
		t.Errorf("it does not say that it stopped:\n%s", out.String())
	}
}
