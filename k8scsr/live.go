package k8scsr

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"strings"
	"time"
)

// Live is the pair that is stored now, read live. Its copies are for one goroutine
// at a time: they share what was found out about its chain.
type Live struct {
	Exists  bool // the Secret exists
	Managed bool // we wrote it; else it is adopted as it is

	Leaf    *x509.Certificate // nil when there is none that parses
	Chain   []*x509.Certificate
	Problem string // why the pair cannot be served; "" when it can, or when there is none

	Signer   string               // that we asked, "" when adopted
	IssuedAt time.Time            // when we published it, zero when adopted
	CA       []byte               // the bundle stored beside it
	CASince  map[string]time.Time // when its CAs were published, as [ParseSince] reads it; nil: nothing is recorded

	known *proofs // what was found out about it; nil: nothing is remembered
}

// ReadLive parses a stored pair and tells whether the key belongs to the leaf.
// It keeps neither the key nor anything that tells of it.
func ReadLive(certificate, key []byte) Live {
	live := Live{Exists: true}
	if len(certificate) == 0 && len(key) == 0 {
		return live
	}
	if live = ReadChain(certificate); live.Problem != "" {
		return live
	}
	private, err := ParseKey(key)
	switch {
	case err != nil:
		live.Problem = "its key is unusable: " + err.Error()
	case !sameKey(private.Public(), live.Leaf.PublicKey):
		live.Problem = "its key does not belong to its certificate"
	}
	return live
}

// ReadChain is ReadLive for a certificate whose key is known to belong to it.
func ReadChain(certificate []byte) Live {
	live := Live{Exists: true}
	if len(certificate) > maxChain {
		live.Problem = fmt.Sprintf("its certificate has %d octets, more than %d", len(certificate), maxChain)
		return live
	}
	chain, err := parseCertificates(certificate)
	if err != nil {
		live.Problem = "its certificate does not parse: " + err.Error()
		return live
	}
	if err := affordable(chain); err != nil {
		live.Problem = "its chain cannot be checked: " + err.Error()
		return live
	}
	live.Leaf, live.Chain, live.known = chain[0], chain, newProofs()
	return live
}

// ParseIssuedAt reads when a certificate was published, as it is recorded beside
// it (RFC 3339). It is zero where that does not parse or is yet to come, by more
// than clocks differ: then it is wrong, and NotBefore counts instead.
func ParseIssuedAt(text string, now time.Time) time.Time {
	at, err := time.Parse(time.RFC3339, text)
	if err != nil || at.After(now.Add(clockSkew)) {
		return time.Time{}
	}
	return at
}

// Usable tells whether a server can work with the pair at now.
func (l Live) Usable(now time.Time) bool {
	return l.Leaf != nil && l.Problem == "" && now.Before(l.Leaf.NotAfter)
}

// Schedule is when things are due for one certificate.
type Schedule struct {
	RenewAt    time.Time
	AlertAt    time.Time
	CriticalAt time.Time
}

// spreadFrom is the lifetime from which certificates are spread: below it they
// are renewed so often that they drift apart by themselves.
const spreadFrom = 24 * time.Hour

// spare is for a clock that is slow, and for the renewal itself.
const spare = clockSkew + time.Minute

// Schedule computes the shares of the lifetime granted, counted from the time of
// issue, which is when we published the certificate, and never before its
// NotBefore. Counting from NotBefore instead would be wrong for short
// certificates: signers backdate it (the built-in one by five minutes), and the
// share could have passed before the certificate exists, which would renew it
// in a loop. For a certificate that was adopted only NotBefore is known.
//
// Renewal is put off by a share that depends on the certificate's name alone, so
// that replicas do not expire together: at most half the way to AlertAt, and
// only for lifetimes of a day or more.
//
// A share that leaves less than spare before the end is not used in full, down
// to the default: with a clock that is five minutes slow the end comes five
// minutes sooner than it seems.
func (s Spec) Schedule(leaf *x509.Certificate, issuedAt time.Time) Schedule {
	life := s.life(leaf, issuedAt)
	start := leaf.NotAfter.Add(-life)
	at := func(share float64) time.Time {
		return start.Add(time.Duration(share * float64(life)))
	}
	renewAt := s.RenewAt
	if life >= spreadFrom {
		renewAt += (s.AlertAt - s.RenewAt) / 2 * spread(s.Name)
	}
	out := Schedule{RenewAt: at(renewAt), AlertAt: at(s.AlertAt), CriticalAt: at(s.CriticalAt)}
	if latest := leaf.NotAfter.Add(-spare); latest.Before(out.RenewAt) && renewAt > DefaultRenewAt {
		out.RenewAt = latest
		if soonest := at(DefaultRenewAt); latest.Before(soonest) {
			out.RenewAt = soonest
		}
	}
	return out
}

