package issuer

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

// RenewRequest is what [Issuer.Renew] is asked for.
type RenewRequest struct {
	Names  []string // of certificates; none: all
	Force  bool     // also what is not due, see [k8scsr.Replacement]
	DryRun bool     // observe and decide, write nothing

	// Watch is told what is waited for, each time that this is something else.
	// It must not block. Default: nobody is.
	Watch func(certificate string, step k8scsr.Step)
}

// Renewal is what became of one certificate.
type Renewal struct {
	Certificate, Namespace, Secret string

	Observed    bool                // once at least; else Before, After and Differences are not known
	Step        k8scsr.Step         // decided last; the zero Step where it came to none
	Needed      string              // why a new certificate is still to be asked for now, "" where none is
	Paused      bool                // by configuration
	Before      *x509.Certificate   // that was live when the work began; nil: none
	After       *x509.Certificate   // that is live now
	Differences []k8scsr.Difference // of Before and what is wanted; nil where that is not known
	Findings    []k8scsr.Finding    // what is wrong now
	Obstructed  bool                // one of them must be removed by somebody before anything else
	Err         error               // what was met that kept the work from going on
}

// Renewed tells whether another certificate is live than before.
func (r Renewal) Renewed() bool { return k8scsr.LeafID(r.Before) != k8scsr.LeafID(r.After) }

// renewal is one certificate's while the work goes on.
type renewal struct {
	Renewal
	c        *Certificate // a copy of our own: what is asked for once is not wanted later
	pace     k8scsr.Pace
	finished bool
	told     string
}

// A ForeignAttempt is an attempt to get a certificate that another account has
// under way. Going on with it would end it: a request counts only where its
// requester is who decides about it.
type ForeignAttempt struct {
	Request        string
	Requester, Own string // user names
}

func (e *ForeignAttempt) Error() string {
	return fmt.Sprintf("request %s is under way and was made by %s; %s cannot go on with it", e.Request, e.Requester, e.Own)
}

// ErrUnfinished is why a certificate is in an unknown state: the time was over
// before anything was decided about it.
var ErrUnfinished = errors.New("its state was not determined in time")

// triesAtErrors is how many looks in a row may fail before one is given up.
const triesAtErrors = 4

// Renew brings the certificates to their ends: published; not due; held back, by
// a pause, a failed attempt or a limit, until a time that is not waited for; or
// failed. What somebody else must do, approve or sign a request, is waited for
// until ctx ends: what was begun stays as it is, and whoever looks next goes on
// with it. Its error is then ctx's, beside what was found so far. Nothing else is
// an error here; see [Renewal.Err].
//
// It goes the same way as [Issuer.Once], step by step, and may run beside it in
// other processes. It needs no [Issuer.Events], which tells what it did where it
// runs beside.
func (i *Issuer) Renew(ctx context.Context, r RenewRequest) ([]Renewal, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.identity = k8scsr.Identity{}
	i.begins(ctx)
	changed := make(chan struct{}, 1)
	if !r.DryRun {
		var watching sync.WaitGroup
		watched, stop := context.WithCancel(ctx)
		defer watching.Wait()
		defer stop()
		watching.Go(func() {
			_ = i.Watch(watched, func() { // returns nil
				select {
				case changed <- struct{}{}:
				default:
				}
			})
		})
	}
	var all []*renewal
	for n := range i.outlooks {
		if len(r.Names) > 0 && !slices.Contains(r.Names, i.given.At(n).Spec.Name) {
			continue
		}
		c := i.certificate(n)
		all = append(all, &renewal{Renewal: Renewal{Certificate: c.Spec.Name, Namespace: c.Namespace, Secret: c.Secret, Paused: c.Spec.Paused}, c: c})
	}
	for ctx.Err() == nil {
		next := time.Time{}
		for _, a := range all {
			i.pursue(ctx, a, r)
			if !a.finished && (next.IsZero() || a.pace.NextAt.Before(next)) {
				next = a.pace.NextAt
			}
		}
		if next.IsZero() {
			break
		}
		timer := time.NewTimer(next.Sub(i.now()))
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-changed:
			for _, a := range all {
				if a.pace.Failures == 0 {
					a.pace = k8scsr.Pace{}
				}
			}
		}
		timer.Stop()
	}
	var out []Renewal
	for _, a := range all {
		if ctx.Err() != nil && !a.finished && (a.Step.Kind == "" || errors.Is(a.Err, context.DeadlineExceeded)) {
			a.Err = ErrUnfinished
		}
		out = append(out, a.Renewal)
	}
	return out, ctx.Err()
}

