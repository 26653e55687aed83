package signer

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

func TestSignsWhatIsApproved(t *testing.T) {
	c, ca := newCluster(t)
	c.ask("a")
	c.ask("b", unapproved)
	c.ask("c", func(r *certificatesv1.CertificateSigningRequest) { r.Spec.SignerName = "pkiwarden.io/other" })
	c.ask("d", func(r *certificatesv1.CertificateSigningRequest) {
		r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateDenied, Status: corev1.ConditionTrue})
	})
	c.ask("e", func(r *certificatesv1.CertificateSigningRequest) {
		r.Status.Conditions[0].Status = corev1.ConditionFalse
	})
	s := c.signer()
	if next := s.once(); !next.Equal(epoch.Add(time.Minute)) {
		t.Errorf("next look %v", next)
	}
	leaf := c.leaf("a")
	if leaf == nil || leaf.CheckSignatureFrom(ca.cert) != nil || leaf.DNSNames[0] != "server.dc1.consul" || !leaf.NotAfter.Equal(epoch.Add(time.Hour)) {
		t.Fatalf("the approved one: %+v", leaf)
	}
	if bits := leaf.SerialNumber.BitLen(); bits < 100 || bits > 159 || leaf.SerialNumber.Sign() <= 0 {
		t.Errorf("serial of %d bits", bits)
	}
	for _, name := range []string{"b", "c", "d", "e"} {
		if c.leaf(name) != nil || failedByUs(c.csrs[name]) != "" {
			t.Errorf("request %s: %+v", name, c.csrs[name].Status)
		}
	}
	if s.findings == nil || s.rules() != "" {
		t.Errorf("findings %q", s.rules())
	}
	series := s.gather()
	if series["pkiwarden_signer_requests_total signed pkiwarden.io/consul"] != 1 || len(series) != 5 ||
		series["pkiwarden_signer_ca_not_after_timestamp_seconds pkiwarden.io/consul"] != float64(epoch.AddDate(9, 0, 0).Unix()) {
		t.Errorf("series %v", series)
	}
	st := s.Status()
	if len(st) != 1 || st[0].Name != "pkiwarden.io/consul" || st[0].Namespace != "consul" || st[0].Secret != "consul-ca" || st[0].Signed != 1 ||
		!st[0].LastSignedAt.Equal(epoch) || !st[0].NotAfter.Equal(epoch.AddDate(9, 0, 0)) || st[0].Err != nil || st[0].CAProblem != "" {
		t.Errorf("status %+v", st)
	}
	s.Unregister()
	if len(s.gather()) != 0 {
		t.Error("series are left")
	}
}

func TestRefusesFinally(t *testing.T) {
	c, _ := newCluster(t)
	c.ask("evil\x1b[2J", func(r *certificatesv1.CertificateSigningRequest) {
		r.Spec.Usages = append(r.Spec.Usages, "cert sign\x1b[2J")
	})
	c.ask("good")
	s := c.signer()
	s.once()
	conditions := c.csrs["evil\x1b[2J"].Status.Conditions
	if len(conditions) != 2 || conditions[1].Type != certificatesv1.CertificateFailed || conditions[1].Status != corev1.ConditionTrue || conditions[1].Reason != "RefusedByPkiwarden" ||
		conditions[1].Message != `signer pkiwarden.io/consul does not sign it: bad-usage: the usage "cert sign\x1b[2J" is not among those that the signer gives, ["digital signature" "server auth" "client auth"]` {
		t.Fatalf("%+v", conditions)
	}
	if c.leaf("good") == nil {
		t.Error("the good one has no certificate")
	}
	if s.rules() != "signer-requests-refused:warning" || !strings.Contains(s.findings[0].Evidence, "bad-usage") || strings.Contains(s.findings[0].Evidence, "\x1b") {
		t.Errorf("%+v", s.findings)
	}
	if s.gather()["pkiwarden_signer_requests_total refused pkiwarden.io/consul"] != 1 {
		t.Errorf("%v", s.gather())
	}

	// Another instance knows it too, and nobody answers it twice; it goes with the
	// request.
	other := c.signer()
	version := c.version
	other.once()
	if other.rules() != "signer-requests-refused:warning" || c.version != version {
		t.Errorf("%q, %d writes", other.rules(), c.version-version)
	}
	delete(c.csrs, "evil\x1b[2J")
	c.now = c.now.Add(time.Minute)
	other.once()
	if other.rules() != "" {
		t.Errorf("%q", other.rules())
	}
}

