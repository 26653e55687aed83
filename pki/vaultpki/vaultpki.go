// Package vaultpki reads and drives Vault's PKI secrets engines.
//
// It is an adapter: it translates requests, answers and errors, and decides
// nothing. Every request has a deadline, every answer but a CRL is read up to
// 8 MiB and no further, nothing is retried, and no redirect is followed. Errors
// that callers tell apart are those of package pki: [pki.PermissionError],
// [pki.RedirectError], [pki.RefusedError], [pki.TooLargeError], [pki.ErrSealed],
// [pki.ErrNoActiveNode], [pki.ErrUnreachable], [pki.FailingError],
// [pki.ErrNotVault], [pki.ErrNoCRL], [pki.ErrNotModified]. Names and texts that come from Vault are taken for
// hostile: they reach a path only where they cannot change its meaning, and an
// error or a label only as printable text.
package vaultpki

import (
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/pkiwarden/pkiwarden/pki"
)

// Options configure a Vault.
type Options struct {
	// Client gives address, TLS, namespace and, at each request, the token.
	Client *api.Client

	// AllNamespaces includes every namespace below the client's own: Vault
	// Enterprise, and OpenBao since 2.3. It is not tested against either.
	AllNamespaces bool

	// Timeout is the deadline of an ordinary request. Default 30 s.
	Timeout time.Duration

	// SlowTimeout is the deadline of what may rebuild a CRL: fetching and
	// rotating one. Default 95 s, just above Vault's own 90 s.
	SlowTimeout time.Duration

	Log *slog.Logger // default: none
}

// Vault is one Vault cluster, seen from one address. Its methods may be called
// concurrently.
type Vault struct {
	client  *api.Client
	http    *http.Client
	timeout time.Duration
	slow    time.Duration
	log     *slog.Logger

	allNamespaces bool

	mu         sync.Mutex
	issuers    map[issuerKey]pki.Issuer // their certificates never change
	namespaces namespaces
}

// New makes a Vault. It makes no request.
func New(o Options) (*Vault, error) {
	if o.Client == nil {
		return nil, errors.New("making Vault adapter: no client given")
	}
	v := &Vault{
		client:  o.Client,
		http:    o.Client.CloneConfig().HttpClient,
		timeout: o.Timeout,
		slow:    o.SlowTimeout,
		log:     o.Log,
		issuers: make(map[issuerKey]pki.Issuer),

		allNamespaces: o.AllNamespaces,
	}
	v.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	v.http.Timeout = 0 // each request has its own deadline
	if v.timeout <= 0 {
		v.timeout = 30 * time.Second
	}
	if v.slow <= 0 {
		v.slow = 95 * time.Second
	}
	if v.log == nil {
		v.log = slog.New(slog.DiscardHandler)
	}
	return v, nil
}
