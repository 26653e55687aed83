package k8scsr

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// rotation is a certificate's life in which CAs change in any order: an operator
// who sets the trust, a signer that switches its CA, peers that take up what is
// published whenever they like, and clients that do so within settle.
type rotation struct {
	*world
	made   *stock
	chance *rand.Rand
	settle time.Duration // within which clients take up a bundle

	signer int       // the CA that signs now
	order  *stocked  // what the pending key becomes once it is answered
	bundle []version // that were published, the last one is current
	shown  []*stocked
	live   *stocked

	asked   string // what the peers' answers are good for
	unasked int    // peers at the end that nobody asks
	spoil   func(*Bundle)
}

// version is a published bundle and when it was replaced; zero: it is current.
type version struct {
	id    string
	roots []*x509.Certificate
	until time.Time
}

// stock is CAs and leaves, made once, and what was found out about them.
type stock struct {
	cas    []*authority
	keys   []crypto.Signer
	pems   [][]byte
	csrs   [][]byte
	leaves map[[2]int]*stocked // by CA and key
	used   int
	known  map[string]bool // by leaf and bundle
}

type stocked struct {
	live Live
	key  int
	pem  []byte
}

func newStock(t *testing.T) *stock {
	s := &stock{leaves: map[[2]int]*stocked{}, known: map[string]bool{}}
	for n := range 4 {
		k := newKey(t, Key{RSA, 2048}) // whose signatures are verified fastest
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: fmt.Sprint("ca ", n)}, NotBefore: epoch.AddDate(-1, 0, 0), NotAfter: epoch.AddDate(9, 0, 0),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}
		s.cas = append(s.cas, &authority{key: k, cert: sign(t, template, template, k.Public(), k)})
	}
	for range 6 {
		k := ecKey(t)
		template, err := wanted(t).Template()
		if err != nil {
			t.Fatal(err)
		}
		s.keys, s.pems, s.csrs = append(s.keys, k), append(s.pems, keyPEM(t, k)), append(s.csrs, requestPEM(t, template, k))
	}
	return s
}

// leaf is one from that CA for that key, of thirty days.
func (s *stock) leaf(w *world, ca, key int) *stocked {
	at := [2]int{ca, key}
	if s.leaves[at] == nil {
		text := s.cas[ca].issue(w.t, leafTemplate(w.t, w.want, epoch), s.keys[key].Public())
		s.leaves[at] = &stocked{live: ReadLive(text, s.pems[key]), key: key, pem: text}
	}
	return s.leaves[at]
}

const clientsTake = 5 * time.Minute

// newRotation begins with a certificate of the first CA, published long ago.
func newRotation(t *testing.T, made *stock, seed uint64) *rotation {
	w := &world{t: t, want: wanted(t), now: epoch, State: State{Identity: us}}
	w.want.Lifetime, w.want.Settle = 30*day, clientsTake
	w.want.Peers = []string{"peers.example:8200"}
	r := &rotation{world: w, made: made, chance: rand.New(rand.NewPCG(seed, 7)), settle: clientsTake}
	if seed%5 == 0 {
		w.want.Peers = nil
	}
	r.trust(0)
	r.live = made.leaf(w, 0, 0)
	w.Live = r.live.live
	w.Live.Managed, w.Live.Signer, w.Live.IssuedAt = true, w.want.Signer, epoch.Add(-time.Hour)
	r.written(Bundle{PEM: w.Trust.PEM})
	if seed%3 == 0 {
		w.Live.CASince = nil // by an older release
	} else {
		w.Live.CASince = map[string]time.Time{LeafID(made.cas[0].cert): epoch.Add(-time.Hour)}
	}
	r.shown = []*stocked{r.live, r.live, r.live}
	return r
}

func (r *rotation) trust(cas ...int) {
	var certs []*x509.Certificate
	for _, n := range cas {
		certs = append(certs, r.made.cas[n].cert)
	}
	r.Trust = Trust{Roots: certs, PEM: toPEM(certs...)}
}

