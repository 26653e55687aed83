package e2e

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

type fields = map[string]any

// issued is a case of the conformance suites: a certificate as it is declared,
// and what comes of it.
type issued struct {
	name string
	set  fields

	dns, ips, uris []string // what it must have; dns is NAME.vault.svc by default
	commonName     string   // system:node:NAME by default
	key            string   // ECDSA 256 by default
	usage          x509.KeyUsage
	extended       []x509.ExtKeyUsage
	life           time.Duration // granted, by default an hour and what the built-in signer puts before it
	shorter        bool          // and there is a finding that it is shorter than asked
}

const own = "example.com/conformance" // the signer of what kubelet-serving does not sign

var (
	serving     = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	longName    = strings.Repeat("a-very-long-name.", 12) + "vault.svc"
	noSubject   = fields{"commonName": ""}
	noAddresses = []string{}
)

// The case lists of cert-manager's conformance suite of CertificateSigningRequest
// (test/e2e/suite/conformance/certificatesigningrequests) and of Kubernetes'
// TestCSRDuration. Those for the built-in signer have the usages and the subject
// that it insists on.
var issuedCases = []issued{
	{name: "rsa", set: fields{"key": fields{"algorithm": "RSA"}}, key: "RSA 2048"},
	{name: "rsa-3072", set: fields{"key": fields{"algorithm": "RSA", "size": 3072}}, key: "RSA 3072"},
	{name: "ecdsa", set: fields{"key": fields{"algorithm": "ECDSA"}}},
	{name: "ecdsa-384", set: fields{"key": fields{"algorithm": "ECDSA", "size": 384}}, key: "ECDSA 384"},
	{name: "ecdsa-521", set: fields{"key": fields{"algorithm": "ECDSA", "size": 521}}, key: "ECDSA 521"},
	{name: "ed25519", set: fields{"key": fields{"algorithm": "Ed25519"}}, key: "Ed25519"},
	{name: "without-key-encipherment", set: fields{"usages": []string{"digital signature", "server auth"}}, usage: x509.KeyUsageDigitalSignature},
	{name: "only-san", set: fields{"signer": own, "subject": noSubject}, commonName: "-"},
	{name: "addresses", set: fields{"ipAddresses": []string{"127.0.0.1", "8.8.8.8", "fd00::1"}}, ips: []string{"127.0.0.1", "8.8.8.8", "fd00::1"}},
	{name: "only-an-address", set: fields{"dnsNames": []string{}, "ipAddresses": []string{"8.8.8.8"}}, dns: []string{}, ips: []string{"8.8.8.8"}},
	{name: "cn-and-uri", set: fields{"signer": own, "subject": fields{"commonName": "test"}, "dnsNames": []string{}, "ipAddresses": noAddresses, "uris": []string{"spiffe://cluster.local/ns/sandbox/sa/foo"}},
		commonName: "test", dns: []string{}, ips: []string{}, uris: []string{"spiffe://cluster.local/ns/sandbox/sa/foo"}},
	{name: "only-a-uri", set: fields{"signer": own, "subject": noSubject, "dnsNames": []string{}, "ipAddresses": noAddresses, "uris": []string{"spiffe://cluster.local/ns/sandbox/sa/foo"}},
		commonName: "-", dns: []string{}, ips: []string{}, uris: []string{"spiffe://cluster.local/ns/sandbox/sa/foo"}},
	{name: "cn-is-a-name", set: fields{"signer": own, "subject": fields{"commonName": "one.example"}, "dnsNames": []string{"one.example", "two.example"}},
		commonName: "one.example", dns: []string{"one.example", "two.example"}},
	{name: "cn-is-no-name", set: fields{"signer": own, "subject": fields{"commonName": "three.example"}, "dnsNames": []string{"one.example"}},
		commonName: "three.example", dns: []string{"one.example"}},
	{name: "cn-of-64", set: fields{"signer": own, "subject": fields{"commonName": strings.Repeat("x", 64)}}, commonName: strings.Repeat("x", 64)},
	{name: "long-name", set: fields{"signer": own, "subject": noSubject, "dnsNames": []string{longName}}, commonName: "-", dns: []string{longName}},
	{name: "long-name-of-a-node", set: fields{"dnsNames": []string{longName}}, dns: []string{longName}},
	{name: "wildcard", set: fields{"dnsNames": []string{"*.vault-internal"}}, dns: []string{"*.vault-internal"}},
	{name: "usages", set: fields{"signer": own, "usages": []string{"server auth", "client auth", "digital signature", "data encipherment"}}, commonName: "-",
		usage: x509.KeyUsageDigitalSignature | x509.KeyUsageDataEncipherment, extended: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}},
	{name: "usages-of-no-server", set: fields{"signer": own, "usages": []string{"digital signature", "key encipherment"}}, commonName: "-", extended: []x509.ExtKeyUsage{}},
	{name: "seconds", set: fields{"lifetime": "3333s"}, life: 3333*time.Second + 5*time.Minute},

	{name: "duration-as-the-signers", set: fields{"lifetime": "24h"}, life: 24 * time.Hour},
	{name: "duration-longer", set: fields{"lifetime": "48h"}, life: 24 * time.Hour, shorter: true},
	{name: "duration-left-out", set: fields{"lifetime": nil}, life: 24 * time.Hour, shorter: true},
	{name: "duration-20h", set: fields{"lifetime": "20h"}, life: 20 * time.Hour},
	{name: "duration-10h", set: fields{"lifetime": "10h"}, life: 10 * time.Hour},
	{name: "duration-2h", set: fields{"lifetime": "2h"}, life: 2*time.Hour + 5*time.Minute},
	{name: "duration-30m", set: fields{"lifetime": "30m"}, life: 35 * time.Minute},
	{name: "duration-shortest", set: fields{"lifetime": "10m"}, life: 15 * time.Minute},
}

