package crl

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"time"
)

const (
	// ages is the number of classes that entries are counted in: those dated at
	// or after an instant (class 0), then those up to 4096 s, about an hour,
	// before it, up to twice that, and so on; the last class has no end.
	ages = 13
	// printCount is how many entries dated at or after thisUpdate a Mark tells
	// one from another. There are few: what was revoked within that second.
	printCount  = 16
	markVersion = 1
)

// ageClass is the class of an entry dated age seconds before the instant.
func ageClass(age int64) int {
	if age <= 0 {
		return 0
	}
	return int(classOf[min((age-1)>>12, int64(len(classOf)-1))])
}

// classOf is the class by age in units of 4096 s.
var classOf = func() (table [1<<(ages-3) + 1]uint8) {
	for units := range table {
		class := uint8(1)
		for rest := units; rest > 0; rest /= 2 {
			class++
		}
		table[units] = class
	}
	return table
}()

// oldest is the age in seconds that no entry of the class exceeds. There is none
// for the last class.
func oldest(class int) int64 {
	if class == 0 {
		return 0
	}
	return 4096 << (class - 1)
}

// A Mark is what a list leaves behind for a later one of the same issuer to be
// compared with: the entries, counted and hashed by age. Its size, below 1 KiB
// of JSON, does not depend on the list. It carries its key, and may be stored
// and compared by another process. The zero Mark is of no list.
//
// Keep the Mark of a list only once its signature has been verified.
type Mark struct {
	Version    int          `json:"v"`
	Key        [2]hash64    `json:"key"`
	List       hash64       `json:"list"` // issuer, key, base and scope: with which lists it may be compared
	ThisUpdate int64        `json:"at"`   // Unix time
	Newest     int64        `json:"newest"`
	Entries    int64        `json:"n"`
	Counts     [ages]int64  `json:"counts"` // by age at thisUpdate
	Sums       [ages]hash64 `json:"sums"`   // of the hashes of the entries
	Prints     []hash64     `json:"prints"` // hashes of class 0, unless there are more than printCount
}

// hash64 is printed in hexadecimal: a JSON number of 64 bits is not safe with
// every reader.
type hash64 uint64

// MarshalText prints 16 digits.
func (h hash64) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%016x", uint64(h)), nil }

// UnmarshalText reads what MarshalText prints.
func (h *hash64) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(string(text), 16, 64)
	*h = hash64(n)
	return err
}

// usable tells whether a Mark is one that this package made.
func (m *Mark) usable() bool {
	if m == nil || m.Version != markVersion || len(m.Prints) > printCount {
		return false
	}
	var n int64
	for _, count := range m.Counts {
		if count < 0 || count > m.Entries {
			return false
		}
		n += count
	}
	return n == m.Entries
}

// Tally counts what changed from one list to a later one in memory that does
// not grow with the lists. It is given to a Scan as Options.Tally and asked
// afterwards, with the Summary of that scan.
type Tally struct {
	key        [2]uint64
	expanded   *[4]uint64
	thisUpdate int64
	newest     int64
	byAge      [ages]pile
	prints     [printCount]uint64

	previous against
	earlier  against // see Against
}

// against is what is counted to compare with one list: the entries by their age
// at its thisUpdate, as far as it may have had them.
type against struct {
	mark  *Mark // nil: none
	was   [ages]pile
	fresh int64  // dated after every entry of that list, and after its thisUpdate
	seen  uint32 // which of its prints were met
	met   int64  // how many
}

// pile is entries, counted and hashed.
type pile struct {
	n   int64
	sum uint64
}

func (p *pile) add(h uint64) {
	p.n++
	p.sum += h
}

// NewTally makes a Tally that compares with a previous list; nil where there is
// none. The key is chance, which keeps anybody from making entries whose
// hashes cancel out; it is used where there is no previous Mark to take it from.
func NewTally(previous *Mark, key [16]byte) *Tally {
	t := &Tally{key: [2]uint64{binary.LittleEndian.Uint64(key[:8]), binary.LittleEndian.Uint64(key[8:])}}
	if previous.usable() {
		t.previous.mark = previous
		t.key = [2]uint64{uint64(previous.Key[0]), uint64(previous.Key[1])}
	}
	t.expanded = expand(t.key)
	return t
}

// Against has the Tally compare with a second, earlier list too, which Since
// then tells of. It is called before the scan. Marks under different keys cannot
// be compared with one list: of such two the previous one counts, and Since is
// false. Marks that follow on each other have one key.
func (t *Tally) Against(earlier *Mark) {
	if !earlier.usable() {
		return
	}
	key := [2]uint64{uint64(earlier.Key[0]), uint64(earlier.Key[1])}
	switch {
	case t.key == key:
	case t.previous.mark == nil:
		t.key, t.expanded = key, expand(key)
	default:
		return
	}
	t.earlier.mark = earlier
}

