package crl

import (
	"encoding/json"
	mathrand "math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"
)

// TestTallyAgainst: one scan is compared with two lists, and says of each what a
// scan for it alone would.
func TestTallyAgainst(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		h := history{random: mathrand.New(mathrand.NewPCG(seed, 21)), now: 1_700_000_000, list: bag{}}
		var marks []*Mark
		for range 5 {
			for range 1 + h.random.IntN(12) {
				events[h.random.IntN(len(events))].do(&h)
			}
			var last *Mark
			if len(marks) > 0 {
				last = marks[len(marks)-1]
			}
			tally, s := h.list.tally(h.random, last, h.now)
			for i, earlier := range marks {
				alone, _ := h.list.tally(h.random, earlier, h.now)
				want, wantKnown := alone.Changes(s)
				both := NewTally(last, [16]byte{1, 2, 3})
				both.Against(earlier)
				both.begin(h.now)
				for e, n := range h.list {
					for range n {
						both.add([]byte(e.serial), e.at)
					}
				}
				got, known := both.Since(s)
				if known != wantKnown || got != want {
					t.Fatalf("seed %d, list %d against %d:\n got %+v\nwant %+v", seed, len(marks), i, got, want)
				}
				previous, _ := both.Changes(s)
				if want, _ := tally.Changes(s); previous != want {
					t.Fatalf("seed %d: the previous list: %+v, want %+v", seed, previous, want)
				}
			}
			marks = append(marks, stored(t, tally.Mark(s)))
		}
	}
}

func TestTallyAgainstNothing(t *testing.T) {
	list := bag{{"a", 1000}: 1}
	random := mathrand.New(mathrand.NewPCG(1, 1))
	first, s := list.tally(random, nil, 2000)
	mark := first.Mark(s)
	other := mark
	other.Key[0]++
	damaged := mark
	damaged.Entries++
	for name, c := range map[string]struct {
		previous, earlier *Mark
		known             bool
	}{
		"none":               {&mark, nil, false},
		"damaged":            {&mark, &damaged, false},
		"under another key":  {&mark, &other, false},
		"without a previous": {nil, &mark, true},
	} {
		tally := NewTally(c.previous, [16]byte{7})
		tally.Against(c.earlier)
		tally.begin(2000)
		tally.add([]byte("a"), 1000)
		changes, known := tally.Since(s)
		if known != c.known || known && (changes.Added != 0 || changes.Removed != 0 || !changes.Exact) {
			t.Errorf("%s: %+v %t", name, changes, known)
		}
	}
}

// lists of 10 entries that were revoked half an hour before the first was made,
// of which the second, an hour later, has lost some.
func lossOf(t *testing.T, kept int, buffer time.Duration) (*Loss, bag) {
	t.Helper()
	const T = 1_700_000_000
	whole, rest := bag{}, bag{}
	for i := range 10 {
		e := dated{string(rune('a' + i)), T - 1800}
		whole[e]++
		if i < kept {
			rest[e]++
		}
	}
	random := mathrand.New(mathrand.NewPCG(1, 1))
	first, s := whole.tally(random, nil, T)
	mark := first.Mark(s)
	second, s := rest.tally(random, &mark, T+3600)
	s.ThisUpdate = time.Unix(T+3600, 0)
	changes, ok := second.Changes(s)
	if !ok {
		t.Fatal(changes.Why)
	}
	return NewLoss(mark, s, changes, buffer, time.Unix(T+3660, 0)), whole
}

func TestLoss(t *testing.T) {
	for _, c := range []struct {
		kept   int
		buffer time.Duration
		want   int64
		sure   bool
	}{
		{10, 0, 0, false},
		{4, 0, 6, false},
		{4, 72 * time.Hour, 6, true},
		{4, time.Hour, 0, true},                           // that is how far the lists are apart
		{4, 3600*time.Second + 4096*time.Second, 0, true}, // and as old an entry of the class may be
		{4, 3600*time.Second + 4097*time.Second, 6, true},
	} {
		l, _ := lossOf(t, c.kept, c.buffer)
		if (l != nil) != (c.want > 0) || l != nil && (l.Missing != c.want || l.Assumed == c.sure || l.Removed != c.want) {
			t.Errorf("%d kept, buffer %s: %+v, want %d", c.kept, c.buffer, l, c.want)
		}
		if l != nil && l.Assumed && l.Buffer != 24*3600 {
			t.Errorf("assumed are %d s", l.Buffer)
		}
	}
}

