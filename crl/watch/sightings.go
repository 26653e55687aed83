package watch

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
)

const (
	sightingsVersion = 1
	// seenEvery is how often it is written when the mounts were last seen,
	// although nothing else has changed.
	seenEvery = time.Hour
)

// errUnusable is of a record that can be read and makes no sense.
var errUnusable = errors.New("delete the record to begin anew")

// sighting is what is remembered of a mount that is or was watched.
type sighting struct {
	seen     time.Time // last
	lists    int       // how many it had, 0 before they were listed
	gone     time.Time // when it was missed; zero while it is there
	replaced bool      // another mount has its path
}

// at is when that was found out.
func (s sighting) at() time.Time {
	if s.gone.After(s.seen) {
		return s.gone
	}
	return s.seen
}

// sightings are which mounts there were, and their record in the state: so that
// one that goes while no instance runs is missed by the next.
type sightings struct {
	all map[pki.Mount]sighting

	key       string
	version   string
	loaded    bool
	dirty     bool      // more is known than that they are still there
	seen      bool      // they were seen since it was written
	writtenAt time.Time // or read
	tryAt     time.Time // not before
	err       error     // of the last attempt
	left      int       // mounts for which the record has no room
}

// storedSightings is the JSON form of the record.
type storedSightings struct {
	Version int           `json:"version"`
	Mounts  []storedMount `json:"mounts"`
}

// storedMount has Unix times.
type storedMount struct {
	Namespace string `json:"namespace,omitempty"`
	Path      string `json:"path"`
	UUID      string `json:"uuid,omitempty"`
	Seen      int64  `json:"seen"`
	Lists     int    `json:"crls,omitempty"`
	Gone      int64  `json:"gone,omitempty"`
	Replaced  bool   `json:"replaced,omitempty"`
}

// encodeSightings is the stored form, of at most [crl.MaxHistoryRecord], and how
// many mounts it has no room for. Those that are gone come first.
func encodeSightings(all map[pki.Mount]sighting) (data []byte, left int, err error) {
	mounts := slices.SortedFunc(maps.Keys(all), func(a, b pki.Mount) int {
		return cmp.Or(-all[a].gone.Compare(all[b].gone), strings.Compare(a.Name(), b.Name()), strings.Compare(a.UUID, b.UUID))
	})
	stored := storedSightings{Version: sightingsVersion, Mounts: []storedMount{}}
	size := len(`{"version":1,"mounts":[]}`)
	for _, m := range mounts {
		s := all[m]
		one := storedMount{Namespace: m.Namespace, Path: m.Path, UUID: m.UUID, Seen: s.seen.Unix(), Lists: s.lists, Replaced: s.replaced}
		if !s.gone.IsZero() {
			one.Gone = s.gone.Unix()
		}
		text, err := json.Marshal(one)
		if err != nil {
			return nil, 0, err
		}
		if size+len(text)+1 > crl.MaxHistoryRecord {
			left++
			continue
		}
		size += len(text) + 1
		stored.Mounts = append(stored.Mounts, one)
	}
	data, err = json.Marshal(stored)
	return data, left, err
}

// parseSightings reads what encodeSightings wrote. What another version wrote,
// or what was damaged since, is an error.
func parseSightings(data []byte) (map[pki.Mount]sighting, error) {
	fail := func(why string, values ...any) (map[pki.Mount]sighting, error) {
		return nil, fmt.Errorf("%w: %w", errUnusable, fmt.Errorf(why, values...))
	}
	var v struct {
		Version int `json:"version"`
	}
	var stored storedSightings
	switch err := json.Unmarshal(data, &v); {
	case err != nil:
		return fail("it is damaged: %w", err)
	case v.Version == 0:
		return fail(`it is damaged: it has no "version"`)
	case v.Version != sightingsVersion:
		return fail("it has version %d, this pkiwarden knows version %d: run one version only", v.Version, sightingsVersion)
	}
	if err := json.Unmarshal(data, &stored); err != nil {
		return fail("it is damaged: %w", err)
	}
	if stored.Mounts == nil {
		return fail(`it is damaged: it has no "mounts"`)
	}
	all := map[pki.Mount]sighting{}
	for i, m := range stored.Mounts {
		if m.Path == "" || m.Seen <= 0 || m.Lists < 0 || m.Gone < 0 {
			return fail("it is damaged: mount %d, %.100q, is none", i, m.Path)
		}
		s := sighting{seen: time.Unix(m.Seen, 0), lists: m.Lists, replaced: m.Replaced}
		if m.Gone > 0 {
			s.gone = time.Unix(m.Gone, 0)
		}
		all[pki.Mount{Namespace: m.Namespace, Path: m.Path, UUID: m.UUID}] = s
	}
	return all, nil
}