// conform holds a stored pair against its case.
func conform(c issued, secret *corev1.Secret, ca []byte) error {
	block, rest := pem.Decode(secret.Data[corev1.TLSCertKey])
	if block == nil || len(rest) > 0 {
		return fmt.Errorf("the Secret does not hold one certificate")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	key, err := decodeKey(secret.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		return err
	}
	if !bytes.Equal(secret.Data["ca.crt"], ca) {
		return fmt.Errorf("the Secret's CA is not the trusted one")
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return err
	}
	if public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(leaf.PublicKey) {
		return fmt.Errorf("the key is not the certificate's")
	}
	want := func(what string, have, wanted any) {
		if err == nil && fmt.Sprint(have) != fmt.Sprint(wanted) {
			err = fmt.Errorf("%s %v, want %v", what, have, wanted)
		}
	}
	want("key", kind(leaf.PublicKey), orElse(c.key, "ECDSA 256"))
	want("common name", leaf.Subject.CommonName, strings.Trim(orElse(c.commonName, "system:node:"+c.name), "-"))
	want("DNS names", sortedStrings(leaf.DNSNames), sortedStrings(orAll(c.dns, []string{c.name + ".vault.svc"})))
	want("addresses", sortedStrings(texts(leaf.IPAddresses, net.IP.String)), sortedStrings(orAll(c.ips, []string{"127.0.0.1"})))
	var uris []string
	for _, u := range leaf.URIs {
		uris = append(uris, u.String())
	}
	want("URIs", uris, c.uris)
	if c.usage == 0 {
		c.usage = serving
	}
	want("key usage", leaf.KeyUsage, c.usage)
	if c.extended == nil {
		c.extended = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	want("extended key usages", leaf.ExtKeyUsage, c.extended)
	want("CA", leaf.IsCA, false)
	if c.life != 0 {
		want("lifetime", leaf.NotAfter.Sub(leaf.NotBefore), c.life)
	}
	return err
}

func kind(public crypto.PublicKey) string {
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		return fmt.Sprintf("ECDSA %d", k.Curve.Params().BitSize)
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", k.N.BitLen())
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return fmt.Sprintf("%T", public)
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func orAll(s, other []string) []string {
	if s == nil {
		return other
	}
	return s
}

func sortedStrings(s []string) []string { return slices.Sorted(slices.Values(s)) }

func texts[T any](list []T, text func(T) string) []string {
	var out []string
	for _, v := range list {
		out = append(out, text(v))
	}
	return out
}

// refusals are the cases of both suites that pkiwarden does not do on purpose:
// it keeps serving certificates, and says so before anything is asked for.
var refusals = []struct {
	name string
	set  fields
	want string
}{
	{"only-a-common-name", fields{"signer": own, "subject": fields{"commonName": "test"}, "dnsNames": []string{}, "ipAddresses": []string{}}, `it names nothing: give dnsNames, ipAddresses or uris`},
	{"e-mail-addresses", fields{"emailAddresses": []string{"alice@example.com", "bob@example.com"}}, `certificates\[0\]\.emailAddresses: unknown key`},
	{"a-signing-ca", fields{"signer": own, "usages": []string{"digital signature", "key encipherment", "cert sign"}}, `"cert sign" is not one that a serving certificate may carry: use `},
	{"is-ca", fields{"isCA": true}, `certificates\[0\]\.isCA: unknown key`},
	{"the-signer-of-clients", fields{"signer": "kubernetes.io/kube-apiserver-client", "usages": []string{"digital signature", "key encipherment", "client auth"}}, `only kubernetes\.io/kubelet-serving does`},
	{"the-signer-of-kubelets", fields{"signer": "kubernetes.io/kube-apiserver-client-kubelet", "usages": []string{"digital signature", "client auth"}}, `only kubernetes\.io/kubelet-serving does`},
	{"the-legacy-signer", fields{"signer": "kubernetes.io/legacy-unknown"}, `for servers there is kubernetes\.io/kubelet-serving`},
	{"a-client-of-kubelet-serving", fields{"usages": []string{"digital signature", "key encipherment", "server auth", "client auth"}}, `does not give "client auth": .*another signer`},
	{"only-a-client-of-kubelet-serving", fields{"usages": []string{"digital signature", "key encipherment", "client auth"}}, `requires "server auth"`},
	{"a-uri-of-kubelet-serving", fields{"uris": []string{"spiffe://cluster.local/ns/sandbox/sa/foo"}}, `signs no URIs; another signer may`},
	{"masters", fields{"subject": fields{"organizations": []string{"system:masters"}}}, `signs only \[system:nodes\]`},
	{"duration-of-599s", fields{"lifetime": "599s"}, `expected 600s to 2147483647s`},
	{"duration-of-3m", fields{"lifetime": "3m"}, `expected 600s to 2147483647s`},
	{"duration-below-zero", fields{"lifetime": "-7m"}, `expected a duration above 0s`},
	{"a-wildcard-within", fields{"dnsNames": []string{"a.*.example"}}, `expected a DNS name such as`},
	{"a-name-too-long", fields{"dnsNames": []string{strings.Repeat("a.", 126) + "example"}}, `expected a DNS name such as`},
	{"a-label-too-long", fields{"dnsNames": []string{strings.Repeat("a", 64) + ".example"}}, `label that is .*longer than 63 octets`},
	{"a-common-name-too-long", fields{"signer": own, "subject": fields{"commonName": strings.Repeat("x", 65)}}, `has 65 characters, and a certificate carries 64`},
	{"rsa-1024", fields{"key": fields{"algorithm": "RSA", "size": 1024}}, `expected 2048, 3072 or 4096 bits for RSA, found 1024`},
	{"p-224", fields{"key": fields{"algorithm": "ECDSA", "size": 224}}, `expected 256, 384 or 521 bits for ECDSA, found 224`},
}

// TestConformance plays what Kubernetes and cert-manager demand of whatever
// handles CertificateSigningRequests, with pkiwarden as requester and approver,
// against the real API server and the real built-in signer.
func TestConformance(t *testing.T) {
	ctx, w := start(t, world.Options{NoApprover: true, SigningDuration: 24 * time.Hour})
	grant(t, ctx, w, "", "approves",
		rbacv1.PolicyRule{APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"certificatesigningrequests/approval"}, Verbs: []string{"update"}},
		rbacv1.PolicyRule{APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"signers"}, Verbs: []string{"approve"},
			ResourceNames: []string{"kubernetes.io/kubelet-serving", own, "exact.example.com/something", "domain.example.com/*", "other.example.com/not-something"}})
	root := clusterCA(t, w)
	startSigner(t, ctx, w, own, func(o *order) ([]byte, error) { return o.by(root) })

	var declared []any
	rule := rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get", "update"}}
	declare := func(name string, changes fields) {
		set := fields{"lifetime": "1h", "subject": nil}
		maps.Copy(set, changes)
		c := certificate(name, set)
		maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
		declared = append(declared, c)
		rule.ResourceNames = append(rule.ResourceNames, name+"-tls", name+"-tls-next")
	}
	for _, c := range issuedCases {
		declare(c.name, c.set)
	}
	for name, signer := range approvals {
		declare(name, fields{"signer": signer})
	}
	for _, name := range []string{operated, collected} {
		declare(name, fields{"approve": false})
	}
	grant(t, ctx, w, world.Namespace, "keeps-all", rule)
	pod, err := w.StartPod(ctx, world.PodOptions{Name: "vault-0", Set: fields{
		"certificates": declared, "deliver": nil, "vault": nil, "kubernetes.qps": 2000, "kubernetes.burst": 4000}})
	must(t, err)
	scenes(t, []scene{
		{"Refusals", func(t *testing.T) { refusedAtValidation(t, ctx, w) }},
		{"Issued", func(t *testing.T) { issuedAsDeclared(t, ctx, w, pod) }},
		{"FieldSelector", func(t *testing.T) { selectedBySigner(t, ctx, w) }},
		{"Approval", func(t *testing.T) { approvalNeedsTheSigner(t, ctx, w, pod) }},
		{"Signing", func(t *testing.T) { signingNeedsTheSigner(t, ctx, w, pod, root) }},
		{"Operations", func(t *testing.T) { apiOperations(t, ctx, w, pod) }},
		{"Collected", func(t *testing.T) { deletedCollection(t, ctx, w, pod) }},
	})
	noSecrets(t, ctx, w, pod)
}

func refusedAtValidation(t *testing.T, ctx context.Context, w *world.World) {
	pod, err := w.NewPod(ctx, world.PodOptions{Name: "vault-1"})
	must(t, err)
	for _, r := range refusals {
		t.Run(r.name, func(t *testing.T) {
			set := fields{"subject": nil}
			maps.Copy(set, r.set)
			c := certificate("refused", set)
			maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
			file := filepath.Join(t.TempDir(), "config.yaml")
			must(t, os.WriteFile(file, []byte(declaring(pod, c)), 0o600))
			result, err := w.Set.Run(ctx, servers.ProgramOptions{Name: "validate", Path: w.Pkiwarden, Args: []string{"validate", "--config=" + file}})
			must(t, err)
			if result.ExitCode != 64 || !regexp.MustCompile(r.want).MatchString(result.Stderr) {
				t.Errorf("exit code %d, want 64, and the message to match %s:\n%s", result.ExitCode, r.want, result.Stderr)
			}
		})
	}
}

// issuedAsDeclared waits for every certificate, and holds it against its case.
func issuedAsDeclared(t *testing.T, ctx context.Context, w *world.World, pod *world.Pod) {
	eventually(t, ctx, 3*time.Minute, "every certificate is there", func(ctx context.Context) error {
		for _, c := range issuedCases {
			if err := secretExists(w, world.Namespace, c.name+"-tls")(ctx); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
		return nil
	})
	shorter := 0
	for _, c := range issuedCases {
		t.Run(c.name, func(t *testing.T) {
			secret, err := w.Client.CoreV1().Secrets(world.Namespace).Get(ctx, c.name+"-tls", metav1.GetOptions{})
			must(t, err)
			if err := conform(c, secret, w.Kubernetes.CA.PEM); err != nil {
				t.Error(err)
			}
			if n := requestsFor(t, ctx, w, c.name); n != 1 {
				t.Errorf("%d requests, want 1", n)
			}
			if c.shorter {
				shorter++
				says(t, ctx, pod, 20*time.Second, `msg=finding rule=certificate-lifetime-shorter severity=warning subject="certificate `+c.name+`" summary="[^"]*24h0m0s[^"]*(48|8760)h0m0s`)
			}
		})
	}
	eventually(t, ctx, time.Minute, "only those are shorter than asked", metricIs(pod, `pkiwarden_findings{rule="certificate-lifetime-shorter",severity="warning"}`, float64(shorter)))
	list, err := w.Client.CertificatesV1().CertificateSigningRequests().List(ctx, metav1.ListOptions{})
	must(t, err)
	for n := range list.Items {
		csr := &list.Items[n]
		if !slices.ContainsFunc(issuedCases, func(c issued) bool { return c.name == certificateOf(csr.Labels) }) {
			continue
		}
		if !approved(csr) || condition(csr, certificatesv1.CertificateDenied) != nil || condition(csr, certificatesv1.CertificateFailed) != nil {
			t.Errorf("request %s: %+v", csr.Name, csr.Status.Conditions)
		}
	}
}

// TestCSRSignerNameFieldSelector of Kubernetes.
func selectedBySigner(t *testing.T, ctx context.Context, w *world.World) {
	for _, signer := range []string{"kubernetes.io/kubelet-serving", own} {
		want := 0
		for _, c := range issuedCases {
			if s, _ := c.set["signer"].(string); orElse(s, "kubernetes.io/kubelet-serving") == signer {
				want++
			}
		}
		list, err := w.Client.CertificatesV1().CertificateSigningRequests().List(ctx, metav1.ListOptions{FieldSelector: "spec.signerName=" + signer})
		must(t, err)
		list.Items = slices.DeleteFunc(list.Items, func(csr certificatesv1.CertificateSigningRequest) bool {
			return slices.Contains([]string{operated, collected}, certificateOf(csr.Labels))
		})
		if len(list.Items) != want {
			t.Errorf("%d requests of pkiwarden's have the signer %s, want %d", len(list.Items), signer, want)
		}
	}
}

// The certificates of TestCSRSignerNameApprovalPlugin, and their signers.
var approvals = map[string]string{
	"approval-exact":    "exact.example.com/something",
	"approval-domain":   "domain.example.com/something",
	"approval-no-right": "other.example.com/something",
}

func requestOf(t *testing.T, ctx context.Context, w *world.World, name string) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	var found *certificatesv1.CertificateSigningRequest
	must(t, world.Eventually(ctx, slowest, func(ctx context.Context) error {
		list, err := w.Client.CertificatesV1().CertificateSigningRequests().List(ctx, metav1.ListOptions{LabelSelector: "pkiwarden.io/certificate=" + world.Namespace + "_" + name + "-tls"})
		if err != nil {
			return err
		}
		if len(list.Items) != 1 {
			return fmt.Errorf("%d requests for %s", len(list.Items), name)
		}
		found = &list.Items[0]
		return nil
	}))
	return found
}

// approvalNeedsTheSigner is TestCSRSignerNameApprovalPlugin of Kubernetes: the
// right to approve is one for a signer, or for all of a domain.
func approvalNeedsTheSigner(t *testing.T, ctx context.Context, w *world.World, pod *world.Pod) {
	for _, name := range []string{"approval-exact", "approval-domain"} {
		eventually(t, ctx, time.Minute, name+" is approved", func(ctx context.Context) error {
			if csr := requestOf(t, ctx, w, name); !approved(csr) {
				return fmt.Errorf("request %s is not", csr.Name)
			}
			return nil
		})
	}
	says(t, ctx, pod, 20*time.Second, `msg=finding rule=permission-denied severity=critical subject="certificate approval-no-right" summary="permission denied: needs verb \\"approve\\" on signers.certificates.k8s.io with name \\"other.example.com/something\\""`)
	if csr := requestOf(t, ctx, w, "approval-no-right"); len(csr.Status.Conditions) > 0 {
		t.Errorf("request %s: %+v", csr.Name, csr.Status.Conditions)
	}
}

// signingNeedsTheSigner is TestCSRSignerNameSigningPlugin of Kubernetes: whoever
// may write the status of requests signs for his own signers only, and pkiwarden
// for none.
func signingNeedsTheSigner(t *testing.T, ctx context.Context, w *world.World, pod *world.Pod, root *authority) {
	status := rbacv1.PolicyRule{APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"certificatesigningrequests/status"}, Verbs: []string{"update"}}
	as := func(user string, names ...string) *kubernetes.Clientset {
		t.Helper()
		rules := []rbacv1.PolicyRule{status}
		if names != nil {
			rules = append(rules, rbacv1.PolicyRule{APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"signers"}, Verbs: []string{"sign"}, ResourceNames: names})
		}
		grantAll(t, ctx, w, "", "signs-"+user, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: "User", Name: user}, rules...)
		config := w.Kubernetes.Config()
		config.Impersonate.UserName = user
		client, err := kubernetes.NewForConfig(config)
		must(t, err)
		return client
	}
	sign := func(client *kubernetes.Clientset, name string) error {
		t.Helper()
		csr := requestOf(t, ctx, w, name)
		o, err := newOrder(csr)
		must(t, err)
		csr.Status.Certificate, err = o.by(root)
		must(t, err)
		_, err = client.CertificatesV1().CertificateSigningRequests().UpdateStatus(ctx, csr, metav1.UpdateOptions{})
		return err
	}
	if err := sign(as("wrong", "exact.example.com/not-something"), "approval-exact"); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `not permitted to sign requests with signerName "exact.example.com/something"`) {
		t.Errorf("signing without the right to: %v", err)
	}
	if err := sign(tokenClient(t, w, pod), "approval-exact"); !apierrors.IsForbidden(err) {
		t.Errorf("pkiwarden may sign: %v", err)
	}
	must(t, sign(as("exact", "exact.example.com/something"), "approval-exact"))
	must(t, sign(as("domain", "domain.example.com/*"), "approval-domain"))
	for _, name := range []string{"approval-exact", "approval-domain"} {
		eventually(t, ctx, time.Minute, name+" is published", secretExists(w, world.Namespace, name+"-tls"))
	}
}

