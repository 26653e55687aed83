package issuer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

// version is one version of one request.
type version struct{ name, resourceVersion string }

// Once brings every certificate as far as it goes now, whether its time has come
// or not. It returns when to look again, at most Options.Interval away. One
// certificate that fails does not stop the others; their errors are joined. The
// findings of all are reported.
func (i *Issuer) Once(ctx context.Context) (next time.Time, err error) {
	return i.round(ctx, false)
}

// OnceUntil is Once for those certificates whose own time has come, or whose
// request changed as [Issuer.Watch] saw. The error is that of every certificate
// whose last look failed, also of those that were not looked at now: as long as
// one is not known, all is not well. The time holds then, too: a certificate
// that fails has a back-off of its own, which does not slow the others.
//
// A right that is missing at first, or right after the API gave no answer, is
// unknown for five seconds, in which it is looked at again, and critical then.
func (i *Issuer) OnceUntil(ctx context.Context) (next time.Time, err error) {
	return i.round(ctx, true)
}

// round looks at those that are due. One that goes on, unlike one that is alone,
// can wait for a better answer.
func (i *Issuer) round(ctx context.Context, goesOn bool) (next time.Time, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.goesOn = goesOn; !goesOn {
		i.identity = k8scsr.Identity{}
	}
	i.begins(ctx)
	i.dropLeftovers(ctx)
	begun := i.now()
	next = begun.Add(i.interval)
	if goesOn {
		i.followTrust(ctx, begun)
	}
	var down error // the API cannot be dialled: the next one would fail alike
	for _, n := range i.due(begun, !goesOn) {
		o := &i.outlooks[n]
		if !goesOn {
			i.forget(o)
		} else if i.now().Sub(begun) > roundFor {
			break // the others' time has come too: they are first in the next round
		}
		c := i.certificate(n)
		at, found, err := time.Time{}, []k8scsr.Finding(nil), down
		i.look = under{}
		if down == nil {
			at, found, err = i.advance(ctx, c)
		}
		if ctx.Err() != nil {
			return next, ctx.Err()
		}
		now := i.now()
		tooSoon := o.tooSoon(err, now) && goesOn
		if err == nil {
			o.pace = o.pace.Looked(now, earlier(at, now.Add(i.nextLook())))
		} else {
			f := findingOf(c, err)
			if tooSoon {
				o.pace = k8scsr.Pace{}
				f.Rule, f.Severity = k8scsr.RuleUnknown, k8scsr.Unknown
				f.Remedy = "wait some seconds: an API server that has just started does not know the roles yet; if it stays so, " + f.Remedy
			}
			o.pace = o.pace.Failed(now, askedFor(err), i.chance())
			found = append(found, f)
			if undialled(err) {
				down = err
			}
		}
		o.findings, o.err = found, err
		i.board.looked(c, now, o.pace.NextAt, err)
		i.tell(c, found, i.look.done)
	}
	return i.sum(next)
}

// settling is how long an API server that has just started may refuse what the
// roles allow, since it has not read them yet.
const settling = 5 * time.Second

// tooSoon tells that how a look at now ended does not prove that a right is
// missing: no look worked before, or the API gave no answer at the last one.
func (o *outlook) tooSoon(err error, now time.Time) bool {
	switch {
	case err != nil && !denied(err):
		o.settled, o.deniedAt = o.settled && !Undetermined(err), time.Time{}
		return false
	case err == nil, !o.deniedAt.IsZero() && now.Sub(o.deniedAt) >= settling:
		o.settled = true
	case o.deniedAt.IsZero() || now.Before(o.deniedAt):
		o.deniedAt = now
	}
	if o.settled {
		o.deniedAt = time.Time{}
	}
	return !o.settled
}

// errPanic is a fault of this program, met while it looked at a certificate.
type errPanic struct{ value any }

func (e *errPanic) Error() string {
	return k8scsr.Plain(fmt.Sprintf("a fault of pkiwarden itself: panic: %v", e.value), maxMessage)
}

// contain turns a panic into the error of the certificate whose look met it, so
// that the others are looked at all the same. It is to be deferred.
func (i *Issuer) contain(c *Certificate, err *error) {
	value := recover()
	if value == nil {
		return
	}
	*err = &errPanic{value}
	i.log.Debug("a panic was contained", "certificate", c.Spec.Name, "panic", fmt.Sprint(value), "stack", string(debug.Stack()))
}

