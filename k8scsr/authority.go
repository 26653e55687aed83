package k8scsr

import (
	"crypto/x509"
	"fmt"
	"time"
)

// When a CA counts as about to end: shares of its own life, as for the
// certificates under it, and lifetimes of what it signs.
const (
	authorityAlertAt    = 0.75
	authorityCriticalAt = 0.9

	// A CA is replaced without haste while two lifetimes are left: one for the
	// new CA to reach all who trust the old one, one in which every certificate
	// is renewed under it. With less than one, each certificate ends with the CA.
	authorityAlertLifetimes    = 2
	authorityCriticalLifetimes = 1

	// Below this many lifetimes of what it signs, a CA is short by choice, as an
	// intermediate often is, and its own shares alone count: it would be told
	// from its first day on.
	authorityShortLifetimes = 4
)

// AuthorityEnds tells how near a CA's end is at now, long before any certificate
// of it ends, and why in words that follow "the CA". Severity "" is not near.
//
//   - Critical: it has ended; 90 % of its life has passed; or less than one
//     leafLifetime is left, so that what it signs now is cut short.
//   - Warning: 75 % of its life has passed, or less than two times leafLifetime is
//     left.
//
// The rules with leafLifetime, which is the longest lifetime of what it signs,
// hold for a CA whose life is at least four of them; leafLifetime 0 is not known,
// and leaves the shares. A CA whose time has not come yet is not near its end.
func AuthorityEnds(ca *x509.Certificate, leafLifetime time.Duration, now time.Time) (severity Severity, reason string) {
	life, left := ca.NotAfter.Sub(ca.NotBefore), ca.NotAfter.Sub(now)
	passed := 1 - float64(left)/float64(max(life, 1))
	short := leafLifetime <= 0 || life/authorityShortLifetimes < leafLifetime
	share := fmt.Sprintf("ends %s: %.0f %% of its life has passed", stamp(ca.NotAfter), 100*passed)
	lifetimes := func(than string) string {
		return fmt.Sprintf("ends %s: less than %s %v is left, which is the lifetime of what it signs", stamp(ca.NotAfter), than, leafLifetime)
	}
	switch {
	case left <= 0: // RFC 5280 counts the last second as valid; nothing is signed in it
		return Critical, "ended " + stamp(ca.NotAfter)
	case passed >= authorityCriticalAt:
		return Critical, share
	case !short && left < authorityCriticalLifetimes*leafLifetime:
		return Critical, lifetimes("the")
	case passed >= authorityAlertAt:
		return Warning, share
	case !short && left < authorityAlertLifetimes*leafLifetime:
		return Warning, lifetimes("twice the")
	}
	return "", ""
}
