package crl

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"math"
	"math/big"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

var epoch = time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC) // a Monday

func sampleAt(t time.Time, size int64) Sample {
	return Sample{ThisUpdate: t, At: t, Bytes: size, Entries: size / 39, Number: t.Unix()}
}

// chaos is samples as trouble makes them: hours and years apart, out of order,
// twice, with equal sizes, numbers and counts that do not go together.
func chaos(r *rand.Rand, n int) []Sample {
	samples := make([]Sample, n)
	for i := range samples {
		span := []int{3600, 86400, 90 * 86400, 40 * 365 * 86400}[r.IntN(4)]
		at := epoch.Add(time.Duration(r.IntN(span)) * time.Second)
		samples[i] = Sample{
			ThisUpdate: at, At: at.Add(time.Duration(r.IntN(200)-50) * time.Hour),
			Number: r.Int64N(5), Bytes: 1 + r.Int64N(6), Entries: r.Int64N(3),
		}
		if r.IntN(2) == 0 {
			samples[i].CountedFrom = epoch.Add(time.Duration(r.IntN(3)) * time.Hour)
			samples[i].Added, samples[i].Removed = r.Int64N(3), r.Int64N(3)
		}
		if i > 0 && r.IntN(3) == 0 { // the same list, seen by somebody else
			same := samples[r.IntN(i)]
			same.At, same.CountedFrom = samples[i].At, samples[i].CountedFrom
			samples[i] = same
		}
	}
	return samples
}

func historyOf(samples []Sample) History {
	var h History
	for _, s := range samples {
		h.Add(s)
	}
	return h
}

func TestHistoryMerges(t *testing.T) {
	t.Parallel()
	for seed := range uint64(fewer(100)) {
		r := rand.New(rand.NewPCG(seed, 7))
		all := chaos(r, 1+r.IntN(400))
		i, j := r.IntN(len(all)), r.IntN(len(all))
		i, j = min(i, j), max(i, j)
		a, b, c := historyOf(all[:i]), historyOf(all[i:j]), historyOf(all[j:])
		equal := func(law string, x, y History) {
			t.Helper()
			if !slices.Equal(x.samples, y.samples) {
				t.Fatalf("seed %d: %s: %d and %d samples", seed, law, len(x.samples), len(y.samples))
			}
		}
		equal("commutative", a.Merge(b), b.Merge(a))
		equal("associative", a.Merge(b).Merge(c), a.Merge(b.Merge(c)))
		equal("idempotent", a.Merge(a), a)
		equal("the same again", a.Merge(b).Merge(b).Merge(a), a.Merge(b))
		equal("shared out", a.Merge(b).Merge(c), historyOf(all))
		shuffled := slices.Clone(all)
		r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		equal("any order", historyOf(shuffled), historyOf(all))
		if n := len(historyOf(all).samples); n > 214 {
			t.Fatalf("seed %d: %d samples", seed, n)
		}
	}
}

func TestAddSaysWhetherAnythingChanged(t *testing.T) {
	var h History
	s := sampleAt(epoch.Add(90*time.Minute), 1000)
	steps := []struct {
		what string
		s    Sample
		want bool
	}{
		{"the first", s, true},
		{"the same", s, false},
		{"the same, a fraction of a second later", Sample{ThisUpdate: s.ThisUpdate.Add(1e6), At: s.At, Bytes: 1000, Entries: s.Entries, Number: s.Number}, false},
		{"the same, seen half an hour later, in another hour", edited(s, func(s *Sample) { s.At = s.At.Add(30 * time.Minute) }), true},
		{"the same, seen ten minutes after that", edited(s, func(s *Sample) { s.At = s.At.Add(40 * time.Minute) }), false},
		{"the same, seen by a clock that is a day late", edited(s, func(s *Sample) { s.At = s.At.Add(-24 * time.Hour) }), false},
		{"no thisUpdate", edited(s, func(s *Sample) { s.ThisUpdate = time.Time{} }), false},
		{"no bytes", edited(s, func(s *Sample) { s.Bytes = 0 }), false},
		{"the next number within the same second", edited(s, func(s *Sample) { s.Number++ }), true},
	}
	for _, step := range steps {
		if got := h.Add(step.s); got != step.want {
			t.Errorf("%s: changed %v, want %v", step.what, got, step.want)
		}
	}
	if want := epoch.Add(2 * time.Hour); !h.SeenAt().Equal(want) {
		t.Errorf("seen at %s, want %s", h.SeenAt(), want)
	}
}

