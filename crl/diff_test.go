package crl

import (
	"bytes"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// scratchFile is scratch space that counts, and that may fail.
type scratchFile struct {
	*os.File
	written int64
	failAt  int64 // 0: never
}

var errFull = errors.New("no space left")

func (f *scratchFile) Write(b []byte) (int, error) {
	if f.failAt > 0 && f.written+int64(len(b)) > f.failAt {
		return 0, errFull
	}
	f.written += int64(len(b))
	return f.File.Write(b)
}

func newScratch(tb testing.TB) *scratchFile {
	tb.Helper()
	f, err := os.Create(filepath.Join(tb.TempDir(), "scratch"))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { f.Close() })
	return &scratchFile{File: f}
}

// gather makes a set in which only a little stays in memory.
func gather(tb testing.TB, serials []string, memory, runs int) *Serials {
	tb.Helper()
	s := NewSerials(func() (Scratch, error) { return newScratch(tb), nil })
	s.memory, s.maxRuns = memory, runs
	for _, serial := range serials {
		if err := s.Add(Entry{Serial: []byte(serial)}); err != nil {
			tb.Fatal(err)
		}
	}
	return s
}

// TestDiffAgainstSets compares lists of many shapes and orders with what sets
// make of them, in memory, in scratch space and with merges in between.
func TestDiffAgainstSets(t *testing.T) {
	random := mathrand.New(mathrand.NewPCG(11, 12))
	serial := func() string {
		b := make([]byte, 1+random.IntN(3))
		if random.IntN(300) == 0 {
			b = make([]byte, 1+random.IntN(40000))
		}
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		// As DER has integers: as few octets as possible.
		for len(b) > 1 && (b[0] == 0 && b[1] < 0x80 || b[0] == 0xff && b[1] >= 0x80) {
			b = b[1:]
		}
		return string(b)
	}
	byNumber := func(a, b string) int { return toInt([]byte(a)).Cmp(toInt([]byte(b))) }
	orders := map[string]func([]string){
		"random":    func(s []string) {},
		"by octets": func(s []string) { slices.Sort(s) },
		"by number": func(s []string) { slices.SortFunc(s, byNumber) },
		"two runs": func(s []string) {
			slices.Sort(s[:len(s)/3])
			slices.Sort(s[len(s)/3:])
		},
		"backwards": func(s []string) { slices.SortFunc(s, func(a, b string) int { return strings.Compare(b, a) }) },
	}
	for name, order := range orders {
		t.Run(name, func(t *testing.T) {
			for round := range 30 {
				var old, new []string
				for range random.IntN(600) {
					s := serial()
					switch random.IntN(6) {
					case 0:
						old = append(old, s)
					case 1:
						new = append(new, s)
					case 2:
						old, new = append(old, s, s), append(new, s)
					default:
						old, new = append(old, s), append(new, s)
					}
				}
				order(old)
				order(new)
				memory, runs := 1<<(4+random.IntN(20)), 2+random.IntN(8)
				compareSets(t, fmt.Sprintf("round %d, memory %d, %d runs", round, memory, runs), old, new, gather(t, old, memory, runs), gather(t, new, memory, runs))
			}
		})
	}
}

// toInt is the number of an INTEGER's contents.
func toInt(contents []byte) *big.Int {
	n := new(big.Int).SetBytes(contents)
	if contents[0] >= 0x80 {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(contents))))
	}
	return n
}

func compareSets(t *testing.T, name string, old, new []string, a, b *Serials) {
	t.Helper()
	want := map[string]Fate{}
	for _, s := range old {
		want[s] = Removed
	}
	for _, s := range new {
		if fate, ok := want[s]; ok && fate != Added {
			want[s] = Kept
		} else {
			want[s] = Added
		}
	}
	var counts Difference
	for _, fate := range want {
		switch fate {
		case Added:
			counts.Added++
		case Removed:
			counts.Removed++
		case Kept:
			counts.Kept++
		}
	}
	for range 2 { // it may be asked again
		seen, previous := map[string]Fate{}, ""
		got, err := Diff(a, b, func(serial []byte, fate Fate) error {
			if _, twice := seen[string(serial)]; twice {
				t.Errorf("%s: %x twice", name, serial)
			}
			seen[string(serial)] = fate
			text := strings.TrimPrefix(string(serial), "\x00")
			if text < previous {
				t.Errorf("%s: %x after %x", name, text, previous)
			}
			previous = text
			return nil
		})
		if err != nil || got != counts {
			t.Fatalf("%s: %+v, %v, want %+v", name, got, err, counts)
		}
		for s, fate := range want {
			if seen[s] != fate {
				t.Errorf("%s: %x is %d, want %d", name, s, seen[s], fate)
			}
		}
		if len(seen) != len(want) {
			t.Errorf("%s: %d serial numbers, want %d", name, len(seen), len(want))
		}
	}
}

