package issuer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

// The bounds of asking peers what they present.
const (
	peerTimeout      = 5 * time.Second  // of one handshake
	peerRoundTimeout = 10 * time.Second // of all
	peersAtOnce      = 8
	maxPeerBytes     = 256 << 10 // that one handshake may send
	maxPeers         = 256       // addresses of one certificate
	maxPeerChain     = 10        // certificates of one that are kept: no path is longer
	maxPeerOctets    = 95_000    // of those
	firstPeerPause   = 5 * time.Second
	longestPeerPause = 5 * time.Minute
	// Asking takes no more than a fifth of the time: after it, no peers are asked
	// for four times as long as it took.
	peersShare    = 4
	peersRestMost = peersShare * (peerRoundTimeout + peerTimeout)

	// MaxPeerNames is how many peers a certificate may name.
	MaxPeerNames = 32
)

// peerRound is what the peers of one certificate presented when they were asked
// last. It is good for one certificate and one trust alone.
type peerRound struct {
	about         string
	since, nextAt time.Time
	pause         time.Duration
	peers         []k8scsr.Peer
}

// observePeers adds what the peers present, where that decides whether an old CA
// may go. They are asked at growing intervals, and anew where the certificate or
// the trust changed. A peer that gives no answer is one that is not known.
func (i *Issuer) observePeers(ctx context.Context, c *Certificate, o *observation, now time.Time) {
	if !o.Bundle(c.Spec, now).AskPeers {
		delete(i.rounds, c.label)
		return
	}
	about := k8scsr.LeafID(o.Live.Leaf) + string(o.Trust.PEM)
	round := i.rounds[c.label]
	if round == nil || round.about != about {
		round = &peerRound{about: about, since: now}
	}
	if until := i.peersRestUntil; now.Before(until) && until.Sub(now) <= peersRestMost && !now.Before(round.nextAt) {
		round.nextAt = until
		i.keepRound(c, round)
	}
	if !now.Before(round.nextAt) || round.nextAt.Sub(now) > longestPeerPause {
		peers := i.askPeers(ctx, c)
		if ctx.Err() != nil {
			return // cut short: what was seen says nothing
		}
		// Peers that give no answer take time that renewals need.
		i.peersRestUntil = i.now().Add(peersShare * i.now().Sub(now))
		round.peers = peers
		round.pause = min(max(2*round.pause, firstPeerPause), longestPeerPause)
		round.nextAt = now.Add(round.pause)
		i.keepRound(c, round)
	}
	o.Peers, o.PeersSince, o.PeersAt = round.peers, round.since, round.nextAt
}

func (i *Issuer) keepRound(c *Certificate, round *peerRound) {
	if i.rounds == nil {
		i.rounds = map[string]*peerRound{}
	}
	i.rounds[c.label] = round
}

// askPeers asks every address of every peer once, a handful at a time.
func (i *Issuer) askPeers(ctx context.Context, c *Certificate) []k8scsr.Peer {
	ctx, cancel := context.WithTimeout(ctx, peerRoundTimeout)
	defer cancel()
	var out []k8scsr.Peer
	for _, peer := range c.Spec.Peers {
		addresses, err := i.addressesOf(ctx, peer)
		if err == nil && len(out)+len(addresses) > maxPeers {
			err = fmt.Errorf("with it there are more than %d addresses to ask", maxPeers)
		}
		if err != nil {
			out = append(out, k8scsr.Peer{Address: peer, Problem: k8scsr.Plain(err.Error(), maxMessage)})
			continue
		}
		for _, address := range addresses {
			out = append(out, k8scsr.Peer{Address: address})
		}
	}
	byAddress := func(a, b k8scsr.Peer) int { return strings.Compare(a.Address, b.Address) }
	slices.SortStableFunc(out, byAddress)
	out = slices.CompactFunc(out, func(a, b k8scsr.Peer) bool { return byAddress(a, b) == 0 })
	turn := make(chan struct{}, peersAtOnce)
	var asking sync.WaitGroup
	for n := range out {
		peer := &out[n]
		if peer.Problem != "" {
			continue
		}
		asking.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			chain, err := presented(ctx, peer.Address, peerName(c, peer.Address))
			if peer.Chain = chain; err != nil {
				peer.Chain, peer.Problem = nil, k8scsr.Plain(err.Error(), maxMessage)
			}
		})
	}
	asking.Wait()
	return out
}

