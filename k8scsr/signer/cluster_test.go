package signer

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// cluster is an API server for what the signer uses, with the semantics it relies
// on: pages in the order of names, updates that need the current resourceVersion,
// tokens that expire. The client-go fake's own store has none of that.
type cluster struct {
	t       *testing.T
	now     time.Time
	version int
	csrs    map[string]*certificatesv1.CertificateSigningRequest
	secret  *corev1.Secret
	denied  map[string]bool // "verb resource", "verb resource/subresource"
	before  func(call string)

	maxPage   int             // octets of requests in an answer of more than one; 0: any
	expired   int             // tokens to be refused
	resumable bool            // a refused token comes with another one
	lists     int             // answered
	heavy     map[string]bool // names whose update is too large

	mu       sync.Mutex // guards what watches use, which run beside the test
	watchers []*watch.FakeWatcher

	watchedFrom []string // resourceVersion of each watch that was asked for
	compacted   []string // too old ones
}

func newCluster(t *testing.T) (*cluster, *authorityPair) {
	ca := newPair(t, nil)
	c := &cluster{t: t, now: epoch, csrs: map[string]*certificatesv1.CertificateSigningRequest{}, denied: map[string]bool{}, heavy: map[string]bool{}}
	c.keep(ca)
	return c, ca
}

func (c *cluster) keep(ca *authorityPair) {
	c.secret = &corev1.Secret{Data: map[string][]byte{"tls.crt": ca.pem, "tls.key": ca.keyPEM(c.t)}}
}

// authorityPair is a CA.
type authorityPair struct {
	cert *x509.Certificate
	pem  []byte
	key  crypto.Signer
}

func newPair(t *testing.T, edit func(*x509.Certificate)) *authorityPair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "consul ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: epoch.AddDate(-1, 0, 0), NotAfter: epoch.AddDate(9, 0, 0), KeyUsage: x509.KeyUsageCertSign}
	if edit != nil {
		edit(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authorityPair{cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), key}
}

func (p *authorityPair) keyPEM(t *testing.T) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(p.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func (c *cluster) client() *fake.Clientset {
	cs := &fake.Clientset{}
	cs.AddReactor("*", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		obj, err := c.serve(a)
		return true, obj, err
	})
	cs.AddWatchReactor("*", func(a clienttesting.Action) (bool, watch.Interface, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		o := a.(clienttesting.WatchActionImpl).ListOptions
		c.watchedFrom = append(c.watchedFrom, o.ResourceVersion)
		if !o.AllowWatchBookmarks || o.TimeoutSeconds == nil {
			c.t.Errorf("a watch with %+v", o)
		}
		if slices.Contains(c.compacted, o.ResourceVersion) {
			return true, nil, apierrors.NewResourceExpired("too old resource version")
		}
		w := watch.NewFake()
		c.watchers = append(c.watchers, w)
		return true, w, nil
	})
	return cs
}

func (c *cluster) serve(a clienttesting.Action) (runtime.Object, error) {
	full := a.GetResource().Resource
	if a.GetSubresource() != "" {
		full += "/" + a.GetSubresource()
	}
	gr := schema.GroupResource{Group: a.GetResource().Group, Resource: full}
	call := a.GetVerb() + " " + full
	if c.before != nil {
		c.before(call)
	}
	if c.denied[call] {
		return nil, apierrors.NewForbidden(gr, "x", errors.New("RBAC says no"))
	}
	switch act := a.(type) {
	case clienttesting.GetActionImpl:
		if full == "secrets" {
			if c.secret == nil || a.GetNamespace() != "consul" || act.Name != "consul-ca" {
				return nil, apierrors.NewNotFound(gr, act.Name)
			}
			return c.secret.DeepCopy(), nil
		}
		if csr := c.csrs[act.Name]; csr != nil {
			return csr.DeepCopy(), nil
		}
		return nil, apierrors.NewNotFound(gr, act.Name)
	case clienttesting.ListActionImpl:
		return c.list(act.ListOptions)
	case clienttesting.UpdateActionImpl:
		return c.update(gr, act.Object.(*certificatesv1.CertificateSigningRequest).DeepCopy())
	}
	return nil, fmt.Errorf("the fake knows no %s", call)
}

// list answers pages; a token is the name after which it goes on.
func (c *cluster) list(o metav1.ListOptions) (runtime.Object, error) {
	if o.Limit == 0 || o.Limit > 64 {
		c.t.Errorf("a page of %d requests is asked for", o.Limit)
	}
	signer, ok := strings.CutPrefix(o.FieldSelector, "spec.signerName=")
	if !ok {
		c.t.Errorf("the selector is %q", o.FieldSelector)
	}
	if o.Continue != "" && c.expired > 0 {
		c.expired--
		err := apierrors.NewResourceExpired("the token expired")
		if c.resumable {
			err.ErrStatus.Continue = o.Continue
		}
		return nil, err
	}
	out := &certificatesv1.CertificateSigningRequestList{ListMeta: metav1.ListMeta{ResourceVersion: strconv.Itoa(c.version)}}
	size := 0
	for _, name := range slices.Sorted(maps.Keys(c.csrs)) {
		csr := c.csrs[name]
		if csr.Spec.SignerName != signer || name <= o.Continue {
			continue
		}
		if int64(len(out.Items)) == o.Limit {
			out.Continue = out.Items[len(out.Items)-1].Name
			break
		}
		size += len(csr.Spec.Request)
		out.Items = append(out.Items, *csr.DeepCopy())
	}
	if c.maxPage > 0 && size > c.maxPage && o.Limit > 1 {
		return nil, &http.MaxBytesError{Limit: int64(c.maxPage)}
	}
	c.lists++
	return out, nil
}

