package e2e

import (
	"bytes"
	"context"
	"crypto"
	"crypto/elliptic"
	"crypto/md5"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

// badAnswer is one kind of answer that must not be used.
type badAnswer struct {
	name   string
	answer func(*evil, *order) ([]byte, error)
	// why is what pkiwarden says of it, a regular expression; "" where the API
	// server does not take it.
	why string
}

// evil is a signer that knows its business: the CA that everybody trusts is its.
type evil struct {
	t       *testing.T
	root    *authority
	sub     *authority // an intermediate under root
	other   *authority // of the root's name, which nobody trusts
	rsaRoot *authority // under root, with an RSA key
	narrow  *authority // under root, for other names only
	current time.Time  // when the certificate in use ends

	mu   sync.Mutex
	good bool // from now on
}

// with signs what the order asks for, but for what edit changes.
func with(edit func(*x509.Certificate)) func(*evil, *order) ([]byte, error) {
	return func(e *evil, o *order) ([]byte, error) { edit(o.template); return o.by(e.root) }
}

// behind signs what the order asks for and adds something.
func behind(more func(*evil, *order) ([]byte, error)) func(*evil, *order) ([]byte, error) {
	return func(e *evil, o *order) ([]byte, error) {
		answer, err := o.by(e.root)
		if err != nil {
			return nil, err
		}
		added, err := more(e, o)
		return append(answer, added...), err
	}
}

func constantly(answer []byte) func(*evil, *order) ([]byte, error) {
	return func(*evil, *order) ([]byte, error) { return answer, nil }
}

// forSomebody issues for a key that is not the order's.
func (e *evil) forSomebody(o *order) ([]byte, error) {
	key, err := ecdsaOn(elliptic.P256())()
	if err != nil {
		return nil, err
	}
	leaf, err := e.root.sign(o.template, key.Public())
	if err != nil {
		return nil, err
	}
	return certificatePEM(leaf), nil
}

// md5Signed is what crypto/x509 no longer makes: a certificate as wanted, but
// signed with MD5.
func (e *evil) md5Signed(o *order) ([]byte, error) {
	good, err := e.rsaRoot.sign(o.template, o.content.PublicKey)
	if err != nil {
		return nil, err
	}
	md5WithRSA := asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 4}
	sha256WithRSA := asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}
	from, _ := asn1.Marshal(sha256WithRSA)
	to, _ := asn1.Marshal(md5WithRSA)
	tbs := bytes.Replace(good.RawTBSCertificate, from, to, 1) // both OIDs have the same length
	sum := md5.Sum(tbs)
	signature, err := e.rsaRoot.key.Sign(rand.Reader, sum[:], crypto.MD5)
	if err != nil {
		return nil, err
	}
	der, err := asn1.Marshal(struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{asn1.RawValue{FullBytes: tbs}, pkix.AlgorithmIdentifier{Algorithm: md5WithRSA, Parameters: asn1.NullRawValue}, asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}})
	if err != nil {
		return nil, err
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), certificatePEM(e.rsaRoot.chain...)...), nil
}