// TestLossAfter follows a loss of six entries through later lists.
func TestLossAfter(t *testing.T) {
	const T = 1_700_000_000
	lost, whole := lossOf(t, 4, 72*time.Hour)
	random := mathrand.New(mathrand.NewPCG(2, 2))
	for _, c := range []struct {
		name string
		at   int64
		keep string // the entries that are there
		more int    // that were revoked since
		want int64
	}{
		{"the same list", T + 3600, "abcd", 0, 6},
		{"others were revoked", T + 7200, "abcd", 20, 6},
		{"two are back", T + 7200, "abcdef", 1, 4},
		{"all are back", T + 7200, "abcdefghij", 0, 0},
		{"all are back, and others", T + 7200, "abcdefghij", 5, 0},
		{"a day later, when tidy may have been there too", T + 25*3600, "", 0, 6},
		{"an older list", T - 1, "abcdefghij", 0, 6},
	} {
		list := bag{}
		for e := range whole {
			if strings.Contains(c.keep, e.serial) {
				list[e]++
			}
		}
		for i := range c.more {
			list[dated{"new" + string(rune('a'+i)), T + 3600 + int64(i)}]++
		}
		tally, s := list.tally(random, nil, c.at)
		tally.Against(&lost.Before)
		tally.begin(c.at)
		for e := range list {
			tally.add([]byte(e.serial), e.at)
		}
		changes, ok := tally.Since(s)
		if !ok {
			t.Fatal(changes.Why)
		}
		var missing int64
		if left := lost.After(changes); left != nil {
			missing = left.Missing
		}
		if missing != c.want || lost.Missing != 6 {
			t.Errorf("%s: %d missing, want %d", c.name, missing, c.want)
		}
	}
}

// TestLossIsStored: a record keeps it, and takes none that is damaged.
func TestLossIsStored(t *testing.T) {
	lost, _ := lossOf(t, 4, 72*time.Hour)
	r := recordOf(1, 3)
	for key, l := range r.Lists {
		l.Loss = lost
		r.Lists[key] = l
	}
	data, _, err := r.Encode(MaxHistoryRecord)
	if err != nil {
		t.Fatal(err)
	}
	back, err := ParseHistoryRecord(data)
	if err != nil || !reflect.DeepEqual(back, r) {
		t.Errorf("%v\n got %+v\nwant %+v", err, back, r)
	}
	text, err := json.Marshal(lost)
	if err != nil || !strings.HasSuffix(string(text), `"at":1700003600,"seen":1700003660,"missing":6,"added":0,"removed":6,"buffer":259200}`) {
		t.Errorf("%s, %v", text, err)
	}
	for what, edit := range map[string]func(*Loss){
		"nothing is missing": func(l *Loss) { l.Missing = 0 },
		"more than was lost": func(l *Loss) { l.Missing = 7 },
		"no buffer":          func(l *Loss) { l.Buffer = 0 },
		"a buffer of ages":   func(l *Loss) { l.Buffer = 1 << 50 },
		"another mark":       func(l *Loss) { l.Before.Version = 2 },
		"in the wrong order": func(l *Loss) { l.At = 1 },
	} {
		damaged := *lost
		edit(&damaged)
		for key, l := range r.Lists {
			l.Loss = &damaged
			r.Lists[key] = l
		}
		data, _, err := r.Encode(MaxHistoryRecord)
		if err != nil {
			t.Fatal(err)
		}
		back, err := ParseHistoryRecord(data)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range back.Lists {
			if l.Loss != nil || l.Mark == nil {
				t.Errorf("%s: %+v", what, l)
			}
		}
	}
}
