package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/kube"
	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/loop"
)

// TestPublishedIsDeliveredAtOnce: what this process publishes it also looks for
// at once; the delivery's own next look would come later.
func TestPublishedIsDeliveredAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, log := leading(t, `
certificates:
  - name: a
    secret: {namespace: vault, name: a}
    signer: example.com/a
    subject: {commonName: a.example}
    dnsNames: [a.example]
    ipAddresses: []
    usages: [digital signature, server auth]
    trust: {configMap: {namespace: vault, name: ca}}
deliver:
  - {certificate: a, from: {mounted: `+t.TempDir()+`}}
`)
		leaf, key := selfSigned(t, "a.example")
		other, _ := selfSigned(t, "b.example")
		client := fake.NewClientset(
			&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "vault", Name: "ca"}, Data: map[string]string{"ca.crt": string(leaf) + string(other)}},
			&corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Namespace: "vault", Name: "a", ResourceVersion: "1", Labels: map[string]string{"pkiwarden.io/certificate": "vault_a"}},
				Type:       corev1.SecretTypeTLS, Data: map[string][]byte{"tls.crt": leaf, "tls.key": key, "ca.crt": leaf},
			},
		)
		i.cluster.kube = &kube.Cluster{Client: client, Namespace: "vault"}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- loop.Group(ctx, i.deliveries[0].loop.Run, func(ctx context.Context) error {
				time.Sleep(time.Second)
				i.lead(ctx)
				return nil
			})
		}()
		runs := func() float64 {
			synctest.Wait()
			return value(t, i, "pkiwarden_loop_runs_total", map[string]string{"loop": "deliver-a", "result": "ok"})
		}
		time.Sleep(900 * time.Millisecond)
		before := runs()
		time.Sleep(200 * time.Millisecond) // the leader's first look is over
		after := runs()
		secret, err := client.CoreV1().Secrets("vault").Get(ctx, "a", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if published := len(secret.Data["ca.crt"]) > len(leaf); !published || before != 1 || after != 2 {
			t.Errorf("the new bundle is published: %t; the delivery ran %v times before and %v after, want 1 and 2\n%s", published, before, after, log)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// selfSigned is a certificate that vouches for itself, and its key, as PEM.
func selfSigned(t *testing.T, name string) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}