func TestUnusableCA(t *testing.T) {
	for _, test := range []struct {
		name, want string
		gone       bool // no series of its end
		edit       func(*cluster)
	}{
		{"no Secret", "the Secret does not exist", true, func(c *cluster) { c.secret = nil }},
		{"no certificate", `has no entry "tls.crt"`, true, func(c *cluster) { delete(c.secret.Data, "tls.crt") }},
		{"certificate that is none", "no PEM block", true, func(c *cluster) { c.secret.Data["tls.crt"] = []byte("x\x1b[2J") }},
		{"no key", `has no entry "tls.key"`, false, func(c *cluster) { delete(c.secret.Data, "tls.key") }},
		{"key that is none", "no PEM private key", false, func(c *cluster) { c.secret.Data["tls.key"] = []byte("secret-of-the-key") }},
		{"key of another", "do not belong together", false, func(c *cluster) { c.secret.Data["tls.key"] = newPair(t, nil).keyPEM(t) }},
		{"expired", "it ended 2026-02-28T12:00:00Z", false, func(c *cluster) {
			c.keep(newPair(t, func(ca *x509.Certificate) { ca.NotAfter = epoch.AddDate(0, 0, -1) }))
		}},
		{"no CA", "CA:TRUE is missing", false, func(c *cluster) { c.keep(newPair(t, func(ca *x509.Certificate) { ca.IsCA = false })) }},
	} {
		c, good := newCluster(t)
		c.ask("a")
		version := c.version
		test.edit(c)
		s := c.signer()
		s.once()
		if s.rules() != "signer-ca-unusable:critical" || !strings.Contains(s.findings[0].Summary, test.want) || !strings.Contains(s.findings[0].Summary, "consul/consul-ca") {
			t.Errorf("%s: %+v", test.name, s.findings)
		}
		if c.version != version || s.Status()[0].CAProblem == "" || strings.Contains(fmt.Sprint(s.findings)+s.log.String(), "secret-of-the-key") {
			t.Errorf("%s: it was written, or told: %+v", test.name, s.Status())
		}
		if _, there := s.gather()["pkiwarden_signer_ca_not_after_timestamp_seconds pkiwarden.io/consul"]; there == test.gone {
			t.Errorf("%s: series of its end: %t", test.name, there)
		}
		c.keep(good)
		c.now = c.now.Add(time.Minute)
		s.once()
		if c.leaf("a") == nil || s.rules() != "" {
			t.Errorf("%s: not signed with the good one: %q", test.name, s.rules())
		}
	}
}

func TestCAExpires(t *testing.T) {
	for age, want := range map[time.Duration]string{
		700 * time.Hour: "", 760 * time.Hour: "signer-ca-expires:warning", 910 * time.Hour: "signer-ca-expires:critical",
	} {
		c, _ := newCluster(t)
		c.keep(newPair(t, func(ca *x509.Certificate) { ca.NotBefore, ca.NotAfter = epoch.Add(-age), epoch.Add(1000*time.Hour-age) }))
		c.ask("a")
		s := c.signer()
		s.once()
		if s.rules() != want || c.leaf("a") == nil {
			t.Errorf("%v: %q", age, s.rules())
		}
	}
}

// TestTwoAtOnce: the second one loses, and sees that all is done.
func TestTwoAtOnce(t *testing.T) {
	c, _ := newCluster(t)
	c.ask("a")
	one, two := c.signer(), c.signer()
	c.before = func(call string) {
		if call == "update certificatesigningrequests/status" {
			c.before = nil
			two.once()
		}
	}
	if next := one.once(); !next.Equal(epoch.Add(time.Second)) {
		t.Errorf("next look %v", next)
	}
	serial := c.leaf("a").SerialNumber
	c.now = c.now.Add(time.Second)
	if next := one.once(); !next.Equal(epoch.Add(time.Minute)) {
		t.Errorf("next look %v", next)
	}
	if c.leaf("a").SerialNumber.Cmp(serial) != 0 || one.rules() != "" {
		t.Errorf("signed twice, %q", one.rules())
	}
	if s := one.gather(); s["pkiwarden_signer_requests_total conflict pkiwarden.io/consul"] != 1 || s["pkiwarden_signer_requests_total signed pkiwarden.io/consul"] != 0 {
		t.Errorf("%v", s)
	}
}

