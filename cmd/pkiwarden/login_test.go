package main

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/config"
)

// outsideAPod skips where Kubernetes has given this very test a token.
func outsideAPod(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(config.ServiceAccountTokenFile); !errors.Is(err, fs.ErrNotExist) {
		t.Skip("this runs in a pod: ", err)
	}
}

// A command that has nothing to log in with says so at once, and names what to
// set.
func TestNothingToLogInWith(t *testing.T) {
	outsideAPod(t)
	state := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(state, []byte("state: {backend: file, path: "+t.TempDir()+"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{"tidy --dry-run", "tidy --config " + state, "tidy --rescue", "crl limit"} {
		var stdout, stderr bytes.Buffer
		begin := time.Now()
		env := map[string]string{"VAULT_ADDR": "http://127.0.0.1:1"}
		code := run(strings.Fields(args), nil, &stdout, &stderr, func(key string) string { return env[key] })
		if code != 64 || stdout.Len() > 0 || time.Since(begin) > loginWithin/2 {
			t.Errorf("%s: exit code %d after %s, stdout %q", args, code, time.Since(begin), stdout.String())
		}
		for _, want := range []string{"error: no way to log in to Vault: VAULT_TOKEN is not set", "\nhint: set VAULT_TOKEN, or in the configuration vault.auth: {method: tokenFile"} {
			if !strings.Contains(stderr.String(), want) {
				t.Errorf("%s: want %q in\n%s", args, want, stderr.String())
			}
		}
	}
}

// What may still come is waited for: by a running instance any file, by a
// command one that somebody has named.
func TestTokensThatMayStillCome(t *testing.T) {
	outsideAPod(t)
	missing := filepath.Join(t.TempDir(), "token")
	for _, tt := range []struct {
		auth   string
		giveUp bool
	}{
		{"{}", false},
		{"{method: kubernetes, tokenFile: " + missing + "}", false},
		{"{method: kubernetes, tokenFile: " + missing + "}", true},
		{"{method: tokenFile, tokenFile: " + missing + "}", false},
		{"{method: tokenFile, tokenFile: " + missing + "}", true},
	} {
		cfg, err := config.Parse("c.yaml", []byte("vault: {address: \"http://127.0.0.1:1\", auth: "+tt.auth+"}\n"), func(string) string { return "" })
		if err != nil {
			t.Fatal(err)
		}
		if _, err := (&cluster{cfg: cfg}).newSession(slog.New(slog.DiscardHandler), nil, tt.giveUp); err != nil {
			t.Errorf("auth %s, giving up %t: %v", tt.auth, tt.giveUp, err)
		}
	}
}