func (c *cluster) update(gr schema.GroupResource, csr *certificatesv1.CertificateSigningRequest) (runtime.Object, error) {
	was := c.csrs[csr.Name]
	switch {
	case gr.Resource != "certificatesigningrequests/status":
		return nil, apierrors.NewForbidden(gr, csr.Name, errors.New("only its status"))
	case was == nil:
		return nil, apierrors.NewNotFound(gr, csr.Name)
	case csr.ResourceVersion != was.ResourceVersion || csr.UID != was.UID:
		return nil, apierrors.NewConflict(gr, csr.Name, errors.New("the object has been modified"))
	case c.heavy[csr.Name]:
		return nil, apierrors.NewRequestEntityTooLargeError("limit is 3145728")
	case len(was.Status.Certificate) > 0:
		c.t.Errorf("request %s is answered twice", csr.Name)
	}
	c.put(csr)
	return csr.DeepCopy(), nil
}

// put stores a request as it is.
func (c *cluster) put(csr *certificatesv1.CertificateSigningRequest) {
	c.version++
	csr.ResourceVersion = strconv.Itoa(c.version)
	if was := c.csrs[csr.Name]; was != nil {
		csr.UID = was.UID
	} else {
		csr.UID = types.UID("uid-" + csr.Name)
	}
	c.csrs[csr.Name] = csr
}

// ask makes a request that is good, and approves it.
func (c *cluster) ask(name string, edit ...func(*certificatesv1.CertificateSigningRequest)) *certificatesv1.CertificateSigningRequest {
	c.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		DNSNames: []string{"server.dc1.consul"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}, key)
	if err != nil {
		c.t.Fatal(err)
	}
	csr := &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), SignerName: "pkiwarden.io/consul", Username: "somebody",
			Usages: []certificatesv1.KeyUsage{"digital signature", "server auth", "client auth"}, ExpirationSeconds: new(int32(3600)),
		},
		Status: certificatesv1.CertificateSigningRequestStatus{Conditions: []certificatesv1.CertificateSigningRequestCondition{
			{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue}}},
	}
	for _, f := range edit {
		f(csr)
	}
	c.put(csr)
	return csr
}

// unapproved takes the approval away.
func unapproved(csr *certificatesv1.CertificateSigningRequest) { csr.Status.Conditions = nil }

// leaf is the certificate of a request, nil where there is none.
func (c *cluster) leaf(name string) *x509.Certificate {
	c.t.Helper()
	block, _ := pem.Decode(c.csrs[name].Status.Certificate)
	if block == nil {
		return nil
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		c.t.Fatal(err)
	}
	return leaf
}

// subject is a signer under test and what came out of it.
type subject struct {
	*Signer
	t        *testing.T
	findings []k8scsr.Finding
	log      bytes.Buffer
	registry *prometheus.Registry
}

func consul(edit ...func(*Authority)) Authority {
	a := Authority{Secret: "consul-ca", Policy: k8scsr.SigningPolicy{
		Signer: "pkiwarden.io/consul", MaxLifetime: 24 * time.Hour,
		Usages:      []string{"digital signature", "server auth", "client auth"},
		DNSNames:    []string{"server.dc1.consul"},
		IPAddresses: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")},
	}}
	for _, f := range edit {
		f(&a)
	}
	return a
}

func (c *cluster) signer(all ...Authority) *subject {
	c.t.Helper()
	if all == nil {
		all = []Authority{consul()}
	}
	s := &subject{t: c.t, registry: prometheus.NewPedanticRegistry()}
	var err error
	s.Signer, err = New(Options{Client: c.client(), Authorities: all, Namespace: "consul", Registerer: s.registry,
		Now: func() time.Time { return c.now }, Chance: func() float64 { return 0 },
		Log:    slog.New(slog.NewTextHandler(&s.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Report: func(f []k8scsr.Finding) { s.findings = f }})
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

// once is one look that works.
func (s *subject) once() time.Time {
	s.t.Helper()
	next, err := s.OnceUntil(context.Background())
	if err != nil {
		s.t.Fatal(err)
	}
	return next
}

func (s *subject) rules() string {
	var out []string
	for _, f := range s.findings {
		out = append(out, f.Rule+":"+string(f.Severity))
	}
	return strings.Join(out, " ")
}

// gather is every series by its name and label values.
func (s *subject) gather() map[string]float64 {
	s.t.Helper()
	families, err := s.registry.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	out := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			name := family.GetName()
			for _, label := range m.GetLabel() {
				name += " " + label.GetValue()
			}
			out[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return out
}