// TestApprovalTakenBack: a request that is deleted and made anew under its name
// between look and write gets nothing of the first one.
func TestApprovalTakenBack(t *testing.T) {
	c, _ := newCluster(t)
	c.ask("a")
	s := c.signer()
	c.before = func(call string) {
		if call == "update certificatesigningrequests/status" {
			c.before = nil
			delete(c.csrs, "a")
			c.ask("a", unapproved)
			c.csrs["a"].UID = "another"
		}
	}
	s.once()
	c.now = c.now.Add(time.Second)
	s.once()
	if c.leaf("a") != nil {
		t.Error("it has a certificate")
	}
}

func TestDenied(t *testing.T) {
	for call, want := range map[string]string{
		"get secrets":                              `needs verb "get" on secrets in namespace "consul" with name "consul-ca"`,
		"list certificatesigningrequests":          `needs verb "list" on certificatesigningrequests`,
		"update certificatesigningrequests/status": `needs verb "update" on certificatesigningrequests/status with name "a"`,
	} {
		c, _ := newCluster(t)
		c.ask("a")
		c.denied[call] = true
		s := c.signer()
		_, err := s.OnceUntil(context.Background())
		if err == nil || s.rules() != "signer-unknown:unknown" {
			t.Errorf("%s, at first: %q, %v", call, s.rules(), err)
		}
		for range 4 {
			c.now = c.now.Add(2 * time.Second)
			_, err = s.OnceUntil(context.Background())
		}
		if err == nil || !strings.Contains(err.Error(), want) || s.rules() != "permission-denied:critical" || !strings.Contains(s.findings[0].Summary, want) {
			t.Errorf("%s: %+v, %v", call, s.findings, err)
		}
		if s.Status()[0].Err == nil {
			t.Errorf("%s: the status says nothing", call)
		}
		c.denied = map[string]bool{}
		c.now = c.now.Add(time.Minute)
		s.once()
		if c.leaf("a") == nil || s.rules() != "" {
			t.Errorf("%s, granted: %q", call, s.rules())
		}
	}
}

// TestFlood: many requests that nobody approved stand before one that is.
func TestFlood(t *testing.T) {
	c, _ := newCluster(t)
	good := c.ask("zzz")
	for n := range 6000 {
		c.put(&certificatesv1.CertificateSigningRequest{ObjectMeta: good.ObjectMeta, Spec: good.Spec})
		csr := c.csrs["zzz"]
		csr.Name = fmt.Sprintf("flood-%05d", n)
		c.csrs[csr.Name] = csr
	}
	c.put(good)
	for _, resumable := range []bool{true, false} {
		c.expired, c.resumable = 0, resumable
		if resumable {
			c.expired = 3
		}
		good.Status.Certificate = nil
		s := c.signer()
		looks := 0
		for c.leaf("zzz") == nil && looks < 10 {
			next := s.once()
			looks++
			if c.leaf("zzz") == nil && !next.Equal(c.now.Add(time.Second)) {
				t.Fatalf("look %d: next %v", looks, next)
			}
			c.now = next
		}
		if looks < 2 || looks > 5 {
			t.Errorf("it took %d looks", looks)
		}
		good = c.csrs["zzz"]
	}

	// One that the watch saw is signed at once.
	c.ask("zzzz")
	s := c.signer()
	s.all[0].hint("zzzz")
	s.once()
	if c.leaf("zzzz") == nil {
		t.Error("the one that was seen approved had to wait")
	}
}

