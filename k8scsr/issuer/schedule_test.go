package issuer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

// failing makes every read of a Secret whose name begins with prefix fail while
// with returns an error, and counts all reads of such.
func failing(cs *fake.Clientset, prefix string, with func() error) *int {
	reads := new(int)
	cs.PrependReactor("get", "secrets", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if !strings.HasPrefix(a.(clienttesting.GetAction).GetName(), prefix) {
			return false, nil, nil
		}
		*reads++
		err := with()
		return err != nil, nil, err
	})
	return reads
}

func (c *cluster) issuerOn(cs *fake.Clientset, edit func(*Options), certificates ...Certificate) *subject {
	c.t.Helper()
	s := &subject{registry: prometheus.NewPedanticRegistry()}
	o := Options{Client: cs, Certificates: List(certificates), Registerer: s.registry,
		Now: func() time.Time { return c.now }, Chance: func() float64 { return 0 }, Log: slog.New(slog.NewTextHandler(&s.log, nil)),
		Report: func(f []k8scsr.Finding) { s.findings = f }}
	if edit != nil {
		edit(&o)
	}
	var err error
	if s.Issuer, err = New(o); err != nil {
		c.t.Fatal(err)
	}
	return s
}

func numbered(n int, edit ...func(*Certificate)) Certificate {
	return vaultTLS(append([]func(*Certificate){func(c *Certificate) {
		c.Spec.Name, c.Secret = fmt.Sprintf("server-%d", n), fmt.Sprintf("server-%d-tls", n)
	}}, edit...)...)
}

// TestOneBadBesideNineGood: the bad one is tried again at its own pace, however
// often the others are looked at, and those never wait for it.
func TestOneBadBesideNineGood(t *testing.T) {
	c := newCluster(t)
	c.mayOpen = 10
	certificates := []Certificate{vaultTLS(func(c *Certificate) { c.Spec.Name, c.Secret = "bad", "bad-tls" })}
	for n := range 9 {
		certificates = append(certificates, numbered(n, func(c *Certificate) { c.Spec.Approve = false }))
	}
	cs := c.process("pod-a").client()
	bad := errors.New("etcdserver: mvcc: database space exceeded")
	reads := failing(cs, "bad-tls", func() error { return bad })
	s := c.issuerOn(cs, nil, certificates...)

	// Nine requests wait for an approval, which are looked at often.
	begin, rounds := c.now, 0
	for ; c.now.Before(begin.Add(2 * time.Minute)); rounds++ {
		next, err := s.OnceUntil(context.Background())
		if err == nil || strings.Count(err.Error(), "space exceeded") != 1 || !strings.Contains(err.Error(), `certificate "bad"`) {
			t.Fatalf("a round at %v does not tell of the bad one: %v", c.now, err)
		}
		if !strings.Contains(s.rules(), k8scsr.RuleUnknown) || strings.Count(s.rules(), k8scsr.RuleMissing) != 9 {
			t.Fatalf("findings at %v: %s", c.now, s.rules())
		}
		if pause := next.Sub(c.now); pause <= 0 || pause > 30*time.Second {
			t.Fatalf("looks again after %v at %v", pause, c.now)
		}
		c.now = next
	}
	// At 0, 1, 3, 7, 15, 31, 63 and 108 s.
	if *reads != 8 {
		t.Errorf("the bad one was read %d times in two minutes and %d rounds", *reads, rounds)
	}
	// All nine are answered: the next round has them.
	for _, csr := range c.csrs() {
		c.decide(csr, certificatesv1.CertificateApproved, "by hand")
	}
	for _, csr := range c.csrs() {
		c.issue(csr)
	}
	c.now = c.now.Add(30 * time.Second)
	s.OnceUntil(context.Background())
	if strings.Contains(s.rules(), k8scsr.RuleMissing) {
		t.Errorf("findings of the good ones: %s", s.rules())
	}
	// The bad one is mended: noticed within a minute, and then all is well.
	bad = nil
	c.now = c.now.Add(45 * time.Second)
	if _, err := s.OnceUntil(context.Background()); err != nil || len(s.findings) != 0 {
		t.Errorf("after it was mended: %v, %s", err, s.rules())
	}
}

