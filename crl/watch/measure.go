package watch

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
)

// wholeEvery is how often a list is read whole although Vault says each time
// that it has not changed. Vault's time of the last change is one for all lists
// of the mount, and is not written down when a build fails halfway.
const wholeEvery = time.Hour

// reading is what is known of what one endpoint serves: a list or a delta.
type reading struct {
	summary *crl.Summary // nil before the first whose signature was right
	at      time.Time    // when it was last known to be the current one
	wholeAt time.Time    // when it was last read whole
	settled bool         // it was the same when it was last read whole
	err     error        // of the last attempt
}

// since is what to name in a conditional request, zero for none.
//
// The last change in Vault's eyes is the instant before it began to build the
// last list of the mount, that in a list's thisUpdate comes after it: so a
// second after thisUpdate is later than the build that made this list. A build
// that begins within that second would be missed. Therefore a list is read
// whole once more after it has changed, before the first conditional request.
func (r *reading) since(now time.Time) time.Time {
	if r.summary == nil || !r.settled || r.err != nil || now.Sub(r.wholeAt) >= wholeEvery || now.Before(r.wholeAt) {
		return time.Time{}
	}
	return r.summary.ThisUpdate.Add(time.Second)
}

// accept remembers a list that was asked for at an instant, unless a later
// answer is there already, and tells whether it did and whether the list is
// another one than before.
func (r *reading) accept(s *crl.Summary, at time.Time) (accepted, changed bool) {
	if r.at.After(at) {
		return false, false
	}
	changed = r.summary == nil || !sameList(r.summary, s)
	*r = reading{summary: s, at: at, wholeAt: at, settled: !changed}
	return true, changed
}

// confirm is accept for an answer that says that s is still the list.
func (r *reading) confirm(s *crl.Summary, at time.Time) (accepted bool) {
	accepted = r.summary == s && !r.at.After(at)
	if accepted {
		r.at, r.err = at, nil
	}
	return accepted
}

func sameList(a, b *crl.Summary) bool {
	return a.ThisUpdate.Equal(b.ThisUpdate) && a.Bytes == b.Bytes && string(a.Digest) == string(b.Digest)
}

// measure brings what is known of a list, and of its delta where there is one,
// up to date. whole asks for all of it, whether or not it has changed.
func (w *Watch) measure(ctx context.Context, m pki.Mount, l *list, whole bool) error {
	err := w.measureFull(ctx, m, l, whole)
	if err == nil {
		err = w.measureDelta(ctx, m, l)
	}
	if ctx.Err() == nil {
		w.readUsage(ctx, m, l)
	}
	return err
}

func (w *Watch) measureFull(ctx context.Context, m pki.Mount, l *list, whole bool) error {
	w.mu.Lock()
	issuer, known, mark, loss := l.issuer, l.full.summary, l.past.Mark, l.past.Loss
	startedAt := w.o.Now()
	since := l.full.since(startedAt)
	if state := w.mounts[m]; whole || state == nil || !state.conditional {
		since = time.Time{}
	}
	w.mu.Unlock()

	tally := crl.NewTally(mark, chance())
	if loss != nil {
		tally.Against(&loss.Before)
	}
	s, err := w.read(ctx, m, issuer, pki.CRLRequest{IssuerID: issuer.ID, Form: w.o.Fetch, IfModifiedSince: since}, tally)
	if err == nil && s.Delta() {
		err = fmt.Errorf("measuring CRL of %s: it is a delta CRL", subject(m, issuer))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case errors.Is(err, pki.ErrNotModified) && !since.IsZero():
		if l.full.confirm(known, startedAt) {
			w.seen(m, l)
		}
	case err != nil:
		return err
	default:
		former := l.full.summary
		accepted, changed := l.full.accept(s, startedAt)
		if changed {
			l.past.meet(former, s)
		}
		if accepted {
			w.remember(m, l, mark, loss, tally, changed)
		}
		if changed {
			w.logChange(m, l)
		}
	}
	limit := w.limit
	if state := w.mounts[m]; state != nil {
		limit = w.limitOf(state)
	}
	l.past.forecast(limit, w.o.Now())
	return nil
}

// chance is a key that nobody can guess.
func chance() (key [16]byte) {
	_, _ = rand.Read(key[:]) // never fails
	return key
}

// read fetches what q asks for, whole, and verifies it.
func (w *Watch) read(ctx context.Context, m pki.Mount, i pki.Issuer, q pki.CRLRequest, tally *crl.Tally) (*crl.Summary, error) {
	fail := func(err error) (*crl.Summary, error) {
		what := "CRL"
		if q.Delta {
			what = "delta CRL"
		}
		return nil, fmt.Errorf("measuring %s of %s: %w", what, subject(m, i), err)
	}
	body, err := w.o.Vault.CRL(ctx, m, q)
	if err != nil {
		return fail(err)
	}
	defer body.Close()
	o := crl.Options{MaxBytes: w.o.MaxBytes, Tally: tally}
	if w.o.Spool != nil {
		spool, free := w.o.Spool()
		defer free()
		o.Spool = spool
	}
	summary, err := crl.Scan(body, o)
	if err != nil {
		return fail(fmt.Errorf("scanning CRL: %w", err))
	}
	if err := summary.Verify(i.Certificate); err != nil {
		return fail(err)
	}
	return &summary, nil
}

