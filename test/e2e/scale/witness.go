package scale

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

// sum tells one certificate, or one key, from every other.
type sum [sha256.Size]byte

// pair is what a live Secret holds.
type pair struct {
	leaf, key  sum
	generation int
}

// witness sees every version of the fleet's Secrets and holds each against what
// was promised: the pair in use always fits, is trusted and is for its names,
// and each new certificate has a new key.
type witness struct {
	fleet *fleet
	roots *x509.CertPool
	ca    []byte

	mu      sync.Mutex
	pairs   map[string]pair
	keys    map[string]bool // Secrets NAME-next that hold a key now
	again   int             // certificates that replaced one of the same generation
	wrong   []string
	problem error // of the watch under way
}

// maxWrong is how many mistakes are told; the rest is counted.
const maxWrong = 20

func newWitness(f *fleet, ca []byte) (*witness, error) {
	w := &witness{fleet: f, roots: x509.NewCertPool(), ca: ca, pairs: map[string]pair{}, keys: map[string]bool{}}
	if !w.roots.AppendCertsFromPEM(ca) {
		return nil, errors.New("reading the cluster's CA: it is no PEM certificate")
	}
	return w, nil
}

// expect makes the certificates of the generation the wanted ones.
func (w *witness) expect(generation int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fleet.generation = generation
}

// done is how many certificates are of the wanted generation, and pending how
// many keys are stored for a next one.
func (w *witness) done() (done, pending int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.pairs {
		if p.generation == w.fleet.generation {
			done++
		}
	}
	return done, len(w.keys)
}

// all are the pairs as they are now, by name.
func (w *witness) all() map[string]pair {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make(map[string]pair, len(w.pairs))
	for name, p := range w.pairs {
		out[name] = p
	}
	return out
}

// failures are what was wrong, and why nothing may be seen now.
func (w *witness) failures() (wrong []string, problem error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.wrong), w.problem
}

// renewedAgain is how many certificates replaced one that was right already.
func (w *witness) renewedAgain() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.again
}

func (w *witness) blame(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.wrong) < maxWrong {
		w.wrong = append(w.wrong, fmt.Sprintf(format, args...))
	}
}

// see takes in one version of a Secret.
func (w *witness) see(secret *corev1.Secret) {
	w.mu.Lock()
	defer w.mu.Unlock()
	say := func(format string, args ...any) {
		if len(w.wrong) < maxWrong {
			w.wrong = append(w.wrong, secret.Name+": "+fmt.Sprintf(format, args...))
		}
	}
	if certificate, next := strings.CutSuffix(secret.Name, nextSuffix); next {
		if len(secret.Data) > 0 {
			w.keys[certificate] = true
		} else {
			delete(w.keys, certificate)
		}
		return
	}
	p, err := w.judge(secret)
	if err != nil {
		say("%v", err)
		delete(w.pairs, secret.Name)
		return
	}
	before, known := w.pairs[secret.Name]
	w.pairs[secret.Name] = p
	if !known || before.leaf == p.leaf {
		return
	}
	if before.key == p.key {
		say("another certificate for the same key")
	}
	switch {
	case p.generation < before.generation:
		say("a certificate for earlier names replaced a later one")
	case p.generation == before.generation:
		w.again++
	}
}

