package watch

import (
	"math/big"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
)

// forecastFor is how long a forecast is shown while its list stays the same.
const forecastFor = 10 * time.Minute

// past is what is remembered of former states of a list.
type past struct {
	crl.ListRecord // shared with other instances

	changes crl.Changes // from the last list but one to the last
	counted bool        // changes are known

	added, removed int64 // as far as this process has counted
	counts         bool  // it has

	highest      *big.Int  // CRL number, the highest that was seen
	highestUntil time.Time // when the list that carried it ends

	projection  crl.Projection
	rate        crl.Rate // of revocations
	projectedAt time.Time
}

// remember adds the list that was just read whole to what is remembered of its
// past. mark is that of the list before, with which tally has compared it. The
// caller holds w.mu.
func (w *Watch) remember(m pki.Mount, l *list, mark *crl.Mark, tally *crl.Tally, changed bool) {
	p, s := &l.past, l.full.summary
	if p.Mark != mark {
		// Two have read the list at once, and the other has compared it.
		l.full.settled = false
		return
	}
	changes, counted := tally.Changes(*s)
	sample := p.History.Next(*s, l.full.at, mark, changes, counted)
	p.follow(s, l.full.at)
	added := p.History.Add(sample)
	p.Issuer = l.issuer.Label()
	mine := tally.Mark(*s)
	p.Mark = &mine
	if counted && !changes.Backwards {
		p.added, p.removed, p.counts = p.added+changes.Added, p.removed+changes.Removed, true
	}
	if changed {
		p.changes, p.counted, p.projectedAt = changes, counted, time.Time{}
	}
	if state := w.mounts[m]; state != nil {
		if changed || added {
			state.kept.dirty = true
		}
		if changed && changes.Removed > 0 {
			state.settings.until = time.Time{} // tidy-status explains it
		}
	}
}

// seen remembers that the list is still the current one.
func (w *Watch) seen(m pki.Mount, l *list) {
	if l.past.Mark == nil {
		return
	}
	sample := l.past.History.Next(*l.full.summary, l.full.at, l.past.Mark, crl.Changes{}, true)
	if state := w.mounts[m]; l.past.History.Add(sample) && state != nil {
		state.kept.dirty = true
	}
}

// follow remembers the highest CRL number. After a process has begun anew,
// history knows it.
func (p *past) follow(s *crl.Summary, now time.Time) {
	if s.Number == nil {
		return
	}
	if last, ok := p.History.Latest(); ok && p.highest == nil && last.Number > 0 {
		p.highest, p.highestUntil = big.NewInt(last.Number), last.ThisUpdate.Add(s.NextUpdate.Sub(s.ThisUpdate))
	}
	if p.highest == nil || s.Number.Cmp(p.highest) >= 0 || !now.Before(p.highestUntil) {
		p.highest, p.highestUntil = s.Number, s.NextUpdate
	}
}

// forecast looks ahead anew where the list has changed, or time has passed.
func (p *past) forecast(limit crl.Limit, now time.Time) {
	if !p.projectedAt.IsZero() && now.Sub(p.projectedAt) < forecastFor {
		return
	}
	p.projection, p.rate, p.projectedAt = crl.Forecast(p.History, limit, now), crl.Revocations(p.History, now), now
}
