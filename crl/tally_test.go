package crl

import (
	"bytes"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"math/bits"
	mathrand "math/rand/v2"
	"strings"
	"testing"
	"time"
)

// dated is an entry, which is what the Tally's numbers are about.
type dated struct {
	serial string
	at     int64
}

// bag is a list's entries, some of which may be there twice.
type bag map[dated]int64

func (b bag) size() (n int64) {
	for _, count := range b {
		n += count
	}
	return n
}

// truth is what a later list has more and less.
func truth(previous, list bag) (added, removed int64) {
	for e, n := range list {
		added += max(n-previous[e], 0)
	}
	for e, n := range previous {
		removed += max(n-list[e], 0)
	}
	return added, removed
}

// tally gives the entries to a Tally in random order, as a scan would.
func (b bag) tally(random *mathrand.Rand, previous *Mark, thisUpdate int64) (*Tally, Summary) {
	var entries []dated
	for e, n := range b {
		for range n {
			entries = append(entries, e)
		}
	}
	random.Shuffle(len(entries), func(i, j int) { entries[i], entries[j] = entries[j], entries[i] })
	t := NewTally(previous, [16]byte{1, 2, 3})
	t.begin(thisUpdate)
	for _, e := range entries {
		t.add([]byte(e.serial), e.at)
	}
	return t, Summary{RawIssuer: []byte("issuer"), Entries: int64(len(entries))}
}

// history is a list through time. What may happen to it is a set of events.
type history struct {
	random *mathrand.Rand
	now    int64
	list   bag
	next   uint64
}

func (h *history) serial() string {
	h.next++
	b := make([]byte, 1+h.random.IntN(25))
	for i := range b {
		b[i] = byte(h.random.Uint32())
	}
	return string(binary.BigEndian.AppendUint64(b, h.next))
}

func (h *history) some() (dated, bool) {
	for e := range h.list { // at random
		return e, true
	}
	return dated{}, false
}

func (h *history) remove(e dated) {
	if h.list[e]--; h.list[e] == 0 {
		delete(h.list, e)
	}
}

// within is a random time up to most seconds: short ones are as likely as long.
func (h *history) within(most int64) int64 {
	return h.random.Int64N(1 + min(most, int64(1)<<h.random.IntN(28)))
}

var events = []struct {
	name string
	do   func(*history)
}{
	{"revoked", func(h *history) { h.list[dated{h.serial(), h.now}]++ }},
	{"time passes", func(h *history) { h.now += h.within(30 * day) }},
	{"tidied", func(h *history) {
		before := h.now - 3*day - h.within(30*day)
		for e := range h.list {
			if e.at < before {
				delete(h.list, e)
			}
		}
	}},
	{"late", func(h *history) { h.list[dated{h.serial(), h.now - h.within(400*day)}]++ }},
	{"vanished", func(h *history) {
		if e, ok := h.some(); ok {
			h.remove(e)
		}
	}},
	{"replaced", func(h *history) {
		if e, ok := h.some(); ok {
			h.remove(e)
			h.list[dated{e.serial, e.at - 5 + h.random.Int64N(10)}]++
		}
	}},
	{"twice", func(h *history) {
		if e, ok := h.some(); ok {
			h.list[e]++
		}
	}},
	{"clock set back", func(h *history) { h.now -= h.within(2 * day) }},
	{"future", func(h *history) { h.list[dated{h.serial(), h.now + h.within(day)}]++ }},
	{"many at once", func(h *history) {
		for range h.random.IntN(40) {
			h.list[dated{h.serial(), h.now}]++
		}
	}},
}

