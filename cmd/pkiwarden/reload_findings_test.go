package main

import (
	"context"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestReloadClearsFindings: what another configuration makes untrue is cleared
// in the log by the instance that runs under it, and what holds still is not told
// again.
func TestReloadClearsFindings(t *testing.T) {
	var out output
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	env := map[string]string{"PKIWARDEN_CONFIG": t.TempDir() + "/c.yaml"}
	configure := func(text string) {
		t.Helper()
		text = "apiVersion: pkiwarden/v1\nlisten: {address: \"" + address + "\"}\nlog: {format: text}\nleaderElection: {backend: none}\n" + text
		if err := os.WriteFile(env["PKIWARDEN_CONFIG"], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const (
		certificate = "certificates: [{name: a, secret: {namespace: vault, name: a}}]\n" // without a cluster
		login       = "vault: {address: \"http://127.0.0.1:1\", auth: {method: tokenFile, tokenFile: /nowhere/token}}\n"
	)
	configure(certificate + login)
	a := &app{stderr: &out, env: func(key string) string { return env[key] }, now: time.Now}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- runForever(ctx, a) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	wait := func(line string, n int) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); strings.Count(out.String(), line) != n; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("want %s %d times:\n%s", line, n, out.String())
			}
		}
	}
	wait("msg=finding rule=work-not-started", 1)
	wait("msg=finding rule=vault-login", 1)
	configure(login)
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	wait(`msg="finding cleared" rule=work-not-started`, 1)
	wait("msg=running ", 2)
	wait("msg=failing ", 3) // the certificates, the login, and the login again
	if n := strings.Count(out.String(), "rule=vault-login"); n != 1 {
		t.Errorf("vault-login is told of %d times:\n%s", n, out.String())
	}
}
