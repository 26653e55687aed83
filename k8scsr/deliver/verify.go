package deliver

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"time"
)

// Address is a listener that must present the delivered leaf.
type Address struct {
	Address    string // host:port
	ServerName string // SNI, and the name that the chain must hold; default the host
	Protocol   string // tls, which is the default
}

const (
	probeTimeout      = 5 * time.Second
	maxHandshakeBytes = 1 << 20
	maxChain          = 10 // certificates that chain verification looks at
)

// listener is an Address in parts.
type listener struct {
	address    string
	serverName string
	listen     listen
}

func newListener(a Address) (listener, error) {
	if a.Protocol != "" && a.Protocol != "tls" {
		return listener{}, fmt.Errorf("verify protocol %q at %s is not supported yet: want tls", a.Protocol, a.Address)
	}
	host, port, err := net.SplitHostPort(a.Address)
	if err != nil {
		return listener{}, fmt.Errorf("parsing verify address %q: want host:port", a.Address)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || number == 0 || host == "" {
		return listener{}, fmt.Errorf("parsing verify address %q: want host:port", a.Address)
	}
	l := listener{address: a.Address, serverName: a.ServerName, listen: listen{port: uint16(number)}}
	if l.serverName == "" {
		l.serverName = host
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		l.listen.ip = ip.WithZone("")
	}
	return l, nil
}

// served is what a listener presented.
type served struct {
	leaf        *x509.Certificate
	fingerprint fingerprint
	untrusted   error // why the chain does not verify, nil when it does
}

// probe does one TLS handshake and reports the certificate presented in it,
// with the trust that the bundle gives it now. An error means that nothing is
// known about what the listener serves.
func (l listener) probe(ctx context.Context, bundle []byte, now time.Time) (*served, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", l.address)
	if err != nil {
		return nil, fmt.Errorf("connecting: %w", withoutPorts(err))
	}
	defer conn.Close()
	var chain []*x509.Certificate
	client := tls.Client(&cappedConn{Conn: conn, left: maxHandshakeBytes}, &tls.Config{
		ServerName: l.serverName,
		MinVersion: tls.VersionTLS12,
		// Nothing is sent over this connection, it only asks which leaf is
		// served. The answer must come even when that leaf has expired or is
		// from a CA that is no longer trusted: those are the states to be found
		// out. The leaf is compared with the stored one, octet for octet, which
		// is stricter than any chain; trust is judged below, as a fact of its own.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			chain = state.PeerCertificates
			return nil
		},
	})
	err = client.HandshakeContext(ctx)
	// A server that demands a client certificate answers with an alert, but only
	// after it has proved its key, so its certificate counts.
	var alert *net.OpError
	if err != nil && !(len(chain) > 0 && errors.As(err, &alert) && alert.Op == "remote error") {
		return nil, fmt.Errorf("handshaking: %w", withoutPorts(err))
	}
	if len(chain) == 0 {
		return nil, errors.New("handshaking: no certificate was presented")
	}
	return &served{
		leaf:        chain[0],
		fingerprint: sha256.Sum256(chain[0].Raw),
		untrusted:   trust(chain, bundle, l.serverName, now),
	}, nil
}

// trust verifies a chain as a client of the server would: against the delivered
// bundle, or the system's roots where there is none.
func trust(chain []*x509.Certificate, bundle []byte, serverName string, now time.Time) error {
	roots := x509.NewCertPool()
	if len(bundle) > 0 {
		roots.AppendCertsFromPEM(bundle)
	} else {
		system, err := x509.SystemCertPool()
		if err != nil {
			return fmt.Errorf("reading the system's roots: %w", err)
		}
		roots = system
	}
	intermediates := x509.NewCertPool()
	for _, c := range chain[1:min(len(chain), maxChain)] {
		intermediates.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		DNSName:       serverName,
		Roots:         roots,
		Intermediates: intermediates,
		CurrentTime:   now,
	})
	return err
}

// withoutPorts drops the ends of a connection from an error: our own port
// changes with each try, and the same state would be told as a new one.
func withoutPorts(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}

// cappedConn bounds what a peer can make us read.
type cappedConn struct {
	net.Conn
	left int
}

func (c *cappedConn) Read(b []byte) (int, error) {
	if c.left <= 0 {
		return 0, fmt.Errorf("reading more than %d bytes: %w", maxHandshakeBytes, io.ErrShortBuffer)
	}
	n, err := c.Conn.Read(b[:min(len(b), c.left)])
	c.left -= n
	return n, err
}
