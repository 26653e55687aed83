package e2e

import (
	"context"
	"os"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

// rotation is a cluster whose signing CA changes under a running Vault, and a
// client of that Vault.
type rotation struct {
	*follower
	ctx context.Context
	pod *world.Pod

	old, next *servers.CA
}

// bundleName is the ConfigMap in which the operator keeps the CAs.
const bundleName = "vault-trust"

// changing is a Vault that serves a certificate of the cluster's first CA, and a
// client that follows.
func changing(t *testing.T) *rotation {
	ctx, w := start(t, world.Options{})
	r := &rotation{ctx: ctx, old: w.Kubernetes.CA}
	r.follower = newFollower(t, w, world.CertificateName, world.Namespace, w.VaultAddress(), world.ServerName)
	var err error
	r.next, err = servers.NewCA("kubernetes signer")
	must(t, err)
	r.trust(r.old)
	// The README says to name one's own ConfigMap in the role as well.
	_, err = w.Client.RbacV1().Roles(world.Namespace).Create(ctx, &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: bundleName},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{bundleName}, Verbs: []string{"get"}}},
	}, metav1.CreateOptions{})
	must(t, err)
	_, err = w.Client.RbacV1().RoleBindings(world.Namespace).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: bundleName},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: bundleName},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: world.Namespace, Name: "vault"}},
	}, metav1.CreateOptions{})
	must(t, err)
	r.pod, err = w.StartPod(ctx, world.PodOptions{Name: "vault-0", Set: map[string]any{
		"vault.caFile": w.TLSDir + "/ca.crt",
		"certificates.0.trust": map[string]any{
			"configMap": map[string]any{"namespace": world.Namespace, "name": bundleName},
			"settle":    "10s", "peers": []string{w.VaultAddress()},
		},
	}})
	must(t, err)
	must(t, w.Delivered(ctx))
	must(t, w.StartVault(ctx, servers.VaultOptions{}))
	eventually(t, ctx, 2*time.Minute, "vault serves the first certificate", servesStored(w))
	r.follow(ctx)
	return r
}

// trust is what the operator puts into the bundle's source.
func (r *rotation) trust(cas ...*servers.CA) {
	r.t.Helper()
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: bundleName}, Data: map[string]string{"ca.crt": string(bundleOf(cas))}}
	maps := r.w.Client.CoreV1().ConfigMaps(world.Namespace)
	_, err := maps.Update(r.ctx, m, metav1.UpdateOptions{})
	if err != nil {
		_, err = maps.Create(r.ctx, m, metav1.CreateOptions{})
	}
	must(r.t, err)
}

func bundleOf(cas []*servers.CA) []byte {
	var out []byte
	for _, ca := range cas {
		out = append(out, ca.PEM...)
	}
	return out
}

// holds checks that the Secret's bundle is of exactly these CAs, in this order,
// and notes what status says of the change meanwhile.
func (r *rotation) holds(cas ...*servers.CA) func(context.Context) error {
	return func(ctx context.Context) error {
		r.look(ctx)
		return r.publishes(ctx, bundleOf(cas))
	}
}

// servesFrom checks that Vault presents the stored certificate, and that it is
// from that CA.
func (r *rotation) servesFrom(ca *servers.CA) func(context.Context) error {
	return func(ctx context.Context) error {
		r.look(ctx)
		return r.serves(ctx, ca.Certificate)
	}
}

// look notes the state of the change, where status tells one now.
func (r *rotation) look(ctx context.Context) {
	if s, err := statusOf(ctx, r.w, r.pod); err == nil {
		r.note(s)
	}
}

// ends checks what the whole change must have told, in this order, and that the
// client never failed.
func (r *rotation) ends(log ...string) {
	r.t.Helper()
	eventually(r.t, r.ctx, 3*time.Minute, "vault serves a certificate of the new CA", r.servesFrom(r.next))
	eventually(r.t, r.ctx, 5*time.Minute, "the bundle holds the new CA alone", r.holds(r.next))
	eventually(r.t, r.ctx, 2*time.Minute, "status says that it is over", func(ctx context.Context) error {
		r.look(ctx)
		return r.asConfigured()
	})
	r.goesOn(r.ctx)
	all, err := os.ReadFile(r.pod.LogPath()) // of every start
	must(r.t, err)
	r.told(string(all), log...)
	noSecrets(r.t, r.ctx, r.w, r.pod)
}

// crash ends the only instance at once, and starts it again.
func (r *rotation) crash() {
	r.t.Helper()
	must(r.t, r.pod.Kill())
	must(r.t, r.pod.Start(r.ctx))
}

// TestCAIsSwapped: the operator replaces the CA in the bundle's source in one go,
// and the signer's CA afterwards. No client that follows the bundle of the Secret
// fails at any instant.
func TestCAIsSwapped(t *testing.T) {
	r := changing(t)
	r.trust(r.next)
	must(t, r.w.Kubernetes.SignWith(r.ctx, r.next))
	eventually(t, r.ctx, 3*time.Minute, "the bundle holds both", r.holds(r.next, r.old))
	r.ends(
		"step=publish-trust", "CN=kubernetes signer (SHA-256 ", "is new; CA CN=kubernetes (SHA-256 ", "stays: it vouches for the certificate in use",
		"waiting until ", "for clients to take up CA CN=kubernetes signer (SHA-256 ", "then the certificate is to change",
		"step=store-next-key", "step=publish ", "CN=kubernetes (SHA-256 ", "stays published: peers have until ",
		"is dropped: all 1 peers present certificates from CA CN=kubernetes signer (SHA-256 ",
	)
}

// TestCAIsAddedAndRemoved: the operator adds the new CA, switches the signer, and
// takes the old one out. Between the steps the leader is killed: the next one goes
// on from what is stored.
func TestCAIsAddedAndRemoved(t *testing.T) {
	r := changing(t)
	r.trust(r.old, r.next)
	eventually(t, r.ctx, 3*time.Minute, "the bundle holds both", r.holds(r.old, r.next))
	must(t, r.w.Kubernetes.SignWith(r.ctx, r.next))
	r.look(r.ctx)
	r.trust(r.next)
	r.crash()
	eventually(t, r.ctx, 3*time.Minute, "the bundle still holds both, the new one first", r.holds(r.next, r.old))
	eventually(t, r.ctx, 3*time.Minute, "the certificate is from the new CA", r.servesFrom(r.next))
	r.crash()
	r.ends(
		"step=publish-trust", "CN=kubernetes signer (SHA-256 ", "is new",
		"step=publish-trust", "CN=kubernetes (SHA-256 ", "stays: it vouches for the certificate in use",
		"step=store-next-key", "step=publish ",
		"is dropped: all 1 peers present certificates from CA CN=kubernetes signer (SHA-256 ",
	)
}
