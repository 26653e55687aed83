package k8scsr

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
)

// Peer is a server that presents the certificate, as it was last seen.
type Peer struct {
	Address string              // where it was asked: IP:port, or as configured where its name does not resolve
	Chain   []*x509.Certificate // what it presented, the leaf first; none: it is not known
	Problem string              // why it is not known
}

// The states of a peer.
const (
	PeerMoved   = "moved"   // the configured trust alone vouches for what it presents
	PeerBehind  = "behind"  // it does not
	PeerUnknown = "unknown" // what it presents is not known
)

// PeerStatus is a peer by the trust that is configured.
type PeerStatus struct {
	Address string
	State   string
	Detail  string // which CA it presents a certificate from, or why that is not known
}

// judge is what peers are to be seen to do before an old CA may go.
func (p *publication) judge(peer Peer) PeerStatus {
	out := PeerStatus{Address: peer.Address, State: PeerUnknown, Detail: cmp.Or(peer.Problem, "it was not asked yet")}
	if len(peer.Chain) == 0 {
		return out
	}
	chain, problem := p.proofs.ofPeers().once(peer.Chain[:min(len(peer.Chain), maxDepth)])
	if problem != "" {
		out.Detail = problem
		return out
	}
	if p.proofs.ofPeers().vouches(p.s.Trust.Roots, chain, p.now) {
		out.State, out.Detail = PeerMoved, "it presents a certificate from CA "+p.anchor(chain, p.s.Trust.Roots)
		return out
	}
	out.State, out.Detail = PeerBehind, "it still presents a certificate from CA "+p.anchor(chain, p.certificates)
	if !p.now.Before(chain[0].NotAfter) {
		out.Detail = "it presents a certificate that expired " + stamp(chain[0].NotAfter)
	}
	return out
}

// anchor names the CA among the roots that vouches for a chain, or what the
// chain says of itself.
func (p *publication) anchor(chain, roots []*x509.Certificate) string {
	if ca := p.proofs.ofPeers().anchor(chain, roots, p.now); ca != nil {
		return caName(ca)
	}
	last := chain[len(chain)-1]
	for _, ca := range roots {
		switch p.proofs.ofPeers().issued(ca, last) {
		case yes:
			return caName(ca)
		case maybe:
			return fmt.Sprintf("%q", Plain(last.Issuer.String(), maxCAName))
		}
	}
	return fmt.Sprintf("%q, which is not known", Plain(last.Issuer.String(), maxCAName))
}

// peersNeed tells whether a peer may still present a certificate that only a CA
// of those that are to leave vouches for, and who, or why none does.
func (p *publication) peersNeed() (bool, string) {
	if p.need == nil {
		p.need = new(p.expected())
	}
	if *p.need == "" {
		return false, p.moved()
	}
	return true, *p.need
}

func (p *publication) expected() string {
	until := p.s.Live.IssuedAt.Add(p.want.Settle)
	switch {
	case p.now.Before(until):
		return "peers have until " + stamp(until) + " to take up the certificate"
	case len(p.want.Peers) == 0:
		p.kept = true
		return "without trust.peers nobody knows whether a peer still presents a certificate from it, so it stays until it expires"
	}
	p.ask = true
	if len(p.s.Peers) == 0 {
		return "the peers are to be asked what they present"
	}
	var behind []string
	for _, peer := range p.s.Peers {
		if status := p.judge(peer); status.State != PeerMoved {
			behind = append(behind, status.Address+" ("+status.Detail+")")
		}
	}
	if len(behind) == 0 {
		return ""
	}
	const most = 3
	text := "waiting for peer " + strings.Join(behind[:min(len(behind), most)], ", ")
	if len(behind) > most {
		text += fmt.Sprintf(" and %d more", len(behind)-most)
	}
	return text
}

// moved says what the peers present.
func (p *publication) moved() string {
	anchors := []string{}
	for _, peer := range p.s.Peers {
		chain, _ := p.proofs.ofPeers().once(peer.Chain[:min(len(peer.Chain), maxDepth)])
		if name := p.anchor(chain, p.s.Trust.Roots); !slices.Contains(anchors, name) {
			anchors = append(anchors, name)
		}
	}
	slices.Sort(anchors)
	return fmt.Sprintf("all %d peers present certificates from CA %s", len(p.s.Peers), strings.Join(anchors, ", "))
}