func edited(s Sample, change func(*Sample)) Sample {
	change(&s)
	return s
}

func TestHistorySpan(t *testing.T) {
	t.Parallel()
	// A list each ten minutes for 100 days, which grows by day and shrinks by
	// night.
	var h History
	last := epoch.Add(100 * oneDay)
	for at := epoch; !at.After(last); at = at.Add(10 * time.Minute) {
		h.Add(sampleAt(at, 10000+int64(at.Sub(epoch)/time.Hour)-abs(int64(at.Sub(epoch)/time.Hour%24)-12)))
	}
	kept := h.Samples()
	if len(kept) > 214 || len(kept) < 150 {
		t.Errorf("%d samples", len(kept))
	}
	if span := last.Sub(kept[0].ThisUpdate); span < 82*oneDay { // and some hours, to the noon of the first day
		t.Errorf("spans %s, want twelve weeks", span)
	}
	if got, _ := h.Latest(); !got.ThisUpdate.Equal(last) {
		t.Errorf("the latest is of %s, want %s", got.ThisUpdate, last)
	}
	// Of each day, the largest list is there: hours 12 to 23 are level.
	for d := 17; d < 100; d++ {
		noon := epoch.Add(time.Duration(d)*oneDay + 12*time.Hour)
		if !slices.ContainsFunc(kept, func(s Sample) bool { return s.ThisUpdate.Equal(noon) }) {
			t.Errorf("the largest list of day %d is missing", d)
		}
	}
	hours := 0
	for _, s := range kept {
		if last.Sub(s.ThisUpdate) <= 72*time.Hour {
			hours++
		}
	}
	if hours < 72 {
		t.Errorf("%d samples in the last three days, want one for each hour", hours)
	}
}

func abs(n int64) int64 { return max(n, -n) }

func TestClockStepsForgetNothing(t *testing.T) {
	var h History
	for d := range 60 {
		h.Add(sampleAt(epoch.Add(time.Duration(d)*oneDay), int64(1000+d)))
	}
	before := len(h.samples)
	h.Add(sampleAt(epoch.AddDate(30, 0, 0), 5000)) // Vault's clock was wrong for a moment
	h.Add(sampleAt(epoch.AddDate(-30, 0, 0), 5000))
	h.Add(sampleAt(epoch.Add(60*oneDay), 1060))
	if len(h.samples) != before+3 {
		t.Errorf("%d samples, want %d", len(h.samples), before+3)
	}
	now := epoch.Add(60 * oneDay)
	p := Forecast(h, Limit{Known: true, MaxBytes: 1100}, now)
	if !p.GrowthKnown || p.BytesPerDay < .9 || p.BytesPerDay > 1.1 {
		t.Errorf("growth %v a day, want 1: %+v", p.BytesPerDay, p)
	}
}

func TestNextContinuesCounts(t *testing.T) {
	list := func(hour int, entries int64) Summary {
		return Summary{ThisUpdate: epoch.Add(time.Duration(hour) * time.Hour), Bytes: 246 + 39*entries, Entries: entries, Number: big.NewInt(int64(hour + 1))}
	}
	mark := func(s Summary) *Mark { return &Mark{ThisUpdate: s.ThisUpdate.Unix(), Entries: s.Entries} }
	var h History
	l0, l1, l2, l3 := list(0, 100), list(1, 130), list(2, 120), list(3, 150)
	add := func(s Summary, previous *Mark, c Changes, counted bool) Sample {
		h.Add(h.Next(s, s.ThisUpdate, previous, c, counted))
		latest, _ := h.Latest()
		return latest
	}
	check := func(what string, s Sample, from Summary, added, removed int64) {
		t.Helper()
		if !s.CountedFrom.Equal(from.ThisUpdate) || s.Added != added || s.Removed != removed {
			t.Errorf("%s: +%d −%d since %s, want +%d −%d since %s", what, s.Added, s.Removed, s.CountedFrom, added, removed, from.ThisUpdate)
		}
	}
	check("first", add(l0, nil, Changes{}, false), l0, 0, 0)
	check("second", add(l1, mark(l0), Changes{Added: 35, Removed: 5}, true), l0, 35, 5)
	check("the same again", add(l1, mark(l1), Changes{}, true), l0, 35, 5)
	check("third", add(l2, mark(l1), Changes{Added: 10, Removed: 20}, true), l0, 45, 25)
	check("the same by somebody who knows no mark", add(l2, nil, Changes{}, false), l0, 45, 25)
	check("against a list that nobody remembers", add(l3, &Mark{ThisUpdate: 17, Entries: 4}, Changes{Added: 30}, true), l3, 0, 0)
}

