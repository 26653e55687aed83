package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

// follower is a client of one server that knows nothing but the bundle beside
// the server's certificate.
type follower struct {
	t    *testing.T
	w    *world.World
	name string // of the certificate, in the configuration

	namespace, secret   string // where the certificate is, and the bundle
	address, serverName string
	states              []string // of the change of CA, as status told them

	bundle     atomic.Pointer[x509.CertPool]
	handshakes atomic.Int64
	failed     chan error
}

// newFollower is a client of the server at an address, whose certificate is in
// the Secret NAME-tls of the namespace.
func newFollower(t *testing.T, w *world.World, name, namespace, address, serverName string) *follower {
	return &follower{
		t: t, w: w, name: name, namespace: namespace, secret: name + "-tls",
		address: address, serverName: serverName, failed: make(chan error, 1),
	}
}

// follow runs the client until the test ends: it reads the bundle anew once a
// second, and does a handshake every 50 ms.
func (f *follower) follow(ctx context.Context) {
	must(f.t, f.reread(ctx))
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{}, 2)
	f.t.Cleanup(func() { cancel(); <-done; <-done })
	go func() {
		defer func() { done <- struct{}{} }()
		for wait(ctx, time.Second) {
			if err := f.reread(ctx); err != nil && ctx.Err() == nil {
				f.fail(fmt.Errorf("reading the bundle: %w", err))
			}
		}
	}()
	go func() {
		defer func() { done <- struct{}{} }()
		for wait(ctx, 50*time.Millisecond) {
			if _, err := f.handshake(ctx, &tls.Config{RootCAs: f.bundle.Load()}); err == nil {
				f.handshakes.Add(1)
			} else if ctx.Err() == nil {
				f.fail(fmt.Errorf("handshake %d: %w", f.handshakes.Load()+1, err))
			}
		}
	}()
}

func wait(ctx context.Context, pause time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(pause):
		return true
	}
}

func (f *follower) fail(err error) {
	select {
	case f.failed <- err:
	default:
	}
}

// handshake returns the certificate that the server presents.
func (f *follower) handshake(ctx context.Context, config *tls.Config) (*x509.Certificate, error) {
	config.ServerName = f.serverName
	dialer := &tls.Dialer{NetDialer: &net.Dialer{Timeout: 30 * time.Second}, Config: config}
	conn, err := dialer.DialContext(ctx, "tcp", f.address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0], nil
}

func (f *follower) live(ctx context.Context) (*corev1.Secret, error) {
	return f.w.Client.CoreV1().Secrets(f.namespace).Get(ctx, f.secret, metav1.GetOptions{})
}

func (f *follower) reread(ctx context.Context) error {
	secret, err := f.live(ctx)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(secret.Data["ca.crt"]) {
		return errors.New("it is empty")
	}
	f.bundle.Store(pool)
	return nil
}

// well ends the test where the client has failed.
func (f *follower) well() {
	f.t.Helper()
	select {
	case err := <-f.failed:
		f.t.Fatalf("the client of %s failed after %d handshakes: %v", f.name, f.handshakes.Load(), err)
	default:
	}
}

// publishes checks that the Secret holds exactly this bundle.
func (f *follower) publishes(ctx context.Context, bundle []byte) error {
	f.well()
	secret, err := f.live(ctx)
	if err != nil {
		return err
	}
	if !bytes.Equal(secret.Data["ca.crt"], bundle) {
		return fmt.Errorf("the bundle of %s is not the one that is awaited, of %d CAs, but:\n%s", f.name, bytes.Count(bundle, []byte("BEGIN")), secret.Data["ca.crt"])
	}
	return nil
}

// serves checks that the server presents the stored certificate, and that it is
// from that CA.
func (f *follower) serves(ctx context.Context, ca *x509.Certificate) error {
	f.well()
	secret, err := f.live(ctx)
	if err != nil {
		return err
	}
	block, _ := pem.Decode(secret.Data[corev1.TLSCertKey])
	if block == nil {
		return fmt.Errorf("the Secret of %s has no certificate", f.name)
	}
	stored, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	if err := stored.CheckSignatureFrom(ca); err != nil {
		return fmt.Errorf("the stored certificate of %s is from another CA: %w", f.name, err)
	}
	served, err := f.handshake(ctx, &tls.Config{InsecureSkipVerify: true}) // which one it is, is the question
	if err != nil {
		return err
	}
	if !served.Equal(stored) {
		return fmt.Errorf("%s: leaf %s is served, the Secret holds %s", f.name, world.Fingerprint(served), world.Fingerprint(stored))
	}
	return nil
}

// note keeps each new state of the change.
func (f *follower) note(s statusDocument) {
	for _, c := range s.Certificates {
		if c.Name != f.name || c.Trust == nil {
			continue
		}
		if state := c.Trust.State; len(f.states) == 0 || f.states[len(f.states)-1] != state {
			f.states = append(f.states, state)
		}
	}
}

// asConfigured checks that status told of no change of CA at last.
func (f *follower) asConfigured() error {
	if len(f.states) == 0 || f.states[len(f.states)-1] != "as-configured" {
		return fmt.Errorf("status told of %s: %q", f.name, f.states)
	}
	return nil
}

// goesOn checks that the client still does handshakes, and never failed.
func (f *follower) goesOn(ctx context.Context) {
	f.t.Helper()
	before := f.handshakes.Load()
	eventually(f.t, ctx, 2*time.Minute, "the client of "+f.name+" goes on", func(context.Context) error {
		if n := f.handshakes.Load(); n < before+40 {
			return fmt.Errorf("%d handshakes since", n-before)
		}
		return nil
	})
	f.well()
	f.t.Logf("%s: %d handshakes, none failed", f.name, f.handshakes.Load())
}

// told checks what the whole change must have told of the certificate: in the
// log, in this order, and in status.
func (f *follower) told(log string, parts ...string) {
	f.t.Helper()
	var lines []string
	for line := range strings.Lines(log) {
		if strings.Contains(line, " certificate="+f.name+" ") {
			lines = append(lines, line)
		}
	}
	rest := strings.Join(lines, "")
	for _, part := range parts {
		_, after, told := strings.Cut(rest, part)
		if !told {
			f.t.Fatalf("of %s the log does not say %q after the former:\n%s", f.name, part, log)
		}
		rest = after
	}
	settling, awaiting := slices.Index(f.states, "settling"), slices.Index(f.states, "awaiting-peers")
	if settling < 0 || awaiting < settling {
		f.t.Errorf("status told of %s: %q, want settling, and then awaiting-peers", f.name, f.states)
	}
}
