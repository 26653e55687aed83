package pki

import (
	"fmt"
	"math"
	"time"
)

// EntryBytes is what one entry takes in a CRL that Vault built: serial and
// time, no extensions (builtin/logical/pki/crl_util.go).
const EntryBytes = 39

// Estimate bounds what a run would delete from the CRLs of a mount, at no cost:
// from revocation dates alone. With r the date of a revocation, Vault's refusal
// to revoke what has expired gives r <= NotAfter <= r + longest TTL, and tidy
// deletes what satisfies now - NotAfter > safety buffer.
type Estimate struct {
	Low   int64 // surely reclaimable; 0 when LowKnown is false
	High  int64 // all that may be reclaimable; what is above it surely is not
	Total Size  // of all lists of the mount

	LowKnown bool // false where the longest TTL is unknown, or broken

	// TTLBroken: a certificate was read that lives longer than the longest TTL,
	// so that nothing follows from that; the example says which and how.
	TTLBroken  bool
	TTLExample string

	// What was sampled narrows the bounds. Without a sample Likely is Low and
	// Margin what lies between Low and High.
	Likely   int64 // the best guess, between Low and High
	Margin   int64 // Likely is off by at most this in 95 of 100 cases; 0: exact
	Unstored int64 // of the entries in question, those whose certificate Vault no longer stores; they count in Margin
	Read     int64 // certificates that were read for this

	// EarliestAt is when, at the earliest, an entry that is not reclaimable now
	// becomes so; zero without entries.
	EarliestAt time.Time

	lists    []listEstimate
	sampled  bool    // Likely and Margin come from a sample
	readable float64 // what of the Margin reading more certificates can take away
}

// Sure is what thresholds count: the lower end of the interval, which is never
// below Low.
func (e Estimate) Sure() int64 { return max(e.Low, e.Likely-e.Margin) }

// Most is the upper end of the interval: more is surely not reclaimable, or, by a
// sample, not in 95 of 100 cases. It is never above High.
func (e Estimate) Most() int64 { return min(e.High, e.Likely+e.Margin) }

// Sampled tells whether Likely and Margin come from certificates that were read.
func (e Estimate) Sampled() bool { return e.sampled }

// listEstimate is the part of one list.
type listEstimate struct {
	crl       CRL
	low, high int64
	most      int64 // high, or the upper end of what a sample says
	nextEnd   int64 // where that is 0 by a sample: Unix time at which the next certificate ends, at the earliest

	// What is in question, between low and high: entries that were revoked from
	// one Unix time until another, edges of the histogram's buckets.
	from, to int64
	// reclaimableBefore: certificates that ended before this Unix time are.
	reclaimableBefore int64
}

// Size is what lists take.
type Size struct {
	Entries int64 `json:"entries"`
	Bytes   int64 `json:"bytes"` // DER
}

// SizeOf adds up lists, each counted once.
func SizeOf(crls []CRL) Size {
	var s Size
	for _, c := range distinct(crls) {
		s.Entries += c.Summary.Entries
		s.Bytes += c.Summary.Bytes
	}
	return s
}

// NewEstimate bounds what a tidy with the given safety buffer would delete at
// now from crls.
func NewEstimate(crls []CRL, longest LongestTTL, buffer time.Duration, now time.Time) Estimate {
	e := Estimate{Total: SizeOf(crls), LowKnown: longest.Known()}
	for _, c := range distinct(crls) {
		l := listEstimate{crl: c}
		_, l.high = c.Summary.Revocations.Before(now.Add(-buffer))
		if longest.Known() {
			l.low, _ = c.Summary.Revocations.Before(now.Add(-buffer - longest.Duration))
		}
		l.most = l.high
		l.question(longest, buffer, now)
		e.Low += l.low
		e.High += l.high
		e.lists = append(e.lists, l)
		if c.Summary.Entries > 0 {
			at := c.Summary.OldestRevocation.Add(buffer)
			if e.EarliestAt.IsZero() || at.Before(e.EarliestAt) {
				e.EarliestAt = at
			}
		}
	}
	e.Likely, e.Margin = e.Low, e.High-e.Low
	e.readable = float64(e.Margin) / 2
	return e
}

