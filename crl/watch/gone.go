package watch

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
)

const (
	// goneKept is how many mounts that are gone are remembered, and how many
	// lists that are gone of one mount.
	goneKept = 256
	// goneFor is how long it is remembered that a mount is gone.
	goneFor = 24 * time.Hour
	// namesShown is how many mounts are named where none is selected.
	namesShown = 5
)

// sight brings what is remembered of the mounts in scope in line with those that
// Vault shows and those of them that are wanted, and forgets the lists of all
// others. One that is there under another path was moved. The caller holds w.mu.
func (w *Watch) sight(scope func(pki.Mount) bool, shown, wanted []pki.Mount) {
	now, s := w.o.Now(), &w.sightings
	for m, state := range w.mounts {
		if known, found := s.all[m]; found && state.listed && known.lists != len(state.lists) {
			known.lists, s.dirty = len(state.lists), true
			s.all[m] = known
		}
		if scope(m) && !slices.Contains(wanted, m) {
			delete(w.mounts, m)
		}
	}
	there := map[string]bool{} // by UUID
	for _, m := range shown {
		there[m.UUID] = true
	}
	for _, m := range wanted {
		known, found := s.all[m]
		s.dirty = s.dirty || !found || !known.gone.IsZero()
		s.all[m], s.seen = sighting{seen: now, lists: known.lists}, true
	}
	for m, known := range s.all {
		if known.gone.IsZero() {
			there[m.UUID] = there[m.UUID] || !scope(m)
		}
	}
	delete(there, "")
	for m, known := range s.all {
		if (!scope(m) && known.gone.IsZero()) || slices.Contains(wanted, m) {
			continue
		}
		age := now.Sub(known.gone)
		switch {
		case there[m.UUID]:
			if !slices.Contains(shown, m) {
				w.o.Log.Info("PKI mount was moved", "mount", m.Name())
			}
			delete(s.all, m)
		case slices.Contains(shown, m), len(pki.Select([]pki.Mount{m}, w.o.Mounts)) == 0: // nobody wants to know
			delete(s.all, m)
		case known.gone.IsZero():
			known.gone = now
			w.o.Log.Warn("PKI mount is no longer seen", "mount", m.Name(), "crls", known.lists)
			s.all[m] = known
		case age >= goneFor || age <= -goneFor: // a clock may have been wrong
			delete(s.all, m)
		default:
			if !scope(m) || known.replaced || !named(shown, m.Name()) {
				continue
			}
		}
		if known, found := s.all[m]; found && scope(m) {
			known.replaced = named(shown, m.Name())
			s.all[m] = known
		}
		s.dirty = true
	}
	s.bound()
}

// named tells whether one of the mounts has the name.
func named(mounts []pki.Mount, name string) bool {
	return slices.ContainsFunc(mounts, func(m pki.Mount) bool { return m.Name() == name })
}

// bound forgets, of too many mounts that are gone, those gone for longest.
func (s *sightings) bound() {
	var gone []pki.Mount
	for m, known := range s.all {
		if !known.gone.IsZero() {
			gone = append(gone, m)
		}
	}
	if len(gone) <= goneKept {
		return
	}
	slices.SortFunc(gone, func(a, b pki.Mount) int {
		return cmp.Or(-s.all[a].gone.Compare(s.all[b].gone), strings.Compare(a.Name(), b.Name()), strings.Compare(a.UUID, b.UUID))
	})
	for _, m := range gone[goneKept:] {
		delete(s.all, m)
	}
}

// observeGone are the mounts that are no longer seen, by subject. Of two with
// one name the one counts that was missed last.
func (w *Watch) observeGone() map[string]crl.Vanished {
	all := map[string]crl.Vanished{}
	for m, g := range w.sightings.all {
		subject := "mount " + m.Name()
		if g.gone.IsZero() || g.gone.Before(all[subject].At) {
			continue
		}
		all[subject] = crl.Vanished{At: g.gone, Seen: g.seen, Mount: true, Lists: g.lists, Replaced: g.replaced}
	}
	return all
}

// miss notes since when the lists are gone that are remembered and are not there:
// since now, unless it is known. How many lists the mount has is not known before
// its issuers are. The caller holds w.mu.
func (s *mountState) miss(now time.Time) {
	if !s.listed {
		return
	}
	for key, l := range s.kept.record.Lists {
		if l.Sight.Gone > 0 {
			continue
		}
		if l.Sight.Gone = now.Unix(); l.Sight.Seen == 0 { // written by an earlier version
			l.Sight.Seen = l.History.SeenAt().Unix()
			l.Sight.Gone = l.Sight.Seen
		}
		s.kept.record.Lists[key] = l
		s.kept.dirty = true
	}
}

// observeReleased are the lists of a mount that are remembered and are no longer
// there.
func (s *mountState) observeReleased(now time.Time) map[string]crl.Vanished {
	if !s.listed {
		return nil
	}
	all := map[string]crl.Vanished{}
	for _, l := range s.kept.record.Lists {
		subject := "mount " + s.mount.Name() + ", issuer " + l.Issuer
		v := crl.Vanished{At: time.Unix(l.Sight.Gone, 0), Seen: time.Unix(l.Sight.Seen, 0)}
		if now.Sub(v.At) >= goneFor || v.At.Before(all[subject].At) {
			continue
		}
		if l.Sight.NextUpdate > 0 {
			v.NextUpdate = time.Unix(l.Sight.NextUpdate, 0)
		}
		last, _ := l.History.Latest()
		if v.Entries = last.Entries; l.Mark != nil {
			v.Entries = l.Mark.Entries
		}
		all[subject] = v
	}
	return all
}

// unwatched says why no mount is watched, or which patterns match none; nil where
// neither is so, or where the reason is a finding of its own.
func (w *Watch) unwatched(err error) *crl.Unwatched {
	if err != nil || len(w.namespaces) == 0 {
		return nil
	}
	u := &crl.Unwatched{Patterns: w.o.Mounts}
	watched, blocked := false, false
	matched := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(w.namespaces)) {
		n := w.namespaces[name]
		if !n.looked {
			return nil
		}
		watched = watched || n.selected > 0
		blocked = blocked || n.err != nil || n.shown == 0 && len(n.refused) > 0
		u.Shown += n.shown
		u.Mounts = append(u.Mounts, n.names[:min(len(n.names), namesShown-len(u.Mounts))]...)
		maps.Copy(matched, n.matched)
	}
	switch {
	case watched:
		for _, p := range w.o.Mounts {
			if !matched[p] && !slices.Contains(u.Unmatched, p) {
				u.Unmatched = append(u.Unmatched, p)
			}
		}
		if len(u.Unmatched) == 0 {
			return nil
		}
	case blocked:
		return nil
	}
	return u
}

// match remembers for which patterns there is a mount in the namespace, whether
// they take it in or leave it out.
func (n *namespaceState) match(found pki.Discovery, patterns []string) {
	mounts := slices.Clone(found.Mounts)
	for _, r := range found.Refused {
		mounts = append(mounts, pki.Mount{Path: r.Name})
	}
	n.matched = map[string]bool{}
	for _, p := range patterns {
		if len(pki.Select(mounts, []string{strings.TrimPrefix(p, "!")})) > 0 {
			n.matched[p] = true
		}
	}
}
