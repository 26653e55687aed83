package e2e

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

// route is how somebody else's request gets where pkiwarden looks.
type route string

const (
	// taken: it is made under the name that pkiwarden has recorded, a moment
	// before pkiwarden's own.
	taken route = "taken"
	// inFlight: pkiwarden's own is changed on its way, as a mutating webhook
	// does. Its requester is then truly pkiwarden.
	inFlight route = "inFlight"
	// swapped: pkiwarden's own is deleted after it was checked and before its
	// approval arrives, and another one made under its name.
	swapped route = "swapped"
	// labelled: it is made under another name, and only has the label.
	labelled route = "labelled"
)

// attack is one forged request in the place of the good one of a certificate.
type attack struct {
	*mutant
	good   *certificatesv1.CertificateSigningRequest // as pkiwarden would have made it
	stored *certificatesv1.CertificateSigningRequest // the forged one, as the API server took it
	err    error                                     // why there is none
}

// intruder is a way to the API server on which others get in between. Each
// attack happens once; the next request of the same certificate gets through.
type intruder struct {
	*httptest.Server
	w       *world.World
	ctx     context.Context
	proxy   *httputil.ReverseProxy
	genuine identity // pkiwarden's own, of the pod that leads

	mu      sync.Mutex
	attacks map[string]*attack                                         // by certificate, those to come
	meddle  map[string]func(*certificatesv1.CertificateSigningRequest) // by certificate: with the request, before its approval arrives
	after   map[string]func()                                          // by certificate: when its request was made, before pkiwarden knows
	made    []*attack                                                  // those that happened
	loose   []string                                                   // approvals that do not carry what was checked
	refused map[string]int                                             // approvals that the API server refused, by certificate
}

func newIntruder(t *testing.T, ctx context.Context, w *world.World) *intruder {
	t.Helper()
	leaf, err := w.Kubernetes.CA.IssueLoopback("proxy")
	must(t, err)
	pair, err := tls.X509KeyPair(leaf.CertificatePEM, leaf.KeyPEM)
	must(t, err)
	target, err := url.Parse(w.Kubernetes.URL)
	must(t, err)
	i := &intruder{w: w, ctx: ctx, proxy: httputil.NewSingleHostReverseProxy(target), attacks: map[string]*attack{},
		meddle: map[string]func(*certificatesv1.CertificateSigningRequest){}, after: map[string]func(){}, refused: map[string]int{}}
	i.proxy.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: w.Kubernetes.CA.Pool()}, MaxIdleConnsPerHost: 8}
	i.proxy.FlushInterval = -1 // watches
	i.proxy.ModifyResponse = i.answered
	i.proxy.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	i.Server = httptest.NewUnstartedServer(i)
	i.Config.ErrorLog = nil
	i.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	i.StartTLS()
	t.Cleanup(func() {
		i.CloseClientConnections() // watches of processes that end only later
		i.Close()
	})
	return i
}

// through lets a pod that was not started yet reach the API server only through
// the intruder.
func (i *intruder) through(t *testing.T, pod *world.Pod) {
	t.Helper()
	text, err := os.ReadFile(pod.Identity.Kubeconfig)
	must(t, err)
	changed := bytes.ReplaceAll(text, []byte(i.w.Kubernetes.URL), []byte(i.URL))
	if bytes.Equal(text, changed) {
		t.Fatalf("the kubeconfig does not name %s", i.w.Kubernetes.URL)
	}
	must(t, os.WriteFile(pod.Identity.Kubeconfig, changed, 0o600))
}

const requestsPath = "/apis/certificates.k8s.io/v1/certificatesigningrequests"

// certificateKey is where the context of a request holds the certificate that it
// is about.
type certificateKey struct{}

