// Package wire is how Vault and Consul are spoken to: TLS 1.2 or better,
// against a CA file that may change or arrive late, without redirects, with
// bounded waits and headers; and how tokens are kept: read anew from their
// files, and never printed.
package wire

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// reread is how long what was read from a file is used before it is looked at
// again.
const reread = 10 * time.Second

const (
	maxFile      = 1 << 20  // CA and token files
	maxErrorBody = 64 << 10 // answers with a status of 400 or more
)

// TransportOptions describe the way to one server.
type TransportOptions struct {
	// Server and Setting name the server and the key of its address in errors:
	// "Vault", "vault.address".
	Server, Setting string
	// CAFile holds the only certificates that are trusted, as PEM; "" trusts
	// the system's. It is looked at again every ten seconds. While it does not
	// exist yet, requests fail and say so; when it becomes unreadable later,
	// what was read before stays.
	CAFile string
	// ServerName is verified instead of the host of the address.
	ServerName string
	// Authorize sets the credentials of a request.
	Authorize func(*http.Request) error
	// Redirect makes the error of an answer that names another server, which is
	// "" where it names none. Default: a [RedirectError].
	Redirect func(location string) error
	// Observe sees the status of every answer.
	Observe func(r *http.Request, status int)
	// MaxBody bounds the answer to a request, in bytes; 0 is no bound, for
	// answers that their readers bound. Default: none.
	MaxBody func(*http.Request) int64

	Log *slog.Logger
	Now func() time.Time // default time.Now
}

// Transport is an http.RoundTripper that turns redirects into errors.
type Transport struct {
	o TransportOptions

	mu      sync.Mutex
	pem     []byte
	checked time.Time
	http    *http.Transport // nil until the CA file has been read once
	stale   bool            // the CA file is unusable, and that was logged
}

// NewTransport makes a transport. It reads no file and opens no connection.
func NewTransport(o TransportOptions) *Transport {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Redirect == nil {
		o.Redirect = func(location string) error { return &RedirectError{o.Server, o.Setting, location} }
	}
	return &Transport{o: o}
}

// RedirectError is an answer that sends the client elsewhere. Credentials are
// not carried to an address that nobody configured.
type RedirectError struct {
	Server, Setting string
	Location        string // scheme, host and port; "" where none was given
}

func (e *RedirectError) Error() string {
	if e.Location == "" {
		return fmt.Sprintf("%s redirects to nowhere; set %s to the server that does the work", e.Server, e.Setting)
	}
	return fmt.Sprintf("%s redirects to %s, and redirects are not followed: set %s to that address, or to a name that always leads there", e.Server, e.Location, e.Setting)
}

// NoAnswer explains an error that is no answer of the server at an address:
// that its certificate is not trusted, or that it cannot be reached. section is
// where its address and CA are configured.
func NoAnswer(server, section, address string, err error) error {
	var untrusted *tls.CertificateVerificationError
	if errors.As(err, &untrusted) {
		return fmt.Errorf("%s at %s: its certificate is not trusted, look at %s.caFile: %w", server, address, section, err)
	}
	return fmt.Errorf("%s at %s cannot be reached: %w", server, address, err)
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	next, err := t.current()
	if err != nil {
		return nil, discard(r, err)
	}
	if t.o.Authorize != nil {
		body := r.Body
		r = r.Clone(r.Context())
		r.Body = body
		if err := t.o.Authorize(r); err != nil {
			return nil, discard(r, err)
		}
	}
	resp, err := next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if t.o.Observe != nil {
		t.o.Observe(r, resp.StatusCode)
	}
	if resp.StatusCode >= 300 && resp.StatusCode < 400 && resp.StatusCode != http.StatusNotModified {
		_ = resp.Body.Close()
		return nil, t.o.Redirect(origin(resp))
	}
	limit := int64(0)
	if t.o.MaxBody != nil {
		limit = t.o.MaxBody(r)
	}
	if resp.StatusCode >= 400 {
		limit = maxErrorBody
	}
	if limit > 0 {
		resp.Body = http.MaxBytesReader(nil, resp.Body, limit)
	}
	return resp, nil
}

// CloseIdleConnections lets http.Client close what is not in use.
func (t *Transport) CloseIdleConnections() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.http != nil {
		t.http.CloseIdleConnections()
	}
}

func discard(r *http.Request, err error) error {
	if r.Body != nil {
		_ = r.Body.Close()
	}
	return err
}

func origin(resp *http.Response) string {
	u, err := resp.Location()
	if err != nil {
		return ""
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host}).String()
}

// current is the transport for the CA file as it is now.
func (t *Transport) current() (*http.Transport, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.o.Now()
	if t.http != nil && (t.o.CAFile == "" || now.Sub(t.checked) < reread) {
		return t.http, nil
	}
	var roots *x509.CertPool // nil: the system's
	if t.o.CAFile != "" {
		text, pool, err := t.readCA()
		if err != nil {
			if t.http == nil {
				return nil, err
			}
			if !t.stale {
				t.o.Log.Warn("keeping the CA that was read before", "server", t.o.Server, "error", err)
			}
			t.stale, t.checked = true, now
			return t.http, nil
		}
		t.stale, t.checked = false, now
		if t.http != nil && bytes.Equal(text, t.pem) {
			return t.http, nil
		}
		if t.http != nil {
			t.o.Log.Info("CA file changed", "server", t.o.Server, "file", t.o.CAFile)
			t.http.CloseIdleConnections()
		}
		t.pem, roots = text, pool
	}
	t.http = &http.Transport{
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, ServerName: t.o.ServerName},
		DialContext:            (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:    10 * time.Second,
		ResponseHeaderTimeout:  time.Minute,
		MaxResponseHeaderBytes: 64 << 10,
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConnsPerHost:    4,
		ForceAttemptHTTP2:      true,
	}
	return t.http, nil
}

func (t *Transport) readCA() ([]byte, *x509.CertPool, error) {
	text, err := readFile(t.o.CAFile)
	if err != nil {
		return nil, nil, fmt.Errorf("reading %s's CA file: %w", t.o.Server, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, nil, fmt.Errorf("reading %s's CA file: %s holds no PEM certificate", t.o.Server, t.o.CAFile)
	}
	return text, pool, nil
}

// CheckAddress refuses what is not an http or https URL of one server.
func CheckAddress(setting, address string) error {
	u, err := url.Parse(address)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", setting, errors.Unwrap(err)) // without the address, which may hold a password
	case u.User != nil:
		return fmt.Errorf("%s: no user or password belongs in it", setting)
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return fmt.Errorf("%s: want https://HOST:PORT, have %q", setting, address)
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("%s: want https://HOST:PORT and nothing after it, have %q", setting, address)
	}
	return nil
}

var errTooLarge = fmt.Errorf("more than %d bytes", maxFile)

func readFile(path string) ([]byte, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = errTooLarge
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return b, nil
}
