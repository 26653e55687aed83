package issuer

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

func TestIssueFromNothing(t *testing.T) {
	c := newCluster(t)
	s := c.process("pod-a").issuer(vaultTLS())
	next := s.once(t)
	want := []string{
		"create secrets", "create certificatesigningrequests", // key, request
		"update certificatesigningrequests/approval", "create secrets", "update secrets", // approval, live pair, key dropped
	}
	if !reflect.DeepEqual(c.writes, want) {
		t.Errorf("writes:\n%q\nwant:\n%q", c.writes, want)
	}
	if next.Sub(c.now) != time.Minute {
		t.Errorf("looks again after %v", next.Sub(c.now))
	}
	if len(s.findings) != 0 {
		t.Errorf("findings: %+v", s.findings)
	}

	live := c.objects["secrets/vault/vault-tls"].(*corev1.Secret)
	if live.Type != corev1.SecretTypeTLS || len(live.Data) != 3 || !bytes.Equal(live.Data["ca.crt"], c.ca.pem) {
		t.Errorf("live Secret of type %s, CA:\n%s", live.Type, live.Data["ca.crt"])
	}
	csr := c.csrs()[0]
	wantMarks := map[string]string{AnnotationSigner: "kubernetes.io/kubelet-serving", AnnotationIssuedAt: "2026-03-01T12:00:00Z", AnnotationRequest: csr.Name,
		AnnotationTrusted: fmt.Sprintf(`{"%x":"2026-03-01T12:00:00Z"}`, sha256.Sum256(c.ca.cert.Raw))}
	if !reflect.DeepEqual(live.Annotations, wantMarks) || live.Labels[LabelCertificate] != "vault_vault-tls" || live.Labels[LabelManagedBy] != "pkiwarden" {
		t.Errorf("marks %q %q", live.Labels, live.Annotations)
	}
	if !strings.HasPrefix(csr.Name, "pkiwarden-vault-tls-") || csr.Labels[LabelCertificate] != "vault_vault-tls" ||
		csr.Spec.SignerName != "kubernetes.io/kubelet-serving" || *csr.Spec.ExpirationSeconds != 86400 {
		t.Errorf("request %s: %+v", csr.Name, csr.Spec)
	}
	kept := c.objects["secrets/vault/vault-tls-next"].(*corev1.Secret)
	if kept.Type != corev1.SecretTypeOpaque || len(kept.Data) != 0 {
		t.Errorf("next Secret of type %s still has %d entries", kept.Type, len(kept.Data))
	}

	writes := len(c.writes)
	s.once(t)
	if len(c.writes) != writes {
		t.Errorf("writes again: %q", c.writes[writes:])
	}
	want24 := float64(c.now.Add(24 * time.Hour).Unix())
	got := s.gather(t)
	renewal := got["pkiwarden_certificate_renewal_timestamp_seconds vault-server"]
	if from := float64(c.now.Add(15*time.Hour + 50*time.Minute).Unix()); renewal < from || renewal > from+1.2*3600 {
		t.Errorf("renewal at %v", time.Unix(int64(renewal), 0))
	}
	delete(got, "pkiwarden_certificate_renewal_timestamp_seconds vault-server")
	wantMetrics := map[string]float64{
		"pkiwarden_certificate_not_after_timestamp_seconds vault-server":  want24,
		"pkiwarden_certificate_not_before_timestamp_seconds vault-server": want24 - 86400 - 300,
		"pkiwarden_csr_requests_total approved":                           1, "pkiwarden_csr_requests_total created": 1,
		"pkiwarden_csr_requests_total denied": 0, "pkiwarden_csr_requests_total expired": 0,
		"pkiwarden_csr_requests_total failed": 0, "pkiwarden_csr_requests_total issued": 1,
		"pkiwarden_csr_requests_total refused": 0,
	}
	if !reflect.DeepEqual(got, wantMetrics) {
		t.Errorf("metrics %v\nwant %v", got, wantMetrics)
	}
}

func TestMetricsAreRegisteredOnceAndRemoved(t *testing.T) {
	c := newCluster(t)
	s := c.process("pod-a").issuer(vaultTLS())
	s.once(t)
	o := Options{Client: c.process("pod-b").client(), Certificates: List{vaultTLS()}, Registerer: s.registry}
	if _, err := New(o); err == nil {
		t.Fatal("two issuers share one registry")
	}
	s.Unregister()
	if left := s.gather(t); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := New(o); err != nil {
		t.Error(err)
	}
}

