package watch

import (
	"maps"
	"slices"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
)

const (
	// goneKept is how many mounts that are gone are remembered, and how many
	// lists that are gone of one mount.
	goneKept = 256
	// goneFor is how long a mount that is gone is remembered.
	goneFor = 24 * time.Hour
	// namesShown is how many mounts are named where none is selected.
	namesShown = 5
)

// goneMount is what is remembered of a mount that is no longer seen.
type goneMount struct {
	at       time.Time // when it was missed
	lists    int
	replaced bool // another mount has its name
}

// drop forgets the mounts for which gone is true, and remembers that they were
// there. One that is there under another path was moved. The caller holds w.mu.
func (w *Watch) drop(gone func(pki.Mount) bool, present []pki.Mount) {
	now := w.o.Now()
	maps.DeleteFunc(w.gone, func(m pki.Mount, g goneMount) bool {
		return slices.Contains(present, m) || now.Sub(g.at) >= goneFor
	})
	for m, state := range w.mounts {
		if !gone(m) {
			continue
		}
		delete(w.mounts, m)
		if slices.ContainsFunc(present, func(p pki.Mount) bool { return p.UUID == m.UUID && m.UUID != "" }) {
			w.o.Log.Info("PKI mount was moved", "mount", m.Name())
			continue
		}
		replaced := slices.ContainsFunc(present, func(p pki.Mount) bool { return p.Name() == m.Name() })
		w.o.Log.Warn("PKI mount is no longer seen", "mount", m.Name(), "crls", len(state.lists))
		if len(w.gone) < goneKept {
			w.gone[m] = goneMount{at: now, lists: len(state.lists), replaced: replaced}
		}
	}
}

// observeGone are the mounts that are no longer seen, by subject.
func (w *Watch) observeGone() map[string]crl.Vanished {
	all := map[string]crl.Vanished{}
	for m, g := range w.gone {
		all["mount "+m.Name()] = crl.Vanished{At: g.at, Mount: true, Lists: g.lists, Replaced: g.replaced}
	}
	return all
}

// observeReleased are the lists of a mount that were remembered and are no
// longer there. How many lists it has is not known before its issuers are.
func (s *mountState) observeReleased(now time.Time) map[string]crl.Vanished {
	if !s.listed {
		return nil
	}
	all := map[string]crl.Vanished{}
	for key, l := range s.kept.record.Lists {
		at, found := s.released[key]
		if !found {
			at = l.History.SeenAt()
		}
		if now.Sub(at) < goneFor {
			all["mount "+s.mount.Name()+", issuer "+l.Issuer] = crl.Vanished{At: at}
		}
	}
	return all
}

// unwatched says why no mount is watched, nil where one is, or where the reason
// is a finding of its own.
func (w *Watch) unwatched(err error) *crl.Unwatched {
	if err != nil || len(w.namespaces) == 0 {
		return nil
	}
	u := &crl.Unwatched{Patterns: w.o.Mounts}
	for _, name := range slices.Sorted(maps.Keys(w.namespaces)) {
		n := w.namespaces[name]
		if !n.looked || n.err != nil || n.selected > 0 || n.shown == 0 && len(n.refused) > 0 {
			return nil
		}
		u.Shown += n.shown
		u.Mounts = append(u.Mounts, n.names[:min(len(n.names), namesShown-len(u.Mounts))]...)
	}
	return u
}