var badAnswers = []badAnswer{
	{"another-key", func(e *evil, o *order) ([]byte, error) { return e.forSomebody(o) }, "for another key than the one requested"},
	{"the-ca-itself", func(e *evil, o *order) ([]byte, error) { return certificatePEM(e.root.cert), nil }, "for another key than the one requested"},
	{"intermediate-first", func(e *evil, o *order) ([]byte, error) {
		answer, err := o.by(e.sub)
		return append(certificatePEM(e.sub.cert), answer...), err
	}, "for another key than the one requested"},
	{"dns-missing", with(func(c *x509.Certificate) { c.DNSNames = c.DNSNames[:1] }), `DNS name dns-missing.vault.svc is missing`},
	{"dns-added", with(func(c *x509.Certificate) { c.DNSNames = append(c.DNSNames, "evil.example") }), "DNS name evil.example is not wanted"},
	{"dns-exchanged", with(func(c *x509.Certificate) { c.DNSNames[0] = "*.vault.svc" }), `DNS name \*\.vault\.svc is not wanted`},
	{"ip-missing", with(func(c *x509.Certificate) { c.IPAddresses = c.IPAddresses[:1] }), "IP address fd00::1 is missing"},
	{"ip-added", with(func(c *x509.Certificate) { c.IPAddresses = append(c.IPAddresses, net.IPv4(10, 0, 0, 1)) }), `IP address 10\.0\.0\.1 is not wanted`},
	{"uri-missing", with(func(c *x509.Certificate) { c.URIs = nil }), "URI spiffe://example/vault is missing"},
	{"uri-added", with(func(c *x509.Certificate) { c.URIs = append(c.URIs, &url.URL{Scheme: "spiffe", Host: "evil"}) }), "URI spiffe://evil is not wanted"},
	{"e-mail-added", with(func(c *x509.Certificate) { c.EmailAddresses = []string{"a@b.example"} }), "e-mail address a@b.example is not wanted"},
	{"names-none", with(func(c *x509.Certificate) { c.DNSNames, c.IPAddresses, c.URIs = nil, nil, nil }), "URI spiffe://example/vault is missing"},
	{"cn-changed", with(func(c *x509.Certificate) { c.Subject.CommonName = "consul" }), `common name is .+consul.+, not .+vault`},
	{"cn-added", with(func(c *x509.Certificate) {
		c.Subject.ExtraNames = []pkix.AttributeTypeAndValue{pair(commonName, "consul"), pair(commonName, "vault")}
	}), "common names are .+, more than one"},
	{"o-added", with(func(c *x509.Certificate) { c.Subject.Organization = append(c.Subject.Organization, "system:masters") }), `organizations are .+system:masters`},
	{"o-missing", with(func(c *x509.Certificate) { c.Subject.Organization = nil }), "organizations are"},
	{"usage-missing", with(func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }), "extended key usages are not exactly those"},
	{"usage-added", with(func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageCodeSigning) }), "extended key usages are not exactly those"},
	{"usage-any", with(func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageAny) }), "extended key usages are not exactly those"},
	{"key-usage-missing", with(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }), "key usages lack some of"},
	{"ca-true", with(func(c *x509.Certificate) { c.IsCA = true }), "it is a CA's certificate"},
	{"cert-sign", with(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }), "it is a CA's certificate"},
	{"expired", with(func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	}), "it expired 20"},
	{"not-yet-valid", with(func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
	}), "it is not valid before 20"},
	{"ending-sooner", func(e *evil, o *order) ([]byte, error) {
		o.template.NotAfter = e.current.Add(-time.Minute)
		return o.by(e.root)
	}, "not later than the current one"},
	{"ending-with-it", func(e *evil, o *order) ([]byte, error) { o.template.NotAfter = e.current; return o.by(e.root) }, "not later than the current one"},
	{"other-ca", func(e *evil, o *order) ([]byte, error) { return o.by(e.other) }, "the trust bundle does not vouch for it"},
	{"no-intermediate", func(e *evil, o *order) ([]byte, error) {
		answer, err := o.by(e.sub)
		block, _ := pem.Decode(answer)
		return pem.EncodeToMemory(block), err
	}, "the trust bundle does not vouch for it"},
	{"root-before-intermediate", func(e *evil, o *order) ([]byte, error) {
		answer, err := o.by(e.sub)
		block, _ := pem.Decode(answer)
		return append(pem.EncodeToMemory(block), certificatePEM(e.root.cert, e.sub.cert)...), err
	}, "certificate 2 of the chain signed none of those before it"},
	{"second-leaf", behind((*evil).forSomebody), "certificate 2 of the chain signed none of those before it"},
	{"foreign-ca-behind", behind(func(e *evil, _ *order) ([]byte, error) { return certificatePEM(e.other.cert), nil }), "certificate 2 of the chain signed none of those before it"},
	{"under-a-leaf", func(e *evil, o *order) ([]byte, error) {
		key, err := ecdsaOn(elliptic.P256())()
		if err != nil {
			return nil, err
		}
		middle := *o.template
		cert, err := e.root.sign(&middle, key.Public())
		if err != nil {
			return nil, err
		}
		return o.by(&authority{cert: cert, key: key, chain: []*x509.Certificate{cert}})
	}, "certificate 2 of the chain signed none of those before it"},
	{"outside-constraints", func(e *evil, o *order) ([]byte, error) { return o.by(e.narrow) }, "the trust bundle does not vouch for it: .*(not permitted|constraint)"},
	{"critical-extension", with(func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}, Critical: true, Value: []byte{5, 0}}}
	}), `it has the critical extension 1\.3\.6\.1\.4\.1\.99999\.1`},
	{"sha1", func(e *evil, o *order) ([]byte, error) {
		o.template.SignatureAlgorithm = x509.SHA1WithRSA
		return o.by(e.rsaRoot)
	}, "it is signed with SHA1-RSA"},
	{"md5", (*evil).md5Signed, "it is signed with MD5-RSA"},
	{"enormous-key-behind", behind(func(e *evil, o *order) ([]byte, error) {
		modulus := new(big.Int).Add(new(big.Int).Lsh(big.NewInt(1), 100_000), big.NewInt(1))
		cert, err := e.root.sign(&x509.Certificate{Subject: e.root.cert.Subject, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}, &rsa.PublicKey{N: modulus, E: 65537})
		if err != nil {
			return nil, err
		}
		return certificatePEM(cert), nil
	}), "RSA key of 100001 bits, more than 8192"},
	{"a-megabyte", behind(func(*evil, *order) ([]byte, error) { return bytes.Repeat([]byte("tells you nothing\n"), 1<<20/18), nil }), `it has \d{7} octets, more than 95000`},
	{"many-certificates", behind(func(e *evil, _ *order) ([]byte, error) { return bytes.Repeat(certificatePEM(e.root.cert), 20), nil }), "it has 21 certificates, more than 10"},
	{"very-many-certificates", behind(func(e *evil, _ *order) ([]byte, error) { return bytes.Repeat(certificatePEM(e.root.cert), 1000), nil }), `it has \d{6} octets, more than 95000`},
	{"huge-leaf", with(func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}, Value: bytes.Repeat([]byte{4}, 40_000)}}
	}), `its first certificate has \d{5} octets, more than 36500`},
	{"two-in-one-block", func(e *evil, o *order) ([]byte, error) {
		answer, err := o.by(e.root)
		block, _ := pem.Decode(answer)
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: append(block.Bytes, e.root.cert.Raw...)}), err
	}, "it is no certificate chain: certificate 1: x509: trailing data"},

	// What the API server keeps from us.
	{"junk", constantly([]byte("\x00\x01 junk")), ""},
	{"junk-in-pem", constantly(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("junk")})), ""},
	{"empty-block", constantly([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")), ""},
	{"der-for-pem", func(e *evil, o *order) ([]byte, error) {
		answer, err := o.by(e.root)
		return pemBytes(answer), err
	}, ""},
	{"private-key", behind(func(e *evil, _ *order) ([]byte, error) {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return nil, err
		}
		return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}), nil
	}), ""},
	{"pem-header", func(e *evil, o *order) ([]byte, error) {
		answer, err := o.by(e.root)
		block, _ := pem.Decode(answer)
		block.Headers = map[string]string{"Proc-Type": "4,ENCRYPTED"}
		return pem.EncodeToMemory(block), err
	}, ""},
	{"other-pem", func(e *evil, o *order) ([]byte, error) {
		answer, err := o.by(e.root)
		return bytes.ReplaceAll(answer, []byte("CERTIFICATE"), []byte("X509 CERTIFICATE")), err
	}, ""},
}

