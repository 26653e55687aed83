package k8scsr

import (
	"crypto/x509"
	"fmt"
	"slices"
	"time"
)

// Trust changes before the certificate does: a client that follows the published
// bundle must know a CA before any peer presents a certificate from it. Clients
// take up a new bundle within Spec.Settle, so nothing from a CA that was
// published later than that is asked for or published, unless there is nothing to
// lose: no client that verifies what is presented now could fail to verify what
// comes.

// mayPublish tells whether the bundle is to be published now, alone. Where there
// is no pair that can be served it comes with the next one. A Secret that
// somebody else wrote is left alone until its pair is to be replaced.
func (s State) mayPublish(b Bundle, want Spec, now time.Time) bool {
	if !b.Changed || b.Problem != "" || !s.Live.Exists || s.Live.Leaf == nil || s.Live.Problem != "" {
		return false
	}
	if s.Live.Managed {
		return true
	}
	_, trusted := s.trustedSince(b, now, yes)
	return want.Settle > 0 && trusted && s.Live.Usable(now) && Due(s, want, now)
}

// trustedSince is since when clients that follow the published bundle trust the
// certificate in use, or maybe do; false where they do not.
func (s State) trustedSince(b Bundle, now time.Time, least vouching) (time.Time, bool) {
	if s.Live.Leaf == nil {
		return time.Time{}, false
	}
	vouches := s.Live.proofs().upholders(s.Live.Chain, b.published, s.Trust, now)
	for _, a := range sortedBySince(b.Authorities) {
		if vouches[a.Certificate] >= least && slices.Contains(b.published, a.Certificate) {
			return a.Since, true
		}
	}
	return time.Time{}, false
}

func sortedBySince(list []Authority) []Authority {
	return slices.SortedStableFunc(slices.Values(list), func(a, b Authority) int { return a.Since.Compare(b.Since) })
}

// unsettled are the wanted CAs that some client may not know yet which trusts
// the certificate in use, those published first at first; none where nothing can
// be lost.
func (s State) unsettled(b Bundle, want Spec, now time.Time) []Authority {
	recent := func(a Authority) bool { return a.Wanted && a.Since.Add(want.Settle).After(now) }
	if want.Settle <= 0 || !s.Live.Usable(now) || !slices.ContainsFunc(b.Authorities, recent) {
		return nil
	}
	since, trusted := s.trustedSince(b, now, maybe)
	if !trusted {
		return nil
	}
	var out []Authority
	for _, a := range sortedBySince(b.Authorities) {
		if recent(a) && a.Since.After(since) {
			out = append(out, a)
		}
	}
	return out
}

// trustFirst is until when no certificate is to be asked for, and why; zero for
// now. Which CA will sign is not known before, so it waits for all, but not
// longer than until the certificate becomes critical.
func (s State) trustFirst(b Bundle, want Spec, now time.Time) (time.Time, string) {
	waiting := s.unsettled(b, want, now)
	if len(waiting) == 0 {
		return time.Time{}, ""
	}
	critical := want.Schedule(s.Live.Leaf, s.Live.IssuedAt).CriticalAt
	if !now.Before(critical) {
		return time.Time{}, ""
	}
	if b.Problem != "" {
		return now.Add(obstacleInterval), "the trust bundle cannot be published: " + b.Problem
	}
	last := waiting[len(waiting)-1]
	until := last.Since.Add(want.Settle)
	if until.After(critical) {
		until = critical
	}
	return until, settling(until, last)
}

func settling(until time.Time, a Authority) string {
	return fmt.Sprintf("waiting until %s for clients to take up CA %s, published %s", stamp(until), caName(a.Certificate), stamp(a.Since))
}

// publish is the step when a certificate has come that may replace the one in
// use: it waits for the clients to know its CA, but not beyond the end of the one
// in use.
func (s State) publish(r Request, chain Chain, want Spec, now time.Time) Step {
	b := s.Bundle(want, now)
	waiting := s.unsettled(b, want, now)
	roots := slices.DeleteFunc(slices.Clone(s.Trust.Roots), func(ca *x509.Certificate) bool {
		return slices.ContainsFunc(waiting, func(a Authority) bool { return a.Certificate.Equal(ca) })
	})
	proofs := newProofs() // of another chain
	known := len(waiting) == 0 || proofs.vouches(roots, chain.certificates, now)
	alone := map[*x509.Certificate]vouching{}
	if !known {
		alone = proofs.upholders(chain.certificates, nil, s.Trust, now)
	}
	for _, a := range waiting {
		if known {
			break
		}
		if alone[a.Certificate] == no {
			continue
		}
		until := a.Since.Add(want.Settle)
		if s.Live.Leaf.NotAfter.Before(until) {
			until = s.Live.Leaf.NotAfter
		}
		if b.Problem != "" {
			return wait(AwaitIssue, now.Add(obstacleInterval), "request %s is answered; the trust bundle cannot be published: %s", r.Name, b.Problem)
		}
		return wait(AwaitIssue, until, "request %s is answered; %s", r.Name, settling(until, a))
	}
	if b.Problem != "" {
		b = b.wantedAlone()
	}
	return Step{Kind: Publish, Reason: "request " + r.Name + " is answered", LookAgainAt: now, Chain: chain, Bundle: b, Result: ResultIssued}
}

// wantedAlone is the bundle where all does not fit.
func (b Bundle) wantedAlone() Bundle {
	var out Bundle
	var wanted []*x509.Certificate
	for _, a := range b.Authorities {
		if a.Wanted {
			out.Authorities, wanted = append(out.Authorities, a), append(wanted, a.Certificate)
		}
	}
	out.PEM, out.Changed = encodeCertificates(wanted), true
	return out
}

// lingering says why CAs that are not wanted any more are still published while
// the certificate in use is good, and when to look again, zero for no time of its
// own; "" where there is none.
func (s State) lingering(b Bundle, want Spec, now time.Time) (string, time.Time) {
	leaving := b.leaving()
	switch {
	case b.Changed && b.Problem != "" && s.Live.Managed:
		return "the trust bundle cannot be published: " + b.Problem, now.Add(obstacleInterval)
	case len(leaving) == 0 || !s.Live.Managed:
		return "", time.Time{}
	}
	var names []*x509.Certificate
	next := leaving[0].Certificate.NotAfter.Add(lateness + time.Second)
	for _, a := range leaving {
		names = append(names, a.Certificate)
		if at := a.Certificate.NotAfter.Add(lateness + time.Second); at.Before(next) {
			next = at
		}
	}
	if b.AskPeers {
		next = s.PeersAt
	} else if at := s.Live.IssuedAt.Add(want.Settle); at.After(now) {
		next = at
	}
	return fmt.Sprintf("CA %s stays published: %s", caNames(names), leaving[0].Why), next
}
