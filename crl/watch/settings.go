package watch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
)

const (
	// settingsFor is how long what explains a mount's lists is taken to hold.
	settingsFor = 10 * time.Minute
	// usageFor is how long an issuer's usage, or that it may not be read, is.
	usageFor = time.Hour
	// buffersKept is how many different safety buffers are remembered of a mount.
	buffersKept = 16
)

// settings are what Vault says about a mount's lists, where it may be read.
type settings struct {
	readAt time.Time
	until  time.Time       // when to read them anew
	config *pki.CRLConfig  // nil: not known
	status *pki.TidyStatus // nil: not known
	auto   *pki.AutoTidy   // nil: not known

	count   int64     // of revocations, as Vault counts them
	countAt time.Time // zero: there is none to be trusted
	drift   int64     // see drifted
	surplus int       // for how many readings in a row the lists held more
}

// usage is whether Vault's own usage of an issuer lets it sign lists.
type usage struct {
	askedAt   time.Time
	forbidden bool
}

// readSettings reads a mount's config/crl and tidy-status, about every ten
// minutes. A right that the policy lacks leaves unknown what it hides; whoever
// needs it says so.
func (w *Watch) readSettings(ctx context.Context, m pki.Mount, state *mountState) error {
	w.mu.Lock()
	asked := w.o.Now()
	fresh := asked.Before(state.settings.until)
	w.mu.Unlock()
	if fresh {
		return nil
	}
	var read settings
	var denied *pki.PermissionError
	var refused *pki.RefusedError // a version without the path
	unknown := func(err error) bool {
		return !w.tokenless(err) && errors.As(err, &denied) || errors.As(err, &refused)
	}
	if c, err := w.o.Vault.CRLConfig(ctx, m); err == nil {
		read.config = &c
	} else if !unknown(err) {
		return fmt.Errorf("explaining the CRLs of mount %s: %w", m.Name(), err)
	}
	if a, err := w.o.Vault.AutoTidy(ctx, m); err == nil {
		read.auto = &a
	} else if !unknown(err) {
		return fmt.Errorf("explaining the CRLs of mount %s: %w", m.Name(), err)
	}
	if s, err := w.o.Vault.TidyStatus(ctx, m); err == nil {
		read.status = &s
	} else if !unknown(err) {
		return fmt.Errorf("explaining the CRLs of mount %s: %w", m.Name(), err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	read.readAt = w.o.Now()
	read.until = state.slot(read.readAt.Add(settingsFor/2), settingsFor)
	state.compareCounts(&read)
	if s := read.status; s != nil && s.TooLarge != nil && s.FinishedAt.After(state.refusal.at) {
		state.refusal = refusal{s.TooLarge, s.FinishedAt} // by a tidy, whoever asked for it
	}
	state.settings = read
	state.noteBuffers(w.o.Tidy)
	state.noteTidy()
	for _, l := range state.lists {
		if l.past.judge(asked, func(since time.Time) time.Duration { return state.buffer(w.o.Tidy, since) }, state.untidied) {
			state.kept.dirty = true
			if c := read.config; c == nil || !c.Disabled {
				w.logLoss(m, l)
			}
		}
		if l.past.suspect != nil { // it was read while Vault was asked
			state.settings.until = time.Time{}
		}
	}
	return nil
}

func (w *Watch) logLoss(m pki.Mount, l *list) {
	loss := l.past.Loss
	if loss.Untidied {
		w.o.Log.Warn("entries were removed from a CRL, and no tidy is known", "mount", m.Name(), "issuer", l.issuer.Label(),
			"missing", loss.Missing, "removed", loss.Removed, "entries_before", loss.Before.Entries)
		return
	}
	w.o.Log.Warn("entries were removed from a CRL before their time", "mount", m.Name(), "issuer", l.issuer.Label(),
		"missing", loss.Missing, "removed", loss.Removed, "safety_buffer", time.Duration(loss.Buffer)*time.Second, "assumed", loss.Assumed)
}

// buffersNow are the safety buffers by which a tidy that removes revocations may
// go, as far as is known: that of the run that tidy-status tells of, that of the
// mount's auto-tidy, and pkiwarden's own.
func (s *mountState) buffersNow(own Tidying) map[time.Duration]time.Time {
	buffers := map[time.Duration]time.Time{}
	now := s.settings.readAt
	if t := s.settings.status; t != nil && !t.StartedAt.IsZero() && t.RevokedCerts && t.SafetyBuffer > 0 {
		buffers[t.SafetyBuffer] = now
		if !t.FinishedAt.IsZero() {
			buffers[t.SafetyBuffer] = t.FinishedAt
		}
	}
	if a := s.settings.auto; a != nil && a.Enabled && a.RevokedCerts && a.SafetyBuffer > 0 {
		buffers[a.SafetyBuffer] = now
	}
	if own.Every > 0 && own.SafetyBuffer > 0 {
		buffers[own.SafetyBuffer] = now
	}
	return buffers
}

// noteBuffers remembers until when each was in force: tidy-status tells of the
// last run alone, and forgets it when Vault restarts.
func (s *mountState) noteBuffers(own Tidying) {
	if s.buffers == nil {
		s.buffers = map[time.Duration]time.Time{}
	}
	for buffer, until := range s.buffersNow(own) {
		if until.After(s.buffers[buffer]) {
			s.buffers[buffer] = until
		}
	}
	for len(s.buffers) > buffersKept {
		var oldest time.Duration
		for buffer, until := range s.buffers {
			if at, found := s.buffers[oldest]; !found || until.Before(at) {
				oldest = buffer
			}
		}
		delete(s.buffers, oldest)
	}
}

// buffer is the smallest safety buffer that a tidy since an instant may have
// gone by, as far as is known; 0 where none is. A list is dated when it is done:
// what tidy did while it was being built is after it.
func (s *mountState) buffer(own Tidying, since time.Time) time.Duration {
	const building = time.Hour
	var smallest time.Duration
	consider := func(buffer time.Duration) {
		if smallest == 0 || buffer < smallest {
			smallest = buffer
		}
	}
	for buffer := range s.buffersNow(own) {
		consider(buffer)
	}
	for buffer, until := range s.buffers {
		if !until.Before(since.Add(-building)) {
			consider(buffer)
		}
	}
	return smallest
}

// noteTidy remembers when a tidy was last on: Vault forgets it when it restarts.
func (s *mountState) noteTidy() {
	now := s.settings.readAt
	if a := s.settings.auto; a != nil && a.Enabled {
		s.autoTidyAt = now
	}
	t := s.settings.status
	if t == nil || t.StartedAt.IsZero() {
		return
	}
	at := t.StartedAt
	switch {
	case t.State.Active():
		at = now
	case t.FinishedAt.After(at):
		at = t.FinishedAt
	}
	const ahead = time.Hour // Vault's clock: one that is further ahead would explain anything
	if unix := at.Unix(); at.Before(now.Add(ahead)) && unix > s.kept.record.TidiedAt {
		s.kept.record.TidiedAt, s.kept.dirty = unix, true
	}
}

// untidied tells whether it is known that no tidy ran since an instant, but for
// what Vault has forgotten: whoever asked for it, and whatever it was to remove.
func (s *mountState) untidied(since time.Time) bool {
	// A list is dated when its entries have been read, which takes a while.
	const reading = 15 * time.Minute
	t := s.settings.status
	if t == nil || s.settings.auto == nil || s.settings.auto.Enabled || t.State.Active() {
		return false
	}
	since = since.Add(-reading)
	if !t.StartedAt.Before(since) || !t.FinishedAt.Before(since) {
		return false // whatever Vault's clock shows: since is by the same
	}
	return s.autoTidyAt.Before(since) && time.Unix(s.kept.record.TidiedAt, 0).Before(since)
}

// compareCounts holds Vault's own count of revocations, where it keeps one that
// it trusts, against what the mount's lists hold. Both change all the time, so
// what was counted minutes ago and is in no list read since is missing; and
// what the lists hold above the count at two readings in a row is too much.
// Revoked issuers are listed without being counted.
//
// The count comes from maintain_stored_certificate_counts, is kept in 32 bits
// without a sign, and may wrap below zero (builtin/logical/pki/metrics.go).
func (s *mountState) compareCounts(read *settings) {
	const wrapped = 1 << 31
	was := s.settings
	status := read.status
	if status == nil || status.RevokedCount == nil || status.CountingError != "" || *status.RevokedCount >= wrapped || status.State.Active() {
		return
	}
	read.count, read.countAt = *status.RevokedCount, read.readAt
	listed, slack, known := s.listedEntries(*read)
	if !known {
		return
	}
	if read.count < listed-slack {
		if read.surplus = was.surplus + 1; read.surplus > 1 {
			read.drift = read.count - listed
		}
		return
	}
	if was.countAt.IsZero() || was.status == nil || !was.status.StartedAt.Equal(status.StartedAt) {
		return // tidy has changed the count since
	}
	read.drift = max(0, was.count-listed)
	if read.readAt.Sub(was.countAt) < settingsFor/2 { // too soon: a list may be on its way
		read.drift, read.count, read.countAt = 0, was.count, was.countAt
	}
}

// listedEntries is what the lists of the mount hold together, and how many of
// these need not be counted. It is known where each was read since the last
// look, and none is expected to lag behind.
func (s *mountState) listedEntries(read settings) (n, slack int64, known bool) {
	if !s.listed || s.keyless || len(s.lists) == 0 || read.config == nil || read.config.Disabled {
		return 0, 0, false
	}
	for _, l := range s.lists {
		if l.cannotSign || l.full.summary == nil || l.full.err != nil || !l.full.at.After(s.settings.countAt) {
			return 0, 0, false
		}
		if read.config.AutoRebuild && !l.overdue(*read.config, read.readAt) {
			return 0, 0, false // what is missing is to come by itself
		}
		n += l.full.summary.Entries
		slack += int64(l.issuers)
	}
	return n, slack, true
}

// overdue tells whether a mount that rebuilds by time should have rebuilt the
// list by now: it does so a grace period before the expiry.
func (l *list) overdue(c pki.CRLConfig, now time.Time) bool {
	const late = time.Hour
	return c.Expiry > c.GracePeriod && now.Sub(l.full.summary.ThisUpdate) > c.Expiry-c.GracePeriod+late
}

// readUsage asks why an issuer has no list, or an old one: Vault skips issuers
// whose usage does not include crl-signing. It is asked once an hour, and only
// where there is something to explain.
func (w *Watch) readUsage(ctx context.Context, m pki.Mount, l *list) {
	w.mu.Lock()
	now := w.o.Now()
	s := l.full.summary
	odd := l.none() || s != nil && !s.NextUpdate.IsZero() && s.NextUpdate.Sub(now) < s.NextUpdate.Sub(s.ThisUpdate)/6
	asked := now.Sub(l.usage.askedAt) < usageFor && !l.usage.askedAt.IsZero()
	if !odd {
		l.usage = usage{}
	}
	issuer := l.issuer.ID
	w.mu.Unlock()
	if !odd || asked {
		return
	}
	may, err := w.o.Vault.MaySignCRLs(ctx, m, issuer)
	if ctx.Err() != nil || w.tokenless(err) {
		return
	}
	w.mu.Lock()
	l.usage = usage{askedAt: now, forbidden: err == nil && !may}
	w.mu.Unlock()
}

// refusal is that Vault could not store a list that it built, and when.
type refusal struct {
	err error
	at  time.Time
}

// NoteRefused tells what Vault's answer to rebuilding the lists of a mount was:
// nil, or an error. One wrapping [pki.TooLargeError] is a finding until lists
// are measured that were built later, or until the next answer. What tidy says
// of the same kind is read from tidy-status.
func (w *Watch) NoteRefused(m pki.Mount, err error) {
	var tooLarge *pki.TooLargeError
	w.mu.Lock()
	defer w.mu.Unlock()
	state := w.mounts[m]
	switch {
	case state == nil:
	case err == nil:
		state.refusal = refusal{}
	case errors.As(err, &tooLarge):
		state.refusal = refusal{tooLarge, w.o.Now()}
	}
}

// refused is the refusal that the list still suffers from.
func (s *mountState) refused(l *list) error {
	if s.refusal.err == nil || l.full.summary != nil && l.full.summary.ThisUpdate.After(s.refusal.at) {
		return nil
	}
	return s.refusal.err
}

// tidying is how the mount is tidied: by pkiwarden, else by itself, else, as far
// as is known, not at all.
func (s settings) tidying(own Tidying) Tidying {
	if own.Every == 0 && s.auto != nil && s.auto.Enabled && s.auto.RevokedCerts {
		return Tidying{SafetyBuffer: s.auto.SafetyBuffer, Every: s.auto.Interval}
	}
	return own
}
