package k8scsr

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func TestBudgetFor(t *testing.T) {
	year := time.Duration(0.66 * float64(8760*time.Hour))
	many := func(n int, period time.Duration) (out []time.Duration) {
		for range n {
			out = append(out, period)
		}
		return out
	}
	for _, c := range []struct {
		name    string
		periods []time.Duration
		want    Budget
	}{
		{"one for a year", many(1, year), Budget{Hour: 14, RepeatsHour: 13, Day: 102, RepeatsDay: 98}},
		{"two hundred for a year", many(200, year), Budget{Hour: 412, RepeatsHour: 212, Day: 1296, RepeatsDay: 496}},
		{"one for ten minutes", many(1, 396*time.Second), Budget{Hour: 32, RepeatsHour: 22, Day: 753, RepeatsDay: 315}}, // it needs 9.1 an hour, 218 a day
		{"one for a day", many(1, 57024*time.Second), Budget{Hour: 14, RepeatsHour: 13, Day: 102, RepeatsDay: 98}},
	} {
		if got := BudgetFor(c.periods); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestSpending(t *testing.T) {
	b := Budget{Hour: 3, RepeatsHour: 2, Day: 6, RepeatsDay: 5}
	at := func(minutes ...int) (out []time.Time) {
		for _, m := range minutes {
			out = append(out, epoch.Add(-time.Duration(m)*time.Minute))
		}
		return out
	}
	for _, c := range []struct {
		name    string
		made    []time.Time // minutes before
		repeats bool
		until   time.Duration // 0: there is room
		why     string
	}{
		{"none", nil, true, 0, ""},
		{"one", at(5), true, 0, ""},
		{"two", at(5, 15), false, 0, ""},
		{"two, repeats", at(5, 15), true, 50 * time.Minute, "2 requests to it were made within an hour, of 2 that are allowed to certificates that fail"},
		{"three", at(5, 15, 25), false, 40 * time.Minute, "3 requests to it were made within an hour, of 3 that are allowed"},
		{"three, repeats", at(5, 15, 25), true, 50 * time.Minute, "of 2 that are allowed"},
		{"three, one long ago", at(5, 15, 71), false, 0, ""},
		{"six today", at(5, 90, 200, 300, 400, 500), false, 15*time.Hour + 0*time.Minute, "6 requests to it were made within a day, of 6"},
		{"clock jumped back", at(-90, -91, -92, -93, -94, -95, -96), true, 0, ""},
		{"a clock that is slow", at(-3, -2, -1), false, 70 * time.Minute, "3 requests"},
	} {
		until, why := Spending{Budget: b, Account: AccountOf(c.made, epoch)}.holdUntil(c.repeats, epoch)
		if c.name == "clock jumped back" {
			// Made by the clock before the jump.
			until, why = Spending{Budget: b, Account: AccountOf(c.made, epoch.Add(2*time.Hour))}.holdUntil(c.repeats, epoch)
		}
		held := until.Sub(epoch)
		if until.IsZero() {
			held = 0
		}
		if held != c.until && !(c.name == "six today" && held > 15*time.Hour && held <= 17*time.Hour) || !strings.Contains(why, c.why) {
			t.Errorf("%s: held for %v (%s), want %v", c.name, held, why, c.until)
		}
	}
	full := AccountOf(at(1, 2, 3, 4, 5), epoch)
	if until, _ := (Spending{Budget: b, Account: full, Counted: true}).holdUntil(true, epoch); !until.IsZero() {
		t.Error("a request that is counted already is held back")
	}
	if until, _ := (Spending{Budget: b}).holdUntil(true, epoch); !until.IsZero() {
		t.Error("held back without an account")
	}
}

// TestBudgetIsNeverExceeded asks as often as it may for ten days, through
// encoding and decoding, and with a clock that goes in leaps: no hour and no day
// has more requests than the budget, and there is always a time to go on.
func TestBudgetIsNeverExceeded(t *testing.T) {
	for seed := range uint64(3) {
		chance := rand.New(rand.NewPCG(seed, 1))
		b := Budget{Hour: 5 + chance.IntN(20), Day: 20 + chance.IntN(100)}
		b.RepeatsHour, b.RepeatsDay = b.Hour-2, b.Day-4
		var made []time.Time
		var data []byte
		for now := epoch; now.Before(epoch.Add(10 * day)); {
			l, err := ParseLedger(data)
			if err != nil {
				t.Fatal(err)
			}
			until, why := Spending{Budget: b, Account: l.Signers["s"]}.holdUntil(false, now)
			if until.IsZero() {
				made = append(made, now)
				l = l.Spend("s", "c", "ns/c", fmt.Sprintf("pkiwarden-c-%d", len(made)), now)
				if data, err = l.Encode(); err != nil {
					t.Fatal(err)
				}
				now = now.Add(time.Duration(chance.IntN(300)) * time.Second)
				continue
			}
			if !until.After(now) || until.Sub(now) > 26*time.Hour {
				t.Fatalf("held from %v until %v: %s", now, until, why)
			}
			now = until
		}
		for n := range made {
			if n >= b.Hour && made[n].Sub(made[n-b.Hour]) < time.Hour || n >= b.Day && made[n].Sub(made[n-b.Day]) < day {
				t.Fatalf("seed %d: request %d at %v exceeds %+v", seed, n, made[n], b)
			}
		}
		if len(made) < 5*b.Day {
			t.Errorf("seed %d: %d requests in ten days, of %d a day", seed, len(made), b.Day)
		}
		if len(data) > 1500 {
			t.Errorf("one signer and one certificate take %d bytes", len(data))
		}
	}
}

func TestLedger(t *testing.T) {
	l, err := ParseLedger(nil)
	if err != nil {
		t.Fatal(err)
	}
	was := l
	l = l.Spend("a", "v_x", "v/x", "pkiwarden-x-0123456789abcdef", epoch)
	if len(was.Signers) != 0 || !l.Counts("v_x", "pkiwarden-x-0123456789abcdef") || l.Counts("v_x", "pkiwarden-x-0123456789abcdee") || l.Counts("v_y", "") {
		t.Errorf("%+v, from %+v", l, was)
	}
	// Signers that are not asked any more are forgotten after a day.
	l = l.Spend("b", "v_x", "v/x", "pkiwarden-x-1", epoch.Add(26*time.Hour))
	if len(l.Signers) != 1 || l.Signers["b"] == nil {
		t.Errorf("%+v", l.Signers)
	}
	for _, bad := range []string{"{", `{"version":2}`, `[]`, `{"version":1,"signers":{"a":null}}`, `{"version":1,"signers":{"a":{"tens":{"x":1}}}}`} {
		if _, err := ParseLedger([]byte(bad)); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
	// Two hundred certificates that fail for a day fit, and so does what more leave.
	for n := range 600 {
		for signer := range 3 {
			l = l.Spend(fmt.Sprint(signer), fmt.Sprintf("a-rather-long-namespace_certificate-%d", n), fmt.Sprintf("a-rather-long-namespace/certificate-%d", n), fmt.Sprintf("pkiwarden-certificate-%d-0123456789abcdef", n), epoch.Add(26*time.Hour+time.Duration(n)*40*time.Second))
		}
		if n == 199 || n == 599 {
			data, err := l.Encode()
			if err != nil || len(data) > 60<<10 {
				t.Errorf("%d certificates: %d bytes, %v", n+1, len(data), err)
			}
			again, err := ParseLedger(data)
			if err != nil || n == 199 && (len(again.Certificates) < 200) {
				t.Errorf("%d certificates: %v, %d counted", n+1, err, len(again.Certificates))
			}
		}
	}
}

func TestBudgetHoldsBackOnlyRepeats(t *testing.T) {
	w := newWorld(t)
	w.live(17 * time.Hour)
	var made []time.Time
	for n := range 13 {
		made = append(made, epoch.Add(-time.Duration(n+1)*time.Minute))
	}
	w.Spending = Spending{Budget: BudgetFor([]time.Duration{16 * time.Hour}), Account: AccountOf(made, epoch)}
	if step := Next(w.State, w.want, w.now); step.Kind != StoreNextKey {
		t.Errorf("one that does not fail: %s, %s", step.Kind, step.Reason)
	}
	w.fail(RuleDenied, "denied")
	w.Pending.RetryAt = epoch
	step := Next(w.State, w.want, w.now)
	if step.Kind != Nothing || !strings.Contains(step.Reason, "the budget of signer ca.example/serving is used up: 13 requests to it were made within an hour, of 13") {
		t.Errorf("one that fails: %s, %s", step.Kind, step.Reason)
	}
	found := map[string]Severity{}
	for _, f := range Findings(w.State, w.want, w.now) {
		found[f.Rule] = f.Severity
	}
	if found[RuleBudget] != Warning {
		t.Errorf("findings %v", found)
	}
	// With its key stored it waits as well, unless its request was counted.
	w.pending(0)
	w.Pending.LastFailure = &Failure{Rule: RuleDenied}
	if step := Next(w.State, w.want, w.now); step.Kind != Nothing {
		t.Errorf("with the key stored: %s, %s", step.Kind, step.Reason)
	}
	w.Spending.Counted = true
	if step := Next(w.State, w.want, w.now); step.Kind != CreateRequest {
		t.Errorf("with the request counted: %s, %s", step.Kind, step.Reason)
	}
}

// TestGrantedMuchLess: a signer that grants ten minutes where a year was asked
// for is asked for every one of them.
func TestGrantedMuchLess(t *testing.T) {
	w := newWorld(t)
	w.want.Lifetime = 10 * time.Minute
	w.live(7 * time.Minute)
	w.want.Lifetime = 8760 * time.Hour
	for n := range 9 {
		w.Pending.Attempts = append(w.Pending.Attempts, Attempt{At: epoch.Add(-time.Duration(n*396+420) * time.Second)})
	}
	if step := Next(w.State, w.want, w.now); step.Kind != StoreNextKey {
		t.Errorf("%s: %s", step.Kind, step.Reason)
	}
}
