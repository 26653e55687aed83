// Package signer signs approved CertificateSigningRequests of configured signer
// names with a CA that is kept in a Secret.
//
// What is signed, and how the certificate looks, package k8scsr decides; this one
// reads, signs and writes. It keeps no state: whatever another instance or a crash
// left behind, it goes on from there. Two instances at once do no harm, since
// every write is compare-and-swap; the later one is refused.
//
// The CA's key is read when it is needed, is held while requests are looked at,
// and is written nowhere.
package signer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

// Authority is one signer name, what it signs, and where its CA is.
type Authority struct {
	Policy         k8scsr.SigningPolicy
	Namespace      string // of the CA's Secret; default Options.Namespace
	Secret         string // the CA's Secret
	CertificateKey string // its entry with the CA's certificate and those above it; default tls.crt
	KeyKey         string // its entry with the CA's key; default tls.key
}

// Options describe a Signer.
type Options struct {
	Client      kubernetes.Interface
	Authorities []Authority
	Namespace   string                // where an Authority names none
	Interval    time.Duration         // between two looks at all requests of a signer at most; default one minute
	Log         *slog.Logger          // default slog.Default()
	Registerer  prometheus.Registerer // default: none
	Now         func() time.Time      // default time.Now
	Chance      func() float64        // in [0, 1), spreads those who failed together; default rand.Float64
	// Report gets all findings after each look, the empty list included.
	// Default: none.
	Report func([]k8scsr.Finding)
}

// Signer does the work of a set of signer names.
type Signer struct {
	client     kubernetes.Interface
	all        []*authority
	interval   time.Duration
	log        *slog.Logger
	registerer prometheus.Registerer
	now        func() time.Time
	chance     func() float64
	report     func([]k8scsr.Finding)
	metrics    *metrics
	mu         sync.Mutex // held by OnceUntil
}

// authority is one signer name and what the looks at it left. What is under the
// mutex is written by Watch and read by Status beside a look.
type authority struct {
	Authority

	pace     k8scsr.Pace
	err      error // of the last look; nil: it worked
	deniedAt time.Time
	scan     scan
	found    []k8scsr.Finding

	mu     sync.Mutex
	hints  []string // names of requests that Watch saw approved, each once
	gap    bool     // it may have missed others
	status Status
}

func (a *authority) name() string { return a.Policy.Signer }