// question sets the times of what is in question. An instant within a second,
// and a bucket that is so only in part, is counted whole, as
// [crl.Histogram.Before] does for its upper bound.
func (l *listEstimate) question(longest LongestTTL, buffer time.Duration, now time.Time) {
	width := int64(l.crl.Summary.Revocations.Width() / time.Second)
	l.reclaimableBefore = secondsUp(now.Add(-buffer))
	l.to = -floorTo(-l.reclaimableBefore, width)
	l.from = math.MinInt64
	if longest.Known() {
		l.from = floorTo(secondsUp(now.Add(-buffer-longest.Duration)), width)
	}
}

// secondsUp is the first Unix time that is not before t.
func secondsUp(t time.Time) int64 {
	if t.Nanosecond() > 0 {
		return t.Unix() + 1
	}
	return t.Unix()
}

// floorTo rounds at down to a multiple of width, below zero too.
func floorTo(at, width int64) int64 {
	rest := at % width
	if rest < 0 {
		rest += width
	}
	return at - rest
}

// Prediction is what a run will achieve: by a sample where there is one, else
// at least.
type Prediction struct {
	Reclaimable int64 `json:"reclaimable"` // entries: Estimate.Likely
	BytesAfter  int64 `json:"bytesAfter"`  // DER of all lists, without new revocations
}

// Prediction takes EntryBytes for each entry that is likely to be reclaimable
// off the measured size.
func (e Estimate) Prediction() Prediction {
	return Prediction{Reclaimable: e.Likely, BytesAfter: max(0, e.Total.Bytes-EntryBytes*e.Likely)}
}

// words says what is reclaimable, and how sure that is.
func (e Estimate) words() string {
	switch {
	case e.Total.Entries == 0:
		return "no CRL has an entry"
	case e.High == 0:
		return fmt.Sprintf("none of %d entries can be reclaimable yet", e.Total.Entries)
	case e.sampled && e.Margin == 0:
		return fmt.Sprintf("%d of %d entries are reclaimable", e.Likely, e.Total.Entries)
	case e.sampled:
		return fmt.Sprintf("about %d ± %d of %d entries are reclaimable (%s)", e.Likely, e.Margin, e.Total.Entries, e.basis())
	case !e.LowKnown:
		return fmt.Sprintf("at most %d of %d entries are reclaimable (no lower bound: the longest TTL is unknown)", e.High, e.Total.Entries)
	case e.Low == e.High:
		return fmt.Sprintf("%d of %d entries are reclaimable", e.Low, e.Total.Entries)
	}
	return fmt.Sprintf("between %d and %d of %d entries are reclaimable", e.Low, e.High, e.Total.Entries)
}

// taken says what a run takes off.
func (e Estimate) taken() string {
	switch {
	case e.sampled && e.Margin > 0:
		return fmt.Sprintf("about %d ± %d entries", e.Likely, e.Margin)
	case e.sampled, e.LowKnown && e.Low == e.High:
		return fmt.Sprintf("%d entries", e.Likely)
	}
	return fmt.Sprintf("at least %d entries", e.Low)
}

// source says where a number comes from that a sample has made better than the
// bounds, "" otherwise.
func (e Estimate) source() string {
	if !e.sampled || e.Margin == 0 || e.Sure() <= e.Low {
		return ""
	}
	return fmt.Sprintf(" (about %d ± %d by a %s)", e.Likely, e.Margin, e.basis())
}

// basis names the sample.
func (e Estimate) basis() string {
	if e.Unstored > 0 {
		return fmt.Sprintf("sample of %d; the certificates of %d are no longer stored", e.Read, e.Unstored)
	}
	return fmt.Sprintf("sample of %d", e.Read)
}

// distinct leaves out delta lists, and all but the first of lists that have
// issuer name and authority key in common: Vault keeps one list for each pair.
func distinct(crls []CRL) []CRL {
	type key struct{ name, keyID string }
	seen := make(map[key]bool, len(crls))
	var kept []CRL
	for _, c := range crls {
		k := key{string(c.Summary.RawIssuer), string(c.Summary.AuthorityKeyID)}
		if c.Summary.Delta() || seen[k] {
			continue
		}
		seen[k] = true
		kept = append(kept, c)
	}
	return kept
}
