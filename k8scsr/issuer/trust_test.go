package issuer

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

// trusts puts the CAs into the trust source.
func (c *cluster) trusts(cas ...*authority) {
	c.put(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "vault", Name: "ca"}, Data: map[string]string{"ca.crt": string(join(cas))}})
}

func join(cas []*authority) []byte {
	var out []byte
	for _, ca := range cas {
		out = append(out, ca.pem...)
	}
	return out
}

// publishes tells whether the live Secret's bundle is of exactly these CAs.
func (c *cluster) publishes(cas ...*authority) bool {
	return bytes.Equal(c.objects["secrets/vault/vault-tls"].(*corev1.Secret).Data["ca.crt"], join(cas))
}

// from tells whether the live certificate is from the CA.
func (c *cluster) from(ca *authority) bool { return c.leaf().CheckSignatureFrom(ca.cert) == nil }

// listener is a peer: it presents the pair that it took up last.
type listener struct {
	address string
	names   chan string // by which it was asked
	pair    atomic.Pointer[tls.Certificate]
}

func (c *cluster) listen() *listener {
	l := &listener{names: make(chan string, 100)}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { tcp.Close() })
	l.address = tcp.Addr().String()
	config := &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		l.names <- hello.ServerName
		if pair := l.pair.Load(); pair != nil {
			return pair, nil
		}
		return nil, errors.New("none yet")
	}}
	go func() {
		for {
			conn, err := tcp.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				tls.Server(conn, config).Handshake()
			}()
		}
	}()
	return l
}

// takes has a peer take up the live pair.
func (l *listener) takes(c *cluster) {
	live := c.objects["secrets/vault/vault-tls"].(*corev1.Secret)
	pair, err := tls.X509KeyPair(live.Data["tls.crt"], live.Data["tls.key"])
	if err != nil {
		c.t.Fatal(err)
	}
	l.pair.Store(&pair)
}

func changing(peers ...string) Certificate {
	return vaultTLS(func(c *Certificate) { c.Spec.Settle, c.Spec.Peers = 5*time.Minute, peers })
}

// waits runs one look and checks the state of the change and what it says.
func (s *subject) waits(t *testing.T, state k8scsr.ChangeState, parts ...string) time.Time {
	t.Helper()
	next := s.once(t)
	trust := s.only(t).Trust
	for _, part := range append(parts, "") {
		if trust.State != state || !strings.Contains(trust.Reason, part) {
			t.Fatalf("%s: %s; want %s: %s", trust.State, trust.Reason, state, part)
		}
	}
	return next
}

// TestChangeOfCA: trust first, then the certificate, and the old CA goes when
// every peer has changed. Another instance looks each time, so that every step
// goes on from what is stored.
func TestChangeOfCA(t *testing.T) {
	c := newCluster(t)
	peer := c.listen()
	old, begun := c.ca, c.now
	s := c.process("pod-0").issuer(changing(peer.address))
	s.waits(t, k8scsr.ChangeNone, "clients follow the configured trust")
	peer.takes(c)

	// The operator puts another CA in the place of the old one, before the signer
	// has it.
	next := newAuthority(t)
	c.trusts(next)
	c.now = begun.Add(time.Hour)
	s = c.process("pod-1").issuer(changing(peer.address))
	at := s.waits(t, k8scsr.ChangeSettling, "waiting until 2026-03-01T13:05:00Z for clients to take up CA CN=ca (SHA-256 ")
	if !c.publishes(next, old) || !c.from(old) || len(c.csrs()) != 1 || at.After(begun.Add(time.Hour+time.Minute)) {
		t.Fatalf("trust is not first: %d requests, next look %v", len(c.csrs()), at)
	}
	if log := s.log.String(); !strings.Contains(log, "step=publish-trust") || !strings.Contains(log, "is new; CA CN=ca (SHA-256 ") || !strings.Contains(log, "stays: it vouches for the certificate in use") ||
		!strings.Contains(log, "then the certificate is to change: the trust bundle does not vouch for it") {
		t.Errorf("the log does not tell it:\n%s", log)
	}
	if s.rules() != k8scsr.RuleCAChanging || s.findings[0].Severity != k8scsr.Info {
		t.Errorf("findings %+v", s.findings)
	}

	// The signer follows; the clients have had their time a second later.
	c.ca = next
	c.now = begun.Add(time.Hour + 5*time.Minute - time.Second)
	c.process("pod-2").issuer(changing(peer.address)).waits(t, k8scsr.ChangeSettling)
	if len(c.csrs()) != 1 {
		t.Fatal("it asked before the clients know the new CA")
	}
	c.now = c.now.Add(time.Second)
	s = c.process("pod-3").issuer(changing(peer.address))
	s.waits(t, k8scsr.ChangePeers, "peers have until 2026-03-01T13:10:00Z to take up the certificate")
	if !c.publishes(next, old) || !c.from(next) {
		t.Fatal("the certificate is not from the new CA, beside both")
	}

	// The peer still presents the old one: it is asked again, less and less often.
	c.now = begun.Add(time.Hour + 10*time.Minute)
	s = c.process("pod-4").issuer(changing(peer.address))
	s.waits(t, k8scsr.ChangePeers, "waiting for peer "+peer.address+" (it still presents a certificate from CA CN=ca (SHA-256 ")
	if name := <-peer.names; name != "vault.example" {
		t.Errorf("asked by the name %q", name)
	}
	for _, after := range []time.Duration{time.Second, 3 * time.Second} { // 5 s have not passed
		c.now = c.now.Add(after)
		s.once(t)
	}
	if len(peer.names) != 0 {
		t.Error("it was asked again at once")
	}
	if st := s.only(t).Trust; len(st.Peers) != 1 || st.Peers[0].Address != peer.address || st.Peers[0].State != k8scsr.PeerBehind ||
		len(st.Authorities) != 2 || !st.Authorities[0].Wanted || st.Authorities[1].Wanted || !st.Authorities[0].PublishedAt.Equal(begun.Add(time.Hour)) || !st.Authorities[1].PublishedAt.Equal(begun) {
		t.Errorf("status %+v", st)
	}
	c.now = c.now.Add(time.Hour)
	s.once(t)
	if s.rules() != k8scsr.RuleCAChanging || s.findings[0].Severity != k8scsr.Warning || !strings.Contains(s.findings[0].Evidence, peer.address+" behind: ") {
		t.Errorf("after an hour: %+v", s.findings)
	}

	// It changes: the old CA goes.
	peer.takes(c)
	c.now = c.now.Add(5 * time.Minute)
	s.waits(t, k8scsr.ChangeNone)
	if !c.publishes(next) || !strings.Contains(s.log.String(), "is dropped: all 1 peers present certificates from CA CN=ca (SHA-256 ") || len(s.findings) != 0 {
		t.Errorf("findings %s, log:\n%s", s.rules(), s.log.String())
	}
}

