package e2e

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

const (
	consulSigner = "pkiwarden.io/consul"
	consulServer = "server.dc1.consul"
)

// consulSigning is the signer that the stories configure.
func consulSigning() map[string]any {
	return map[string]any{
		"name": consulSigner, "caSecret": map[string]any{"name": "consul-ca"}, "maxLifetime": "12h",
		"usages": []string{"digital signature", "key encipherment", "server auth", "client auth"},
		"allow": map[string]any{
			"dnsNames": []string{consulServer, "*." + consulServer, "localhost"}, "ipAddresses": []string{"127.0.0.1/32", "10.0.0.0/8"},
		},
	}
}

// signerStory is a cluster with the component signer, a CA, and two instances
// that both lead.
type signerStory struct {
	t            *testing.T
	ctx          context.Context
	w            *world.World
	root, middle *authority
	keyPEM       []byte
	pods         [2]*world.Pod
}

func newSignerStory(t *testing.T) *signerStory {
	ctx, w := start(t, world.Options{Shape: world.Controller})
	s := &signerStory{t: t, ctx: ctx, w: w}
	must(t, w.Apply(ctx, overlay(t, "controller", "approver", "signer")))
	ourselves := rbacv1.Subject{Kind: "ServiceAccount", Name: "pkiwarden", Namespace: world.ControllerNamespace}
	grantAll(t, ctx, w, "", "approves-consul", ourselves, rbacv1.PolicyRule{
		APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"signers"}, ResourceNames: []string{consulSigner}, Verbs: []string{"approve"}})
	grantAll(t, ctx, w, world.Namespace, "keeps-consul", ourselves,
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{"consul-tls", "consul-tls-next"}, Verbs: []string{"get", "update"}},
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{"consul-trust"}, Verbs: []string{"get"}})

	s.root = newAuthority(t, "consul root", ecdsaKey(t, elliptic.P384()), nil, nil)
	s.middle = newAuthority(t, "consul ca", ecdsaKey(t, elliptic.P256()), s.root, func(c *x509.Certificate) {
		c.MaxPathLenZero = true
		c.NotAfter = time.Now().AddDate(1, 0, 0)
	})
	der, err := x509.MarshalPKCS8PrivateKey(s.middle.key)
	must(t, err)
	s.keyPEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	_, err = w.Client.CoreV1().Secrets(world.ControllerNamespace).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "consul-ca"}, Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{"tls.crt": certificatePEM(s.middle.cert, s.root.cert), "tls.key": s.keyPEM},
	}, metav1.CreateOptions{})
	must(t, err)
	_, err = w.Client.CoreV1().ConfigMaps(world.Namespace).Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "consul-trust"}, Data: map[string]string{"ca.crt": string(certificatePEM(s.root.cert))},
	}, metav1.CreateOptions{})
	must(t, err)

	declared := []any{certificate("consul", map[string]any{
		"subject": map[string]any{"commonName": consulServer}, "dnsNames": []string{consulServer, "*." + consulServer, "localhost"},
		"usages": []string{"digital signature", "server auth", "client auth"}, "signer": consulSigner, "lifetime": "1h",
		"trust": map[string]any{"configMap": map[string]any{"namespace": world.Namespace, "name": "consul-trust", "key": "ca.crt"}},
	})}
	for n := range s.pods {
		set := map[string]any{"vault": nil, "signers": []any{consulSigning()}, "leaderElection.backend": "none"}
		set["certificates"] = declared
		if n > 0 {
			set["certificates"] = []any{}
		}
		s.pods[n], err = w.NewPod(ctx, world.PodOptions{
			Name: fmt.Sprintf("pkiwarden-%d", n), Config: "controller/config.yaml", Namespace: world.ControllerNamespace, ServiceAccount: "pkiwarden", Set: set,
		})
		must(t, err)
	}
	return s
}

