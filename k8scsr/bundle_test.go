package k8scsr

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
)

// published makes the bundle that of these CAs, each published that long ago.
func (w *world) published(cas []*authority, ago ...time.Duration) {
	w.Live.CA, w.Live.CASince = nil, map[string]time.Time{}
	for i, ca := range cas {
		w.Live.CA = append(w.Live.CA, toPEM(ca.cert)...)
		w.Live.CASince[LeafID(ca.cert)] = w.now.Add(-ago[i])
	}
}

// names are the common names of what the bundle is to hold.
func names(b Bundle) string {
	var out []string
	for _, a := range b.Authorities {
		out = append(out, a.Certificate.Subject.CommonName)
	}
	return strings.Join(out, " ")
}

// TestWhatStaysPublished: the certificate of CA a was published an hour ago.
func TestWhatStaysPublished(t *testing.T) {
	a, b := newAuthority(t, "a", nil), newAuthority(t, "b", nil)
	short := newAuthority(t, "short", nil, func(c *x509.Certificate) { c.NotAfter = epoch.Add(-lateness - time.Second) })
	lately := newAuthority(t, "lately", nil, func(c *x509.Certificate) { c.NotAfter = epoch.Add(-lateness + time.Second) })
	old := newAuthority(t, "old", nil)
	cases := []struct {
		name   string
		given  func(*world)
		want   string
		reason string
	}{
		{"nothing changed", func(w *world) {}, "a", ""},
		{"swapped", func(w *world) { w.Trust = b.trust(t) }, "b a", "CA CN=b (SHA-256 "},
		{"swapped, by an older release", func(w *world) { w.Trust, w.Live.CASince = b.trust(t), nil }, "b a", ""},
		{"swapped, its record lost", func(w *world) { w.Trust, w.Live.CASince = b.trust(t), ParseSince("x") }, "b a", ""},
		{"published before it", func(w *world) { w.published([]*authority{old, a}, day, day) }, "a old", ""},
		{"published with it", func(w *world) { w.published([]*authority{old, a}, time.Hour, day) }, "a old", ""},
		{"added after it, taken out again", func(w *world) { w.published([]*authority{b, a}, 50*time.Minute, day) }, "a", "no certificate from it was ever published"},
		{"added after it, by a clock of the other side", func(w *world) { w.published([]*authority{b, a}, time.Hour-clockSkew, day) }, "a b", ""},
		{"when it was published is not known", func(w *world) {
			w.published([]*authority{b, a}, time.Minute, day)
			w.Live.IssuedAt = time.Time{}
		}, "a b", ""},
		{"somebody else's", func(w *world) { w.Live.CA = toPEM(a.cert, b.cert) }, "a", "it vouches for no certificate of ours, and was not published by us"},
		{"somebody else's, the pair is gone", func(w *world) {
			w.Live = Live{Exists: true, Managed: true, CA: toPEM(a.cert, b.cert), CASince: w.Live.CASince}
		}, "a", ""},
		{"the pair is gone, the old one may be served", func(w *world) {
			w.Trust = b.trust(t)
			w.Live = Live{Exists: true, Managed: true, CA: w.Live.CA, CASince: w.Live.CASince}
		}, "b a", ""},
		{"expired", func(w *world) { w.published([]*authority{short, a}, day, day) }, "a", "it expired 2026-03-01T11:54:59Z"},
		{"expired by a slow clock", func(w *world) { w.published([]*authority{lately, a}, day, day) }, "a lately", ""},
		{"twice", func(w *world) { w.Live.CA = toPEM(a.cert, a.cert) }, "a", ""},
		{"does not parse", func(w *world) { w.Live.CA = []byte("-----BEGIN") }, "a", ""},
		{"no trust", func(w *world) { w.Trust = Trust{} }, "", ""},
	}
	for _, c := range cases {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			w := newWorld(t)
			w.ca, w.Trust = a, a.trust(t)
			w.live(time.Hour)
			w.published([]*authority{a}, day)
			c.given(w)
			bundle := w.Bundle(w.want, w.now)
			if got := names(bundle); got != c.want || !strings.Contains(bundle.reason(), c.reason) {
				t.Errorf("%q (%s), want %q (%s)", got, bundle.reason(), c.want, c.reason)
			}
			if w.Trust.Configured() {
				again, err := parseBundle(bundle.PEM, maxSince)
				if err != nil || len(again) != len(bundle.Authorities) {
					t.Errorf("what is published does not parse: %v", err)
				}
			}
		})
	}
}