// ended tells whether what was read has passed its nextUpdate.
func (r *reading) ended(now time.Time) bool {
	return r.summary != nil && !r.summary.NextUpdate.IsZero() && !now.Before(r.summary.NextUpdate)
}

// measureDelta reads the delta CRL where the mount makes them. They have no
// series of their own, since a series is named by mount and issuer alone:
// findings and log tell of them.
func (w *Watch) measureDelta(ctx context.Context, m pki.Mount, l *list) error {
	w.mu.Lock()
	startedAt := w.o.Now()
	state := w.mounts[m]
	wanted := state != nil && state.settings.config != nil && state.settings.config.EnableDelta
	if state != nil && state.settings.config == nil && !state.settings.readAt.IsZero() {
		// It may not be read whether there are any: Vault then shows one, or none.
		wanted = startedAt.Sub(l.delta.at) >= wholeEvery || l.delta.ended(startedAt)
	}
	if !wanted {
		if state == nil || state.settings.config != nil {
			l.delta = reading{}
		}
		w.mu.Unlock()
		return nil
	}
	issuer, known := l.issuer, l.delta.summary
	var since time.Time
	if state.conditional {
		since = l.delta.since(startedAt)
	}
	w.mu.Unlock()

	q := pki.CRLRequest{IssuerID: issuer.ID, Form: w.o.Fetch, Delta: true, IfModifiedSince: since}
	s, err := w.read(ctx, m, issuer, q, nil)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	w.mu.Lock()
	if err == nil && ahead(s, l.full.summary) {
		// Perhaps the list was rebuilt between the two requests.
		w.mu.Unlock()
		if err := w.measureFull(ctx, m, l, true); err != nil {
			return err
		}
		w.mu.Lock()
	}
	defer w.mu.Unlock()
	switch {
	case errors.Is(err, pki.ErrNotModified) && !since.IsZero():
		l.delta.confirm(known, startedAt)
	case errors.Is(err, pki.ErrNoCRL):
		l.delta = reading{at: startedAt}
	case err != nil:
		l.delta.err = err
	default:
		if _, changed := l.delta.accept(s, startedAt); changed {
			w.o.Log.Info("delta CRL measured", "mount", m.Name(), "issuer", l.issuer.Label(), "bytes", s.Bytes, "entries", s.Entries,
				"number", number(s.Number), "base_number", number(s.BaseNumber), "this_update", s.ThisUpdate)
		}
	}
	return nil
}

// ahead tells whether a delta has a base that is newer than the full list.
func ahead(delta, full *crl.Summary) bool {
	return full != nil && full.Number != nil && delta.BaseNumber != nil && delta.BaseNumber.Cmp(full.Number) > 0
}

func number(n *big.Int) string {
	if n == nil {
		return "none"
	}
	return n.String()
}

// logChange says that Vault has built a new list. The caller holds w.mu.
func (w *Watch) logChange(m pki.Mount, l *list) {
	s := l.full.summary
	attributes := []any{
		"mount", m.Name(), "issuer", l.issuer.Label(), "bytes", s.Bytes, "entries", s.Entries, "this_update", s.ThisUpdate,
	}
	if s.NextUpdate.IsZero() {
		attributes = append(attributes, "next_update", "none")
	} else {
		attributes = append(attributes, "next_update", s.NextUpdate)
	}
	if l.past.counted {
		attributes = append(attributes, "added", l.past.changes.Added, "removed", l.past.changes.Removed)
	}
	if w.limit.MaxBytes > 0 {
		attributes = append(attributes, "limit_bytes", w.limit.MaxBytes)
	}
	level := slog.LevelInfo
	if w.mounts[m] == nil && !w.told.changed(m, l.issuer, s) {
		level = slog.LevelDebug
	}
	w.o.Log.Log(context.Background(), level, "CRL measured", attributes...)
}

// told is which list of each issuer was last told of, of mounts of which
// nothing else is remembered: every measurement of theirs looks like a new list.
type told map[toldList]string

type toldList struct {
	mount  pki.Mount
	issuer string // ID
}

// changed tells whether the list is another one than was last told of.
func (t told) changed(m pki.Mount, i pki.Issuer, s *crl.Summary) bool {
	key, now := toldList{m, i.ID}, fmt.Sprint(s.ThisUpdate.Unix(), s.Bytes, s.Digest)
	if t[key] == now {
		return false
	}
	t[key] = now
	return true
}

func subject(m pki.Mount, i pki.Issuer) string {
	return fmt.Sprintf("mount %s, issuer %s", m.Name(), i.Label())
}