// begin is called before the first entry, with thisUpdate as Unix time.
func (t *Tally) begin(thisUpdate int64) {
	*t = Tally{
		key: t.key, expanded: t.expanded, previous: against{mark: t.previous.mark}, earlier: against{mark: t.earlier.mark},
		thisUpdate: thisUpdate, newest: thisUpdate - 1,
	}
}

// add is called with each entry: the contents of its serial number's INTEGER,
// which change after it returns, and its date as Unix time.
func (t *Tally) add(serial []byte, at int64) {
	h := hashEntry(t.expanded, serial, at)
	class := ageClass(t.thisUpdate - at)
	if class == 0 {
		if n := t.byAge[0].n; n < printCount {
			t.prints[n] = h
		}
		t.newest = max(t.newest, at)
	}
	t.byAge[class].add(h)
	if t.previous.mark != nil {
		t.previous.add(h, at)
	}
	if t.earlier.mark != nil {
		t.earlier.add(h, at)
	}
}

func (a *against) add(h uint64, at int64) {
	class := ageClass(a.mark.ThisUpdate - at)
	if class == 0 {
		if at > a.mark.Newest {
			a.fresh++
			return
		}
		a.meet(h)
	}
	a.was[class].add(h)
}

// meet looks for an entry of class 0 among those of the list compared with.
func (a *against) meet(h uint64) {
	for i, print := range a.mark.Prints {
		if uint64(print) == h && a.seen>>i&1 == 0 {
			a.seen |= 1 << i
			a.met++
			return
		}
	}
}

// Mark is what the scanned list leaves behind. s is the Summary of the scan.
func (t *Tally) Mark(s Summary) Mark {
	m := Mark{
		Version: markVersion, Key: [2]hash64{hash64(t.key[0]), hash64(t.key[1])}, List: t.list(s),
		ThisUpdate: t.thisUpdate, Newest: t.newest,
	}
	for class, p := range t.byAge {
		m.Entries += p.n
		m.Counts[class], m.Sums[class] = p.n, hash64(p.sum)
	}
	if n := t.byAge[0].n; n <= printCount {
		for _, print := range t.prints[:n] {
			m.Prints = append(m.Prints, hash64(print))
		}
	}
	return m
}

// list tells lists apart that are not successive states of one: those of
// another issuer or key, delta CRLs on another base, and those that are about
// other certificates.
func (t *Tally) list(s Summary) hash64 {
	h := hashEntry(t.expanded, s.RawIssuer, 1) + hashEntry(t.expanded, s.AuthorityKeyID, 2)
	if s.BaseNumber != nil {
		h += hashEntry(t.expanded, s.BaseNumber.Bytes(), 3)
	}
	if scope := s.scope(); scope != "" {
		h += hashEntry(t.expanded, []byte(scope), 4)
	}
	return hash64(h)
}

// Changes are the differences between two lists in numbers. An entry is a
// serial number with its date: one that was given another date counts as
// removed and as added.
//
// Always, whatever happened to clocks and entries:
//
//	Added <= entries that were added <= Added + Hidden
//	Removed <= entries that were removed <= Removed + Hidden
//	Added - Removed = entries of this list - entries of the previous one
//
// and both fall short by the same number. Exact says that it is zero: then, as
// no serial number is twice on a list, these are the certificates added and
// removed. (It is concluded from sums of 64 bits under a key, and false once in
// 2^64 times.)
//
// Why numbers alone can do this: a certificate is revoked now, so an entry dated
// after all that the previous list has was added. What is dated before is
// expected to stay as it is. Where its sum has changed, entries came late (a
// default issuer changed, another cluster lagging, a clock set back), were
// given another date, or were removed, as tidy does; of one class of age only
// the difference is certain then, not how much of it cancels out. Since tidy
// removes the old and what comes late is young, that is rarely any.
type Changes struct {
	Added, Removed int64
	Exact          bool
	Hidden         int64  // by how many both may fall short; 0 when Exact
	Why            string // the numbers are not exact, or there are none; "" otherwise
	Backwards      bool   // this list is the older one, by thisUpdate

	gone    [ages]int64 // certainly removed, by age at the previous thisUpdate
	elapsed int64       // seconds from one thisUpdate to the other
}

