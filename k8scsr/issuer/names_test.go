package issuer

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

func object(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "vault", Name: name}
}

func service(name, clusterIP string) *corev1.Service {
	return &corev1.Service{ObjectMeta: object(name), Spec: corev1.ServiceSpec{ClusterIP: clusterIP}}
}

func statefulSet(name, governing string, replicas, present int32) *appsv1.StatefulSet {
	return &appsv1.StatefulSet{ObjectMeta: object(name),
		Spec: appsv1.StatefulSetSpec{ServiceName: governing, Replicas: &replicas}, Status: appsv1.StatefulSetStatus{Replicas: present}}
}

// ingress has the first host in a rule and the others in its tls section.
func ingress(name string, hosts ...string) *networkingv1.Ingress {
	out := &networkingv1.Ingress{ObjectMeta: object(name)}
	for n, host := range hosts {
		if n == 0 {
			out.Spec.Rules = []networkingv1.IngressRule{{Host: host}, {}}
		} else {
			out.Spec.TLS = append(out.Spec.TLS, networkingv1.IngressTLS{Hosts: []string{host}})
		}
	}
	return out
}

// following is the certificate of the tests with the names of one more object.
func following(kind, name string) Certificate {
	return vaultTLS(func(c *Certificate) {
		c.Spec.DNSNames = nil
		c.NamesFrom = []NameSource{{Kind: kind, Name: name}}
	})
}

func (c *cluster) names(t *testing.T) string {
	t.Helper()
	leaf := c.leaf()
	if leaf == nil {
		t.Fatal("there is no certificate")
	}
	return strings.Join(leaf.DNSNames, " ")
}

func TestNamesOfObjects(t *testing.T) {
	ordinals := statefulSet("db", "db-pods", 1, 0)
	ordinals.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: 5}
	unset := statefulSet("db", "db-pods", 0, 0)
	unset.Spec.Replicas = nil
	cases := []struct {
		name   string
		kind   string
		object metav1.Object
		want   string // sorted
	}{
		{"Service", KindService, service("vault", "10.0.0.1"), "vault vault.vault vault.vault.svc vault.vault.svc.cluster.local"},
		{"headless Service", KindService, service("pods", "None"),
			"*.pods *.pods.vault *.pods.vault.svc *.pods.vault.svc.cluster.local pods pods.vault pods.vault.svc pods.vault.svc.cluster.local"},
		{"StatefulSet", KindStatefulSet, statefulSet("db", "db-pods", 2, 2),
			`db-0.db-pods db-0.db-pods.vault db-0.db-pods.vault.svc db-0.db-pods.vault.svc.cluster.local
			db-1.db-pods db-1.db-pods.vault db-1.db-pods.vault.svc db-1.db-pods.vault.svc.cluster.local`},
		{"StatefulSet being scaled down", KindStatefulSet, statefulSet("db", "p", 1, 2),
			`db-0.p db-0.p.vault db-0.p.vault.svc db-0.p.vault.svc.cluster.local db-1.p db-1.p.vault db-1.p.vault.svc db-1.p.vault.svc.cluster.local`},
		{"StatefulSet from five on", KindStatefulSet, ordinals,
			"db-5.db-pods db-5.db-pods.vault db-5.db-pods.vault.svc db-5.db-pods.vault.svc.cluster.local"},
		{"StatefulSet without replicas", KindStatefulSet, unset,
			"db-0.db-pods db-0.db-pods.vault db-0.db-pods.vault.svc db-0.db-pods.vault.svc.cluster.local"},
		{"Ingress", KindIngress, ingress("web", "vault.example.com", "*.apps.example.com", "vault.example.com"), "*.apps.example.com vault.example.com"},
	}
	for _, test := range cases {
		t.Run(test.name, func(t *testing.T) {
			c := newCluster(t)
			c.put(test.object)
			c.process("pod-a").issuer(following(test.kind, test.object.GetName())).once(t)
			if want := strings.Join(strings.Fields(test.want), " "); c.names(t) != want {
				t.Errorf("got  %s\nwant %s", c.names(t), want)
			}
		})
	}
}

