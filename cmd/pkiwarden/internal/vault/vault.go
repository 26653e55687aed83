// Package vault holds the one Vault client of the process and the session that
// keeps it logged in.
package vault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/loop"
	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/wire"
	"github.com/pkiwarden/pkiwarden/pki"
)

// The ways to log in.
const (
	MethodKubernetes = "kubernetes" // the pod's service account token, for a token that Vault issues
	MethodTokenFile  = "tokenFile"  // a token in a file, kept there by someone else
	MethodToken      = "token"      // a token given at start
)

// serviceAccountToken is where a pod finds its token by default.
const serviceAccountToken = "/var/run/secrets/kubernetes.io/serviceaccount/token"

// Auth says how the session gets its token.
type Auth struct {
	Method string // default MethodKubernetes
	Mount  string // of the Kubernetes auth method, default "kubernetes"
	Role   string // of the Kubernetes auth method, default "pkiwarden"
	// TokenFile holds the service account's JWT (MethodKubernetes; default: the
	// pod's own) or the Vault token (MethodTokenFile). Both are read anew.
	TokenFile string
	Token     wire.Secret // MethodToken
}

// Options describe a Vault and how to log in there.
type Options struct {
	Address    string // https://HOST:PORT, where the cluster's work is done
	CAFile     string // trusted alone; default: the system's CAs. It may appear later, and change
	ServerName string // verified instead of the address's host
	Namespace  string // Vault Enterprise
	Auth       Auth

	// GiveUp makes a refused login the end of it: Ready returns the refusal. For
	// commands that a person waits for; a running instance tries again.
	GiveUp bool

	Log     *slog.Logger  // default: slog.Default()
	Metrics *loop.Metrics // default: none; the session is the loop "vault-session"
}

// ErrRefused is in the chain of an error for which Vault was reached and said
// no: trying the same again would not help.
var ErrRefused = errors.New("refused")

// errAway is in the chain of an error for which the login is not the reason.
var errAway = errors.New("away")

// away is an error that wraps errAway without its word.
type away struct{ error }

func (a away) Unwrap() []error { return []error{a.error, errAway} }

// Away tells whether an error of the session is about Vault as a whole, which
// every request meets: it cannot be reached, is sealed, limits our rate, or sends
// us elsewhere. Else it is about the login.
func Away(err error) bool {
	return errors.Is(err, errAway) || errors.As(err, new(*pki.RedirectError))
}

// refusal is an error that wraps ErrRefused without its word.
type refusal struct{ error }

func (r refusal) Unwrap() []error { return []error{r.error, ErrRefused} }

// Session is a login that is kept alive.
type Session struct {
	o       Options
	log     *slog.Logger
	client  *api.Client
	loop    *loop.Loop
	file    wire.SecretFile
	ready   chan struct{}
	given   chan struct{} // closed with refused
	refused error         // with GiveUp: what ended the attempts
	told    func(error)   // see Tell

	mu      sync.Mutex
	token   wire.Secret
	suspect bool // a request was answered 403

	// The lease is known to the loop alone.
	lease lease
}

