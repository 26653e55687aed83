package tidier

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
)

const (
	// onceFor, onceReads and oncePace are what one call of Once may spend on
	// reading certificates, for all mounts. Reading one costs Vault about half a
	// millisecond, so at this pace it is a hundredth of one CPU.
	onceFor   = 10 * time.Second
	onceReads = 200
	oncePace  = 50 * time.Millisecond

	// askedFor and askedPace are what a command may spend on each mount, since
	// somebody waits. askedExactly is for all mounts together, once their
	// estimates are good enough.
	askedFor     = time.Minute
	askedPace    = 10 * time.Millisecond
	askedExactly = time.Minute
	askedPasses  = 4

	// restFactor is how many times what a read took is waited after it at the
	// least: a slow Vault is asked less often.
	restFactor = 4
	// slowFactor times what is usual, and slowAbove, is a read that ends the
	// reading until the next call of Once.
	slowFactor = 10
	slowAbove  = 100 * time.Millisecond

	// passEvery is how often the lists of a mount are read once more for their
	// serial numbers, and refineEvery where that is not urgent. Where entries were
	// added that may make a run due it is passNews for each newsEntries of the
	// lists, as often as a watch reads a list that changes.
	passEvery   = 10 * time.Minute
	refineEvery = time.Hour
	passNews    = time.Minute
	newsEntries = 10_000

	// sampleBatch is how many certificates are read before the estimate is made
	// anew.
	sampleBatch = 50
	// badReads in a row end the reading.
	badReads = 5
	// leastSample is too little room to begin with.
	leastSample = 100
)

// sampler holds what was read of each mount's certificates.
type sampler struct {
	key    [16]byte
	mounts map[pki.Mount]*mountSample
	exact  time.Duration // spent by commands
	reads  latencies     // of certificates: other reads take other times
}

type mountSample struct {
	*pki.Sample
	passedAt time.Time // zero: never
}

func newSampler() sampler {
	s := sampler{mounts: make(map[pki.Mount]*mountSample)}
	_, _ = rand.Read(s.key[:]) // never fails
	return s
}

// of is the sample of a mount.
func (s *sampler) of(m pki.Mount) *mountSample {
	known := s.mounts[m]
	if known == nil {
		known = &mountSample{Sample: pki.NewSample(s.key, 0)}
		s.mounts[m] = known
	}
	return known
}

// room is how many certificates the mount's sample may hold: what the others
// leave of most, and no more than a quarter.
func (s *sampler) room(m pki.Mount, most int) int {
	left := most
	for other, sample := range s.mounts {
		if all, _ := sample.Len(); other != m {
			left -= all
		}
	}
	return min(left, most/4)
}

// budget is what may be spent on reading certificates.
type budget struct {
	until time.Time
	reads int // 0: as many as fit
	pace  time.Duration
	asked bool // somebody waits: lists are read as often as needed
	spent bool // nothing more is to be read
}

// sampleAll reads certificates for the estimates of views, the neediest first,
// within what one call of Once may spend, and plans anew where it has read. It
// waits while a run is on: that comes first.
func (t *Tidier) sampleAll(ctx context.Context, s *survey, views []*view) {
	for m := range t.samples.mounts {
		if !slices.Contains(s.mounts, m) {
			delete(t.samples.mounts, m)
		}
	}
	for _, v := range views {
		if v.decision.Verdict == pki.Follow {
			return
		}
	}
	b := &budget{until: t.now().Add(onceFor), reads: onceReads, pace: oncePace}
	for _, urgent := range []bool{true, false} {
		for _, v := range t.byNeed(views) {
			if b.spent || ctx.Err() != nil {
				return
			}
			t.sample(ctx, v, t.o.Policy, b, urgent)
		}
	}
}

// sampleAsked is sampleAll for a command and one mount, also while a new active
// node settles: a few reads are no run.
func (t *Tidier) sampleAsked(ctx context.Context, v *view, p pki.Policy) {
	if v.decision.Verdict == pki.Follow || v.observation.Health.Standby {
		return
	}
	b := &budget{until: t.now().Add(askedFor), pace: askedPace, asked: true}
	t.sample(ctx, v, p, b, true)
	if left := askedExactly - t.samples.exact; left > 0 && !b.spent && ctx.Err() == nil {
		begin := t.now()
		t.sample(ctx, v, p, &budget{until: begin.Add(left), pace: askedPace, asked: true}, false)
		t.samples.exact += t.now().Sub(begin)
	}
}

