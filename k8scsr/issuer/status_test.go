package issuer

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

// only is the status of the only certificate.
func (s *subject) only(t *testing.T) Status {
	t.Helper()
	all := s.Status()
	if len(all) != 1 || all[0].Name != "vault-server" || all[0].Namespace != "vault" || all[0].Secret != "vault-tls" {
		t.Fatalf("statuses %+v", all)
	}
	return all[0]
}

func TestStatusWhileItWaits(t *testing.T) {
	c := newCluster(t)
	c.put(service("web", "10.0.0.1"))
	s := c.process("pod-a").issuer(vaultTLS(func(c *Certificate) {
		c.Spec.Approve = false
		c.NamesFrom = []NameSource{{Kind: KindService, Name: "web"}}
	}))
	if st := s.only(t); !st.LookedAt.IsZero() || !st.ObservedAt.IsZero() || st.NamesKnown || st.DNSNames != nil {
		t.Errorf("before the first look: %+v", st)
	}
	s.once(t)
	csr := c.csrs()[0].Name
	st := s.only(t)
	if st.Step.Kind != k8scsr.AwaitApproval || st.Step.Reason != "request "+csr+" awaits approval by somebody else: kubectl certificate approve "+csr || st.Request != csr {
		t.Errorf("it waits for %s: %s (%s)", st.Step.Kind, st.Step.Reason, st.Request)
	}
	if !st.LookedAt.Equal(c.now) || !st.ObservedAt.Equal(c.now) || !st.NextAt.Equal(c.now.Add(2*time.Second)) || st.Err != nil || !st.Due || st.Hindered || st.Failure != nil || !st.NotAfter.IsZero() || !st.RenewAt.IsZero() {
		t.Errorf("it waits: %+v", st)
	}
	if want := []string{"vault.example", "web", "web.vault", "web.vault.svc", "web.vault.svc.cluster.local"}; !st.NamesKnown || !slices.Equal(st.DNSNames, want) || !slices.Equal(st.IPAddresses, []string{"127.0.0.1"}) {
		t.Errorf("names %q %q, want %q", st.DNSNames, st.IPAddresses, want)
	}

	// Denied: what happened, when, and until when it is left alone.
	c.decide(c.csrs()[0], certificatesv1.CertificateDenied, "not on my watch")
	c.now = c.now.Add(3 * time.Second)
	deniedAt := c.now
	s.once(t)
	st = s.only(t)
	if st.Step.Kind != k8scsr.Nothing || !strings.HasPrefix(st.Step.Reason, "the last attempt failed: request "+csr+" was denied") || !strings.HasSuffix(st.Step.Reason, "next attempt at 2026-03-01T12:01:03Z") {
		t.Errorf("after a denial: %s: %s", st.Step.Kind, st.Step.Reason)
	}
	if f := st.Failure; f == nil || f.Rule != k8scsr.RuleDenied || !f.At.Equal(deniedAt) || !strings.Contains(f.Summary, "not on my watch") || st.Failures != 1 || st.Request != "" || !st.Due {
		t.Errorf("after a denial: %+v, failure %+v", st, st.Failure)
	}

	// The object is gone: its names are not known any more.
	delete(c.objects, "services/vault/web")
	c.now = c.now.Add(time.Minute)
	s.once(t)
	if st = s.only(t); !st.Hindered || st.NamesKnown || !strings.HasPrefix(st.Step.Reason, "Service vault/web does not exist") {
		t.Errorf("without the Service: %+v", st)
	}
}

func TestStatusOfAGoodOne(t *testing.T) {
	c := newCluster(t)
	s := c.process("pod-a").issuer(vaultTLS())
	s.once(t)
	st := s.only(t)
	renewAt := st.RenewAt.Sub(c.now)
	if st.Step.Kind != k8scsr.Nothing || !strings.HasPrefix(st.Step.Reason, "good until 2026-03-02T12:00:00Z, renewal is due 2026-03-02T0") || st.Due || st.Adopted || st.Failure != nil || st.Request != "" {
		t.Errorf("a good one: %+v", st)
	}
	if !st.NotBefore.Equal(c.now.Add(-5*time.Minute)) || !st.NotAfter.Equal(c.now.Add(24*time.Hour)) || renewAt < 15*time.Hour+50*time.Minute || renewAt > 17*time.Hour {
		t.Errorf("from %s to %s, renewed after %s", st.NotBefore, st.NotAfter, renewAt)
	}

	// The same pair, and a pause: adopted it is not, and nothing is done.
	s = c.process("pod-b").issuer(vaultTLS(func(c *Certificate) { c.Spec.Paused = true }))
	c.now = c.now.Add(20 * time.Hour)
	s.once(t)
	if st = s.only(t); !st.Paused || st.Step.Kind != k8scsr.Nothing || st.Step.Reason != "paused by configuration" || !st.Due || st.NotAfter.IsZero() {
		t.Errorf("paused: %+v", st)
	}
}

func TestStatusOfAnObstacle(t *testing.T) {
	c := newCluster(t)
	existing(t, c, func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque })
	s := c.process("pod-a").issuer(vaultTLS())
	s.once(t)
	if st := s.only(t); !st.Hindered || st.Step.Kind != k8scsr.Nothing || !strings.Contains(st.Step.Reason, `exists with type "Opaque"`) {
		t.Errorf("an obstacle: %+v", st)
	}
}

// A look that fails leaves what was observed before, with its moment.
func TestStatusOfALookThatFailed(t *testing.T) {
	c := newCluster(t)
	down := false
	cs := c.process("pod-a").client()
	cs.PrependReactor("get", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
		return down, nil, errors.New("boom")
	})
	s := c.issuerOn(cs, nil, vaultTLS())
	began := c.now
	s.once(t)
	down = true
	c.now = c.now.Add(5 * time.Minute)
	if _, err := s.Once(t.Context()); err == nil {
		t.Fatal("it looked at an API that fails")
	}
	st := s.only(t)
	if st.Err == nil || !strings.Contains(st.Err.Error(), "boom") || !st.LookedAt.Equal(began.Add(5*time.Minute)) || !st.ObservedAt.Equal(began) || !st.NotAfter.Equal(began.Add(24*time.Hour)) || !st.NextAt.After(c.now) {
		t.Errorf("%+v", st)
	}
	down = false
	c.now = c.now.Add(5 * time.Minute)
	s.once(t)
	if st = s.only(t); st.Err != nil || !st.ObservedAt.Equal(c.now) {
		t.Errorf("when it works again: %+v", st)
	}
	if strings.Contains(fmt.Sprintf("%+v", st), "PRIVATE") {
		t.Error("it holds a key")
	}
}
