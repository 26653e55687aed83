package issuer

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
	"math/big"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

// cluster is an API server for what the issuer uses, with the semantics it
// relies on: names are unique, updates need the current resourceVersion, status
// and requester of a CSR are the server's. The client-go fake's own store has
// none of that.
type cluster struct {
	t       *testing.T
	now     time.Time
	version int
	objects map[string]metav1.Object // by resource/namespace/name
	missing map[string]bool          // namespaces
	denied  map[string]bool          // "verb resource", "verb resource/subresource"

	mu          sync.Mutex // guards what watches use, which run beside the test
	watchers    []*watch.FakeWatcher
	watchDenied bool

	ca       *authority
	sign     func(*certificatesv1.CertificateSigningRequest) // runs right after an approval; nil: nobody signs
	writes   []string
	keysUsed map[string]string // public key to CSR name, ever
	lastEnd  time.Time         // NotAfter of the live pair, ever rising while it is good
	mayOpen  int               // how many requests may be open at once

	mayShorten bool              // the live pair may end sooner than the one before
	before     map[string]func() // runs once, just before a call of this kind is served
}

func newCluster(t *testing.T) *cluster {
	c := &cluster{t: t, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), objects: map[string]metav1.Object{},
		missing: map[string]bool{}, denied: map[string]bool{}, keysUsed: map[string]string{}, ca: newAuthority(t), mayOpen: 1, before: map[string]func(){}}
	c.sign = c.issue
	c.put(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "vault", Name: "ca"}, Data: map[string]string{"ca.crt": string(c.ca.pem)}})
	return c
}

// process is one run of the issuer's program, in its own pod.
type process struct {
	cluster   *cluster
	pod       string
	killAfter int  // this many writes are done, then nothing any more; negative: never
	losesLast bool // the last write is done, but its answer never arrives
	ends      error
}

var errKilled = errors.New("the process is dead")

func (c *cluster) process(pod string) *process { return &process{c, pod, -1, false, errKilled} }

func (p *process) client() *fake.Clientset {
	cs := &fake.Clientset{}
	cs.AddReactor("*", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if p.killAfter == 0 {
			return true, nil, p.ends
		}
		writes := len(p.cluster.writes)
		obj, err := p.cluster.serve(a, p.pod)
		if p.killAfter > 0 && len(p.cluster.writes) > writes {
			if p.killAfter--; p.killAfter == 0 && p.losesLast {
				return true, nil, p.ends
			}
		}
		return true, obj, err
	})
	cs.AddWatchReactor("*", func(clienttesting.Action) (bool, watch.Interface, error) {
		p.cluster.mu.Lock()
		defer p.cluster.mu.Unlock()
		if p.cluster.watchDenied {
			return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "certificatesigningrequests"}, "", nil)
		}
		w := watch.NewFake()
		p.cluster.watchers = append(p.cluster.watchers, w)
		return true, w, nil
	})
	return cs
}