// Two leaders count from different lists and write in turns: what one of them
// counted is never added to what the other did.
func TestCountsOfTwoLeadersDoNotMix(t *testing.T) {
	var h History
	for hour := range 48 {
		at := epoch.Add(time.Duration(hour) * time.Hour)
		s := sampleAt(at, int64(1000+39*hour))
		s.CountedFrom, s.Added = epoch, int64(hour)
		if hour >= 30 {
			s.CountedFrom, s.Added = epoch.Add(30*time.Hour), int64(hour-30)
		}
		h.Add(s)
	}
	c, _ := observe(h, epoch.Add(48*time.Hour))
	if n, ok := c.added(epoch, epoch.Add(24*time.Hour)); !ok || n != 24 {
		t.Errorf("first day: %v, %v, want 24", n, ok)
	}
	if n, ok := c.added(epoch.Add(20*time.Hour), epoch.Add(44*time.Hour)); ok {
		t.Errorf("across the change: %v, want unknown", n)
	}
}

func recordOf(lists int, days int) HistoryRecord {
	r := HistoryRecord{Mount: "pki", Lists: map[string]ListRecord{}}
	for i := range lists {
		var all []Sample
		rnd := rand.New(rand.NewPCG(uint64(i), 3))
		size, added := int64(250), int64(0)
		for hour := range days * 24 {
			n := rnd.Int64N(50)
			size, added = size+39*n, added+n
			at := epoch.Add(time.Duration(hour)*time.Hour + time.Duration(rnd.IntN(3600))*time.Second)
			all = append(all, Sample{ThisUpdate: at, At: at, Number: int64(hour * 30), Bytes: size, Entries: (size - 250) / 39, CountedFrom: epoch, Added: added, Removed: 17}.normal())
		}
		h := History{}.Merge(History{all}) // faster than one by one
		at := epoch.Add(time.Duration(days*24+i) * time.Hour)
		h.Add(sampleAt(at, size+39)) // list i was seen i hours later than the first
		mark := &Mark{Version: markVersion, ThisUpdate: at.Unix(), Entries: 1}
		mark.Counts[0] = 1
		r.Lists[HistoryKey([]byte{byte(i), byte(i >> 8)}, []byte("key"))] = ListRecord{Issuer: fmt.Sprintf("issuer-%d", i), History: h, Mark: mark}
	}
	return r
}

func TestHistoryRecordFits(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		lists, days      int
		whole            bool // with every sample
		dropped, atLeast int
	}{
		{1, 90, true, 0, 1},
		{12, 90, true, 0, 12},
		{25, 90, false, 0, 25},
		{60, 90, false, 60, 25},
		{300, 90, false, 300, 25},
	} {
		r := recordOf(tc.lists, tc.days)
		data, dropped, err := r.Encode(MaxHistoryRecord)
		if err != nil {
			t.Fatal(err)
		}
		back, err := ParseHistoryRecord(data)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d lists of %d days: %d bytes, %d dropped", tc.lists, tc.days, len(data), len(dropped))
		if len(data) > MaxHistoryRecord || len(back.Lists) < tc.atLeast || len(dropped) > tc.dropped || len(back.Lists)+len(dropped) != tc.lists {
			t.Errorf("%d lists: %d bytes, %d kept, %d dropped", tc.lists, len(data), len(back.Lists), len(dropped))
		}
		if tc.whole && !reflect.DeepEqual(r, back) {
			t.Errorf("%d lists: what is read is not what was written", tc.lists)
		}
		// No list that was dropped is larger than one that was kept, unless it was
		// not seen for a week: list i was seen i hours after the first.
		const old = 7 * 24
		least := int64(math.MaxInt64)
		for key := range back.Lists {
			latest, _ := r.Lists[key].History.Latest()
			least = min(least, latest.Bytes)
		}
		for _, key := range dropped {
			var i int
			if _, err := fmt.Sscanf(r.Lists[key].Issuer, "issuer-%d", &i); err != nil {
				t.Fatal(err)
			}
			if latest, _ := r.Lists[key].History.Latest(); latest.Bytes > least && tc.lists-1-i <= old {
				t.Errorf("dropped %s of %d bytes, and kept one of %d", r.Lists[key].Issuer, latest.Bytes, least)
			}
		}
		for key, l := range back.Lists {
			samples := l.History.Samples()
			if span := samples[len(samples)-1].ThisUpdate.Sub(samples[0].ThisUpdate); span < 8*7*oneDay {
				t.Errorf("list %s spans %s, want eight weeks", key, span)
			}
		}
	}
	if _, _, err := recordOf(1, 1).Encode(10); err == nil {
		t.Error("a record of ten bytes is no error")
	}
}