// TestTallyHistories holds the numbers against sets, over thousands of random
// histories: what is promised holds always, and is exact where it must be.
func TestTallyHistories(t *testing.T) {
	t.Parallel()
	kinds := []struct {
		name   string
		events string // which may happen, by index
		exact  bool   // and always are the numbers exact
	}{
		{"revocations", "01", true},
		{"revocations, many in a second", "0119", false},
		{"revocations and tidy", "00112", false},
		{"late arrivals", "00113", false},
		{"clock steps", "0167", false},
		{"anything", "0123456789", false},
	}
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			var lists, exact, changed int
			for seed := range uint64(fewer(500)) {
				h := history{random: mathrand.New(mathrand.NewPCG(seed, 9)), now: 1_700_000_000, list: bag{}}
				var mark *Mark
				var previous bag
				for range 6 {
					var story []string
					for range h.random.IntN(12) {
						event := events[kind.events[h.random.IntN(len(kind.events))]-'0']
						event.do(&h)
						story = append(story, event.name)
					}
					tally, s := h.list.tally(h.random, mark, h.now-h.random.Int64N(2))
					if mark != nil {
						lists++
						c, ok := tally.Changes(s)
						if !ok {
							t.Fatal(c.Why)
						}
						added, removed := truth(previous, h.list)
						if problem := wrong(c, added, removed, h.list.size()-previous.size()); problem != "" {
							t.Fatalf("seed %d, %v: %s: +%d -%d, got %+v", seed, story, problem, added, removed, c)
						}
						if kind.exact && !c.Exact {
							t.Fatalf("seed %d, %v: not exact: %+v", seed, story, c)
						}
						if c.Exact {
							exact++
						}
						if added+removed > 0 {
							changed++
						}
					}
					mark, previous = stored(t, tally.Mark(s)), bag{}
					for e, n := range h.list {
						previous[e] = n
					}
				}
			}
			t.Logf("%d lists, %d changed, %d exact", lists, changed, exact)
			if changed < lists/2 || exact < lists/5 || !kind.exact && exact == lists && !testing.Short() {
				t.Errorf("%d lists, %d changed, %d exact: the histories test little", lists, changed, exact)
			}
		})
	}
}

// wrong is what the numbers promise and do not keep.
func wrong(c Changes, added, removed, net int64) string {
	switch {
	case c.Exact != (c.Hidden == 0), c.Exact != (c.Why == ""):
		return "Exact, Hidden and Why do not agree"
	case c.Exact && (c.Added != added || c.Removed != removed):
		return "exact, and wrong"
	case added < c.Added || added > c.Added+c.Hidden:
		return "Added is no bound"
	case removed < c.Removed || removed > c.Removed+c.Hidden:
		return "Removed is no bound"
	case c.Added-c.Removed != net:
		return "the difference is not that of the lengths"
	}
	return ""
}

// stored is a Mark as another process finds it.
func stored(tb testing.TB, m Mark) *Mark {
	tb.Helper()
	text, err := json.Marshal(m)
	if err != nil {
		tb.Fatal(err)
	}
	if len(text) > 1024 {
		tb.Fatalf("a mark of %d bytes: %s", len(text), text)
	}
	again := new(Mark)
	if err := json.Unmarshal(text, again); err != nil {
		tb.Fatal(err)
	}
	return again
}