// sightingsErr is what is wrong with the record, unless it is that the state
// cannot be reached, which is said of the mounts already. The caller holds w.mu.
func (w *Watch) sightingsErr() error {
	err := w.sightings.err
	if errors.Is(err, errUnusable) {
		return err
	}
	for _, state := range w.mounts {
		if state.kept.err != nil {
			return nil
		}
	}
	return err
}

// merge adds what a record holds. Of two that know of a mount, the one counts
// that has looked later.
func (s *sightings) merge(stored map[pki.Mount]sighting) {
	for m, other := range stored {
		if mine, found := s.all[m]; !found || other.at().After(mine.at()) {
			s.all[m] = other
		}
	}
}

// loadSightings reads the record once, before it is known which mounts there
// are. Without it mounts are watched all the same, and nothing is written.
func (w *Watch) loadSightings(ctx context.Context) {
	if w.o.State == nil {
		return
	}
	w.mu.Lock()
	wait := w.sightings.loaded || w.o.Now().Before(w.sightings.tryAt)
	w.mu.Unlock()
	if wait {
		return
	}
	key, stored, version, err := w.getSightings(ctx)
	if ctx.Err() != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s := &w.sightings
	switch now := w.o.Now(); {
	case s.loaded: // by another at the same time
	case err != nil:
		s.err, s.tryAt = err, now.Add(w.pause())
	default:
		s.key, s.version, s.loaded, s.err, s.tryAt, s.writtenAt = key, version, true, nil, time.Time{}, now
		s.merge(stored)
	}
}

func (w *Watch) getSightings(ctx context.Context) (key string, stored map[pki.Mount]sighting, version string, err error) {
	cluster, err := w.o.Vault.ClusterID(ctx)
	if err != nil {
		return "", nil, "", fmt.Errorf("reading which mounts there were: %w", err)
	}
	key = pki.Mount{UUID: "all"}.StateKey("crlmounts", cluster)
	data, version, err := w.o.State.Get(ctx, key)
	if err == nil && data != nil {
		stored, err = parseSightings(data)
	}
	if err != nil {
		return "", nil, "", fmt.Errorf("reading which mounts there were, state %q: %w", key, err)
	}
	return key, stored, version, nil
}

// saveSightings writes the record where it has changed and its time has come.
// Where somebody else has written it, it is read and merged, and written later.
func (w *Watch) saveSightings(ctx context.Context) {
	now := w.o.Now()
	w.mu.Lock()
	s := &w.sightings
	due := s.loaded && !now.Before(s.tryAt) && (s.dirty || s.seen && now.Sub(s.writtenAt) >= seenEvery)
	w.mu.Unlock()
	if !due {
		return
	}
	err := w.writeSightings(ctx)
	var stored map[pki.Mount]sighting
	var version string
	var merged bool
	if errors.Is(err, pki.ErrConflict) {
		_, stored, version, err = w.getSightings(ctx)
		merged = err == nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s.tryAt, s.err = w.o.Now().Add(w.pause()), err
	s.dirty = s.dirty || err != nil || merged
	if merged {
		s.version = version
		s.merge(stored)
	}
}

// flushSightings writes it at the end, if only to tell when they were last seen.
func (w *Watch) flushSightings(ctx context.Context) {
	w.mu.Lock()
	due := w.sightings.loaded && (w.sightings.dirty || w.sightings.seen)
	w.mu.Unlock()
	if !due {
		return
	}
	if err := w.writeSightings(ctx); err != nil && !errors.Is(err, pki.ErrConflict) {
		w.o.Log.Warn("which mounts there are was not written at the end: of one that goes before the next look, nothing is said", "error", err)
	}
}

func (w *Watch) writeSightings(ctx context.Context) error {
	w.mu.Lock()
	s := &w.sightings
	key, version, all := s.key, s.version, maps.Clone(s.all)
	s.dirty, s.seen = false, false
	w.mu.Unlock()
	data, left, err := encodeSightings(all)
	if err == nil {
		version, err = w.o.State.Put(ctx, key, data, version)
	}
	if err != nil {
		return fmt.Errorf("writing which mounts there are, state %q: %w", key, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if left != s.left {
		w.o.Log.Info("there are more mounts than a record holds: those left out are not missed after a restart", "state", key, "left_out", left, "mounts", len(all))
	}
	s.version, s.writtenAt, s.left = version, w.o.Now(), left
	return nil
}
