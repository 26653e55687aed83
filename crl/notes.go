package crl

import (
	"fmt"
	"math/big"
	"time"
)

// clockSkew is how far ahead of now a thisUpdate may be before it is noted.
const clockSkew = 5 * time.Minute

// Notes says, one sentence each, in what a list that Scan accepts is not as RFC
// 5280 wants it, or is not in force at the time given: dates that have passed,
// are missing or contradict each other, numbers out of bounds, extensions that
// are there twice, reason codes without a name. None of it makes the list
// unreadable; crypto/x509 accepts it too. It is nil where there is nothing to
// note.
func (s Summary) Notes(now time.Time) []string {
	var notes []string
	note := func(format string, values ...any) { notes = append(notes, fmt.Sprintf(format, values...)) }

	switch {
	case s.NextUpdate.IsZero():
		note("there is no nextUpdate, so that nobody can tell when the list is out of date: RFC 5280 section 5.1.2.5 requires it")
	case !s.NextUpdate.After(now):
		note("nextUpdate has passed: clients that check revocation refuse every certificate of this issuer (RFC 5280 section 5.1.2.5)")
	}
	if s.ThisUpdate.After(now.Add(clockSkew)) {
		note("thisUpdate lies in the future: the issuer's clock is wrong, or the one here (RFC 5280 section 5.1.2.4: the issue date)")
	}
	if !s.NextUpdate.IsZero() && !s.NextUpdate.After(s.ThisUpdate) {
		note("nextUpdate is not after thisUpdate, so that the list was never in force (RFC 5280 sections 5.1.2.4 and 5.1.2.5)")
	}
	for _, number := range []struct {
		name string
		n    *big.Int
	}{{"CRL number", s.Number}, {"base CRL number", s.BaseNumber}} {
		switch {
		case number.n == nil:
		case number.n.Sign() < 0:
			note("the %s is negative: RFC 5280 section 5.2.3 counts from 0", number.name)
		case number.n.BitLen()/8+1 > 20: // with the bit that DER keeps for the sign
			note("the %s has %d octets: RFC 5280 section 5.2.3 allows 20", number.name, number.n.BitLen()/8+1)
		}
	}
	for _, id := range s.RepeatedExtensions {
		note("extension %s is there more than once, of which the last counts: RFC 5280 section 4.2 allows one", id)
	}
	switch n := s.UnnamedReasons; n {
	case 0:
	case 1:
		note("1 entry has a reason code that RFC 5280 section 5.3.1 does not name")
	default:
		note("%d entries have a reason code that RFC 5280 section 5.3.1 does not name", n)
	}
	return notes
}
