package leader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes/fake"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/kube"
)

// TestTheReasonStays: that no time was left to ask again does not take the place
// of why asking failed.
func TestTheReasonStays(t *testing.T) {
	l := newLock(LeaseOptions{Client: fake.NewClientset(), Namespace: "n", Name: "l", Log: slog.New(slog.DiscardHandler)}, time.Second)
	limited := fmt.Errorf("waiting: %w", kube.ErrNotSent)
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
	if why := l.why(); why == nil || !strings.Contains(why.Error(), "kubernetes.qps") {
		t.Errorf("nothing else is known, and the reason is %v", why)
	}
	// An API that was asked and does not answer is a reason of its own.
	l.report("get", fmt.Errorf("asking: %w", context.DeadlineExceeded))
	if why := l.why(); why == nil || !strings.Contains(why.Error(), "cannot be reached") {
		t.Errorf("the API does not answer, and the reason is %v", why)
	}
}
