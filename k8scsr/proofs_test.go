package k8scsr

import (
	"crypto/x509"
	"fmt"
	"math/big"
	"slices"
	"testing"
	"time"
)

// crowd is a certificate of the last of n CAs that have one name, each with a key
// of its own, which are trusted and published.
func crowd(t testing.TB, n int) *world {
	tt, ok := t.(*testing.T)
	if !ok {
		tt = &testing.T{}
	}
	w := newWorld(tt)
	w.want.Settle = 5 * time.Minute
	var cas []*authority
	var bundle []byte
	for range n {
		ca := newAuthority(tt, "of one name", nil)
		cas, bundle = append(cas, ca), append(bundle, toPEM(ca.cert)...)
	}
	trust, err := ParseTrust(bundle)
	if err != nil {
		t.Fatal(err)
	}
	w.ca, w.Trust = cas[n-1], trust
	w.live(time.Hour)
	w.published(cas, slices.Repeat([]time.Duration{day}, n)...)
	return w
}

// look is all that is asked of an observation.
func look(w *world) (Step, []Finding, Change) {
	return Next(w.State, w.want, w.now), Findings(w.State, w.want, w.now), w.Change(w.want, w.now)
}

// TestSignaturesOfALook: with many CAs of one name, each is tried once for the
// certificate in use, however often that is asked, in rest and in each phase of a
// change.
func TestSignaturesOfALook(t *testing.T) {
	const n = 200
	for _, c := range []struct {
		name  string
		given func(*world)
	}{
		{"at rest", func(*world) {}},
		{"one is new", func(w *world) {
			w.Trust.Roots = append(slices.Clone(w.Trust.Roots), newAuthority(w.t, "of one name", nil).cert)
		}},
		{"half are to leave", func(w *world) { w.Trust.Roots = w.Trust.Roots[n/2:] }},
		{"that in use is to leave", func(w *world) { w.Trust.Roots = w.Trust.Roots[:n-1] }},
		{"all settle", func(w *world) {
			for id := range w.Live.CASince {
				w.Live.CASince[id] = w.now
			}
		}},
		{"all are from the future", func(w *world) {
			i := 0
			for id := range w.Live.CASince {
				i++
				w.Live.CASince[id] = w.now.Add(time.Duration(i) * time.Hour)
			}
		}},
		{"no longer in force", func(w *world) { w.now = w.Live.Leaf.NotAfter.Add(time.Hour) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := crowd(t, n)
			c.given(w)
			look(w)
			known := w.Live.known
			// Each CA once for the certificate, each once for itself, where it is
			// what may stand between others.
			if known.signatures > 2*n+2 || known.paths > 8 {
				t.Errorf("%d signatures and %d paths were checked", known.signatures, known.paths)
			}
			before := *known
			look(w)
			if known.signatures != before.signatures || known.paths != before.paths {
				t.Errorf("then %d and %d", known.signatures, known.paths)
			}
		})
	}
}

// TestSignaturesAreBounded: CAs that are made to be tried for each other, of one
// name and of as many keys that signed each other. What cannot be told keeps what
// is published, and nothing is written.
func TestSignaturesAreBounded(t *testing.T) {
	w := newWorld(t)
	w.want.Settle = 5 * time.Minute
	root := newAuthority(t, "x", nil)
	first := newAuthority(t, "x", root)
	cas := []*authority{root, first}
	for len(cas) < 60 { // of the key of first, signed by root, which it is not itself
		twin := &authority{key: first.key}
		template := *first.cert
		template.SerialNumber = template.SerialNumber.Add(template.SerialNumber, template.SerialNumber)
		twin.cert = sign(t, &template, root.cert, first.key.Public(), root.key)
		cas = append(cas, twin)
	}
	for len(cas) < 250 {
		cas = append(cas, newAuthority(t, "x", nil))
	}
	w.ca = &authority{cert: first.cert, key: first.key}
	w.Trust = newAuthority(t, "y", nil).trust(t)
	w.live(time.Hour)
	w.published(cas, slices.Repeat([]time.Duration{day}, len(cas))...)
	w.Live.CASince = map[string]time.Time{} // of none is it known that it is ours
	b := w.Bundle(w.want, w.now)
	look(w)
	if known := w.Live.known; known.signatures > maxSignatures || known.paths > len(cas)+32 {
		t.Errorf("%d signatures and %d paths were checked", known.signatures, known.paths)
	}
	if got := len(b.Authorities); got != 1+len(cas) {
		t.Errorf("%d CAs stay of %d that may vouch for the certificate: %s", got-1, len(cas), b.reason())
	}
}