func (c *cluster) serve(a clienttesting.Action, pod string) (runtime.Object, error) {
	resource := a.GetResource().Resource
	full := resource
	if a.GetSubresource() != "" {
		full += "/" + a.GetSubresource()
	}
	call := a.GetVerb() + " " + full
	if get, ok := a.(clienttesting.GetActionImpl); ok {
		call += " " + get.Name
	}
	if f := c.before[call]; f != nil {
		delete(c.before, call)
		f()
	}
	gr := schema.GroupResource{Group: a.GetResource().Group, Resource: full}
	if c.denied[a.GetVerb()+" "+full] {
		return nil, apierrors.NewForbidden(gr, "x", errors.New("RBAC says no"))
	}
	key := func(name string) string { return resource + "/" + a.GetNamespace() + "/" + name }
	switch act := a.(type) {
	case clienttesting.GetActionImpl:
		if resource == "namespaces" && !c.missing[act.Name] {
			return &corev1.Namespace{}, nil
		}
		obj, ok := c.objects[key(act.Name)]
		if !ok {
			return nil, apierrors.NewNotFound(gr, act.Name)
		}
		return obj.(runtime.Object).DeepCopyObject(), nil
	case clienttesting.ListActionImpl:
		return c.list(act.ListRestrictions.Labels), nil
	case clienttesting.CreateActionImpl:
		if resource == "selfsubjectreviews" {
			return &authenticationv1.SelfSubjectReview{Status: authenticationv1.SelfSubjectReviewStatus{UserInfo: user(pod)}}, nil
		}
		obj := act.Object.DeepCopyObject().(metav1.Object)
		if c.missing[a.GetNamespace()] {
			return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, a.GetNamespace())
		}
		if _, exists := c.objects[key(obj.GetName())]; exists {
			return nil, apierrors.NewAlreadyExists(gr, obj.GetName())
		}
		if csr, ok := obj.(*certificatesv1.CertificateSigningRequest); ok {
			who := user(pod)
			csr.Spec.Username, csr.Spec.UID = who.Username, who.UID
			csr.Spec.Extra = map[string]certificatesv1.ExtraValue{extraPodUID: certificatesv1.ExtraValue(who.Extra[extraPodUID]),
				"authentication.kubernetes.io/credential-id": {"JTI=" + strconv.Itoa(c.version)}}
			csr.Status = certificatesv1.CertificateSigningRequestStatus{}
		}
		obj.SetCreationTimestamp(metav1.Time{Time: c.now})
		c.write(a.GetVerb()+" "+full, obj, true)
		return obj.(runtime.Object).DeepCopyObject(), nil
	case clienttesting.UpdateActionImpl:
		obj := act.Object.DeepCopyObject().(metav1.Object)
		if c.denied["approve signers"] && a.GetSubresource() == "approval" {
			return nil, apierrors.NewForbidden(gr, obj.GetName(), errors.New(`user not permitted to approve requests with signerName "x"`))
		}
		was, ok := c.objects[key(obj.GetName())]
		if !ok {
			return nil, apierrors.NewNotFound(gr, obj.GetName())
		}
		if obj.GetResourceVersion() != was.GetResourceVersion() || obj.GetUID() != was.GetUID() {
			return nil, apierrors.NewConflict(gr, obj.GetName(), errors.New("the object has been modified"))
		}
		c.write(a.GetVerb()+" "+full, obj, false)
		if csr, ok := obj.(*certificatesv1.CertificateSigningRequest); ok && has(csr, certificatesv1.CertificateApproved) && c.sign != nil {
			c.sign(csr)
		}
		return obj.(runtime.Object).DeepCopyObject(), nil
	}
	return nil, fmt.Errorf("the fake knows no %s of %s", a.GetVerb(), full)
}

func user(pod string) authenticationv1.UserInfo {
	return authenticationv1.UserInfo{Username: "system:serviceaccount:vault:pkiwarden", UID: "sa-uid",
		Extra: map[string]authenticationv1.ExtraValue{extraPodUID: {pod}}}
}

func (c *cluster) list(selector labels.Selector) *certificatesv1.CertificateSigningRequestList {
	out := &certificatesv1.CertificateSigningRequestList{}
	for _, csr := range c.csrs() {
		if selector.Matches(labels.Set(csr.Labels)) {
			out.Items = append(out.Items, *csr.DeepCopy())
		}
	}
	return out
}

func (c *cluster) csrs() (out []*certificatesv1.CertificateSigningRequest) {
	for _, obj := range c.objects {
		if csr, ok := obj.(*certificatesv1.CertificateSigningRequest); ok {
			out = append(out, csr)
		}
	}
	return out
}

func resourceOf(obj metav1.Object) string {
	switch obj.(type) {
	case *corev1.Secret:
		return "secrets"
	case *corev1.ConfigMap:
		return "configmaps"
	case *corev1.Service:
		return "services"
	case *appsv1.StatefulSet:
		return "statefulsets"
	case *networkingv1.Ingress:
		return "ingresses"
	}
	return "certificatesigningrequests"
}

// put stores an object as somebody else's doing.
func (c *cluster) put(obj metav1.Object) {
	c.version++
	obj.SetResourceVersion(strconv.Itoa(c.version))
	key := resourceOf(obj) + "/" + obj.GetNamespace() + "/" + obj.GetName()
	if was, ok := c.objects[key]; ok {
		obj.SetUID(was.GetUID())
	} else {
		obj.SetUID(types.UID("uid-" + strconv.Itoa(c.version)))
	}
	c.objects[key] = obj
}

// write stores an object as the issuer's doing, and checks the invariants.
func (c *cluster) write(what string, obj metav1.Object, created bool) {
	c.t.Helper()
	c.put(obj)
	c.writes = append(c.writes, what)
	if csr, ok := obj.(*certificatesv1.CertificateSigningRequest); ok && created {
		block, _ := pem.Decode(csr.Spec.Request)
		parsed, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil || parsed.CheckSignature() != nil {
			c.t.Fatalf("bad request: %v", err)
		}
		public := string(parsed.RawSubjectPublicKeyInfo)
		if other, used := c.keysUsed[public]; used {
			c.t.Fatalf("key of %s used again for %s", other, csr.Name)
		}
		c.keysUsed[public] = csr.Name
	}
	c.checkInvariants()
}

