package k8scsr

import (
	"crypto/x509"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// nightly is open from 02:00 to 05:00 UTC on some days.
type nightly []time.Weekday

func (w nightly) NextOpening(now time.Time) time.Time {
	for n := range 22 {
		d := now.AddDate(0, 0, n)
		from := time.Date(d.Year(), d.Month(), d.Day(), 2, 0, 0, 0, time.UTC)
		for _, day := range w {
			if from.Weekday() == day && now.Before(from.Add(3*time.Hour)) {
				if now.After(from) {
					return now
				}
				return from
			}
		}
	}
	return time.Time{}
}

// TestRenewalWaitsForItsWindow: 1 March 2026 is a Sunday; the certificate of 30
// days was issued then at noon, its renewal is due on the 20th or 21st, critical
// it is on the 28th at noon.
func TestRenewalWaitsForItsWindow(t *testing.T) {
	on := func(day, hour int) time.Time { return time.Date(2026, 3, day, hour, 0, 0, 0, time.UTC) }
	cases := []struct {
		name    string
		windows Windows
		now     time.Time
		change  func(*world)
		kind    Kind
		until   time.Time // of a wait
	}{
		{"fresh", nightly{time.Tuesday}, on(2, 3), nil, Nothing, on(24, 2)},
		{"due, not open", nightly{time.Tuesday}, on(23, 12), nil, Nothing, on(24, 2)},
		{"due, another day's hour", nightly{time.Tuesday}, on(23, 3), nil, Nothing, on(24, 2)},
		{"due and open", nightly{time.Tuesday}, on(24, 3), nil, StoreNextKey, time.Time{}},
		{"due, just closed", nightly{time.Tuesday}, on(24, 5), nil, Nothing, on(28, 12)},
		{"opens only when it is critical", nightly{time.Sunday}, on(23, 12), nil, Nothing, on(28, 12)},
		{"critical", nightly{time.Tuesday}, on(28, 12), nil, StoreNextKey, time.Time{}},
		{"opens never", nightly{}, on(23, 12), nil, Nothing, on(28, 12)},
		{"opens never, critical", nightly{}, on(28, 12), nil, StoreNextKey, time.Time{}},
		{"expired", nightly{time.Tuesday}, on(31, 13), nil, StoreNextKey, time.Time{}},
		{"names changed", nightly{time.Tuesday}, on(2, 12), func(w *world) { w.want.DNSNames = append(w.want.DNSNames, "x.example") }, StoreNextKey, time.Time{}},
		{"signer changed, renewal due", nightly{time.Tuesday}, on(23, 12), func(w *world) { w.want.Signer = "ca.example/b" }, StoreNextKey, time.Time{}},
		{"not trusted any more", nightly{time.Tuesday}, on(2, 12), func(w *world) { w.swap(newAuthority(w.t, "b", nil)) }, StoreNextKey, time.Time{}},
		{"broken", nightly{time.Tuesday}, on(2, 12), func(w *world) { w.Live.Problem = "no key" }, StoreNextKey, time.Time{}},
		{"missing", nightly{time.Tuesday}, on(2, 12), func(w *world) { w.Live = Live{} }, StoreNextKey, time.Time{}},
		{"under way when it closes", nightly{time.Tuesday}, on(24, 6), func(w *world) { w.request(0) }, Approve, time.Time{}},
		{"key stored when it closes", nightly{time.Tuesday}, on(24, 6), func(w *world) { w.pending(0) }, DropPending, time.Time{}},
	}
	for _, c := range cases {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			w := newWorld(t)
			w.want.Lifetime, w.want.Windows = 30*day, c.windows
			w.live(0)
			w.now = c.now
			if c.change != nil {
				c.change(w)
			}
			step := Next(w.State, w.want, w.now)
			if step.Kind != c.kind || !c.until.IsZero() && !step.LookAgainAt.Equal(c.until) {
				t.Errorf("%s until %v (%s), want %s until %v", step.Kind, step.LookAgainAt, step.Reason, c.kind, c.until)
			}
		})
	}
}

