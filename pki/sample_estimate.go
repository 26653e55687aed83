package pki

import (
	"fmt"
	"math"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
)

const (
	// sampleError is how far an estimate may be off, as a share of all entries,
	// before certificates are read to narrow it.
	sampleError = 0.05
	// normal95 is the normal distribution's quantile for 95 of 100 cases, 1.96,
	// and what it costs to stop as soon as the margin is small enough. Both this
	// and few95 are what simulation asks for.
	normal95 = 2.05
	// few95, over the number of reads, is added to it: the variance is estimated
	// too, as in Student's distribution.
	few95 = 5
	// leastReads are how many must be read of a list's entries in question,
	// unless those are fewer, before anything is concluded from them.
	leastReads = 10
	// mostSlices is into how many slices by date of revocation the entries in
	// question are cut: those that were revoked together tend to end together.
	mostSlices = 10
	// sliceReads are how many reads a slice has at least; with fewer it is joined
	// to its neighbour.
	sliceReads = 4
	// ttlSlack is by how much a certificate may outlive the longest TTL: clocks
	// of two nodes.
	ttlSlack = time.Minute
)

// Estimate is NewEstimate, narrowed by what the sample knows of the entries in
// question: those between the bounds.
//
// They are cut into slices by date of revocation. Each slice's share of
// reclaimable entries is that among its reads, and its variance has a failure
// and a success added that were not seen, since a few reads of the same kind do
// not make the rest sure. Entries whose certificates are no longer stored, and
// those that no pass has seen yet, may be either: half of them are in Likely,
// the other half in Margin.
//
// Where a certificate was read that outlives the longest TTL, nothing follows
// from that: all that was revoked before the safety buffer is in question then.
func (s *Sample) Estimate(crls []CRL, longest LongestTTL, buffer time.Duration, now time.Time) Estimate {
	e := NewEstimate(crls, longest, buffer, now)
	if s == nil {
		return e
	}
	if example := s.outlives(longest); example != "" {
		e = NewEstimate(crls, LongestTTL{}, buffer, now)
		e.TTLBroken, e.TTLExample = true, example
	}
	s.narrow(&e)
	return e
}

// outlives tells of a certificate that lives longer than it should, "" without
// one.
func (s *Sample) outlives(longest LongestTTL) string {
	if !longest.Known() {
		return ""
	}
	for _, l := range s.lists {
		for _, f := range l.read {
			if most := int64(f.revokedAt) + int64((longest.Duration+ttlSlack)/time.Second); f.notAfter != unstored && int64(f.notAfter) > most {
				return fmt.Sprintf("a certificate that was revoked at %s is valid until %s", instant(time.Unix(int64(f.revokedAt), 0)), instant(time.Unix(int64(f.notAfter), 0)))
			}
		}
	}
	return ""
}

// narrow sets what a sample tells.
func (s *Sample) narrow(e *Estimate) {
	var all judged
	narrowed := false
	for i := range e.lists {
		l := &e.lists[i]
		if l.low == l.high {
			continue
		}
		j := judged{doubt: float64(l.high - l.low)}
		if known := s.of(*l); known != nil {
			j = known.judge(*l, sampleError*float64(e.Total.Entries))
			narrowed = narrowed || j.read > 0
		}
		l.most = min(l.high, l.low+int64(math.Ceil(j.reclaimable+j.doubt+j.unstored+j.error())))
		if l.most == 0 {
			l.nextEnd = s.lists[l.crl.Issuer.ID].nextEnd(*l)
		}
		all.add(j)
	}
	e.readable = all.doubt/2 + all.error()
	if !narrowed {
		return
	}
	either := (all.doubt + all.unstored) / 2
	likely := min(max(e.Low+int64(math.Round(all.reclaimable+either)), e.Low), e.High)
	margin := min(int64(math.Ceil(either+all.error())), max(likely-e.Low, e.High-likely))
	e.sampled, e.Likely, e.Margin = true, likely, margin
	e.Unstored, e.Read = int64(math.Round(all.unstored)), all.read
}

// judged is what a sample tells of the entries in question of one list, or of
// several.
type judged struct {
	reclaimable float64 // estimated
	unstored    float64 // estimated: those whose certificate cannot be read
	doubt       float64 // those that the sample says nothing of
	variance    float64 // of the estimates
	read        int64
}

func (j *judged) add(other judged) {
	j.reclaimable += other.reclaimable
	j.unstored += other.unstored
	j.doubt += other.doubt
	j.variance += other.variance
	j.read += other.read
}

// error is how far the estimates may be off in 95 of 100 cases.
func (j judged) error() float64 {
	if j.variance == 0 {
		return 0
	}
	return (normal95 + few95/float64(j.read)) * math.Sqrt(j.variance)
}

// slice is a part of the entries in question, by date of revocation.
type slice struct {
	from, to                    int64 // Unix times
	entries                     int64
	read, reclaimable, unstored int64
}

