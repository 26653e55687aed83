package e2e

import (
	"context"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

const (
	consulNamespace = "consul"
	// Of a Consul that lives for one test.
	consulManagement  = "0d3a2c52-5a29-4c8e-8f6b-6b8f0f1e7a01"
	consulReloadToken = "0d3a2c52-5a29-4c8e-8f6b-6b8f0f1e7a02"
)

// succession is a Vault and a Consul behind certificates of the signer role, a
// client of each, and the CA's Secret, which the signer signs with and which the
// certificates' trust comes from.
type succession struct {
	t          *testing.T
	ctx        context.Context
	w          *world.World
	controller *world.Pod
	sidecars   []*world.Pod
	clients    []*follower
}

// putCA is all that the operator does: the CA's certificate and its key, into the
// one Secret.
func (s *succession) putCA(ca *authority) {
	s.t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(ca.key)
	must(s.t, err)
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "consul-ca"}, Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{"tls.crt": certificatePEM(ca.cert), "tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})},
	}
	secrets := s.w.Client.CoreV1().Secrets(world.ControllerNamespace)
	if _, err = secrets.Update(s.ctx, secret, metav1.UpdateOptions{}); err != nil {
		_, err = secrets.Create(s.ctx, secret, metav1.CreateOptions{})
	}
	must(s.t, err)
}

// grants are what the README and the manifests tell an operator to add for a
// signer of their own, and for a second certificate in another namespace.
func (s *succession) grants() {
	t, ctx, w := s.t, s.ctx, s.w
	must(t, w.Apply(ctx, overlay(t, "controller", "approver", "signer")))
	controller := rbacv1.Subject{Kind: "ServiceAccount", Name: "pkiwarden", Namespace: world.ControllerNamespace}
	sidecar := rbacv1.Subject{Kind: "ServiceAccount", Name: "consul", Namespace: consulNamespace}
	grantAll(t, ctx, w, "", "approves-own", controller,
		rbacv1.PolicyRule{APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"signers"}, ResourceNames: []string{consulSigner}, Verbs: []string{"approve"}})
	grantAll(t, ctx, w, consulNamespace, "keeps-consul", controller, append(keeping("consul-server"),
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"events"}, Verbs: []string{"create", "patch"}})...)
	grantAll(t, ctx, w, consulNamespace, "reads-consul", sidecar,
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{"consul-server-tls"}, Verbs: []string{"get"}})
}

// declared is a certificate of the signer role whose trust is the CA's Secret.
func declared(name, namespace, peer string, usages []string, names ...string) map[string]any {
	return certificate(name, map[string]any{
		"secret":  map[string]any{"namespace": namespace, "name": name + "-tls"},
		"subject": map[string]any{"commonName": names[0]}, "dnsNames": names, "ipAddresses": []string{"127.0.0.1"},
		"usages": usages, "signer": consulSigner, "lifetime": "1h",
		"trust": map[string]any{
			"secret": map[string]any{"namespace": world.ControllerNamespace, "name": "consul-ca", "key": "tls.crt"},
			"settle": "10s", "peers": []string{peer},
		},
	})
}

// newSuccession starts all of it under one CA, up to the first handshake.
func newSuccession(t *testing.T, ca *authority) *succession {
	ctx, w := start(t, world.Options{Shape: world.Controller})
	s := &succession{t: t, ctx: ctx, w: w}
	_, err := w.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: consulNamespace}}, metav1.CreateOptions{})
	must(t, err)
	s.grants()
	s.putCA(ca)

	consulPort, err := servers.FreePort()
	must(t, err)
	consulAddress := net.JoinHostPort("127.0.0.1", strconv.Itoa(consulPort))
	vaultCertificate := declared(world.CertificateName, world.Namespace, w.VaultAddress(),
		[]string{"digital signature", "server auth"}, world.ServerName, "vault.vault.svc")
	consulCertificate := declared("consul-server", consulNamespace, consulAddress,
		[]string{"digital signature", "server auth", "client auth"}, consulServer, "*."+consulServer, "localhost")
	signing := consulSigning()
	signing["allow"] = map[string]any{
		"dnsNames":    []string{world.ServerName, "vault.vault.svc", consulServer, "*." + consulServer, "localhost"},
		"ipAddresses": []string{"127.0.0.1/32"},
	}
	s.controller, err = w.StartPod(ctx, world.PodOptions{
		Name: "pkiwarden-0", Config: "controller/config.yaml", Namespace: world.ControllerNamespace, ServiceAccount: "pkiwarden",
		Set: map[string]any{"vault": nil, "signers": []any{signing}, "certificates": []any{vaultCertificate, consulCertificate}},
	})
	must(t, err)
	s.startVault(ca, vaultCertificate)
	s.startConsul(ca, consulCertificate, consulPort)
	s.clients = []*follower{
		newFollower(t, w, world.CertificateName, world.Namespace, w.VaultAddress(), world.ServerName),
		newFollower(t, w, "consul-server", consulNamespace, consulAddress, consulServer),
	}
	eventually(t, ctx, 3*time.Minute, "both servers serve their certificates", s.all(func(ctx context.Context, f *follower) error { return f.serves(ctx, ca.cert) }))
	for _, f := range s.clients {
		f.follow(ctx)
	}
	return s
}

