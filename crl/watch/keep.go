package watch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
)

// State keeps small values under compare-and-swap.
type State interface {
	// Get returns nil and "" where there is no value.
	Get(ctx context.Context, key string) (data []byte, version string, err error)
	// Put replaces what Get returned with the given version, "" where there was
	// nothing. Its error wraps [pki.ErrConflict] where the value is another one
	// by now; nothing is written then.
	Put(ctx context.Context, key string, data []byte, version string) (newVersion string, err error)
}

const (
	// keepEvery is the shortest time between two writings of a mount's record,
	// and between two attempts at what failed.
	keepEvery = 5 * time.Minute
	// keepAtOnce is how many records one unit writes.
	keepAtOnce = 10
	// flushWithin bounds Flush: others wait for the end.
	flushWithin = 5 * time.Second
)

// kept is a mount's record in the state.
type kept struct {
	key     string
	version string
	record  crl.HistoryRecord // what it holds of lists that are not there now
	loaded  bool
	dirty   bool      // the lists hold more than is written
	tryAt   time.Time // not before
	err     error     // of the last attempt
	left    int       // lists that are there, and for which it has no room
}

// pause is the time between two writings.
func (w *Watch) pause() time.Duration { return min(keepEvery, 5*w.o.Interval) }

// load reads the mount's record once, and adds it to what its lists know.
// Without it lists are measured all the same, and nothing is written.
func (w *Watch) load(ctx context.Context, m pki.Mount, state *mountState) {
	if w.o.State == nil {
		return
	}
	w.mu.Lock()
	wait := state.kept.loaded || w.o.Now().Before(state.kept.tryAt)
	w.mu.Unlock()
	if wait {
		return
	}
	key, record, version, err := w.get(ctx, m)
	if ctx.Err() != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	k := &state.kept
	k.err = err
	if err != nil {
		k.tryAt = w.o.Now().Add(w.pause())
		return
	}
	// Written first at a time of its own, so that a start makes no burst.
	*k = kept{key: key, version: version, record: k.record, loaded: true, dirty: k.dirty, tryAt: w.o.Now().Add(state.phase(w.pause()))}
	state.adopt(record, w.o.Now())
}

func (w *Watch) get(ctx context.Context, m pki.Mount) (key string, record crl.HistoryRecord, version string, err error) {
	cluster, err := w.o.Vault.ClusterID(ctx)
	if err != nil {
		return "", record, "", fmt.Errorf("reading CRL history of mount %s: %w", m.Name(), err)
	}
	key = m.StateKey("crl", cluster)
	data, version, err := w.o.State.Get(ctx, key)
	if err == nil && data != nil {
		record, err = crl.ParseHistoryRecord(data)
	}
	if err != nil {
		return "", record, "", fmt.Errorf("reading CRL history of mount %s, state %q: %w", m.Name(), key, err)
	}
	return key, record, version, nil
}

// adopt adds a record that was read at an instant to what the lists know.
func (s *mountState) adopt(record crl.HistoryRecord, now time.Time) {
	s.kept.record = s.remembered().Merge(record)
	for _, l := range s.lists {
		s.claim(l)
	}
	s.miss(now)
}

// claim moves what is remembered of a list from the record to the list.
func (s *mountState) claim(l *list) {
	key := l.historyKey()
	l.past.ListRecord, l.past.projectedAt = s.kept.record.Lists[key], time.Time{}
	l.past.Sight.Gone = 0
	delete(s.kept.record.Lists, key)
}

// release moves it back, at an instant: of a list that is gone and may return.
// Of too many, those not seen for longest are forgotten.
func (s *mountState) release(l *list, at time.Time) {
	if l.past.Mark == nil {
		return // it was never measured
	}
	if s.kept.record.Lists == nil {
		s.kept.record.Lists = map[string]crl.ListRecord{}
	}
	key, lists := l.historyKey(), s.kept.record.Lists
	l.past.Sight.Gone = at.Unix()
	lists[key] = l.past.ListRecord
	s.kept.dirty = true
	for len(lists) > goneKept {
		oldest := key
		for other, record := range lists {
			if record.History.SeenAt().Before(lists[oldest].History.SeenAt()) {
				oldest = other
			}
		}
		delete(lists, oldest)
	}
}