// TestPeersThatAreNotKnown: as long as one of them is not known to have changed,
// the old CA stays.
func TestPeersThatAreNotKnown(t *testing.T) {
	c := newCluster(t)
	good, mute := c.listen(), c.listen()
	_, port, _ := net.SplitHostPort(good.address)
	named := net.JoinHostPort("peers.example", port)
	s := c.process("pod-a").issuer(changing(named, mute.address))
	var found []netip.Addr
	var unresolved error
	s.lookup = func(context.Context, string) ([]netip.Addr, error) { return found, unresolved }
	s.once(t)
	old, next := c.ca, newAuthority(t)
	c.ca = next
	c.trusts(next)
	s.once(t)
	c.now = c.now.Add(5 * time.Minute)
	s.once(t)
	good.takes(c)

	unresolved = &net.DNSError{Err: "no such host", Server: "192.0.2.1:53", IsNotFound: true}
	c.now = c.now.Add(5 * time.Minute)
	s.waits(t, k8scsr.ChangePeers, named+" (resolving peers.example: no such host)", mute.address+" (handshaking: ")
	unresolved = nil
	c.now = c.now.Add(time.Hour)
	s.waits(t, k8scsr.ChangePeers, named+" (resolving peers.example: it has no address)")
	found = slices.Repeat([]netip.Addr{netip.MustParseAddr("127.0.0.1")}, 300)
	for n := range found {
		found[n] = netip.AddrFrom4([4]byte{192, 0, 2, byte(n)})
	}
	c.now = c.now.Add(time.Hour)
	s.waits(t, k8scsr.ChangePeers, "more than 256 addresses")
	found = []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	c.now = c.now.Add(time.Hour)
	s.waits(t, k8scsr.ChangePeers, "waiting for peer "+mute.address+" (handshaking: ")
	if !c.publishes(next, old) {
		t.Fatal("the old CA is gone")
	}
	mute.takes(c)
	c.now = c.now.Add(time.Hour)
	s.waits(t, k8scsr.ChangeNone)
	if !c.publishes(next) {
		t.Error("the old CA stays")
	}
}