func (e *evil) answer(o *order) ([]byte, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.good {
		return o.by(e.sub)
	}
	n := slices.IndexFunc(badAnswers, func(b badAnswer) bool { return b.name == o.certificate() })
	if n < 0 {
		return nil, fmt.Errorf("a request for %q", o.certificate())
	}
	answer, err := badAnswers[n].answer(e, o)
	if err != nil {
		return nil, fmt.Errorf("answering for %s: %w", o.certificate(), err)
	}
	return answer, nil
}

// repent makes the signer a good one.
func (e *evil) repent() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.good = true
}

func newEvil(t *testing.T, w *world.World, current time.Time) *evil {
	e := &evil{t: t, root: clusterCA(t, w), current: current}
	e.sub = newAuthority(t, "sub", ecdsaKey(t, elliptic.P256()), e.root, nil)
	e.other = newAuthority(t, e.root.cert.Subject.CommonName, ecdsaKey(t, elliptic.P256()), nil, nil)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	e.rsaRoot = newAuthority(t, "rsa", rsaKey, e.root, nil)
	e.narrow = newAuthority(t, "narrow", ecdsaKey(t, elliptic.P256()), e.root, func(c *x509.Certificate) {
		c.PermittedDNSDomainsCritical, c.PermittedDNSDomains = true, []string{"only.example"}
	})
	return e
}

