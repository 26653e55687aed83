package leader

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

var leaseResource = schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}

// api is one Lease on an API server that enforces resource versions.
type api struct {
	mu      sync.Mutex
	lease   *coordinationv1.Lease
	version int
	calls   int
	fail    func(client, verb string) error
}

func (a *api) client(name string) kubernetes.Interface {
	c := fake.NewClientset()
	c.PrependReactor("*", "leases", func(action clienttesting.Action) (bool, runtime.Object, error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.calls++
		if a.fail != nil {
			if err := a.fail(name, action.GetVerb()); err != nil {
				return true, nil, err
			}
		}
		switch action := action.(type) {
		case clienttesting.UpdateActionImpl: // before Create, whose interface it fulfils
			want := action.Object.(*coordinationv1.Lease)
			if a.lease == nil || want.ResourceVersion != a.lease.ResourceVersion {
				return true, nil, apierrors.NewConflict(leaseResource, want.Name, errors.New("the object has been modified"))
			}
			return true, a.store(want), nil
		case clienttesting.CreateActionImpl:
			if a.lease != nil {
				return true, nil, apierrors.NewAlreadyExists(leaseResource, a.lease.Name)
			}
			return true, a.store(action.Object.(*coordinationv1.Lease)), nil
		case clienttesting.GetActionImpl:
			if a.lease == nil {
				return true, nil, apierrors.NewNotFound(leaseResource, action.Name)
			}
			return true, a.lease.DeepCopy(), nil
		}
		return false, nil, nil
	})
	return c
}

func (a *api) store(l *coordinationv1.Lease) *coordinationv1.Lease {
	a.version++
	a.lease = l.DeepCopy()
	a.lease.ResourceVersion = strconv.Itoa(a.version)
	return a.lease.DeepCopy()
}

func (a *api) holder() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.lease == nil || a.lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *a.lease.Spec.HolderIdentity
}

func (a *api) setFail(fail func(client, verb string) error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fail = fail
}

var errRefused = &url.Error{Op: "Get", URL: "https://127.0.0.1:6443", Err: errors.New("connect: connection refused")}

func down(string, string) error { return errRefused }

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

type candidate struct {
	log    buffer
	cancel context.CancelFunc
	done   chan struct{} // Run has returned

	mu      sync.Mutex
	changes []bool
}

func campaign(t *testing.T, a *api, name string, lead func(context.Context)) *candidate {
	t.Helper()
	c := &candidate{done: make(chan struct{})}
	l, err := NewLease(LeaseOptions{
		Client: a.client(name), Namespace: "vault", Name: "pkiwarden", Identity: name,
		LeaseDuration: 15 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: 2 * time.Second,
		Log: slog.New(slog.NewTextHandler(&c.log, nil)),
		OnChange: func(leading bool) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.changes = append(c.changes, leading)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	c.cancel = cancel
	go func() {
		defer close(c.done)
		if err := l.Run(ctx, lead); err != nil {
			t.Errorf("%s: Run = %v, want nil", name, err)
		}
	}()
	return c
}

func (c *candidate) end() {
	c.cancel()
	<-c.done
}

func TestLeaseIsReleasedOnlyAfterLeadHasReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &api{}
		joined := make(chan struct{})
		c := campaign(t, a, "a", func(ctx context.Context) {
			<-ctx.Done()
			time.Sleep(time.Minute) // far longer than the Lease
			close(joined)
		})
		time.Sleep(5 * time.Second)
		c.cancel()
		second := campaign(t, a, "b", func(ctx context.Context) {
			select {
			case <-joined:
			default:
				t.Error("a second leader while the first was winding down")
			}
			<-ctx.Done()
		})
		for range 59 {
			time.Sleep(time.Second)
			if got := a.holder(); got != "a" {
				t.Fatalf("while the leader winds down the Lease is held by %q, want a", got)
			}
		}
		select {
		case <-c.done:
			t.Fatal("Run returned before lead had")
		default:
		}
		<-c.done
		// Released, so the other one need not wait for it to run out.
		time.Sleep(5 * time.Second)
		if got := a.holder(); got != "b" {
			t.Errorf("5s after the release the Lease is held by %q, want b", got)
		}
		second.end()
		if got := a.holder(); got != "" {
			t.Errorf("after the end the Lease is held by %q, want nobody", got)
		}
	})
}

func TestLossEndsLeadAndCampaignsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &api{}
		var mu sync.Mutex
		var began, ended []time.Time
		running := 0
		c := campaign(t, a, "a", func(ctx context.Context) {
			mu.Lock()
			began = append(began, time.Now())
			if running++; running > 1 {
				t.Error("lead called again before it had returned")
			}
			mu.Unlock()
			<-ctx.Done()
			mu.Lock()
			ended = append(ended, time.Now())
			mu.Unlock()
			time.Sleep(20 * time.Second)
			mu.Lock()
			running--
			mu.Unlock()
		})
		time.Sleep(time.Minute)
		a.setFail(down)
		outage := time.Now()
		time.Sleep(5 * time.Minute)
		a.mu.Lock()
		calls := a.calls
		a.mu.Unlock()
		a.setFail(nil)
		back := time.Now()
		time.Sleep(time.Minute)
		c.end()
		if len(began) != 2 || len(ended) != 2 {
			t.Fatalf("lead began %d times and ended %d times, want 2", len(began), len(ended))
		}
		if d := ended[0].Sub(outage); d > 12*time.Second {
			t.Errorf("lead ended %s into the outage, want within 12s", d)
		}
		if d := began[1].Sub(back); d > 10*time.Second {
			t.Errorf("lead began again %s after the outage, want within 10s", d)
		}
		if calls > 300 {
			t.Errorf("%d requests in six minutes, want no hot loop", calls)
		}
		want := []bool{false, true, false, true, false}
		if got := c.changes; len(got) != len(want) {
			t.Errorf("OnChange got %v, want %v", got, want)
		}
		text := c.log.String()
		for line, n := range map[string]int{"msg=failing ": 1, "the Kubernetes API cannot be reached": 1, "leadership lost": 1, "msg=leading ": 2, "msg=recovered ": 1, "leadership released": 1} {
			if got := strings.Count(text, line); got != n {
				t.Errorf("%q logged %d times, want %d:\n%s", line, got, n, text)
			}
		}
	})
}

func TestNeverTwoLeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &api{}
		rng := rand.New(rand.NewPCG(1, 2))
		var mu sync.Mutex
		leading := map[string]bool{}
		terms := map[string]int{}
		lead := func(name string) func(context.Context) {
			return func(ctx context.Context) {
				mu.Lock()
				leading[name] = true
				terms[name]++
				if len(leading) > 1 {
					t.Errorf("at %s both lead", time.Now())
				}
				mu.Unlock()
				<-ctx.Done()
				mu.Lock()
				delete(leading, name)
				mu.Unlock()
			}
		}
		first, second := campaign(t, a, "a", lead("a")), campaign(t, a, "b", lead("b"))
		for range 300 { // one of them, or both, lose the API for a while
			cut := map[string]bool{"a": rng.IntN(2) == 0, "b": rng.IntN(3) == 0}
			a.setFail(func(client, verb string) error {
				if cut[client] {
					return errRefused
				}
				return nil
			})
			time.Sleep(time.Duration(rng.IntN(40_000)) * time.Millisecond)
			a.setFail(nil)
			time.Sleep(time.Duration(rng.IntN(20_000)) * time.Millisecond)
		}
		first.end()
		second.end()
		if terms["a"] < 10 || terms["b"] < 10 {
			t.Errorf("terms %v: the outages moved leadership too seldom to show anything", terms)
		}
	})
}

func TestTakenOverLeaseIsNotReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &api{}
		lost := make(chan struct{})
		c := campaign(t, a, "a", func(ctx context.Context) { <-ctx.Done(); close(lost) })
		time.Sleep(5 * time.Second)
		a.mu.Lock()
		other, now := "x", metav1.NowMicro()
		long := int32(3600)
		taken := a.lease.DeepCopy()
		taken.Spec.HolderIdentity, taken.Spec.RenewTime, taken.Spec.LeaseDurationSeconds = &other, &now, &long
		a.store(taken)
		a.mu.Unlock()
		<-lost
		time.Sleep(time.Minute)
		c.end()
		if got := a.holder(); got != "x" {
			t.Errorf("the Lease is held by %q, want x, who took it", got)
		}
		if !strings.Contains(c.log.String(), "another instance leads\" lease=vault/pkiwarden leader=x") {
			t.Errorf("the log does not name the leader:\n%s", c.log.String())
		}
	})
}