// New makes a Signer and registers its metrics. It tells every problem of every
// authority at once. It starts nothing.
func New(o Options) (*Signer, error) {
	s := &Signer{
		client: o.Client, interval: cmp.Or(o.Interval, time.Minute), log: o.Log, registerer: o.Registerer,
		now: o.Now, chance: o.Chance, report: o.Report,
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.chance == nil {
		s.chance = rand.Float64
	}
	if s.report == nil {
		s.report = func([]k8scsr.Finding) {}
	}
	var problems []error
	if o.Client == nil {
		problems = append(problems, errors.New("making signer: it has no Kubernetes client"))
	}
	for _, given := range o.Authorities {
		given.Namespace = cmp.Or(given.Namespace, o.Namespace)
		given.CertificateKey = cmp.Or(given.CertificateKey, corev1.TLSCertKey)
		given.KeyKey = cmp.Or(given.KeyKey, corev1.TLSPrivateKeyKey)
		a := &authority{Authority: given}
		problems = append(problems, a.validate()...)
		if slices.ContainsFunc(s.all, func(other *authority) bool { return other.name() == a.name() }) {
			problems = append(problems, fmt.Errorf("signer %s: there are two of this name", a.name()))
		}
		s.all = append(s.all, a)
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	s.metrics = newMetrics(s.all)
	if s.registerer != nil {
		if err := s.metrics.register(s.registerer); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (a *authority) validate() []error {
	var problems []error
	if err := a.Policy.Validate(); err != nil {
		problems = append(problems, err)
	}
	if a.Namespace == "" || a.Secret == "" {
		problems = append(problems, fmt.Errorf("signer %s: caSecret: namespace %q and name %q must both be given", a.name(), a.Namespace, a.Secret))
	}
	if a.CertificateKey == a.KeyKey {
		problems = append(problems, fmt.Errorf("signer %s: caSecret: certificate and key are both %q", a.name(), a.KeyKey))
	}
	return problems
}

// Unregister removes the metrics, for when leadership is lost: an instance that
// no longer looks must not go on to say what it saw.
func (s *Signer) Unregister() {
	if s.registerer != nil {
		s.metrics.unregister(s.registerer, len(s.metrics.all()))
	}
}

// soon is when to go on with what a look left over.
const soon = time.Second

// OnceUntil signs what there is to sign, for each signer whose time has come, and
// for each whose request changed as [Signer.Watch] saw. It returns when to look
// again, at most Options.Interval away. One signer that fails does not stop the
// others; the error is that of every one whose last look failed. A CA that cannot
// be used is a finding and no error. The findings of all are reported.
//
// A right that is missing is unknown for five seconds, in which it is looked at
// again, and critical then: an API server that has just started does not know
// the roles yet.
func (s *Signer) OnceUntil(ctx context.Context) (next time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.all {
		due := a.pace.Due(s.now()) || a.err == nil && a.takeMissed()
		if !due && (a.err != nil || !a.hinted()) {
			continue
		}
		more, err := s.look(ctx, a, due)
		if ctx.Err() != nil {
			return s.now().Add(s.interval), ctx.Err()
		}
		s.looked(a, due, more, err)
	}
	return s.sum()
}

// looked keeps how a look ended. One that was due sets the time of the next.
func (s *Signer) looked(a *authority, due, more bool, err error) {
	now := s.now()
	switch {
	case err != nil:
		s.failed(a, now, err)
	case more:
		a.pace, a.err, a.deniedAt = a.pace.Looked(now, now.Add(soon)), nil, time.Time{}
	case due:
		a.pace, a.err, a.deniedAt = a.pace.Looked(now, now.Add(s.interval)), nil, time.Time{}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status.LookedAt, a.status.Err, a.status.NextAt = now, a.err, a.pace.NextAt
}

// sum reports what all the last looks left.
func (s *Signer) sum() (next time.Time, err error) {
	next = s.now().Add(s.interval)
	findings := []k8scsr.Finding{}
	var errs []error
	for _, a := range s.all {
		findings = append(findings, a.found...)
		if a.err != nil {
			errs = append(errs, fmt.Errorf("signer %s: %w", a.name(), a.err))
		}
		at := a.pace.NextAt
		if a.err == nil && a.hinted() {
			at = s.now().Add(soon) // it changed while it was answered
		}
		if at.Before(next) {
			next = at
		}
	}
	slices.SortStableFunc(findings, func(a, b k8scsr.Finding) int {
		return cmp.Or(cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.Rule, b.Rule))
	})
	s.report(findings)
	return next, errors.Join(errs...)
}

// look reads the CA and answers requests: those that were hinted at first, so
// that no flood of others keeps them waiting, then, where all is due, as many of
// the rest as one look takes. Neither takes all of its time. More says that some
// are left over.
func (s *Signer) look(ctx context.Context, a *authority, all bool) (more bool, err error) {
	hints := a.takeHints()
	now := s.now()
	ca, problem, err := s.load(ctx, a, now)
	if err != nil {
		a.giveBack(hints)
		return false, err
	}
	a.found = nil
	if problem != "" {
		a.found = append(a.found, a.unusable(problem))
		a.note(func(st *Status) { st.CAProblem = problem })
		return false, nil // the requests wait, and are found again with the next good CA
	}
	defer ca.key.forget()
	a.note(func(st *Status) { st.CAProblem = "" })
	if f := a.ends(ca, now); f != nil {
		a.found = append(a.found, *f)
	}
	defer func() {
		if f := a.refused(); f != nil {
			a.found = append(a.found, *f)
		}
	}()
	for n, name := range hints {
		if s.now().Sub(now) > lookFor/2 {
			a.giveBack(hints[n:])
			more = true
			break
		}
		if err := s.answerNamed(ctx, a, ca, name); err != nil {
			a.giveBack(hints[n:])
			return false, err
		}
	}
	if !all {
		return more, nil
	}
	left, err := s.answerAll(ctx, a, ca, now)
	return more || left, err
}
