package tidier

import (
	"context"
	"fmt"
	"hash/fnv"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
)

// For how many times Options.Interval what was read is taken to hold while
// nothing is on in a mount. Right before a run is started everything is read
// anew, and whatever says that a run is on is read each time, so that age costs
// no safety: it is by how much a run of somebody else's, or a changed setting,
// may be seen late. A right that was missing is tried each time.
const (
	mountsFor = 5
	statusFor = 5
	recordFor = 5
	configFor = 10
	listsFor  = 10 // of a mount that nobody watches
)

// fewMounts may have their records read each time: the state is asked for them,
// not Vault, and Kubernetes allows some requests a second.
const fewMounts = 20

// memory is what was last read of one mount.
type memory struct {
	record   pki.Record
	version  string // of record, in the state
	recordAt time.Time

	status    pki.TidyStatus
	statusErr error
	statusAt  time.Time

	config   settings
	configAt time.Time

	longest   pki.LongestTTL
	longestAt time.Time

	lists   []pki.CRL // as measured here, where nobody else does
	listsAt time.Time

	due    time.Time // see [pki.DueAt]
	dueFor string    // from what it was computed
}

// settings are config/crl and config/auto-tidy of a mount, nil where the right to
// read them is missing.
type settings struct {
	crl    *pki.CRLConfig
	auto   *pki.AutoTidy
	denied []pki.PermissionError
}

// memories are those of all mounts.
type memories struct {
	of       map[pki.Mount]*memory
	mounts   []pki.Mount
	mountsAt time.Time
}

// memory is that of m.
func (t *Tidier) memory(m pki.Mount) *memory {
	known := t.memories.of[m]
	if known == nil {
		known = &memory{}
		t.memories.of[m] = known
	}
	return known
}

// forget drops mounts that are gone.
func (t *Tidier) forget(present []pki.Mount) {
	here := make(map[pki.Mount]bool, len(present))
	for _, m := range present {
		here[m] = true
	}
	for m := range t.memories.of {
		if !here[m] {
			delete(t.memories.of, m)
			delete(t.spoken, m)
		}
	}
}

// due tells whether what was read of a mount at a time is to be read again, which
// is so once in each interval. Each mount has its own place in the interval, so
// that hundreds of them are spread over it.
func (t *Tidier) due(m pki.Mount, at time.Time, every time.Duration) bool {
	if at.IsZero() {
		return true
	}
	sum := fnv.New64a()
	_, _ = sum.Write([]byte(m.Namespace + "\x00" + m.Path + "\x00" + m.UUID)) // never fails
	phase := time.Duration(sum.Sum64() % uint64(every))
	now := t.now()
	return now.Before(at) || !now.Add(phase).Truncate(every).Equal(at.Add(phase).Truncate(every))
}

// busy tells whether a run is on in a mount, as far as is remembered.
func (k *memory) busy() bool { return k.record.Run != nil || k.status.State.Active() }

// mounts are all PKI mounts.
func (t *Tidier) mounts(ctx context.Context, fresh bool) ([]pki.Mount, error) {
	k := &t.memories
	if !fresh && !k.mountsAt.IsZero() && t.now().Sub(k.mountsAt) < mountsFor*t.o.Interval {
		return k.mounts, nil
	}
	mounts, err := t.o.Vault.Mounts(ctx)
	if err != nil {
		return nil, err
	}
	k.mounts, k.mountsAt = mounts, t.now()
	t.forget(mounts)
	return mounts, nil
}

// status is a mount's tidy-status.
func (t *Tidier) status(ctx context.Context, m pki.Mount, fresh bool) (pki.TidyStatus, error) {
	k := t.memory(m)
	if !fresh && !k.busy() && k.statusErr == nil && !t.due(m, k.statusAt, statusFor*t.o.Interval) {
		return k.status, nil
	}
	status, err := t.readStatus(ctx, m)
	if _, denied := isDenied(err); err != nil && !denied {
		k.statusAt = time.Time{}
		return status, err
	}
	k.status, k.statusErr, k.statusAt = status, err, t.now()
	return status, err
}

// recall reads the mount's record into v, unless it is remembered.
func (t *Tidier) recall(ctx context.Context, v *view, fresh bool) error {
	k := t.memory(v.mount)
	if !fresh && !k.busy() && len(t.memories.mounts) > fewMounts && !t.due(v.mount, k.recordAt, recordFor*t.o.Interval) {
		v.record, v.version = k.record, k.version
		return nil
	}
	return t.load(ctx, v)
}

// settings are those of a mount.
func (t *Tidier) settings(ctx context.Context, m pki.Mount, fresh bool) (settings, error) {
	k := t.memory(m)
	if !fresh && len(k.config.denied) == 0 && !t.due(m, k.configAt, configFor*t.o.Interval) {
		return k.config, nil
	}
	var read settings
	if c, err := t.o.Vault.CRLConfig(ctx, m); err == nil {
		read.crl = &c
	} else if err := read.note(err); err != nil {
		return settings{}, err
	}
	if a, err := t.o.Vault.AutoTidy(ctx, m); err == nil {
		read.auto = &a
	} else if err := read.note(err); err != nil {
		return settings{}, err
	}
	k.config, k.configAt = read, t.now()
	return read, nil
}

// note keeps a missing right and returns any other error.
func (s *settings) note(err error) error {
	denied, ok := isDenied(err)
	if ok {
		s.denied = append(s.denied, denied)
		return nil
	}
	return err
}

// lists are those of a mount: the latest that are watched, else what was
// measured here.
func (t *Tidier) lists(ctx context.Context, m pki.Mount, fresh bool) ([]pki.CRL, error) {
	if !fresh {
		if crls, watched := t.o.CRLs.Latest(m); watched {
			return crls, nil
		}
	}
	k := t.memory(m)
	if !fresh && !t.due(m, k.listsAt, listsFor*t.o.Interval) {
		return k.lists, nil
	}
	crls, err := t.o.CRLs.Measure(ctx, m)
	if err != nil {
		return nil, fmt.Errorf("measuring CRLs of mount %s: %w", m.Name(), err)
	}
	k.lists, k.listsAt = crls, t.now()
	return crls, nil
}

// longestTTL is that of a mount's roles.
func (t *Tidier) longestTTL(ctx context.Context, m pki.Mount) (pki.LongestTTL, error) {
	k := t.memory(m)
	if !t.due(m, k.longestAt, ttlLifetime) {
		return k.longest, nil
	}
	longest, err := t.o.Vault.LongestTTL(ctx, m)
	if err == nil {
		k.longest, k.longestAt = longest, t.now()
	}
	return longest, err
}

// dueAt is [pki.DueAt], computed anew where what it rests on has changed, and
// once in a while.
func (t *Tidier) dueAt(v *view) time.Time {
	now := t.now()
	if !v.decision.Idle {
		return v.decision.Until
	}
	all, read := v.observation.Sample.Len()
	from := fmt.Sprintf("%d %d %s %d %s", all, read, v.decision.Until, now.Unix()/int64(time.Hour/time.Second), v.version)
	for _, c := range v.observation.CRLs {
		from += fmt.Sprintf(" %x %v", c.Summary.Digest, c.Limit.MaxBytes)
	}
	k := t.memory(v.mount)
	if k.dueFor != from || !k.due.IsZero() && !now.Before(k.due) {
		k.due, k.dueFor = pki.DueAt(v.observation, t.o.Policy, v.decision, now), from
	}
	return k.due
}