// TestWhatIsNotDueIsNotRead: between two looks nothing is asked, whoever wakes.
func TestWhatIsNotDueIsNotRead(t *testing.T) {
	c := newCluster(t)
	cs := c.process("pod-a").client()
	s := c.issuerOn(cs, nil, vaultTLS())
	next, err := s.OnceUntil(context.Background())
	if err != nil || next.Sub(c.now) != time.Minute {
		t.Fatalf("%v, again after %v", err, next.Sub(c.now))
	}
	cs.ClearActions()
	for range 10 {
		c.now = c.now.Add(5 * time.Second)
		s.OnceUntil(context.Background())
	}
	if calls := cs.Actions(); len(calls) != 0 {
		t.Errorf("%d calls: %v", len(calls), calls)
	}
	c.now = c.now.Add(10 * time.Second)
	s.OnceUntil(context.Background())
	if calls := cs.Actions(); len(calls) != 3 {
		t.Errorf("a look at rest takes %d calls: %v", len(calls), calls)
	}
	// A clock that jumped back is no reason to wait.
	cs.ClearActions()
	c.now = c.now.Add(-24 * time.Hour)
	s.OnceUntil(context.Background())
	if len(cs.Actions()) != 3 {
		t.Error("it is not looked at after the clock jumped back")
	}
}

// TestServerAsksToWait: what a server wants to be left alone for is kept, for
// the certificate that was told so.
func TestServerAsksToWait(t *testing.T) {
	c := newCluster(t)
	cs := c.process("pod-a").client()
	reads := failing(cs, "vault-tls", func() error { return apierrors.NewTooManyRequests("slow down", 40) })
	s := c.issuerOn(cs, nil, vaultTLS(), numbered(1))
	begin := c.now
	if _, err := s.OnceUntil(context.Background()); !apierrors.IsTooManyRequests(err) {
		t.Fatal(err)
	}
	if c.objects["secrets/vault/server-1-tls"] == nil {
		t.Error("the other one was not issued")
	}
	for c.now.Before(begin.Add(39 * time.Second)) {
		c.now = c.now.Add(time.Second)
		s.OnceUntil(context.Background())
	}
	if *reads != 1 {
		t.Errorf("read %d times within 40 s", *reads)
	}
	c.now = c.now.Add(time.Second)
	s.OnceUntil(context.Background())
	if *reads != 2 {
		t.Errorf("read %d times after 40 s", *reads)
	}
}

// TestUndialledIsTriedOnce: where no connection can be made, one certificate
// finds out for all in a round, and all are unknown.
func TestUndialledIsTriedOnce(t *testing.T) {
	c := newCluster(t)
	cs := c.process("pod-a").client()
	var down error = &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	reads := failing(cs, "", func() error { return down })
	s := c.issuerOn(cs, nil, numbered(1), numbered(2), numbered(3))
	if _, err := s.OnceUntil(context.Background()); err == nil || strings.Count(err.Error(), "cannot be reached") != 3 {
		t.Errorf("%v", err)
	}
	if *reads != 1 || strings.Count(s.rules(), k8scsr.RuleUnknown) != 3 {
		t.Errorf("%d reads, findings %s", *reads, s.rules())
	}
	down = nil
	c.now = c.now.Add(time.Second)
	if _, err := s.OnceUntil(context.Background()); err != nil || len(s.findings) != 0 {
		t.Errorf("%v, findings %s", err, s.rules())
	}
}