// TestTallyCases are the cases that are easy to get wrong, with numbers that
// were worked out by hand. T is the previous list's thisUpdate.
func TestTallyCases(t *testing.T) {
	const T = 1_780_000_000
	e := func(serial string, at int64) dated { return dated{serial, T + at} }
	list := func(entries ...dated) bag {
		b := bag{}
		for _, e := range entries {
			b[e]++
		}
		return b
	}
	crowd := func(n int, at int64) bag {
		b := bag{}
		for i := range n {
			b[e(fmt.Sprintf("crowd %d", i), at)]++
		}
		return b
	}
	with := func(b bag, entries ...dated) bag {
		for _, e := range entries {
			b[e]++
		}
		return b
	}
	cases := map[string]struct {
		old, new       bag
		at             int64 // thisUpdate of new, after T
		added, removed int64
		hidden         int64
		backwards      bool
		early          int64 // with a buffer of 72 h
	}{
		"both empty":                             {old: list(), new: list(), at: 60},
		"the same list":                          {old: list(e("a", -9), e("b", 0)), new: list(e("a", -9), e("b", 0))},
		"first entries":                          {old: list(), new: list(e("a", -9), e("b", 20)), at: 60, added: 2},
		"the last entry goes":                    {old: list(e("a", -9*day)), new: list(), at: 60, removed: 1},
		"revoked since":                          {old: list(e("a", -9)), new: list(e("a", -9), e("b", 30), e("c", 31)), at: 60, added: 2},
		"in the second of thisUpdate":            {old: list(e("a", 0)), new: list(e("a", 0), e("b", 0)), at: 60, added: 1},
		"one of that second went, another came":  {old: list(e("a", 0)), new: list(e("b", 0)), at: 60, added: 1, removed: 1, early: 1},
		"dated in the future":                    {old: list(e("a", 900)), new: list(e("a", 900), e("b", 30), e("c", 901)), at: 60, added: 2},
		"one of the future went":                 {old: list(e("a", 900), e("b", 901)), new: list(e("b", 901)), at: 60, removed: 1, early: 1},
		"the same thisUpdate, other entries":     {old: list(e("a", -9)), new: list(e("a", -9), e("b", 0)), added: 1},
		"late by a minute, tidied by a month":    {old: list(e("a", -60), e("b", -30*day)), new: list(e("a", -60), e("c", -60)), at: 60, added: 1, removed: 1, hidden: 1},
		"all of an age are tidied":               {old: list(e("a", -60), e("b", -30*day)), new: list(e("a", -60), e("c", 1)), at: 60, added: 1, removed: 1},
		"one of two of an age is tidied":         {old: list(e("a", -20*day), e("b", -20*day)), new: list(e("a", -20*day), e("c", 1)), at: 60, added: 1, removed: 1, hidden: 1},
		"replaced by another of the age":         {old: list(e("a", -60)), new: list(e("c", -60)), at: 60, added: 1, removed: 1, early: 1},
		"two dates exchanged":                    {old: list(e("a", -60), e("b", -70)), new: list(e("a", -70), e("b", -60)), at: 60, added: 1, removed: 1, hidden: 1, early: 1},
		"back in time":                           {old: list(e("a", -9*day), e("b", -60)), new: list(e("a", -9*day)), at: -600, removed: 1, backwards: true},
		"back in time, and the clock was ahead":  {old: list(e("a", -60)), new: list(e("a", -60), e("b", -300)), at: -240, added: 1, hidden: 1, backwards: true},
		"gone within the buffer":                 {old: list(e("a", -day), e("b", -9*day)), new: list(), at: 60, removed: 2, early: 1},
		"gone, three centuries later":            {old: list(e("a", -60)), new: list(), at: 300 * 365 * day, removed: 1},
		"gone, the buffer is between the lists":  {old: list(e("a", -day)), new: list(), at: 3 * day, removed: 1},
		"more in that second than are told":      {old: crowd(17, 0), new: with(crowd(17, 0), e("b", 1)), at: 60, added: 1},
		"more in that second, and one came":      {old: crowd(17, 0), new: with(crowd(17, 0), e("b", 0)), at: 60, added: 1, hidden: 17},
		"as many in that second as are told":     {old: crowd(16, 0), new: with(crowd(15, 0), e("b", 0), e("c", 0)), at: 60, added: 2, removed: 1, early: 1},
		"twice, once":                            {old: list(e("a", 0), e("a", 0)), new: list(e("a", 0)), at: 60, removed: 1, early: 1},
		"once, twice":                            {old: list(e("a", 0)), new: list(e("a", 0), e("a", 0)), at: 60, added: 1},
		"before the year 0 of anything":          {old: list(e("a", -60_000_000_000)), new: list(e("a", -60_000_000_000), e("b", 1)), at: 60, added: 1},
		"the whole list replaced, all fell late": {old: list(e("a", -100), e("b", -101)), new: list(e("c", -100), e("d", -101), e("e", -102)), at: 60, added: 1, hidden: 2},
	}
	random := mathrand.New(mathrand.NewPCG(1, 2))
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			tally, s := tc.old.tally(random, nil, T)
			if _, ok := tally.Changes(s); ok {
				t.Error("changes without a previous list")
			}
			tally, s = tc.new.tally(random, stored(t, tally.Mark(s)), T+tc.at)
			c, ok := tally.Changes(s)
			if !ok {
				t.Fatal(c.Why)
			}
			if c.Added != tc.added || c.Removed != tc.removed || c.Hidden != tc.hidden || c.Exact != (tc.hidden == 0) || c.Backwards != tc.backwards {
				t.Errorf("%+v", c)
			}
			if early := c.Early(72 * time.Hour); early != tc.early {
				t.Errorf("%d removed early, want %d", early, tc.early)
			}
			added, removed := truth(tc.old, tc.new)
			if problem := wrong(c, added, removed, tc.new.size()-tc.old.size()); problem != "" {
				t.Errorf("%s: +%d -%d, got %+v", problem, added, removed, c)
			}
		})
	}
}

