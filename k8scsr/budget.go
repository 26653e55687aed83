package k8scsr

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Why these limits. A CA stops an account that asks too often, mostly by the
// hour or the day and over all names, and then nobody gets a certificate; but a
// whole fleet must be able to be born, or to be renewed after a CA is replaced,
// at once. So there is room for each certificate to be asked for at least twice
// an hour and six times a day, more often where its lifetime needs that, and
// for what one certificate that fails for good makes of it on its own (six an
// hour, some fifty a day; see Record), twice. Of this, what repeats may use no
// more than leaves each certificate one request an hour: so certificates that
// fail, however many, never keep those from being renewed that do not.
const (
	repeatsPerHour = 12
	repeatsPerDay  = 96
)

// Budget bounds the requests to one signer over all certificates.
type Budget struct {
	Hour, Day               int // in all
	RepeatsHour, RepeatsDay int // above which a certificate has to wait that failed, or was asked for within the hour as often as it needs
}

// Period is how long it takes from one renewal to the next: of the lifetime
// granted, or of the one asked for where that is shorter or none was granted.
func (s Spec) Period(live Live) time.Duration {
	lifetime := s.Lifetime
	if live.Leaf != nil {
		lifetime = min(lifetime, s.life(live.Leaf, live.IssuedAt))
	}
	return time.Duration(s.RenewAt * float64(lifetime))
}

// BudgetFor is the budget of the signer of certificates that are renewed after
// the given periods.
func BudgetFor(periods []time.Duration) Budget {
	hour, day := 0, 0
	for _, period := range periods {
		period = max(period, time.Minute)
		hour += perHour(period)
		day += perDay(period)
	}
	return Budget{
		Hour: repeatsPerHour + 2*hour, RepeatsHour: repeatsPerHour + hour,
		Day: repeatsPerDay + 3*day, RepeatsDay: repeatsPerDay + day,
	}
}

// perHour is how often a certificate is asked for within an hour that is well.
func perHour(period time.Duration) int { return int(time.Hour/max(period, time.Minute)) + 1 }

func perDay(period time.Duration) int { return max(2, int(24*time.Hour/max(period, time.Minute))+1) }

// Ledger counts the requests that were made, by signer. It is kept outside of
// the process, so that restarts do not forget them.
type Ledger struct {
	Version int                 `json:"version"`
	Signers map[string]*Account `json:"signers,omitempty"`
	// Certificates are those that were asked for, by their label.
	Certificates map[string]*Entry `json:"certificates,omitempty"`
}

// Entry is what is known of one certificate's requests.
type Entry struct {
	Secret  string        `json:"secret,omitempty"`  // "namespace/name" of the live Secret, beside which a next key may be stored
	Request string        `json:"request,omitempty"` // tells the one that was counted last, so that it is not counted twice when it is tried again
	Asked   map[int64]int `json:"asked,omitempty"`   // requests of the last day, by half days since 1970
}

// LedgerVersion is the layout of Ledger that this package writes.
const LedgerVersion = 1

// Account are the requests to one signer, by the ten minutes of the last hour
// and by the hours of the last day. Keys count tens of minutes and hours since
// 1970; what is counted by hours is counted by tens of minutes too.
type Account struct {
	Tens  map[int64]int `json:"tens,omitempty"`
	Hours map[int64]int `json:"hours,omitempty"`
}

const (
	tenMinutes = 10 * time.Minute
	halfDay    = 12 * time.Hour
)

// ParseLedger reads what Encode wrote; nothing is a new Ledger.
func ParseLedger(data []byte) (Ledger, error) {
	l := Ledger{Version: LedgerVersion}
	if len(data) == 0 {
		return l, nil
	}
	if err := json.Unmarshal(data, &l); err != nil {
		return Ledger{}, fmt.Errorf("parsing the record of requests: %w", err)
	}
	if l.Version != LedgerVersion {
		return Ledger{}, fmt.Errorf("parsing the record of requests: it has version %d, and only %d is known", l.Version, LedgerVersion)
	}
	for signer, a := range l.Signers {
		if a == nil {
			return Ledger{}, fmt.Errorf("parsing the record of requests: signer %s has none", signer)
		}
	}
	for certificate, e := range l.Certificates {
		if e == nil {
			return Ledger{}, fmt.Errorf("parsing the record of requests: certificate %s has none", certificate)
		}
	}
	return l, nil
}

// maxLedger is how large a Ledger becomes; what keeps it must take that.
const maxLedger = 60 << 10

// Encode is the Ledger as it is kept, at most 60 KiB. Where it would be larger,
// it forgets certificates that were not asked for within a day, and then all.
func (l Ledger) Encode() ([]byte, error) {
	_, data, err := l.fit()
	return data, err
}

// Fit is the Ledger as Encode keeps it.
func (l Ledger) Fit() Ledger {
	out, _, err := l.fit()
	if err != nil {
		return l
	}
	return out
}

func (l Ledger) fit() (Ledger, []byte, error) {
	for _, forget := range []func(string, *Entry) bool{
		func(string, *Entry) bool { return false },
		func(_ string, e *Entry) bool { return len(e.Asked) == 0 },
		func(string, *Entry) bool { return true },
	} {
		l.Certificates = maps.Clone(l.Certificates)
		maps.DeleteFunc(l.Certificates, forget)
		data, err := json.Marshal(l)
		if err != nil {
			return l, nil, fmt.Errorf("encoding the record of requests: %w", err)
		}
		if len(data) <= maxLedger {
			return l, data, nil
		}
	}
	return l, nil, fmt.Errorf("encoding the record of requests: %d signers take more than %d bytes", len(l.Signers), maxLedger)
}

