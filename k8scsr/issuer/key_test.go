package issuer

import (
	"crypto/x509"
	"encoding/pem"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

// TestKeysOfEveryKind asks for a certificate with each kind of key: the request
// carries that key and is signed with the hash that belongs to it, and the pair
// that is stored matches.
func TestKeysOfEveryKind(t *testing.T) {
	for _, test := range []struct {
		key       k8scsr.Key
		signature x509.SignatureAlgorithm
		slow      bool
	}{
		{k8scsr.Key{Algorithm: k8scsr.ECDSA, Size: 256}, x509.ECDSAWithSHA256, false},
		{k8scsr.Key{Algorithm: k8scsr.ECDSA, Size: 384}, x509.ECDSAWithSHA384, false},
		{k8scsr.Key{Algorithm: k8scsr.ECDSA, Size: 521}, x509.ECDSAWithSHA512, false},
		{k8scsr.Key{Algorithm: k8scsr.RSA, Size: 2048}, x509.SHA256WithRSA, false},
		{k8scsr.Key{Algorithm: k8scsr.RSA, Size: 3072}, x509.SHA256WithRSA, true},
		{k8scsr.Key{Algorithm: k8scsr.RSA, Size: 4096}, x509.SHA256WithRSA, true},
		{k8scsr.Key{Algorithm: k8scsr.Ed25519}, x509.PureEd25519, false},
	} {
		t.Run(test.key.String(), func(t *testing.T) {
			if test.slow && testing.Short() {
				t.Skip("making such a key takes seconds")
			}
			c := newCluster(t)
			s := c.process("pod-a").issuer(vaultTLS(func(c *Certificate) { c.Spec.Key = test.key }))
			s.once(t)
			if len(c.csrs()) != 1 {
				t.Fatalf("%d requests; findings %s", len(c.csrs()), s.rules())
			}
			block, _ := pem.Decode(c.csrs()[0].Spec.Request)
			request, err := x509.ParseCertificateRequest(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			if request.SignatureAlgorithm != test.signature || k8scsr.KeyOf(request.PublicKey) != test.key {
				t.Errorf("a request for %v signed with %v, want %v and %v", k8scsr.KeyOf(request.PublicKey), request.SignatureAlgorithm, test.key, test.signature)
			}
			live, ok := c.objects["secrets/vault/vault-tls"].(*corev1.Secret)
			if !ok {
				t.Fatalf("no certificate; findings %s", s.rules())
			}
			pair := k8scsr.ReadLive(live.Data["tls.crt"], live.Data["tls.key"])
			if pair.Problem != "" || k8scsr.KeyOf(pair.Leaf.PublicKey) != test.key {
				t.Errorf("stored: %v, %s", k8scsr.KeyOf(pair.Leaf.PublicKey), pair.Problem)
			}
		})
	}
}