// TestPeersDecide: the certificate in use is from b, that before it was from a,
// and only b is wanted.
func TestPeersDecide(t *testing.T) {
	a, b := newAuthority(t, "a", nil), newAuthority(t, "b", nil)
	w := newWorld(t)
	w.ca = a
	w.live(2 * time.Hour)
	before := w.Live.Chain
	w.ca, w.Trust = b, b.trust(t)
	w.live(time.Hour)
	w.published([]*authority{b, a}, 90*time.Minute, day)
	w.want.Peers, w.want.Settle = []string{"x:1"}, 5*time.Minute
	moved, behind, mute := Peer{Address: "1:1", Chain: w.Live.Chain}, Peer{Address: "2:1", Chain: before}, Peer{Address: "3:1", Problem: "it is mute"}
	for _, c := range []struct {
		name  string
		peers []Peer
		want  string
	}{
		{"not asked", nil, "b a"},
		{"all moved", []Peer{moved, moved}, "b"},
		{"one behind", []Peer{moved, behind}, "b a"},
		{"one mute", []Peer{moved, mute}, "b a"},
		{"a chain without end", []Peer{{Address: "4:1", Chain: slices.Repeat(before, 100)}}, "b a"},
	} {
		w.Peers = c.peers
		if bundle := w.Bundle(w.want, w.now); names(bundle) != c.want || !bundle.AskPeers {
			t.Errorf("%s: %q, asks %v", c.name, names(bundle), bundle.AskPeers)
		}
	}
	w.Peers = []Peer{moved}
	w.Live.IssuedAt = w.now.Add(-4 * time.Minute)
	if bundle := w.Bundle(w.want, w.now); names(bundle) != "b a" || bundle.AskPeers {
		t.Error("peers are asked before they can have taken up the certificate")
	}
}

// swapped is a certificate of CA a, published an hour ago, and CA b in the place of
// a since some time.
func swapped(t *testing.T, ago time.Duration) (*world, *authority) {
	w := newWorld(t)
	w.want.Settle = 5 * time.Minute
	w.live(time.Hour)
	a, b := w.ca, newAuthority(t, "b", nil)
	w.Trust = b.trust(t)
	w.published([]*authority{b, a}, ago, day)
	w.ca = b
	return w, a
}

// TestTrustFirst: what is from a new CA waits for clients to know it, unless
// nothing can be lost by it.
func TestTrustFirst(t *testing.T) {
	cases := []struct {
		name  string
		ago   time.Duration
		given func(*world)
		kind  Kind
		after time.Duration
	}{
		{"just published", 0, nil, Nothing, 5 * time.Minute},
		{"nearly known", 5*time.Minute - time.Second, nil, Nothing, time.Second},
		{"known", 5 * time.Minute, nil, StoreNextKey, 0},
		{"asked for by a person", 0, func(w *world) { w.want.Replace.LeafID = LeafID(w.Live.Leaf) }, Nothing, 5 * time.Minute},
		{"key stored before", 0, func(w *world) { w.pending(0) }, Nothing, 5 * time.Minute},
		{"answered before", time.Minute, func(w *world) { w.request(0); w.answer() }, AwaitIssue, 4 * time.Minute},
		{"answered, known", 5 * time.Minute, func(w *world) { w.request(0); w.answer() }, Publish, 0},
		{"answered, clients take long", time.Minute, func(w *world) { w.want.Settle = 48 * time.Hour; w.request(0); w.answer() }, AwaitIssue, 23 * time.Hour},
		{"clients take longer than it is good", time.Minute, func(w *world) { w.want.Settle = 48 * time.Hour }, Nothing, 24*time.Hour*9/10 - time.Hour},
		{"at once", 0, func(w *world) { w.want.Settle = 0 }, StoreNextKey, 0},
		{"expired", 0, func(w *world) { w.now = w.now.Add(24 * time.Hour); w.want.Settle = 48 * time.Hour }, StoreNextKey, 0},
		{"expired, answered", 0, func(w *world) {
			w.now = w.now.Add(24 * time.Hour)
			w.want.Settle = 48 * time.Hour
			w.request(0)
			w.answer()
		}, Publish, 0},
		{"critical", 0, func(w *world) { w.now = w.now.Add(22 * time.Hour); w.want.Settle = 48 * time.Hour }, StoreNextKey, 0},
		{"clients never trusted it", 0, func(w *world) { w.published([]*authority{w.ca}, 0) }, StoreNextKey, 0},
	}
	for _, c := range cases {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			w, _ := swapped(t, c.ago)
			if c.given != nil {
				c.given(w)
			}
			step := Next(w.State, w.want, w.now)
			if step.Kind != c.kind || step.LookAgainAt.Sub(w.now) != c.after {
				t.Errorf("%s after %v (%s), want %s after %v", step.Kind, step.LookAgainAt.Sub(w.now), step.Reason, c.kind, c.after)
			}
		})
	}
	// Where the CA came with the certificate in use, whoever trusts that trusts the
	// next one.
	w := newWorld(t)
	w.want.Settle = 5 * time.Minute
	w.live(time.Minute)
	w.published([]*authority{w.ca}, time.Minute)
	w.want.DNSNames = w.want.DNSNames[:1]
	if step := Next(w.State, w.want, w.now); step.Kind != StoreNextKey {
		t.Errorf("%s: %s", step.Kind, step.Reason)
	}
}