// Changes compares the scanned list, of which s is the Summary, with the
// previous one. It returns false, and Why, where there is nothing to compare
// with: no previous list, or one that is not of the same issuer and key, not on
// the same base or not about the same certificates.
func (t *Tally) Changes(s Summary) (Changes, bool) { return t.changes(&t.previous, s) }

// Since is Changes against the list that was named by Against.
func (t *Tally) Since(s Summary) (Changes, bool) { return t.changes(&t.earlier, s) }

func (t *Tally) changes(a *against, s Summary) (Changes, bool) {
	m := a.mark
	if m == nil {
		return Changes{Why: "no previous list to compare with"}, false
	}
	if m.List != t.list(s) {
		return Changes{Why: "the previous list is of another issuer or key, a delta CRL on another base, or about other certificates"}, false
	}
	c := Changes{Added: a.fresh, elapsed: t.thisUpdate - m.ThisUpdate}
	c.Backwards = c.elapsed < 0
	var more, fewer, replaced int64
	for class := range ages {
		was, is := m.Counts[class], a.was[class].n
		switch {
		case class == 0 && int64(len(m.Prints)) == was:
			c.Added += is - a.met
			c.gone[0] = was - a.met
		case was == is && uint64(m.Sums[class]) == a.was[class].sum:
		case was == is:
			c.Added++
			c.gone[class] = 1
			c.Hidden += is - 1
			replaced++
		default:
			c.Added += max(is-was, 0)
			c.gone[class] = max(was-is, 0)
			c.Hidden += min(was, is)
			more += max(is-was, 0)
			fewer += max(was-is, 0)
		}
		c.Removed += c.gone[class]
	}
	if c.Exact = c.Hidden == 0; !c.Exact {
		c.Why = fmt.Sprintf("of the entries dated before the previous list was made, at %s, there are %d fewer, %d more and %s replaced, by age: "+
			"up to %d others may have come and as many gone unseen; pkiwarden crl diff compares the lists themselves",
			time.Unix(m.ThisUpdate, 0).UTC().Format(time.RFC3339), fewer, more, atLeast(replaced), c.Hidden)
	}
	return c, true
}

func atLeast(n int64) string {
	if n == 0 {
		return "none"
	}
	return fmt.Sprintf("at least %d", n)
}

// hashEntry is a keyed hash of 64 bits, the same in every process. It is made of
// 128-bit products folded to 64 bits, as wyhash's: one of the first 16 octets,
// one of the last 8 with the date and the length, and one of these two. The
// hashes of a set are added up, so a hash must not be the sum of a part that
// depends on the serial number and one that depends on the date.
func hashEntry(key *[4]uint64, serial []byte, at int64) uint64 {
	n := len(serial)
	var long, a, b, c uint64
	for len(serial) > 24 { // more than RFC 5280 section 4.1.2.2 allows
		long = fold(binary.LittleEndian.Uint64(serial)^key[2]^long, binary.LittleEndian.Uint64(serial[8:])^key[3])
		serial = serial[16:]
	}
	switch n := len(serial); {
	case n >= 16:
		a, b, c = binary.LittleEndian.Uint64(serial), binary.LittleEndian.Uint64(serial[8:]), binary.LittleEndian.Uint64(serial[n-8:])
	case n >= 8:
		a, b = binary.LittleEndian.Uint64(serial), binary.LittleEndian.Uint64(serial[n-8:])
	case n >= 4:
		a, b = uint64(binary.LittleEndian.Uint32(serial)), uint64(binary.LittleEndian.Uint32(serial[n-4:]))
	case n > 0:
		a = uint64(serial[0])<<16 | uint64(serial[n/2])<<8 | uint64(serial[n-1])
	}
	a = fold(a^long^key[0], b^key[1])
	c = fold(c^key[2], uint64(at)^uint64(n)<<48^key[3])
	return fold(a^key[1], c^key[0])
}

// expand makes the four words that hashEntry wants of a key.
func expand(key [2]uint64) *[4]uint64 {
	return &[4]uint64{key[0] ^ 0xa0761d6478bd642f, key[1] ^ 0xe7037ed1a0b428db, key[0] ^ 0x8ebc6af09c88c6e3, key[1] ^ 0x589965cc75374cc3}
}

// fold multiplies to 128 bits and lays the halves over each other: the product
// of the schoolbook, in digits of 32 bits.
func fold(a, b uint64) uint64 {
	const low = 1<<32 - 1
	a0, a1, b0, b1 := a&low, a>>32, b&low, b>>32
	t := a1*b0 + a0*b0>>32
	u := t&low + a0*b1
	return a*b ^ (a1*b1 + t>>32 + u>>32)
}
