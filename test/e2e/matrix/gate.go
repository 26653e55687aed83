package matrix

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

const maxBody = 4 << 20

// gate is a process's only way to the API server.
type gate struct {
	*httptest.Server

	mu     sync.Mutex
	point  string // at which hit is called, once
	hit    func()
	closed bool // nothing passes any more
	asked  int  // how many requests came

	delay  func() time.Duration // before each request
	answer func() (int, bool)   // instead of the API server's
	refuse string               // a token that is not known any more
	wrote  func(step)           // after each write that the API server has answered
}

// newGate makes a way to w's API server for one process.
func newGate(w *world.World) (*gate, error) {
	leaf, err := w.Kubernetes.CA.Issue(servers.LeafOptions{CommonName: "kube-apiserver", DNSNames: []string{"localhost"}, IPs: loopback})
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(leaf.CertificatePEM, leaf.KeyPEM)
	if err != nil {
		return nil, err
	}
	target, err := url.Parse(w.Kubernetes.URL)
	if err != nil {
		return nil, err
	}
	g := &gate{}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.FlushInterval = -1 // watches
	proxy.ErrorLog = log.New(io.Discard, "", 0)
	proxy.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: w.Kubernetes.CA.Pool()}, MaxIdleConnsPerHost: 8}
	proxy.ModifyResponse = g.answered
	proxy.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	g.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { g.serve(proxy, rw, r) }))
	g.Config.ErrorLog = log.New(io.Discard, "", 0)
	g.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	g.StartTLS()
	return g, nil
}

// at calls f once when the point is reached. The request there goes nowhere
// before f has returned.
func (g *gate) at(point string, f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.point, g.hit = point, f
}

func (g *gate) set(change func(*gate)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change(g)
}

// strike is called at each point; it tells whether the process has ended there.
func (g *gate) strike(s step, after bool) {
	g.mu.Lock()
	wanted, wantedAfter, ok := requestOf(g.point)
	if !ok || g.hit == nil || wanted != s || wantedAfter != after {
		g.mu.Unlock()
		return
	}
	hit := g.hit
	g.hit = nil
	g.mu.Unlock()
	hit()
}

func (g *gate) serve(proxy http.Handler, rw http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	g.asked++
	delay, answer, refuse := g.delay, g.answer, g.refuse
	g.mu.Unlock()
	if delay != nil {
		time.Sleep(delay())
	}
	s, err := stepOf(r)
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	if s != "" && s != fetch { // which is known by its answer
		g.strike(s, false)
	}
	g.mu.Lock()
	closed := g.closed
	g.mu.Unlock()
	if closed {
		panic(http.ErrAbortHandler)
	}
	if refuse != "" && r.Header.Get("Authorization") == "Bearer "+refuse {
		status(rw, http.StatusUnauthorized)
		return
	}
	if answer != nil {
		if code, instead := answer(); instead {
			rw.Header().Set("Retry-After", "1")
			status(rw, code)
			return
		}
	}
	proxy.ServeHTTP(rw, r.WithContext(withStep(r.Context(), s)))
}

// status answers as the API server does.
func status(rw http.ResponseWriter, code int) {
	reason := map[int]string{http.StatusUnauthorized: "Unauthorized", http.StatusTooManyRequests: "TooManyRequests", http.StatusInternalServerError: "InternalError"}[code]
	rw.Header().Set("Content-Type", "application/json")
	rw.WriteHeader(code)
	_ = json.NewEncoder(rw).Encode(map[string]any{
		"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "injected", "reason": reason, "code": code,
	}) // who is gone needs no answer
}

// answered is called with each answer of the API server.
func (g *gate) answered(r *http.Response) error {
	s := stepFrom(r.Request.Context())
	if s == "" {
		return nil
	}
	if s == fetch {
		body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
		if err != nil {
			return err
		}
		r.Body.Close()
		r.Body = io.NopCloser(bytes.NewReader(body))
		csr, ok := decoded(body).(*certificatesv1.CertificateSigningRequest)
		if !ok || len(csr.Status.Certificate) == 0 {
			return nil
		}
	}
	g.mu.Lock()
	wrote := g.wrote
	g.mu.Unlock()
	if wrote != nil && s != look && s != fetch && r.StatusCode < 300 {
		wrote(s)
	}
	g.strike(s, true)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return errClosed
	}
	return nil
}

// stepOf tells which step a request is, "" for none. It leaves the body whole.
func stepOf(r *http.Request) (step, error) {
	const (
		secrets  = "/api/v1/namespaces/" + world.Namespace + "/secrets"
		requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
	)
	path := r.URL.Path
	switch {
	case r.URL.Query().Get("watch") != "":
		return "", nil
	case r.Method == http.MethodGet && path == secrets+"/"+world.SecretName+"-next":
		return look, nil
	case r.Method == http.MethodGet && strings.HasPrefix(path, requests+"/"):
		return fetch, nil
	case r.Method == http.MethodPost && path == requests:
		return createRequest, nil
	case r.Method == http.MethodPut && strings.HasPrefix(path, requests+"/") && strings.HasSuffix(path, "/approval"):
		return approve, nil
	case r.Method != http.MethodPost && r.Method != http.MethodPut || !strings.HasPrefix(path, secrets):
		return "", nil
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		return "", err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	secret, ok := decoded(body).(*corev1.Secret)
	switch {
	case !ok:
		return "", fmt.Errorf("%s %s: no Secret in its body", r.Method, path)
	case secret.Name == world.SecretName:
		return publish, nil
	case secret.Name != world.SecretName+"-next":
		return "", nil
	case len(secret.Data) == 0:
		return dropKey, nil
	case strings.Contains(secret.Annotations["pkiwarden.io/record"], `"csrUID"`):
		return recordRequest, nil
	}
	return storeKey, nil
}

var loopback = []net.IP{net.IPv4(127, 0, 0, 1)}

var errClosed = errors.New("the way is closed")

type stepKey struct{}

func withStep(ctx context.Context, s step) context.Context {
	return context.WithValue(ctx, stepKey{}, s)
}

func stepFrom(ctx context.Context) step {
	s, _ := ctx.Value(stepKey{}).(step)
	return s
}

// decoded is an object of the API in any encoding, nil when it is none.
func decoded(body []byte) runtime.Object {
	object, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, nil)
	if err != nil {
		return nil
	}
	return object
}