func (i *intruder) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	creates := r.Method == http.MethodPost && r.URL.Path == requestsPath
	approves := r.Method == http.MethodPut && strings.HasPrefix(r.URL.Path, requestsPath) && strings.HasSuffix(r.URL.Path, "/approval")
	if !creates && !approves {
		i.proxy.ServeHTTP(rw, r)
		return
	}
	csr, err := decodeRequest(r)
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	name := certificateOf(csr.Labels)
	r = r.WithContext(context.WithValue(r.Context(), certificateKey{}, name))
	if creates {
		i.creating(r, name, csr)
	} else {
		i.approving(name, csr)
	}
	i.proxy.ServeHTTP(rw, r)
}

// decodeRequest reads the CSR in the body, and leaves the body as it was.
func decodeRequest(r *http.Request) (*certificatesv1.CertificateSigningRequest, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 8<<20))
	if err != nil {
		return nil, err
	}
	setBody(r, body)
	object, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, nil)
	if err != nil {
		return nil, err
	}
	csr, ok := object.(*certificatesv1.CertificateSigningRequest)
	if !ok {
		return nil, fmt.Errorf("a %T", object)
	}
	return csr, nil
}

func setBody(r *http.Request, body []byte) {
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	r.Header.Set("Content-Length", fmt.Sprint(len(body)))
}

// take returns the attack on a certificate that is still to come, once.
func (i *intruder) take(name string, routes ...route) *attack {
	i.mu.Lock()
	defer i.mu.Unlock()
	a := i.attacks[name]
	if a == nil {
		return nil
	}
	for _, way := range routes {
		if a.way == way {
			delete(i.attacks, name)
			i.made = append(i.made, a)
			return a
		}
	}
	return nil
}

// creating is the moment before pkiwarden's own request arrives.
func (i *intruder) creating(r *http.Request, name string, good *certificatesv1.CertificateSigningRequest) {
	a := i.take(name, taken, inFlight, labelled)
	if a == nil {
		return
	}
	a.good = good
	f, err := i.forge(a.mutant, good)
	if err != nil {
		a.err = err
		return
	}
	if a.way != inFlight {
		a.stored, a.err = i.submit(f)
		return
	}
	f.csr.TypeMeta = metav1.TypeMeta{APIVersion: certificatesv1.SchemeGroupVersion.String(), Kind: "CertificateSigningRequest"}
	body, err := json.Marshal(f.csr)
	if err != nil {
		a.err = err
		return
	}
	r.Header.Set("Content-Type", "application/json")
	setBody(r, body)
	a.err = errInFlight{f.csr.Name}
}

// errInFlight is an attack of which only the name is known yet.
type errInFlight struct{ name string }

func (e errInFlight) Error() string { return "no request " + e.name }

// approving is the moment between check and approval.
func (i *intruder) approving(name string, checked *certificatesv1.CertificateSigningRequest) {
	i.mu.Lock()
	if checked.ResourceVersion == "" || checked.UID == "" {
		i.loose = append(i.loose, checked.Name)
	}
	meddle := i.meddle[name]
	delete(i.meddle, name)
	i.mu.Unlock()
	if meddle != nil {
		meddle(checked)
	}
	a := i.take(name, swapped)
	if a == nil {
		return
	}
	a.good = checked.DeepCopy()
	a.good.Status = certificatesv1.CertificateSigningRequestStatus{}
	f, err := i.forge(a.mutant, a.good)
	if err == nil {
		err = i.w.Client.CertificatesV1().CertificateSigningRequests().Delete(i.ctx, checked.Name, metav1.DeleteOptions{})
	}
	if err != nil {
		a.err = err
		return
	}
	a.stored, a.err = i.submit(f)
}

