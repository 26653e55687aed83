package issuer

import (
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
)

// TestLeftoverKeys: the next key of a certificate that is no longer declared is
// removed when nothing can come of it any more, and only if it is surely ours.
func TestLeftoverKeys(t *testing.T) {
	for name, tc := range map[string]struct {
		happens func(*cluster, *certificatesv1.CertificateSigningRequest, *corev1.Secret)
		after   time.Duration
		gone    bool
	}{
		"denied": {func(c *cluster, csr *certificatesv1.CertificateSigningRequest, _ *corev1.Secret) {
			c.decide(csr, certificatesv1.CertificateDenied, "no")
		}, time.Hour, true},
		"removed": {func(c *cluster, csr *certificatesv1.CertificateSigningRequest, _ *corev1.Secret) {
			delete(c.objects, "certificatesigningrequests//"+csr.Name)
		}, time.Hour, true},
		"denied, a moment ago": {func(c *cluster, csr *certificatesv1.CertificateSigningRequest, _ *corev1.Secret) {
			c.decide(csr, certificatesv1.CertificateDenied, "no")
		}, 50 * time.Minute, false},
		"open": {func(*cluster, *certificatesv1.CertificateSigningRequest, *corev1.Secret) {}, 5 * time.Hour, false},
		"not marked": {func(c *cluster, csr *certificatesv1.CertificateSigningRequest, next *corev1.Secret) {
			c.decide(csr, certificatesv1.CertificateDenied, "no")
			next.Labels = nil
			c.put(next)
		}, time.Hour, false},
		"record damaged": {func(c *cluster, csr *certificatesv1.CertificateSigningRequest, next *corev1.Secret) {
			c.decide(csr, certificatesv1.CertificateDenied, "no")
			next.Annotations[AnnotationRecord] = "{"
			c.put(next)
		}, time.Hour, false},
		"no right": {func(c *cluster, csr *certificatesv1.CertificateSigningRequest, _ *corev1.Secret) {
			c.decide(csr, certificatesv1.CertificateDenied, "no")
			c.denied["get certificatesigningrequests"] = true
		}, time.Hour, false},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			c, state := newCluster(t), &kept{}
			undeclared := vaultTLS(func(c *Certificate) { c.Spec.Approve = false })
			c.issuerWith(state, "pod-a", numbered(1), undeclared).once(t)
			var waiting *certificatesv1.CertificateSigningRequest
			for _, csr := range c.csrs() {
				if csr.Labels[LabelCertificate] == "vault_vault-tls" {
					waiting = csr
				}
			}
			tc.happens(c, waiting, c.objects["secrets/vault/vault-tls-next"].(*corev1.Secret).DeepCopy())
			c.now = c.now.Add(tc.after)
			s := c.issuerWith(state, "pod-a", numbered(1))
			for range 3 { // also by one that has run for a while
				s.once(t)
				c.now = c.now.Add(time.Minute)
			}
			next := c.objects["secrets/vault/vault-tls-next"].(*corev1.Secret)
			if gone := len(next.Data) == 0; gone != tc.gone {
				t.Errorf("the key is gone: %t\n%s", gone, &s.log)
			}
			if strings.Contains(s.log.String(), "removed the pending key") != tc.gone {
				t.Errorf("log:\n%s", &s.log)
			}
		})
	}
	// Once an hour as well, and nothing of what is declared.
	c, state := newCluster(t), &kept{}
	s := c.issuerWith(state, "pod-a", vaultTLS(func(c *Certificate) { c.Spec.Approve = false }))
	s.once(t)
	for range 10 {
		c.now = c.now.Add(time.Hour)
		s.once(t)
	}
	if len(c.objects["secrets/vault/vault-tls-next"].(*corev1.Secret).Data) != 1 {
		t.Error("the key of a declared certificate is gone")
	}
}
