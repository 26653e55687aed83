package consul

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// agent answers as Consul 1.21 does: reads need the token "reader" or "writer",
// reloads "writer".
func agent(t *testing.T, self string) (address, caFile string) {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token := r.Header.Get("X-Consul-Token")
		deny := func(right string) {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintf(w, "Permission denied: token with AccessorID '00000000-0000-0000-0000-000000000002' lacks permission '%s'", right)
		}
		switch {
		case r.Method == "GET" && r.URL.Path == "/v1/agent/self":
			if token != "reader" && token != "writer" {
				deny("agent:read")
				return
			}
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, self)
		case r.Method == "PUT" && r.URL.Path == "/v1/agent/reload":
			if token != "writer" {
				deny("agent:write")
			}
		default:
			http.NotFound(w, r)
		}
	}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	t.Cleanup(s.Close)
	caFile = filepath.Join(t.TempDir(), "ca.crt")
	write(t, caFile, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})))
	return s.URL, caFile
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

const self = `{"Config":{"Datacenter":"dc1","NodeName":"c"},"DebugConfig":{"KVMaxValueSize":524288,"TxnMaxReqLen":1048576,"Cache":{}},"Member":{"Name":"c"}}`

func TestClient(t *testing.T) {
	t.Setenv("CONSUL_HTTP_TOKEN_FILE", "/nowhere/token")
	t.Setenv("CONSUL_HTTP_TOKEN", "writer")
	address, ca := agent(t, self)
	for _, tc := range []struct {
		token, limits, reload string
	}{
		{"writer", "", ""},
		{"reader", "", `needs agent:write on the agent at ` + address},
		{"", `needs agent:read on the agent at ` + address, "needs agent:write"},
	} {
		file := ""
		if tc.token != "" {
			file = filepath.Join(t.TempDir(), "token")
			write(t, file, tc.token+"\n")
		}
		c, err := New(Options{Address: address, CAFile: ca, TokenFile: file})
		if err != nil {
			t.Fatal(err)
		}
		kv, txn, err := c.Limits(t.Context())
		if !matches(err, tc.limits) || err == nil && (kv != 524288 || txn != 1048576) {
			t.Errorf("token %q: Limits = %d, %d, %v, want %q", tc.token, kv, txn, err, tc.limits)
		}
		if err := c.Reload(t.Context()); !matches(err, tc.reload) {
			t.Errorf("token %q: Reload = %v, want %q", tc.token, err, tc.reload)
		}
	}
}

func matches(err error, want string) bool {
	if want == "" {
		return err == nil
	}
	return err != nil && strings.Contains(err.Error(), want)
}

func TestUnknownLimitsAreSaid(t *testing.T) {
	for _, answer := range []string{`{}`, `{"DebugConfig":{"KVMaxValueSize":0,"TxnMaxReqLen":1048576}}`, `{"DebugConfig":{"KVMaxValueSize":524288}}`, `{"DebugConfig":{"KVMaxValueSize":0.5,"TxnMaxReqLen":1}}`} {
		address, ca := agent(t, answer)
		c, err := New(Options{Address: address, CAFile: ca, Token: "reader"})
		if err != nil {
			t.Fatal(err)
		}
		if kv, txn, err := c.Limits(t.Context()); err == nil || !strings.Contains(err.Error(), "want two positive numbers") {
			t.Errorf("%s: Limits = %d, %d, %v", answer, kv, txn, err)
		}
	}
}

func TestVerificationCannotBeSwitchedOff(t *testing.T) {
	t.Setenv("CONSUL_HTTP_SSL_VERIFY", "false")
	address, _ := agent(t, self)
	c, err := New(Options{Address: address, Token: "reader"})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Limits(t.Context()); !matches(err, "its certificate is not trusted, look at consul.caFile") {
		t.Errorf("a certificate nobody vouches for: %v, want it refused", err)
	}
}

func TestRedirectsAndContexts(t *testing.T) {
	moved := httptest.NewServer(http.RedirectHandler("http://10.0.0.1:8500/v1/agent/self", http.StatusTemporaryRedirect))
	defer moved.Close()
	c, err := New(Options{Address: moved.URL})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Limits(t.Context()); !matches(err, "redirects to http://10.0.0.1:8500") || !matches(err, "set consul.address") {
		t.Errorf("redirect: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Reload(ctx); !matches(err, "context canceled") {
		t.Errorf("ended context: %v", err)
	}
	if _, err := New(Options{Address: "unix:///run/consul.sock"}); !matches(err, "consul.address") {
		t.Errorf("a socket: %v", err)
	}
}

func TestTransactionsThatSayNothingKnown(t *testing.T) {
	for answer, want := range map[string]string{
		`409 {"Errors":[{"OpIndex":0,"What":"no quorum"}]}`: "answered 409",
		`409 not JSON`:                  "answered 409",
		`413 too large`:                 "answered 413",
		`200 {}`:                        "answers with no index",
		`200 {"Results":[{"KV":null}]}`: "answers with no index",
		`200 <html>`:                    "writing Consul's key pkiwarden/k",
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			var status int
			fmt.Sscan(answer[:3], &status)
			w.WriteHeader(status)
			fmt.Fprint(w, answer[4:])
		}))
		defer s.Close()
		c, err := New(Options{Address: s.URL})
		if err != nil {
			t.Fatal(err)
		}
		index, err := c.KVCAS(t.Context(), "pkiwarden/", "k", []byte("x"), 0)
		if err == nil || errors.Is(err, ErrStale) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %d, %v, want %q", answer, index, err, want)
		}
	}
}
