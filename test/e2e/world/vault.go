package world

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/vault/api"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
)

// IssueServing makes a serving certificate of Vault's signed by the cluster's
// CA with the subject and names that the shipped configuration declares, as a
// former renewal would have left it.
func (w *World) IssueServing(ctx context.Context, notBefore, notAfter time.Time) (*servers.Leaf, error) {
	certificate, err := w.declared()
	if err != nil {
		return nil, err
	}
	return w.Kubernetes.CA.Issue(servers.LeafOptions{
		CommonName:    certificate.commonName,
		Organizations: certificate.organizations,
		DNSNames:      certificate.dnsNames,
		IPs:           []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:     notBefore, NotAfter: notAfter,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		Usages:   []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
}

// PutSecret stores a pair as the live Secret.
func (w *World) PutSecret(ctx context.Context, leaf *servers.Leaf) error {
	_, err := w.Client.CoreV1().Secrets(Namespace).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: SecretName},
		Type:       corev1.SecretTypeTLS,
		Data: map[string][]byte{
			corev1.TLSCertKey: leaf.CertificatePEM, corev1.TLSPrivateKeyKey: leaf.KeyPEM, "ca.crt": w.Kubernetes.CA.PEM,
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("storing the live Secret: %w", err)
	}
	return nil
}

// StoredLeaf is the leaf in the live Secret.
func (w *World) StoredLeaf(ctx context.Context) (*x509.Certificate, error) {
	secret, err := w.Client.CoreV1().Secrets(Namespace).Get(ctx, SecretName, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(secret.Data[corev1.TLSCertKey])
	if block == nil {
		return nil, fmt.Errorf("secret %s/%s has no certificate", Namespace, SecretName)
	}
	return x509.ParseCertificate(block.Bytes)
}

// ServedLeaf is the leaf that Vault presents now, whether or not anybody would
// accept it.
func (w *World) ServedLeaf(ctx context.Context) (*x509.Certificate, error) {
	dialer := &tls.Dialer{
		NetDialer: &net.Dialer{Timeout: 5 * time.Second},
		// An expired leaf is to be seen, not refused; nothing is sent.
		Config: &tls.Config{InsecureSkipVerify: true, ServerName: ServerName},
	}
	conn, err := dialer.DialContext(ctx, "tcp", w.VaultAddress())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0], nil
}

// TrustedHandshake is what a client of Vault does: it trusts the cluster's CA
// and wants the name of Vault's Service.
func (w *World) TrustedHandshake(ctx context.Context) error {
	dialer := &tls.Dialer{
		NetDialer: &net.Dialer{Timeout: 5 * time.Second},
		Config:    &tls.Config{RootCAs: w.Kubernetes.CA.Pool(), ServerName: ServerName},
	}
	conn, err := dialer.DialContext(ctx, "tcp", w.VaultAddress())
	if err != nil {
		return err
	}
	return conn.Close()
}

// Fingerprint names a certificate in messages.
func Fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:6])
}

// StartVault starts Vault on the delivered files, unsealed, with the
// kubernetes auth method set up and the shipped policies bound to pkiwarden's
// service accounts. Clients reach it at VaultAddress.
func (w *World) StartVault(ctx context.Context, o servers.VaultOptions) error {
	o.TLS, o.Port = w.TLSFiles(), w.port
	if o.Storage == nil {
		o.Storage = servers.RaftStorage{}
	}
	var err error
	if w.Vault, err = w.Set.StartVault(ctx, o); err != nil {
		return err
	}
	if o.Sealed {
		return nil
	}
	return w.bindPolicies(ctx)
}

// bindPolicies does what manifests/vault/bind.sh tells an administrator to do.
func (w *World) bindPolicies(ctx context.Context) error {
	client := w.Vault.Client()
	policies := []string{"pkiwarden-observe", "pkiwarden-tidy"}
	for _, name := range policies {
		text, err := os.ReadFile(filepath.Join(w.manifests, "vault", name[len("pkiwarden-"):]+".hcl"))
		if err != nil {
			return fmt.Errorf("reading the shipped policy: %w", err)
		}
		if err := client.Sys().PutPolicyWithContext(ctx, name, string(text)); err != nil {
			return fmt.Errorf("writing policy %s: %w", name, err)
		}
	}
	if err := client.Sys().EnableAuthWithOptionsWithContext(ctx, "kubernetes", &api.EnableAuthOptions{Type: "kubernetes"}); err != nil {
		return fmt.Errorf("enabling the kubernetes auth method: %w", err)
	}
	reviewer, err := w.reviewerToken(ctx)
	if err != nil {
		return err
	}
	_, err = client.Logical().WriteWithContext(ctx, "auth/kubernetes/config", map[string]any{
		"kubernetes_host":    w.Kubernetes.URL,
		"kubernetes_ca_cert": string(w.Kubernetes.CA.PEM),
		"token_reviewer_jwt": reviewer,
	})
	if err != nil {
		return fmt.Errorf("configuring the kubernetes auth method: %w", err)
	}
	_, err = client.Logical().WriteWithContext(ctx, "auth/kubernetes/role/pkiwarden", map[string]any{
		"bound_service_account_names":      "vault,pkiwarden,pkiwarden-tidy",
		"bound_service_account_namespaces": Namespace + "," + ControllerNamespace,
		"audience":                         vaultAudience,
		"token_policies":                   policies,
		"token_no_default_policy":          true,
		"token_ttl":                        "1h",
	})
	if err != nil {
		return fmt.Errorf("making the role pkiwarden: %w", err)
	}
	return nil
}