func TestHistoryRecordMerges(t *testing.T) {
	part := func(seed uint64) HistoryRecord {
		r := rand.New(rand.NewPCG(seed, 9))
		rec := HistoryRecord{Mount: []string{"", "pki"}[r.IntN(2)], Lists: map[string]ListRecord{}}
		for i := range 3 {
			if r.IntN(3) == 0 {
				continue
			}
			l := ListRecord{Issuer: string(rune('a' + r.IntN(3))), History: historyOf(chaos(r, 1+r.IntN(20)))}
			if r.IntN(2) == 0 {
				l.Mark = &Mark{Version: markVersion, ThisUpdate: r.Int64N(2), List: hash64(r.IntN(2))}
			}
			if r.IntN(2) == 0 {
				l.Loss = &Loss{Before: Mark{Version: markVersion, List: hash64(r.IntN(2))}, At: r.Int64N(2), SeenAt: r.Int64N(2), Missing: 1 + r.Int64N(2), Buffer: 1 + r.Int64N(2)}
			}
			if r.IntN(4) == 0 && l.Loss != nil {
				l.Loss.Untidied, l.Loss.Buffer = true, 0
			}
			l.Sight = Sight{Seen: r.Int64N(2), Gone: r.Int64N(3), NextUpdate: r.Int64N(2)}
			rec.Lists[HistoryKey([]byte{byte(i)}, nil)] = l
		}
		rec.TidiedAt = r.Int64N(3)
		return rec
	}
	for seed := range uint64(200) {
		a, b, c := part(seed), part(seed+1000), part(seed+2000)
		for law, pair := range map[string][2]HistoryRecord{
			"commutative": {a.Merge(b), b.Merge(a)},
			"associative": {a.Merge(b).Merge(c), a.Merge(b.Merge(c))},
			"idempotent":  {a.Merge(b).Merge(b), a.Merge(b)},
		} {
			if !reflect.DeepEqual(pair[0], pair[1]) {
				t.Fatalf("seed %d: not %s", seed, law)
			}
		}
	}
}

func TestDamagedHistoryIsAnError(t *testing.T) {
	good, _, err := recordOf(2, 3).Encode(MaxHistoryRecord)
	if err != nil {
		t.Fatal(err)
	}
	edit := func(old, new string) string {
		if !strings.Contains(string(good), old) {
			t.Fatalf("%s is not in %.300s", old, good)
		}
		return strings.Replace(string(good), old, new, 1)
	}
	samples := string(good)[strings.Index(string(good), `"samples":"`)+11:][:40]
	for what, tc := range map[string]struct{ data, want string }{
		"nothing":              {"", "damaged"},
		"null":                 {"null", `no "version"`},
		"no JSON":              {"\x00", "damaged"},
		"cut short":            {string(good[:len(good)/2]), "damaged"},
		"no version":           {`{"lists":{}}`, `no "version"`},
		"no lists":             {`{"version":1}`, `no "lists"`},
		"another version":      {strings.Replace(string(good), `{"version":1`, `{"version":2`, 1), "version 2, this pkiwarden knows version 1"},
		"another form":         {`{"version":7,"lists":[1,2]}`, "version 7"},
		"a list's version":     {edit(`"history":{"version":1`, `"history":{"version":9`), "version 9"},
		"a list without":       {edit(`"history"`, `"story"`), "no samples"},
		"a key that is none":   {edit(`"lists":{"`, `"lists":{"x`), "no key of a list"},
		"one letter of base64": {edit(samples, flip(samples, 20)), "checksum"},
		"base64 that is none":  {edit(samples, "!"+samples[1:]), "damaged"},
		"samples cut short":    {edit(samples, samples[4:]), "checksum"},
	} {
		r, err := ParseHistoryRecord([]byte(tc.data))
		if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "delete the record to begin anew") {
			t.Errorf("%s: %v, %v, want %q", what, r, err, tc.want)
		}
	}
}