// TestAnswerIsNoticedThroughTheWatch: an approval or a certificate is acted on
// when the watch tells of it, and not only when the next look is due; what we
// wrote ourselves is no news.
func TestAnswerIsNoticedThroughTheWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.mayOpen = 2
		s := c.process("pod-a").issuer(vaultTLS(func(c *Certificate) { c.Spec.Approve = false }), numbered(1, func(c *Certificate) { c.Spec.Approve = false }))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go s.Watch(ctx, func() {})
		synctest.Wait()
		w, _ := c.watcher()
		tell := func(csr *certificatesv1.CertificateSigningRequest) {
			w.Modify(csr.DeepCopy())
			synctest.Wait()
		}
		writes := func() int {
			before := len(c.writes)
			s.OnceUntil(ctx)
			return len(c.writes) - before
		}
		writes()
		var waiting *certificatesv1.CertificateSigningRequest
		for _, csr := range c.csrs() {
			tell(csr)
			if csr.Labels[LabelCertificate] == "vault_vault-tls" {
				waiting = csr
			}
		}
		looks := func() version { return *s.outlooks[0].seen }
		if n := writes(); n != 0 || looks().name != waiting.Name {
			t.Fatalf("%d writes, waits for %v", n, looks())
		}
		c.decide(waiting, certificatesv1.CertificateApproved, "by hand")
		approved := c.objects["certificatesigningrequests//"+waiting.Name].(*certificatesv1.CertificateSigningRequest)
		tell(approved)
		if writes(); looks().resourceVersion != approved.ResourceVersion {
			t.Errorf("the approval was not looked at: %v", looks())
		}
		c.issue(approved)
		tell(c.objects["certificatesigningrequests//"+waiting.Name].(*certificatesv1.CertificateSigningRequest))
		if n := writes(); n != 2 || c.leaf() == nil {
			t.Errorf("%d writes after the certificate came, want the pair and the record: %q", n, c.writes)
		}
	})
}

// TestCallsOfARenewal holds what a renewal costs the API while the work goes on:
// a write for each step, and no read, since every one of them fails where what is
// remembered is no longer so. A call alone, which nobody's watch wakes, reads the
// two Secrets, the requests and the answer besides.
func TestCallsOfARenewal(t *testing.T) {
	five := []string{
		"update secrets",                             // the next key
		"create certificatesigningrequests",          //
		"update certificatesigningrequests/approval", //
		"update secrets",                             // the pair
		"update secrets",                             // without the next key
	}
	t.Run("while the work goes on", func(t *testing.T) {
		c, state := newCluster(t), &kept{}
		cs := c.process("pod-a").client()
		s := c.issuerOn(cs, func(o *Options) { o.State = state }, vaultTLS())
		s.until(t)
		before := c.leaf()
		renewAt := s.Status()[0].RenewAt
		c.now = renewAt.Add(-30 * time.Second)
		s.until(t) // the last look before it is due
		c.now = renewAt
		s.watching.Store(true)
		cs.ClearActions()
		state.gets, state.puts = 0, 0
		s.until(t)
		for _, csr := range c.csrs() {
			s.noteRequest(csr)
		}
		s.until(t)
		if c.leaf().Equal(before) {
			t.Fatalf("it was not renewed\n%s", &s.log)
		}
		calls := callsOf(cs)
		others := []string{"get configmaps", "create selfsubjectreviews", "get configmaps"} // for all certificates, once in each round
		if got := less(calls, others); !slices.Equal(got, five) || state.gets+state.puts > 2 {
			t.Errorf("%q, and the record %d times, want %q", calls, state.gets+state.puts, five)
		}
	})
	t.Run("long after it was read", func(t *testing.T) {
		c, state := newCluster(t), &kept{}
		cs := c.process("pod-a").client()
		s := c.issuerOn(cs, func(o *Options) { o.State, o.Reads = state, readsPerLook/(100*3600.0) }, vaultTLS())
		s.until(t)
		before := c.leaf()
		c.now = s.Status()[0].RenewAt
		s.watching.Store(true)
		cs.ClearActions()
		s.until(t)
		for _, csr := range c.csrs() {
			s.noteRequest(csr)
		}
		s.until(t)
		others := []string{"get configmaps", "create selfsubjectreviews", "get configmaps", "get configmaps"}
		if got := less(callsOf(cs), others); c.leaf().Equal(before) || !slices.Equal(got, five) {
			t.Errorf("%q, want %q", got, five)
		}
	})
	t.Run("after a change of the configuration", func(t *testing.T) {
		c, state, memory := newCluster(t), &kept{}, new(Memory)
		first := c.issuerOn(c.process("pod-a").client(), func(o *Options) { o.State, o.Memory = state, memory }, vaultTLS())
		first.until(t)
		first.Unregister()
		before := c.leaf()
		cs := c.process("pod-a").client()
		changed := vaultTLS()
		changed.Spec.DNSNames = append(changed.Spec.DNSNames, "more.example.com")
		s := c.issuerOn(cs, func(o *Options) { o.State, o.Memory = state, memory }, changed)
		s.watching.Store(true)
		s.until(t)
		for _, csr := range c.csrs() {
			s.noteRequest(csr)
		}
		s.until(t)
		if c.leaf().Equal(before) {
			t.Fatalf("it was not renewed\n%s", &s.log)
		}
		others := []string{"get configmaps", "create selfsubjectreviews", "get configmaps"}
		if got := less(callsOf(cs), others); !slices.Equal(got, five) {
			t.Errorf("%q, want %q", callsOf(cs), five)
		}
	})
	t.Run("alone", func(t *testing.T) {
		c, state := newCluster(t), &kept{}
		cs := c.process("pod-a").client()
		s := c.issuerOn(cs, func(o *Options) { o.State = state }, vaultTLS())
		s.once(t)
		c.now = c.now.Add(17 * time.Hour)
		cs.ClearActions()
		s.once(t)
		reads := []string{"get secrets", "get secrets", "get configmaps", "create selfsubjectreviews", "list certificatesigningrequests", "get certificatesigningrequests"}
		if got := less(callsOf(cs), reads); !slices.Equal(got, five) {
			t.Errorf("%q, want %q and no more than %q", callsOf(cs), five, reads)
		}
	})
}