// Counts tells whether the request was counted already.
func (l Ledger) Counts(certificate, request string) bool {
	e := l.Certificates[certificate]
	return e != nil && request != "" && e.Request == tail(request)
}

// Asked is how often the certificate was asked for within a day, a part of half
// a day before that included.
func (l Ledger) Asked(certificate string, now time.Time) int {
	sum := 0
	if e := l.Certificates[certificate]; e != nil {
		for _, n := range within(e.Asked, halfDay, 24*time.Hour, now) {
			sum += n
		}
	}
	return sum
}

// tail is what tells a request's name from others: it ends in chance.
func tail(request string) string { return request[max(0, len(request)-16):] }

// Spend is the Ledger with one more request to the signer, for the certificate
// that is kept in the Secret. What is older than a
// day is left out, and so are signers that were not asked since.
func (l Ledger) Spend(signer, certificate, secret, request string, now time.Time) Ledger {
	out := Ledger{Version: LedgerVersion, Signers: map[string]*Account{}, Certificates: map[string]*Entry{}}
	for name, a := range l.Signers {
		if kept := a.since(now); len(kept.Hours) > 0 {
			out.Signers[name] = kept
		}
	}
	if out.Signers[signer] == nil {
		out.Signers[signer] = &Account{Tens: map[int64]int{}, Hours: map[int64]int{}}
	}
	out.Signers[signer].add(now)
	for name, e := range l.Certificates {
		out.Certificates[name] = &Entry{e.Secret, e.Request, within(e.Asked, halfDay, 24*time.Hour, now)}
	}
	e := out.Certificates[certificate]
	if e == nil {
		e = &Entry{Asked: map[int64]int{}}
		out.Certificates[certificate] = e
	}
	e.Secret, e.Request = secret, tail(request)
	e.Asked[bucket(now, halfDay)]++
	return out
}

// Ahead is the Ledger with n requests more to the signer, which are about to be
// made: one write then counts many. Those that are not made after all count like
// the others until somebody writes the Ledger without them.
func (l Ledger) Ahead(signer string, n int, now time.Time) Ledger {
	if n == 0 || l.Signers[signer] == nil {
		return l
	}
	out := l
	out.Signers = maps.Clone(l.Signers)
	a := l.Signers[signer].since(now)
	a.Tens[bucket(now, tenMinutes)] += n
	a.Hours[bucket(now, time.Hour)] += n
	out.Signers[signer] = a
	return out
}

// AccountOf counts requests that were made at the given times.
func AccountOf(times []time.Time, now time.Time) *Account {
	a := &Account{Tens: map[int64]int{}, Hours: map[int64]int{}}
	for _, at := range times {
		a.add(at)
	}
	return a.since(now)
}

func bucket(t time.Time, width time.Duration) int64 { return t.Unix() / int64(width/time.Second) }

func (a *Account) add(at time.Time) {
	a.Tens[bucket(at, tenMinutes)]++
	a.Hours[bucket(at, time.Hour)]++
}

// since is what counts at now. What lies in the future, after a clock jumped
// back, is forgotten.
func (a *Account) since(now time.Time) *Account {
	return &Account{Tens: within(a.Tens, tenMinutes, time.Hour, now), Hours: within(a.Hours, time.Hour, 24*time.Hour, now)}
}

func within(counts map[int64]int, width, window time.Duration, now time.Time) map[int64]int {
	out := map[int64]int{}
	for b, n := range counts {
		if b >= bucket(now.Add(-window), width) && b <= bucket(now.Add(clockSkew), width) && n > 0 {
			out[b] = n
		}
	}
	return out
}

// Spending is what is known of a signer's budget when a request is about to be
// made. The zero value bounds nothing.
type Spending struct {
	Budget  Budget
	Account *Account // nil: nothing was counted, nothing is bounded
	Counted bool     // the request under way is in it already
	Asked   int      // for this certificate within a day
}

// holdUntil is when there is room again, and why there is none; zero when there
// is. A part of an hour or a day that has begun counts whole, so the bounds are
// never exceeded.
func (s Spending) holdUntil(repeats bool, now time.Time) (time.Time, string) {
	if s.Account == nil || s.Counted {
		return time.Time{}, ""
	}
	hour, day := s.Budget.Hour, s.Budget.Day
	if repeats {
		hour, day = s.Budget.RepeatsHour, s.Budget.RepeatsDay
	}
	counted := s.Account.since(now)
	byHour, made := room(counted.Tens, hour, tenMinutes, time.Hour)
	why := fmt.Sprintf("%d requests to it were made within an hour, of %d that are allowed", made, hour)
	byDay, made := room(counted.Hours, day, time.Hour, 24*time.Hour)
	if byDay.After(byHour) {
		why = fmt.Sprintf("%d requests to it were made within a day, of %d that are allowed", made, day)
		byHour = byDay
	}
	if repeats && !byHour.IsZero() {
		why += " to certificates that fail or were asked for lately"
	}
	return byHour, why
}

// room is when fewer than limit lie within the window; zero where that is so.
func room(counts map[int64]int, limit int, width, window time.Duration) (at time.Time, made int) {
	for _, n := range counts {
		made += n
	}
	left := made
	for _, b := range slices.Sorted(maps.Keys(counts)) {
		if left < limit {
			break
		}
		left -= counts[b]
		at = time.Unix((b+1)*int64(width/time.Second), 0).UTC().Add(window)
	}
	return at, made
}