// TestDiffErrors: what the scratch space and the caller say comes back.
func TestDiffErrors(t *testing.T) {
	var serials []string
	for i := range 4000 {
		serials = append(serials, fmt.Sprintf("%05d", (i*2713)%4000))
	}
	fail := func(open func() (Scratch, error)) error {
		s := NewSerials(open)
		s.memory = 1000
		for _, serial := range serials {
			if err := s.Add(Entry{Serial: []byte(serial)}); err != nil {
				return err
			}
		}
		_, err := Diff(s, NewSerials(open), nil)
		return err
	}
	noRoom := errors.New("nowhere to write")
	if err := fail(func() (Scratch, error) { return nil, noRoom }); err != noRoom {
		t.Errorf("%v", err)
	}
	for _, at := range []int64{1, 5000, 23900} { // in Add, and in what Diff still writes
		full := newScratch(t)
		full.failAt = at
		if err := fail(func() (Scratch, error) { return full, nil }); !errors.Is(err, errFull) {
			t.Errorf("full at %d: %v", at, err)
		}
	}
	cut := newScratch(t)
	a := NewSerials(func() (Scratch, error) { return cut, nil })
	a.memory = 1000
	for _, serial := range serials {
		if err := a.Add(Entry{Serial: []byte(serial)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := cut.Truncate(12000); err != nil {
		t.Fatal(err)
	}
	if _, err := Diff(a, gather(t, nil, 100, 2), nil); err == nil || !strings.Contains(err.Error(), "scratch space") {
		t.Errorf("a file that was cut: %v", err)
	}
	enough := errors.New("enough")
	if _, err := Diff(gather(t, serials, 100, 4), gather(t, nil, 100, 2), func([]byte, Fate) error { return enough }); err != enough {
		t.Errorf("%v, want the caller's error", err)
	}
}

// TestComparable: lists that are not two states of one are told why.
func TestComparable(t *testing.T) {
	a := p256(t)
	other := newAuthority(t, named("Other"), ecKey(t, elliptic.P256()), x509.ECDSAWithSHA256)
	scan := func(a authority, l x509.RevocationList) Summary {
		s, err := Scan(bytes.NewReader(a.sign(t, l)), Options{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	delta := func(base byte) Summary {
		l := listOf(2)
		l.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 27}, Critical: true, Value: []byte{2, 1, base}}}
		return scan(a, l)
	}
	full := scan(a, listOf(2))
	rekeyed, withoutKey := full, full
	rekeyed.AuthorityKeyID, withoutKey.AuthorityKeyID = []byte{9}, nil
	shard, ours, indirect := full, full, full
	ours.IDP = &DistributionPoint{OnlyContainsCACerts: true, OnlySomeReasons: []string{"keyCompromise", "superseded"}}
	shard.IDP = &DistributionPoint{Names: []string{"http://example.org/2.crl"}}
	indirect.IDP = &DistributionPoint{IndirectCRL: true}
	for name, tc := range map[string]struct {
		old, new Summary
		want     string
	}{
		"other shard": {full, shard, "the old one is about all certificates (it has no issuing distribution point); " +
			"the new one is about all certificates, published at http://example.org/2.crl"},
		"other certificates": {shard, ours, "the new one is about CA certificates only, revoked for keyCompromise, superseded only"},
		"the same shard":     {shard, shard, ""},
		"indirect":           {indirect, indirect, "they are about all certificates of several issuers (an indirect CRL)"},
		"two states":         {full, scan(a, listOf(5)), ""},
		"two deltas":         {delta(4), delta(4), ""},
		"key not named":      {full, withoutKey, ""},
		"other issuer":       {full, scan(other, listOf(2)), `the new one by "1.2.3.4=`},
		"other key":          {full, rekeyed, "by key 0102030405060708, the new one by key 09"},
		"full and delta":     {full, delta(4), "the old one is a full one, the new one a delta CRL"},
		"delta and full":     {delta(4), full, "the old one is a delta CRL, the new one a full one"},
		"deltas apart":       {delta(4), delta(5), "on top of number 4, the new one on 5"},
	} {
		err := Comparable(tc.old, tc.new)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

func TestAppendSerial(t *testing.T) {
	for contents, want := range map[string]string{
		"\x00": "00", "\x07": "07", "\x0a\xff": "0a:ff", "\x00\xff\x01": "ff:01", "\x7f\x00": "7f:00",
		"\x80": "-80", "\xff": "-01", "\xff\x00": "-01:00", "\xfe\x01": "-01:ff",
	} {
		if got := string(AppendSerial([]byte("+ "), []byte(contents))); got != "+ "+want {
			t.Errorf("%x: %s, want %s", contents, got, want)
		}
		if text, ok := strings.CutPrefix(want, "-"); len(want) > 0 {
			n, _ := new(big.Int).SetString(strings.ReplaceAll(text, ":", ""), 16)
			if ok {
				n.Neg(n)
			}
			if n.Cmp(toInt([]byte(contents))) != 0 {
				t.Errorf("the case %x is not %s", contents, want)
			}
		}
	}
}

// bigLists are two lists of n entries of 20 octets each, of which one in a
// hundred was removed and two in a hundred were added, sorted or not. Shown to
// each, they are not held in memory.
func bigLists(n int, sorted bool) (old, new func(each func(Entry) error) error) {
	list := func(skip, more int) func(each func(Entry) error) error {
		return func(each func(Entry) error) error {
			serial := make([]byte, 20)
			for i := range n + n/50 {
				at := i
				if !sorted { // a permutation, as long as 7919 divides no length used
					at = int(int64(i) * 7919 % int64(n+n/50))
				}
				if at%102 == skip || at%102 >= 100 && at%102-100 >= more {
					continue
				}
				serial[0] = 0x40
				for j := range 8 {
					serial[1+j] = byte(uint64(at) >> (56 - 8*j))
				}
				if err := each(Entry{Serial: serial}); err != nil {
					return err
				}
			}
			return nil
		}
	}
	return list(-1, 0), list(50, 2)
}

// streamed and mapped are the two ways to a difference that are compared.
func streamed(tb testing.TB, old, new func(func(Entry) error) error) Difference {
	sets := [2]*Serials{}
	for i, list := range []func(func(Entry) error) error{old, new} {
		sets[i] = NewSerials(func() (Scratch, error) {
			f, err := os.CreateTemp(tb.TempDir(), "")
			if err == nil {
				tb.Cleanup(func() { f.Close() })
			}
			return f, err
		})
		if err := list(sets[i].Add); err != nil {
			tb.Fatal(err)
		}
	}
	d, err := Diff(sets[0], sets[1], nil)
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

func mapped(tb testing.TB, old, new func(func(Entry) error) error) (d Difference) {
	had := map[string]bool{}
	if err := old(func(e Entry) error { had[string(e.Serial)] = false; return nil }); err != nil {
		tb.Fatal(err)
	}
	if err := new(func(e Entry) error {
		if _, ok := had[string(e.Serial)]; ok {
			had[string(e.Serial)] = true
			d.Kept++
		} else {
			d.Added++
		}
		return nil
	}); err != nil {
		tb.Fatal(err)
	}
	d.Removed = int64(len(had)) - d.Kept
	return d
}

// peak is the most that the heap grew while what ran, as seen at every
// 4096th entry, with what it returned.
func peak(what func(watch func(func(func(Entry) error) error) func(func(Entry) error) error) Difference) (uint64, Difference) {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	before, most := m.HeapAlloc, m.HeapAlloc
	d := what(func(list func(func(Entry) error) error) func(func(Entry) error) error {
		return func(each func(Entry) error) error {
			n := 0
			return list(func(e Entry) error {
				if n++; n%65536 == 0 {
					runtime.ReadMemStats(&m)
					most = max(most, m.HeapAlloc)
				}
				return each(e)
			})
		}
	})
	return most - before, d
}

// TestDiffMemory: many entries are compared, right and in memory that is not
// theirs, in order and out of it.
func TestDiffMemory(t *testing.T) {
	for _, tc := range []struct {
		n      int
		sorted bool
	}{{1_000_000, true}, {250_000, false}} {
		old, new := bigLists(tc.n, tc.sorted)
		grown, d := peak(func(watch func(func(func(Entry) error) error) func(func(Entry) error) error) Difference {
			return streamed(t, watch(old), watch(new))
		})
		t.Logf("%d entries: the heap grew by %.1f MiB", tc.n, float64(grown)/(1<<20))
		if want := (Difference{Added: int64(tc.n / 50), Removed: int64(tc.n / 100), Kept: int64(tc.n - tc.n/100)}); d != want {
			t.Errorf("%d entries: %+v, want %+v", tc.n, d, want)
		}
		if grown > 24<<20 {
			t.Errorf("%d entries: the heap grew by %d bytes", tc.n, grown)
		}
	}
}

// BenchmarkDiff compares two lists of a million serial numbers each: by a
// map, and by what Diff does, in Vault's order and in none.
func BenchmarkDiff(b *testing.B) {
	for _, sorted := range []bool{true, false} {
		old, new := bigLists(1_000_000, sorted)
		name := map[bool]string{true: "sorted", false: "unsorted"}[sorted]
		for _, way := range []string{"map", "stream"} {
			diff := map[string]func(testing.TB, func(func(Entry) error) error, func(func(Entry) error) error) Difference{"map": mapped, "stream": streamed}[way]
			b.Run(name+"/"+way, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					diff(b, old, new)
				}
				b.StopTimer()
				grown, _ := peak(func(watch func(func(func(Entry) error) error) func(func(Entry) error) error) Difference {
					return diff(b, watch(old), watch(new))
				})
				b.ReportMetric(float64(grown)/(1<<20), "peak-MiB")
			})
		}
	}
}