// TestEvilSigner has a signer answer in every bad way, one for each certificate.
// Whatever the API server takes of it, pkiwarden refuses for its own reason and
// keeps the pair in use, octet for octet; it asks no more often than it may; and
// it takes the good answer that comes in the end.
func TestEvilSigner(t *testing.T) {
	ctx, w := start(t, world.Options{NoApprover: true})
	grant(t, ctx, w, "", "approves",
		rbacv1.PolicyRule{APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"certificatesigningrequests/approval"}, Verbs: []string{"update"}},
		rbacv1.PolicyRule{APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"signers"}, ResourceNames: []string{"example.com/evil"}, Verbs: []string{"approve"}})
	current := time.Now().Add(10 * time.Minute).Truncate(time.Second)
	e := newEvil(t, w, current)
	s := startSigner(t, ctx, w, "example.com/evil", e.answer)

	before := map[string]*corev1.Secret{}
	var declared []any
	rule := rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get", "update"}}
	for _, b := range badAnswers {
		c := rich(b.name)
		c["signer"] = "example.com/evil"
		declared = append(declared, c)
		rule.ResourceNames = append(rule.ResourceNames, b.name+"-tls", b.name+"-tls-next")
		before[b.name] = inUse(t, ctx, w, e.root, b.name, current)
	}
	grant(t, ctx, w, world.Namespace, "keeps-all", rule)
	pod, err := w.StartPod(ctx, world.PodOptions{Name: "vault-0", Set: map[string]any{
		"certificates": declared, "deliver": nil, "vault": nil, "kubernetes.qps": 2000, "kubernetes.burst": 4000}})
	must(t, err)

	// Each is refused for its own reason, or does not get through.
	for _, b := range badAnswers {
		if b.why != "" {
			says(t, ctx, pod, 40*time.Second, `certificate=`+b.name+` .*step=drop-pending reason=".*certificate of request pkiwarden-`+b.name+`-tls-\w+ was refused: .*`+b.why)
		}
	}
	refused := time.Now()
	eventually(t, ctx, time.Minute, "the API server keeps the rest from us", func(context.Context) error {
		return sameNames(s.rejections(), func(b badAnswer) bool { return b.why == "" })
	})
	count := 0
	for _, b := range badAnswers {
		if b.why == "" {
			continue
		}
		count++
		if n := requestsFor(t, ctx, w, b.name); n != 1 {
			t.Errorf("%s: %d requests before the back-off is over, want 1", b.name, n)
		}
	}
	eventually(t, ctx, 2*time.Minute, "the findings say so", metricIs(pod, `pkiwarden_findings{rule="certificate-refused",severity="warning"}`, float64(count)))
	must(t, metricIs(pod, `pkiwarden_csr_requests_total{result="refused"}`, float64(count))(ctx))
	must(t, metricIs(pod, `pkiwarden_csr_requests_total{result="issued"}`, 0)(ctx))
	unchanged(t, ctx, w, before)
	t.Logf("%d bad answers refused, %d more by the API server itself", count, len(badAnswers)-count)

	// After the back-off it asks again, once, and a good answer is taken.
	e.repent()
	s.again()
	eventually(t, ctx, time.Until(refused.Add(4*time.Minute)), "a good answer is published for each", func(ctx context.Context) error {
		for _, b := range badAnswers {
			if err := renewed(ctx, w, b, before[b.name], e.sub.cert); err != nil {
				return err
			}
		}
		return nil
	})
	for _, b := range badAnswers {
		if n := requestsFor(t, ctx, w, b.name); b.why != "" && n != 2 {
			t.Errorf("%s: %d requests, want 2", b.name, n)
		}
	}
	noSecrets(t, ctx, w, pod)
}

