package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/loop"
	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/wire"
)

// fakeVault answers as Vault 1.21 does, as far as a session asks.
type fakeVault struct {
	*httptest.Server

	mu        sync.Mutex
	tokens    map[string]bool // good ones; a map, so that one can be revoked
	issued    int
	ttl       int // seconds granted at login and look-up
	renewTTL  int
	renewable bool
	jwts      []string // that logins came with
	requests  []string // path and token
	answer    func(path string) (status int, body string)
}

func newFakeVault(t *testing.T) *fakeVault {
	v := &fakeVault{tokens: map[string]bool{}, ttl: 3600, renewTTL: 3600, renewable: true}
	v.Server = httptest.NewTLSServer(v)
	v.Server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	t.Cleanup(v.Close)
	return v
}

func (v *fakeVault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	token := r.Header.Get("X-Vault-Token")
	v.requests = append(v.requests, r.Method+" "+r.URL.Path+" "+token)
	fail := func(status int, text string) {
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"errors":[%q]}`, text)
	}
	if v.answer != nil {
		if status, body := v.answer(r.URL.Path); status != 0 {
			if status == http.StatusTemporaryRedirect {
				w.Header().Set("Location", body)
				w.WriteHeader(status)
				return
			}
			fail(status, body)
			return
		}
	}
	if r.URL.Path == "/v1/auth/kubernetes/login" {
		var in struct{ Role, JWT string }
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil || token != "" {
			fail(400, "bad login")
			return
		}
		v.jwts = append(v.jwts, in.JWT)
		v.issued++
		id := fmt.Sprintf("hvs.canary-%d", v.issued)
		v.tokens[id] = true
		fmt.Fprintf(w, `{"request_id":"r","lease_id":"","auth":{"client_token":%q,"lease_duration":%d,"renewable":%t,"policies":["default","pkiwarden"]}}`, id, v.ttl, v.renewable)
		return
	}
	if !v.tokens[token] {
		fail(403, "permission denied; invalid token "+token)
		return
	}
	switch r.URL.Path {
	case "/v1/auth/token/lookup-self":
		fmt.Fprintf(w, `{"data":{"ttl":%d,"renewable":%t,"id":%q}}`, v.ttl, v.renewable, token)
	case "/v1/auth/token/renew-self":
		fmt.Fprintf(w, `{"auth":{"client_token":%q,"lease_duration":%d,"renewable":%t}}`, token, v.renewTTL, v.renewable)
	case "/v1/auth/token/revoke-self":
		delete(v.tokens, token)
		w.WriteHeader(http.StatusNoContent)
	case "/v1/sys/mounts":
		fmt.Fprint(w, `{"data":{"pki/":{"type":"pki"}}}`)
	default:
		fail(403, "1 error occurred:\n\t* permission denied\n\n")
	}
}

func (v *fakeVault) count(part string) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := 0
	for _, r := range v.requests {
		if strings.Contains(r, part) {
			n++
		}
	}
	return n
}

func (v *fakeVault) set(f func(*fakeVault)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f(v)
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func newSession(t *testing.T, v *fakeVault, auth Auth) (*Session, *syncBuffer) {
	t.Helper()
	dir := t.TempDir()
	ca := write(t, filepath.Join(dir, "ca.crt"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: v.Certificate().Raw})))
	if auth.Method == "" {
		auth.TokenFile = write(t, filepath.Join(dir, "jwt"), "jwt-canary-1\n")
	}
	log := &syncBuffer{}
	s, err := New(Options{Address: v.URL, CAFile: ca, Auth: auth, Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err != nil {
		t.Fatal(err)
	}
	return s, log
}

func step(t *testing.T, s *Session) time.Time {
	t.Helper()
	next, err := s.step(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func near(t *testing.T, what string, at time.Time, want time.Duration) {
	t.Helper()
	if d := time.Until(at); d < want-5*time.Second || d > want+time.Second {
		t.Errorf("%s in %s, want about %s", what, d, want)
	}
}

func TestKubernetesLogin(t *testing.T) {
	v := newFakeVault(t)
	s, log := newSession(t, v, Auth{})
	copied := s.Client().WithNamespace("team") // before the login
	if _, err := s.Client().Sys().ListMountsWithContext(t.Context()); err == nil || v.count("/sys/mounts "+placeholder) != 0 {
		t.Errorf("before the login: %v, requests %v", err, v.requests)
	}
	next := step(t, s)
	near(t, "next step", next, maxStep)
	near(t, "renewal", s.lease.renewAt, 30*time.Minute)
	if _, err := s.Client().Sys().ListMountsWithContext(t.Context()); err != nil {
		t.Errorf("listing mounts: %v", err)
	}
	public := s.Client().NewRequest("GET", "/v1/sys/seal-status")
	public.ClientToken = ""
	//lint:ignore SA1019 what is tested is the transport below it
	if _, err := s.Client().RawRequestWithContext(t.Context(), public); err == nil { // the fake wants a token everywhere
		t.Error("a public request: no error")
	}
	if v.requests[len(v.requests)-1] != "GET /v1/sys/seal-status " {
		t.Errorf("requests %v: a public one carried a token", v.requests)
	}
	s.set(s.current()) // no longer suspect

	// The lease's first half is over: it is renewed, not replaced.
	s.lease.renewAt = time.Now()
	step(t, s)
	if v.count("renew-self") != 1 || v.count("/login") != 1 {
		t.Errorf("requests %v, want one renewal and one login", v.requests)
	}

	// Renewed for little more: its maximum TTL is near.
	v.set(func(v *fakeVault) { v.renewTTL = 60 })
	write(t, s.file.Path, "jwt-canary-2\n")
	s.lease.renewAt = time.Now()
	step(t, s)
	if got := s.current().Reveal(); got != "hvs.canary-2" {
		t.Errorf("token %q, want that of a second login", got)
	}
	if strings.Join(v.jwts, " ") != "jwt-canary-1 jwt-canary-2" {
		t.Errorf("logins with %v, want the file read anew", v.jwts)
	}
	if _, err := copied.Logical().ReadWithContext(t.Context(), "sys/mounts"); err != nil {
		t.Errorf("listing mounts with a copy: %v", err)
	}
	if v.count("GET /v1/sys/mounts hvs.canary-2") != 1 {
		t.Errorf("requests %v: the copy did not use the new token", v.requests)
	}

	// The renewal is refused: log in at once.
	v.set(func(v *fakeVault) { delete(v.tokens, "hvs.canary-2") })
	s.lease.renewAt = time.Now()
	step(t, s)
	if got := s.current().Reveal(); got != "hvs.canary-3" {
		t.Errorf("token %q, want that of a third login", got)
	}

	// Not renewable: replaced at half-life.
	s.lease.renewable = false
	s.lease.renewAt = time.Now()
	step(t, s)
	if got := s.current().Reveal(); got != "hvs.canary-4" {
		t.Errorf("token %q, want that of a fourth login", got)
	}
	if text := log.String(); strings.Contains(text, "canary") || strings.Count(text, "logged in to Vault") != 4 {
		t.Errorf("log, want four logins and no secret:\n%s", text)
	}
	s.end()
	if v.tokens["hvs.canary-4"] || s.current() != "" {
		t.Error("the token was not revoked at the end")
	}
}

func TestRefusedRequestsAreLookedInto(t *testing.T) {
	v := newFakeVault(t)
	s, _ := newSession(t, v, Auth{})
	step(t, s)

	// Forbidden by policy: the token is looked up, and kept.
	s.lease.checkedAt = time.Now().Add(-time.Minute)
	if _, err := s.Client().Logical().ReadWithContext(t.Context(), "secret/x"); err == nil {
		t.Fatal("no error")
	}
	step(t, s)
	if v.count("lookup-self") != 1 || v.count("/login") != 1 || s.isSuspect() {
		t.Errorf("requests %v, want one look-up and one login", v.requests)
	}
	// Again at once: asked about later, not for each refusal.
	s.Invalidate()
	next := step(t, s)
	if v.count("lookup-self") != 1 {
		t.Errorf("requests %v: looked up again at once", v.requests)
	}
	near(t, "next step", next, suspectPause)

	// Revoked: a request is refused, the session logs in again.
	v.set(func(v *fakeVault) { clear(v.tokens) })
	s.lease.checkedAt = time.Now().Add(-time.Minute)
	if _, err := s.Client().Sys().ListMountsWithContext(t.Context()); err == nil {
		t.Fatal("no error")
	}
	step(t, s)
	if got := s.current().Reveal(); got != "hvs.canary-2" {
		t.Errorf("token %q, want that of a second login", got)
	}
}

func TestExpiredTokenIsReplaced(t *testing.T) {
	v := newFakeVault(t)
	s, _ := newSession(t, v, Auth{})
	step(t, s)
	s.lease.expiresAt = time.Now()
	step(t, s)
	if v.count("/login") != 2 || v.count("renew-self") != 0 {
		t.Errorf("requests %v, want a second login and no renewal", v.requests)
	}
}

func TestTokenFile(t *testing.T) {
	v := newFakeVault(t)
	v.tokens["hvs.file-canary-1"], v.tokens["hvs.file-canary-2"] = true, true
	path := filepath.Join(t.TempDir(), "token")
	s, log := newSession(t, v, Auth{Method: MethodTokenFile, TokenFile: path})
	if _, err := s.step(t.Context()); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("no file yet: %v", err)
	}
	write(t, path, "hvs.file-canary-1\n")
	near(t, "next step", step(t, s), maxStep)
	write(t, path, "hvs.file-canary-2\n")
	step(t, s)
	if s.current() != "hvs.file-canary-2" || v.count("lookup-self hvs.file-canary-2") != 1 {
		t.Errorf("requests %v: the new token is not in use", v.requests)
	}
	step(t, s)
	if v.count("lookup-self") != 2 {
		t.Errorf("requests %v: an unchanged token is looked up again", v.requests)
	}
	s.lease.renewAt = time.Now()
	step(t, s)
	if v.count("renew-self hvs.file-canary-2") != 1 {
		t.Errorf("requests %v, want a renewal", v.requests)
	}
	write(t, path, "hvs.file-canary-3\n")
	_, err := s.step(t.Context())
	if err == nil || !strings.Contains(err.Error(), "the token in "+path+" is not accepted") {
		t.Errorf("a bad token: %v", err)
	}
	write(t, path, "hvs.file-canary-2\n")
	step(t, s)
	s.end()
	if !v.tokens["hvs.file-canary-2"] {
		t.Error("a token that is not ours was revoked")
	}
	if strings.Contains(log.String(), "canary") {
		t.Errorf("log:\n%s", log.String())
	}
}

// TestTokenFileEndsBackOff: an attempt that failed is made again within two
// seconds of a change of the file, however long the pause has become.
func TestTokenFileEndsBackOff(t *testing.T) {
	for _, method := range []string{MethodTokenFile, MethodKubernetes} {
		synctest.Test(t, func(t *testing.T) {
			path := write(t, filepath.Join(t.TempDir(), "token"), "hvs.canary-1")
			s, err := New(Options{Address: "https://vault.example:8200", Auth: Auth{Method: method, TokenFile: path}, Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			var mu sync.Mutex
			var attempts []wire.Secret
			seen := func() (int, wire.Secret) {
				mu.Lock()
				defer mu.Unlock()
				return len(attempts), attempts[len(attempts)-1]
			}
			s.loop, err = loop.New(loop.Options{Name: "vault-session", Interval: time.Minute, Eager: true, Log: s.log, Once: func(context.Context) error {
				token, _ := s.file.Read()
				mu.Lock()
				defer mu.Unlock()
				attempts = append(attempts, token)
				return errors.New("not accepted")
			}})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- s.Run(ctx) }()
			time.Sleep(10 * time.Minute)
			before, _ := seen()
			for n, text := range []string{"hvs.canary-2", "", "hvs.canary-3"} {
				write(t, path, text)
				time.Sleep(3 * time.Second)
				if made, last := seen(); last.Reveal() != text || made < before+n+1 {
					t.Errorf("%s, change %d: %d attempts more", method, n, made-before)
				}
			}
			if made, _ := seen(); made > before+4 {
				t.Errorf("%s: %d attempts for three changes", method, made-before)
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// TestTells: whoever asks is told of each attempt, and can tell the login from
// Vault's being away.
func TestTells(t *testing.T) {
	v := newFakeVault(t)
	path := write(t, filepath.Join(t.TempDir(), "token"), "hvs.canary-1")
	s, _ := newSession(t, v, Auth{Method: MethodTokenFile, TokenFile: path})
	var told []string
	s.Tell(func(err error) {
		switch {
		case err == nil:
			told = append(told, "good")
		case Away(err):
			told = append(told, "away")
		default:
			told = append(told, "login")
		}
	})
	answer := func(status int, text string) {
		v.set(func(v *fakeVault) {
			v.answer = func(string) (int, string) { return status, text }
		})
		_, _ = s.step(t.Context())
	}
	answer(0, "")
	v.set(func(v *fakeVault) { v.tokens["hvs.canary-1"] = true })
	answer(0, "")
	write(t, path, "hvs.canary-2")
	answer(503, "Vault is sealed")
	answer(500, "local node not active but active cluster node not found")
	answer(307, "https://10.0.0.7:8200/")
	answer(500, "internal error")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	answer(0, "")
	write(t, path, "hvs.canary-1")
	v.Close()
	answer(0, "")
	if got := strings.Join(told, " "); got != "login good away away away login login away" {
		t.Errorf("told %s", got)
	}
}

func TestGivenTokenThatCannotBeRenewed(t *testing.T) {
	v := newFakeVault(t)
	v.tokens["hvs.root-canary"] = true
	v.answer = func(path string) (int, string) {
		if strings.HasSuffix(path, "renew-self") {
			return 403, "permission denied"
		}
		return 0, ""
	}
	s, log := newSession(t, v, Auth{Method: MethodToken, Token: "hvs.root-canary"})
	step(t, s)
	s.lease.renewAt = time.Now()
	for range 3 {
		near(t, "next step", step(t, s), maxStep)
	}
	if n := strings.Count(log.String(), "cannot be renewed"); n != 1 || v.count("renew-self") != 1 {
		t.Errorf("%d log lines and %d renewals, want one each", n, v.count("renew-self"))
	}
	s.lease.expiresAt = time.Now()
	v.set(func(v *fakeVault) { clear(v.tokens) })
	if _, err := s.step(t.Context()); err == nil || !strings.Contains(err.Error(), "VAULT_TOKEN is not accepted") {
		t.Errorf("expired: %v", err)
	}
}

func TestRootTokenNeverExpires(t *testing.T) {
	v := newFakeVault(t)
	v.ttl, v.renewable = 0, false
	v.tokens["hvs.root-canary"] = true
	s, _ := newSession(t, v, Auth{Method: MethodToken, Token: "hvs.root-canary"})
	for range 3 {
		near(t, "next step", step(t, s), maxStep)
	}
	if len(v.requests) != 1 {
		t.Errorf("requests %v, want one look-up", v.requests)
	}
}

func TestLoginErrors(t *testing.T) {
	for _, tc := range []struct {
		status int
		body   string
		want   string
	}{
		{400, `invalid role name "pkiwarden"`, `auth/kubernetes has no role "pkiwarden"`},
		{403, "permission denied", "either no auth method is mounted at auth/kubernetes (see vault.auth.mount), or Vault rejected the JWT in "},
		{403, "service account name not authorized", `role "pkiwarden" at auth/kubernetes does not take this service account`},
		{404, `no handler for route "auth/kubernetes/login". route entry not found.`, "no auth method is mounted at auth/kubernetes"},
		{503, "Vault is sealed", "is sealed"},
		{500, "lookup failed: jwt-canary-1", "Vault answered 500: lookup failed: [redacted]"},
		{429, "request path: rate limit quota exceeded", "limits our rate"},
		{307, "https://10.0.0.7:8200/v1/auth/kubernetes/login", "redirects to https://10.0.0.7:8200: set vault.address"},
	} {
		v := newFakeVault(t)
		v.answer = func(string) (int, string) { return tc.status, tc.body }
		s, _ := newSession(t, v, Auth{})
		_, err := s.step(t.Context())
		// Vault was reached and said no, or it is in a state that passes.
		if refused := tc.status < 429; errors.Is(err, ErrRefused) != refused {
			t.Errorf("%d %s: refused is %t", tc.status, tc.body, !refused)
		}
		if err == nil || !strings.HasPrefix(err.Error(), "logging in to Vault: ") || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%d %s: %v, want %q", tc.status, tc.body, err, tc.want)
		} else if strings.Contains(err.Error(), "canary") {
			t.Errorf("%d %s: the error holds the JWT: %v", tc.status, tc.body, err)
		}
		if len(v.requests) != 1 {
			t.Errorf("%d: %d requests, want one and no retry", tc.status, len(v.requests))
		}
	}
	v := newFakeVault(t)
	s, _ := newSession(t, v, Auth{})
	v.Close()
	if _, err := s.step(t.Context()); err == nil || !strings.Contains(err.Error(), "Vault at "+v.URL+" cannot be reached") {
		t.Errorf("nobody listens: %v", err)
	}
}

func TestRun(t *testing.T) {
	v := newFakeVault(t)
	v.answer = func(string) (int, string) { return 503, "Vault is sealed" }
	s, log := newSession(t, v, Auth{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	short, stop := context.WithTimeout(ctx, 100*time.Millisecond)
	if err := s.Ready(short); err == nil {
		t.Error("ready while Vault is sealed")
	}
	stop()
	v.set(func(v *fakeVault) { v.answer = nil })
	if err := s.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run = %v", err)
	}
	if v.count("revoke-self hvs.canary-1") != 1 {
		t.Errorf("requests %v, want the token revoked", v.requests)
	}
	text := log.String()
	for want, n := range map[string]int{"msg=failing ": 1, "is sealed": 1, "recovered": 1, "logged in": 1, "canary": 0} {
		if got := strings.Count(text, want); got != n {
			t.Errorf("%q logged %d times, want %d:\n%s", want, got, n, text)
		}
	}
}

// TestGiveUp: a command is told of a refusal at once, and waits for the rest.
func TestGiveUp(t *testing.T) {
	v := newFakeVault(t)
	v.answer = func(string) (int, string) { return 503, "Vault is sealed" }
	s, _ := newSession(t, v, Auth{})
	s.o.GiveUp = true
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	short, stop := context.WithTimeout(ctx, 100*time.Millisecond)
	if err := s.Ready(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while sealed: %v", err)
	}
	stop()
	v.set(func(v *fakeVault) {
		v.answer = func(string) (int, string) { return 403, "permission denied" }
	})
	if err := s.Ready(ctx); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "Vault rejected the JWT") {
		t.Errorf("refused: %v", err)
	}
	cancel()
	<-done
}

func TestEnvironmentIsIgnored(t *testing.T) {
	t.Setenv("VAULT_SKIP_VERIFY", "true")
	t.Setenv("VAULT_TOKEN", "hvs.env-canary")
	t.Setenv("VAULT_CACERT", "/nowhere/ca.crt")
	t.Setenv("VAULT_ADDR", "https://nowhere:8200")
	t.Setenv("VAULT_MAX_RETRIES", "7")
	v := newFakeVault(t)
	s, err := New(Options{Address: v.URL, Auth: Auth{TokenFile: write(t, filepath.Join(t.TempDir(), "jwt"), "jwt-canary-1")}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.step(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate is not trusted, look at vault.caFile") {
		t.Errorf("a certificate nobody vouches for: %v, want it refused", err)
	}
	if len(v.requests) != 0 {
		t.Errorf("requests %v", v.requests)
	}
	if os.Getenv("VAULT_TOKEN") != "hvs.env-canary" {
		t.Error("the environment was not restored")
	}
}

func TestNewRefuses(t *testing.T) {
	for want, o := range map[string]Options{
		"vault.address":        {},
		"vault.auth.tokenFile": {Address: "https://v:8200", Auth: Auth{Method: MethodTokenFile}},
		"VAULT_TOKEN":          {Address: "https://v:8200", Auth: Auth{Method: MethodToken}},
		`"ldap"`:               {Address: "https://v:8200", Auth: Auth{Method: "ldap", Token: wire.Secret("x")}},
	} {
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
