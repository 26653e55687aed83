package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

// rotation is a cluster whose signing CA changes under a running Vault, and a
// client of that Vault which knows nothing but the bundle beside the certificate.
type rotation struct {
	t   *testing.T
	ctx context.Context
	w   *world.World
	pod *world.Pod

	old, next *servers.CA
	states    []string // of the change, as status told them

	bundle     atomic.Pointer[x509.CertPool]
	handshakes atomic.Int64
	failed     chan error
}

// bundleName is the ConfigMap in which the operator keeps the CAs.
const bundleName = "vault-trust"

// changing is a Vault that serves a certificate of the cluster's first CA, and a
// client that follows.
func changing(t *testing.T) *rotation {
	ctx, w := start(t, world.Options{})
	r := &rotation{t: t, ctx: ctx, w: w, old: w.Kubernetes.CA, failed: make(chan error, 1)}
	var err error
	r.next, err = servers.NewCA("kubernetes signer")
	must(t, err)
	r.trust(r.old)
	// The README says to name one's own ConfigMap in the role as well.
	_, err = w.Client.RbacV1().Roles(world.Namespace).Create(ctx, &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: bundleName},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{bundleName}, Verbs: []string{"get"}}},
	}, metav1.CreateOptions{})
	must(t, err)
	_, err = w.Client.RbacV1().RoleBindings(world.Namespace).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: bundleName},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: bundleName},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: world.Namespace, Name: "vault"}},
	}, metav1.CreateOptions{})
	must(t, err)
	r.pod, err = w.StartPod(ctx, world.PodOptions{Name: "vault-0", Set: map[string]any{
		"vault.caFile": w.TLSDir + "/ca.crt",
		"certificates.0.trust": map[string]any{
			"configMap": map[string]any{"namespace": world.Namespace, "name": bundleName},
			"settle":    "10s", "peers": []string{w.VaultAddress()},
		},
	}})
	must(t, err)
	must(t, w.Delivered(ctx))
	must(t, w.StartVault(ctx, servers.VaultOptions{}))
	eventually(t, ctx, 2*time.Minute, "vault serves the first certificate", servesStored(w))
	r.follow()
	return r
}

// trust is what the operator puts into the bundle's source.
func (r *rotation) trust(cas ...*servers.CA) {
	r.t.Helper()
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: bundleName}, Data: map[string]string{"ca.crt": string(bundleOf(cas))}}
	maps := r.w.Client.CoreV1().ConfigMaps(world.Namespace)
	_, err := maps.Update(r.ctx, m, metav1.UpdateOptions{})
	if err != nil {
		_, err = maps.Create(r.ctx, m, metav1.CreateOptions{})
	}
	must(r.t, err)
}

func bundleOf(cas []*servers.CA) []byte {
	var out []byte
	for _, ca := range cas {
		out = append(out, ca.PEM...)
	}
	return out
}