// TestWithoutPeersTheOldCAStays until it expires, and a finding says so.
func TestWithoutPeersTheOldCAStays(t *testing.T) {
	c := newCluster(t)
	s := c.process("pod-a").issuer(changing())
	s.once(t)
	old, next := c.ca, newAuthority(t)
	c.ca = next
	c.trusts(next)
	s.once(t)
	c.now = c.now.Add(5 * time.Minute)
	s.once(t)
	c.now = c.now.Add(10 * time.Minute)
	s.waits(t, k8scsr.ChangeKept, "so it stays until it expires")
	if !c.publishes(next, old) || s.rules() != k8scsr.RuleCAKept || s.findings[0].Severity != k8scsr.Info {
		t.Errorf("findings %+v", s.findings)
	}
	// By hand it goes, and does not come back.
	live := c.objects["secrets/vault/vault-tls"].(*corev1.Secret).DeepCopy()
	live.Data["ca.crt"] = next.pem
	c.put(live)
	writes := len(c.writes)
	c.now = c.now.Add(time.Minute)
	s.waits(t, k8scsr.ChangeNone)
	if !c.publishes(next) || len(c.writes) != writes || len(s.findings) != 0 {
		t.Errorf("findings %s, writes %q", s.rules(), c.writes[writes:])
	}
}

// TestWhatSomebodyElsePutsIntoTheBundle is taken out, and a record that somebody
// else wrote is no reason for anything but to wait.
func TestWhatSomebodyElsePutsIntoTheBundle(t *testing.T) {
	c := newCluster(t)
	s := c.process("pod-a").issuer(changing())
	s.once(t)
	stranger := newAuthority(t)
	id := fmt.Sprintf("%064x", 1)
	for _, record := range []string{"", "[]", `{"`, "{}", `{"` + id + `":"2999-01-01T00:00:00Z"}`, `{"` + k8scsr.LeafID(c.ca.cert) + `":"2999-01-01T00:00:00Z"}`,
		`{"` + strings.Repeat("x", 1<<18) + `":""}`, `{"none":"2026-01-01T00:00:00Z","\u001b":"now"}`} {
		live := c.objects["secrets/vault/vault-tls"].(*corev1.Secret).DeepCopy()
		live.Data["ca.crt"] = slices.Concat(c.ca.pem, stranger.pem)
		live.Annotations[AnnotationTrusted] = record
		c.put(live)
		c.now = c.now.Add(time.Minute)
		s.waits(t, k8scsr.ChangeNone)
		if got := c.objects["secrets/vault/vault-tls"].(*corev1.Secret).Annotations[AnnotationTrusted]; !c.publishes(c.ca) || strings.Contains(got, "2999") || len(got) > 200 || len(s.findings) != 0 {
			t.Errorf("record %.40q: it becomes %q, findings %s", record, got, s.rules())
		}
	}
	live := c.objects["secrets/vault/vault-tls"].(*corev1.Secret).DeepCopy()
	live.Data["ca.crt"] = []byte("no bundle")
	c.put(live)
	s.waits(t, k8scsr.ChangeNone)
	if !c.publishes(c.ca) {
		t.Error("a bundle that does not parse stays")
	}
}

// TestSignerThatChangesFirst: its answer is refused, the finding names its CA and
// what to do, and the pair in use stays.
func TestSignerThatChangesFirst(t *testing.T) {
	c := newCluster(t)
	s := c.process("pod-a").issuer(changing())
	s.once(t)
	serial := c.leaf().SerialNumber
	old := c.ca
	c.ca = newAuthority(t)
	c.now = c.now.Add(17 * time.Hour)
	s.once(t)
	if s.rules() != k8scsr.RuleRefused || !c.publishes(old) || c.leaf().SerialNumber.Cmp(serial) != 0 {
		t.Fatalf("findings %s", s.rules())
	}
	f := s.findings[0]
	if !strings.Contains(f.Summary, `it is from CA "CN=ca" (the answer does not hold it), which is not in the bundle: if the signer's CA changed, add the new one to the bundle first`) || !strings.Contains(f.Remedy, "add it to the bundle, beside the old one, first") {
		t.Errorf("%s\n%s", f.Summary, f.Remedy)
	}
}

// TestAdoptedPairIsReplacedTrustFirst: also clients of a pair that somebody else
// made follow what is stored beside it. It does not become ours before it is
// replaced.
func TestAdoptedPairIsReplacedTrustFirst(t *testing.T) {
	c := newCluster(t)
	s := c.process("pod-a").issuer(changing())
	s.once(t)
	old := c.ca
	live := c.objects["secrets/vault/vault-tls"].(*corev1.Secret).DeepCopy()
	live.Labels, live.Annotations = map[string]string{"team": "ops"}, nil
	c.put(live)
	c.ca = newAuthority(t)
	c.trusts(c.ca)
	c.now = c.now.Add(time.Hour)
	s.once(t)
	live = c.objects["secrets/vault/vault-tls"].(*corev1.Secret)
	if !c.publishes(c.ca, old) || !c.from(old) || len(live.Labels) != 1 {
		t.Fatalf("labels %q, from the old CA %v", live.Labels, c.from(old))
	}
	c.now = c.now.Add(5 * time.Minute)
	s.once(t)
	if !c.publishes(c.ca, old) || !c.from(c.ca) {
		t.Error("it is not replaced")
	}
}

