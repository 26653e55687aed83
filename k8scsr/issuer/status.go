package issuer

import (
	"cmp"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"
	"unique"

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
}

// StepStatus is what a k8scsr.Step tells.
type StepStatus struct {
	Kind        k8scsr.Kind
	Reason      string
	LookAgainAt time.Time
}

// board holds what is known for those who must not wait for a look.
type board struct {
	names []string // by the certificate's number; they do not change
	mu    sync.Mutex
	all   []noted // by the certificate's number
}

// noted is a Status in little space: there is one for each certificate.
type noted struct {
	lookedAt, nextAt, observedAt, lookAgainAt instant
	notBefore, notAfter, renewAt              instant
	dueAt                                     instant // renewAt but for windows that have passed

	kind   k8scsr.Kind
	reason string
	err    error

	change       k8scsr.ChangeState
	changeReason string
	authorities  []authorityNote

	hindered, due, adopted bool

	more *notedMore // what most do not have; nil: nothing of it
}

// authorityNote is an AuthorityStatus in little space.
type authorityNote struct {
	authority unique.Handle[authorityShown]
	published instant
	wanted    bool
}

// authorityShown is what is shown of a CA, which most certificates have in common.
type authorityShown struct {
	subject, sha256 string
	notAfter        instant
}

// notedMore is what is noted of a certificate with which something is going on, or
// whose names are drawn from objects.
type notedMore struct {
	problem, request string
	failure          *k8scsr.Failure
	failures         int
	peers            []k8scsr.PeerStatus

	drawn   bool // names are drawn from objects:
	unnamed bool // those of some object are missing
	dns     []string
}

// dates are those of one stored certificate.
type dates struct {
	certificate              string
	notBefore, notAfter, due time.Time
}

// allDates are those of all certificates that are stored.
func (b *board) allDates() iter.Seq[dates] {
	return func(yield func(dates) bool) {
		for n := range b.names {
			b.mu.Lock()
			s := b.all[n]
			b.mu.Unlock()
			if s.notAfter != 0 && !yield(dates{b.names[n], s.notBefore.time(), s.notAfter.time(), s.dueAt.time()}) {
				return
			}
		}
	}
}

// Status is what is known of each certificate, by name. It waits for no look
// and asks nobody. It holds no key.
func (i *Issuer) Status() []Status { return slices.Collect(i.Statuses()) }

// Statuses is Status, one after the other.
func (i *Issuer) Statuses() iter.Seq[Status] {
	return func(yield func(Status) bool) {
		names := i.board.names
		byName := make([]int32, len(names))
		for n := range names {
			byName[n] = int32(n)
		}
		slices.SortFunc(byName, func(a, b int32) int { return cmp.Compare(names[a], names[b]) })
		for _, n := range byName {
			c := i.certificate(int(n))
			i.board.mu.Lock()
			s := i.board.all[n].status(c)
			i.board.mu.Unlock()
			if s.Every = i.lookEvery; !yield(s) {
				return
			}
		}
	}
}

func (n *noted) status(c *Certificate) Status {
	s := Status{
		Name: c.Spec.Name, Namespace: c.Namespace, Secret: c.Secret, Paused: c.Spec.Paused,
		LookedAt: n.lookedAt.time(), Err: n.err, NextAt: n.nextAt.time(),
		ObservedAt: n.observedAt.time(), Step: StepStatus{n.kind, n.reason, n.lookAgainAt.time()},
		Hindered: n.hindered, Due: n.due, Adopted: n.adopted,
		NotBefore: n.notBefore.time(), NotAfter: n.notAfter.time(), RenewAt: n.renewAt.time(),
		Trust: TrustStatus{State: n.change, Reason: n.changeReason},
	}
	for _, a := range n.authorities {
		shown := a.authority.Value()
		s.Trust.Authorities = append(s.Trust.Authorities, AuthorityStatus{
			Subject: shown.subject, SHA256: shown.sha256, NotAfter: shown.notAfter.time(), Wanted: a.wanted, PublishedAt: a.published.time(),
		})
	}
	if n.observedAt == 0 {
		return s
	}
	s.NamesKnown, s.DNSNames, s.URIs = true, c.Spec.DNSNames, c.Spec.URIs
	for _, ip := range c.Spec.IPAddresses {
		s.IPAddresses = append(s.IPAddresses, ip.String())
	}
	if m := n.more; m != nil {
		s.Problem, s.Request, s.Failure, s.Failures, s.Trust.Peers = m.problem, m.request, m.failure, m.failures, m.peers
		if m.drawn {
			s.NamesKnown, s.DNSNames = !m.unnamed, m.dns
		}
	}
	return s
}

// observed keeps what a look has found so far, and the step that it decided.
func (b *board) observed(c *Certificate, o *observation, step k8scsr.Step, now time.Time) {
	change := o.Change(c.Spec, now)
	s := noted{
		observedAt: instantOf(o.readAt), hindered: len(o.Obstacles) > 0, due: k8scsr.Due(o.State, c.Spec, now),
		kind: step.Kind, reason: step.Reason, lookAgainAt: instantOf(step.LookAgainAt),
		change: change.State, changeReason: unique.Make(change.Reason).Value(),
	}
	for _, a := range change.Authorities {
		s.authorities = append(s.authorities, authorityNote{
			unique.Make(authorityShown{k8scsr.Plain(a.Certificate.Subject.String(), maxMessage), k8scsr.LeafID(a.Certificate), instantOf(a.Certificate.NotAfter)}),
			instantOf(a.Since), a.Wanted,
		})
	}
	if leaf := o.Live.Leaf; leaf != nil {
		s.adopted, s.notBefore, s.notAfter = !o.Live.Managed, instantOf(leaf.NotBefore), instantOf(leaf.NotAfter)
		s.dueAt = instantOf(c.Spec.RenewalAt(leaf, o.Live.IssuedAt, time.Time{}))
		if o.Live.Problem == "" {
			s.renewAt = instantOf(c.Spec.RenewalAt(leaf, o.Live.IssuedAt, now))
		}
	}
	more := notedMore{problem: o.Live.Problem, request: o.Pending.CSRName, failures: o.Pending.Failures, peers: change.Peers, drawn: len(c.NamesFrom) > 0}
	if f := o.Pending.LastFailure; f != nil {
		more.failure = &k8scsr.Failure{Rule: f.Rule, Summary: strings.Clone(f.Summary), At: f.At}
	}
	if more.drawn {
		more.unnamed, more.dns = len(c.unnamed) > 0, c.Spec.DNSNames
	}
	if more.drawn || more.failure != nil || more.failures > 0 || more.problem != "" || more.request != "" || len(more.peers) > 0 {
		s.more = &more
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	former := &b.all[c.n]
	s.lookedAt, s.err, s.nextAt = former.lookedAt, former.err, former.nextAt
	*former = s
}

// looked keeps how a look ended.
func (b *board) looked(c *Certificate, now, next time.Time, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := &b.all[c.n]
	s.lookedAt, s.nextAt, s.err = instantOf(now), instantOf(next), err
}