// sample reads certificates of a mount until its estimate lacks none, or, with
// urgent, no more than can wait, or the budget is spent; and plans anew. What
// goes wrong is logged: the estimate is then as good as it is.
func (t *Tidier) sample(ctx context.Context, v *view, p pki.Policy, b *budget, urgent bool) {
	if _, slow := v.observation.Load.Degraded(); slow || p.Validate() != nil || len(v.observation.CRLs) == 0 {
		return
	}
	sample := t.samples.of(v.mount)
	passes, read := 0, 0
	for !b.spent && ctx.Err() == nil {
		e := t.estimate(v, p)
		want := sample.Want(e, false)
		if urgent && !want.Urgent {
			break
		}
		if want.Reads > 0 {
			n, err := t.readBatch(ctx, v, e, want, b)
			read += n
			if err != nil {
				t.log.Warn("reading certificates for the estimate: what is reclaimable is known less well", "mount", v.mount.Name(), "error", err)
				b.spent = true
			}
			continue
		}
		if !want.Pass || !t.mayPass(sample, e, want, p, b, passes) {
			break
		}
		passes++
		if err := t.pass(ctx, v, e); err != nil {
			t.log.Warn("reading entries of CRLs for the estimate: what is reclaimable is known less well", "mount", v.mount.Name(), "error", err)
			break
		}
	}
	if read == 0 && passes == 0 {
		return
	}
	v.decision = pki.Plan(v.observation, p, t.now())
	e := v.decision.Estimate
	t.log.Debug("certificates read for the estimate", "mount", v.mount.Name(), "read", read, "passes", passes,
		"likely", e.Likely, "margin", e.Margin, "entries", e.Total.Entries)
}

// estimate is that of v now.
func (t *Tidier) estimate(v *view, p pki.Policy) pki.Estimate {
	o := &v.observation
	return o.Sample.Estimate(o.CRLs, o.LongestTTL, p.SafetyBuffer, t.now())
}

// mayPass tells whether the mount's lists may be read again already.
func (t *Tidier) mayPass(sample *mountSample, e pki.Estimate, want pki.Want, p pki.Policy, b *budget, passes int) bool {
	if b.asked {
		return passes < askedPasses
	}
	if passes == 1 { // what it brought says that more is in question
		return true
	}
	every := refineEvery
	switch {
	case want.Urgent && want.News && p.CouldBeDue(e):
		every = min(passEvery, passNews*time.Duration(1+e.Total.Entries/newsEntries)-passNews/4) // calls of Once differ by some seconds
	case want.Urgent:
		every = passEvery
	}
	return sample.passedAt.IsZero() || t.now().Sub(sample.passedAt) >= every
}

// pass reads the lists of a mount once more for what e lacks.
func (t *Tidier) pass(ctx context.Context, v *view, e pki.Estimate) error {
	sample := t.samples.of(v.mount)
	sample.passedAt = t.now()
	room := t.samples.room(v.mount, t.o.SampleSize)
	if room < leastSample {
		return errors.New("the room for samples is taken by other mounts")
	}
	sample.SetLimit(room)
	p := sample.Pass(e, false)
	lists, err := t.o.CRLs.Entries(ctx, v.mount, p.List)
	if err == nil {
		sample.Accept(p, lists)
	}
	return err
}

// readBatch reads the next certificates, and tells how many answers there were.
// An error is one that the next certificate would have as well.
func (t *Tidier) readBatch(ctx context.Context, v *view, e pki.Estimate, want pki.Want, b *budget) (answers int, err error) {
	sample := t.samples.of(v.mount)
	most := int(min(want.Reads, sampleBatch))
	if b.reads > 0 {
		most = min(most, b.reads)
	}
	bad := 0
	for _, c := range sample.Due(e, most) {
		if !t.now().Before(b.until) {
			b.spent = true
			break
		}
		took, err := t.readOne(ctx, v.mount, sample, c)
		switch {
		case err == nil:
			answers, bad = answers+1, 0
		case ctx.Err() != nil:
			return answers, nil // not Vault's doing
		case hopeless(err):
			return answers, err
		default:
			t.log.Debug("certificate not read", "mount", v.mount.Name(), "error", err)
			sample.Failed(c)
			if bad++; bad >= badReads {
				return answers, err
			}
		}
		if b.reads > 0 {
			if b.reads--; b.reads == 0 {
				b.spent = true
			}
		}
		if _, read := sample.Len(); t.o.Sampling != nil {
			t.o.Sampling(v.mount, int64(read), int64(read)+want.Reads-int64(answers))
		}
		if usual := t.samples.reads.load(t.now()).Usual; !b.asked && usual > 0 && took > max(slowFactor*usual, slowAbove) {
			t.log.Info("reading certificates later: Vault is slow", "mount", v.mount.Name(), "took", took, "usual", usual)
			b.spent = true
			break
		}
		if sleep(ctx, max(b.pace, restFactor*took)) != nil {
			break
		}
	}
	return answers, nil
}

// readOne reads a certificate into the sample.
func (t *Tidier) readOne(ctx context.Context, m pki.Mount, sample *mountSample, c pki.Certificate) (took time.Duration, err error) {
	begin := t.now()
	cert, _, err := t.o.Vault.Certificate(ctx, m, c.Serial)
	took = t.now().Sub(begin)
	if err != nil {
		return took, err
	}
	t.samples.reads.add(t.now(), took)
	if cert == nil {
		sample.Unstored(c)
	} else {
		sample.NotAfter(c, cert.NotAfter)
	}
	return took, nil
}

// hopeless tells whether another certificate could not be read either.
func hopeless(err error) bool {
	_, denied := isDenied(err)
	return denied || errors.Is(err, pki.ErrSealed) || errors.Is(err, pki.ErrNoActiveNode) || errors.Is(err, pki.ErrUnreachable)
}