func TestTrustMustMakeSense(t *testing.T) {
	for _, c := range []struct {
		edit func(*Certificate)
		want string
	}{
		{func(c *Certificate) { c.Spec.Peers = []string{"vault"} }, `certificate "vault-server": trust: peers: peer "vault" is not host:port`},
		{func(c *Certificate) { c.Spec.Peers = []string{":8200"} }, `peer ":8200" is not host:port`},
		{func(c *Certificate) { c.Spec.Peers = []string{"vault:0"} }, `peer "vault:0" is not host:port`},
		{func(c *Certificate) { c.Spec.Peers = slices.Repeat([]string{"vault:1"}, 33) }, "it has 33 entries, more than 32"},
		{func(c *Certificate) { c.Spec.Settle = -1 }, "settle: -1ns is less than nothing"},
		{func(c *Certificate) { c.Trust = TrustSource{Secret: &KeyRef{Name: "vault-tls"}} }, "trust: Secret vault/vault-tls, key ca.crt, is written by the issuer itself"},
		{func(c *Certificate) { c.Trust = TrustSource{Secret: &KeyRef{Name: "vault-tls-next", Key: "x"}} }, "trust: Secret vault/vault-tls-next, key x, is written by the issuer itself"},
	} {
		_, err := New(Options{Client: newCluster(t).process("p").client(), Certificates: List{vaultTLS(c.edit)}})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}

// TestSilentPeersTakeAFifth: asking peers that do not answer leaves four fifths of
// the time to everything else, however many certificates have such peers.
func TestSilentPeersTakeAFifth(t *testing.T) {
	c := newCluster(t)
	fleet := fleet(5)
	for n := range fleet {
		fleet[n].Spec.Peers, fleet[n].Spec.Settle = []string{"gone.example:8200"}, time.Minute
		fleet[n].Trust = vaultTLS().Trust
	}
	c.mayOpen = len(fleet)
	s := c.process("pod-a").issuer(fleet...)
	var asking time.Duration
	s.lookup = func(context.Context, string) ([]netip.Addr, error) {
		const silence = 10 * time.Second
		asking += silence
		c.now = c.now.Add(silence)
		return nil, &net.DNSError{Err: "i/o timeout"}
	}
	s.until(t)
	next := newAuthority(t)
	c.ca = next
	c.trusts(next)
	start := c.now
	for c.now.Sub(start) < 30*time.Minute {
		c.now = c.now.Add(time.Second)
		s.until(t)
	}
	if passed := c.now.Sub(start); asking == 0 || asking > passed/4 {
		t.Errorf("%v of %v were spent asking", asking, passed)
	}
	for _, status := range s.Status() {
		if status.Trust.State != k8scsr.ChangePeers {
			t.Errorf("%s: %s, want it to await its peers", status.Name, status.Trust.State)
		}
	}
}

// TestRenewedCABesideANewOne: the CA in use is replaced by one with its key, which
// vouches at once for what it never issued, and a new CA comes beside it. The old
// one stays until clients have had the time to take up the others, and until then
// nothing from the new CA is published, even where somebody asks for it.
func TestRenewedCABesideANewOne(t *testing.T) {
	c := newCluster(t)
	peer := c.listen()
	s := c.process("pod-a").issuer(changing(peer.address))
	s.once(t)
	peer.takes(c)
	c.now = c.now.Add(2 * time.Hour)
	s.once(t)

	old, next := c.ca, newAuthority(t)
	template := *old.cert
	template.SerialNumber, template.NotAfter = big.NewInt(77), template.NotAfter.AddDate(5, 0, 0)
	renewed := &authority{key: old.key, pem: old.sign(t, &template, old.key.Public())}
	block, _ := pem.Decode(renewed.pem)
	var err error
	if renewed.cert, err = x509.ParseCertificate(block.Bytes); err != nil {
		t.Fatal(err)
	}
	c.trusts(renewed, next)
	c.ca = next // the signer has it already
	c.now = c.now.Add(time.Minute)
	s.once(t)
	if !c.publishes(renewed, next, old) {
		t.Fatalf("the old CA is gone at once\n%s", &s.log)
	}
	before := c.leaf()
	c.now = c.now.Add(10 * time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if got, _ := c.process("pod-b").issuer(changing(peer.address)).Renew(ctx, RenewRequest{Force: true}); !c.leaf().Equal(before) || !strings.Contains(got[0].Step.Reason, "for clients to take up CA") {
		t.Errorf("a minute after the new CA was published: %+v", got[0].Step)
	}
	c.now = c.now.Add(6 * time.Minute)
	s.once(t)
	c.now = c.now.Add(time.Minute)
	s.once(t)
	if !c.publishes(renewed, next) {
		t.Errorf("the old CA stays: %s", s.Status()[0].Trust.Reason)
	}
}