// TestRenewals lets ten-minute certificates be renewed for a shift, looking only
// when told to.
func TestRenewals(t *testing.T) {
	c := newCluster(t)
	s := c.process("pod-a").issuer(vaultTLS(func(c *Certificate) { c.Spec.Lifetime = 10 * time.Minute }))
	shift, least, most := 8*time.Hour, 66, 73
	if testing.Short() {
		shift, least, most = 2*time.Hour, 16, 19
	}
	rounds := 0
	for end := c.now.Add(shift); c.now.Before(end); rounds++ {
		next := s.once(t)
		if leaf := c.leaf(); leaf == nil || !c.now.Before(leaf.NotAfter.Add(-3*time.Minute)) {
			t.Fatalf("at %v the live certificate is %v", c.now, leaf)
		}
		c.now = next
	}
	// One every 396 s, met by looking once a minute at least.
	if n := len(c.keysUsed); n < least || n > most {
		t.Errorf("%d certificates in %v, in %d rounds", n, shift, rounds)
	}
	if n := len(c.objects["secrets/vault/vault-tls-next"].(*corev1.Secret).Annotations[AnnotationRecord]); n > 2048 {
		t.Errorf("the record has grown to %d octets", n)
	}
}

func existing(t *testing.T, c *cluster, edit ...func(*corev1.Secret)) *corev1.Secret {
	t.Helper()
	key, err := generateKey(k8scsr.Key{Algorithm: k8scsr.ECDSA, Size: 256})
	if err != nil {
		t.Fatal(err)
	}
	seconds, usages := int32(86400), []certificatesv1.KeyUsage{"server auth"}
	pem, err := signRequest(vaultTLS().Spec.WithDefaults(), key)
	if err != nil {
		t.Fatal(err)
	}
	csr := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "by-hand"},
		Spec: certificatesv1.CertificateSigningRequestSpec{Request: pem, ExpirationSeconds: &seconds, Usages: usages}}
	c.issue(csr)
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "vault", Name: "vault-tls", Labels: map[string]string{"team": "x"}}, Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{"tls.crt": c.objects["certificatesigningrequests//by-hand"].(*certificatesv1.CertificateSigningRequest).Status.Certificate, "tls.key": key.pem, "extra": []byte("kept")}}
	for _, f := range edit {
		f(s)
	}
	c.put(s)
	return s
}

func TestAdoptsAGoodPair(t *testing.T) {
	c := newCluster(t)
	was := existing(t, c)
	s := c.process("pod-a").issuer(vaultTLS())
	s.once(t)
	if len(c.writes) != 0 || len(s.findings) != 0 {
		t.Fatalf("writes %q, findings %s", c.writes, s.rules())
	}
	c.now = c.now.Add(17 * time.Hour)
	s.once(t)
	is := c.objects["secrets/vault/vault-tls"].(*corev1.Secret)
	if bytes.Equal(is.Data["tls.crt"], was.Data["tls.crt"]) || bytes.Equal(is.Data["tls.key"], was.Data["tls.key"]) {
		t.Error("it was not renewed")
	}
	if string(is.Data["extra"]) != "kept" || is.Labels["team"] != "x" || is.Labels[LabelManagedBy] != ManagedBy {
		t.Errorf("data %v, labels %v", is.Data["extra"], is.Labels)
	}
}