// ask makes a request as administrator.
func (s *signerStory) ask(name string, ask hostile) {
	s.t.Helper()
	key := ask.key
	if key == nil {
		key = ecdsaKey(s.t, elliptic.P256())
	}
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: consulServer}, DNSNames: []string{consulServer}, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 7)}}
	if ask.edit != nil {
		ask.edit(template)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	must(s.t, err)
	csr := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1.CertificateSigningRequestSpec{
		Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), SignerName: consulSigner,
		Usages: []certificatesv1.KeyUsage{"digital signature", "server auth", "client auth"}, ExpirationSeconds: new(int32(3600)),
	}}
	if ask.around != nil {
		ask.around(&csr.Spec)
	}
	csr, err = s.w.Client.CertificatesV1().CertificateSigningRequests().Create(s.ctx, csr, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatalf("%s: %v", name, err)
	}
	if ask.unapproved {
		return
	}
	csr.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test"}}
	_, err = s.w.Client.CertificatesV1().CertificateSigningRequests().UpdateApproval(s.ctx, name, csr, metav1.UpdateOptions{})
	must(s.t, err)
}

// hostile is a request that differs from the good one.
type hostile struct {
	name       string
	edit       func(*x509.CertificateRequest)
	around     func(*certificatesv1.CertificateSigningRequestSpec)
	key        crypto.Signer
	unapproved bool
	untouched  bool // neither signed nor failed
}

func extensionOf(t *testing.T, value any, id ...int) func(*x509.CertificateRequest) {
	t.Helper()
	der, err := asn1.Marshal(value)
	must(t, err)
	return func(c *x509.CertificateRequest) { c.ExtraExtensions = []pkix.Extension{{Id: id, Value: der}} }
}

func (s *signerStory) hostiles() []hostile {
	t := s.t
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	must(t, err)
	dns := func(name string) func(*x509.CertificateRequest) {
		return func(c *x509.CertificateRequest) { c.DNSNames = append(c.DNSNames, name) }
	}
	usages := func(list ...certificatesv1.KeyUsage) func(*certificatesv1.CertificateSigningRequestSpec) {
		return func(spec *certificatesv1.CertificateSigningRequestSpec) { spec.Usages = list }
	}
	return []hostile{
		{name: "dns-other", edit: dns("vault.example")},
		{name: "dns-deeper", edit: dns("a.b." + consulServer)},
		{name: "dns-suffix", edit: dns("evil" + consulServer)},
		{name: "dns-wildcard", edit: dns("*.dc1.consul")},
		{name: "dns-wildcard-deeper", edit: dns("*.a." + consulServer)},
		{name: "dns-upper-case", edit: dns("SERVER.dc1.consul")},
		{name: "dns-nul", edit: dns(consulServer + "\x00.evil")},
		{name: "ip-other", edit: func(c *x509.CertificateRequest) { c.IPAddresses = append(c.IPAddresses, net.IPv4(11, 0, 0, 1)) }},
		{name: "ip-six", edit: func(c *x509.CertificateRequest) { c.IPAddresses = append(c.IPAddresses, net.IPv6loopback) }},
		{name: "no-names", edit: func(c *x509.CertificateRequest) { c.DNSNames, c.IPAddresses = nil, nil }},
		{name: "uri", edit: func(c *x509.CertificateRequest) { c.URIs = []*url.URL{{Scheme: "spiffe", Host: "dc1.consul"}} }},
		{name: "email", edit: func(c *x509.CertificateRequest) { c.EmailAddresses = []string{"root@" + consulServer} }},
		{name: "cn-other", edit: func(c *x509.CertificateRequest) { c.Subject.CommonName = "system:admin" }},
		{name: "organization", edit: func(c *x509.CertificateRequest) { c.Subject.Organization = []string{"system:masters"} }},
		{name: "two-cns", edit: func(c *x509.CertificateRequest) {
			cn := pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: consulServer}
			c.Subject.ExtraNames = []pkix.AttributeTypeAndValue{cn, cn}
		}},
		{name: "ca", edit: extensionOf(t, struct{ CA bool }{true}, 2, 5, 29, 19)},
		{name: "key-usage-cert-sign", edit: extensionOf(t, asn1.BitString{Bytes: []byte{4}, BitLength: 6}, 2, 5, 29, 15)},
		{name: "ext-usage-code", edit: extensionOf(t, []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 3}}, 2, 5, 29, 37)},
		{name: "extension", edit: extensionOf(t, "x", 1, 2, 3)},
		{name: "usage-code", around: usages("digital signature", "server auth", "code signing")},
		{name: "usage-any", around: usages("digital signature", "server auth", "any")},
		{name: "usage-cert-sign", around: usages("digital signature", "server auth", "cert sign")},
		{name: "usage-no-purpose", around: usages("digital signature")},
		{name: "usage-no-key", around: usages("server auth")},
		{name: "key-rsa-1024", key: weak},
		{name: "key-p224", key: ecdsaKey(t, elliptic.P224())},
		{name: "key-of-the-ca", key: s.middle.key},
		{name: "padded", around: func(spec *certificatesv1.CertificateSigningRequestSpec) {
			spec.Request = append(spec.Request, bytes.Repeat([]byte("\n"), 200<<10)...)
		}},
		{name: "two-requests", around: func(spec *certificatesv1.CertificateSigningRequestSpec) {
			spec.Request = append(spec.Request, spec.Request...)
		}},
		{name: "text-before", around: func(spec *certificatesv1.CertificateSigningRequestSpec) {
			spec.Request = append([]byte("Subject: CN=harmless\n"), spec.Request...)
		}},
		{name: "unapproved", unapproved: true, untouched: true},
		{name: "of-another-signer", untouched: true, around: func(spec *certificatesv1.CertificateSigningRequestSpec) { spec.SignerName = "pkiwarden.io/other" }},
	}
}