// judge tells of the entries in question. Where those that are not read yet
// are few, at most tolerated, they are left in doubt; otherwise what was read
// after the first of them is not used.
func (l *sampledList) judge(e listEstimate, tolerated float64) judged {
	nothing := judged{doubt: float64(e.high - e.low)}
	from, to, level := max(e.from, l.from), min(e.to, l.seen(e.crl.Summary)), l.share
	if first, oldest := l.unread(from, to, l.level); oldest != 0 {
		if kept, _ := counted(e, from, oldest); float64(e.high-e.low-kept) <= tolerated {
			to, level = oldest, l.level
		} else if first > 0 {
			level = first - 1
		}
	} else if next, _ := l.unread(from, to, math.MaxUint64); next > 0 {
		level = next - 1
	}
	entries, slices := counted(e, from, to)
	read := l.deal(slices[:], level, e.reclaimableBefore)
	if read < entries && read < leastReads {
		return nothing
	}
	j := judged{doubt: float64(e.high - e.low - entries), read: read}
	var part slice
	for i := range slices {
		part.entries += slices[i].entries
		part.read += slices[i].read
		part.reclaimable += slices[i].reclaimable
		part.unstored += slices[i].unstored
		rest := read - part.read
		if i < len(slices)-1 && (part.read < sliceReads || rest < sliceReads) {
			continue
		}
		part.tell(&j)
		read -= part.read
		part = slice{}
	}
	part.tell(&j)
	return j
}

// matches tells whether the list still has what it had at the last pass, apart
// from what was added since: a tidy takes out what is reclaimable.
func (l *sampledList) matches(now crl.Summary) bool {
	at := now.ThisUpdate
	if l.frame.ThisUpdate.Before(at) {
		at = l.frame.ThisUpdate
	}
	_, have := now.Revocations.Before(at)
	had, _ := l.frame.Revocations.Before(at)
	_, most := l.frame.Revocations.Before(at)
	least, _ := now.Revocations.Before(at)
	return had <= have && least <= most
}

// seen is until when the last pass has seen all entries of the list.
func (l *sampledList) seen(now crl.Summary) int64 {
	if string(now.Digest) == string(l.frame.Digest) {
		return math.MaxInt64
	}
	return l.frame.ThisUpdate.Unix()
}

// nextEnd is the Unix time at which the first certificate ends that is not
// reclaimable yet, among those that were read and those that are not in question
// yet: they end at their revocation at the earliest.
func (l *sampledList) nextEnd(e listEstimate) int64 {
	next := int64(math.MaxUint32)
	for at := range e.crl.Summary.Revocations.Buckets {
		if begin := at.Unix(); begin >= e.to {
			next = begin
			break
		}
	}
	for _, f := range l.read {
		if end := int64(f.notAfter); f.notAfter != unstored && end >= e.reclaimableBefore {
			next = min(next, end)
		}
	}
	return next
}

// unread finds the lowest hash, and the earliest revocation, of those up to a
// hash that were revoked in a time and are to be read still; 0 without one.
func (l *sampledList) unread(from, to int64, upTo uint64) (first uint64, oldest int64) {
	for _, c := range l.waiting {
		if c.hash > upTo {
			break
		}
		if at := int64(c.revokedAt); at >= from && at < to && c.state == toRead {
			if first == 0 {
				first, oldest = c.hash, at
			}
			oldest = min(oldest, at)
		}
	}
	return first, oldest
}

// counted cuts the entries in question that were revoked in a time, as far as
// the histogram's buckets lie within it, into slices of about the same size.
func counted(e listEstimate, from, to int64) (entries int64, slices [mostSlices]slice) {
	h := e.crl.Summary.Revocations
	width := int64(h.Width() / time.Second)
	within := func(yield func(end, n int64) bool) {
		for at, n := range h.Buckets {
			if begin := at.Unix(); begin >= from && begin+width <= to && !yield(begin+width, n) {
				return
			}
		}
	}
	for _, n := range within {
		entries += n
	}
	i := 0
	var sum int64
	for end, n := range within {
		if sum == 0 {
			slices[0].from = end - width
		}
		sum += n
		slices[i].to = end
		slices[i].entries += n
		if i < mostSlices-1 && sum*mostSlices >= entries*int64(i+1) {
			i++
		}
	}
	return entries, slices
}

// deal puts those that were read, up to a hash, to their slices.
func (l *sampledList) deal(slices []slice, level uint64, reclaimableBefore int64) (read int64) {
	for _, f := range l.read {
		if at := int64(f.revokedAt); f.hash <= level && at >= slices[0].from {
			for i := range slices {
				if at >= slices[i].to {
					continue
				}
				read++
				slices[i].read++
				switch {
				case f.notAfter == unstored:
					slices[i].unstored++
				case int64(f.notAfter) < reclaimableBefore:
					slices[i].reclaimable++
				}
				break
			}
		}
	}
	return read
}

// tell adds what the reads of a slice say of all of it.
func (p slice) tell(j *judged) {
	switch {
	case p.entries == 0:
		return
	case p.read == 0:
		j.doubt += float64(p.entries)
		return
	}
	each := float64(p.entries) / float64(p.read)
	j.reclaimable += each * float64(p.reclaimable)
	j.unstored += each * float64(p.unstored)
	variance := max(p.variance(p.reclaimable), p.variance(p.reclaimable+p.unstored))
	j.variance += variance
}

// variance of the number of entries of which so many were read.
func (p slice) variance(found int64) float64 {
	if p.read >= p.entries {
		return 0
	}
	n, size := float64(p.read), float64(p.entries)
	share := (float64(found) + 1) / (n + 2)
	return size * size * share * (1 - share) / n * (1 - n/size)
}
