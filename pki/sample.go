package pki

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"slices"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
)

// Sample is what was read of the certificates behind the entries of a mount's
// lists: their ends, which narrow an Estimate. An entry is in the sample when a
// keyed hash of its serial number is low enough. So each entry has the same
// chance, whenever it was added; a larger sample contains a smaller one; and
// reading can stop at any certificate and go on at another time.
//
// A certificate never changes, so each is read once. That takes 19 octets for
// one that was read, and 45 while it waits (measured by BenchmarkSampleMemory),
// up to the limit of NewSample.
//
// A Sample is not for concurrent use. A nil one knows nothing.
type Sample struct {
	key   [16]byte
	limit int
	lists map[string]*sampledList // by ID of the issuer
	full  bool                    // the limit kept the last pass from collecting more
}

// sampledList is the sample of one list.
type sampledList struct {
	frame crl.Summary // the list at the last pass: no later entry is in the sample
	from  int64       // Unix time: earlier entries are collected below older only
	share uint64      // entries whose hash is at most this are collected
	older uint64
	level uint64 // of what is in question, all up to this hash have been read; 0: nothing

	read    []fate
	waiting []candidate // by hash, with those that were answered since
	done    int         // of waiting: answered
}

// fate is a certificate that was read.
type fate struct {
	hash      uint64
	revokedAt uint32 // Unix time
	notAfter  uint32 // Unix time; unstored where Vault stores it no longer
}

const unstored = 0

// candidate is one that is to be read.
type candidate struct {
	hash      uint64
	revokedAt uint32
	octets    uint8
	state     candidateState
	serial    [20]byte
}

type candidateState uint8

const (
	toRead     candidateState = iota
	unreadable                // left alone until the next pass
	answered                  // it was read
)

// NewSample makes an empty sample of at most limit certificates. The key must
// be drawn at random, so that nobody can choose serial numbers that are, or are
// not, in the sample.
func NewSample(key [16]byte, limit int) *Sample {
	return &Sample{key: key, limit: limit, lists: make(map[string]*sampledList)}
}

// SetLimit changes how many certificates there may be, from the next pass on.
func (s *Sample) SetLimit(limit int) { s.limit = limit }

// Len is how many certificates the sample holds, and how many of them were
// read.
func (s *Sample) Len() (all, read int) {
	if s == nil {
		return 0, 0
	}
	for _, l := range s.lists {
		all, read = all+len(l.read)+len(l.waiting)-l.done, read+len(l.read)
	}
	return all, read
}

// Certificate is one that is to be read.
type Certificate struct {
	Serial string // as Vault writes it: octets in hexadecimal with colons between them

	list string
	hash uint64
}

// NotAfter takes the answer: the end of the certificate.
func (s *Sample) NotAfter(c Certificate, at time.Time) {
	s.answer(c, clamp(max(at.Unix(), unstored+1)))
}

// Unstored takes the answer that Vault stores no such certificate, or no longer.
func (s *Sample) Unstored(c Certificate) { s.answer(c, unstored) }

// Failed takes it that the certificate could not be read: it counts for
// nothing, and is tried again after the next pass.
func (s *Sample) Failed(c Certificate) {
	if l, at := s.find(c); l != nil {
		l.waiting[at].state = unreadable
	}
}

func (s *Sample) answer(c Certificate, notAfter uint32) {
	l, at := s.find(c)
	if l == nil {
		return
	}
	l.read = append(l.read, fate{c.hash, l.waiting[at].revokedAt, notAfter})
	l.waiting[at].state = answered
	if l.done++; l.done > len(l.waiting)/2 {
		left := make([]candidate, 0, len(l.waiting)-l.done)
		for _, w := range l.waiting {
			if w.state != answered {
				left = append(left, w)
			}
		}
		l.waiting, l.done = left, 0
	}
}

func (s *Sample) find(c Certificate) (*sampledList, int) {
	l := s.lists[c.list]
	if l == nil {
		return nil, 0
	}
	at, found := slices.BinarySearchFunc(l.waiting, c.hash, func(w candidate, h uint64) int { return cmp.Compare(w.hash, h) })
	if !found || l.waiting[at].state == answered {
		return nil, 0
	}
	return l, at
}

// Pass collects what is to be in a sample from the entries of all lists of a
// mount, as they are streamed. Nothing changes until [Sample.Accept].
type Pass struct {
	s     *Sample
	goal  goal
	lists map[string]*passedList
	held  int
	full  bool
}

// goal is what a pass is to collect.
type goal struct {
	share, older uint64
	from         map[string]int64 // by ID of the issuer; none: all
}