// written is the bundle that clients follow from now on.
func (r *rotation) written(b Bundle) {
	if r.spoil != nil {
		r.spoil(&b)
	}
	if n := len(r.bundle); n > 0 {
		r.bundle[n-1].until = r.now
	}
	trust, err := ParseTrust(b.PEM)
	if err != nil {
		r.t.Fatal(err)
	}
	var ids []string
	for _, ca := range trust.Roots {
		ids = append(ids, ca.Subject.CommonName)
	}
	r.bundle = append(r.bundle, version{strings.Join(ids, ","), trust.Roots, time.Time{}})
	r.Live.CA, r.Live.CASince = b.PEM, ParseSince(b.Record())
}

// broken tells which peer presents what some client does not trust: every bundle
// that was current less than settle ago is some client's.
func (r *rotation) broken() string {
	for _, v := range r.bundle {
		if !v.until.IsZero() && !v.until.Add(r.settle).After(r.now) {
			continue
		}
		for _, leaf := range r.shown {
			id := fmt.Sprint(leaf.live.Leaf.Issuer, leaf.key, v.id)
			good, known := r.made.known[id]
			if !known {
				roots := x509.NewCertPool()
				for _, ca := range v.roots {
					roots.AddCert(ca)
				}
				_, err := leaf.live.Leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: epoch.Add(time.Hour), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
				good = err == nil
				r.made.known[id] = good
			}
			if !good {
				return fmt.Sprintf("a peer presents a certificate of %s, and a client follows the bundle of %s", leaf.live.Leaf.Issuer, v.id)
			}
		}
	}
	return ""
}

// look is what an instance does at one look: steps, until one waits.
func (r *rotation) look() {
	for range 20 {
		r.observePeers()
		decided := r.State
		step := Next(decided, r.want, r.now)
		if r.chance.IntN(50) == 0 {
			r.operator() // between the observation and the write
		}
		switch step.Kind {
		case StoreNextKey:
			r.Pending = Pending{Key: r.order.keyOf(r), Record: step.Record}
			r.Pending.CSRName, r.Pending.CSRUID = "pkiwarden-x", "uid-x"
			r.Request = &Request{Name: "pkiwarden-x", UID: "uid-x", ResourceVersion: "5", CreatedAt: r.now, Signer: r.want.Signer, Approved: true,
				PEM: r.made.csrs[r.made.used]}
		case Publish:
			issuedAt := r.now
			r.live = r.order
			ca, since := r.Live.CA, r.Live.CASince
			r.Live = r.live.live
			r.Live.Managed, r.Live.Signer, r.Live.IssuedAt, r.Live.CA, r.Live.CASince = true, r.want.Signer, issuedAt, ca, since
			r.written(step.Bundle)
		case PublishTrust:
			r.written(step.Bundle)
		case DropPending:
			r.Pending, r.Request, r.order = Pending{}, nil, nil // its limits are another matter
			r.want.Replace = Replacement{}
		default:
			return
		}
		if r.broken() != "" {
			return
		}
	}
}

// keyOf is the key of the next attempt, which no live certificate has.
func (*stocked) keyOf(r *rotation) crypto.PublicKey {
	for {
		r.made.used = (r.made.used + 1) % len(r.made.keys)
		if r.made.used != r.live.key {
			return r.made.keys[r.made.used].Public()
		}
	}
}

// answer has the signer answer a request with the CA that it has now.
func (r *rotation) answer() {
	if r.Request == nil || len(r.Request.Certificate) > 0 {
		return
	}
	r.order = r.made.leaf(r.world, r.signer, r.made.used)
	r.Request.Certificate = r.order.pem
}

