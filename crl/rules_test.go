package crl

import (
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"
)

// TestFindings holds one fixture for each verdict, and for each rule one where
// it is silent.
func TestFindings(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	limit := Limit{Backend: "raft", MaxBytes: 1000, Rule: "the rule", Known: true}
	list := func(bytes int64) *Summary {
		return &Summary{Bytes: bytes, Entries: 7, ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(71 * time.Hour)}
	}
	valid := func(left time.Duration) *Summary {
		return &Summary{Bytes: 1, ThisUpdate: now.Add(left - 72*time.Hour), NextUpdate: now.Add(left)}
	}
	ends := now.Add(72 * time.Hour)
	entries := func(n int64) *Summary { return &Summary{Bytes: 1, Entries: n, ThisUpdate: now, NextUpdate: ends} }
	numbered := func(n int64) *Summary {
		return &Summary{Bytes: 1, ThisUpdate: now, NextUpdate: ends, Number: big.NewInt(n)}
	}
	delta := func(base int64) *Summary {
		return &Summary{Bytes: 1, ThisUpdate: now, NextUpdate: ends, Number: big.NewInt(base + 1), BaseNumber: big.NewInt(base)}
	}
	ordered := func(o Order) *Summary {
		return &Summary{Bytes: 1, ThisUpdate: now, NextUpdate: ends, Entries: 9, Order: o}
	}
	reached := func(after time.Duration) Projection {
		return Projection{LimitReachedAt: now.Add(after), Basis: "the basis"}
	}
	ptr := func(f float64) *float64 { return &f }
	current := Storage{VaultVersion: "1.21.4"}
	errNone := errors.New("vault has no CRL for this issuer: status 204")
	// What was missed three hours ago in a list made an hour after the one before.
	lost := func(assumed bool, seen time.Duration) *Loss {
		return &Loss{
			Before: Mark{ThisUpdate: now.Add(-4 * time.Hour).Unix()}, At: now.Add(-3 * time.Hour).Unix(), SeenAt: now.Add(-seen).Unix(),
			Missing: 3, Added: 1, Removed: 5, Buffer: 72 * 3600, Assumed: assumed,
		}
	}
	untidied := &Loss{
		Before: Mark{ThisUpdate: now.Add(-4 * time.Hour).Unix(), Entries: 500}, At: now.Add(-3 * time.Hour).Unix(), SeenAt: now.Add(-time.Hour).Unix(),
		Missing: 299, Added: 2, Removed: 300, Untidied: true,
	}
	dated := func(this, next time.Duration) *Summary {
		return &Summary{Bytes: 1, ThisUpdate: now.Add(this), NextUpdate: now.Add(next)}
	}
	deltaUntil := func(next time.Duration) *Summary {
		s := dated(-72*time.Hour, next)
		s.BaseNumber = big.NewInt(7)
		return s
	}
	tooLarge := fmt.Errorf("scanning CRL: a list of 2001 bytes, at most 2000 are read: %w", ErrTooLarge)
	twin := &Twin{Number: big.NewInt(7), ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(time.Hour)}
	// Thirty entries of a class of age are not in a list made an hour before.
	setback := func(class int, buffer time.Duration) *Setback {
		c := Changes{Removed: 30, Backwards: true}
		c.gone[class] = 30
		b := NewSetback(Mark{ThisUpdate: now.Add(-time.Hour).Unix()}, Summary{ThisUpdate: now.Add(-2 * time.Hour)}, c)
		b.Buffer = buffer
		return b
	}
	verdicts := map[string]bool{}
	for _, c := range []struct {
		name     string
		o        Observation
		want     string // "rule severity", several joined by a comma
		evidence string
	}{
		{"nothing known", Observation{}, "", ""},
		{"well below", Observation{List: list(599), Limit: limit}, "", ""},
		{"at the warning", Observation{List: list(600), Limit: limit}, "crl-near-limit warning", "600 bytes, 7 entries; limit 1000 bytes, about 19 entries: the rule"},
		{"below critical", Observation{List: list(799), Limit: limit}, "crl-near-limit warning", ""},
		{"at critical", Observation{List: list(800), Limit: limit}, "crl-near-limit critical", ""},
		{"at the limit", Observation{List: list(1000), Limit: limit}, "crl-near-limit critical", ""},
		{"over it", Observation{List: list(1001), Limit: limit}, "crl-over-limit critical", "1001 bytes"},
		{"no limit", Observation{List: list(1001), Limit: Limit{Known: true}}, "", ""},
		{"unknown limit", Observation{List: list(1001)}, "", ""},

		{"fresh", Observation{List: valid(8 * time.Hour)}, "", ""},
		{"a tenth left", Observation{List: valid(7*time.Hour + 12*time.Minute)}, "", ""},
		{"less than a tenth left", Observation{List: valid(7*time.Hour + 11*time.Minute)}, "crl-stale warning", "nextUpdate 2026-05-01T19:11:00Z"},
		{"passed", Observation{List: valid(0)}, "crl-stale critical", ""},
		{"no nextUpdate", Observation{List: &Summary{Bytes: 1, ThisUpdate: now}}, "crl-dates warning", "thisUpdate 2026-05-01T12:00:00Z, no nextUpdate, now 2026-05-01T12:00:00Z"},

		{"wrong signature", Observation{Err: fmt.Errorf("verifying CRL: %w: why", ErrNotSigned)}, "crl-signature-invalid critical", "why"},
		{"Ed25519", Observation{Err: fmt.Errorf("x: %w", ErrNotVerifiable)}, "crl-not-verifiable unknown", ""},
		{"fetch failed", Observation{List: list(1), Err: errors.New("connection refused")}, "crl-unreadable unknown", "connection refused"},
		{"malformed", Observation{Err: fmt.Errorf("scanning CRL: %w", &SyntaxError{Offset: 3, Want: "a", Got: "b"})}, "crl-unreadable critical", "at byte 3"},
		{"too large", Observation{Err: fmt.Errorf("scanning CRL: %w", ErrTooLarge)}, "crl-unreadable unknown", "too large"},
		{"too large to be read, below the limit", Observation{Err: tooLarge, Limit: Limit{Known: true, MaxBytes: 2001}, MaxBytes: 2000}, "crl-unreadable unknown", ""},
		{"too large to be read, and to be stored", Observation{Err: tooLarge, Limit: Limit{Known: true, MaxBytes: 2000, Rule: "the rule"}, MaxBytes: 2000}, "crl-unreadable critical",
			"at most 2000 are read: too large; crl.maxBytes 2000; limit 2000 bytes: the rule"},
		{"too large by the default", Observation{Err: tooLarge, Limit: limit}, "crl-unreadable critical", "crl.maxBytes 268435456"},
		{"may not sign", Observation{CannotSign: true}, "crl-no-issuer-usage warning", "cRLSign"},
		{"no list", Observation{Err: errNone, Missing: true}, "crl-missing warning", "no CRL"},
		{"no list any more", Observation{List: list(1), Err: errNone, Missing: true}, "crl-missing critical", ""},
		{"no list, and none expected", Observation{Err: errNone, Missing: true, CannotSign: true}, "crl-no-issuer-usage warning", ""},
		{"usage forbids", Observation{Err: errNone, Missing: true, UsageForbids: true}, "crl-missing warning,crl-no-issuer-usage warning", ""},
		{"usage forbids, an old list", Observation{List: list(1), UsageForbids: true}, "crl-no-issuer-usage warning", "crl-signing"},

		{"15 days to the limit", Observation{List: list(1), Limit: limit, Projection: reached(15 * 24 * time.Hour)}, "", ""},
		{"14 days to the limit", Observation{List: list(1), Limit: limit, Projection: reached(14 * 24 * time.Hour)}, "crl-near-limit warning", "reached on 2026-05-15T12:00:00Z if it goes on like the basis"},
		{"3 days to the limit", Observation{List: list(1), Limit: limit, Projection: reached(72 * time.Hour)}, "crl-near-limit critical", ""},
		{"limit reached, no limit known", Observation{List: list(1), Projection: reached(time.Hour)}, "", ""},
		{"headroom 2", Observation{List: list(1), Limit: limit, Headroom: ptr(2.0)}, "", ""},
		{"headroom below 2", Observation{List: list(1), Limit: limit, Headroom: ptr(1.9)}, "crl-near-limit warning", ""},
		{"headroom below 1", Observation{List: list(1), Limit: limit, Headroom: ptr(0.9)}, "crl-near-limit critical", ""},
		{"no headroom at all", Observation{List: list(1), Limit: limit, Headroom: ptr(0.0)}, "crl-near-limit critical", ""},
		{"growth ends below", Observation{List: list(600), Limit: limit, Steady: Steady{Known: true, Entries: 9, Bytes: 700, BelowIt: true, Why: "a sum"}},
			"crl-near-limit warning", "; growth stops by itself at 9 entries, 700 bytes, below the limit: a sum"},
		{"growth ends beyond", Observation{List: list(600), Limit: limit, Steady: Steady{Known: true, Entries: 99, Bytes: 4000, Why: "a sum"}},
			"crl-near-limit warning", "4000 bytes, beyond the limit"},
		{"entries below the warning", Observation{List: entries(59), Limit: Limit{Known: true, Storage: current}.WithMaxEntries(100)}, "", ""},
		{"entries at the warning", Observation{List: entries(60), Limit: Limit{Known: true, Storage: current}.WithMaxEntries(100)}, "crl-near-limit warning", "max_crl_entries"},
		{"more entries than allowed", Observation{List: entries(101), Limit: Limit{Known: true, Storage: current}.WithMaxEntries(100)}, "crl-over-limit critical", "max_crl_entries"},

		{"refused by Consul", Observation{List: list(1), Refused: errors.New("Request body(524515 bytes) too large, max size: 524288 bytes")}, "crl-not-written critical", "524515 bytes) too large, max size: 524288 bytes; the CRL that is served is of 2026-05-01T11:00:00Z"},
		{"refused by raft", Observation{Refused: errors.New("put failed due to value being too large, max value size for key k is 65536, got 65569")}, "crl-not-written critical", "max value size for key k is 65536"},

		{"rebuilt by time", Observation{List: valid(20 * time.Hour)}, "", ""},
		{"rebuilt by revocations, lately", Observation{List: valid(37 * time.Hour), AutoRebuildOff: true}, "", ""},
		{"rebuilt by revocations, long ago", Observation{List: valid(36 * time.Hour), AutoRebuildOff: true}, "crl-auto-rebuild-off warning", "auto_rebuild=false; thisUpdate 2026-04-30T00:00:00Z"},
		{"rebuilt by revocations, nearly expired", Observation{List: valid(time.Hour), AutoRebuildOff: true}, "crl-stale warning", ""},

		{"number as before", Observation{List: numbered(7), Highest: big.NewInt(7), HighestUntil: now.Add(time.Hour)}, "", ""},
		{"number went backwards", Observation{List: numbered(6), Highest: big.NewInt(7), HighestUntil: now.Add(time.Hour)}, "crl-number-backwards warning", "number 6, after 7, which is valid until 2026-05-01T13:00:00Z"},
		{"set back, just revoked", Observation{List: numbered(6), Highest: big.NewInt(7), HighestUntil: now.Add(time.Hour), Setback: setback(2, 0)}, "crl-number-backwards critical",
			"number 6, after 7, which is valid until 2026-05-01T13:00:00Z; the CRL of 2026-05-01T11:00:00Z had at least 30 entries that the one served now, of 2026-05-01T10:00:00Z, does not have; at least 30 of them were revoked less than 24 h ago, and stay listed for as long after their end, as is assumed"},
		{"set back, with a buffer that is over", Observation{List: numbered(6), Highest: big.NewInt(7), HighestUntil: now.Add(time.Hour), Setback: setback(2, time.Hour)}, "crl-number-backwards warning", "at least 30 entries"},
		{"set back, long revoked", Observation{List: numbered(6), Setback: setback(ages-1, 0)}, "crl-number-backwards warning", "the CRL of 2026-05-01T11:00:00Z had at least 30 entries"},
		{"number of a list that has ended", Observation{List: numbered(6), Highest: big.NewInt(7), HighestUntil: now}, "", ""},
		{"no number", Observation{List: list(1), Highest: big.NewInt(7), HighestUntil: now.Add(time.Hour)}, "", ""},

		{"the same number", Observation{List: numbered(7), Twin: twin}, "crl-number-backwards warning", "number 7 is that of the CRL of 2026-05-01T12:00:00Z and of another one, of 2026-05-01T11:00:00Z, which is valid until 2026-05-01T13:00:00Z"},
		{"the same number, and the next", Observation{List: numbered(8), Twin: twin}, "", ""},
		{"the same number as a list that has ended", Observation{List: numbered(7), Twin: &Twin{Number: big.NewInt(7), NextUpdate: now}}, "", ""},

		{"removed early", Observation{List: list(1), Lost: lost(false, time.Hour)}, "crl-removed-early critical",
			"the CRL of 2026-05-01T09:00:00Z had 5 entries fewer and 1 more than that of 2026-05-01T08:00:00Z, and 3 have not come back; tidy leaves what was revoked within 72 h here"},
		{"removed early, by a buffer that is assumed", Observation{List: list(1), Lost: lost(true, time.Hour)}, "crl-removed-early warning", "Vault tells of no tidy, and one that leaves what was revoked within 72 h is assumed"},
		{"removed, and no tidy known", Observation{List: list(1), Lost: untidied}, "crl-removed-early unknown",
			"the CRL of 2026-05-01T08:00:00Z had 500 entries, that of 2026-05-01T09:00:00Z had 300 of them fewer and 2 more, and 299 have not come back"},
		{"removed early, before any list is read again", Observation{Lost: lost(false, 24*time.Hour-time.Second)}, "crl-removed-early critical", ""},
		{"removed early, a day ago", Observation{List: list(1), Lost: lost(false, 24*time.Hour)}, "", ""},
		{"removed early, by a clock of another age", Observation{List: list(1), Lost: lost(false, -1000*time.Hour)}, "", ""},

		{"as far ahead as clocks may be", Observation{List: dated(5*time.Minute, 72*time.Hour)}, "", ""},
		{"dated in the future", Observation{List: dated(5*time.Minute+time.Second, 72*time.Hour)}, "crl-dates warning", "thisUpdate 2026-05-01T12:05:01Z, nextUpdate 2026-05-04T12:00:00Z, now 2026-05-01T12:00:00Z"},
		{"dated in the future, no nextUpdate", Observation{List: &Summary{Bytes: 1, ThisUpdate: now.Add(time.Hour)}}, "crl-dates warning", "thisUpdate 2026-05-01T13:00:00Z, no nextUpdate, now"},
		{"nextUpdate is thisUpdate", Observation{List: dated(time.Minute, time.Minute)}, "crl-dates warning", "nextUpdate 2026-05-01T12:01:00Z"},
		{"nextUpdate before thisUpdate, both passed", Observation{List: dated(-time.Hour, -2*time.Hour)}, "crl-stale critical,crl-dates warning", ""},

		{"sorted stretches of two issuers", Observation{List: ordered(Order{Runs: 5}), Issuers: 2}, "", ""},
		{"more stretches", Observation{List: ordered(Order{Runs: 6}), Issuers: 2}, "crl-unsorted info", "6 sorted stretches"},
		{"listed twice", Observation{List: ordered(Order{Runs: 1, Sorted: true, Duplicates: 2})}, "crl-duplicate-entries warning", "2 repeat"},

		{"delta", Observation{Delta: true, List: delta(7), Base: numbered(7)}, "", ""},
		{"delta that passes soon", Observation{Delta: true, List: deltaUntil(time.Second), Base: numbered(7)}, "", ""},
		{"delta that has passed", Observation{Delta: true, List: deltaUntil(0), Base: numbered(7), MeasuredAt: now}, "crl-stale warning", "nextUpdate 2026-05-01T12:00:00Z"},
		{"delta that has passed, without the list", Observation{Delta: true, List: deltaUntil(0)}, "crl-stale warning", ""},
		{"delta that has passed, as has the list", Observation{Delta: true, List: deltaUntil(0), Base: deltaUntil(-time.Second)}, "crl-delta-without-base warning", "the CRL has no number"},
		{"delta on an older base", Observation{Delta: true, List: delta(6), Base: numbered(7)}, "", ""},
		{"delta on a newer base", Observation{Delta: true, List: delta(8), Base: numbered(7)}, "crl-delta-without-base warning", "base number 8; the CRL has number 7"},
		{"delta, the list has no number", Observation{Delta: true, List: delta(8), Base: list(1)}, "crl-delta-without-base warning", "the CRL has no number"},
		{"delta without the list", Observation{Delta: true, List: delta(8)}, "", ""},
		{"no delta at all", Observation{Delta: true, List: numbered(8), Base: numbered(8)}, "crl-delta-without-base warning", "no delta CRL indicator"},

		{"mount refused", Observation{MountRefused: `it holds the segment ".."`}, "crl-mount-refused unknown", `".."`},
		{"no mount is shown", Observation{Unwatched: &Unwatched{}}, "crl-no-mount unknown", "Vault shows 0 PKI mounts; crl.mounts is not set, which is all"},
		{"no mount is selected", Observation{Unwatched: &Unwatched{Mounts: []string{"pki", "team/pki"}, Shown: 3, Patterns: []string{"pkii", "!x"}}}, "crl-no-mount unknown",
			`Vault shows 3 PKI mounts, pki, team/pki …; crl.mounts is ["pkii" "!x"]`},
		{"a mount vanished", Observation{Vanished: &Vanished{At: now.Add(-time.Hour), Mount: true, Lists: 2}}, "crl-vanished unknown", "CRLs it had: 2; missed at 2026-05-01T11:00:00Z"},
		{"a mount was made anew", Observation{Vanished: &Vanished{At: now.Add(-time.Hour), Mount: true, Lists: 2, Replaced: true}}, "crl-vanished warning", "CRLs it had: 2"},
		{"a list vanished", Observation{Vanished: &Vanished{At: now.Add(-24*time.Hour + time.Second)}}, "crl-vanished warning", "2026-04-30T12:00:01Z"},
		{"a list vanished a day ago", Observation{Vanished: &Vanished{At: now.Add(-24 * time.Hour)}}, "", ""},
		{"a list vanished, by a clock of another age", Observation{Vanished: &Vanished{At: now.Add(1000 * time.Hour)}}, "", ""},
		{"disabled", Observation{CRLDisabled: true}, "crl-disabled warning", "disable=true"},
		{"history without room", Observation{HistoryLeft: 193}, "crl-history-full info", "193 CRLs left out of a record of at most 65536 bytes"},
		{"history damaged", Observation{HistoryErr: errors.New("it is damaged")}, "crl-history-unreadable warning", "it is damaged"},
		{"revocations not listed", Observation{Drift: 5}, "crl-count-drift critical", ": 5, "},
		{"more listed than revoked", Observation{Drift: -5}, "crl-count-drift warning", ": -5, "},

		{"two at once", Observation{List: &Summary{Bytes: 900, ThisUpdate: now.Add(-72 * time.Hour), NextUpdate: now}, Limit: limit}, "crl-near-limit critical,crl-stale critical", ""},
	} {
		c.o.Subject = "mount pki, issuer root"
		var got []string
		for _, f := range Findings(c.o, thresholds, now) {
			got = append(got, f.Rule+" "+string(f.Severity))
			verdicts[f.Rule] = true
			if f.Subject != c.o.Subject || f.Summary == "" || f.Remedy == "" || f.Citation == "" || !strings.Contains(f.Evidence, c.evidence) {
				t.Errorf("%s: %+v", c.name, f)
			}
		}
		if strings.Join(got, ",") != c.want {
			t.Errorf("%s: %v, want %s", c.name, got, c.want)
		}
	}
	for _, r := range rules {
		if !verdicts[r.id] {
			t.Errorf("no fixture makes %s speak", r.id)
		}
	}
}

