package kube

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// A server's wish for a pause comes back at once and with the error, whatever
// form the answer has; nothing waits or tries again below.
func TestThrottledAnswersComeBackAtOnce(t *testing.T) {
	for _, c := range []struct {
		name, header, body string
		code               int
		want               int // seconds
		throttled          bool
		says               string
	}{
		{"by priority and fairness", "37", "Too many requests, please try again later.\n", 429, 37, true, "Too many requests, please try again later."},
		{"as a Status", "37", `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"slow down","reason":"TooManyRequests","code":429}`, 429, 37, true, "slow down"},
		{"as a Status that asks for more", "3", `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"slow down","reason":"TooManyRequests","details":{"retryAfterSeconds":40},"code":429}`, 429, 40, true, "slow down"},
		{"unavailable", "37", "no", 503, 37, false, "no"},
		{"internal error", "37", "no", 500, 37, false, "no"},
	} {
		var asked atomic.Int32
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			asked.Add(1)
			w.Header().Set("Retry-After", c.header)
			w.WriteHeader(c.code)
			_, _ = w.Write([]byte(c.body))
		}))
		config := &rest.Config{Host: server.URL}
		config.Wrap(func(next http.RoundTripper) http.RoundTripper { return &throttle{next} })
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		_, err = client.CoreV1().Secrets("a").Get(t.Context(), "b", metav1.GetOptions{})
		seconds, suggested := apierrors.SuggestsClientDelay(err)
		if !suggested || seconds != c.want || apierrors.IsTooManyRequests(err) != c.throttled || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, after %d seconds (%t)", c.name, err, seconds, suggested)
		}
		if asked.Load() != 1 || time.Since(begin) > 30*time.Second {
			t.Errorf("%s: asked %d times, for %v", c.name, asked.Load(), time.Since(begin))
		}
		server.Close()
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 500, time.UTC)
	for value, want := range map[string]int32{"5": 5, "-5": 0, "Sun, 01 Mar 2026 12:00:30 GMT": 30, "Sun, 01 Mar 2026 11:00:00 GMT": 0} {
		if got, asked := retryAfter(value, now); got != want || !asked {
			t.Errorf("%q: %d, %t", value, got, asked)
		}
	}
	for _, value := range []string{"", "soon", "99999999999999"} {
		if got, asked := retryAfter(value, now); asked {
			t.Errorf("%q: %d", value, got)
		}
	}
}