// TestFailuresAreToldOutsideOfWindows: that the window is closed does not make
// what failed in it well.
func TestFailuresAreToldOutsideOfWindows(t *testing.T) {
	w := newWorld(t)
	w.want.Lifetime, w.want.Windows = 30*day, nightly{time.Tuesday}
	w.live(0)
	w.now = time.Date(2026, 3, 24, 4, 59, 0, 0, time.UTC)
	w.fail(RuleDenied, "request x was denied")
	w.now = w.now.Add(10 * time.Minute)
	found := map[string]string{}
	for _, f := range Findings(w.State, w.want, w.now) {
		found[f.Rule] = f.Evidence
	}
	if _, told := found[RuleDenied]; !told || !strings.Contains(found[RuleOverdue], "waits for its window until 2026-03-28T12:00:00Z") {
		t.Errorf("%v", found)
	}
}

// clocked is a certificate that is renewed again and again by a process whose
// clock is off, for a signer and clients whose clocks are right.
type clocked struct {
	*world
	offset time.Duration // of our clock
	truth  time.Time
	ends   time.Time // of the live certificate
	made   []time.Time
}

// run lets time pass until end, looking when told to, at most a minute or a
// hundredth of the lifetime apart.
// jump changes the offset at times.
func (c *clocked) run(t *testing.T, end time.Time, jump func()) {
	t.Helper()
	for c.truth.Before(end) {
		if jump != nil {
			jump()
		}
		c.now = c.truth.Add(c.offset)
		if c.truth.After(c.ends) {
			t.Fatalf("at %v, by our clock %v, the certificate has ended: %v", c.truth, c.now, c.ends)
		}
		step := Next(c.State, c.want, c.now)
		switch step.Kind {
		case StoreNextKey:
			record := step.Record
			c.request(0)
			record.CSRName, record.CSRUID = c.Pending.CSRName, c.Pending.CSRUID
			c.Pending.Record = record
			c.Request.CreatedAt = c.truth
			c.made = append(c.made, c.truth)
			now := c.now
			c.now = c.truth // the signer's clock
			c.answer()
			c.now = now
		case Publish:
			c.Live = ReadLive(step.Chain.PEM, keyPEM(t, c.next))
			c.Live.Managed, c.Live.Signer, c.Live.IssuedAt, c.Live.CA = true, c.want.Signer, c.now.Truncate(time.Second), c.Trust.PEM
			c.ends = step.Chain.Leaf.NotAfter
		case DropPending:
			c.Pending, c.Request = Pending{Record: step.Record}, nil
		case Nothing, AwaitIssue:
			pause := min(max(step.LookAgainAt.Sub(c.now), time.Second), max(time.Minute, c.want.Lifetime/100))
			c.truth = c.truth.Add(pause)
		default:
			t.Fatalf("%s: %s", step.Kind, step.Reason)
		}
	}
}

func newClocked(t *testing.T, lifetime time.Duration, edit func(*Spec)) *clocked {
	c := &clocked{world: newWorld(t), truth: epoch}
	c.want.Lifetime = lifetime
	if edit != nil {
		edit(&c.want)
	}
	c.ends = epoch.Add(time.Minute) // none yet: it must come within a minute
	return c
}

// TestSkewOfFiveMinutes: with a clock up to five minutes off either way, nothing
// ends before it is replaced, and nothing is asked for much more often.
func TestSkewOfFiveMinutes(t *testing.T) {
	lives := 12
	if testing.Short() {
		lives = 4
	}
	late := func(s *Spec) { s.RenewAt, s.AlertAt, s.CriticalAt = 0.9, 0.93, 0.95 }
	for _, lifetime := range []time.Duration{10 * time.Minute, 20 * time.Minute, time.Hour, day} {
		for _, offset := range []time.Duration{-5 * time.Minute, -time.Minute, 0, time.Minute, 5 * time.Minute} {
			for name, edit := range map[string]func(*Spec){"default": nil, "late": late} {
				c := newClocked(t, lifetime, edit)
				c.offset = offset
				c.run(t, epoch.Add(time.Duration(lives)*lifetime), nil)
				// Twelve lifetimes take 19 renewals at two thirds each, four take 7; the
				// shortest one, seen by a clock that is ahead, has half its length.
				if most := map[int]int{12: 39, 4: 13}[lives]; len(c.made) > most || len(c.made) < lives {
					t.Errorf("lifetime %v, clock off by %v, %s: %d requests", lifetime, offset, name, len(c.made))
				}
			}
		}
	}
}

