package k8scsr

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"
)

// ChangeState is how far a change of CA has come.
type ChangeState string

// The states of a change, in their order, a closed list.
const (
	ChangeBlocked    ChangeState = "blocked"        // the bundle cannot be published
	ChangePublishing ChangeState = "publishing"     // the bundle is about to be written
	ChangeSettling   ChangeState = "settling"       // clients have time to take up a new CA
	ChangeLeaf       ChangeState = "changing-leaf"  // the configured trust does not vouch for the certificate in use, which is to be replaced
	ChangePeers      ChangeState = "awaiting-peers" // an old CA stays until every peer has changed
	ChangeKept       ChangeState = "kept"           // an old CA stays until it expires, since no peers are configured
	ChangeNone       ChangeState = "as-configured"  // clients follow what is configured
)

// Change is what is known of the bundle that clients follow, and of its change.
// The zero value is for where no trust is configured, or it is not known.
type Change struct {
	State       ChangeState
	Reason      string
	Authorities []Authority
	Peers       []PeerStatus // while they decide
}

// Change tells how far a change of CA has come at now.
func (s State) Change(want Spec, now time.Time) Change {
	if len(s.Obstacles) > 0 || !s.Trust.Configured() {
		return Change{}
	}
	b := s.Bundle(want, now)
	c := Change{Authorities: b.Authorities}
	c.State, c.Reason = s.change(b, want, now)
	if b.AskPeers {
		p := newPublication(s, want, now)
		for _, peer := range s.Peers {
			c.Peers = append(c.Peers, p.judge(peer))
		}
	}
	return c
}

func (s State) change(b Bundle, want Spec, now time.Time) (ChangeState, string) {
	waiting := s.unsettled(b, want, now)
	leaving := b.leaving()
	switch {
	case b.Problem != "":
		return ChangeBlocked, "the trust bundle cannot be published: " + b.Problem
	case s.mayPublish(b, want, now):
		return ChangePublishing, b.reason()
	case !s.Live.Managed || !s.Live.Usable(now):
		return ChangeNone, "the configured trust is published with the next certificate"
	case len(waiting) > 0:
		last := waiting[len(waiting)-1]
		return ChangeSettling, settling(last.Since.Add(want.Settle), last)
	case !b.trusted:
		return ChangeLeaf, "the certificate in use is to be replaced, since the configured trust does not vouch for it"
	case b.kept:
		why, _ := s.lingering(b, want, now)
		return ChangeKept, why
	case len(leaving) > 0:
		why, _ := s.lingering(b, want, now)
		return ChangePeers, why
	}
	return ChangeNone, "clients follow the configured trust, which vouches for the certificate in use"
}

// peerPatience is how long peers may take before that is a warning.
const peerPatience = time.Hour

// changeFinding tells of a change of CA that is under way, or cannot go on.
func (s State) changeFinding(want Spec, now time.Time) *Finding {
	c := s.Change(want, now)
	f := &Finding{Rule: RuleCAChanging, Severity: Info, Subject: want.subject(), Citation: citeTrust, Summary: "a change of CA is under way: " + c.Reason}
	switch c.State {
	case ChangeBlocked:
		f.Rule, f.Severity, f.Summary = RuleTrustTooLarge, Warning, c.Reason
		f.Remedy = "take out of the trust source what is not needed; until then clients keep the bundle that they have, and nothing from a new CA is asked for"
	case ChangeSettling, ChangeLeaf:
		f.Remedy = "nothing, as long as the other findings of this certificate name no obstacle; have the signer sign with a CA of the configured trust"
	case ChangePeers:
		f.Evidence = evidenceOf(c.Peers)
		f.Remedy = "nothing, while peers take up the certificate"
		if !s.PeersSince.IsZero() && now.Sub(s.PeersSince) >= peerPatience {
			f.Severity = Warning
			f.Evidence = fmt.Sprintf("asked since %s: %s", stamp(s.PeersSince), f.Evidence)
			f.Remedy = "see why these peers do not serve the certificate of the Secret (certificate-not-served), or take those that are gone out of trust.peers; the old CA stays until then"
		}
	case ChangeKept:
		f.Rule, f.Summary = RuleCAKept, c.Reason
		f.Remedy = "set trust.peers to the addresses that serve this certificate (host:port); or see yourself that none presents a certificate from the old CA, and take it out of the Secret's bundle: it does not come back"
	default:
		return nil
	}
	if want.Paused {
		f.Remedy = "set paused: false: nothing goes on while it is paused"
	}
	return f
}

func evidenceOf(peers []PeerStatus) string {
	const most = 10
	var parts []string
	for _, p := range peers[:min(len(peers), most)] {
		parts = append(parts, fmt.Sprintf("%s %s: %s", p.Address, p.State, p.Detail))
	}
	if len(peers) > most {
		parts = append(parts, fmt.Sprintf("and %d more", len(peers)-most))
	}
	return strings.Join(parts, "; ")
}

// authorityFinding tells of CAs that end: those that are trusted, and the one that
// the certificate in use is from.
func (s State) authorityFinding(want Spec, now time.Time) *Finding {
	authorities := append([]*x509.Certificate(nil), s.Trust.Roots...)
	p := newPublication(s, want, now)
	if s.Live.Leaf != nil {
		for _, ca := range slices.Concat(s.Live.Chain[1:], p.certificates) {
			if !p.wanted[ca] && p.upholds(ca) != no && !contains(authorities, ca) {
				authorities = append(authorities, ca)
			}
		}
	}
	worst, evidence := Severity(""), []string{}
	for _, ca := range authorities {
		severity, reason := AuthorityEnds(ca, s.granted(want), now)
		if severity == "" {
			continue
		}
		// A CA that nobody needs may end; it is to be known all the same.
		if s.Live.Usable(now) && p.upholds(ca) == no {
			severity = Warning
			if now.After(ca.NotAfter) {
				severity = Info
			}
			reason += " (the certificate in use is not from it)"
		}
		if gravity[severity] > gravity[worst] {
			worst = severity
		}
		evidence = append(evidence, fmt.Sprintf("CA %s %s", caName(ca), reason))
	}
	if worst == "" {
		return nil
	}
	const most = 5
	if len(evidence) > most {
		evidence = append(evidence[:most], fmt.Sprintf("and %d more", len(evidence)-most))
	}
	return &Finding{
		Rule: RuleCAExpires, Severity: worst, Subject: want.subject(), Citation: citeValidity,
		Summary:  "a CA that clients of the certificate trust, or that it is from, ends",
		Evidence: strings.Join(evidence, "; "),
		Remedy:   "make a new CA, add it to the trust source beside the old one, then have the signer sign with it, and take the old one out; one that nothing is signed with any more only has to be taken out",
	}
}

// gravity orders what AuthorityEnds says.
var gravity = map[Severity]int{Info: 1, Warning: 2, Critical: 3}

// granted is the longest lifetime of what the CA signs: what is asked for, or
// what was granted instead.
func (s State) granted(want Spec) time.Duration {
	if leaf := s.Live.Leaf; leaf != nil && s.Live.Managed {
		return min(want.Lifetime, leaf.NotAfter.Sub(leaf.NotBefore))
	}
	return want.Lifetime
}