// TestSignerRole: a Consul server's certificate, for server and client at once,
// comes from a CA in a Secret; what the policy does not name is never signed, by
// two instances at once as little as by one, with no more rights than are shipped.
func TestSignerRole(t *testing.T) {
	s := newSignerStory(t)
	ctx, w := s.ctx, s.w
	all := s.hostiles()
	for _, h := range all {
		s.ask(h.name, h)
	}
	for _, pod := range s.pods {
		must(t, pod.Start(ctx))
	}
	eventually(t, ctx, 3*time.Minute, "the Consul server has its certificate", secretExists(w, world.Namespace, "consul-tls"))
	s.checkPair()

	const many = 12
	for n := range many {
		s.ask(fmt.Sprintf("good-%02d", n), hostile{})
	}
	eventually(t, ctx, 3*time.Minute, "every request is answered", func(context.Context) error { return s.answered(all, many) })
	s.checkHostiles(all)
	eventually(t, ctx, 3*time.Minute, "each is signed once", func(ctx context.Context) error {
		signed := 0.0
		for _, pod := range s.pods {
			n, err := pod.Metric(ctx, `pkiwarden_signer_requests_total{result="signed",signer="`+consulSigner+`"}`)
			if err != nil {
				return err
			}
			signed += n
		}
		if signed != many+1 {
			return fmt.Errorf("%v were signed, want %d", signed, many+1)
		}
		return nil
	})
	eventually(t, ctx, 3*time.Minute, "the refusals are told", func(ctx context.Context) error {
		return metricIs(s.pods[0], `pkiwarden_findings{rule="signer-requests-refused",severity="warning"}`, 1)(ctx)
	})
	s.checkRights()
	s.checkKeyShowsNowhere()
}

