package watch

import (
	"cmp"
	"errors"
	"maps"
	"slices"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
)

// Findings are the verdicts on what is remembered, as of now.
func (w *Watch) Findings() []crl.Finding {
	w.mu.Lock()
	defer w.mu.Unlock()
	found := w.vaultFindings()
	if w.asked && (w.limit.Known || !w.loggedOut()) {
		if f, ok := crl.LimitFinding(w.limit); ok {
			found = append(found, f)
		}
	}
	now := w.o.Now()
	missed := func(all map[string]crl.Vanished) {
		for _, subject := range slices.Sorted(maps.Keys(all)) {
			found = append(found, crl.Findings(crl.Observation{Subject: subject, Vanished: new(all[subject])}, w.o.Thresholds, now)...)
		}
	}
	missed(w.observeGone())
	for _, m := range w.ordered() {
		state := w.mounts[m]
		found = append(found, crl.Findings(state.observe(m, w.own(state.err)), w.o.Thresholds, now)...)
		for _, l := range state.lists {
			o := w.observe(m, state, l)
			found = append(found, crl.Findings(o, w.o.Thresholds, now)...)
			if delta, ok := w.observeDelta(o, state, l); ok {
				found = append(found, crl.Findings(delta, w.o.Thresholds, now)...)
			}
		}
		missed(state.observeReleased(now))
	}
	return found
}

// vaultFindings are those on finding mounts at all.
func (w *Watch) vaultFindings() []crl.Finding {
	err := w.away
	if err == nil {
		err = w.own(w.walkErr)
	}
	verdicts := func(o crl.Observation) []crl.Finding { return crl.Findings(o, w.o.Thresholds, w.o.Now()) }
	found := verdicts(crl.Observation{Subject: "Vault", Err: err, Unwatched: w.unwatched(cmp.Or(w.away, w.walkErr)), MountsErr: w.sightingsErr()})
	for _, name := range slices.Sorted(maps.Keys(w.namespaces)) {
		n, subject := w.namespaces[name], "Vault"
		if name != "" {
			subject = "namespace " + name
		}
		found = append(found, verdicts(crl.Observation{Subject: subject, Err: w.own(n.err)})...)
		for _, r := range n.refused {
			found = append(found, verdicts(crl.Observation{Subject: "mount " + r.Name, MountRefused: r.Reason})...)
		}
	}
	return found
}

// loggedOut tells whether Vault does not take our token.
func (w *Watch) loggedOut() bool { return w.o.LoggedOut != nil && w.o.LoggedOut() }

// tokenless tells whether err is that of a token which Vault does not take. Not
// every version says so in its answer.
func (w *Watch) tokenless(err error) bool {
	var denied *pki.PermissionError
	return w.o.LoggedOut != nil && errors.As(err, &denied) && (denied.InvalidToken || w.o.LoggedOut())
}

// own is err unless all of Vault is away, or our token is bad, which is one
// finding and not many.
func (w *Watch) own(err error) error {
	var redirect *pki.RedirectError
	if w.tokenless(err) {
		return nil
	}
	if w.away != nil && (errors.Is(err, pki.ErrUnreachable) || errors.Is(err, pki.ErrSealed) || errors.Is(err, pki.ErrNoActiveNode) || errors.As(err, &redirect)) {
		return nil
	}
	return err
}

func (s *mountState) observe(m pki.Mount, err error) crl.Observation {
	return crl.Observation{
		Subject: "mount " + m.Name(), Err: err, HistoryErr: s.kept.err, HistoryLeft: s.kept.left, Drift: s.settings.drift,
		CRLDisabled: s.settings.config != nil && s.settings.config.Disabled,
	}
}

func (w *Watch) observe(m pki.Mount, state *mountState, l *list) crl.Observation {
	o := crl.Observation{
		Subject:      subject(m, l.issuer),
		List:         l.full.summary,
		MeasuredAt:   l.full.at,
		Err:          w.own(l.full.err),
		CannotSign:   l.cannotSign,
		UsageForbids: l.usage.forbidden,
		Issuers:      l.issuers,
		Limit:        w.limitOf(state),
		MaxBytes:     w.o.MaxBytes,
		Refused:      state.refused(l),
		Projection:   l.past.projection,
		Highest:      l.past.highest,
		HighestUntil: l.past.highestUntil,
		Twin:         l.past.twin,
		Lost:         l.past.Loss,
	}
	if b := l.past.setback; b != nil {
		o.Setback = new(*b)
		o.Setback.Buffer = state.buffer(w.o.Tidy, b.At)
	}
	w.lookAhead(&o, state, l)
	if o.Missing = errors.Is(o.Err, pki.ErrNoCRL); l.none() && l.issuer.KeyID == pki.UnknownKey {
		o.Err, o.Missing = nil, false // it has no key, as far as can be told
	}
	if c := state.settings.config; c != nil {
		o.AutoRebuildOff = !c.AutoRebuild && !c.Disabled
		if c.Disabled {
			o.Lost = nil // the empty list of a disabled mount is said; what is not back afterwards is lost
		}
	}
	return o
}

// observeDelta is what is known of the delta of a list, false where there is
// nothing to say about one. Vault serves an empty delta also where deltas are
// switched off, and rebuilds it with the full list alone: one that may be such
// is not judged.
func (w *Watch) observeDelta(full crl.Observation, state *mountState, l *list) (crl.Observation, bool) {
	d, list := &l.delta, l.delta.summary
	switch c := state.settings.config; {
	case c != nil && !c.EnableDelta:
		return crl.Observation{}, false
	case c == nil && list != nil && list.Entries == 0:
		list = nil
	}
	return crl.Observation{
		Subject:    full.Subject + ", delta CRL",
		List:       list,
		MeasuredAt: d.at,
		Err:        w.own(d.err),
		Limit:      full.Limit,
		MaxBytes:   full.MaxBytes,
		Delta:      true,
		Base:       full.List,
	}, list != nil || d.err != nil
}

// lookAhead adds how many times the live certificates of a list could be
// revoked before it reaches its limit, and where its growth stops by itself.
func (w *Watch) lookAhead(o *crl.Observation, state *mountState, l *list) {
	s := l.full.summary
	if w.o.Fleet == nil || s == nil {
		return
	}
	latest := crl.Sample{ThisUpdate: s.ThisUpdate, At: l.full.at, Bytes: s.Bytes, Entries: s.Entries}
	fleet := w.o.Fleet.Fleet(state.mount, l.issuer.Certificate)
	if room, known := crl.Headroom(latest, o.Limit, fleet); known {
		o.Headroom = &room
	}
	o.Steady = crl.SteadyState(latest, w.growth(state, l), o.Limit)
}

// growth is what the steady state of a list follows from. The caller holds w.mu.
func (w *Watch) growth(state *mountState, l *list) crl.SteadyInputs {
	tidying := state.settings.tidying(w.o.Tidy)
	in := crl.SteadyInputs{Revocations: l.past.rate, SafetyBuffer: tidying.SafetyBuffer, TidyInterval: tidying.Every}
	if w.o.Fleet != nil {
		in.RemainingLife = w.o.Fleet.Fleet(state.mount, l.issuer.Certificate).RemainingLife
	}
	return in
}

// limitOf is the limit of the lists of one mount.
func (w *Watch) limitOf(s *mountState) crl.Limit {
	if s.settings.config == nil {
		return w.limit
	}
	return w.limit.WithMaxEntries(s.settings.config.MaxEntries)
}
