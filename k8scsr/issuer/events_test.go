package issuer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

var eventTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// teller is what writes events in one run of the program, at a time.
type teller struct {
	*events
	at  time.Time
	log bytes.Buffer
}

func newTeller(cs *fake.Clientset, after time.Duration) *teller {
	l := &teller{at: eventTime.Add(after)}
	l.events = newEvents(cs, slog.New(slog.NewTextHandler(&l.log, nil)), func() time.Time { return l.at })
	l.limit = rate.NewLimiter(rate.Inf, 1)
	return l
}

var liveSecret = corev1.ObjectReference{Kind: "Secret", APIVersion: "v1", Namespace: "vault", Name: "vault-tls", UID: "uid-1"}

func stored(t *testing.T, cs *fake.Clientset) []corev1.Event {
	t.Helper()
	list, err := cs.CoreV1().Events("vault").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

// One event for an object and reason, whoever says it: counted up, with what was
// said last.
func TestEventsAreCountedUp(t *testing.T) {
	cs := fake.NewClientset()
	denied := func(n int) k8scsr.Event {
		return k8scsr.Event{Warning: true, Reason: "RequestDenied", Message: fmt.Sprintf("request %d was denied", n)}
	}
	first := newTeller(cs, 0)
	first.say(liveSecret, denied(1))
	first.say(liveSecret, denied(2))
	first.say(liveSecret, k8scsr.Event{Reason: "CertificateIssued", Message: "issued"})
	first.flush(t.Context())
	first.at = eventTime.Add(time.Minute)
	first.say(liveSecret, denied(3))
	first.flush(t.Context())
	second := newTeller(cs, 2*time.Minute)
	second.say(liveSecret, denied(4))
	second.flush(t.Context())
	second.at = eventTime.Add(3 * time.Minute)
	second.say(liveSecret, denied(5))
	second.flush(t.Context())

	all := stored(t, cs)
	if len(all) != 2 {
		t.Fatalf("%d events: %+v", len(all), all)
	}
	n := slices.IndexFunc(all, func(e corev1.Event) bool { return e.Reason == "RequestDenied" })
	e := all[n]
	if e.Count != 5 || e.Message != "request 5 was denied" || e.Type != "Warning" || !e.FirstTimestamp.Time.Equal(eventTime) ||
		!e.LastTimestamp.Time.Equal(eventTime.Add(3*time.Minute)) || e.InvolvedObject != liveSecret || e.Source.Component != "pkiwarden" {
		t.Errorf("%+v", e)
	}
	if other := all[1-n]; other.Count != 1 || other.Type != "Normal" || other.Message != "issued" {
		t.Errorf("%+v", other)
	}
	// The API server forgets it after an hour: it begins anew.
	if err := cs.CoreV1().Events("vault").Delete(t.Context(), e.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	second.say(liveSecret, denied(6))
	second.flush(t.Context())
	if all := stored(t, cs); len(all) != 2 || all[0].Count != 1 || all[1].Count != 1 {
		t.Errorf("after it was forgotten: %+v", all)
	}
	if len(first.log.String()+second.log.String()) != 0 {
		t.Errorf("log: %s%s", &first.log, &second.log)
	}
}

func TestEventsThatCannotBeWritten(t *testing.T) {
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "events"}, "", errors.New("RBAC says no"))
	for name, c := range map[string]struct {
		err  error
		kept bool // those that were said meanwhile come later
		says string
	}{
		"no right":  {forbidden, false, `permission denied: needs verb \"create\" on events in namespace \"vault\"`},
		"API error": {apierrors.NewInternalError(errors.New("etcd is gone")), true, "etcd is gone"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cs := fake.NewClientset()
				broken := true
				cs.PrependReactor("*", "events", func(clienttesting.Action) (bool, runtime.Object, error) {
					return broken, nil, c.err
				})
				l := newTeller(cs, 0)
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- (&Issuer{events: l.events}).Events(ctx) }()
				for n := range 5 {
					l.say(liveSecret, k8scsr.Event{Reason: fmt.Sprintf("R%d", n), Message: "m"})
					time.Sleep(time.Second)
				}
				synctest.Wait()
				if n := strings.Count(l.log.String(), "cannot be written"); n != 1 || !strings.Contains(l.log.String(), c.says) {
					t.Errorf("said %d times:\n%s", n, &l.log)
				}
				broken = false
				l.say(liveSecret, k8scsr.Event{Reason: "Later", Message: "m"})
				time.Sleep(10 * time.Second)
				synctest.Wait()
				if want := map[bool]int{false: 1, true: 6}[c.kept]; len(stored(t, cs)) != want {
					t.Errorf("%d events, want %d", len(stored(t, cs)), want)
				}
				if !strings.Contains(l.log.String(), "works again") {
					t.Errorf("log:\n%s", &l.log)
				}
				// What is left at the end is written before it ends.
				l.say(liveSecret, k8scsr.Event{Reason: "Last", Message: "m"})
				cancel()
				if err := <-ended; err != nil {
					t.Error(err)
				}
				if all := stored(t, cs); !slices.ContainsFunc(all, func(e corev1.Event) bool { return e.Reason == "Last" }) {
					t.Error("the last event is lost")
				}
			})
		})
	}
}

