package tidier

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
)

const (
	// usualFor is how far back what counts as usual reaches.
	usualFor = time.Hour
	// usualEvery spaces what is kept for it, so that its samples span that hour
	// however often is read, and a run that goes wrong does not become usual.
	usualEvery = 30 * time.Second
	// usualMax bounds it; usualMin is how many it takes to know.
	usualMax, usualMin = int(usualFor / usualEvery), 3
	// usualAtOnce are kept whatever their spacing: a command has no hour.
	usualAtOnce = 8

	// nowReads is how many of the latest reads say how it is now, and nowFor how
	// old they may be.
	nowReads = 3
	nowFor   = 2 * time.Minute

	// tooLong is from when on a read that failed says how slow Vault is.
	tooLong = time.Second
)

// latencies are how long Vault took for this instance's own small reads.
type latencies struct {
	usual  []latency // oldest first
	latest []latency
}

type latency struct {
	at   time.Time
	took time.Duration
}

// add keeps a read that ended at a time.
func (l *latencies) add(at time.Time, took time.Duration) {
	read := latency{at, took}
	if l.latest = append(l.latest, read); len(l.latest) > nowReads {
		l.latest = l.latest[1:]
	}
	n := len(l.usual)
	if n >= usualAtOnce && at.Sub(l.usual[n-1].at) < usualEvery {
		return
	}
	if l.usual = append(l.usual, read); len(l.usual) > usualMax {
		l.usual = l.usual[1:]
	}
}

// load is what follows from them now.
func (l *latencies) load(now time.Time) pki.Load {
	return pki.Load{
		Usual: median(l.usual, now.Add(-usualFor), usualMin),
		Now:   median(l.latest, now.Add(-nowFor), 1),
	}
}

// median is that of the reads after a time, 0 where they are fewer than enough.
func median(reads []latency, after time.Time, enough int) time.Duration {
	var took []time.Duration
	for _, r := range reads {
		if r.at.After(after) {
			took = append(took, r.took)
		}
	}
	if len(took) < enough {
		return 0
	}
	slices.Sort(took)
	return took[len(took)/2]
}

// timed calls a read of n requests and keeps how long one took. A read that
// failed counts where Vault was given up on after a while; another failure says
// nothing about its pace.
func (t *Tidier) timed(ctx context.Context, n int, read func() error) error {
	begin := t.now()
	err := read()
	end := t.now()
	took := end.Sub(begin) / time.Duration(n)
	if err == nil || errors.Is(err, pki.ErrUnreachable) && took >= tooLong && ctx.Err() == nil {
		t.latencies.add(end, took)
	}
	return err
}

// readHealth is Vault's health, timed: one request for how it is, one for its
// leader.
func (t *Tidier) readHealth(ctx context.Context) (h pki.Health, err error) {
	err = t.timed(ctx, 2, func() error {
		h, err = t.o.Vault.Health(ctx)
		return err
	})
	return h, err
}

// readStatus is a mount's tidy-status, timed.
func (t *Tidier) readStatus(ctx context.Context, m pki.Mount) (s pki.TidyStatus, err error) {
	err = t.timed(ctx, 1, func() error {
		s, err = t.o.Vault.TidyStatus(ctx, m)
		return err
	})
	return s, err
}

// leasesEvery is how often Vault's own metrics are read for its leases.
const leasesEvery = 10 * time.Minute

// leaseCount is what was last read, and when.
type leaseCount struct {
	leases *pki.Leases // nil: not known
	at     time.Time
	told   bool // that the right is missing
}

// readLeases is how many leases Vault has, nil where that is not known. It is
// optional: what keeps it from being known is logged, and is no error.
func (t *Tidier) readLeases(ctx context.Context) *pki.Leases {
	c := &t.leases
	if !c.at.IsZero() && t.now().Sub(c.at) < leasesEvery {
		return c.leases
	}
	c.at = t.now()
	leases, err := t.o.Vault.Leases(ctx)
	_, denied := isDenied(err)
	switch {
	case err == nil:
		c.leases, c.told = &leases, false
		return c.leases
	case denied && !c.told:
		c.told = true
		t.log.Info("leases are not counted: optional, it takes the right to read sys/metrics", "error", err)
	case !denied && ctx.Err() == nil:
		t.log.Debug("leases are not counted", "error", err)
	}
	c.leases = nil
	return nil
}