// sum reports what all the certificates' last looks left.
func (i *Issuer) sum(next time.Time) (time.Time, error) {
	findings := []k8scsr.Finding{}
	if f := i.booksFinding(); f != nil {
		findings = append(findings, *f)
	}
	var errs []error
	for n := range i.outlooks {
		o := &i.outlooks[n]
		findings = append(findings, o.findings...)
		if o.err != nil {
			errs = append(errs, fmt.Errorf("certificate %q: %w", i.given.At(n).Spec.Name, o.err))
		}
		if o.pace.NextAt.IsZero() { // the round was over before it was looked at
			next = earlier(i.now(), next)
		} else {
			next = earlier(o.pace.NextAt, next)
		}
	}
	slices.SortStableFunc(findings, func(a, b k8scsr.Finding) int {
		return cmp.Or(cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.Rule, b.Rule))
	})
	i.report(findings)
	return next, errors.Join(errs...)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// askedFor is how long the API wants to be left alone.
func askedFor(err error) time.Duration {
	seconds, _ := apierrors.SuggestsClientDelay(err)
	return time.Duration(seconds) * time.Second
}

// undialled tells that no connection to the API could be made, which does not
// depend on what was to be asked.
func undialled(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// roundFor is how long one round takes at most, but for the last certificate: who
// waits for an answer is heard, and what was found is reported, as often.
const roundFor = 5 * time.Second

// begins is what a round begins with: nothing that another one took for known.
func (i *Issuer) begins(ctx context.Context) {
	i.trusts, i.budgets = map[string]trustRead{}, map[string]k8scsr.Budget{}
	i.checkBooks(ctx)
}

// due are the numbers of the certificates to be looked at in a round that begins:
// first those whose requests were answered, then whoever waits the longest; or
// simply all.
func (i *Issuer) due(now time.Time, all bool) []int {
	var answered, due []int
	for n := range i.outlooks {
		o := &i.outlooks[n]
		switch {
		case all:
			due = append(due, n)
		case o.err == nil && i.requestChanged(o):
			answered = append(answered, n)
		case o.pace.Due(now):
			due = append(due, n)
		}
	}
	if !all {
		slices.SortStableFunc(due, func(a, b int) int { return i.outlooks[a].pace.NextAt.Compare(i.outlooks[b].pace.NextAt) })
	}
	return append(answered, due...)
}

// nextLook is how long a certificate is left alone. Where that is longer than the
// interval, chance draws apart those that were looked at together: from three
// quarters of it to five, so that each look reads (see recall).
func (i *Issuer) nextLook() time.Duration {
	if i.lookEvery == i.interval {
		return i.interval
	}
	return i.lookEvery*3/4 + time.Duration(i.chance()*float64(i.lookEvery/2))
}

// awaited is the request that a certificate waits for, and what the watch saw of
// it last.
type awaited struct {
	name string
	seen version // zero: nothing yet
	csr  *certificatesv1.CertificateSigningRequest
}

// largestKept bounds an answer that is kept as the watch saw it. A larger one is
// read when it is looked at.
const largestKept = 128 << 10

// await says which request a certificate waits for; "" for none.
func (i *Issuer) await(label, name string) {
	i.watched.Lock()
	defer i.watched.Unlock()
	switch a := i.awaited[label]; {
	case name == "":
		delete(i.awaited, label)
	case a == nil || a.name != name:
		i.awaited[label] = &awaited{name: name}
	}
}

// noteRequest keeps what the watch saw of a request that is awaited, and tells
// whether it is: anybody may make requests with our labels.
func (i *Issuer) noteRequest(csr *certificatesv1.CertificateSigningRequest) bool {
	i.watched.Lock()
	defer i.watched.Unlock()
	a := i.awaited[csr.Labels[LabelCertificate]]
	if a == nil || a.name != csr.Name {
		return false
	}
	a.seen, a.csr = version{csr.Name, csr.ResourceVersion}, nil
	if csr.Size() <= largestKept {
		a.csr = csr
	}
	return true
}

// requestChanged tells whether the watch saw another version of the request that
// was seen last. What it saw while that look was under way is not lost, since
// the look is compared with it afterwards.
func (i *Issuer) requestChanged(o *outlook) bool {
	if o.seen == nil {
		return false
	}
	i.watched.Lock()
	defer i.watched.Unlock()
	a := i.awaited[o.label]
	return a != nil && a.seen != version{} && a.seen.name == o.seen.name && a.seen != *o.seen
}

// arrived is the request as the watch saw it last, nil where it did not.
func (i *Issuer) arrived(label string) *certificatesv1.CertificateSigningRequest {
	i.watched.Lock()
	defer i.watched.Unlock()
	a := i.awaited[label]
	if a == nil {
		return nil
	}
	csr := a.csr
	a.csr = nil
	return csr
}
