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

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

// outlook is what the last look at one certificate left.
type outlook struct {
	pace     k8scsr.Pace
	findings []k8scsr.Finding
	err      error         // of the last look; nil: it worked
	seen     version       // of the request that it waits for
	period   time.Duration // from one renewal to the next, as was granted; 0 where that is not known

	settled  bool      // an answer of the API can be taken as it is; see tooSoon
	deniedAt time.Time // for the first time before that

	about corev1.ObjectReference     // what its events are about
	done  []k8scsr.Event             // of the steps of the look under way
	said  map[k8scsr.Event]time.Time // of the findings, and when

	// decided is told each step with what it was decided from: the Spec with the
	// names drawn from objects, and what was observed at now. Nil: nobody is.
	decided func(want k8scsr.Spec, s k8scsr.State, step k8scsr.Step, now time.Time)
}

// version is one version of one request.
type version struct{ name, resourceVersion string }

// Once brings every certificate as far as it goes now, whether its time has come
// or not. It returns when to look again, at most Options.Interval away. One
// certificate that fails does not stop the others; their errors are joined. The
// findings of all are reported.
func (i *Issuer) Once(ctx context.Context) (next time.Time, err error) {
	return i.round(ctx, false, func(*Certificate, *outlook) bool { return true })
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
	return i.round(ctx, true, func(c *Certificate, o *outlook) bool {
		return o.pace.Due(i.now()) || o.err == nil && i.requestChanged(c, o.seen)
	})
}

// round looks at those that are due. One that goes on, unlike one that is alone,
// can wait for a better answer.
func (i *Issuer) round(ctx context.Context, goesOn bool, due func(*Certificate, *outlook) bool) (next time.Time, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.identity = k8scsr.Identity{}
	i.checkBooks(ctx)
	i.dropLeftovers(ctx)
	next = i.now().Add(i.interval)
	var down error // the API cannot be dialled: the next one would fail alike
	for _, c := range i.certificates {
		o := i.outlooks[c.label]
		if !due(c, o) {
			continue
		}
		at, found, err := time.Time{}, []k8scsr.Finding(nil), down
		if down == nil {
			at, found, err = i.advance(ctx, c)
		}
		if ctx.Err() != nil {
			return next, ctx.Err()
		}
		now := i.now()
		tooSoon := o.tooSoon(err, now) && goesOn
		if err == nil {
			o.pace = o.pace.Looked(now, earlier(at, now.Add(i.interval)))
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
		i.tell(o, o.done)
		o.done = nil
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
	for _, c := range i.certificates {
		o := i.outlooks[c.label]
		findings = append(findings, o.findings...)
		if o.err != nil {
			errs = append(errs, fmt.Errorf("certificate %q: %w", c.Spec.Name, o.err))
		}
		next = earlier(o.pace.NextAt, next)
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

// noteRequest keeps the last version of a certificate's request that the watch
// saw.
func (i *Issuer) noteRequest(label string, v version) {
	i.watched.Lock()
	defer i.watched.Unlock()
	if i.versions == nil {
		i.versions = map[string]version{}
	}
	if _, ours := i.outlooks[label]; ours { // anybody may make requests with labels
		i.versions[label] = v
	}
}

// requestChanged tells whether the watch saw another version of the request that
// was seen last. What it saw while that look was under way is not lost, since
// the look is compared with it afterwards.
func (i *Issuer) requestChanged(c *Certificate, seen version) bool {
	i.watched.Lock()
	defer i.watched.Unlock()
	last := i.versions[c.label]
	return seen.name != "" && last.name == seen.name && last != seen
}