// TestClockJumps: a clock that jumps, by minutes or a day and back, makes no
// flood of requests, and no certificate of more than a day ends for it.
func TestClockJumps(t *testing.T) {
	for seed := range uint64(4) {
		chance := rand.New(rand.NewPCG(seed, 3))
		c := newClocked(t, 30*day, nil)
		offsets := []time.Duration{0, 5 * time.Minute, -5 * time.Minute, day, -day, time.Hour}
		next := epoch.Add(time.Hour)
		c.run(t, epoch.Add(60*day), func() {
			if c.truth.After(next) {
				c.offset = offsets[chance.IntN(len(offsets))]
				next = c.truth.Add(time.Duration(chance.IntN(72)) * time.Hour)
			}
		})
		if len(c.made) < 3 || len(c.made) > 5 {
			t.Errorf("seed %d: %d requests in two lifetimes: %v", seed, len(c.made), c.made)
		}
	}
}

// TestAheadByMoreThanALife: with a clock that is a day ahead, a certificate of an
// hour has always expired, and so has every answer. That is refused, and asked
// for no more than six times an hour.
func TestAheadByMoreThanALife(t *testing.T) {
	c := newClocked(t, time.Hour, nil)
	c.offset, c.ends = day, epoch.Add(10*day)
	c.run(t, epoch.Add(day), nil)
	for n := range c.made {
		if n >= 6 && c.made[n].Sub(c.made[n-6]) < time.Hour {
			t.Fatalf("seven requests within %v", c.made[n].Sub(c.made[n-6]))
		}
	}
	if f := c.Pending.LastFailure; f == nil || f.Rule != RuleRefused || !strings.Contains(f.Summary, "expired") {
		t.Errorf("%+v", f)
	}
}

// TestCalendar: renewals are at shares of the lifetime, whatever the calendar
// and the wall clocks do meanwhile.
func TestCalendar(t *testing.T) {
	berlin := time.FixedZone("CEST", 2*60*60)
	for _, c := range []struct {
		name     string
		from, to time.Time
		due      string
	}{
		{"over a leap day", time.Date(2028, 2, 28, 0, 0, 0, 0, time.UTC), time.Date(2028, 3, 1, 0, 0, 0, 0, time.UTC), "2028-02-29T07:40:48Z"},
		{"to the leap day", time.Date(2028, 2, 19, 0, 0, 0, 0, time.UTC), time.Date(2028, 2, 29, 0, 0, 0, 0, time.UTC), "2028-02-25T14:24:00Z"},
		{"over the end of the year", time.Date(2026, 12, 31, 0, 0, 0, 0, time.UTC), time.Date(2027, 1, 2, 0, 0, 0, 0, time.UTC), "2027-01-01T07:40:48Z"},
		{"seen in summer time", time.Date(2026, 3, 29, 0, 0, 0, 0, time.UTC).In(berlin), time.Date(2026, 3, 31, 0, 0, 0, 0, time.UTC).In(berlin), "2026-03-30T07:40:48Z"},
	} {
		want := wanted(t, func(s *Spec) { s.AlertAt = 0.6601 }) // next to no spread
		leaf := &x509.Certificate{NotBefore: c.from, NotAfter: c.to}
		got := want.Schedule(leaf, time.Time{}).RenewAt
		due, err := time.Parse(time.RFC3339, c.due)
		if err != nil {
			t.Fatal(err)
		}
		if late := got.Sub(due); late < 0 || late > time.Minute {
			t.Errorf("%s: due %v, want %v", c.name, got, c.due)
		}
	}
}