// observePeers asks as the issuer does: what was seen is good for one
// certificate and one trust, and may be of a while ago.
func (r *rotation) observePeers() {
	if id := LeafID(r.Live.Leaf) + string(r.Trust.PEM); id != r.asked {
		r.asked, r.Peers = id, nil
	}
	if bytes.Equal(r.Live.CA, r.Trust.PEM) || !r.Bundle(r.want, r.now).AskPeers || r.chance.IntN(3) == 0 {
		return
	}
	r.Peers = nil
	for n, leaf := range r.shown[:len(r.shown)-r.unasked] {
		p := Peer{Address: fmt.Sprint("192.0.2.", n)}
		if r.chance.IntN(8) == 0 {
			p.Problem = "it does not answer"
		} else {
			p.Chain = leaf.live.Chain
		}
		r.Peers = append(r.Peers, p)
	}
}

// operator changes the trust, in any way.
func (r *rotation) operator() {
	cas := r.chance.Perm(len(r.made.cas))[:1+r.chance.IntN(2)]
	r.trust(cas...)
}

// act lets one thing happen.
func (r *rotation) act() {
	switch r.chance.IntN(20) {
	case 0:
		if r.chance.IntN(2) == 0 {
			r.operator()
		}
	case 1:
		r.signer = r.chance.IntN(len(r.made.cas))
	case 2, 3, 4:
		r.signer = slices.IndexFunc(r.made.cas, func(a *authority) bool { return a.cert == r.Trust.Roots[0] })
	case 5:
		r.want.Replace = Replacement{LeafID: LeafID(r.Live.Leaf), AskedAt: r.now}
	case 6:
		r.Peers, r.asked = nil, "" // another instance leads
	case 7, 8:
		r.answer()
	case 9, 10:
		r.shown[r.chance.IntN(len(r.shown))] = r.live
	case 11:
		for n := range r.shown {
			r.shown[n] = r.live
		}
	case 12, 13, 14, 15:
		r.now = r.now.Add([]time.Duration{time.Second, 30 * time.Second, clientsTake / 2, clientsTake, clientsTake + time.Second, time.Hour}[r.chance.IntN(6)])
	default:
		r.look()
	}
}

// run lets 80 things happen, and tells the first instant at which a client fails.
func (r *rotation) run() string {
	for n := range 80 {
		r.act()
		if why := r.broken(); why != "" {
			return fmt.Sprintf("after %d events, %v: %s", n+1, r.now.Sub(epoch), why)
		}
	}
	return ""
}

// histories is how many there are. They take some milliseconds each, most of it
// to verify real certificates; 20,000 were run once.
func histories() int {
	if testing.Short() {
		return 80
	}
	return 400
}

// TestNoClientFailsWhileCAsChange: whatever order an operator, a signer, peers
// and clients follow, or none, no client that follows the published bundle fails
// to verify what a peer presents.
func TestNoClientFailsWhileCAsChange(t *testing.T) {
	made := newStock(t)
	changed, swept, histories := 0, 0, histories()
	for seed := range uint64(histories) {
		r := newRotation(t, made, seed)
		if why := r.run(); why != "" {
			t.Fatalf("seed %d: %s", seed, why)
		}
		if r.live.live.Leaf.Issuer.String() != "CN=ca 0" {
			changed++
		}
		if !strings.Contains(r.bundle[len(r.bundle)-1].id, "ca 0") {
			swept++
		}
	}
	// It must not be well for want of anything happening.
	if changed < histories/10 || swept < histories/20 {
		t.Errorf("of %d histories %d ended with another CA's certificate, and %d without the first CA in the bundle", histories, changed, swept)
	}
}

// TestWithoutAnyPartClientsFail: each part of the rule is needed.
func TestWithoutAnyPartClientsFail(t *testing.T) {
	made := newStock(t)
	for name, without := range map[string]func(*rotation){
		"the union": func(r *rotation) {
			r.spoil = func(b *Bundle) { b.PEM = r.Trust.PEM } // as it was before
		},
		"settling":   func(r *rotation) { r.want.Settle = 0 },
		"every peer": func(r *rotation) { r.unasked = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(500) {
				r := newRotation(t, made, seed)
				without(r)
				if r.run() != "" {
					return
				}
			}
			t.Error("no client failed in 500 histories: the test would not notice")
		})
	}
}