// answered tells whether each good request has its certificate and each hostile
// one its condition.
func (s *signerStory) answered(all []hostile, many int) error {
	list, err := s.w.Client.CertificatesV1().CertificateSigningRequests().List(s.ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	good, failed := 0, 0
	for _, csr := range list.Items {
		if strings.HasPrefix(csr.Name, "good-") && len(csr.Status.Certificate) > 0 {
			good++
		}
		if condition(&csr, certificatesv1.CertificateFailed) != nil {
			failed++
		}
	}
	want := len(all)
	for _, h := range all {
		if h.untouched {
			want--
		}
	}
	if good != many || failed != want {
		return fmt.Errorf("%d of %d signed, %d of %d failed", good, many, failed, want)
	}
	return nil
}

func (s *signerStory) checkHostiles(all []hostile) {
	for _, h := range all {
		csr, err := s.w.Client.CertificatesV1().CertificateSigningRequests().Get(s.ctx, h.name, metav1.GetOptions{})
		must(s.t, err)
		failed := condition(csr, certificatesv1.CertificateFailed)
		switch {
		case len(csr.Status.Certificate) > 0:
			s.t.Errorf("%s: it was signed", h.name)
		case h.untouched && failed != nil:
			s.t.Errorf("%s: it is failed: %s", h.name, failed.Message)
		case !h.untouched && (failed == nil || failed.Reason != "RefusedByPkiwarden" || !strings.HasPrefix(failed.Message, "signer pkiwarden.io/consul does not sign it: ")):
			s.t.Errorf("%s: its condition is %+v", h.name, failed)
		}
	}
}

// checkPair looks at the certificate as a stranger to the program would.
func (s *signerStory) checkPair() {
	t := s.t
	secret, err := s.w.Client.CoreV1().Secrets(world.Namespace).Get(s.ctx, "consul-tls", metav1.GetOptions{})
	must(t, err)
	pair, err := tls.X509KeyPair(secret.Data["tls.crt"], secret.Data["tls.key"])
	must(t, err)
	if len(pair.Certificate) != 2 || !bytes.Equal(pair.Certificate[1], s.middle.cert.Raw) {
		t.Fatalf("%d certificates, want the leaf and its CA, without the root", len(pair.Certificate))
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	must(t, err)
	if !leaf.BasicConstraintsValid || leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature ||
		!slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}) {
		t.Errorf("constraints and usages: %t %t %v %v", leaf.BasicConstraintsValid, leaf.IsCA, leaf.KeyUsage, leaf.ExtKeyUsage)
	}
	public, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		t.Fatalf("the key is a %T", leaf.PublicKey)
	}
	point, err := public.Bytes()
	must(t, err)
	if sum := sha256.Sum256(point); !bytes.Equal(leaf.SubjectKeyId, sum[:20]) {
		t.Errorf("subject key identifier %x, want %x", leaf.SubjectKeyId, sum[:20])
	}
	if len(leaf.AuthorityKeyId) == 0 || !bytes.Equal(leaf.AuthorityKeyId, s.middle.cert.SubjectKeyId) {
		t.Errorf("authority key identifier %x, the CA's is %x", leaf.AuthorityKeyId, s.middle.cert.SubjectKeyId)
	}
	if bits := leaf.SerialNumber.BitLen(); leaf.SerialNumber.Sign() <= 0 || bits > 159 || bits < 100 {
		t.Errorf("the serial number has %d bits", bits)
	}
	if lifetime := leaf.NotAfter.Sub(leaf.NotBefore); lifetime != time.Hour+5*time.Minute {
		t.Errorf("it is valid for %v, want the hour asked for and five minutes back", lifetime)
	}
	if back := time.Since(leaf.NotBefore); back < 5*time.Minute || back > 15*time.Minute {
		t.Errorf("it begins %v ago", back)
	}
	if leaf.Subject.String() != "CN="+consulServer || !slices.Equal(slices.Sorted(slices.Values(leaf.DNSNames)), []string{"*." + consulServer, "localhost", consulServer}) || len(leaf.IPAddresses) != 1 {
		t.Errorf("subject %v, names %q %v", leaf.Subject, leaf.DNSNames, leaf.IPAddresses)
	}
	s.useBothWays(pair)
}