// tokenClient has the rights of a pod.
func tokenClient(t *testing.T, w *world.World, pod *world.Pod) *kubernetes.Clientset {
	t.Helper()
	token, err := os.ReadFile(pod.Identity.TokenFile)
	must(t, err)
	config := w.Kubernetes.Config()
	config.BearerToken = string(token)
	client, err := kubernetes.NewForConfig(config)
	must(t, err)
	return client
}

const (
	operated  = "operated"  // every operation of the API is tried on its request
	collected = "collected" // whose request is deleted
)

// apiOperations is the conformance test "should support CSR API operations" of
// Kubernetes, played on the request of pkiwarden's: nothing of it disturbs it.
func apiOperations(t *testing.T, ctx context.Context, w *world.World, pod *world.Pod) {
	requests := w.Client.CertificatesV1().CertificateSigningRequests()
	resources, err := w.Client.Discovery().ServerResourcesForGroupVersion(certificatesv1.SchemeGroupVersion.String())
	must(t, err)
	for _, name := range []string{"certificatesigningrequests", "certificatesigningrequests/approval", "certificatesigningrequests/status"} {
		if !slices.ContainsFunc(resources.APIResources, func(r metav1.APIResource) bool { return r.Name == name }) {
			t.Errorf("the API server has no resource %s", name)
		}
	}

	csr := requestOf(t, ctx, w, operated)
	if s := csr.Spec.ExpirationSeconds; s == nil || *s != 3600 || csr.Spec.SignerName != "kubernetes.io/kubelet-serving" || csr.ResourceVersion == "" {
		t.Errorf("the request says %v seconds, signer %q, version %q", s, csr.Spec.SignerName, csr.ResourceVersion)
	}
	watched, err := requests.Watch(ctx, metav1.ListOptions{ResourceVersion: csr.ResourceVersion, FieldSelector: "metadata.name=" + csr.Name})
	must(t, err)
	defer watched.Stop()
	patched, err := requests.Patch(ctx, csr.Name, types.MergePatchType, []byte(`{"metadata":{"annotations":{"patched":"true"}}}`), metav1.PatchOptions{})
	must(t, err)
	if event := <-watched.ResultChan(); event.Type != watch.Modified || event.Object.(*certificatesv1.CertificateSigningRequest).Annotations["patched"] != "true" {
		t.Errorf("the watch says %v of %v", event.Type, event.Object)
	}
	patched.Annotations["updated"] = "true"
	patched.Spec.Request, patched.Spec.SignerName = []byte("nothing of this is taken"), "example.com/other"
	updated, err := requests.Update(ctx, patched, metav1.UpdateOptions{})
	must(t, err)
	if updated.Annotations["updated"] != "true" || !bytes.Equal(updated.Spec.Request, csr.Spec.Request) || updated.Spec.SignerName != csr.Spec.SignerName {
		t.Errorf("an update changed more, or less, than annotations: %+v", updated)
	}

	// A condition of somebody else's is no approval.
	_, err = requests.Patch(ctx, csr.Name, types.MergePatchType, []byte(`{"metadata":{"annotations":{"patchedapproval":"true"}},"status":{"conditions":[{"type":"ApprovalPatch","status":"True","reason":"e2e"}]}}`), metav1.PatchOptions{}, "approval")
	must(t, err)
	withStatus, err := requests.Patch(ctx, csr.Name, types.MergePatchType, []byte(`{"metadata":{"annotations":{"patchedstatus":"true"}},"status":{"conditions":[{"type":"ApprovalPatch","status":"True","reason":"e2e"},{"type":"StatusPatch","status":"True","reason":"e2e"}]}}`), metav1.PatchOptions{}, "status")
	must(t, err)
	if n := len(withStatus.Status.Conditions); n != 2 {
		t.Errorf("%d conditions, want 2", n)
	}
	says(t, ctx, pod, 20*time.Second, "certificate="+operated+" .*step=await-approval reason=\"request "+csr.Name+" awaits approval by somebody else")
	if _, err := w.Client.CoreV1().Secrets(world.Namespace).Get(ctx, operated+"-tls", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("there is a certificate before the approval: %v", err)
	}

	withStatus.Status.Conditions = append(withStatus.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "E2E"})
	_, err = requests.UpdateApproval(ctx, csr.Name, withStatus, metav1.UpdateOptions{})
	must(t, err)
	eventually(t, ctx, time.Minute, "the approved one is published", secretExists(w, world.Namespace, operated+"-tls"))

	// What was fetched is no longer needed.
	must(t, requests.Delete(ctx, csr.Name, metav1.DeleteOptions{}))
	if _, err := requests.Get(ctx, csr.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the deleted request: %v", err)
	}
	must(t, metricIs(pod, `pkiwarden_csr_requests_total{result="expired"}`, 0)(ctx))
}

// deletedCollection is the end of the same conformance test: pkiwarden notices
// that its request was taken away before anybody answered it.
func deletedCollection(t *testing.T, ctx context.Context, w *world.World, pod *world.Pod) {
	csr := requestOf(t, ctx, w, collected)
	must(t, w.Client.CertificatesV1().CertificateSigningRequests().DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "pkiwarden.io/certificate=" + csr.Labels["pkiwarden.io/certificate"]}))
	says(t, ctx, pod, 40*time.Second, "certificate="+collected+" .*step=drop-pending reason=\"request "+csr.Name+" was removed before it was answered or its certificate was fetched")
	eventually(t, ctx, time.Minute, "it is counted", metricIs(pod, `pkiwarden_csr_requests_total{result="expired"}`, 1))
}

// declaring is a whole configuration with one certificate.
func declaring(pod *world.Pod, certificate map[string]any) string {
	text, err := yaml.Marshal(fields{"apiVersion": "pkiwarden/v1", "kubernetes": fields{"kubeconfig": pod.Identity.Kubeconfig}, "certificates": []any{certificate}})
	if err != nil {
		panic(err)
	}
	return string(text)
}