// inUse stores a good pair that is due for renewal.
func inUse(t *testing.T, ctx context.Context, w *world.World, ca *authority, name string, notAfter time.Time) *corev1.Secret {
	t.Helper()
	key := ecdsaKey(t, elliptic.P256())
	leaf, err := ca.sign(&x509.Certificate{
		Subject:  pkix.Name{CommonName: "vault", Organization: []string{"ops", "security"}},
		DNSNames: []string{name + ".vault.svc", "*.vault-internal"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.ParseIP("fd00::1")},
		URIs:      []*url.URL{{Scheme: "spiffe", Host: "example", Path: "/vault"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: notAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, key.Public())
	must(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	secret, err := w.Client.CoreV1().Secrets(world.Namespace).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name + "-tls"}, Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{
			corev1.TLSCertKey: certificatePEM(leaf), corev1.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), "ca.crt": w.Kubernetes.CA.PEM,
		},
	}, metav1.CreateOptions{})
	must(t, err)
	return secret
}

func sameNames(have map[string]error, want func(badAnswer) bool) error {
	var names []string
	for _, b := range badAnswers {
		if want(b) {
			names = append(names, b.name)
		}
	}
	slices.Sort(names)
	if got := slices.Sorted(maps.Keys(have)); !slices.Equal(got, names) {
		return fmt.Errorf("rejected %q, want %q: %v", got, names, have)
	}
	return nil
}

// unchanged checks that no pair in use was written, let alone changed.
func unchanged(t *testing.T, ctx context.Context, w *world.World, before map[string]*corev1.Secret) {
	t.Helper()
	for name, was := range before {
		is, err := w.Client.CoreV1().Secrets(world.Namespace).Get(ctx, was.Name, metav1.GetOptions{})
		must(t, err)
		if is.ResourceVersion != was.ResourceVersion || !maps.EqualFunc(is.Data, was.Data, bytes.Equal) {
			t.Errorf("%s: the pair in use was written: version %s, was %s", name, is.ResourceVersion, was.ResourceVersion)
		}
	}
}

// renewed checks that a certificate has its good answer.
func renewed(ctx context.Context, w *world.World, b badAnswer, was *corev1.Secret, sub *x509.Certificate) error {
	is, err := w.Client.CoreV1().Secrets(world.Namespace).Get(ctx, was.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	certificate := is.Data[corev1.TLSCertKey]
	if bytes.Equal(certificate, was.Data[corev1.TLSCertKey]) {
		return fmt.Errorf("%s still has the old pair", b.name)
	}
	if !strings.HasSuffix(string(certificate), string(certificatePEM(sub))) || bytes.Count(certificate, []byte("BEGIN")) != 2 {
		return fmt.Errorf("%s: it is not leaf and intermediate:\n%s", b.name, certificate)
	}
	return nil
}
