package watch

import (
	"cmp"
	"context"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
)

// findNamespaces learns which namespaces there are.
func (w *Watch) findNamespaces(ctx context.Context) error {
	names, err := w.o.Vault.Namespaces(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil {
		w.loadSightings(ctx)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range names {
		if w.namespaces[name] == nil {
			w.namespaces[name] = &namespaceState{schedule: schedule{key: "namespace " + name}, name: name}
		}
	}
	if err != nil {
		return fmt.Errorf("listing namespaces: %w", err) // one that was not seen need not be gone
	}
	maps.DeleteFunc(w.namespaces, func(name string, _ *namespaceState) bool { return !slices.Contains(names, name) })
	w.sight(func(m pki.Mount) bool { return !slices.Contains(names, m.Namespace) }, nil, nil)
	return nil
}

// findMounts learns which mounts a namespace has, and forgets those that are
// gone or not wanted. The storage's limit is looked up along with them.
func (w *Watch) findMounts(ctx context.Context, namespace string) error {
	found, err := w.o.Vault.MountsIn(ctx, namespace)
	if err != nil {
		return fmt.Errorf("listing PKI mounts: %w", err)
	}
	w.loadSightings(ctx)
	limit := w.o.Limits.Limit(ctx)
	wanted := pki.Select(found.Mounts, w.o.Mounts)
	now := w.o.Now()
	spread := min(w.o.Interval, time.Duration(len(wanted))*startGap)

	w.mu.Lock()
	defer w.mu.Unlock()
	w.limit, w.asked = limit, true
	state := w.namespaces[namespace]
	if state == nil {
		return nil // gone meanwhile
	}
	state.refused = found.Refused
	state.see(found, len(wanted))
	state.match(found, w.o.Mounts)
	w.sight(func(m pki.Mount) bool { return m.Namespace == namespace }, found.Mounts, wanted)
	for _, m := range wanted {
		if w.mounts[m] == nil {
			w.mounts[m] = newMount(m)
			w.mounts[m].due = now.Add(w.mounts[m].phase(spread))
			w.mounts[m].fleet.due = now.Add(w.mounts[m].fleet.phase(min(fleetEvery, time.Duration(len(wanted))*w.o.Interval)))
		}
		w.mounts[m].conditional = found.Conditional[m]
	}
	if w.o.Fleet != nil {
		w.o.Fleet.Forget(slices.Collect(maps.Keys(w.mounts)))
	}
	return nil
}

// see remembers how many mounts there are.
func (n *namespaceState) see(found pki.Discovery, selected int) {
	n.looked, n.selected, n.shown, n.names = true, selected, len(found.Mounts), nil
	for _, m := range found.Mounts[:min(len(found.Mounts), namesShown)] {
		n.names = append(n.names, m.Name())
	}
}

func newMount(m pki.Mount) *mountState {
	name := m.Namespace + " " + m.Path
	return &mountState{mount: m, schedule: schedule{key: "mount " + name}, fleet: schedule{key: "fleet " + name}}
}

// blind is why nothing at all can be measured: no namespace could be looked
// into, ever. nil where at least one was.
func (w *Watch) blind() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	err := w.walkErr
	for _, n := range w.namespaces {
		if n.err == nil {
			return nil
		}
		err = n.err
	}
	return err
}

// look learns which lists a mount has and, now and then, what explains them.
func (w *Watch) look(ctx context.Context, m pki.Mount) error {
	w.mu.Lock()
	state := w.mounts[m]
	w.mu.Unlock()
	if state == nil {
		return nil // gone meanwhile
	}
	w.load(ctx, m, state)
	if err := w.list(ctx, m, state); err != nil {
		return err
	}
	return w.readSettings(ctx, m, state)
}

// list lists the issuers of a mount and brings its lists in line with them.
// Those that are new are due at once.
func (w *Watch) list(ctx context.Context, m pki.Mount, state *mountState) error {
	issuers, err := w.o.Vault.Issuers(ctx, m)
	if err != nil {
		return fmt.Errorf("listing issuers of mount %s: %w", m.Name(), err)
	}
	groups := group(issuers)
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, l := range groups {
		at := slices.IndexFunc(state.lists, func(old *list) bool { return old.id == l.id })
		if at < 0 {
			l.key = fmt.Sprintf("list %s %s %s", m.Namespace, m.Path, l.historyKey())
			state.claim(l)
			continue
		}
		old := state.lists[at]
		old.issuer, old.issuers, old.cannotSign = l.issuer, l.issuers, l.cannotSign
		groups[i] = old
	}
	for _, old := range state.lists {
		if !slices.Contains(groups, old) {
			w.o.Log.Warn("CRL is no longer there: its issuer is gone, or has no key", "mount", m.Name(), "issuer", old.issuer.Label())
			state.release(old, w.o.Now())
		}
	}
	state.lists, state.listed = groups, true
	state.miss(w.o.Now())
	state.keyless = slices.ContainsFunc(issuers, func(i pki.Issuer) bool { return i.KeyID == "" })
	return nil
}

func (l *list) historyKey() string {
	return crl.HistoryKey([]byte(l.id.subject), []byte(l.id.publicKey))
}

// group groups the issuers of a mount by name and key: Vault keeps one list for
// each group (builtin/logical/pki/crl_util.go). Issuers without a key have
// none. The default issuer stands for its group, else the first by label.
func group(issuers []pki.Issuer) []*list {
	ordered := slices.Clone(issuers)
	slices.SortFunc(ordered, func(a, b pki.Issuer) int {
		if a.Default != b.Default {
			if a.Default {
				return -1
			}
			return 1
		}
		return cmp.Or(strings.Compare(a.Label(), b.Label()), strings.Compare(a.ID, b.ID))
	})
	var groups []*list
	for _, i := range ordered {
		if i.KeyID == "" || i.Certificate == nil {
			continue
		}
		id := listKey{subject: string(i.Certificate.RawSubject), publicKey: string(i.Certificate.RawSubjectPublicKeyInfo)}
		maySign := i.Certificate.KeyUsage == 0 || i.Certificate.KeyUsage&x509.KeyUsageCRLSign != 0
		at := slices.IndexFunc(groups, func(l *list) bool { return l.id == id })
		if at < 0 {
			groups = append(groups, &list{id: id, issuer: i, issuers: 1, cannotSign: !maySign})
			continue
		}
		groups[at].issuers++
		if groups[at].cannotSign && maySign { // one that signs for the others
			groups[at].issuer, groups[at].cannotSign = i, false
		}
	}
	return groups
}

// ordered are the watched mounts by name. The caller holds w.mu.
func (w *Watch) ordered() []pki.Mount {
	return slices.SortedFunc(maps.Keys(w.mounts), func(a, b pki.Mount) int {
		return cmp.Or(strings.Compare(a.Name(), b.Name()), strings.Compare(a.UUID, b.UUID))
	})
}