func flip(text string, i int) string {
	b := []byte(text)
	if b[i] == 'A' {
		b[i] = 'B'
	} else {
		b[i] = 'A'
	}
	return string(b)
}

// What is stored stays readable: these octets were written by version 1.
func TestHistoryJSONIsStable(t *testing.T) {
	h := historyOf([]Sample{
		{ThisUpdate: epoch, At: epoch, Number: 1, Bytes: 246, CountedFrom: epoch},
		{ThisUpdate: epoch.Add(time.Hour + 5*time.Second), At: epoch.Add(9 * time.Hour), Number: 4, Bytes: 246 + 39*10, Entries: 10, CountedFrom: epoch, Added: 12, Removed: 2},
	})
	const want = `{"version":1,"samples":"gPzXlQ0AAuwDAID815UNAACqOBAGjAYUABgEMrw+EA"}`
	got, err := json.Marshal(h)
	if err != nil || string(got) != want {
		t.Errorf("%s, %v, want %s", got, err, want)
	}
	var back History
	if err := json.Unmarshal([]byte(want), &back); err != nil || !slices.Equal(back.samples, h.samples) {
		t.Errorf("%+v, %v, want %+v", back.samples, err, h.samples)
	}
	if got, err := json.Marshal(History{}); err != nil || string(got) != `{"version":1,"samples":""}` {
		t.Errorf("an empty history: %s, %v", got, err)
	}
}

// FuzzHistory reads records, and samples whose checksum is right whatever is in
// them: nothing in a history, and no limit, makes a forecast panic or go back
// in time.
func FuzzHistory(f *testing.F) {
	data, _, _ := recordOf(1, 2).Encode(MaxHistoryRecord)
	f.Add(data, int64(1000), int64(0))
	var rows []byte
	for day := range int64(20) { // differences: a day, no hours, a number, 400 bytes, 10 entries …
		for _, n := range []int64{86400 + day/19*1e6, 0, 1, 400, 10, 1 - min(day, 1), 10, 0} {
			rows = binary.AppendVarint(rows, n)
		}
	}
	f.Add(rows, int64(10_000), int64(100))
	f.Fuzz(func(t *testing.T, data []byte, bytes, entries int64) {
		var histories []History
		if r, err := ParseHistoryRecord(data); err == nil {
			for _, l := range r.Lists {
				histories = append(histories, l.History)
				if l.Loss != nil {
					Findings(Observation{Lost: l.Loss}, thresholds, time.Unix(l.Loss.SeenAt, 0))
					tally := NewTally(l.Mark, [16]byte{})
					tally.Against(&l.Loss.Before)
					tally.begin(bytes)
					c, _ := tally.Since(Summary{})
					if left := l.Loss.After(c); left != nil && (left.Missing <= 0 || left.Missing > l.Loss.Missing) {
						t.Errorf("%+v is left of %+v", left, l.Loss)
					}
				}
			}
			if _, _, err := r.Encode(MaxHistoryRecord); err != nil {
				t.Error(err)
			}
		}
		sealed := binary.BigEndian.AppendUint32(slices.Clone(data), crc32.ChecksumIEEE(data))
		if samples, err := decodeSamples(base64.RawStdEncoding.EncodeToString(sealed)); err == nil {
			histories = append(histories, History{samples}.Merge(History{}))
		}
		limit := Limit{Known: true, MaxBytes: max(0, bytes), MaxEntries: max(0, entries)}
		for _, h := range histories {
			latest, _ := h.Latest()
			for _, now := range []time.Time{latest.ThisUpdate, latest.ThisUpdate.Add(36 * time.Hour), epoch} {
				p := Forecast(h, limit, now)
				if math.IsNaN(p.BytesPerDay) || !p.Passed && !p.LimitReachedAt.IsZero() && p.LimitReachedAt.Before(now) ||
					!p.LimitReachedAt.IsZero() && !p.EarliestAt.IsZero() && p.EarliestAt.After(p.LimitReachedAt) {
					t.Errorf("at %s: %+v", now, p)
				}
				Revocations(h, now)
				SteadyState(latest, SteadyInputs{Rate{1, 1, ""}, oneDay, oneDay, oneDay}, limit)
				Headroom(latest, limit, ConfiguredFleet(bytes))
			}
		}
	})
}
