package matrix

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

const (
	nextName = world.SecretName + "-next"
	selector = "pkiwarden.io/certificate=" + world.Namespace + "_" + world.SecretName
)

// watched is what is remembered of one trial, to hold the promises against.
type watched struct {
	mu         sync.Mutex
	violations []string
	live       *x509.Certificate   // the last one seen in the live Secret
	requests   map[string]string   // the UID of the CSR made for each public key
	created    map[string]struct{} // UIDs of all CSRs seen
	keyLines   map[string]struct{} // lines of private keys, which must stand nowhere
	decided    map[string]certificatesv1.RequestConditionType
	behind     time.Duration       // how late the signer is beside the one before
	gone       map[string]struct{} // UIDs of the requests that the trial itself removed
}

func newWatched() *watched {
	return &watched{
		requests: map[string]string{}, created: map[string]struct{}{}, keyLines: map[string]struct{}{},
		decided: map[string]certificatesv1.RequestConditionType{}, gone: map[string]struct{}{},
	}
}

func (w *watched) violate(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.violations = append(w.violations, fmt.Sprintf(format, args...))
}

// check looks at the cluster, live and as administrator, and notes what breaks
// a promise. It is called after each write, while the process waits.
func (t *trial) check(ctx context.Context, when string) {
	w := t.lane.world
	secrets := w.Client.CoreV1().Secrets(world.Namespace)
	// The order matters: a request's key is stored before the request exists,
	// so requests are read first.
	list, err := w.Client.CertificatesV1().CertificateSigningRequests().List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		t.violate("%s: the check could not read the requests: %v", when, err)
		return
	}
	next, err := secrets.Get(ctx, nextName, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		t.violate("%s: the check could not read %s: %v", when, nextName, err)
		return
	}
	live, err := secrets.Get(ctx, world.SecretName, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		t.violate("%s: the check could not read %s: %v", when, world.SecretName, err)
		return
	}
	t.checkLive(when, live, apierrors.IsNotFound(err))
	t.remember(next, live)
	t.checkRequests(when, list.Items, next, live)
}

// checkLive: the live pair matches and is never replaced by one that ends sooner.
func (t *trial) checkLive(when string, live *corev1.Secret, missing bool) {
	t.mu.Lock()
	before, behind := t.live, t.behind
	t.mu.Unlock()
	if missing {
		if before != nil {
			t.violate("I2, %s: the live Secret is gone", when)
		}
		return
	}
	leaf, err := pairOf(live.Data[corev1.TLSCertKey], live.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		t.violate("I1, %s: the live Secret: %v", when, err)
		return
	}
	// Other names are wanted than the one in use has, so the new one is not worse
	// for ending as much sooner as the trial's signer is behind.
	if before != nil && leaf.NotAfter.Add(behind).Before(before.NotAfter) {
		t.violate("I2, %s: the live certificate ends %s, the one before %s", when, leaf.NotAfter, before.NotAfter)
	}
	t.mu.Lock()
	t.live = leaf
	t.mu.Unlock()
}

// remember keeps what must not be seen elsewhere.
func (t *trial) remember(secrets ...*corev1.Secret) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range secrets {
		for line := range strings.Lines(string(s.Data[corev1.TLSPrivateKeyKey])) {
			if line = strings.TrimSpace(line); len(line) > 40 && !strings.HasPrefix(line, "-----") {
				t.keyLines[line] = struct{}{}
			}
		}
	}
}

// checkRequests: at most one request is open, each key has one request, the key
// of an open request is stored, and what was decided stays decided.
func (t *trial) checkRequests(when string, list []certificatesv1.CertificateSigningRequest, next, live *corev1.Secret) {
	open := 0
	for n := range list {
		csr := &list[n]
		public, err := publicKeyOf(csr.Spec.Request)
		if err != nil {
			t.violate("%s: request %s: %v", when, csr.Name, err)
			continue
		}
		t.mu.Lock()
		other, known := t.requests[public]
		t.requests[public] = string(csr.UID)
		t.created[string(csr.UID)] = struct{}{}
		// Nobody can tell a request that was removed before its UID was recorded
		// from one that was never made: it is made again, for the same key.
		_, removed := t.gone[other]
		t.mu.Unlock()
		if known && other != string(csr.UID) && !removed {
			t.violate("I4, %s: two requests for one key", when)
		}
		decision := certificatesv1.RequestConditionType("")
		for _, c := range csr.Status.Conditions {
			decision = c.Type
		}
		t.mu.Lock()
		before := t.decided[string(csr.UID)]
		t.decided[string(csr.UID)] = decision
		t.mu.Unlock()
		if before != "" && before != decision {
			t.violate("I8, %s: request %s was %s and is %s", when, csr.Name, before, decision)
		}
		if len(csr.Status.Certificate) > 0 || decision == certificatesv1.CertificateDenied || decision == certificatesv1.CertificateFailed {
			continue
		}
		open++
		if !holds(next, public) && !holds(live, public) {
			t.violate("I3, %s: request %s is open and its key is stored nowhere", when, csr.Name)
		}
	}
	if open > 1 {
		t.violate("I4, %s: %d open requests", when, open)
	}
}