// New makes the client and its session. It sends nothing, reads no file and
// starts nothing; see [Session.Run].
//
// The client does not retry and follows no redirects (they are errors that wrap a pki.RedirectError),
// and it ignores the environment: VAULT_SKIP_VERIFY is never honoured.
func New(o Options) (*Session, error) {
	if err := wire.CheckAddress("vault.address", o.Address); err != nil {
		return nil, err
	}
	if o.Auth.Method == "" {
		o.Auth.Method = MethodKubernetes
	}
	if o.Auth.Mount = strings.Trim(o.Auth.Mount, "/"); o.Auth.Mount == "" {
		o.Auth.Mount = "kubernetes"
	}
	if o.Auth.Role == "" {
		o.Auth.Role = "pkiwarden"
	}
	switch {
	case o.Auth.Method == MethodKubernetes && o.Auth.TokenFile == "":
		o.Auth.TokenFile = serviceAccountToken
	case o.Auth.Method == MethodKubernetes:
	case o.Auth.Method == MethodTokenFile && o.Auth.TokenFile == "":
		return nil, errors.New("vault.auth.tokenFile: method tokenFile needs it")
	case o.Auth.Method == MethodTokenFile:
	case o.Auth.Method == MethodToken && o.Auth.Token == "":
		return nil, errors.New("vault.auth.method: token needs VAULT_TOKEN, which is not set")
	case o.Auth.Method == MethodToken:
	default:
		return nil, fmt.Errorf("vault.auth.method: want kubernetes, tokenFile or token, have %q", o.Auth.Method)
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	s := &Session{
		o:     o,
		log:   o.Log.With("vault", o.Address, "method", o.Auth.Method),
		file:  wire.SecretFile{Path: o.Auth.TokenFile},
		ready: make(chan struct{}),
		given: make(chan struct{}),
	}
	if err := s.connect(); err != nil {
		return nil, fmt.Errorf("making Vault client: %w", err)
	}
	l, err := loop.New(loop.Options{
		Name: "vault-session", Interval: maxStep, Timeout: 3 * requestTimeout,
		OnceUntil: s.step, Eager: true, Log: s.log, Metrics: o.Metrics,
	})
	if err != nil {
		return nil, err
	}
	s.loop = l
	return s, nil
}

const requestTimeout = time.Minute

func (s *Session) connect() error {
	transport := wire.NewTransport(wire.TransportOptions{
		Server: "Vault", Setting: "vault.address",
		CAFile: s.o.CAFile, ServerName: s.o.ServerName,
		Redirect: func(location string) error {
			return &pki.RedirectError{Address: s.o.Address, Location: cmp.Or(location, "an address that it does not name")}
		},
		Authorize: s.authorize, Observe: s.observe, MaxBody: maxBody,
		Log: s.log,
	})
	config := &api.Config{
		Address:          s.o.Address,
		HttpClient:       &http.Client{Transport: transport},
		Timeout:          requestTimeout,
		MaxRetries:       0,
		DisableRedirects: true,
	}
	return wire.WithoutEnviron("VAULT_", func() (err error) {
		s.client, err = api.NewClient(config)
		if err != nil {
			return err
		}
		s.client.SetToken(placeholder)
		if s.o.Namespace != "" {
			s.client.SetNamespace(s.o.Namespace)
		}
		return nil
	})
}

const authPath = "/v1/auth/"

// placeholder stands for the token in the client and its copies, which
// therefore never hold one, let alone one that is out of date.
const placeholder = "token-of-the-session"

// authorize puts the current token in the place of the placeholder as a request
// leaves. A request without one is meant to carry none.
func (s *Session) authorize(r *http.Request) error {
	if r.Header.Get(api.AuthHeaderName) == "" {
		return nil
	}
	r.Header.Del(api.AuthHeaderName)
	if token := s.current(); token != "" {
		r.Header.Set(api.AuthHeaderName, token.Reveal())
	}
	return nil
}

// observe takes notice of refusals. The session's own requests are left out:
// it reads their answers itself.
func (s *Session) observe(r *http.Request, status int) {
	if status == http.StatusForbidden && !strings.HasPrefix(r.URL.Path, authPath) {
		s.Invalidate()
	}
}

// maxBody bounds the answers that this package reads. Others are bounded by
// those who read them: a CRL may be large.
func maxBody(r *http.Request) int64 {
	if strings.HasPrefix(r.URL.Path, authPath) {
		return 1 << 20
	}
	return 0
}

// Client returns the shared client. Its requests, and those of its copies
// (WithNamespace), carry whatever token the session holds when they are sent:
// what Token returns is a placeholder for it. Until the session is ready, and
// where a request's ClientToken is emptied, they carry none. Do not use Clone:
// it reads the environment.
func (s *Session) Client() *api.Client { return s.client }

// Run logs in and keeps the session alive until ctx ends, whatever state Vault
// is in; a token file that changes is noticed within two seconds, also while it
// waits to try again. At the end it revokes the token if this session made it,
// within two seconds. It returns nil. End it after those who use the client.
func (s *Session) Run(ctx context.Context) error {
	run := []func(context.Context) error{s.loop.Run}
	if s.o.Auth.Method != MethodToken {
		token, _ := s.file.Read()
		run = append(run, func(ctx context.Context) error { s.followFile(ctx, token); return nil })
	}
	err := loop.Group(ctx, run...)
	s.end()
	return err
}

// Tell has what each attempt to log in, or to keep the login, came to told: nil
// where there is a good token now, else the error, which [Away] tells apart. It
// is called before Run, and what it is given does not block.
func (s *Session) Tell(told func(error)) { s.told = told }

// Ready waits until the session has been logged in once, or until ctx ends,
// whose error it returns then. With GiveUp a refused login is returned as well;
// it wraps [ErrRefused].
func (s *Session) Ready(ctx context.Context) error {
	select {
	case <-s.ready:
		return nil
	case <-s.given:
		return s.refused
	case <-ctx.Done():
		return fmt.Errorf("waiting for the login to Vault: %w", context.Cause(ctx))
	}
}

// Invalidate says that Vault refused a request: the session finds out whether
// its token is still good, and logs in again where it is not. Requests of its
// own client that are answered 403 do this by themselves. It does not block.
func (s *Session) Invalidate() {
	s.mu.Lock()
	first := !s.suspect && s.token != ""
	s.suspect = s.suspect || first
	s.mu.Unlock()
	if first {
		s.loop.Wake()
	}
}

func (s *Session) current() wire.Secret {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.token
}

func (s *Session) set(token wire.Secret) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.token, s.suspect = token, false
}