// sidecar starts a server's own pkiwarden, and waits for the first pair.
func (s *succession) sidecar(o world.PodOptions, dir string) *servers.TLSFiles {
	s.t.Helper()
	o.Set["vault"] = nil
	pod, err := s.w.StartPod(s.ctx, o)
	must(s.t, err)
	s.sidecars = append(s.sidecars, pod)
	files := &servers.TLSFiles{CertFile: filepath.Join(dir, "tls.crt"), KeyFile: filepath.Join(dir, "tls.key")}
	eventually(s.t, s.ctx, 3*time.Minute, o.Name+" has delivered the first pair", func(context.Context) error {
		if _, err := os.Stat(files.CertFile); err != nil {
			return err
		}
		_, err := os.Stat(files.KeyFile)
		return err
	})
	return files
}

func (s *succession) startVault(ca *authority, declaration map[string]any) {
	s.t.Helper()
	files := s.sidecar(world.PodOptions{Name: "vault-0", Config: "controller/config-local.yaml", Set: map[string]any{"certificates": []any{declaration}}}, s.w.TLSDir)
	files.CA = certificatePEM(ca.cert)
	_, text, err := net.SplitHostPort(s.w.VaultAddress())
	must(s.t, err)
	port, err := strconv.Atoi(text)
	must(s.t, err)
	_, err = s.w.Set.StartVault(s.ctx, servers.VaultOptions{Storage: servers.RaftStorage{}, TLS: files, Port: port})
	must(s.t, err)
}

// startConsul starts a Consul whose sidecar has the shipped right to reload it.
// The sidecar trusts what it delivers, as every other client.
func (s *succession) startConsul(ca *authority, declaration map[string]any, port int) {
	t, ctx := s.t, s.ctx
	t.Helper()
	dir, address := t.TempDir(), net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	tokenFile := filepath.Join(t.TempDir(), "token")
	must(t, os.WriteFile(tokenFile, []byte(consulReloadToken), 0o600))
	files := s.sidecar(world.PodOptions{
		Name: "consul-server-0", Config: "consul/config.yaml", Namespace: consulNamespace, ServiceAccount: "consul",
		Set: map[string]any{
			"certificates":   []any{declaration},
			"consul.address": "https://" + address, "consul.caFile": filepath.Join(dir, "ca.crt"), "consul.tokenFile": tokenFile,
			// No kubelet mounts the Secret here.
			"deliver.0.from": map[string]any{"api": true}, "deliver.0.files": map[string]any{"directory": dir},
			"deliver.0.verify": []any{map[string]any{"address": address, "serverName": consulServer, "protocol": "tls"}},
		},
	}, dir)
	files.CA = certificatePEM(ca.cert)
	consul, err := s.w.Set.StartConsul(ctx, servers.ConsulOptions{TLS: files, Port: port, NodeName: "consul-server-0", ManagementToken: consulManagement})
	must(t, err)
	rules, err := os.ReadFile("../../manifests/consul/acl-reload.hcl")
	must(t, err)
	eventually(t, ctx, time.Minute, "consul takes the shipped policy", func(context.Context) error {
		name := fmt.Sprintf("reload-%d", time.Now().UnixNano())
		if _, _, err := consul.Client().ACL().PolicyCreate(&api.ACLPolicy{Name: name, Rules: string(rules)}, nil); err != nil {
			return err
		}
		_, _, err := consul.Client().ACL().TokenCreate(&api.ACLToken{SecretID: consulReloadToken, Policies: []*api.ACLLink{{Name: name}}}, nil)
		return err
	})
}

// all checks one thing of both certificates, and notes what status says of each
// meanwhile.
func (s *succession) all(check func(context.Context, *follower) error) func(context.Context) error {
	return func(ctx context.Context) error {
		if status, err := statusOf(ctx, s.w, s.controller); err == nil {
			for _, f := range s.clients {
				f.note(status)
			}
		}
		for _, f := range s.clients {
			if err := check(ctx, f); err != nil {
				return err
			}
		}
		return nil
	}
}

