package watch

import (
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
)

// Status is what is known of one mount that is watched.
type Status struct {
	Mount  pki.Mount
	Listed bool  // its issuers have been listed, ever: without it Lists says nothing
	Err    error // of the last attempt to list them; nil: it worked, or there was none
	Lists  []ListStatus
}

// ListStatus is what is known of one list. Without MeasuredAt nothing of it was
// measured yet. Times that are not known are zero.
type ListStatus struct {
	Issuer     string
	CannotSign bool  // there is no list, and is to be none
	Err        error // why the last attempt did not measure it; nil: it did. What is below is then older
	MeasuredAt time.Time
	Bytes      int64
	Limit      int64 // in bytes; 0: there is none, or it is not known, and Rule says which
	Rule       string
	Entries    int64
	ThisUpdate time.Time
	NextUpdate time.Time

	LimitReachedAt time.Time // as forecast
	Forecast       string    // what the forecast rests on, or why there is none; "" where none was made
	Headroom       *float64  // how often the whole fleet could be revoked; nil: not known
}

// Status is all that is known at this moment, by the mounts' names. It makes no
// request and waits for none.
func (w *Watch) Status() []Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []Status
	for _, m := range w.ordered() {
		state := w.mounts[m]
		s := Status{Mount: m, Listed: state.listed, Err: state.err}
		for _, l := range state.lists {
			s.Lists = append(s.Lists, w.statusOf(m, state, l))
		}
		all = append(all, s)
	}
	return all
}

// statusOf is that of one list. The caller holds w.mu.
func (w *Watch) statusOf(m pki.Mount, state *mountState, l *list) ListStatus {
	s := ListStatus{Issuer: l.issuer.Label(), CannotSign: l.cannotSign || l.none(), Err: l.full.err}
	if s.CannotSign {
		s.Err = nil
	}
	summary := l.full.summary
	if summary == nil {
		return s
	}
	limit := w.limitOf(state)
	s.MeasuredAt, s.Bytes, s.Entries = l.full.at, summary.Bytes, summary.Entries
	s.ThisUpdate, s.NextUpdate = summary.ThisUpdate, summary.NextUpdate
	s.Limit, s.Rule = max(limit.MaxBytes, 0), limit.Rule
	p := l.past.projection
	s.LimitReachedAt, s.Forecast = p.LimitReachedAt, p.Why
	if s.Forecast == "" {
		s.Forecast = p.Basis
	}
	s.Headroom = w.observe(m, state, l).Headroom
	return s
}