// pairOf is the leaf of a pair that can be loaded.
func pairOf(certificate, key []byte) (*x509.Certificate, error) {
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(pair.Certificate[0])
}

func publicKeyOf(request []byte) (string, error) {
	block, _ := pem.Decode(request)
	if block == nil {
		return "", errors.New("no PEM")
	}
	parsed, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return "", err
	}
	return string(parsed.RawSubjectPublicKeyInfo), nil
}

// holds tells whether a Secret holds the key of a public key.
func holds(s *corev1.Secret, public string) bool {
	block, _ := pem.Decode(s.Data[corev1.TLSPrivateKeyKey])
	if block == nil {
		return false
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return false
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return false
	}
	der, err := x509.MarshalPKIXPublicKey(signer.Public())
	return err == nil && string(der) == public
}

// reader opens both delivered files below one resolved folder, as often as it
// can, and notes when they are missing or do not match. It tells the points
// that lie in the folder.
func (t *trial) reader(ctx context.Context, reached func(point string)) {
	const pause = time.Millisecond
	folder := t.lane.world.TLSDir
	begun, done := names(folder), target(folder)
	var seen string
	for ctx.Err() == nil {
		now := target(folder)
		if now != seen {
			if err := readPair(filepath.Join(folder, now)); err != nil {
				t.violate("I1: reading the delivered pair: %v", err)
			}
			seen = now
		}
		if begun != "" && names(folder) != begun {
			begun = ""
			reached(filesBegun)
		}
		if done != "" && now != done {
			done = ""
			reached(filesDone)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// readPair reads a generation right after it was resolved; one that is removed
// in between is a reader's miss.
func readPair(folder string) error {
	certificate, err := os.ReadFile(filepath.Join(folder, "tls.crt"))
	if err != nil {
		return err
	}
	key, err := os.ReadFile(filepath.Join(folder, "tls.key"))
	if err != nil {
		return err
	}
	_, err = pairOf(certificate, key)
	return err
}

func names(folder string) string {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err.Error()
	}
	var all strings.Builder
	for _, e := range entries {
		all.WriteString(e.Name() + "\n")
	}
	return all.String()
}

func target(folder string) string {
	to, err := os.Readlink(filepath.Join(folder, "..data"))
	if errors.Is(err, fs.ErrNotExist) {
		return "missing"
	}
	return to
}

// converged is nil when everything is as wanted: the live pair has the names,
// nothing is pending, the files are the live pair, and Vault serves it.
func (t *trial) converged(ctx context.Context) error {
	w := t.lane.world
	live, err := w.Client.CoreV1().Secrets(world.Namespace).Get(ctx, world.SecretName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	leaf, err := pairOf(live.Data[corev1.TLSCertKey], live.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		return err
	}
	if leaf.VerifyHostname(t.marker) != nil {
		return fmt.Errorf("the live certificate is not for %s", t.marker)
	}
	next, err := w.Client.CoreV1().Secrets(world.Namespace).Get(ctx, nextName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if len(next.Data) > 0 {
		return errors.New("a key is still pending")
	}
	delivered, err := os.ReadFile(filepath.Join(w.TLSDir, "tls.crt"))
	if err != nil {
		return err
	}
	if !bytes.Equal(delivered, live.Data[corev1.TLSCertKey]) {
		return errors.New("the live certificate is not delivered")
	}
	served, err := w.ServedLeaf(ctx)
	if err != nil {
		return err
	}
	if !served.Equal(leaf) {
		return errors.New("vault does not serve the live certificate")
	}
	return nil
}