// TestUpholders holds what is found by signatures against what crypto/x509 finds
// by trying each CA alone.
func TestUpholders(t *testing.T) {
	old, other := newAuthority(t, "old", nil), newAuthority(t, "other", nil)
	renewed := &authority{key: old.key}
	template := *old.cert
	template.NotAfter = template.NotAfter.Add(time.Hour)
	renewed.cert = sign(t, &template, &template, old.key.Public(), old.key)
	successor := newAuthority(t, "old", nil)                                   // of the same name, by another key
	link := sign(t, successor.cert, old.cert, successor.key.Public(), old.key) // new with old (RFC 4210 section 4.4)
	back := sign(t, old.cert, successor.cert, old.key.Public(), successor.key) // old with new
	crossed := sign(t, other.cert, old.cert, other.key.Public(), old.key)      // other, by old
	narrow := newAuthority(t, "narrow", nil, func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"elsewhere.example"} })
	gone := newAuthority(t, "old", nil, func(c *x509.Certificate) { c.NotAfter = epoch.Add(-time.Hour) })
	expired := sign(t, gone.cert, gone.cert, old.key.Public(), gone.key)
	middle := newAuthority(t, "middle", other)
	all := []*x509.Certificate{old.cert, renewed.cert, successor.cert, link, back, crossed, other.cert, narrow.cert, gone.cert, expired, middle.cert}
	itself := newAuthority(t, "itself", nil)
	for name, issuer := range map[string]*authority{"old": old, "renewed": renewed, "successor": successor, "other": other, "narrow": narrow, "middle": middle, "expired": gone} {
		w := newWorld(t)
		w.ca = issuer
		w.live(time.Hour)
		for cut := range all {
			roots, published := all[:cut], all[cut/2:]
			chain := w.Live.Chain
			if name == "other" && cut%2 == 0 {
				chain = []*x509.Certificate{chain[0], crossed}
			}
			if cut == 3 {
				chain = []*x509.Certificate{itself.cert}
				roots = append(slices.Clone(roots), itself.cert)
			}
			got := newProofs().upholders(chain, published, Trust{Roots: roots}, w.now)
			for _, ca := range slices.Concat(roots, published) {
				alone := verifyChain(slices.Concat(chain, published), Trust{Roots: []*x509.Certificate{ca}}, w.now) == nil
				if want := map[bool]vouching{false: no, true: yes}[alone]; got[ca] != want {
					t.Errorf("a certificate of %s, cut %d: %s: %d, want %d", name, cut, caName(ca), got[ca], want)
				}
			}
		}
	}
}