// follow runs the client until the test ends: it reads the bundle anew once a
// second, and does a handshake every 50 ms.
func (r *rotation) follow() {
	ctx, cancel := context.WithCancel(r.ctx)
	done := make(chan struct{}, 2)
	r.t.Cleanup(func() { cancel(); <-done; <-done })
	must(r.t, r.reread(ctx))
	go func() {
		defer func() { done <- struct{}{} }()
		for wait(ctx, time.Second) {
			if err := r.reread(ctx); err != nil && ctx.Err() == nil {
				r.fail(fmt.Errorf("reading the bundle: %w", err))
			}
		}
	}()
	go func() {
		defer func() { done <- struct{}{} }()
		for wait(ctx, 50*time.Millisecond) {
			dialer := &tls.Dialer{NetDialer: &net.Dialer{Timeout: 30 * time.Second}, Config: &tls.Config{RootCAs: r.bundle.Load(), ServerName: world.ServerName}}
			conn, err := dialer.DialContext(ctx, "tcp", r.w.VaultAddress())
			if err != nil {
				if ctx.Err() == nil {
					r.fail(fmt.Errorf("handshake %d: %w", r.handshakes.Load()+1, err))
				}
				continue
			}
			conn.Close()
			r.handshakes.Add(1)
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

func (r *rotation) fail(err error) {
	select {
	case r.failed <- err:
	default:
	}
}

func (r *rotation) reread(ctx context.Context) error {
	secret, err := r.w.Client.CoreV1().Secrets(world.Namespace).Get(ctx, world.SecretName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(secret.Data["ca.crt"]) {
		return errors.New("it is empty")
	}
	r.bundle.Store(pool)
	return nil
}

// publishes checks that the Secret's bundle is of exactly these CAs, in this
// order, and notes what status says of the change meanwhile.
func (r *rotation) publishes(cas ...*servers.CA) func(context.Context) error {
	return func(ctx context.Context) error {
		r.note(ctx)
		select {
		case err := <-r.failed:
			r.t.Fatalf("the client failed: %v", err)
		default:
		}
		secret, err := r.w.Client.CoreV1().Secrets(world.Namespace).Get(ctx, world.SecretName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if !bytes.Equal(secret.Data["ca.crt"], bundleOf(cas)) {
			return fmt.Errorf("the bundle is not the one that is awaited, of %d CAs, but:\n%s", len(cas), secret.Data["ca.crt"])
		}
		r.note(ctx)
		return nil
	}
}

// note keeps each new state of the change.
func (r *rotation) note(ctx context.Context) {
	s, err := statusOf(ctx, r.w, r.pod)
	if err != nil || len(s.Certificates) == 0 || s.Certificates[0].Trust == nil {
		return
	}
	if state := s.Certificates[0].Trust.State; len(r.states) == 0 || r.states[len(r.states)-1] != state {
		r.states = append(r.states, state)
	}
}

// serves checks that Vault presents the stored certificate, and that it is from
// that CA.
func (r *rotation) serves(ca *servers.CA) func(context.Context) error {
	return func(ctx context.Context) error {
		r.note(ctx)
		stored, err := r.w.StoredLeaf(ctx)
		if err != nil {
			return err
		}
		if err := stored.CheckSignatureFrom(ca.Certificate); err != nil {
			return fmt.Errorf("the stored certificate is from another CA: %w", err)
		}
		served, err := r.w.ServedLeaf(ctx)
		if err != nil {
			return err
		}
		if !served.Equal(stored) {
			return fmt.Errorf("vault serves leaf %s, the Secret holds %s", world.Fingerprint(served), world.Fingerprint(stored))
		}
		r.note(ctx)
		return nil
	}
}

// ends checks what the whole change must have told, in this order, and that the
// client never failed.
func (r *rotation) ends(log ...string) {
	r.t.Helper()
	eventually(r.t, r.ctx, 3*time.Minute, "vault serves a certificate of the new CA", r.serves(r.next))
	eventually(r.t, r.ctx, 5*time.Minute, "the bundle holds the new CA alone", r.publishes(r.next))
	before := r.handshakes.Load()
	eventually(r.t, r.ctx, 2*time.Minute, "the client goes on", func(ctx context.Context) error {
		r.note(ctx)
		if n := r.handshakes.Load(); n < before+40 {
			return fmt.Errorf("%d handshakes since", n-before)
		}
		return nil
	})
	select {
	case err := <-r.failed:
		r.t.Fatalf("the client failed: %v", err)
	default:
		r.t.Logf("%d handshakes, none failed", r.handshakes.Load())
	}
	all, err := os.ReadFile(r.pod.LogPath()) // of every start
	must(r.t, err)
	rest := string(all)
	for _, part := range log {
		_, after, told := strings.Cut(rest, part)
		if !told {
			r.t.Fatalf("the log does not say %q after the former:\n%s", part, all)
		}
		rest = after
	}
	for _, state := range []string{"settling", "awaiting-peers"} {
		if !slices.Contains(r.states, state) {
			r.t.Errorf("status did not tell %s: %q", state, r.states)
		}
	}
	if last := r.states[len(r.states)-1]; last != "as-configured" {
		r.t.Errorf("status told at last: %q", r.states)
	}
	noSecrets(r.t, r.ctx, r.w, r.pod)
}

// crash ends the only instance at once, and starts it again.
func (r *rotation) crash() {
	r.t.Helper()
	must(r.t, r.pod.Kill())
	must(r.t, r.pod.Start(r.ctx))
}

// TestCAIsSwapped: the operator replaces the CA in the bundle's source in one go,
// and the signer's CA afterwards. No client that follows the bundle of the Secret
// fails at any instant.
func TestCAIsSwapped(t *testing.T) {
	r := changing(t)
	r.trust(r.next)
	must(t, r.w.Kubernetes.SignWith(r.ctx, r.next))
	eventually(t, r.ctx, 3*time.Minute, "the bundle holds both", r.publishes(r.next, r.old))
	r.ends(
		"step=publish-trust", "CN=kubernetes signer (SHA-256 ", "is new; CA CN=kubernetes (SHA-256 ", "stays: it vouches for the certificate in use",
		"waiting until ", "for clients to take up CA CN=kubernetes signer (SHA-256 ", "then the certificate is to change",
		"step=store-next-key", "step=publish ", "CN=kubernetes (SHA-256 ", "stays published: peers have until ",
		"is dropped: all 1 peers present certificates from CA CN=kubernetes signer (SHA-256 ",
	)
}

// TestCAIsAddedAndRemoved: the operator adds the new CA, switches the signer, and
// takes the old one out. Between the steps the leader is killed: the next one goes
// on from what is stored.
func TestCAIsAddedAndRemoved(t *testing.T) {
	r := changing(t)
	r.trust(r.old, r.next)
	eventually(t, r.ctx, 3*time.Minute, "the bundle holds both", r.publishes(r.old, r.next))
	must(t, r.w.Kubernetes.SignWith(r.ctx, r.next))
	r.note(r.ctx)
	r.trust(r.next)
	r.crash()
	eventually(t, r.ctx, 3*time.Minute, "the bundle still holds both, the new one first", r.publishes(r.next, r.old))
	eventually(t, r.ctx, 3*time.Minute, "the certificate is from the new CA", r.serves(r.next))
	r.crash()
	r.ends(
		"step=publish-trust", "CN=kubernetes signer (SHA-256 ", "is new",
		"step=publish-trust", "CN=kubernetes (SHA-256 ", "stays: it vouches for the certificate in use",
		"step=store-next-key", "step=publish ",
		"is dropped: all 1 peers present certificates from CA CN=kubernetes signer (SHA-256 ",
	)
}