// TestEventsNeverWait: however many are said while none can be written.
func TestEventsNeverWait(t *testing.T) {
	l := newTeller(fake.NewClientset(), 0)
	for n := range 10_000 {
		l.say(corev1.ObjectReference{Namespace: "vault", Name: fmt.Sprintf("s-%d", n)}, k8scsr.Event{Reason: "R", Message: strings.Repeat("x", 5000)})
	}
	if len(l.queue) != 256 {
		t.Errorf("%d are kept", len(l.queue))
	}
	for l.flush(t.Context()); len(l.queue) > 0; {
		t.Fatal("not flushed")
	}
}

// told is what was queued, "object reason", in order.
func (s *subject) told() string {
	var out []string
	for _, p := range s.events.queue {
		out = append(out, p.object.Name+" "+p.reason)
	}
	return strings.Join(out, ", ")
}

// TestEventsOfTheLifecycle: what is said, on which object, for each way in which
// a request can end or not end.
func TestEventsOfTheLifecycle(t *testing.T) {
	cases := map[string]struct {
		happens func(*cluster, *certificatesv1.CertificateSigningRequest)
		told    string
		says    string
	}{
		"issued": {func(c *cluster, csr *certificatesv1.CertificateSigningRequest) {
			c.decide(csr, certificatesv1.CertificateApproved, "by hand")
			c.issue(c.csrs()[0])
		}, "vault-tls CertificateIssued", "valid 2026-03-01T11:55:00Z to 2026-03-02T12:00:00Z"},
		"denied": {func(c *cluster, csr *certificatesv1.CertificateSigningRequest) {
			c.decide(csr, certificatesv1.CertificateDenied, "not on my watch")
		}, "vault-tls-next RequestDenied", "was denied: Test: not on my watch"},
		"failed": {func(c *cluster, csr *certificatesv1.CertificateSigningRequest) {
			c.decide(csr, certificatesv1.CertificateFailed, "no CA")
		}, "vault-tls-next RequestFailed", "no CA"},
		"refused": {func(c *cluster, csr *certificatesv1.CertificateSigningRequest) {
			c.ca = newAuthority(c.t)
			c.issue(csr)
		}, "vault-tls-next CertificateRefused", "the trust bundle does not vouch for it"},
		"collected": {func(c *cluster, csr *certificatesv1.CertificateSigningRequest) {
			delete(c.objects, "certificatesigningrequests//"+csr.Name)
		}, "vault-tls-next RequestCollected", "was removed before it was answered"},
		"not approved": {func(c *cluster, _ *certificatesv1.CertificateSigningRequest) {
			c.now = c.now.Add(15 * time.Minute)
		}, "vault-tls-next ApprovalAwaited", "kubectl certificate approve"},
		"not signed": {func(c *cluster, csr *certificatesv1.CertificateSigningRequest) {
			c.decide(csr, certificatesv1.CertificateApproved, "by hand")
			c.now = c.now.Add(15 * time.Minute)
		}, "vault-tls-next RequestNotSigned", "nobody signs for signer kubernetes.io/kubelet-serving"},
		"trust gone": {func(c *cluster, _ *certificatesv1.CertificateSigningRequest) {
			delete(c.objects, "configmaps/vault/ca")
		}, "vault-tls-next TrustUnreadable", "ConfigMap vault/ca"},
		"right gone": {func(c *cluster, _ *certificatesv1.CertificateSigningRequest) {
			c.denied["get certificatesigningrequests"] = true
		}, "vault-tls-next PermissionDenied", `needs verb "get" on certificatesigningrequests`},
	}
	for name, tc := range cases {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			c := newCluster(t)
			s := c.process("pod-a").issuer(vaultTLS(func(c *Certificate) { c.Spec.Approve = false }))
			s.once(t)
			if s.told() != "" {
				t.Fatalf("told before anything happened: %s", s.told())
			}
			tc.happens(c, c.csrs()[0])
			s.Once(context.Background())
			if s.told() != tc.told || !strings.Contains(s.events.queue[0].event.Message, tc.says) {
				t.Fatalf("told %s, want %s with %q: %+v", s.told(), tc.told, tc.says, s.events.queue)
			}
			// Looking again is no news.
			for range 10 {
				s.Once(context.Background())
			}
			if p := s.events.queue[0]; len(s.events.queue) != 1 || p.times != 1 {
				t.Errorf("told again: %s, %d times", s.told(), p.times)
			}
		})
	}
}

// TestEventsOfWhatLasts: what goes on being wrong is said again twice an hour,
// since the API server keeps an event for an hour.
func TestEventsOfWhatLasts(t *testing.T) {
	c := newCluster(t)
	existing(t, c, func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque })
	s := c.process("pod-a").issuer(vaultTLS())
	for range 150 {
		s.once(t)
		c.now = c.now.Add(time.Minute)
	}
	if p := s.events.queue[0]; s.told() != "vault-tls SecretUnusable" || p.times != 5 || p.object.UID == "" {
		t.Errorf("told %s, %d times, on %+v", s.told(), s.events.queue[0].times, s.events.queue[0].object)
	}
}

