package issuer

import (
	"errors"
	"reflect"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestPublishedIsTold: whoever delivers hears of each write of the live Secret,
// of the trust bundle alone too, and of nothing else.
func TestPublishedIsTold(t *testing.T) {
	c := newCluster(t)
	c.sign = func(*certificatesv1.CertificateSigningRequest) {}
	s := c.process("pod-a").issuer(vaultTLS())
	var told []string
	s.published = func(name string) { told = append(told, name) }
	s.once(t)
	if len(told) != 0 {
		t.Errorf("told of %q, and nothing is published", told)
	}
	c.issue(c.csrs()[0])
	s.once(t)
	if want := []string{"vault-server"}; !reflect.DeepEqual(told, want) {
		t.Errorf("told of %q after a new pair, want %q", told, want)
	}
	more := append(newAuthority(t).pem, c.ca.pem...)
	c.put(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "vault", Name: "ca"}, Data: map[string]string{"ca.crt": string(more)}})
	s.once(t)
	s.once(t)
	if want := []string{"vault-server", "vault-server"}; !reflect.DeepEqual(told, want) {
		t.Errorf("told of %q after a new bundle, want %q", told, want)
	}
}

// TestPublishedIsToldWithoutAnAnswer: the write may have been done all the same.
func TestPublishedIsToldWithoutAnAnswer(t *testing.T) {
	c := newCluster(t)
	p := c.process("pod-a")
	p.killAfter, p.losesLast = 5, true // the fifth write is that of the live Secret
	told := 0
	s := p.issuer(vaultTLS())
	s.published = func(string) { told++ }
	if _, err := s.Once(t.Context()); !errors.Is(err, errKilled) {
		t.Fatalf("error %v", err)
	}
	if c.leaf() == nil || told != 1 {
		t.Errorf("published: %t; told %d times, want once", c.leaf() != nil, told)
	}
}