func TestObstacles(t *testing.T) {
	yes := true
	cases := map[string]struct {
		given func(*testing.T, *cluster, *Certificate)
		rules string
		says  string
	}{
		"Opaque": {func(t *testing.T, c *cluster, _ *Certificate) {
			existing(t, c, func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque })
		}, k8scsr.RuleSecretType, `Secret vault/vault-tls exists with type "Opaque", not "kubernetes.io/tls", and a type cannot be changed`},
		"immutable": {func(t *testing.T, c *cluster, _ *Certificate) {
			existing(t, c, func(s *corev1.Secret) { s.Immutable = &yes })
		}, k8scsr.RuleSecretImmutable, "is immutable"},
		"a CA's": {func(t *testing.T, c *cluster, _ *Certificate) {
			existing(t, c, func(s *corev1.Secret) { s.Data["tls.crt"] = c.ca.pem })
		}, "certificate-broken secret-not-ours", `Secret vault/vault-tls was not written by pkiwarden, and is left as it is: it holds the certificate of a CA, "CN=ca"`},
		"cert-manager's": {func(t *testing.T, c *cluster, _ *Certificate) {
			existing(t, c, func(s *corev1.Secret) {
				s.Annotations = map[string]string{"cert-manager.io/certificate-name": "vault"}
			})
		}, k8scsr.RuleSecretForeign, "cert-manager keeps it, for Certificate vault"},
		"a controller's": {func(t *testing.T, c *cluster, _ *Certificate) {
			existing(t, c, func(s *corev1.Secret) {
				s.OwnerReferences = []metav1.OwnerReference{{Kind: "SealedSecret", Name: "vault", Controller: &yes}}
			})
		}, k8scsr.RuleSecretForeign, "it belongs to SealedSecret vault"},
		"next taken": {func(t *testing.T, c *cluster, _ *Certificate) {
			existing(t, c, func(s *corev1.Secret) { s.Name = "vault-tls-next" })
		}, "certificate-missing secret-name-taken", "exists and is not ours"},
		"trust absent": {func(t *testing.T, c *cluster, _ *Certificate) {
			delete(c.objects, "configmaps/vault/ca")
		}, "certificate-missing trust-unreadable", "the trust bundle (ConfigMap vault/ca, key ca.crt) cannot be used: it does not exist"},
		"trust without the key": {func(_ *testing.T, _ *cluster, c *Certificate) {
			c.Trust.ConfigMap.Key = "bundle.pem"
		}, "certificate-missing trust-unreadable", "it does not exist or has no such key"},
		"trust junk": {func(t *testing.T, c *cluster, _ *Certificate) {
			c.put(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "vault", Name: "ca"}, Data: map[string]string{"ca.crt": "junk"}})
		}, "certificate-missing trust-unreadable", "no PEM block of type CERTIFICATE in 4 octets"},
		"trust file absent": {func(t *testing.T, _ *cluster, c *Certificate) {
			c.Trust = TrustSource{File: filepath.Join(t.TempDir(), "none.pem")}
		}, "certificate-missing trust-unreadable", "none.pem: no such file"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			cert := vaultTLS()
			tc.given(t, c, &cert)
			s := c.process("pod-a").issuer(cert)
			s.once(t)
			if len(c.writes) != 0 || s.rules() != tc.rules || !strings.Contains(fmt.Sprint(s.findings), tc.says) {
				t.Errorf("writes %q, findings %+v", c.writes, s.findings)
			}
		})
	}
}

func TestTrustSources(t *testing.T) {
	for name, given := range map[string]func(*testing.T, *cluster, *Certificate){
		"Secret": func(t *testing.T, c *cluster, cert *Certificate) {
			c.put(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "ca"}, Data: map[string][]byte{"root.pem": c.ca.pem}})
			cert.Trust = TrustSource{Secret: &KeyRef{Namespace: "other", Name: "ca", Key: "root.pem"}}
		},
		"file": func(t *testing.T, c *cluster, cert *Certificate) {
			cert.Trust = TrustSource{File: filepath.Join(t.TempDir(), "ca.pem")}
			if err := os.WriteFile(cert.Trust.File, c.ca.pem, 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		c := newCluster(t)
		cert := vaultTLS()
		given(t, c, &cert)
		s := c.process("pod-a").issuer(cert)
		s.once(t)
		live, ok := c.objects["secrets/vault/vault-tls"].(*corev1.Secret)
		if !ok || !bytes.Equal(live.Data["ca.crt"], c.ca.pem) || len(s.findings) != 0 {
			t.Errorf("%s: findings %+v", name, s.findings)
		}
	}
	c := newCluster(t)
	s := c.process("pod-a").issuer(vaultTLS(func(c *Certificate) { c.Trust = TrustSource{} }))
	s.once(t)
	live := c.objects["secrets/vault/vault-tls"].(*corev1.Secret)
	if _, found := live.Data["ca.crt"]; found || s.rules() != k8scsr.RuleTrustMissing {
		t.Errorf("no trust: ca.crt %v, findings %s", found, s.rules())
	}
}

