package pki

import (
	"cmp"
	"math"
	"slices"
)

const (
	// cheapReads are so few entries in question that all of them are read.
	cheapReads = 1000
	// confirmations are how many certificates are read of those that surely are
	// reclaimable by the longest TTL. Where that is wrong for a twentieth of
	// them, all of these are as it says in 5 of 100 cases.
	confirmations = 60
	// reserve is by how much a pass collects more than should be needed: how
	// many entries a hash picks varies.
	reserve = 1.25
	// leastGoal is how many are to be read at least.
	leastGoal = 40
)

// Want is what an estimate lacks, as far as reading can help.
type Want struct {
	// Pass: the lists must be read for more serial numbers.
	Pass bool
	// Reads is how many of the certificates that wait are to be read; more may be
	// wanted after these.
	Reads int64
	// Urgent: until then the estimate may be off by more than five of a hundred
	// entries, or the longest TTL is believed that no certificate has confirmed.
	Urgent bool
	// News: a pass would see entries that the last one did not.
	News bool
}

// Want tells what e, an estimate of this sample, lacks: confirmation of the
// longest TTL, then certificates until Likely is off by at most five of a
// hundred entries in 95 of 100 cases, then, where at most 1,000 are in question
// or exact is true, all of those. Nothing is wanted where the bounds alone are
// that close.
func (s *Sample) Want(e Estimate, exact bool) Want {
	var w Want
	known, news := s.inventory(e)
	w.News = news
	if e.LowKnown {
		lacks := min(confirmations, e.Low) - known.sureRead
		w.add(min(lacks, known.sureWaiting), lacks > known.sureWaiting && news, true)
	}
	question, tolerated := e.High-e.Low, sampleError*float64(e.Total.Entries)
	switch wide := float64(question) > 2*tolerated; {
	case question == 0:
	case wide && e.readable > tolerated:
		goal := max(e.reads(), leastGoal)
		w.add(min(max(goal-known.read, leastReads), known.waiting), known.waiting == 0 && (news || s.canGrow()), true)
	case (exact || question <= cheapReads) && e.readable > 0:
		w.add(known.waiting, known.waiting == 0 && !s.full && (news || s.canGrow()), false)
	default:
		w.add(known.overdue, false, false)
	}
	return w
}

func (w *Want) add(reads int64, pass, urgent bool) {
	reads = max(reads, 0)
	w.Reads += reads
	w.Pass = w.Pass || pass
	w.Urgent = w.Urgent || urgent && (reads > 0 || pass)
}

// reads is how many certificates make the error small enough, by simple random
// sampling: 384 × W² for 5 points at 95 of 100, W being the share of entries in
// question, and a tenth more.
func (e Estimate) reads() int64 {
	if e.Total.Entries == 0 {
		return 0
	}
	w := float64(e.High-e.Low) / float64(e.Total.Entries)
	return int64(math.Ceil(1.1 * 384 * w * w))
}

// inventory is what a sample holds.
type inventory struct {
	read, waiting, overdue int64 // of the entries in question; overdue: passed over
	sureRead, sureWaiting  int64 // of those that surely are reclaimable
}

// inventory counts, and tells whether a pass would see other entries than the
// last one: the lists are others, or earlier revocations are in question. It also notes how far all that is in question has been read.
func (s *Sample) inventory(e Estimate) (all inventory, news bool) {
	for i := range e.lists {
		l := e.lists[i]
		known := s.of(l)
		if known == nil {
			news = news || l.crl.Summary.Entries > 0
			continue
		}
		news = news || string(known.frame.Digest) != string(l.crl.Summary.Digest) || l.low < l.high && l.from < known.from
		for _, f := range known.read {
			switch at := int64(f.revokedAt); {
			case at < l.from:
				all.sureRead++
			case at < l.to:
				all.read++
			}
		}
		level := known.share
		for _, c := range known.waiting {
			switch at := int64(c.revokedAt); {
			case c.state != toRead || at >= l.to:
			case at < l.from:
				all.sureWaiting++
			default:
				all.waiting++
				level = min(level, c.hash-1)
				if c.hash <= known.level {
					all.overdue++
				}
			}
		}
		known.level = max(known.level, level)
	}
	return all, news
}

// of is the sample of a list, nil where there is none, or where it is of what
// the list was before a tidy: reading more of that is of no use.
func (s *Sample) of(e listEstimate) *sampledList {
	l := s.lists[e.crl.Issuer.ID]
	if l == nil || !l.matches(e.crl.Summary) {
		return nil
	}
	return l
}

// canGrow tells whether a pass over the same lists would collect more.
func (s *Sample) canGrow() bool {
	if s.full {
		return false
	}
	for _, l := range s.lists {
		if l.share < math.MaxUint64 {
			return true
		}
	}
	return false
}

// goal is what a pass is to collect for e: never less than the one before, so
// that what was read stays of use, and twice as much where that was not enough.
func (s *Sample) goal(e Estimate, exact bool) goal {
	g := goal{from: make(map[string]int64)}
	question := e.High - e.Low
	share, older := 1.0, 1.0
	if !exact && question > cheapReads {
		share = reserve * float64(max(e.reads(), leastGoal)) / float64(question)
	}
	if e.Low > 0 {
		older = reserve * confirmations / float64(e.Low)
	}
	g.share, g.older = portion(share), portion(older)
	grow := false
	for i := range e.lists {
		l := e.lists[i]
		g.from[l.crl.Issuer.ID] = l.from
		if known := s.lists[l.crl.Issuer.ID]; known != nil {
			g.share, g.older = max(g.share, known.share), max(g.older, known.older)
			grow = grow || known.share >= g.share && string(known.frame.Digest) == string(l.crl.Summary.Digest)
		}
	}
	if grow && g.share < math.MaxUint64 {
		g.share = portion(2 * float64(g.share) / math.MaxUint64)
	}
	g.older = min(g.older, g.share)
	return g
}

// portion is the hash up to which a share of all entries lies.
func portion(share float64) uint64 {
	if share >= 1 {
		return math.MaxUint64
	}
	return uint64(share * math.MaxUint64)
}

// Due returns up to most of the certificates that wait and are to be read next:
// what confirms the longest TTL first, then what is in question, by hash, so
// that those which have been read are a sample at any time.
func (s *Sample) Due(e Estimate, most int) []Certificate {
	var due []Certificate
	known, _ := s.inventory(e)
	confirm := int64(0)
	if e.LowKnown {
		confirm = min(confirmations, e.Low) - known.sureRead
	}
	for _, sure := range []bool{true, false} {
		left := most - len(due)
		if sure {
			left = int(min(int64(left), max(confirm, 0)))
		}
		var some []Certificate
		for i := range e.lists {
			some = append(some, s.due(e.lists[i], sure, left)...)
		}
		slices.SortFunc(some, func(a, b Certificate) int { return cmp.Compare(a.hash, b.hash) })
		due = append(due, some[:min(left, len(some))]...)
	}
	return due
}

// due are those of one list, of what surely is reclaimable or of what is in
// question, by hash.
func (s *Sample) due(e listEstimate, sure bool, most int) []Certificate {
	l := s.of(e)
	if l == nil {
		return nil
	}
	var due []Certificate
	for _, c := range l.waiting {
		if len(due) >= most {
			break
		}
		if at := int64(c.revokedAt); c.state == toRead && at < e.to && sure == (at < e.from) {
			due = append(due, Certificate{Serial: c.serialText(), list: e.crl.Issuer.ID, hash: c.hash})
		}
	}
	return due
}
