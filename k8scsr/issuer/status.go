package issuer

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

// Status is what the last looks at one certificate left. Times that are not
// known are zero.
type Status struct {
	Name      string
	Namespace string // of the live Secret
	Secret    string
	Paused    bool

	LookedAt time.Time     // the end of the last look; zero before the first
	Err      error         // why the last look failed; nil: it did not. What was observed is then older
	NextAt   time.Time     // of the next look, if nothing happens before
	Every    time.Duration // between two looks at most, while nothing is due

	// What follows was observed at ObservedAt; without it nothing was.
	ObservedAt time.Time
	Step       StepStatus      // the last that was decided: what the certificate waits for, and why
	Hindered   bool            // by what somebody has to remove; the step's reason says what
	Due        bool            // a new certificate is wanted; false says nothing while Hindered
	Problem    string          // why the stored pair cannot be served; "" when it can, or there is none
	Adopted    bool            // somebody else wrote the stored pair
	NotBefore  time.Time       // of the stored certificate
	NotAfter   time.Time       // of the stored certificate
	RenewAt    time.Time       // when its renewal begins
	Request    string          // under way; "" for none
	Failure    *k8scsr.Failure // how the last attempt ended that did not succeed; nil: none since the last success
	Failures   int             // in a row

	Trust TrustStatus // of the bundle that clients follow

	// What is wanted, with the names drawn from objects; without NamesKnown those
	// of some object are missing, and nothing is asked for.
	NamesKnown  bool
	DNSNames    []string
	IPAddresses []string
	URIs        []string

	dueAt time.Time // RenewAt but for windows that have passed
}

// StepStatus is what a k8scsr.Step tells.
type StepStatus struct {
	Kind        k8scsr.Kind
	Reason      string
	LookAgainAt time.Time
}

// board holds statuses for those who must not wait for a look.
type board struct {
	mu  sync.Mutex
	all map[string]*Status // by the certificate's label; what is in it does not change
}

// dates are those of one stored certificate.
type dates struct {
	certificate              string
	notBefore, notAfter, due time.Time
}

// allDates are those of all certificates that are stored.
func (b *board) allDates() []dates {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]dates, 0, len(b.all))
	for _, s := range b.all {
		if !s.NotAfter.IsZero() {
			out = append(out, dates{s.Name, s.NotBefore, s.NotAfter, s.dueAt})
		}
	}
	return out
}

// Status is what is known of each certificate, by name. It waits for no look
// and asks nobody. It holds no key.
func (i *Issuer) Status() []Status {
	i.board.mu.Lock()
	defer i.board.mu.Unlock()
	out := make([]Status, 0, len(i.certificates))
	for _, c := range i.certificates {
		s := i.board.of(c)
		s.Name, s.Namespace, s.Secret, s.Paused = c.Spec.Name, c.Namespace, c.Secret, c.Spec.Paused
		s.Every = i.lookEvery
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Status) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// observed keeps what a look has found so far, and the step that it decided.
func (b *board) observed(c *Certificate, o *observation, step k8scsr.Step, now time.Time) {
	s := Status{
		Name: c.Spec.Name, ObservedAt: o.readAt, Hindered: len(o.Obstacles) > 0, Due: k8scsr.Due(o.State, c.Spec, now),
		Problem: o.Live.Problem, Request: o.Pending.CSRName, Failures: o.Pending.Failures,
		Step:       StepStatus{step.Kind, step.Reason, step.LookAgainAt},
		Trust:      trustStatus(o.Change(c.Spec, now)),
		NamesKnown: len(c.unnamed) == 0, DNSNames: c.Spec.DNSNames, URIs: c.Spec.URIs,
	}
	if leaf := o.Live.Leaf; leaf != nil {
		s.Adopted, s.NotBefore, s.NotAfter = !o.Live.Managed, leaf.NotBefore, leaf.NotAfter
		s.dueAt = c.Spec.RenewalAt(leaf, o.Live.IssuedAt, time.Time{})
		if o.Live.Problem == "" {
			s.RenewAt = c.Spec.RenewalAt(leaf, o.Live.IssuedAt, now)
		}
	}
	if f := o.Pending.LastFailure; f != nil {
		s.Failure = &k8scsr.Failure{Rule: f.Rule, Summary: strings.Clone(f.Summary), At: f.At}
	}
	for _, ip := range c.Spec.IPAddresses {
		s.IPAddresses = append(s.IPAddresses, ip.String())
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	former := b.of(c)
	s.LookedAt, s.Err, s.NextAt = former.LookedAt, former.Err, former.NextAt
	b.put(c, s)
}

// looked keeps how a look ended.
func (b *board) looked(c *Certificate, now, next time.Time, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.of(c)
	s.LookedAt, s.NextAt, s.Err = now, next, err
	b.put(c, s)
}

func (b *board) put(c *Certificate, s Status) {
	if b.all == nil {
		b.all = map[string]*Status{}
	}
	b.all[c.label] = &s
}

// of is a copy of what is known; the zero value for nothing.
func (b *board) of(c *Certificate) Status {
	if s := b.all[c.label]; s != nil {
		return *s
	}
	return Status{}
}