func (i *intruder) answered(r *http.Response) error {
	name, _ := r.Request.Context().Value(certificateKey{}).(string)
	if name == "" {
		return nil
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if r.Request.Method == http.MethodPut && r.StatusCode >= 400 {
		i.refused[name]++
	}
	if then := i.after[name]; then != nil && r.Request.Method == http.MethodPost && r.StatusCode == http.StatusCreated {
		delete(i.after, name)
		then()
		return errors.New("nobody is there any more")
	}
	return nil
}

// identity is who makes a request: with a client, whoever that is; else
// impersonated by the administrator.
type identity struct {
	client *kubernetes.Clientset
	user   string
	uid    string
	pods   []string // extra authentication.kubernetes.io/pod-uid
	groups []string
}

// genuineOf is the identity of a pod as the API server knows it.
func genuineOf(t *testing.T, ctx context.Context, w *world.World, pod *servers.Identity) identity {
	t.Helper()
	account, err := w.Client.CoreV1().ServiceAccounts(pod.Namespace).Get(ctx, pod.ServiceAccount, metav1.GetOptions{})
	must(t, err)
	return identity{
		user: "system:serviceaccount:" + pod.Namespace + ":" + pod.ServiceAccount, uid: string(account.UID), pods: []string{string(pod.PodUID)},
		groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + pod.Namespace, "system:authenticated"},
	}
}

// forged is a request in the making.
type forged struct {
	csr *certificatesv1.CertificateSigningRequest
	who identity

	content *x509.CertificateRequest // taken apart, for what is signed anew
	key     crypto.Signer            // the stored pending one
}

// forge makes the good request again and lets the mutant change one thing of it.
func (i *intruder) forge(m *mutant, good *certificatesv1.CertificateSigningRequest) (*forged, error) {
	secret, err := i.w.Client.CoreV1().Secrets(world.Namespace).Get(i.ctx, certificateOf(good.Labels)+"-tls-next", metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("reading the pending key: %w", err)
	}
	f := &forged{who: i.genuine, csr: good.DeepCopy()}
	f.csr.ObjectMeta = metav1.ObjectMeta{Name: good.Name, Labels: good.Labels}
	if m.way == labelled {
		f.csr.Name = "pkiwarden-" + certificateOf(good.Labels) + "-labelled"
	}
	if f.key, err = decodeKey(secret.Data[corev1.TLSPrivateKeyKey]); err != nil {
		return nil, err
	}
	if err := f.read(good.Spec.Request); err != nil {
		return nil, err
	}
	if m.edit != nil {
		if err := m.edit(f); err != nil {
			return nil, fmt.Errorf("%s: %w", m.name, err)
		}
	}
	return f, nil
}

// submit has the API server take the request from whoever it is by.
func (i *intruder) submit(f *forged) (*certificatesv1.CertificateSigningRequest, error) {
	client := f.who.client
	if client == nil {
		config := i.w.Kubernetes.Config()
		config.Impersonate.UserName, config.Impersonate.UID, config.Impersonate.Groups = f.who.user, f.who.uid, f.who.groups
		if f.who.pods != nil {
			config.Impersonate.Extra = map[string][]string{podUID: f.who.pods}
		}
		var err error
		if client, err = kubernetes.NewForConfig(config); err != nil {
			return nil, err
		}
	}
	return client.CertificatesV1().CertificateSigningRequests().Create(i.ctx, f.csr, metav1.CreateOptions{})
}

const podUID = "authentication.kubernetes.io/pod-uid"

// finish finds those that were changed in flight.
func (i *intruder) finish(ctx context.Context) []*attack {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, a := range i.made {
		var pending errInFlight
		if errors.As(a.err, &pending) {
			a.stored, a.err = i.w.Client.CertificatesV1().CertificateSigningRequests().Get(ctx, pending.name, metav1.GetOptions{})
		}
	}
	return i.made
}

// tenant is somebody who may create requests, with a token of his own.
func (i *intruder) tenant(t *testing.T, namespace, account, pod string) identity {
	t.Helper()
	who, err := i.w.Kubernetes.ServiceAccountKubeconfig(i.ctx, namespace, account, pod)
	must(t, err)
	token, err := os.ReadFile(who.TokenFile)
	must(t, err)
	config := i.w.Kubernetes.Config()
	config.BearerToken = string(token)
	client, err := kubernetes.NewForConfig(config)
	must(t, err)
	return identity{client: client}
}
