package watch

import (
	"bytes"
	"math/big"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
)

const (
	// forecastFor is how long a forecast is shown while its list stays the same.
	forecastFor = 10 * time.Minute
	// aheadOf is by how much Vault's clock may be ahead of ours.
	aheadOf = 5 * time.Minute
)

// past is what is remembered of former states of a list.
type past struct {
	crl.ListRecord // shared with other instances

	changes crl.Changes // from the last list but one to the last
	counted bool        // changes are known
	suspect *suspect    // of these, until it is known how tidy works here

	added, removed int64 // as far as this process has counted
	counts         bool  // it has

	highest      *big.Int  // CRL number, the highest that was seen
	highestUntil time.Time // when the list that carried it ends
	twin         *crl.Twin // another list with the number of the last
	setback      *crl.Setback

	projection  crl.Projection
	rate        crl.Rate // of revocations
	projectedAt time.Time
}

// suspect is that entries were removed, perhaps before their time: that is
// decided with the settings that are read after the list was.
type suspect struct {
	before  crl.Mark
	list    crl.Summary
	changes crl.Changes
	at      time.Time // when the list had been read
}

// remember adds the list that was just read whole to what is remembered of its
// past. mark is that of the list before, and loss what was missing from it, with
// which tally has compared it. The caller holds w.mu.
func (w *Watch) remember(m pki.Mount, l *list, mark *crl.Mark, loss *crl.Loss, tally *crl.Tally, changed bool) {
	p, s := &l.past, l.full.summary
	if p.Mark != mark {
		// Two have read the list at once, and the other has compared it.
		l.full.settled = false
		return
	}
	state := w.mounts[m]
	if since, known := tally.Since(*s); known && loss != nil && p.Loss == loss {
		p.Loss = loss.After(since)
	}
	if !p.Loss.Current(w.o.Now()) {
		p.Loss = nil
	}
	if p.Loss != loss && state != nil {
		state.kept.dirty = true
	}
	changes, counted := tally.Changes(*s)
	if p.setback = nil; counted {
		p.setback = crl.NewSetback(*mark, *s, changes)
	}
	sample := p.History.Next(*s, l.full.at, mark, changes, counted)
	p.follow(s, l.full.at)
	added := p.History.Add(sample)
	p.Issuer = l.issuer.Label()
	p.spot(s, l.full.at)
	// An old list that is served in place of a newer one is nothing to compare
	// the next one with: what got lost in between would not be seen. But for a
	// list from a future that was none.
	if mine := tally.Mark(*s); !counted || !changes.Backwards || time.Unix(mark.ThisUpdate, 0).After(l.full.at.Add(aheadOf)) {
		p.Mark = &mine
	}
	if counted && !changes.Backwards {
		p.added, p.removed, p.counts = p.added+changes.Added, p.removed+changes.Removed, true
	}
	if changed {
		p.changes, p.counted, p.projectedAt = changes, counted, time.Time{}
	}
	if state != nil {
		if changed || added {
			state.kept.dirty = true
		}
		if c := state.settings.config; changed && c != nil && c.Disabled {
			state.settings.until = time.Time{} // of a disabled list there is none
		}
		if changed && counted && !changes.Backwards && changes.Removed > 0 {
			now := w.o.Now()
			p.suspect = p.suspect.or(&suspect{before: *mark, list: *s, changes: changes, at: now})
			// tidy-status explains it, and that of many lists at once.
			state.settings.until = time.Time{}
			if soon := now.Add(w.o.Interval / 6); soon.Before(state.due) {
				state.due = soon
			}
		}
	}
}

// or is the suspect that says more, where one waits already: that of which more
// is gone.
func (s *suspect) or(other *suspect) *suspect {
	if s != nil && s.changes.Removed > other.changes.Removed {
		return s
	}
	return other
}

// judge decides whether what was removed from a list was removed early, given
// the smallest safety buffer by which a tidy may have gone since an instant, and
// whether it is known that there was none since, as Vault told when it was asked.
// What was found before stays, unless this is more.
func (p *past) judge(asked time.Time, buffer func(since time.Time) time.Duration, untidied func(since time.Time) bool) (found bool) {
	if p.suspect == nil || asked.Before(p.suspect.at) {
		return false
	}
	s := p.suspect
	p.suspect = nil
	since := time.Unix(s.before.ThisUpdate, 0)
	loss := crl.NewLoss(s.before, s.list, s.changes, buffer(since), s.at)
	if loss == nil && untidied(since) {
		loss = crl.NewUntidied(s.before, s.list, s.changes, s.at)
	}
	if !loss.Exceeds(p.Loss) {
		return false
	}
	p.Loss = loss
	return true
}

// seen remembers that the list is still the current one.
func (w *Watch) seen(m pki.Mount, l *list) {
	if l.past.Mark == nil {
		return
	}
	l.past.spot(l.full.summary, l.full.at)
	// An old list that is served again is not the one that the mark is of.
	older := crl.Changes{Backwards: l.past.Mark.ThisUpdate > l.full.summary.ThisUpdate.Unix()}
	sample := l.past.History.Next(*l.full.summary, l.full.at, l.past.Mark, older, true)
	if state := w.mounts[m]; l.past.History.Add(sample) && state != nil {
		state.kept.dirty = true
	}
}

// spot remembers that the list is there at an instant.
func (p *past) spot(s *crl.Summary, at time.Time) {
	p.Sight = crl.Sight{Seen: at.Unix()}
	if !s.NextUpdate.IsZero() {
		p.Sight.NextUpdate = s.NextUpdate.Unix()
	}
}

// follow remembers the highest CRL number. After a process has begun anew,
// history knows it.
func (p *past) follow(s *crl.Summary, now time.Time) {
	if s.Number == nil {
		return
	}
	if last, ok := p.History.Latest(); ok && p.highest == nil && last.Number > 0 {
		former := crl.Summary{Number: big.NewInt(last.Number), ThisUpdate: last.ThisUpdate, NextUpdate: last.ThisUpdate.Add(s.NextUpdate.Sub(s.ThisUpdate))}
		p.highest, p.highestUntil = former.Number, former.NextUpdate
		if !former.ThisUpdate.Equal(s.ThisUpdate) {
			p.meet(&former, s)
		}
	}
	if p.highest == nil || s.Number.Cmp(p.highest) >= 0 || !now.Before(p.highestUntil) {
		p.highest, p.highestUntil = s.Number, s.NextUpdate
	}
}

// meet remembers a list that was replaced by another one with its number.
func (p *past) meet(former, s *crl.Summary) {
	if former == nil || former.Number == nil || s.Number == nil || former.Number.Cmp(s.Number) != 0 {
		return
	}
	if former.Digest != nil && bytes.Equal(former.Digest, s.Digest) {
		return // signed anew
	}
	// Of two that are served in turns, the one that is valid for longer.
	if t := p.twin; t == nil || t.Number.Cmp(s.Number) != 0 || former.NextUpdate.After(t.NextUpdate) {
		p.twin = &crl.Twin{Number: former.Number, ThisUpdate: former.ThisUpdate, NextUpdate: former.NextUpdate}
	}
}

// forecast looks ahead anew where the list has changed, or time has passed.
func (p *past) forecast(limit crl.Limit, now time.Time) {
	if !p.projectedAt.IsZero() && now.Sub(p.projectedAt) < forecastFor {
		return
	}
	p.projection, p.rate, p.projectedAt = crl.Forecast(p.History, limit, now), crl.Revocations(p.History, now), now
}
