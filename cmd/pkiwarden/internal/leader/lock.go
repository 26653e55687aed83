package leader

import (
	"context"
	"errors"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/kube"
	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/loop"
)

const leases = "leases.coordination.k8s.io"

// lock is client-go's Lease lock with a deadline on each request, one log line
// per change of state, and a release of its own.
type lock struct {
	resourcelock.LeaseLock
	o         LeaseOptions
	timeout   time.Duration
	condition *loop.Condition

	mu      sync.Mutex
	failing string // the verb that failed last; "" while all is well
	failure error  // how it failed
	held    bool   // our last write made us the holder
	heldAt  time.Time
	holder  string // as it was read last
	seenAt  time.Time
	renewal metav1.Time // by the holder, on its clock
	freshAt time.Time   // when this renewal was first read
}

func newLock(o LeaseOptions, timeout time.Duration) *lock {
	return &lock{
		LeaseLock: resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: o.Namespace, Name: o.Name},
			Client:     o.Client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: o.Identity},
			Labels:     map[string]string{"app.kubernetes.io/managed-by": "pkiwarden"},
		},
		o:         o,
		timeout:   timeout,
		condition: loop.NewCondition(o.Log.With("doing", "leader election")),
	}
}

// Get implements resourcelock.Interface.
func (l *lock) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	record, raw, err := l.LeaseLock.Get(ctx)
	if !apierrors.IsNotFound(err) { // not found is created next
		l.report("get", err)
	}
	if err == nil {
		l.saw(record)
	}
	return record, raw, err
}

func (l *lock) saw(record *resourcelock.LeaderElectionRecord) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seenAt = time.Now()
	if l.holder != record.HolderIdentity || !l.renewal.Equal(&record.RenewTime) {
		l.holder, l.renewal, l.freshAt = record.HolderIdentity, record.RenewTime, l.seenAt
	}
}

// seen is who held the Lease when it was read last, and when that was; "" where
// it has not been read, or not been renewed, for as long as it lasts.
func (l *lock) seen() (holder string, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.holder == "" || time.Since(l.seenAt) > l.o.LeaseDuration || time.Since(l.freshAt) > l.o.LeaseDuration {
		return "", time.Time{}
	}
	return l.holder, l.seenAt
}

// Create implements resourcelock.Interface.
func (l *lock) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	err := l.LeaseLock.Create(ctx, record)
	if !apierrors.IsAlreadyExists(err) { // another candidate was faster
		l.report("create", err)
	}
	l.wrote(err)
	return err
}

// Update implements resourcelock.Interface.
func (l *lock) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	err := l.LeaseLock.Update(ctx, record)
	// A conflict is a lost race. An API that cannot be reached is reported by
	// the get with which client-go follows a failed update.
	if err == nil || !apierrors.IsConflict(err) && !kube.Unreachable(err) && ctx.Err() == nil {
		l.report("update", err)
	}
	l.wrote(err)
	return err
}

func (l *lock) wrote(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	// After an error a write may have happened all the same, so a loss of
	// knowledge never unsets held; release looks at the Lease itself.
	l.held = l.held || err == nil
	if err == nil {
		l.heldAt = time.Now()
	}
}

// last is who was last known to hold the Lease, this instance included.
func (l *lock) last() (holder string, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.heldAt.After(l.seenAt) {
		return l.o.Identity, l.heldAt
	}
	if l.holder == "" {
		return "", time.Time{}
	}
	return l.holder, l.seenAt
}

// why is what fails now; nil while nothing does.
func (l *lock) why() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failure
}

// report tells the condition of one outcome. A get that works says nothing of
// a create or update that does not.
func (l *lock) report(verb string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.failure != nil && errors.Is(err, kube.ErrNotSent):
		// There was no time left to ask: what failed before is the reason.
	case err != nil:
		l.failing = verb
		l.failure = kube.Explain(err, verb, leases, l.o.Namespace, l.o.Name)
		l.condition.Set(l.failure)
	case l.failing != "" && verb == "get" && l.failing != "get":
	default:
		l.failing, l.failure = "", nil
		l.condition.Set(nil)
	}
}

// release empties the Lease if this instance still holds it, so that another
// need not wait for it to run out. Best effort: a Lease that cannot be released
// runs out.
func (l *lock) release() {
	l.mu.Lock()
	held := l.held
	l.held = false
	l.mu.Unlock()
	if !held {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), l.timeout)
	defer cancel()
	lease, err := l.o.Client.CoordinationV1().Leases(l.o.Namespace).Get(ctx, l.o.Name, metav1.GetOptions{})
	if err != nil {
		l.o.Log.Warn("leaving the Lease to run out", "error", kube.Explain(err, "get", leases, l.o.Namespace, l.o.Name))
		return
	}
	if lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity != l.o.Identity {
		return
	}
	// As client-go releases: no holder, and one second until it has run out.
	none, second, now := "", int32(1), metav1.NowMicro()
	lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds = &none, &second
	lease.Spec.AcquireTime, lease.Spec.RenewTime = &now, &now
	if _, err := l.o.Client.CoordinationV1().Leases(l.o.Namespace).Update(ctx, lease, metav1.UpdateOptions{}); err != nil {
		l.o.Log.Warn("leaving the Lease to run out", "error", kube.Explain(err, "update", leases, l.o.Namespace, l.o.Name))
		return
	}
	l.o.Log.Info("leadership released", "identity", l.o.Identity)
}