func TestLeadThatReturnsReleasesAndCampaignsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &api{}
		n := 0
		c := campaign(t, a, "a", func(ctx context.Context) { n++; time.Sleep(time.Second) })
		time.Sleep(30 * time.Second)
		c.end()
		if n < 5 || n > 11 {
			t.Errorf("lead called %d times in 30s, want about one per 3s", n)
		}
		if got := a.holder(); got != "" {
			t.Errorf("the Lease is held by %q, want nobody", got)
		}
	})
}

func TestRefusalsAreLoggedOnce(t *testing.T) {
	forbidden := apierrors.NewForbidden(leaseResource, "pkiwarden", errors.New("User \"system:serviceaccount:vault:vault\" cannot do that"))
	noNamespace := &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Reason: metav1.StatusReasonNotFound, Code: 404,
		Message: `namespaces "vault" not found`, Details: &metav1.StatusDetails{Name: "vault", Kind: "namespaces"},
	}}
	existing := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "vault", Name: "pkiwarden"}}
	for _, tc := range []struct {
		name  string
		lease *coordinationv1.Lease
		verb  string
		err   error
		want  string
	}{
		{"get forbidden", nil, "get", forbidden, `the role needs verb \"get\" on resource \"leases.coordination.k8s.io\" in namespace vault`},
		{"create forbidden", nil, "create", forbidden, `the role needs verb \"create\" on resource \"leases.coordination.k8s.io\" in namespace vault`},
		{"update forbidden", existing, "update", forbidden, `the role needs verb \"update\" on resource \"leases.coordination.k8s.io\" in namespace vault`},
		{"no namespace", nil, "create", noNamespace, `namespace \"vault\" does not exist`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &api{}
				if tc.lease != nil {
					a.store(tc.lease)
				}
				a.setFail(func(_, verb string) error {
					if verb == tc.verb {
						return tc.err
					}
					return nil
				})
				led := make(chan struct{}, 1)
				c := campaign(t, a, "a", func(ctx context.Context) { led <- struct{}{}; <-ctx.Done() })
				time.Sleep(5 * time.Minute)
				select {
				case <-led:
					t.Error("it leads")
				default:
				}
				if text := c.log.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, tc.want) {
					t.Errorf("log, want one line with %s:\n%s", tc.want, text)
				}
				a.setFail(nil)
				<-led
				if text := c.log.String(); strings.Count(text, "recovered") != 1 {
					t.Errorf("recovery is not logged once:\n%s", text)
				}
				c.end()
			})
		})
	}
}

func TestEndWhileCampaigning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &api{}
		a.setFail(down)
		c := campaign(t, a, "a", func(context.Context) { t.Error("it leads") })
		time.Sleep(time.Minute)
		begin := time.Now()
		c.end()
		if d := time.Since(begin); d > time.Second {
			t.Errorf("ending took %s", d)
		}
	})
}

func TestNewLeaseRefusesUnsafeTimes(t *testing.T) {
	for _, tc := range []struct {
		lease, deadline, retry time.Duration
		want                   string
	}{
		{15 * time.Second, 10 * time.Second, 2 * time.Second, ""},
		{15 * time.Second, 13 * time.Second, 2 * time.Second, "leaseDuration"},
		{1500 * time.Millisecond, time.Second, 100 * time.Millisecond, "whole seconds"},
		{15 * time.Second, 2 * time.Second, 2 * time.Second, "renewDeadline"},
	} {
		_, err := NewLease(LeaseOptions{Client: fake.NewClientset(), Namespace: "n", Name: "l", Identity: "i",
			LeaseDuration: tc.lease, RenewDeadline: tc.deadline, RetryPeriod: tc.retry})
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s/%s/%s: %v, want %q", tc.lease, tc.deadline, tc.retry, err, tc.want)
		}
	}
}

func TestAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var changes []bool
		led := 0
		err := Alone{OnChange: func(l bool) { changes = append(changes, l) }}.Run(ctx, func(ctx context.Context) { led++; <-ctx.Done() })
		if err != nil || led != 1 || len(changes) != 2 || !changes[0] || changes[1] {
			t.Errorf("Run = %v, led %d times, changes %v", err, led, changes)
		}
	})
}

func TestIdentity(t *testing.T) {
	t.Setenv("POD_NAME", "vault-0")
	a, err := Identity()
	if err != nil {
		t.Fatal(err)
	}
	b, err := Identity()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(a, "vault-0_") || a == b {
		t.Errorf("identities %q and %q, want two distinct ones of vault-0", a, b)
	}
}
