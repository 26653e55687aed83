package leader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/klog/v2"
)

// LeaseOptions describe a campaign for a Kubernetes Lease.
type LeaseOptions struct {
	Client    kubernetes.Interface
	Namespace string
	Name      string
	Identity  string // see [Identity]

	LeaseDuration time.Duration // others wait this long before they take over; whole seconds
	RenewDeadline time.Duration // after this long without a renewal leadership is lost
	RetryPeriod   time.Duration // between attempts

	Log      *slog.Logger       // default: slog.Default()
	OnChange func(leading bool) // default: nothing
}

// Lease elects by a Lease of coordination.k8s.io/v1.
type Lease struct {
	o           LeaseOptions
	callTimeout time.Duration
	lock        atomic.Pointer[lock] // of the campaign; nil before
	loss        atomic.Pointer[loss] // nil: none, or it leads again
}

// loss is how leadership slipped away.
type loss struct {
	at  time.Time
	why error
}

// NewLease makes an elector. It speaks to nobody yet.
//
// It refuses times with which two instances could lead at once although their
// clocks run alike: the holder must have given up (after RetryPeriod and
// RenewDeadline, and the time that one request may take) before LeaseDuration
// is over for the others.
func NewLease(o LeaseOptions) (*Lease, error) {
	switch {
	case o.Client == nil:
		return nil, errors.New("making Lease elector: it has no client")
	case o.Namespace == "" || o.Name == "" || o.Identity == "":
		return nil, fmt.Errorf("making Lease elector: want namespace, name and identity, have %q, %q, %q", o.Namespace, o.Name, o.Identity)
	case o.LeaseDuration < time.Second || o.LeaseDuration%time.Second != 0:
		return nil, fmt.Errorf("making Lease elector: leaseDuration %s: a Lease counts whole seconds", o.LeaseDuration)
	case o.RetryPeriod <= 0 || o.RenewDeadline*10 <= o.RetryPeriod*12:
		return nil, fmt.Errorf("making Lease elector: renewDeadline %s: want more than 1.2 times retryPeriod (%s)", o.RenewDeadline, o.RetryPeriod)
	case o.LeaseDuration <= o.RenewDeadline+o.RetryPeriod:
		return nil, fmt.Errorf("making Lease elector: leaseDuration %s: want more than renewDeadline and retryPeriod together (%s)", o.LeaseDuration, o.RenewDeadline+o.RetryPeriod)
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	o.Log = o.Log.With("lease", o.Namespace+"/"+o.Name)
	if o.OnChange == nil {
		o.OnChange = func(bool) {}
	}
	return &Lease{o: o, callTimeout: o.LeaseDuration - o.RenewDeadline - o.RetryPeriod}, nil
}

// Run implements [Elector].
func (l *Lease) Run(ctx context.Context, lead func(ctx context.Context)) error {
	l.o.OnChange(false)
	lock := newLock(l.o, l.callTimeout)
	l.lock.Store(lock)
	defer l.lock.Store(nil)
	for ctx.Err() == nil {
		if err := l.campaign(ctx, lock, lead); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(l.o.RetryPeriod):
		}
	}
	return nil
}

// Holder is who held the Lease when this instance last read it, and when that
// was: "" where nobody did, where its holder has stopped renewing it, and where
// it was read so long ago that somebody else may hold it by now. It makes no
// request. It is for those who do not lead: a leader only writes.
func (l *Lease) Holder() (identity string, seenAt time.Time) {
	lock := l.lock.Load()
	if lock == nil {
		return "", time.Time{}
	}
	return lock.seen()
}

// LastHolder is who was last known to hold the Lease, this instance included,
// however long ago that was; "" where nobody was. It makes no request.
func (l *Lease) LastHolder() (identity string, seenAt time.Time) {
	lock := l.lock.Load()
	if lock == nil {
		return "", time.Time{}
	}
	return lock.last()
}

// Lost is when this instance last lost the Lease while it led, and what then
// kept it from renewing it; nil where nothing did, so that another one had taken
// it. The time is zero where it never lost it, or leads again.
func (l *Lease) Lost() (at time.Time, why error) {
	if lost := l.loss.Load(); lost != nil {
		return lost.at, lost.why
	}
	return time.Time{}, nil
}

// campaign campaigns until it has led and no longer does, or until ctx ends.
func (l *Lease) campaign(ctx context.Context, lock *lock, lead func(ctx context.Context)) error {
	// The election outlives ctx: while lead winds down, the Lease is renewed.
	// The zero logger is silent: lock logs what changes, once.
	election, endElection := context.WithCancel(klog.NewContext(context.WithoutCancel(ctx), klog.Logger{}))
	defer endElection()
	t := &term{end: endElection, done: make(chan struct{})}

	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock:          lock,
		LeaseDuration: l.o.LeaseDuration,
		RenewDeadline: l.o.RenewDeadline,
		RetryPeriod:   l.o.RetryPeriod,
		Name:          l.o.Name,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(held context.Context) {
				t.serve(ctx, held, func(leading context.Context) {
					l.o.Log.Info("leading", "identity", l.o.Identity)
					l.loss.Store(nil)
					l.o.OnChange(true)
					lead(leading)
				})
			},
			OnStoppedLeading: func() {},
			OnNewLeader: func(identity string) {
				if identity != "" && identity != l.o.Identity {
					l.o.Log.Info("another instance leads", "leader", identity)
				}
			},
		},
		// Not ReleaseOnCancel: it releases before lead has returned, also after
		// a loss, and then whoever holds the Lease by now.
	})
	if err != nil {
		return fmt.Errorf("making Lease elector: %w", err)
	}

	stop := context.AfterFunc(ctx, t.abandon)
	defer stop()
	elector.Run(election)
	led, lost := t.join()
	if lost {
		l.loss.Store(&loss{time.Now(), lock.why()})
	}
	if led {
		l.o.OnChange(false)
	}
	if lost {
		l.o.Log.Warn("leadership lost", "identity", l.o.Identity)
		return nil
	}
	lock.release()
	return nil
}

// term is one time in office, or the attempt at one. client-go starts its
// callback in a goroutine of its own, so the term has to know whether lead has
// begun, and may still begin.
type term struct {
	end  func() // ends the election
	done chan struct{}

	mu     sync.Mutex
	begun  bool
	closed bool // lead must not begin any more
	lost   bool // the Lease slipped away while lead was running
}

// serve runs lead with a context that ends with held (the Lease) or ctx (the
// process), and ends the election when lead has returned.
func (t *term) serve(ctx, held context.Context, lead func(context.Context)) {
	t.mu.Lock()
	if t.closed || ctx.Err() != nil || held.Err() != nil {
		t.mu.Unlock()
		t.end()
		return
	}
	t.begun = true
	t.mu.Unlock()

	defer close(t.done)
	leading, cancel := context.WithCancel(held)
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	lead(leading)
	t.lost = held.Err() != nil // nobody has ended the election yet
	t.end()
}

// abandon ends the election at once if lead has not begun; where it has, its
// context has ended, and its return ends the election.
func (t *term) abandon() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	if !t.begun {
		t.end()
	}
}

// join waits until lead has returned, and says whether it was ever called and
// whether the Lease was lost meanwhile.
func (t *term) join() (led, lost bool) {
	t.mu.Lock()
	t.closed = true
	begun := t.begun
	t.mu.Unlock()
	if !begun {
		return false, false
	}
	<-t.done
	return true, t.lost
}