// addressesOf are those that the name of a peer resolves to now: behind each is a
// peer of its own.
func (i *Issuer) addressesOf(ctx context.Context, peer string) ([]string, error) {
	host, port, err := splitPeer(peer)
	if err != nil {
		return nil, err
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return []string{peer}, nil
	}
	lookup := i.lookup
	if lookup == nil {
		lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	found, err := lookup(ctx, host)
	if err != nil {
		var unresolved *net.DNSError
		if errors.As(err, &unresolved) {
			return nil, fmt.Errorf("resolving %s: %s", host, unresolved.Err) // without the server, of which there are several
		}
		return nil, fmt.Errorf("resolving %s: %w", host, err)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("resolving %s: it has no address", host)
	}
	var out []string
	for _, ip := range found {
		out = append(out, net.JoinHostPort(ip.Unmap().String(), port))
	}
	return out, nil
}

func (c *Certificate) validatePeers() []error {
	var problems []error
	add := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf("certificate %q: trust: "+format, append([]any{c.Spec.Name}, args...)...))
	}
	if c.Spec.Settle < 0 {
		add("settle: %v is less than nothing", c.Spec.Settle)
	}
	if len(c.Spec.Peers) > MaxPeerNames {
		add("peers: it has %d entries, more than %d", len(c.Spec.Peers), MaxPeerNames)
	}
	for _, peer := range c.Spec.Peers {
		if _, _, err := splitPeer(peer); err != nil {
			add("peers: %w", err)
		}
	}
	return problems
}

// splitPeer takes host:port apart.
func splitPeer(peer string) (host, port string, err error) {
	host, port, err = net.SplitHostPort(peer)
	if number, problem := strconv.ParseUint(port, 10, 16); err != nil || problem != nil || number == 0 || host == "" {
		return "", "", fmt.Errorf("peer %q is not host:port", peer)
	}
	return host, port, nil
}

// peerName is the name by which a peer is asked for the certificate: the first of
// its own that is one.
func peerName(c *Certificate, address string) string {
	for _, name := range c.Spec.DNSNames {
		if !strings.HasPrefix(name, "*") {
			return name
		}
	}
	host, _, _ := net.SplitHostPort(address)
	return host // an address is no server name: crypto/tls sends none
}

// presented does one TLS handshake and returns the chain that was presented in
// it. Which CA it is from is the question, so nothing is verified here: the core
// does, against the configured trust alone. Nothing is sent.
func presented(ctx context.Context, address, name string) ([]*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("connecting: %w", innermost(err))
	}
	defer conn.Close()
	var chain []*x509.Certificate
	client := tls.Client(&boundedConn{conn, maxPeerBytes}, &tls.Config{
		ServerName: name, MinVersion: tls.VersionTLS12, InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			chain = state.PeerCertificates
			return nil
		},
	})
	err = client.HandshakeContext(ctx)
	// Who demands a client certificate refuses us after it has proved its key.
	var alert *net.OpError
	if err != nil && !(len(chain) > 0 && errors.As(err, &alert) && alert.Op == "remote error") {
		return nil, fmt.Errorf("handshaking: %w", innermost(err))
	}
	if len(chain) == 0 {
		return nil, errors.New("handshaking: no certificate was presented")
	}
	return bounded(chain)
}

// bounded is what is kept of a chain until the peers are asked again: they may be
// many, and what each sends is up to it.
func bounded(chain []*x509.Certificate) ([]*x509.Certificate, error) {
	chain = slices.Clone(chain[:min(len(chain), maxPeerChain)])
	octets := 0
	for _, cert := range chain {
		octets += len(cert.Raw)
	}
	if octets > maxPeerOctets {
		return nil, fmt.Errorf("it presents %d octets of certificates, more than %d", octets, maxPeerOctets)
	}
	return chain, nil
}

// innermost drops the ends of a connection from an error: our port is another one
// each time, and the same state would be told as a new one.
func innermost(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		return op.Err
	}
	return err
}

// boundedConn bounds what a peer can make us read.
type boundedConn struct {
	net.Conn
	left int
}

func (c *boundedConn) Read(b []byte) (int, error) {
	if c.left <= 0 {
		return 0, fmt.Errorf("reading more than %d octets: %w", maxPeerBytes, io.ErrShortBuffer)
	}
	n, err := c.Conn.Read(b[:min(len(b), c.left)])
	c.left -= n
	return n, err
}