// reviewerToken is a token of a service account with system:auth-delegator,
// which the Vault chart gives to Vault's own.
func (w *World) reviewerToken(ctx context.Context) (string, error) {
	identity, err := w.Kubernetes.ServiceAccountKubeconfig(ctx, Namespace, "vault-reviewer", "")
	if err != nil {
		return "", err
	}
	if _, err := w.Kubectl(ctx, "create", "clusterrolebinding", "vault-reviewer", "--clusterrole=system:auth-delegator", "--serviceaccount="+Namespace+":vault-reviewer"); err != nil {
		return "", err
	}
	token, err := os.ReadFile(identity.TokenFile)
	return string(token), err
}

// PKI is one PKI mount of the Vault with a root issuer.
type PKI struct {
	Mount  string
	client *api.Client
}

// PKIOptions describe a mount.
type PKIOptions struct {
	Mount       string        // "pki" by default
	AutoRebuild bool          // the CRL is rebuilt by time, not by each revocation
	MaxTTL      time.Duration // of the role "pod"; 20 s by default
}

// EnablePKI makes a mount with an EC P-256 root and a role "pod".
func (w *World) EnablePKI(ctx context.Context, o PKIOptions) (*PKI, error) {
	if w.Vault == nil {
		return nil, errors.New("making a PKI mount: Vault is not started")
	}
	if o.Mount == "" {
		o.Mount = "pki"
	}
	if o.MaxTTL == 0 {
		o.MaxTTL = 20 * time.Second
	}
	client := w.Vault.Client()
	if err := client.Sys().MountWithContext(ctx, o.Mount, &api.MountInput{Type: "pki", Config: api.MountConfigInput{MaxLeaseTTL: "87600h"}}); err != nil {
		return nil, fmt.Errorf("mounting %s: %w", o.Mount, err)
	}
	writes := []struct {
		path string
		data map[string]any
	}{
		{"/root/generate/internal", map[string]any{"common_name": o.Mount + " root", "issuer_name": "root", "key_type": "ec", "key_bits": 256, "ttl": "8760h"}},
		{"/config/crl", map[string]any{"auto_rebuild": o.AutoRebuild}},
		{"/roles/pod", map[string]any{"allow_any_name": true, "key_type": "ec", "key_bits": 256, "max_ttl": o.MaxTTL.String(), "ttl": o.MaxTTL.String(), "not_before_duration": "1s"}},
	}
	for _, write := range writes {
		if _, err := client.Logical().WriteWithContext(ctx, o.Mount+write.path, write.data); err != nil {
			return nil, fmt.Errorf("writing %s%s: %w", o.Mount, write.path, err)
		}
	}
	return &PKI{Mount: o.Mount, client: client}, nil
}

// IssueAndRevoke is one short-lived pod: a certificate, and its revocation.
func (p *PKI) IssueAndRevoke(ctx context.Context, name string) error {
	issued, err := p.client.Logical().WriteWithContext(ctx, p.Mount+"/issue/pod", map[string]any{"common_name": name})
	if err != nil {
		return fmt.Errorf("issuing for %s: %w", name, err)
	}
	_, err = p.client.Logical().WriteWithContext(ctx, p.Mount+"/revoke", map[string]any{"serial_number": issued.Data["serial_number"]})
	if err != nil {
		return fmt.Errorf("revoking the certificate of %s: %w", name, err)
	}
	return nil
}

// CRL fetches the list of the default issuer and parses it with the standard
// library, which is not what pkiwarden measures with.
func (p *PKI) CRL(ctx context.Context) (*x509.RevocationList, error) {
	answer, err := p.client.Logical().ReadRawWithContext(ctx, p.Mount+"/issuer/default/crl/der")
	if err != nil {
		return nil, fmt.Errorf("fetching the CRL of %s: %w", p.Mount, err)
	}
	defer answer.Body.Close()
	der := make([]byte, 0, 1<<20)
	buffer := make([]byte, 64<<10)
	for {
		n, err := answer.Body.Read(buffer)
		der = append(der, buffer[:n]...)
		if err != nil {
			break
		}
	}
	return x509.ParseRevocationList(der)
}

// Rotate has Vault build the CRL anew.
func (p *PKI) Rotate(ctx context.Context) error {
	_, err := p.client.Logical().ReadWithContext(ctx, p.Mount+"/crl/rotate")
	return err
}

// TidyStatus is Vault's own word on the last tidy.
func (p *PKI) TidyStatus(ctx context.Context) (map[string]any, error) {
	answer, err := p.client.Logical().ReadWithContext(ctx, p.Mount+"/tidy-status")
	if err != nil {
		return nil, err
	}
	if answer == nil {
		return nil, fmt.Errorf("%s/tidy-status is empty", p.Mount)
	}
	return answer.Data, nil
}