// useBothWays has the certificate serve and be a client of itself, as Consul's
// servers do among each other.
func (s *signerStory) useBothWays(pair tls.Certificate) {
	t := s.t
	roots := x509.NewCertPool()
	roots.AddCert(s.root.cert)
	one, other := net.Pipe()
	defer one.Close()
	defer other.Close()
	server := tls.Server(one, &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots})
	client := tls.Client(other, &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, ServerName: "node-3." + consulServer})
	served := make(chan error, 1)
	go func() {
		err := server.HandshakeContext(s.ctx)
		if err == nil {
			_, err = server.Write([]byte("x"))
		}
		served <- err
	}()
	if err := client.HandshakeContext(s.ctx); err != nil {
		t.Errorf("as a server's: %v", err)
	} else if _, err := client.Read(make([]byte, 1)); err != nil {
		t.Errorf("reading what is served: %v", err)
	}
	if err := <-served; err != nil {
		t.Errorf("as a client's: %v", err)
	}
}

// checkRights tries, with pkiwarden's own token, what the component does not give.
func (s *signerStory) checkRights() {
	t, ctx := s.t, s.ctx
	token, err := os.ReadFile(s.pods[0].Identity.TokenFile)
	must(t, err)
	config := s.w.Kubernetes.Config()
	config.BearerToken = string(token)
	client, err := kubernetes.NewForConfig(config)
	must(t, err)
	requests := client.CertificatesV1().CertificateSigningRequests()
	foreign, err := requests.Get(ctx, "of-another-signer", metav1.GetOptions{})
	must(t, err)
	foreign.Status.Certificate = certificatePEM(s.middle.cert)
	if _, err := requests.UpdateStatus(ctx, foreign, metav1.UpdateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("signing for another signer: %v, want 403", err)
	}
	if _, err := client.CoreV1().Secrets(world.ControllerNamespace).List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("listing Secrets: %v, want 403", err)
	}
	ca, err := client.CoreV1().Secrets(world.ControllerNamespace).Get(ctx, "consul-ca", metav1.GetOptions{})
	must(t, err)
	if _, err := client.CoreV1().Secrets(world.ControllerNamespace).Update(ctx, ca, metav1.UpdateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("writing the CA's Secret: %v, want 403", err)
	}
}

// status is what the program says of itself, as a document.
func (s *signerStory) status(pod *world.Pod) string {
	s.t.Helper()
	result, err := runStatus(s.ctx, s.w, pod, "-o", "json")
	must(s.t, err)
	return strings.NewReplacer(" ", "", "\n", "").Replace(result.Stdout)
}

// checkKeyShowsNowhere looks for the CA's key in all that the instances say.
func (s *signerStory) checkKeyShowsNowhere() {
	t, ctx := s.t, s.ctx
	key, ok := s.middle.key.(*ecdsa.PrivateKey)
	if !ok {
		t.Fatalf("the key is a %T", s.middle.key)
	}
	scalar, err := key.Bytes()
	must(t, err)
	words := []string{"PRIVATE KEY", fmt.Sprintf("%x", scalar), new(big.Int).SetBytes(scalar).String()}
	for line := range strings.Lines(string(s.keyPEM)) {
		if line = strings.TrimSpace(line); len(line) > 20 && !strings.HasPrefix(line, "-----") {
			words = append(words, line)
		}
	}
	if len(words) < 5 {
		t.Fatalf("only %d words to look for", len(words))
	}
	for _, pod := range s.pods {
		metrics, err := pod.Metrics(ctx)
		must(t, err)
		said := map[string]string{"log": pod.Log(), "metrics": metrics, "status": s.status(pod)}
		if !strings.Contains(said["status"], `"signers":[{`) || !strings.Contains(said["status"], `"name":"`+consulSigner+`"`) {
			t.Errorf("the status of %s says nothing of the signer: %s", pod.Name(), said["status"])
		}
		for what, text := range said {
			for _, word := range words {
				if strings.Contains(text, word) {
					t.Errorf("the %s of %s holds the CA's key", what, pod.Name())
				}
			}
		}
	}
	for _, kind := range []string{"csr", "events", "configmaps", "leases"} {
		out, err := s.w.Kubectl(ctx, "get", kind, "-A", "-o", "yaml")
		must(t, err)
		for _, word := range words {
			if strings.Contains(out, word) {
				t.Errorf("%s hold the CA's key", kind)
			}
		}
	}
}