// TestNoSetback: a newer list is another matter, and an older one that has all
// entries loses none.
func TestNoSetback(t *testing.T) {
	for _, c := range []Changes{{Removed: 3}, {Backwards: true}, {Backwards: true, Added: 3}} {
		if b := NewSetback(Mark{}, Summary{}, c); b != nil {
			t.Errorf("%+v: %+v", c, b)
		}
	}
}

func TestThresholds(t *testing.T) {
	if err := thresholds.Validate(); err != nil {
		t.Error(err)
	}
	for want, edit := range map[string]func(*Thresholds){
		"shares 0 < warn <= critical <= 1":   func(t *Thresholds) { t.Warn.Share = 0.9 },
		"horizons warn >= critical >= 0":     func(t *Thresholds) { t.Warn.Horizon = time.Hour },
		"headrooms warn >= critical >= 0":    func(t *Thresholds) { t.Warn.Headroom = 0.5 },
		"want shares 0 < warn <= critical":   func(t *Thresholds) { t.Critical.Share = 1.1 },
		"want horizons warn >= critical >= ": func(t *Thresholds) { t.Critical.Horizon = -1 },
	} {
		bad := thresholds
		edit(&bad)
		if err := bad.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestLimitFinding(t *testing.T) {
	if _, found := LimitFinding(Limit{Known: true}); found {
		t.Error("a backend without a limit is known")
	}
	f, found := LimitFinding(Limit{Rule: "permission denied"})
	if !found || f.Rule != "crl-limit-unknown" || f.Severity != Unknown || f.Evidence != "permission denied" || f.Remedy == "" || f.Citation == "" {
		t.Errorf("%+v", f)
	}
}

var thresholds = Thresholds{
	Warn:     Threshold{Share: 0.6, Horizon: 336 * time.Hour, Headroom: 2},
	Critical: Threshold{Share: 0.8, Horizon: 72 * time.Hour, Headroom: 1},
}

// TestRemedyNamesTheSetting: what makes room for twice the list, or for what it
// grows to, is said with its value.
func TestRemedyNamesTheSetting(t *testing.T) {
	raft := Storage{Backend: "raft"}.Limit()
	o := Observation{List: &Summary{Bytes: 900000, ThisUpdate: time.Now(), NextUpdate: time.Now().Add(72 * time.Hour)}, Limit: raft}
	remedy := func() string {
		t.Helper()
		found := Findings(o, Thresholds{Warn: Threshold{Share: .6}, Critical: Threshold{Share: .8}}, time.Now())
		if len(found) != 1 {
			t.Fatalf("%v", found)
		}
		return found[0].Remedy
	}
	// 1,800,000 bytes, 33 of the barrier, 98 around the value.
	if got := remedy(); !strings.Contains(got, "For room of 1800000 bytes: set max_entry_size to 1800131 ") {
		t.Error(got)
	}
	o.Steady = Steady{Known: true, Bytes: 2000000}
	if got := remedy(); !strings.Contains(got, "For room of 2000000 bytes: set max_entry_size to 2000131 ") {
		t.Error(got)
	}
	o.Limit.Storage, o.Steady = Storage{}, Steady{}
	if got := remedy(); strings.Contains(got, "For room of") {
		t.Errorf("a storage that is not known: %s", got)
	}
}