// TestTrustGrows: a bundle that gains a CA is written beside the pair, which
// stays.
func TestTrustGrows(t *testing.T) {
	c := newCluster(t)
	s := c.process("pod-a").issuer(vaultTLS())
	s.once(t)
	leaf, writes := c.leaf(), len(c.writes)
	both := append(bytes.Clone(c.ca.pem), newAuthority(t).pem...)
	c.put(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "vault", Name: "ca"}, Data: map[string]string{"ca.crt": string(both)}})
	s.once(t)
	live := c.objects["secrets/vault/vault-tls"].(*corev1.Secret)
	if !bytes.Equal(live.Data["ca.crt"], both) || !c.leaf().Equal(leaf) || len(c.writes) != writes+1 {
		t.Errorf("writes %q", c.writes[writes:])
	}
}

func TestMappedKeys(t *testing.T) {
	c := newCluster(t)
	s := c.process("pod-a").issuer(vaultTLS(func(c *Certificate) {
		c.Secret, c.Keys = "mapped", SecretKeys{Certificate: "vault.crt", Key: "vault.key", CA: "vault.ca"}
	}))
	s.once(t)
	live := c.objects["secrets/vault/mapped"].(*corev1.Secret)
	pair := k8scsr.ReadLive(live.Data["vault.crt"], live.Data["vault.key"])
	if live.Type != corev1.SecretTypeOpaque || !pair.Usable(c.now) || !bytes.Equal(live.Data["vault.ca"], c.ca.pem) || len(live.Data) != 3 {
		t.Errorf("type %s, %s", live.Type, pair.Problem)
	}
}

// TestKeysStayHidden prints everything that holds a key in every way there is.
func TestKeysStayHidden(t *testing.T) {
	key, err := generateKey(k8scsr.Key{Algorithm: k8scsr.RSA, Size: 2048})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb, key)
		fmt.Fprintf(&out, verb, &key)
	}
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "key", key, "in", map[string]any{"k": key})
	if err := json.NewEncoder(&out).Encode([]any{key, &key}); err != nil {
		t.Fatal(err)
	}
	secret := strings.Split(string(key.pem), "\n")[3]
	if text := out.String(); strings.Contains(text, secret) || strings.Contains(text, fmt.Sprintf("%x", secret)) || !strings.Contains(text, redacted) {
		t.Error(text)
	}

	c := newCluster(t)
	s := c.process("pod-a").issuer(vaultTLS())
	s.once(t)
	live := c.objects["secrets/vault/vault-tls"].(*corev1.Secret)
	canary := strings.Split(string(live.Data["tls.key"]), "\n")[1]
	if text := s.log.String() + fmt.Sprint(s.findings) + fmt.Sprint(live.Annotations); strings.Contains(text, canary) {
		t.Error("the live key shows")
	}
}

func TestNewTellsEveryProblem(t *testing.T) {
	_, err := New(Options{Client: newCluster(t).process("a").client(), Certificates: List{
		vaultTLS(),
		vaultTLS(func(c *Certificate) { c.Trust.File = "/x" }),
		{Spec: k8scsr.Spec{Name: "bare", DNSNames: []string{"a.example"}}, Keys: SecretKeys{Key: "tls.crt"}},
		vaultTLS(func(c *Certificate) { c.Spec.Name, c.Secret = "long", strings.Repeat("x", 249) }),
	}})
	for _, want := range []string{
		`certificate "vault-server": there are two of this name`,
		`certificate "vault-server": Secret vault/vault-tls is that of certificate "vault-server" already`,
		`certificate "vault-server": trust: give one of configMap, secret and file, not 2`,
		`certificate "bare": secret: namespace "" and name "" must both be given`,
		`certificate "bare": secretKeys: certificate "tls.crt", key "tls.crt" and ca "ca.crt" must differ`,
		`certificate "long": secret.name: `,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %s", err, want)
		}
	}
}

func TestLabelFor(t *testing.T) {
	for _, c := range []struct{ namespace, name, want string }{
		{"vault", "vault-tls", "vault_vault-tls"},
		{"vault", strings.Repeat("a", 57), "vault_" + strings.Repeat("a", 57)},
		{"vault", strings.Repeat("a", 58), "69c5b5f37b0aa6a9fdbfc3d6cd4e9bd8bfa6ad8e"},
	} {
		got := labelFor(c.namespace, c.name)
		if len(c.name) == 58 {
			if len(got) != 40 || got == labelFor("vaulta", strings.Repeat("a", 57)) {
				t.Errorf("%s", got)
			}
			continue
		}
		if got != c.want {
			t.Errorf("%s, want %s", got, c.want)
		}
	}
}