// TestManyPeersOfOneName: what peers present is held against each CA once, and
// cannot use up what the certificate itself needs.
func TestManyPeersOfOneName(t *testing.T) {
	w := crowd(t, 200)
	leaving := newAuthority(t, "leaving", nil)
	w.Live.CA = append(w.Live.CA, toPEM(leaving.cert)...)
	w.Live.CASince[LeafID(leaving.cert)] = w.now.Add(-2 * day)
	w.want.Peers = []string{"x:1"}
	foreign := newAuthority(t, "of one name", nil)
	for i := range 256 {
		key := ecKey(t)
		chain, err := parseCertificates(foreign.issue(t, leafTemplate(t, w.want, w.now), key.Public()))
		if err != nil {
			t.Fatal(err)
		}
		w.Peers = append(w.Peers, Peer{Address: fmt.Sprint(i), Chain: chain})
	}
	_, _, change := look(w)
	if change.State != ChangePeers || len(change.Peers) != 256 || change.Peers[0].State != PeerBehind {
		t.Errorf("%s: %s", change.State, change.Reason)
	}
	peers := w.Live.known.peers
	if peers.signatures > maxSignatures || peers.paths > 256 || w.Live.known.signatures > 2*200+2 {
		t.Errorf("%d signatures and %d paths were checked, and %d of the certificate itself", peers.signatures, peers.paths, w.Live.known.signatures)
	}
}

// BenchmarkLook shows what CAs of one name cost.
func BenchmarkLook(b *testing.B) {
	var one float64
	for _, n := range []int{1, 50, 200} {
		b.Run(fmt.Sprintf("%d CAs", n), func(b *testing.B) {
			w := crowd(b, n)
			for b.Loop() {
				w.Live.known = newProofs() // as observed anew
				look(w)
			}
			each := float64(b.Elapsed()) / float64(b.N)
			if n == 1 {
				one = each
			}
			b.ReportMetric(each/one, "ratio")
		})
	}
}

// TestChainsOfPeersAreJudgedOnce: what many peers present alike is judged once,
// and a chain, or so many different ones, that are made to cost are not known, so
// that the old CA stays.
func TestChainsOfPeersAreJudgedOnce(t *testing.T) {
	w := crowd(t, 1)
	leaving := newAuthority(t, "leaving", nil)
	w.Live.CA = append(w.Live.CA, toPEM(leaving.cert)...)
	w.Live.CASince[LeafID(leaving.cert)] = w.now.Add(-2 * day)
	w.want.Peers = []string{"x:1"}
	alike := toPEM(w.Live.Chain...)
	chain := func(pem []byte) []*x509.Certificate {
		t.Helper()
		out, err := parseCertificates(pem)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for i := range 200 {
		w.Peers = append(w.Peers, Peer{Address: fmt.Sprint("alike-", i), Chain: chain(alike)})
	}
	if _, _, change := look(w); change.State == ChangePeers || w.Live.known.peers.paths > 2 { // whether it is trusted, and by whom
		t.Errorf("%s, %d paths for what 200 peers present alike", change.State, w.Live.known.peers.paths)
	}

	w.Live.known = newProofs()
	foreign := newAuthority(t, "foreign", nil)
	twins := []*x509.Certificate{chain(foreign.issue(t, leafTemplate(t, w.want, w.now), ecKey(t).Public()))[0]}
	for range 3 {
		template := *foreign.cert
		template.SerialNumber = big.NewInt(int64(len(twins)))
		twins = append(twins, sign(t, &template, &template, foreign.key.Public(), foreign.key))
	}
	w.Peers = append(w.Peers, Peer{Address: "costly", Chain: twins})
	for i := range 40 {
		w.Peers = append(w.Peers, Peer{Address: fmt.Sprint("other-", i), Chain: chain(foreign.issue(t, leafTemplate(t, w.want, w.now), ecKey(t).Public()))})
	}
	_, _, change := look(w)
	if change.State != ChangePeers || w.Live.known.peers.paths > 2*32 {
		t.Errorf("%s, %d paths", change.State, w.Live.known.peers.paths)
	}
	states := map[string]int{}
	for _, peer := range change.Peers {
		states[peer.State]++
		if peer.Address == "costly" && peer.Detail != "its chain has more than two certificates of one name and key" {
			t.Errorf("%+v", peer)
		}
	}
	// One chain of 200 peers, 31 others; the costly one and 9 more are not known.
	if states[PeerMoved] != 200 || states[PeerBehind] != 31 || states[PeerUnknown] != 10 {
		t.Errorf("%v", states)
	}
}