// TestWhatIsRememberedIsOld: what somebody did since the last look is met by the
// write that is tried, and everything is read then. Nothing that others wrote is
// lost, and a certificate that was renewed meanwhile is not renewed again.
func TestWhatIsRememberedIsOld(t *testing.T) {
	label := func(s *corev1.Secret) {
		s.Labels["theirs"] = "kept"
		if s.Type == corev1.SecretTypeTLS {
			s.Data["other"] = []byte("kept")
		}
	}
	for name, meddle := range map[string]func(t *testing.T, c *cluster){
		"the live Secret was labelled": func(_ *testing.T, c *cluster) { c.edit("vault-tls", label) },
		"the next Secret was labelled": func(_ *testing.T, c *cluster) { c.edit("vault-tls-next", label) },
		"the live Secret is gone":      func(_ *testing.T, c *cluster) { delete(c.objects, "secrets/vault/vault-tls") },
		"the next Secret is gone":      func(_ *testing.T, c *cluster) { delete(c.objects, "secrets/vault/vault-tls-next") },
		"somebody renewed it": func(t *testing.T, c *cluster) {
			s := c.process("pod-b").issuer(vaultTLS())
			s.now = func() time.Time { return c.now }
			s.once(t)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			s := c.process("pod-a").issuer(vaultTLS())
			s.until(t)
			before := c.leaf()
			renewAt := s.Status()[0].RenewAt
			c.now = renewAt.Add(-30 * time.Second)
			s.until(t)
			c.now = renewAt
			meddle(t, c)
			s.until(t)
			c.now = c.now.Add(5 * time.Second)
			s.until(t)
			if leaf := c.leaf(); leaf == nil || leaf.Equal(before) {
				t.Fatalf("it was not renewed: %q\n%s", c.writes, &s.log)
			}
			if n := len(c.csrs()); n != 2 {
				t.Errorf("%d requests, want 2: %q", n, c.writes)
			}
			for _, secret := range []string{"vault-tls", "vault-tls-next"} {
				if name == map[string]string{"vault-tls": "the live Secret was labelled", "vault-tls-next": "the next Secret was labelled"}[secret] {
					got := c.secret(secret)
					if got.Labels["theirs"] != "kept" || secret == "vault-tls" && string(got.Data["other"]) != "kept" {
						t.Errorf("%s lost what others wrote: %v", secret, got.Labels)
					}
				}
			}
			if len(s.findings) != 0 {
				t.Errorf("findings %s", s.rules())
			}
		})
	}
}