// TestFloodOfApproved: requests are approved faster than they can be signed, and
// without end. One that is approved among them is signed after those before it,
// whatever its name, and so is one that the watch did not tell.
func TestFloodOfApproved(t *testing.T) {
	c, _ := newCluster(t)
	s := c.signer()
	s.once()
	a := s.all[0]
	pattern := c.ask("pattern")
	delete(c.csrs, "pattern")
	floods := 0
	flood := func() {
		floods++
		more := pattern.DeepCopy()
		more.Name = fmt.Sprintf("flood-%06d", floods)
		c.put(more)
		a.hint(more.Name)
	}
	for range 500 {
		flood()
	}
	c.ask("zzz-told")
	a.hint("zzz-told")
	c.ask("a-not-told")
	c.before = func(call string) { // each call takes a while
		c.now = c.now.Add(50 * time.Millisecond)
		if call == "get certificatesigningrequests" {
			flood()
			flood()
		}
	}
	begun := c.now
	var told, untold time.Duration
	for c.now.Sub(begun) < 10*time.Minute && (told == 0 || untold == 0) {
		next := s.once()
		if told == 0 && c.leaf("zzz-told") != nil {
			told = c.now.Sub(begun)
		}
		if untold == 0 && c.leaf("a-not-told") != nil {
			untold = c.now.Sub(begun)
		}
		if next.After(c.now) {
			c.now = next
		}
	}
	// 500 before it, two calls of 50 ms each.
	if told == 0 || told > 3*time.Minute || untold == 0 || untold > 3*time.Minute {
		t.Errorf("signed after %v and %v", told, untold)
	}
	if len(a.hints) > maxHints {
		t.Errorf("%d names are kept", len(a.hints))
	}
}

// TestExpiredForGood: without a token to go on with, it begins anew.
func TestExpiredForGood(t *testing.T) {
	c, _ := newCluster(t)
	for n := range 10 {
		c.ask(fmt.Sprintf("r-%d", n))
	}
	c.expired = 1
	s := c.signer()
	s.once()
	for name := range c.csrs {
		if c.leaf(name) == nil {
			t.Errorf("%s has no certificate", name)
		}
	}
}

// TestLargeRequests: pages become as small as they have to.
func TestLargeRequests(t *testing.T) {
	c, _ := newCluster(t)
	for n := range 20 {
		c.ask(fmt.Sprintf("r-%02d", n), func(r *certificatesv1.CertificateSigningRequest) {
			if n%3 == 0 {
				r.Spec.Request = append(r.Spec.Request, bytes.Repeat([]byte("\n"), 1<<20)...)
			}
		})
	}
	c.maxPage = 1 << 20
	s := c.signer()
	for range 3 {
		c.now = s.once()
	}
	signed, failed := 0, 0
	for name, csr := range c.csrs {
		if c.leaf(name) != nil {
			signed++
		} else if strings.Contains(failedByUs(csr), "too-large") {
			failed++
		}
	}
	if signed != 13 || failed != 7 {
		t.Errorf("%d signed, %d refused", signed, failed)
	}
}