// life is what Schedule takes for the lifetime granted.
func (s Spec) life(leaf *x509.Certificate, issuedAt time.Time) time.Duration {
	start := leaf.NotBefore
	if issuedAt.After(start) && issuedAt.Before(leaf.NotAfter) {
		start = issuedAt
	}
	return leaf.NotAfter.Sub(start)
}

// spread maps a name to a number in [0, 1).
func spread(name string) float64 {
	sum := sha256.Sum256([]byte(name))
	return float64(binary.BigEndian.Uint64(sum[:8])>>11) / math.Exp2(53)
}

// unwanted tells why a certificate that has not expired is not the one to serve
// any more: it is another than the Spec wants, or the bundle that clients trust
// no longer vouches for it. "" when it still is.
func (s Spec) unwanted(live Live, trust Trust, now time.Time) string {
	if changed := s.Changed(live.Leaf, live.Signer); len(changed) > 0 {
		return "the certificate is not the one wanted: " + strings.Join(changed, "; ")
	}
	if trust.Configured() {
		if err := live.proofs().verify(live.Chain, trust, inForce(live.Chain, now)); err != nil {
			return err.Error()
		}
	}
	return ""
}

// grantedInFull tells whether a certificate lives as long as was asked for.
// Signers round and backdate, so up to a hundredth, and a minute, is no
// difference.
func (s Spec) grantedInFull(leaf *x509.Certificate) bool {
	return leaf.NotAfter.Sub(leaf.NotBefore) >= s.Lifetime-max(s.Lifetime/100, time.Minute)
}

// Windows are times in which renewals may begin.
type Windows interface {
	// NextOpening is the first instant from now on at which one is open, now
	// itself included; zero where none opens within weeks.
	NextOpening(now time.Time) time.Time
}

// RenewalAt is when the renewal of a certificate that is well begins: when it is
// due, or, where Windows are given, when the first one opens from then on, or
// from now on where that is later. No window puts it off beyond CriticalAt.
func (s Spec) RenewalAt(leaf *x509.Certificate, issuedAt, now time.Time) time.Time {
	schedule := s.Schedule(leaf, issuedAt)
	at := schedule.RenewAt
	if s.Windows == nil {
		return at
	}
	if now.After(at) {
		at = now
	}
	if opens := s.Windows.NextOpening(at); !opens.IsZero() && opens.Before(schedule.CriticalAt) {
		return opens
	}
	return schedule.CriticalAt
}

// due tells whether a new certificate is to be asked for now, and why, in words.
// A renewal waits for a window; what is missing, broken, expired or not what is
// wanted does not.
func (s Spec) due(live Live, trust Trust, now time.Time) (string, bool) {
	why, needed := s.Needed(live, trust, now)
	if !needed || s.Windows == nil || s.replaces(live) || !s.renewal(live, trust, now) {
		return why, needed
	}
	return why, !now.Before(s.RenewalAt(live.Leaf, live.IssuedAt, now))
}

// renewal tells that nothing is wrong with the certificate but its age.
func (s Spec) renewal(live Live, trust Trust, now time.Time) bool {
	return live.Usable(now) && s.unwanted(live, trust, now) == ""
}

// Needed tells whether a new certificate is needed, and why, in words; whether
// one may be asked for now is another question.
func (s Spec) Needed(live Live, trust Trust, now time.Time) (string, bool) {
	switch {
	case live.Problem != "":
		return "the stored pair is unusable: " + live.Problem, true
	case live.Leaf == nil:
		return "there is no certificate yet", true
	case !now.Before(live.Leaf.NotAfter):
		return "the certificate expired " + stamp(live.Leaf.NotAfter), true
	}
	if why := s.unwanted(live, trust, now); why != "" {
		return why, true
	}
	if at := s.Schedule(live.Leaf, live.IssuedAt).RenewAt; !now.Before(at) {
		return fmt.Sprintf("its renewal was due %s, after %.0f %% of its lifetime", stamp(at), 100*s.RenewAt), true
	}
	if s.replaces(live) {
		return "its renewal was asked for", true
	}
	return "", false
}

// LeafID tells one certificate from every other: the SHA-256 of its DER, in
// hexadecimal; "none" where there is no certificate.
func LeafID(leaf *x509.Certificate) string {
	if leaf == nil {
		return "none"
	}
	sum := sha256.Sum256(leaf.Raw)
	return hex.EncodeToString(sum[:])
}

// replaces tells whether this is the certificate that a person wants replaced.
func (s Spec) replaces(live Live) bool {
	return s.Replace.LeafID != "" && s.Replace.LeafID == LeafID(live.Leaf)
}