// until is a round of many.
func (s *subject) until(t *testing.T) {
	t.Helper()
	if _, err := s.OnceUntil(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) secret(name string) *corev1.Secret {
	s, _ := c.objects["secrets/vault/"+name].(*corev1.Secret)
	return s
}

// edit is somebody else's change.
func (c *cluster) edit(name string, change func(*corev1.Secret)) {
	s := c.secret(name).DeepCopy()
	change(s)
	c.put(s)
}

func callsOf(cs *fake.Clientset) (out []string) {
	for _, a := range cs.Actions() {
		call := a.GetVerb() + " " + a.GetResource().Resource
		if a.GetSubresource() != "" {
			call += "/" + a.GetSubresource()
		}
		out = append(out, call)
	}
	return out
}

// less is all but one of each of those others.
func less(all, others []string) []string {
	out := slices.Clone(all)
	for _, other := range others {
		if n := slices.Index(out, other); n >= 0 {
			out = slices.Delete(out, n, n+1)
		}
	}
	return out
}

// TestRightsOfAStartingServer: an API server that has just started refuses what
// the roles allow. That is unknown for some seconds, and looked at again soon;
// what is refused for longer, or was not before, is critical.
func TestRightsOfAStartingServer(t *testing.T) {
	c := newCluster(t)
	cs := c.process("pod-a").client()
	away := false
	failing(cs, "vault-tls", func() error {
		if away {
			return &net.OpError{Op: "dial", Err: errors.New("connection refused")}
		}
		return nil
	})
	s := c.issuerOn(cs, nil, vaultTLS())
	look := func() k8scsr.Finding {
		t.Helper()
		next, _ := s.OnceUntil(t.Context())
		if pause := next.Sub(c.now); len(s.findings) != 1 || pause > time.Second && s.findings[0].Severity == k8scsr.Unknown {
			t.Fatalf("again after %v, findings %+v", pause, s.findings)
		}
		c.now = next
		return s.findings[0]
	}
	lasts := func(when string) {
		t.Helper()
		begin := c.now
		c.denied["get secrets"] = true
		f := look()
		for f.Severity == k8scsr.Unknown && c.now.Sub(begin) < time.Minute {
			if !strings.Contains(f.Summary, "permission denied") || !strings.Contains(f.Remedy, "grant it") {
				t.Fatalf("%s: %+v", when, f)
			}
			f = look()
		}
		if after := c.now.Sub(begin); f.Rule != k8scsr.RulePermission || f.Severity != k8scsr.Critical || after < 5*time.Second || after > 8*time.Second {
			t.Errorf("%s: after %v %+v", when, after, f)
		}
	}
	lasts("at the start")
	away = true
	for range 8 {
		c.now = c.now.Add(time.Minute)
		s.OnceUntil(t.Context())
	}
	away, c.now = false, c.now.Add(time.Minute)
	lasts("after it was away")

	clear(c.denied)
	c.now = c.now.Add(time.Minute)
	if s.OnceUntil(t.Context()); len(s.findings) != 0 {
		t.Fatalf("all is well: %+v", s.findings)
	}
	c.denied["get secrets"] = true
	c.now = c.now.Add(time.Minute)
	if f := look(); f.Rule != k8scsr.RulePermission || f.Severity != k8scsr.Critical {
		t.Errorf("taken away while it works: %+v", f)
	}
}

// TestLongRoundsAreCut: who was not looked at when a round had taken its time is
// looked at in the next one, which comes at once, and whose request was answered
// is heard first.
func TestLongRoundsAreCut(t *testing.T) {
	c := newCluster(t)
	c.mayOpen = 10
	cs := c.process("pod-a").client()
	cs.PrependReactor("get", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
		c.now = c.now.Add(time.Second) // a slow API
		return false, nil, nil
	})
	s := c.issuerOn(cs, func(*Options) {}, fleet(10)...)
	s.watching.Store(true)
	var order []string
	for rounds := 1; ; rounds++ {
		cs.ClearActions()
		next, err := s.OnceUntil(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range cs.Actions() {
			if create, ok := a.(clienttesting.CreateAction); ok && a.GetVerb() == "create" && a.GetResource().Resource == "secrets" {
				order = append(order, create.GetObject().(*corev1.Secret).Name)
			}
		}
		for _, csr := range c.csrs() {
			s.noteRequest(csr)
		}
		if len(c.csrs()) == 10 && len(order) == 20 {
			break
		}
		if next.IsZero() || next.After(c.now.Add(2*time.Second)) || rounds == 8 {
			t.Fatalf("round %d: the next one begins %v, now is %v; %q", rounds, next, c.now, order)
		}
	}
	// Three are begun in a round of five seconds, and published in the next one,
	// before three more are begun.
	want := []string{
		"server-0-tls-next", "server-1-tls-next", "server-2-tls-next",
		"server-0-tls", "server-1-tls", "server-2-tls", "server-3-tls-next", "server-4-tls-next", "server-5-tls-next",
		"server-3-tls", "server-4-tls", "server-5-tls", "server-6-tls-next", "server-7-tls-next", "server-8-tls-next",
		"server-6-tls", "server-7-tls", "server-8-tls", "server-9-tls-next",
		"server-9-tls",
	}
	if !slices.Equal(order, want) {
		t.Errorf("%q, want %q", order, want)
	}
}

// TestAwaitedSignerHidesNothing: while a signer does not answer, what becomes of
// the pair in use is seen within a minute as ever.
func TestAwaitedSignerHidesNothing(t *testing.T) {
	c := newCluster(t)
	s := c.process("pod-a").issuer(vaultTLS())
	s.watching.Store(true)
	s.until(t)
	for _, csr := range c.csrs() {
		s.noteRequest(csr)
	}
	s.until(t)
	c.sign = nil
	c.now = c.now.Add(17 * time.Hour)
	s.until(t)
	if len(s.findings) != 0 || s.Status()[0].Request == "" {
		t.Fatalf("a renewal is not under way: findings %s", s.rules())
	}
	delete(c.objects, "secrets/vault/vault-tls")
	c.now = c.now.Add(time.Minute)
	if s.until(t); !strings.Contains(s.rules(), k8scsr.RuleMissing) {
		t.Errorf("a minute after it was deleted: findings %q", s.rules())
	}
}

// TestRecordIsPutBack: somebody puts NAME-next back as it was before an attempt.
// The request that is open is found all the same, and there is no second one.
func TestRecordIsPutBack(t *testing.T) {
	c := newCluster(t)
	s := c.process("pod-a").issuer(vaultTLS(func(c *Certificate) { c.Spec.Approve = false }))
	s.until(t)
	if len(c.csrs()) != 1 {
		t.Fatalf("%d requests", len(c.csrs()))
	}
	c.edit("vault-tls-next", func(s *corev1.Secret) {
		s.Data = nil
		s.Annotations[AnnotationRecord] = `{"version":1}`
	})
	for range 5 {
		c.now = c.now.Add(time.Minute)
		s.until(t)
	}
	if len(c.csrs()) != 1 || !strings.Contains(s.Status()[0].Step.Reason, "is no longer wanted, but still open") {
		t.Errorf("%d requests; %s", len(c.csrs()), s.Status()[0].Step.Reason)
	}
}