// TestEventsHoldNoKey: not even where a Secret holds something that is no key.
func TestEventsHoldNoKey(t *testing.T) {
	c := newCluster(t)
	canary := "hunter2-hunter2-hunter2"
	existing(t, c, func(s *corev1.Secret) { s.Data["tls.key"] = []byte(canary) })
	c.sign = nil
	s := c.process("pod-a").issuer(vaultTLS())
	s.once(t)
	next := c.objects["secrets/vault/vault-tls-next"].(*corev1.Secret).DeepCopy()
	key := strings.Split(string(next.Data[nextKey]), "\n")[1]
	next.Data[nextKey] = []byte("-----BEGIN PRIVATE KEY-----\n" + canary + "\n-----END PRIVATE KEY-----\n")
	c.put(next)
	s.once(t)
	for _, p := range s.events.queue {
		if strings.Contains(p.event.Message, canary) || strings.Contains(p.event.Message, key) {
			t.Errorf("%s: %s", p.reason, p.event.Message)
		}
	}
	if !strings.Contains(s.told(), "CertificateBroken") {
		t.Errorf("told %s", s.told())
	}
}

// TestEventsCutOff: a write that ends since the work ends is no failure: the
// event is written then, and only what hinders that is said.
func TestEventsCutOff(t *testing.T) {
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "events"}, "", errors.New("RBAC says no"))
	for name, c := range map[string]struct {
		later error // of writes after the work ended
		all   int   // events stored
		said  string
	}{
		"written at the end":    {nil, 1, ""},
		"no right, at the end":  {forbidden, 0, "permission denied"},
		"API error, at the end": {apierrors.NewInternalError(errors.New("etcd is gone")), 0, "etcd is gone"},
	} {
		t.Run(strings.NewReplacer(" ", "_", ",", "").Replace(name), func(t *testing.T) {
			cs := fake.NewClientset()
			ctx, cancel := context.WithCancel(t.Context())
			l := newTeller(cs, 0)
			cs.PrependReactor("create", "events", func(clienttesting.Action) (bool, runtime.Object, error) {
				if ctx.Err() == nil {
					cancel()
					return true, nil, &url.Error{Op: "Post", URL: "https://api/events", Err: context.Canceled}
				}
				return c.later != nil, nil, c.later
			})
			l.say(liveSecret, k8scsr.Event{Reason: "CertificateIssued", Message: "m"})
			if err := (&Issuer{events: l.events}).Events(ctx); err != nil {
				t.Fatal(err)
			}
			if all := stored(t, cs); len(all) != c.all || len(all) > 0 && all[0].Count != 1 {
				t.Errorf("stored %+v", all)
			}
			if n := strings.Count(l.log.String(), "level="); c.said == "" && n != 0 || c.said != "" && (n != 1 || !strings.Contains(l.log.String(), c.said)) {
				t.Errorf("log:\n%s", &l.log)
			}
		})
	}
}

// TestEventsCutOffAreNotTries: however often that happens, none is given up.
func TestEventsCutOffAreNotTries(t *testing.T) {
	cs := fake.NewClientset()
	cut := true
	cs.PrependReactor("create", "events", func(clienttesting.Action) (bool, runtime.Object, error) {
		return cut, nil, context.Canceled
	})
	l := newTeller(cs, 0)
	l.say(liveSecret, k8scsr.Event{Reason: "CertificateIssued", Message: "m"})
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for range 20 {
		l.flush(over)
	}
	cut = false
	l.flush(t.Context())
	if len(stored(t, cs)) != 1 || l.log.Len() != 0 {
		t.Errorf("%d events; log:\n%s", len(stored(t, cs)), &l.log)
	}
}

// TestGoodNewsIsSlow: a fleet that is renewed at once is told of one by one, and
// what went wrong is told beside that at once.
func TestGoodNewsIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cs := fake.NewClientset()
		e := newEvents(cs, slog.New(slog.DiscardHandler), time.Now)
		start := time.Now()
		for n := range 40 {
			object := liveSecret
			object.Name = fmt.Sprintf("server-%d", n)
			e.say(object, k8scsr.Event{Reason: "Issued", Message: "published"})
		}
		if e.flush(t.Context()); time.Since(start) != 15*time.Second || len(stored(t, cs)) != 40 {
			t.Errorf("%d events in %v, want 40 in 15 s: 25 at once, and one each second", len(stored(t, cs)), time.Since(start))
		}
		start = time.Now()
		for n := range 40 {
			object := liveSecret
			object.Name = fmt.Sprintf("server-%d", n)
			e.say(object, k8scsr.Event{Warning: true, Reason: "RequestDenied", Message: "denied"})
		}
		if e.flush(t.Context()); time.Since(start) != 0 || len(stored(t, cs)) != 80 {
			t.Errorf("%d events in %v, want 80 at once", len(stored(t, cs)), time.Since(start))
		}
	})
}