// remembered is the mount's record as of now.
func (s *mountState) remembered() crl.HistoryRecord {
	now := crl.HistoryRecord{Lists: map[string]crl.ListRecord{}}
	for _, l := range s.lists {
		now.Lists[l.historyKey()] = l.past.ListRecord
	}
	return s.kept.record.Merge(now)
}

// save writes the records that have changed and whose time has come. Where
// somebody else has written one, it is read and merged, and written later.
func (w *Watch) save(ctx context.Context) {
	if w.o.State == nil {
		return
	}
	w.saveSightings(ctx)
	for range keepAtOnce {
		m, state := w.unsaved(false)
		if state == nil || ctx.Err() != nil {
			return
		}
		err := w.write(ctx, m, state)
		var record crl.HistoryRecord
		var version string
		var merged bool
		if errors.Is(err, pki.ErrConflict) {
			_, record, version, err = w.get(ctx, m)
			merged = err == nil
		}
		w.mu.Lock()
		k := &state.kept
		k.tryAt, k.err = w.o.Now().Add(w.pause()), err
		k.dirty = k.dirty || err != nil || merged
		if merged {
			k.version = version
			state.adopt(record, w.o.Now())
		}
		w.mu.Unlock()
	}
}

// Flush writes the records that have changed since they were last written, once
// and for at most five seconds, whether or not ctx has ended: the last act of an
// instance that has led, before another one counts from them. No unit may be
// under way. A record that somebody else has written meanwhile is theirs, and is
// left as it is.
func (w *Watch) Flush(ctx context.Context) {
	if w.o.State == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushWithin)
	defer cancel()
	w.flushSightings(ctx)
	for {
		m, state := w.unsaved(true)
		if state == nil || ctx.Err() != nil {
			return
		}
		err := w.write(ctx, m, state)
		if err != nil && !errors.Is(err, pki.ErrConflict) {
			w.o.Log.Warn("CRL history was not written at the end: what was counted since it last was is counted again", "mount", m.Name(), "error", err)
		}
	}
}

// write writes a mount's record. What is found out while it does is not in it.
func (w *Watch) write(ctx context.Context, m pki.Mount, state *mountState) error {
	w.mu.Lock()
	record := state.remembered()
	present := map[string]bool{}
	for _, l := range state.lists {
		present[l.historyKey()] = true
	}
	k := state.kept
	state.kept.dirty = false
	w.mu.Unlock()
	record.Mount = m.Name()
	data, left, err := encode(record, present)
	var version string
	if err == nil {
		version, err = w.o.State.Put(ctx, k.key, data, k.version)
	}
	if err != nil {
		return fmt.Errorf("writing CRL history, state %q: %w", k.key, err)
	}
	if left != k.left {
		w.o.Log.Info("CRL history has more lists than a record holds; the smallest are left out", "state", k.key, "left_out", left, "lists", len(present))
	}
	w.mu.Lock()
	state.kept.version, state.kept.left = version, left
	w.mu.Unlock()
	return nil
}

// encode is a record as it is written, and how many of the lists that are
// present it has no room for.
func encode(record crl.HistoryRecord, present map[string]bool) (data []byte, left int, err error) {
	data, dropped, err := record.Encode(crl.MaxHistoryRecord)
	for _, key := range dropped {
		if present[key] {
			left++
		}
	}
	return data, left, err
}

// unsaved is a mount whose record is due to be written, or, at the end, has
// changed at all; nil without one.
func (w *Watch) unsaved(end bool) (pki.Mount, *mountState) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.o.Now()
	for m, state := range w.mounts {
		if k := state.kept; k.loaded && k.dirty && (end || !now.Before(k.tryAt)) {
			return m, state
		}
	}
	return pki.Mount{}, nil
}