// judge reads the pair and tells what is wrong with it.
func (w *witness) judge(secret *corev1.Secret) (pair, error) {
	chain, err := tls.X509KeyPair(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		return pair{}, fmt.Errorf("reading the pair: %w", err)
	}
	leaf := chain.Leaf
	if leaf == nil { // GODEBUG x509keypairleaf=0
		if leaf, err = x509.ParseCertificate(chain.Certificate[0]); err != nil {
			return pair{}, fmt.Errorf("reading the certificate: %w", err)
		}
	}
	p := pair{sha256.Sum256(leaf.Raw), sha256.Sum256(leaf.RawSubjectPublicKeyInfo), w.fleet.generationOf(secret.Name, leaf.DNSNames)}
	switch {
	case p.generation < 0:
		return p, fmt.Errorf("a certificate for %v, which nobody wants", leaf.DNSNames)
	case leaf.Subject.CommonName != "system:node:"+secret.Name:
		return p, fmt.Errorf("a certificate for the subject %q", leaf.Subject.CommonName)
	case time.Until(leaf.NotAfter) < lifetime-lifetime/100:
		return p, fmt.Errorf("a certificate that ends %s", leaf.NotAfter.UTC().Format(time.RFC3339))
	case !sameCertificate(secret.Data[corev1.ServiceAccountRootCAKey], w.ca):
		return p, errors.New("another CA than the cluster's beside the pair")
	}
	_, err = leaf.Verify(x509.VerifyOptions{Roots: w.roots, DNSName: leaf.DNSNames[0], CurrentTime: time.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	return p, err
}

func sameCertificate(a, b []byte) bool {
	one, _ := pem.Decode(a)
	other, _ := pem.Decode(b)
	return one != nil && other != nil && bytes.Equal(one.Bytes, other.Bytes)
}

const (
	page       = 500
	watchPause = time.Second
)

// follow watches the Secrets until ctx ends. A watch that ends is opened again
// where it ended.
func (w *witness) follow(ctx context.Context, client *kubernetes.Clientset) {
	version := ""
	for ctx.Err() == nil {
		var err error
		if version == "" {
			version, err = w.list(ctx, client, w.see)
		}
		if err == nil {
			version, err = w.watch(ctx, client, version)
		}
		w.mu.Lock()
		w.problem = err
		w.mu.Unlock()
		if err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(watchPause):
			}
		}
	}
}

// list lets take see all Secrets of the fleet's namespace, and returns their
// version.
func (w *witness) list(ctx context.Context, client *kubernetes.Clientset, take func(*corev1.Secret)) (version string, err error) {
	o := metav1.ListOptions{Limit: page}
	for {
		list, err := client.CoreV1().Secrets(world.Namespace).List(ctx, o)
		if err != nil {
			return "", fmt.Errorf("listing the certificates' Secrets: %w", err)
		}
		for n := range list.Items {
			take(&list.Items[n])
		}
		if o.Continue = list.Continue; o.Continue == "" {
			return list.ResourceVersion, nil
		}
	}
}

// watch returns the version to go on from, "" where that is not known.
func (w *witness) watch(ctx context.Context, client *kubernetes.Clientset, version string) (string, error) {
	watcher, err := client.CoreV1().Secrets(world.Namespace).Watch(ctx, metav1.ListOptions{ResourceVersion: version, AllowWatchBookmarks: true})
	if err != nil {
		if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
			version = ""
		}
		return version, fmt.Errorf("watching the certificates' Secrets: %w", err)
	}
	defer watcher.Stop()
	for event := range watcher.ResultChan() {
		secret, ok := event.Object.(*corev1.Secret)
		switch {
		case event.Type == watch.Error:
			return "", fmt.Errorf("watching the certificates' Secrets: %w", apierrors.FromObject(event.Object))
		case !ok:
			continue
		case event.Type == watch.Deleted:
			w.blame("%s: it was deleted", secret.Name)
		case event.Type != watch.Bookmark:
			w.see(secret)
		}
		version = secret.ResourceVersion
	}
	return version, nil
}

// check reads everything once more and tells what is not as it is to be: each
// certificate there, of the wanted generation, with another key than before.
func (w *witness) check(ctx context.Context, client *kubernetes.Clientset, before map[string]pair) error {
	seen := map[string]bool{}
	_, err := w.list(ctx, client, func(secret *corev1.Secret) {
		if strings.HasSuffix(secret.Name, nextSuffix) {
			return
		}
		seen[secret.Name] = true
		w.mu.Lock()
		p, err := w.judge(secret)
		wanted := w.fleet.generation
		w.mu.Unlock()
		former, renewed := before[secret.Name]
		switch {
		case err != nil:
			w.blame("%s, in the end: %v", secret.Name, err)
		case p.generation != wanted:
			w.blame("%s, in the end: a certificate for the names of an earlier configuration", secret.Name)
		case renewed && (former.leaf == p.leaf || former.key == p.key):
			w.blame("%s, in the end: the same certificate or key as before", secret.Name)
		}
	})
	if err != nil {
		return err
	}
	for n := range w.fleet.size {
		if !seen[name(n)] {
			w.blame("%s, in the end: it is not there", name(n))
		}
	}
	return nil
}