type passedList struct {
	from    int64
	present []bool // of read
	read    []fate // by hash
	waiting []candidate
}

// Pass begins a pass for what e, an estimate of this sample, lacks.
func (s *Sample) Pass(e Estimate, exact bool) *Pass {
	return &Pass{s: s, goal: s.goal(e, exact), lists: make(map[string]*passedList)}
}

// List begins a list; what it returns takes the list's entries, in any order.
func (p *Pass) List(i Issuer) func(crl.Entry) error {
	l := &passedList{from: math.MinInt64}
	if from, ok := p.goal.from[i.ID]; ok {
		l.from = from
	}
	if known := p.s.lists[i.ID]; known != nil {
		slices.SortFunc(known.read, func(a, b fate) int { return cmp.Compare(a.hash, b.hash) })
		l.read, l.present = known.read, make([]bool, len(known.read))
	}
	p.lists[i.ID] = l
	buf := make([]byte, len(p.s.key), 64)
	copy(buf, p.s.key[:])
	return func(e crl.Entry) error {
		p.add(l, e, buf)
		return nil
	}
}

// add takes an entry into l where it belongs to the sample. buf begins with the
// key.
func (p *Pass) add(l *passedList, e crl.Entry, buf []byte) {
	serial := e.Serial
	for len(serial) > 1 && serial[0] == 0 { // a positive number's sign
		serial = serial[1:]
	}
	c := candidate{revokedAt: clamp(e.RevokedAt.Unix()), octets: uint8(len(serial))}
	if len(serial) > len(c.serial) {
		return // RFC 5280 section 4.1.2.2 forbids it, and Vault makes none
	}
	sum := sha256.Sum256(append(buf, serial...))
	c.hash = binary.BigEndian.Uint64(sum[:])
	if c.hash > p.threshold(l, c.revokedAt) {
		return
	}
	copy(c.serial[:], serial)
	p.held++
	at, known := slices.BinarySearchFunc(l.read, c.hash, func(f fate, h uint64) int { return cmp.Compare(f.hash, h) })
	if known {
		l.present[at] = true
	} else {
		l.waiting = append(l.waiting, c)
	}
	if p.held > p.s.limit {
		p.halve()
	}
}

func (p *Pass) threshold(l *passedList, revokedAt uint32) uint64 {
	if int64(revokedAt) < l.from {
		return p.goal.older
	}
	return p.goal.share
}

// halve drops the upper half of the hashes: an even smaller sample of the same
// kind.
func (p *Pass) halve() {
	p.full = true
	p.goal.share /= 2
	p.goal.older = min(p.goal.older, p.goal.share)
	p.held = 0
	for _, l := range p.lists {
		l.waiting = slices.DeleteFunc(l.waiting, func(c candidate) bool { return c.hash > p.threshold(l, c.revokedAt) })
		p.held += len(l.waiting)
		for i, f := range l.read {
			l.present[i] = l.present[i] && f.hash <= p.threshold(l, f.revokedAt)
			if l.present[i] {
				p.held++
			}
		}
	}
}

// Accept takes over what p collected from these lists, which are those that
// were streamed, all of them and each verified. What is no longer in them is
// dropped.
func (s *Sample) Accept(p *Pass, lists []CRL) {
	accepted := make(map[string]*sampledList, len(lists))
	for _, c := range lists {
		passed := p.lists[c.Issuer.ID]
		if passed == nil {
			continue
		}
		l := &sampledList{frame: c.Summary, from: passed.from, share: p.goal.share, older: p.goal.older}
		present := 0
		for _, is := range passed.present {
			if is {
				present++
			}
		}
		l.read = make([]fate, 0, present)
		for i, f := range passed.read {
			if passed.present[i] {
				l.read = append(l.read, f)
			}
		}
		l.waiting = slices.Clip(passed.waiting)
		slices.SortFunc(l.waiting, func(a, b candidate) int { return cmp.Compare(a.hash, b.hash) })
		if known := s.lists[c.Issuer.ID]; known != nil && len(l.read) > 0 {
			l.level = min(known.level, l.share)
		}
		accepted[c.Issuer.ID] = l
	}
	s.lists, s.full = accepted, p.full
}

// serialText writes a serial number as Vault does.
func (c candidate) serialText() string {
	text := make([]byte, 0, 3*len(c.serial))
	for i, octet := range c.serial[:c.octets] {
		if i > 0 {
			text = append(text, ':')
		}
		text = hex.AppendEncode(text, []byte{octet})
	}
	return string(text)
}

// clamp makes a Unix time fit: until 2106.
func clamp(at int64) uint32 { return uint32(min(max(at, 0), math.MaxUint32)) }