// checkInvariants holds I2 and I4 after every write: at most one open request,
// and the live pair matches and never ends earlier than it did.
func (c *cluster) checkInvariants() {
	c.t.Helper()
	open := 0
	for _, csr := range c.csrs() {
		if len(csr.Status.Certificate) == 0 && !has(csr, certificatesv1.CertificateDenied) && !has(csr, certificatesv1.CertificateFailed) {
			open++
		}
	}
	if open > c.mayOpen {
		c.t.Fatalf("%d open requests after %q", open, c.writes)
	}
	live, ok := c.objects["secrets/vault/vault-tls"].(*corev1.Secret)
	if !ok || live.Labels[LabelManagedBy] != ManagedBy {
		return
	}
	pair := k8scsr.ReadLive(live.Data["tls.crt"], live.Data["tls.key"])
	if pair.Problem != "" || pair.Leaf == nil {
		c.t.Fatalf("the live pair is broken after %q: %s", c.writes, pair.Problem)
	}
	if pair.Leaf.NotAfter.Before(c.lastEnd) && !c.mayShorten {
		c.t.Fatalf("the live pair ends %v, once %v", pair.Leaf.NotAfter, c.lastEnd)
	}
	c.lastEnd = pair.Leaf.NotAfter
}

func has(csr *certificatesv1.CertificateSigningRequest, want certificatesv1.RequestConditionType) bool {
	for _, condition := range csr.Status.Conditions {
		if condition.Type == want {
			return true
		}
	}
	return false
}

// decide adds a condition as an approver would.
func (c *cluster) decide(csr *certificatesv1.CertificateSigningRequest, kind certificatesv1.RequestConditionType, message string) {
	csr = csr.DeepCopy()
	csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: kind, Status: corev1.ConditionTrue, Reason: "Test", Message: message})
	c.put(csr)
}

// issue answers a request as the built-in signer does (kubernetes
// pkg/controller/certificates/authority/policies.go).
func (c *cluster) issue(csr *certificatesv1.CertificateSigningRequest) {
	block, _ := pem.Decode(csr.Spec.Request)
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		c.t.Fatal(err)
	}
	answered := csr.DeepCopy()
	answered.Status.Certificate = c.ca.sign(c.t, &x509.Certificate{
		SerialNumber: big.NewInt(int64(c.version)), Subject: req.Subject, DNSNames: req.DNSNames, IPAddresses: req.IPAddresses,
		NotBefore: c.now.Add(-5 * time.Minute), NotAfter: c.now.Add(time.Duration(*csr.Spec.ExpirationSeconds) * time.Second),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}, req.PublicKey)
	c.put(answered)
}

type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC), KeyUsage: x509.KeyUsageCertSign}
	a := &authority{cert: template, key: key}
	a.pem = a.sign(t, template, key.Public())
	block, _ := pem.Decode(a.pem)
	if a.cert, err = x509.ParseCertificate(block.Bytes); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *authority) sign(t *testing.T, template *x509.Certificate, public crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// subject is an issuer under test and what came out of it.
type subject struct {
	*Issuer
	findings []k8scsr.Finding
	log      bytes.Buffer
	registry *prometheus.Registry
}

// vaultTLS is the certificate that the tests want.
func vaultTLS(edit ...func(*Certificate)) Certificate {
	c := Certificate{
		Spec: k8scsr.Spec{Name: "vault-server", DNSNames: []string{"vault.example"}, IPAddresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
			Lifetime: 24 * time.Hour, Approve: true},
		Namespace: "vault", Secret: "vault-tls",
		Trust: TrustSource{ConfigMap: &KeyRef{Name: "ca"}},
	}
	for _, f := range edit {
		f(&c)
	}
	return c
}

func (p *process) issuer(certificates ...Certificate) *subject {
	p.cluster.t.Helper()
	s := &subject{registry: prometheus.NewPedanticRegistry()}
	var err error
	s.Issuer, err = New(Options{Client: p.client(), Certificates: List(certificates), Registerer: s.registry,
		Now: func() time.Time { return p.cluster.now }, Log: slog.New(slog.NewTextHandler(&s.log, nil)),
		Report: func(f []k8scsr.Finding) { s.findings = f }})
	if err != nil {
		p.cluster.t.Fatal(err)
	}
	return s
}

func (s *subject) once(t *testing.T) time.Time {
	t.Helper()
	next, err := s.Once(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func (s *subject) rules() string {
	var out []string
	for _, f := range s.findings {
		out = append(out, f.Rule)
	}
	return strings.Join(out, " ")
}

// leaf is the live certificate.
func (c *cluster) leaf() *x509.Certificate {
	live, ok := c.objects["secrets/vault/vault-tls"].(*corev1.Secret)
	if !ok {
		return nil
	}
	return k8scsr.ReadLive(live.Data["tls.crt"], live.Data["tls.key"]).Leaf
}

// gather is every series by its name and label value.
func (s *subject) gather(t *testing.T) map[string]float64 {
	t.Helper()
	families, err := s.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			out[family.GetName()+" "+m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return out
}