// TestOneThatCannotBeAnswered keeps none of the others waiting.
func TestOneThatCannotBeAnswered(t *testing.T) {
	c, _ := newCluster(t)
	c.ask("a")
	c.ask("b")
	c.heavy["a"] = true
	s := c.signer()
	s.once()
	if c.leaf("b") == nil || s.rules() != "signer-requests-refused:warning" || !strings.Contains(s.findings[0].Summary, "1 more could not be answered") {
		t.Errorf("%+v", s.findings)
	}
	if s.gather()["pkiwarden_signer_requests_total error pkiwarden.io/consul"] != 1 {
		t.Errorf("%v", s.gather())
	}
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newCluster(t)
		s := c.signer()
		s.once()
		ctx, cancel := context.WithCancel(context.Background())
		woken, ended := 0, make(chan error)
		go func() { ended <- s.Watch(ctx, func() { woken++ }) }()
		synctest.Wait()
		s.once() // what was approved before the watch began
		woken = 0
		tell := func(csr *certificatesv1.CertificateSigningRequest) {
			c.watchers[0].Modify(csr.DeepCopy())
			synctest.Wait()
		}
		tell(c.ask("a", unapproved))
		tell(c.ask("b", func(r *certificatesv1.CertificateSigningRequest) { r.Spec.SignerName = "pkiwarden.io/other" }))
		if woken != 0 {
			t.Error("woken by what is no work")
		}
		tell(c.ask("c"))
		if woken != 1 {
			t.Errorf("woken %d times by an approval", woken)
		}
		lists := c.lists
		s.once() // its minute has not come: only what was seen is looked at
		if c.leaf("c") == nil || c.lists != lists {
			t.Errorf("not signed at once, or by %d lists", c.lists-lists)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestWatchGoesOn: a watch goes on where the one before it ended, so that the
// server does not tell everything anew every five minutes. Where it cannot, all
// requests are looked at again: none that was approved meanwhile waits a minute.
func TestWatchGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newCluster(t)
		c.version = 100
		s := c.signer()
		s.once()
		ctx, cancel := context.WithCancel(context.Background())
		woken, ended := 0, make(chan error)
		go func() { ended <- s.Watch(ctx, func() { woken++ }) }()
		synctest.Wait()
		s.once()
		last := func() *watch.FakeWatcher { return c.watchers[len(c.watchers)-1] }
		last().Modify(c.ask("a")) // 101
		synctest.Wait()
		s.once()
		last().Action(watch.Bookmark, &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "140"}})
		last().Stop()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		gone := c.csrs["a"].DeepCopy()
		gone.ResourceVersion = "150"
		last().Delete(gone)
		last().Stop()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := fmt.Sprint(c.watchedFrom); got != "[100 140 150]" {
			t.Errorf("watched from %s", got)
		}
		// What it would go on from is compacted, as the server says in an event.
		c.version = 200
		c.ask("b") // 201, which no watch tells
		woken = 0
		last().Error(&metav1.Status{Status: metav1.StatusFailure, Code: http.StatusGone, Reason: metav1.StatusReasonExpired, Message: "too old resource version"})
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if s.once(); woken != 1 || c.leaf("b") == nil {
			t.Errorf("woken %d times after a gap, and b is not signed", woken)
		}
		// And as it says when the watch is asked for.
		c.compacted = []string{"202"}
		c.ask("c") // 203
		last().Modify(&certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "202"}})
		last().Stop()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if s.once(); c.leaf("c") == nil {
			t.Error("c is not signed at once")
		}
		if got := fmt.Sprint(c.watchedFrom); got != "[100 140 150 201 202 203]" {
			t.Errorf("watched from %s", got)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	c, _ := newCluster(t)
	for _, test := range []struct {
		want string
		o    Options
	}{
		{"no Kubernetes client", Options{}},
		{"there are two of this name", Options{Client: c.client(), Namespace: "consul", Authorities: []Authority{consul(), consul()}}},
		{`namespace "" and name "consul-ca" must both be given`, Options{Client: c.client(), Authorities: []Authority{consul()}}},
		{`certificate and key are both "x"`, Options{Client: c.client(), Namespace: "consul", Authorities: []Authority{consul(func(a *Authority) { a.CertificateKey, a.KeyKey = "x", "x" })}}},
		{"belong to Kubernetes", Options{Client: c.client(), Namespace: "consul", Authorities: []Authority{consul(func(a *Authority) { a.Policy.Signer = "kubernetes.io/x" })}}},
	} {
		if _, err := New(test.o); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", test.want, err)
		}
	}
}

func TestTheKeyShowsNowhere(t *testing.T) {
	_, ca := newCluster(t)
	key := newCAKey(ca.key)
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", key, "ca", &loaded{k8scsr.SigningCA{}, key})
	text, err := json.Marshal(map[string]any{"key": key})
	if err != nil {
		t.Fatal(err)
	}
	shown := log.String() + string(text)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		shown += fmt.Sprintf(verb, key) + fmt.Sprintf(verb, loaded{k8scsr.SigningCA{}, key})
	}
	der := string(ca.keyPEM(t))
	if strings.Contains(shown, "PrivateKey") || strings.Contains(shown, der[40:60]) || strings.Count(shown, redacted) != 9 {
		t.Error(shown)
	}
	key.forget()
	if *key.signer != nil {
		t.Error("it is still there")
	}
}
