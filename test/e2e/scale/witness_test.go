package scale

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
)

func issue(t *testing.T, ca *servers.CA, change func(*servers.LeafOptions)) *servers.Leaf {
	t.Helper()
	o := servers.LeafOptions{
		CommonName: "system:node:c00001", Organizations: []string{"system:nodes"}, DNSNames: []string{"c00001.vault.svc"},
		NotAfter: time.Now().Add(8760 * time.Hour), Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if change != nil {
		change(&o)
	}
	leaf, err := ca.Issue(o)
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

func live(leaf *servers.Leaf, ca *servers.CA) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "c00001"},
		Data:       map[string][]byte{"tls.crt": leaf.CertificatePEM, "tls.key": leaf.KeyPEM, "ca.crt": ca.PEM},
	}
}

// second are the names of the certificate after they changed once.
func second(o *servers.LeafOptions) { o.DNSNames = []string{"c00001.vault.svc", "g1.c00001.vault.svc"} }

func watcher(t *testing.T) (*witness, *servers.CA) {
	t.Helper()
	ca, err := servers.NewCA("the cluster")
	if err != nil {
		t.Fatal(err)
	}
	w, err := newWitness(&fleet{size: 2}, ca.PEM)
	if err != nil {
		t.Fatal(err)
	}
	return w, ca
}

func TestWitnessFollowsARenewal(t *testing.T) {
	w, ca := watcher(t)
	counts := func(wantDone, wantPending int) {
		t.Helper()
		if done, pending := w.done(); done != wantDone || pending != wantPending {
			t.Errorf("%d done, %d pending, want %d and %d", done, pending, wantDone, wantPending)
		}
	}
	next := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "c00001-next"}, Data: map[string][]byte{"tls.key": []byte("key")}}
	w.see(next)
	counts(0, 1)
	w.see(live(issue(t, ca, nil), ca))
	counts(1, 1)
	next.Data = nil
	w.see(next)
	counts(1, 0)
	w.expect(1)
	counts(0, 0)
	w.see(live(issue(t, ca, second), ca))
	counts(1, 0)
	if n := w.renewedAgain(); n != 0 {
		t.Errorf("%d were renewed again", n)
	}
	w.see(live(issue(t, ca, second), ca))
	if n := w.renewedAgain(); n != 1 {
		t.Errorf("%d were renewed again, want 1", n)
	}
	if wrong, _ := w.failures(); len(wrong) > 0 {
		t.Errorf("all was well, and it says: %q", wrong)
	}
}

func TestWitnessFindsWhatIsWrong(t *testing.T) {
	other, err := servers.NewCA("another")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		secret func(*servers.CA) *corev1.Secret
		want   string
	}{
		"a key of another certificate": {func(ca *servers.CA) *corev1.Secret {
			s := live(issue(t, ca, nil), ca)
			s.Data["tls.key"] = issue(t, ca, nil).KeyPEM
			return s
		}, "reading the pair"},
		"no key": {func(ca *servers.CA) *corev1.Secret {
			s := live(issue(t, ca, nil), ca)
			delete(s.Data, "tls.key")
			return s
		}, "reading the pair"},
		"another CA's":         {func(ca *servers.CA) *corev1.Secret { return live(issue(t, other, nil), ca) }, "unknown authority"},
		"another CA beside it": {func(ca *servers.CA) *corev1.Secret { return live(issue(t, ca, nil), other) }, "another CA"},
		"names of nobody": {func(ca *servers.CA) *corev1.Secret {
			return live(issue(t, ca, func(o *servers.LeafOptions) { o.DNSNames = []string{"c00002.vault.svc"} }), ca)
		}, "which nobody wants"},
		"names that come later": {func(ca *servers.CA) *corev1.Secret { return live(issue(t, ca, second), ca) }, "which nobody wants"},
		"another's subject": {func(ca *servers.CA) *corev1.Secret {
			return live(issue(t, ca, func(o *servers.LeafOptions) { o.CommonName = "system:node:c00002" }), ca)
		}, "for the subject"},
		"a short life": {func(ca *servers.CA) *corev1.Secret {
			return live(issue(t, ca, func(o *servers.LeafOptions) { o.NotAfter = time.Now().Add(time.Hour) }), ca)
		}, "that ends"},
		"not for servers": {func(ca *servers.CA) *corev1.Secret {
			return live(issue(t, ca, func(o *servers.LeafOptions) { o.Usages = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), ca)
		}, "usage"},
	} {
		w, ca := watcher(t)
		w.see(live(issue(t, ca, nil), ca))
		w.see(c.secret(ca))
		wrong, _ := w.failures()
		if done, _ := w.done(); done != 0 || len(wrong) != 1 || !strings.HasPrefix(wrong[0], "c00001: ") || !strings.Contains(wrong[0], c.want) {
			t.Errorf("%s: %d done, and it says %q, want %q", name, done, wrong, c.want)
		}
	}
}

func TestWitnessWantsANewKeyForEachCertificate(t *testing.T) {
	w, ca := watcher(t)
	leaf := issue(t, ca, nil)
	w.see(live(leaf, ca))
	w.see(live(leaf, ca)) // the same one again is no renewal
	if wrong, _ := w.failures(); len(wrong) > 0 {
		t.Fatal(wrong)
	}
	p := w.pairs["c00001"]
	p.leaf[0]++ // the former certificate had this key
	w.pairs["c00001"] = p
	w.see(live(leaf, ca))
	if wrong, _ := w.failures(); len(wrong) != 1 || wrong[0] != "c00001: another certificate for the same key" {
		t.Errorf("%q", wrong)
	}
}

func TestWitnessWantsNoEarlierNames(t *testing.T) {
	w, ca := watcher(t)
	w.expect(1)
	w.see(live(issue(t, ca, second), ca))
	w.see(live(issue(t, ca, nil), ca))
	if wrong, _ := w.failures(); len(wrong) != 1 || wrong[0] != "c00001: a certificate for earlier names replaced a later one" {
		t.Errorf("%q", wrong)
	}
}
