package crl

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// enoughEntries is from where on a list's own mean tells what an entry takes:
// the frame around the entries, 246 to 700 bytes by the issuer's key, is then
// less than half a byte of each.
const enoughEntries = 1000

// bytesPerEntry is what an entry of a list takes: as measured from the list
// where it has enough of them, else 39, as in Vault's lists. Reason codes and
// serial numbers of other sizes make a difference.
func bytesPerEntry(size, entries int64) float64 {
	if entries < enoughEntries {
		return entryBytes
	}
	return float64(size-listBytes) / float64(entries)
}

// Rate is how many certificates are revoked, apart from what tidy removes.
type Rate struct {
	PerDay float64
	Days   int    // that were counted whole
	Why    string // it is not known; "" otherwise
}

// Revocations is the mean rate of the last eight weeks in which additions were
// counted, at least one day. A single mass revocation is left out, as Forecast
// does.
func Revocations(h History, now time.Time) Rate {
	c, p := observe(h, now)
	if p.Why != "" {
		return Rate{Why: p.Why}
	}
	var steps []float64
	n := min(int(p.Span/oneDay), maxBack)
	for i := range n {
		from := c.end.Add(-time.Duration(n-i) * oneDay)
		if added, ok := c.added(from, from.Add(oneDay)); ok {
			steps = append(steps, added)
		}
	}
	if len(steps) == 0 {
		return Rate{Why: "no whole day in which additions were counted"}
	}
	once := oneOff(steps)
	sum, days := 0.0, 0
	for i, step := range steps {
		if len(once) == 0 || i != once[0] && i != once[len(once)-1] {
			sum, days = sum+step, days+1
		}
	}
	return Rate{PerDay: sum / float64(days), Days: len(steps)}
}

// added is what was added to the list between two instants, false where it was
// not counted.
func (c course) added(from, to time.Time) (float64, bool) {
	first, last := c.current(from), c.current(to)
	if first < 0 {
		return 0, false
	}
	for _, s := range c.samples[first : last+1] {
		if s.CountedFrom.IsZero() || !s.CountedFrom.Equal(c.samples[first].CountedFrom) {
			return 0, false
		}
	}
	return float64(c.samples[last].Added - c.samples[first].Added), true
}

// current is the index of the list that was current at an instant, -1 before
// the first.
func (c course) current(at time.Time) int {
	i := len(c.samples) - 1
	for i >= 0 && c.samples[i].ThisUpdate.After(at) {
		i--
	}
	return i
}

// SteadyInputs are what the steady state of a list follows from. What is zero
// is unknown.
type SteadyInputs struct {
	Revocations   Rate
	RemainingLife time.Duration // mean, of a certificate when it is revoked
	SafetyBuffer  time.Duration // for which tidy keeps what has expired
	TidyInterval  time.Duration // from one run, with the rebuild of the list, to the next
}

// Steady is where the growth of a list stops by itself.
type Steady struct {
	Known    bool
	Entries  int64 // at the most: just before tidy runs
	Bytes    int64
	HasLimit bool
	BelowIt  bool   // the limit is never reached, should everything stay as it is
	Why      string // not Known, and what is missing; else the sum in words
}

// SteadyState is where growth stops by itself: an entry stays until its
// certificate has expired, the safety buffer has passed, and tidy has run, so
//
//	entries = revocations a day × (remaining life + safety buffer + tidy interval)
//
// in days. latest is the list as it is, which says what an entry takes.
func SteadyState(latest Sample, in SteadyInputs, l Limit) Steady {
	var missing []string
	for _, m := range []struct {
		unknown bool
		name    string
	}{
		{in.Revocations.Why != "" || in.Revocations.Days == 0, "revocations a day"},
		{in.RemainingLife <= 0, "remaining life of what is revoked"},
		{in.SafetyBuffer <= 0, "safety buffer"},
		{in.TidyInterval <= 0, "tidy interval"},
		{latest.Bytes <= 0, "a list"},
	} {
		if m.unknown {
			missing = append(missing, m.name)
		}
	}
	if len(missing) > 0 {
		return Steady{Why: "unknown: " + strings.Join(missing, ", ")}
	}
	stay := in.RemainingLife + in.SafetyBuffer + in.TidyInterval
	entries := in.Revocations.PerDay * (float64(stay) / float64(oneDay))
	each := bytesPerEntry(latest.Bytes, latest.Entries)
	around := math.Max(0, float64(latest.Bytes)-each*float64(latest.Entries))
	s := Steady{
		Known:   true,
		Entries: int64(math.Round(entries)),
		Bytes:   int64(math.Round(around + each*entries)),
		Why: fmt.Sprintf("%.4g revocations a day × (%s remaining life + %s safety buffer + %s tidy interval) × %.3g bytes",
			in.Revocations.PerDay, words(in.RemainingLife), words(in.SafetyBuffer), words(in.TidyInterval), each),
	}
	var used float64
	if used, s.HasLimit = l.Used(s.Bytes, s.Entries); s.HasLimit {
		s.BelowIt = used <= 1
	}
	return s
}

// Headroom is how many times all live certificates could be revoked before a
// list like latest reaches its limit: below 1, redeploying everything breaks
// it. It is 0 where the limit is reached, and false where limit or fleet are
// unknown, or there is no list; an empty fleet has none either.
func Headroom(latest Sample, l Limit, f Fleet) (float64, bool) {
	limit := l.bytesFor(latest)
	if limit <= 0 || latest.Bytes <= 0 || !f.Known || f.Certificates <= 0 {
		return 0, false
	}
	room := float64(max(0, limit-latest.Bytes)) / bytesPerEntry(latest.Bytes, latest.Entries)
	return room / float64(f.Certificates), true
}
