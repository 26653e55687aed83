package leader

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes/fake"
)

// TestTheReasonStays: that no time was left to ask again does not take the place
// of why asking failed.
func TestTheReasonStays(t *testing.T) {
	l := newLock(LeaseOptions{Client: fake.NewClientset(), Namespace: "n", Name: "l", Log: slog.New(slog.DiscardHandler)}, time.Second)
	limited := errors.New("client rate limiter Wait returned an error: rate: Wait(n=1) would exceed context deadline")
	l.report("get", errors.New("boom"))
	l.report("get", limited)
	if why := l.why(); why == nil || !strings.Contains(why.Error(), "boom") {
		t.Errorf("the reason is %v", why)
	}
	l.report("get", nil)
	if why := l.why(); why != nil {
		t.Errorf("all is well, and the reason is %v", why)
	}
	l.report("get", limited)
	if why := l.why(); why == nil || !strings.Contains(why.Error(), "limiter") {
		t.Errorf("nothing else is known, and the reason is %v", why)
	}
}