// TestNamesFollowTheObject: whatever changes at the object is in the next
// certificate at once, more names and fewer; nothing is asked for otherwise.
func TestNamesFollowTheObject(t *testing.T) {
	c := newCluster(t)
	c.put(ingress("web", "a.example", "b.example"))
	s := c.process("pod-a").issuer(vaultTLS(func(c *Certificate) {
		c.NamesFrom = []NameSource{{KindIngress, "vault", "web"}}
		c.ClusterDomain = "other.local"
	}))
	for _, step := range []struct {
		hosts []string
		want  string
	}{
		{[]string{"a.example", "b.example"}, "a.example b.example vault.example"},
		{[]string{"a.example", "b.example", "c.example"}, "a.example b.example c.example vault.example"},
		{[]string{"c.example"}, "c.example vault.example"},
	} {
		c.put(ingress("web", step.hosts...))
		c.now = c.now.Add(time.Minute)
		s.once(t)
		if got := c.names(t); got != step.want || len(s.findings) > 0 {
			t.Fatalf("names %s, want %s; findings %q", got, step.want, s.rules())
		}
		writes := len(c.writes)
		if s.once(t); len(c.writes) != writes {
			t.Fatalf("nothing changed, yet %q", c.writes[writes:])
		}
	}
	if got := len(c.csrs()); got != 3 {
		t.Errorf("%d requests for three sets of names", got)
	}
}

// TestNamesUnknown: while an object cannot be read, gives no name, or one that
// no certificate carries, nothing is asked for and nothing replaced, also when
// it is time to; its age is told all the same. Afterwards it goes on.
func TestNamesUnknown(t *testing.T) {
	cases := []struct {
		name    string
		kind    string
		good    metav1.Object
		happens func(*cluster)
		rule    string
		summary string
	}{
		{"gone", KindService, service("web", "10.0.0.1"), func(c *cluster) { delete(c.objects, "services/vault/web") },
			k8scsr.RuleNamesMissing, "Service vault/web does not exist: the names wanted are not known"},
		{"forbidden", KindService, service("web", "10.0.0.1"), func(c *cluster) { c.denied["get services"] = true },
			k8scsr.RulePermission, `permission denied: needs verb "get" on services in namespace "vault" with name "web"`},
		{"forbidden StatefulSet", KindStatefulSet, statefulSet("web", "pods", 1, 1), func(c *cluster) { c.denied["get statefulsets"] = true },
			k8scsr.RulePermission, `needs verb "get" on statefulsets.apps in namespace "vault" with name "web"`},
		{"forbidden Ingress", KindIngress, ingress("web", "a.example"), func(c *cluster) { c.denied["get ingresses"] = true },
			k8scsr.RulePermission, `needs verb "get" on ingresses.networking.k8s.io in namespace "vault" with name "web"`},
		{"no hosts", KindIngress, ingress("web", "a.example"), func(c *cluster) { c.put(ingress("web")) },
			k8scsr.RuleNamesUnusable, "Ingress vault/web gives no name: neither its rules nor its tls section has a host"},
		{"no pods", KindStatefulSet, statefulSet("web", "pods", 1, 1), func(c *cluster) { c.put(statefulSet("web", "pods", 0, 0)) },
			k8scsr.RuleNamesUnusable, "StatefulSet vault/web gives no name: it has no replicas, or no serviceName"},
		{"no governing Service", KindStatefulSet, statefulSet("web", "pods", 1, 1), func(c *cluster) { c.put(statefulSet("web", "", 1, 1)) },
			k8scsr.RuleNamesUnusable, "StatefulSet vault/web gives no name"},
		{"a label too long", KindIngress, ingress("web", "a.example"), func(c *cluster) { c.put(ingress("web", strings.Repeat("x", 64)+".example")) },
			k8scsr.RuleNamesUnusable, "with the names of its objects it cannot be asked for"},
		{"more than fit", KindStatefulSet, statefulSet("web", "pods", 1, 1), func(c *cluster) { c.put(statefulSet("web", "pods", 1<<30, 0)) },
			k8scsr.RuleNamesUnusable, "with the names of its objects it cannot be asked for"},
	}
	for _, test := range cases {
		t.Run(test.name, func(t *testing.T) {
			c := newCluster(t)
			c.put(test.good)
			s := c.process("pod-a").issuer(vaultTLS(func(c *Certificate) { c.NamesFrom = []NameSource{{test.kind, "vault", "web"}} }))
			s.once(t)
			before, writes := c.leaf(), len(c.writes)

			test.happens(c)
			c.now = c.now.Add(time.Minute)
			s.once(t)
			if s.rules() != test.rule || !strings.Contains(s.findings[0].Summary, test.summary) || s.findings[0].Remedy == "" {
				t.Errorf("findings %+v\nwant %s: %s", s.findings, test.rule, test.summary)
			}
			c.now = c.now.Add(23 * time.Hour)
			s.once(t)
			if want := []string{k8scsr.RuleOverdue, test.rule}; !slices.Equal(slices.Sorted(slices.Values(strings.Fields(s.rules()))), want) {
				t.Errorf("when it is overdue, findings %s, want %s", s.rules(), want)
			}
			if len(c.writes) != writes || !c.leaf().Equal(before) {
				t.Errorf("writes %q", c.writes[writes:])
			}

			delete(c.denied, "get services")
			delete(c.denied, "get statefulsets")
			delete(c.denied, "get ingresses")
			c.put(test.good)
			s.once(t)
			if c.leaf().Equal(before) || len(s.findings) > 0 {
				t.Errorf("it does not go on: findings %s", s.rules())
			}
		})
	}
}