// TestTallyOfAScan: what a scan tells a Tally is what is on the list, and lists
// that are no states of one list are not compared.
func TestTallyOfAScan(t *testing.T) {
	a := p256(t)
	scan := func(template x509.RevocationList, previous *Mark) (Changes, bool, Mark) {
		tally := NewTally(previous, [16]byte{15: 9})
		s, err := Scan(bytes.NewReader(a.sign(t, template)), Options{Tally: tally})
		if err != nil {
			t.Fatal(err)
		}
		c, ok := tally.Changes(s)
		return c, ok, tally.Mark(s)
	}
	old := listOf(300)
	c, ok, mark := scan(old, nil)
	if ok || c.Why != "no previous list to compare with" || mark.Entries != 300 || mark.ThisUpdate != old.ThisUpdate.Unix() {
		t.Errorf("%+v, %+v", c, mark)
	}
	later := listOf(300)
	later.ThisUpdate = old.ThisUpdate.Add(time.Hour)
	for i := range 3 { // of an odd shape, which takes the scan's other path
		later.RevokedCertificateEntries = append(later.RevokedCertificateEntries, x509.RevocationListEntry{
			SerialNumber: new(big.Int).Lsh(big.NewInt(7), uint(200+1000*i)), RevocationTime: old.ThisUpdate.Add(time.Minute),
		})
	}
	c, ok, _ = scan(later, stored(t, mark))
	if !ok || c.Added != 3 || c.Removed != 0 || !c.Exact {
		t.Errorf("%+v", c)
	}
	_, _, delta := scan(lists()["delta"], nil)
	if c, ok, _ := scan(later, &delta); ok || !strings.Contains(c.Why, "delta CRL on another base") {
		t.Errorf("a delta before a full list: %+v", c)
	}
	unusable := mark
	unusable.Version++
	if c, ok, _ := scan(later, &unusable); ok || c.Added != 0 {
		t.Errorf("a mark of another version: %+v", c)
	}
	a = newAuthority(t, named("Another"), ecKey(t, elliptic.P256()), x509.ECDSAWithSHA256)
	if c, ok, _ := scan(later, &mark); ok || !strings.Contains(c.Why, "another issuer") {
		t.Errorf("another issuer: %+v", c)
	}
}

// TestHashEntry: stored marks hold these hashes, so they must not change
// without markVersion. The numbers come from another implementation.
func TestHashEntry(t *testing.T) {
	key := [2]uint64{0x0102030405060708, 0x1112131415161718}
	count := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(i)
		}
		return string(b)
	}
	for _, tc := range []struct {
		serial string
		at     int64
		want   uint64
	}{
		{"", 0, 0x5e9c6ca7de90e370},
		{"\x07", 1780000000, 0x5afd18949cb2e51a},
		{"abcdef", -1, 0x345db44cb06ca104},
		{"0123456789", 1780000000, 0xa0ba2ddd4cab807b},
		{count(20), 1780000000, 0xe5a0a8fe6699ca3a},
		{count(40), 1780000001, 0xf0e7b58693c3c40a},
	} {
		if got := hashEntry(expand(key), []byte(tc.serial), tc.at); got != tc.want {
			t.Errorf("%q at %d: %#x, want %#x", tc.serial, tc.at, got, tc.want)
		}
	}
}

// TestHashEntrySpreads: each bit of an entry, its key and its length moves half
// of the bits of the hash.
func TestHashEntrySpreads(t *testing.T) {
	random := mathrand.New(mathrand.NewPCG(3, 4))
	const rounds = 4000
	var flips [64]int
	total := 0
	for range rounds {
		key := [2]uint64{random.Uint64(), random.Uint64()}
		serial := make([]byte, 1+random.IntN(24))
		for i := range serial {
			serial[i] = byte(random.Uint32())
		}
		at := random.Int64N(1 << 31)
		before := hashEntry(expand(key), serial, at)
		switch random.IntN(4) {
		case 0:
			serial[random.IntN(len(serial))] ^= 1 << random.IntN(8)
		case 1:
			at ^= 1 << random.IntN(31)
		case 2:
			key[random.IntN(2)] ^= 1 << random.IntN(64)
		case 3:
			serial = append(serial, 0)
		}
		change := before ^ hashEntry(expand(key), serial, at)
		total += bits.OnesCount64(change)
		for i := range flips {
			flips[i] += int(change >> i & 1)
		}
	}
	// Six standard deviations of a fair coin.
	if mean := float64(total) / rounds; math.Abs(mean-32) > 6*4/math.Sqrt(rounds) {
		t.Errorf("%.2f of 64 bits change, want 32", mean)
	}
	for i, n := range flips {
		if math.Abs(float64(n)-rounds/2) > 6*math.Sqrt(rounds)/2 {
			t.Errorf("bit %d changes in %d of %d", i, n, rounds)
		}
	}
}

// BenchmarkTally is what a Tally costs for each entry, with a previous list to
// compare with.
func BenchmarkTally(b *testing.B) {
	const T, n = 1_780_000_000, 1 << 12
	random := mathrand.New(mathrand.NewPCG(5, 6))
	serials, dates := make([][20]byte, n), make([]int64, n)
	for i := range serials {
		binary.LittleEndian.PutUint64(serials[i][4:], random.Uint64())
		dates[i] = T - random.Int64N(90*day)
	}
	tally := NewTally(nil, [16]byte{1})
	tally.begin(T - 60)
	mark := tally.Mark(Summary{})
	tally = NewTally(&mark, [16]byte{})
	tally.begin(T)
	for b.Loop() {
		for i := range serials {
			tally.add(serials[i][:], dates[i])
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/entry")
}
