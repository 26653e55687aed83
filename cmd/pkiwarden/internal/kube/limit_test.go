package kube

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestRequestsThatHaveNoTime: whose deadline comes before its turn is told so at
// once, in a way that callers can tell from an API that does not answer.
func TestRequestsThatHaveNoTime(t *testing.T) {
	clearEnvironment(t)
	var asked atomic.Int32
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.Header().Set("Content-Type", "application/json")
		w.Write([]byte(`{"metadata":{"name":"x"}}`))
	}))
	defer server.Close()
	// The third request's turn is after a thousand seconds.
	c, err := New(Options{Kubeconfig: kubeconfig(t, server, "vault", ""), QPS: 0.001, Burst: 2})
	if err != nil {
		t.Fatal(err)
	}
	secret := func(ctx context.Context) error {
		_, err := c.Client.CoreV1().Secrets("vault").Get(ctx, "x", metav1.GetOptions{})
		return err
	}
	lease := func(ctx context.Context) error {
		_, err := c.Client.CoordinationV1().Leases("vault").Get(ctx, "x", metav1.GetOptions{})
		return err
	}
	// All groups of the API share one limit.
	if err := errors.Join(secret(t.Context()), lease(t.Context())); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	begin := time.Now()
	for name, get := range map[string]func(context.Context) error{"secrets": secret, "leases": lease} {
		err := get(short)
		if !errors.Is(err, ErrNotSent) || !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if text := Explain(err, "get", name, "vault", "x").Error(); Unreachable(err) || strings.Contains(text, "cannot be reached") || !strings.Contains(text, "kubernetes.qps") {
			t.Errorf("%s: taken for an API that cannot be reached: %s", name, text)
		}
	}
	if took := time.Since(begin); took > 5*time.Minute {
		t.Errorf("it waited for %s", took)
	}
	over, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	if err := secret(over); !errors.Is(err, ErrNotSent) {
		t.Errorf("the deadline is over: %v", err)
	}
	cancel()
	stopped, stop := context.WithCancel(short)
	stop()
	if err := secret(stopped); !errors.Is(err, context.Canceled) || errors.Is(err, ErrNotSent) {
		t.Errorf("canceled: %v", err)
	}
	if asked.Load() != 2 {
		t.Errorf("%d requests were sent, not 2", asked.Load())
	}
}

// TestLimitAsConfigured: the defaults are what they were without a limiter of our
// own, and the exported configuration has it for who makes a client from it.
func TestLimitAsConfigured(t *testing.T) {
	clearEnvironment(t)
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	for _, tc := range []struct {
		o    Options
		want float32
	}{{Options{}, 20}, {Options{QPS: 7.5, Burst: 3}, 7.5}} {
		tc.o.Kubeconfig = kubeconfig(t, server, "vault", "")
		c, err := New(tc.o)
		if err != nil {
			t.Fatal(err)
		}
		if limit := c.Config.RateLimiter; limit == nil || limit.QPS() != tc.want {
			t.Errorf("%+v: the limit is %v", tc.o, limit)
		}
	}
	l := newLimiter(0.001, 3)
	for n := range 5 {
		if got, want := l.TryAccept(), n < 3; got != want {
			t.Errorf("request %d at once: %v", n+1, got)
		}
	}
}
