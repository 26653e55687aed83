package pki

import (
	"math"
	"slices"
	"sort"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
)

// listSlack is what a list may be longer than another one with the same
// entries: an ECDSA signature is up to three octets shorter than the longest,
// a CRL number grows, and so do the lengths around them.
const listSlack = 8

// confidence is how many standard deviations are within 95 %.
const confidence = 1.96

// EntrySize is the DER length of the entry that Vault makes of a serial number
// of so many octets, the contents of its INTEGER: with a UTCTime, as until 2050,
// and no extensions (builtin/logical/pki/crl_util.go).
func EntrySize(serialOctets int64) int64 {
	const utcTime = 15
	return withHeader(withHeader(serialOctets) + utcTime)
}

// withHeader is the length of a DER value with its tag and length.
func withHeader(n int64) int64 {
	header := int64(2)
	if n >= 0x80 {
		for rest := n; rest > 0; rest >>= 8 {
			header++
		}
	}
	return header + n
}

// amount is a part of a list.
type amount struct{ entries, bytes int64 }

func (a amount) plus(b amount) amount { return amount{a.entries + b.entries, a.bytes + b.bytes} }

// keep says how much of a group stays on a list: at most and at least.
type keep func(RescueGroup) (most, least amount)

func (q *planner) keepAll(g RescueGroup) (most, least amount) {
	all := amount{g.Entries, g.Bytes}
	return all, all
}

// keepAfter is what a tidy with this buffer leaves. What Vault no longer stores
// the certificate of may stay or go.
func (q *planner) keepAfter(buffer time.Duration) keep {
	before := q.now.Add(-buffer).Unix()
	return func(g RescueGroup) (most, least amount) { return g.since(before) }
}

// since is what of a group has not expired before an instant in Unix seconds.
func (g RescueGroup) since(before int64) (most, least amount) {
	var stay, doubt amount
	for _, e := range g.Sample {
		one := amount{1, int64(e.Bytes)}
		switch {
		case e.NotAfter == 0:
			doubt = doubt.plus(one)
		case e.NotAfter >= before:
			stay = stay.plus(one)
		}
	}
	if g.exact() {
		return stay.plus(doubt), stay
	}
	if len(g.Sample) == 0 {
		return amount{g.Entries, g.Bytes}, amount{}
	}
	return g.share(stay.entries+doubt.entries, 1), g.share(stay.entries, -1)
}

// share takes what a number of the sampled entries stands for, to the side of
// the interval that sign names.
func (g RescueGroup) share(sampled int64, sign float64) amount {
	n, all := float64(len(g.Sample)), float64(g.Entries)
	p := float64(sampled) / n
	// Where all or none are of a kind, three in n might still not be.
	margin := 3 / n
	if sampled > 0 && sampled < int64(n) {
		margin = confidence * math.Sqrt(p*(1-p)/n*(all-n)/(all-1))
	}
	entries := int64(math.Round(all * min(1, max(0, p+sign*margin))))
	return amount{entries, int64(math.Ceil(float64(g.Bytes) / all * float64(entries)))}
}

// sizes are the lists, what k leaves of their entries.
func (q *planner) sizes(k keep) []RescueSize {
	sizes := make([]RescueSize, 0, len(q.r.Lists))
	largest := 0
	for i, l := range q.r.Lists {
		sizes = append(sizes, l.size(k))
		if sizes[i].Bytes > sizes[largest].Bytes {
			largest = i
		}
	}
	// What was just refused is, whatever the limit is taken to be.
	if q.r.TooLarge != nil && len(sizes) > 0 && sizes[largest].EntriesLeast >= q.r.Lists[largest].Kept() {
		sizes[largest].Fits = new(false)
	}
	return sizes
}

func (l RescueList) size(k keep) RescueSize {
	var most, least amount
	for _, g := range l.Groups {
		m, f := k(g)
		most, least = most.plus(m), least.plus(f)
	}
	s := RescueSize{
		Issuer:  l.Served.Issuer.Label(),
		Entries: most.entries, Bytes: l.bytes(most.bytes),
		EntriesLeast: least.entries, BytesLeast: l.bytes(least.bytes),
	}
	limit := l.Served.Limit
	fit, known := fits(limit, s.Bytes, s.Entries)
	if !fit && known {
		could, _ := fits(limit, s.BytesLeast-listSlack, s.EntriesLeast)
		known = !could
	}
	if known {
		s.Fits = &fit
	}
	return s
}

// bytes is the DER length, at most, of a list with entries of so many bytes: the
// served list with others in it.
func (l RescueList) bytes(entries int64) int64 {
	frame := l.frame()
	return listOf(frame, entries) + listSlack
}

// outsideSigned is what stands in a list after its signed part, for an EC P-256
// issuer. It matters only for which lengths need another octet.
const outsideSigned = 86

// frame is what the signed part of the served list holds besides its entries.
func (l RescueList) frame() int64 {
	bytes := l.Served.Summary.Bytes
	frame := max(0, bytes-l.ServedEntryBytes-outsideSigned-16)
	for listOf(frame, l.ServedEntryBytes) < bytes {
		frame++
	}
	return frame
}

// listOf is the length of a list whose signed part holds so many octets besides
// the list of entries, which is left out where there are none (RFC 5280 section
// 5.1.2.6).
func listOf(frame, entries int64) int64 {
	signed := frame
	if entries > 0 {
		signed += withHeader(entries)
	}
	return withHeader(withHeader(signed) + outsideSigned)
}

// expiries are when the entries of a list expire that were looked at, in Unix
// seconds, oldest first.
func (l RescueList) expiries() []int64 {
	var all []int64
	for _, g := range l.Groups {
		for _, e := range g.Sample {
			if e.NotAfter > 0 {
				all = append(all, e.NotAfter)
			}
		}
	}
	slices.Sort(all)
	return all
}

// fitsOnce is the instant, in Unix seconds, of which this holds: once all that
// expires until then is off the list, it surely fits. It is false where not even
// that helps.
func (l RescueList) fitsOnce() (int64, bool) {
	expiries := l.expiries()
	at, found := slices.BinarySearchFunc(expiries, true, func(notAfter int64, _ bool) int {
		s := l.size(func(g RescueGroup) (most, least amount) { return g.since(notAfter + 1) })
		if s.Fits != nil && *s.Fits {
			return 0
		}
		return -1
	})
	if !found {
		return 0, false
	}
	return expiries[at], true
}

// RoomFor is how many more of Vault's entries fit into a list of this size;
// false where there is no limit, or none is known.
func RoomFor(l crl.Limit, bytes, entries int64) (room int64, known bool) {
	const most = 1 << 24 // beyond that there is room enough
	if _, bounded := l.Used(bytes, entries); !bounded {
		return 0, false
	}
	tooMany := sort.Search(most, func(n int) bool {
		more := int64(n)
		used, _ := l.Used(bytes+EntryBytes*more+listSlack*min(more, 1), entries+more)
		return used > 1
	})
	return int64(max(0, tooMany-1)), true
}