// finds checks that status tells exactly these findings, each RULE of SUBJECT,
// and that each certificate is good.
func (s *succession) finds(want ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		status, err := statusOf(ctx, s.w, s.controller)
		if err != nil {
			return err
		}
		found := []string{}
		for _, f := range status.Findings {
			found = append(found, f.Rule+" of "+f.Subject)
		}
		slices.Sort(found)
		if !slices.Equal(found, want) {
			return fmt.Errorf("status tells %q, want %q", found, want)
		}
		for _, c := range status.Certificates {
			if c.State != "good" || time.Until(c.NotAfter) < 40*time.Minute {
				return fmt.Errorf("%s is %s until %s: %s", c.Name, c.State, c.NotAfter.Format(time.TimeOnly), c.Reason)
			}
		}
		if len(status.Certificates) != len(s.clients) {
			return fmt.Errorf("status tells of %d certificates", len(status.Certificates))
		}
		return nil
	}
}

// checkRequests: each certificate was asked for twice, once under each CA, and
// nothing was refused.
func (s *succession) checkRequests() {
	s.t.Helper()
	list, err := s.w.Client.CertificatesV1().CertificateSigningRequests().List(s.ctx, metav1.ListOptions{FieldSelector: "spec.signerName=" + consulSigner})
	must(s.t, err)
	asked := map[string]int{}
	for _, csr := range list.Items {
		asked[csr.Labels["pkiwarden.io/certificate"]]++
	}
	if len(asked) != 2 || asked[world.Namespace+"_"+world.SecretName] != 2 || asked[consulNamespace+"_consul-server-tls"] != 2 {
		s.t.Errorf("asked for: %v, want each twice", asked)
	}
	for result, want := range map[string]float64{"signed": 4, "refused": 0, "error": 0} {
		must(s.t, metricIs(s.controller, `pkiwarden_signer_requests_total{result="`+result+`",signer="`+consulSigner+`"}`, want)(s.ctx))
	}
}

// TestSignersCAIsReplaced: the CA of the signer role is near its end, which is
// told while no certificate is near its own. The operator puts another one into
// the Secret that the signer signs with and that the trust comes from, so that
// both change at one instant. No client of Vault's or Consul's that follows its
// Secret's bundle fails at any instant.
func TestSignersCAIsReplaced(t *testing.T) {
	const day = 24 * time.Hour
	old := newAuthority(t, "servers 2016", ecdsaKey(t, elliptic.P256()), nil, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-8*day), time.Now().Add(2*day)
	})
	next := newAuthority(t, "servers 2026", ecdsaKey(t, elliptic.P256()), nil, nil)
	s := newSuccession(t, old)
	ctx := s.ctx
	eventually(t, ctx, 3*time.Minute, "the CA's end is told, and nothing else", s.finds(
		"ca-expires of certificate consul-server", "ca-expires of certificate vault-server", "signer-ca-expires of signer "+consulSigner))

	s.putCA(next)
	bundle := func(cas ...*authority) []byte {
		var out []byte
		for _, ca := range cas {
			out = append(out, certificatePEM(ca.cert)...)
		}
		return out
	}
	eventually(t, ctx, 3*time.Minute, "the bundles hold both", s.all(func(ctx context.Context, f *follower) error { return f.publishes(ctx, bundle(next, old)) }))
	eventually(t, ctx, 5*time.Minute, "both servers serve certificates of the new CA", s.all(func(ctx context.Context, f *follower) error { return f.serves(ctx, next.cert) }))
	eventually(t, ctx, 5*time.Minute, "the bundles hold the new CA alone", s.all(func(ctx context.Context, f *follower) error { return f.publishes(ctx, bundle(next)) }))
	eventually(t, ctx, 2*time.Minute, "status says that it is over", s.all(func(_ context.Context, f *follower) error { return f.asConfigured() }))
	eventually(t, ctx, 2*time.Minute, "no finding is left", s.finds())
	log, err := os.ReadFile(s.controller.LogPath())
	must(t, err)
	for _, f := range s.clients {
		f.goesOn(ctx)
		f.told(string(log),
			"step=publish-trust", "CN=servers 2026 (SHA-256 ", "is new; CA CN=servers 2016 (SHA-256 ", "stays: it vouches for the certificate in use",
			"waiting until ", "for clients to take up CA CN=servers 2026 (SHA-256 ", "then the certificate is to change",
			"step=store-next-key", "step=publish ", "CN=servers 2016 (SHA-256 ", "stays published: peers have until ",
			"CN=servers 2016 (SHA-256 ", "is dropped: all 1 peers present certificates from CA CN=servers 2026 (SHA-256 ",
		)
	}
	s.checkRequests()
	pods := append(s.sidecars, s.controller)
	noSecrets(t, ctx, s.w, pods...)
	for _, pod := range pods {
		if strings.Contains(pod.Log(), consulReloadToken) {
			t.Errorf("the log of %s holds Consul's token", pod.Name())
		}
	}
}