// TestRenewalBesideANewCA: with both wanted, it is published if it is from the
// one that clients know.
func TestRenewalBesideANewCA(t *testing.T) {
	for _, fromNew := range []bool{false, true} {
		w, a := swapped(t, time.Minute)
		b := w.ca
		w.Trust = Trust{Roots: []*x509.Certificate{a.cert, b.cert}, PEM: toPEM(a.cert, b.cert)}
		w.published([]*authority{a, b}, day, time.Minute)
		want := AwaitIssue
		if !fromNew {
			w.ca, want = a, Publish
		}
		w.request(0)
		w.answer(func(c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(time.Hour) })
		if step := Next(w.State, w.want, w.now); step.Kind != want {
			t.Errorf("from the new one %v: %s (%s)", fromNew, step.Kind, step.Reason)
		}
	}
}

// TestClockJumpsBackDuringAChange: times to come begin anew, in their order.
func TestClockJumpsBackDuringAChange(t *testing.T) {
	w, a := swapped(t, time.Minute)
	b := w.ca
	w.now = w.now.Add(-3 * day)
	bundle := w.Bundle(w.want, w.now)
	since := ParseSince(bundle.Record())
	if !bundle.Changed || names(bundle) != "b ca" || !since[LeafID(a.cert)].Equal(w.now) || !since[LeafID(b.cert)].Equal(w.now.Add(time.Second)) {
		t.Errorf("changed %v, %q: %v", bundle.Changed, names(bundle), since)
	}
	w.Live.CASince = since
	if step := Next(w.State, w.want, w.now); step.Kind != Nothing || step.LookAgainAt.Sub(w.now) != 5*time.Minute+time.Second {
		t.Errorf("%s until %v: %s", step.Kind, step.LookAgainAt, step.Reason)
	}
}

// TestBundleThatIsTooLarge: it stays as it is, a finding says so, and what is from
// a new CA waits.
func TestBundleThatIsTooLarge(t *testing.T) {
	long := func(c *x509.Certificate) {
		for n := range 4000 {
			c.PermittedDNSDomains = append(c.PermittedDNSDomains, fmt.Sprintf("%030d.example", n))
		}
	}
	w := newWorld(t)
	w.want.Settle = 5 * time.Minute
	w.ca = newAuthority(t, "a", nil, long, func(c *x509.Certificate) {
		c.PermittedDNSDomains = append(c.PermittedDNSDomains, "vault.example", "vault-internal")
	})
	w.Trust = w.ca.trust(t)
	w.live(time.Hour)
	w.published([]*authority{w.ca}, day)
	w.Trust = newAuthority(t, "b", nil, long).trust(t)
	if size := len(w.Trust.PEM); size > maxBundle || size < maxBundle/2 {
		t.Fatalf("the story begins wrong: %d octets", size)
	}
	step := Next(w.State, w.want, w.now)
	if step.Kind != Nothing || !strings.Contains(step.Reason, "cannot be published: old and new CAs together take") {
		t.Errorf("%s: %s", step.Kind, step.Reason)
	}
	if !slices.ContainsFunc(Findings(w.State, w.want, w.now), func(f Finding) bool { return f.Rule == RuleTrustTooLarge && f.Severity == Warning }) {
		t.Error("no finding tells it")
	}
	w.now = w.now.Add(23 * time.Hour) // the pair in use has expired
	w.ca = newAuthority(t, "b", nil)
	w.Trust = Trust{Roots: append(w.Trust.Roots, w.ca.cert), PEM: append(w.Trust.PEM, toPEM(w.ca.cert)...)}
	w.request(0)
	w.answer()
	if step := Next(w.State, w.want, w.now); step.Kind != Publish || names(step.Bundle) != "b b" || string(step.Bundle.PEM) != string(w.Trust.PEM) {
		t.Errorf("%s: %s", step.Kind, step.Reason)
	}
}