// pursue brings one certificate as far as it goes now.
func (i *Issuer) pursue(ctx context.Context, a *renewal, r RenewRequest) {
	if a.finished || !a.pace.Due(i.now()) {
		return
	}
	first := !a.Observed
	err := i.begin(ctx, a, r)
	if err == nil && !(first && r.DryRun) {
		err = i.goOn(ctx, a, r)
	}
	switch {
	case ctx.Err() != nil:
	case err == nil:
		a.Err = nil
		a.pace = a.pace.Looked(i.now(), a.Step.LookAgainAt)
		a.finished = r.DryRun || a.Step.Kind == k8scsr.Nothing
	case a.pace.Failures+1 == triesAtErrors || errors.As(err, new(*ForeignAttempt)) || errors.As(err, new(*errNamespace)) || denied(err):
		a.Err, a.finished = err, true
	default:
		a.Err = err
		a.pace = a.pace.Failed(i.now(), askedFor(err), i.chance())
	}
}

// begin observes what is there before anything is done: once.
func (i *Issuer) begin(ctx context.Context, a *renewal, r RenewRequest) (err error) {
	defer i.contain(a.c, &err)
	if a.Observed {
		return nil
	}
	c, err := i.named(ctx, a.c)
	if err != nil {
		return err
	}
	now := i.now()
	o, err := i.observe(ctx, c, nil, now)
	if err != nil {
		return err
	}
	if r.Force {
		c.Spec.Replace = k8scsr.Replacement{LeafID: k8scsr.LeafID(o.Live.Leaf), AskedAt: now}
		a.c.Spec.Replace = c.Spec.Replace
		if o, err = i.observe(ctx, c, nil, now); err != nil { // more must be known for what is due
			return err
		}
	}
	if req := o.Request; req != nil && !o.Identity.Account(req.Requester) {
		return &ForeignAttempt{req.Name, req.Requester.Username, o.Identity.Username}
	}
	if len(c.unnamed) == 0 {
		a.Differences = o.State.Differences(c.Spec, now)
	}
	a.Observed, a.Before, a.After = true, o.Live.Leaf, o.Live.Leaf
	if r.DryRun {
		a.see(c.Spec, o.State, k8scsr.Next(o.State, c.Spec, now), now)
		a.Findings = k8scsr.Findings(o.State, c.Spec, now)
	}
	return nil
}

// goOn takes steps, and tells of them.
func (i *Issuer) goOn(ctx context.Context, a *renewal, r RenewRequest) error {
	i.look = under{decided: a.see}
	_, found, err := i.advance(ctx, a.c)
	i.tell(a.c, found, i.look.done)
	a.Findings = found
	if a.Step.Waits() && a.Step.Kind != k8scsr.Nothing && r.Watch != nil && a.told != a.Step.Reason {
		a.told = a.Step.Reason
		r.Watch(a.Certificate, a.Step)
	}
	return err
}

// see keeps what was observed and decided last.
func (a *renewal) see(want k8scsr.Spec, s k8scsr.State, step k8scsr.Step, now time.Time) {
	a.Step, a.After, a.Obstructed, a.Needed = step, s.Live.Leaf, len(s.Obstacles) > 0, ""
	if !a.Obstructed && k8scsr.Due(s, want, now) { // else what is wanted may not be known
		a.Needed, _ = want.Needed(s.Live, s.Trust, now)
	}
}