// TestNamesUnknownTogether: of several objects all are told, in one finding for
// each rule, since of two with the same rule one is shown.
func TestNamesUnknownTogether(t *testing.T) {
	c := newCluster(t)
	c.put(ingress("web"))
	s := c.process("pod-a").issuer(vaultTLS(func(c *Certificate) {
		c.NamesFrom = []NameSource{{KindService, "vault", "a"}, {KindIngress, "vault", "web"}, {KindService, "vault", "b"}}
	}))
	s.once(t)
	var told []string
	for _, f := range s.findings {
		told = append(told, f.Rule+": "+strings.TrimSuffix(f.Summary, ": the names wanted are not known, so the certificate stays as it is and is not renewed"))
	}
	want := []string{
		"certificate-missing: there is no certificate: a server that starts now has nothing to serve",
		"names-source-missing: Service vault/a does not exist; Service vault/b does not exist",
		"names-source-unusable: Ingress vault/web gives no name: neither its rules nor its tls section has a host",
	}
	if !slices.Equal(told, want) || len(c.writes) > 0 {
		t.Errorf("told\n%q, want\n%q; writes %q", told, want, c.writes)
	}
}

// TestNamesUnreadable: an API that does not answer is an error, not fewer names.
func TestNamesUnreadable(t *testing.T) {
	c := newCluster(t)
	c.put(service("web", "10.0.0.1"))
	s := c.process("pod-a").issuer(following(KindService, "web"))
	s.client.(*fake.Clientset).PrependReactor("get", "services", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewInternalError(errors.New("etcd is gone"))
	})
	if _, err := s.Once(context.Background()); err == nil || !strings.Contains(err.Error(), "to get services") {
		t.Errorf("error %v", err)
	}
	if s.rules() != k8scsr.RuleUnknown || len(c.writes) > 0 {
		t.Errorf("findings %s, writes %q", s.rules(), c.writes)
	}
}

// TestNamesVanishUnderARequest: a request that is open when an object vanishes
// is neither denied nor followed; when the object is back with other names, it
// is withdrawn and the next one has them.
func TestNamesVanishUnderARequest(t *testing.T) {
	c := newCluster(t)
	c.put(ingress("web", "a.example"))
	manual := func(c *Certificate) { c.NamesFrom, c.Spec.Approve = []NameSource{{KindIngress, "vault", "web"}}, false }
	s := c.process("pod-a").issuer(vaultTLS(manual))
	s.once(t)
	first := c.csrs()[0]
	delete(c.objects, "ingresses/vault/web")
	c.decide(first, certificatesv1.CertificateApproved, "by a person")
	c.issue(c.csrs()[0])
	s.once(t)
	if c.leaf() != nil || !strings.Contains(s.rules(), k8scsr.RuleNamesMissing) {
		t.Errorf("leaf %v, findings %s", c.leaf(), s.rules())
	}
	c.put(ingress("web", "b.example"))
	s.once(t)
	requests := c.csrs()
	second := requests[slices.IndexFunc(requests, func(r *certificatesv1.CertificateSigningRequest) bool { return r.Name != first.Name })]
	c.decide(second, certificatesv1.CertificateApproved, "by a person")
	for _, csr := range c.csrs() {
		if csr.Name == second.Name {
			c.issue(csr)
		}
	}
	s.once(t)
	if got := c.names(t); got != "b.example vault.example" {
		t.Errorf("names %s", got)
	}
}

func TestNameSourcesRefused(t *testing.T) {
	c := newCluster(t)
	certificate := vaultTLS(func(c *Certificate) { c.NamesFrom = []NameSource{{"Gateway", "vault", "x"}, {KindService, "", ""}} })
	for range 32 {
		certificate.NamesFrom = append(certificate.NamesFrom, NameSource{KindService, "vault", "x"})
	}
	_, err := New(Options{Client: c.process("pod-a").client(), Certificates: List{certificate}})
	for _, want := range []string{
		`certificate "vault-server": namesFrom: kind "Gateway" is none of Service, StatefulSet, Ingress`,
		`certificate "vault-server": namesFrom: Service: namespace "vault" and name "" must both be given`,
		`certificate "vault-server": namesFrom: it has 34 entries, more than 32`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %s", err, want)
		}
	}
}
