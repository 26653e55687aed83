package deliver

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// listenTLS serves a pair in this process until the test ends.
func listenTLS(t *testing.T, p Pair, config *tls.Config) string {
	t.Helper()
	certificate, err := tls.X509KeyPair(p.Certificate, p.Key.PEM())
	if err != nil {
		t.Fatal(err)
	}
	config.Certificates = []tls.Certificate{certificate}
	return listenRaw(t, func(conn net.Conn) {
		data, err := io.ReadAll(tls.Server(conn, config))
		if len(data) > 0 {
			t.Errorf("the probe sent %d bytes, %v", len(data), err)
		}
	})
}

func listenRaw(t *testing.T, handle func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			handle(conn)
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

func probe(t *testing.T, a Address, bundle []byte) (*served, error) {
	t.Helper()
	l, err := newListener(a)
	if err != nil {
		t.Fatal(err)
	}
	return l.probe(t.Context(), bundle, time.Now())
}

func TestProbe(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	good, expired := ca.issue(t, time.Hour), ca.issue(t, -time.Minute)
	for _, tc := range []struct {
		name       string
		pair       Pair
		config     *tls.Config
		serverName string
		bundle     []byte
		untrusted  string
	}{
		{name: "good", pair: good, bundle: ca.bundle},
		{name: "by name", pair: good, bundle: ca.bundle, serverName: "vault.test"},
		{name: "TLS 1.2", pair: good, bundle: ca.bundle, config: &tls.Config{MaxVersion: tls.VersionTLS12}},
		{name: "expired", pair: expired, bundle: ca.bundle, untrusted: "certificate has expired"},
		{name: "another CA", pair: good, bundle: other.bundle, untrusted: "certificate signed by unknown authority"},
		{name: "system roots", pair: good, bundle: nil, untrusted: "certificate signed by unknown authority"},
		{name: "another name", pair: good, bundle: ca.bundle, serverName: "consul.test", untrusted: "not consul.test"},
		{name: "client certificate demanded", pair: good, bundle: ca.bundle, config: &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert}},
		{name: "client certificate demanded by TLS 1.2", pair: good, bundle: ca.bundle, config: &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, MaxVersion: tls.VersionTLS12}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			config := tc.config
			if config == nil {
				config = new(tls.Config)
			}
			address := listenTLS(t, tc.pair, config)
			got, err := probe(t, Address{Address: address, ServerName: tc.serverName}, tc.bundle)
			if err != nil {
				t.Fatal(err)
			}
			block, _ := pem.Decode(tc.pair.Certificate)
			if got.fingerprint != sha256.Sum256(block.Bytes) {
				t.Errorf("the fingerprint is not the leaf's")
			}
			if (got.untrusted == nil) != (tc.untrusted == "") || tc.untrusted != "" && !strings.Contains(got.untrusted.Error(), tc.untrusted) {
				t.Errorf("trust: %v, want %q", got.untrusted, tc.untrusted)
			}
		})
	}
}

func TestProbeKnowsNothing(t *testing.T) {
	pair := newAuthority(t).issue(t, time.Hour)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := free.Addr().String()
	free.Close()
	for name, tc := range map[string]struct {
		address string
		want    string
	}{
		"nobody listens": {closed, "connecting: connect: connection refused"},
		"no TLS":         {listenRaw(t, func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") }), "handshaking: "},
		"hangs up":       {listenRaw(t, func(net.Conn) {}), "handshaking: "},
		"TLS 1.1":        {listenTLS(t, pair, &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}), "handshaking: "},
		"endless": {listenRaw(t, func(c net.Conn) {
			// Records that a handshake may hold any number of: warning alerts would
			// be counted, application data refused; a server hello of the largest
			// size comes closest.
			record := append([]byte{22, 3, 3, 0x40, 0, 2, 0xff, 0xff, 0xff}, make([]byte, 0x4000-4)...)
			for {
				if _, err := c.Write(record); err != nil {
					return
				}
			}
		}), "handshaking: "},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := probe(t, Address{Address: tc.address}, nil)
			if err == nil || !strings.HasPrefix(err.Error(), tc.want) {
				t.Errorf("probe = %v, %v; want %q", got, err, tc.want)
			}
		})
	}
}

func TestProbeEndsInTime(t *testing.T) {
	stop := make(chan struct{})
	address := listenRaw(t, func(net.Conn) { <-stop })
	defer close(stop)
	l, err := newListener(Address{Address: address})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if _, err := l.probe(ctx, nil, time.Now()); err == nil {
		t.Error("a silent listener was taken for one that serves")
	}
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("it took %s", took)
	}
}

// A chain of any length costs no more than a few certificates.
func TestTrustIgnoresLongChains(t *testing.T) {
	ca := newAuthority(t)
	block, _ := pem.Decode(ca.issue(t, time.Hour).Certificate)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	chain := []*x509.Certificate{leaf}
	for range 500 {
		chain = append(chain, newAuthority(t).certificate)
	}
	begin := time.Now()
	if err := trust(chain, ca.bundle, "vault.test", time.Now()); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestNewListener(t *testing.T) {
	for _, tc := range []struct {
		in   Address
		want string
	}{
		{Address{Address: "127.0.0.1:8200", Protocol: "tls"}, ""},
		{Address{Address: "[::1]:8200"}, ""},
		{Address{Address: "vault-0.vault-internal:8200"}, ""},
		{Address{Address: "127.0.0.1:8300", Protocol: "consul-rpc"}, "not supported yet"},
		{Address{Address: "127.0.0.1"}, "want host:port"},
		{Address{Address: ":8200"}, "want host:port"},
		{Address{Address: "127.0.0.1:https"}, "want host:port"},
		{Address{Address: "127.0.0.1:0"}, "want host:port"},
		{Address{Address: "https://127.0.0.1:8200"}, "want host:port"},
	} {
		_, err := newListener(tc.in)
		if (err == nil) != (tc.want == "") || tc.want != "" && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: %v, want %q", tc.in, err, tc.want)
		}
	}
}