// TestCAsThatEnd: one that clients trust, or that the certificate is from.
func TestCAsThatEnd(t *testing.T) {
	ends := func(in time.Duration) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.NotAfter = epoch.Add(in) }
	}
	year := 365 * day
	cases := []struct {
		name  string
		given func(*world)
		want  Severity // "" for no finding
		words string
	}{
		{"far", func(w *world) {}, "", ""},
		{"three quarters", func(w *world) { w.by(newAuthority(t, "b", nil, ends(year/4))) }, Warning, "CA CN=b (SHA-256 "},
		{"nine tenths", func(w *world) { w.by(newAuthority(t, "b", nil, ends(year/10))) }, Critical, "ends 2026-04-07"},
		{"of the certificate, no longer wanted", func(w *world) {
			w.by(newAuthority(t, "b", nil, ends(year/10)))
			w.Trust = newAuthority(t, "c", nil).trust(t)
		}, Critical, "CA CN=b"},
		{"an intermediate", func(w *world) {
			w.ca = newAuthority(t, "sub", w.ca, ends(year/10))
			w.live(time.Hour)
		}, Critical, "CA CN=sub"},
		{"trusted and not in use", func(w *world) { w.also(newAuthority(t, "b", nil, ends(year/10))) }, Warning, "the certificate in use is not from it"},
		{"trusted, ended and not in use", func(w *world) { w.also(newAuthority(t, "b", nil, ends(-day))) }, Info, "ended 2026-02-28"},
	}
	for _, c := range cases {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			w := newWorld(t)
			w.live(time.Hour)
			c.given(w)
			var got *Finding
			for _, f := range Findings(w.State, w.want, w.now) {
				if f.Rule == RuleCAExpires {
					got = &f
				}
			}
			if (got == nil) != (c.want == "") || got != nil && (got.Severity != c.want || !strings.Contains(got.Evidence, c.words)) {
				t.Errorf("%+v, want %q: %s", got, c.want, c.words)
			}
		})
	}
}

// by makes the certificate one of that CA, which alone is trusted.
func (w *world) by(ca *authority) {
	w.ca, w.Trust = ca, ca.trust(w.t)
	w.live(time.Hour)
}

// also makes that CA one that is trusted too.
func (w *world) also(ca *authority) {
	w.Trust = Trust{Roots: append(slices.Clone(w.Trust.Roots), ca.cert), PEM: append(slices.Clone(w.Trust.PEM), toPEM(ca.cert)...)}
	w.Live.CA = w.Trust.PEM
}

// TestMonstrousKeysAreRefused: a signature under a key of half a million bits takes
// minutes to verify, and a bundle has room for larger ones.
func TestMonstrousKeysAreRefused(t *testing.T) {
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	modulus := new(big.Int).SetBit(big.NewInt(1), 16383, 1)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &rsa.PublicKey{N: modulus, E: 65537}, signer)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	const want = "certificate 1 has an RSA key of 16384 bits, more than 8192"
	if _, err := ParseTrust(text); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("as trust: %v", err)
	}
	if live := ReadChain(text); !strings.Contains(live.Problem, want) || live.Leaf != nil {
		t.Errorf("as what is stored: %q", live.Problem)
	}
}
