package pki_test

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
)

// certificate is one that was revoked, as only the test knows it.
type certificate struct {
	revokedAt time.Time
	notAfter  time.Time
	unstored  bool // Vault's copy of it is gone
}

// mountTruth is a mount with one list, and what reading its certificates would
// tell.
type mountTruth struct {
	ca   authority
	crl  pki.CRL
	der  []byte
	all  map[string]certificate // by serial number as Vault writes it
	read map[string]int         // how often each was read
}

// reclaimable is what a tidy at now would delete.
func (m *mountTruth) reclaimable(buffer time.Duration) (n int64) {
	for _, c := range m.all {
		if now.Sub(c.notAfter) > buffer {
			n++
		}
	}
	return n
}

// serialOf is a serial number of 20 octets, without order.
func serialOf(i int) *big.Int {
	var octets [20]byte
	octets[0] = 0x4a
	binary.BigEndian.PutUint64(octets[1:], uint64(i)*0x9e3779b97f4a7c15)
	binary.BigEndian.PutUint32(octets[16:], uint32(i))
	return new(big.Int).SetBytes(octets[:])
}

func vaultSerial(n *big.Int) string {
	text := ""
	for i, octet := range n.Bytes() {
		if i > 0 {
			text += ":"
		}
		text += fmt.Sprintf("%02x", octet)
	}
	return text
}

// newTruth makes the list of these certificates, published at now less age.
func newTruth(t testing.TB, ca authority, age time.Duration, certificates []certificate) *mountTruth {
	t.Helper()
	m := &mountTruth{ca: ca, all: make(map[string]certificate, len(certificates)), read: map[string]int{}}
	template := &x509.RevocationList{Number: big.NewInt(7), ThisUpdate: now.Add(-age), NextUpdate: now.Add(72 * hour)}
	for i, c := range certificates {
		c.revokedAt, c.notAfter = c.revokedAt.Truncate(time.Second), c.notAfter.Truncate(time.Second)
		m.all[vaultSerial(serialOf(i))] = c
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: serialOf(i), RevocationTime: c.revokedAt})
	}
	var err error
	if m.der, err = x509.CreateRevocationList(rand.Reader, template, ca.cert, ca.key); err != nil {
		t.Fatal(err)
	}
	m.crl = pki.CRL{Mount: mount, Issuer: pki.Issuer{ID: ca.name, Certificate: ca.cert}, Summary: m.scan(t, nil), MeasuredAt: now}
	return m
}

func (m *mountTruth) scan(t testing.TB, each func(crl.Entry) error) crl.Summary {
	t.Helper()
	s, err := crl.Scan(bytes.NewReader(m.der), crl.Options{Each: each})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// pass lets a sample see the list.
func (m *mountTruth) pass(t testing.TB, s *pki.Sample, e pki.Estimate, exact bool) {
	t.Helper()
	p := s.Pass(e, exact)
	m.scan(t, p.List(m.crl.Issuer))
	s.Accept(p, []pki.CRL{m.crl})
}

// answer reads a certificate as Vault would give it.
func (m *mountTruth) answer(t testing.TB, s *pki.Sample, c pki.Certificate) {
	t.Helper()
	known, ok := m.all[c.Serial]
	if !ok {
		t.Fatalf("no certificate %q", c.Serial)
	}
	m.read[c.Serial]++
	if known.unstored {
		s.Unstored(c)
	} else {
		s.NotAfter(c, known.notAfter)
	}
}

// complete reads what an estimate lacks, at most so many certificates, and
// returns it with the number of reads and passes.
func (m *mountTruth) complete(t testing.TB, s *pki.Sample, longest pki.LongestTTL, buffer time.Duration, exact bool, most int) (e pki.Estimate, reads, passes int) {
	t.Helper()
	for range 100_000 {
		e = s.Estimate([]pki.CRL{m.crl}, longest, buffer, now)
		w := s.Want(e, exact)
		switch {
		case w.Pass && passes < 10:
			passes++
			m.pass(t, s, e, exact)
		case w.Reads > 0 && reads < most:
			due := s.Due(e, min(int(w.Reads), most-reads, 50))
			if len(due) == 0 {
				t.Fatalf("%d reads are wanted and none is due", w.Reads)
			}
			for _, c := range due {
				m.answer(t, s, c)
				reads++
			}
		default:
			return e, reads, passes
		}
	}
	t.Fatal("a sample without end")
	return e, reads, passes
}

// keyOf is a key that differs from seed to seed.
func keyOf(seed int) (key [16]byte) {
	binary.LittleEndian.PutUint64(key[:], uint64(seed))
	return key
}

// workload draws a certificate's life and when it was revoked, as if each had
// been revoked at its time and none tidied for the span before now.
type workload struct {
	name    string
	longest time.Duration
	ttls    []time.Duration
	renewed bool          // at two thirds of its life, when the old one is revoked
	span    time.Duration // revocations go back so far
}

var workloads = []workload{
	{"24 h TTL", days, []time.Duration{days}, false, 60 * days},
	{"30 d, uniform", 30 * days, []time.Duration{30 * days}, false, 75 * days},
	{"30 d, renewed at two thirds", 30 * days, []time.Duration{30 * days}, true, 65 * days},
	{"1, 30 and 90 d", 90 * days, []time.Duration{days, 30 * days, 90 * days}, false, 150 * days},
	{"365 d", 365 * days, []time.Duration{365 * days}, false, 370 * days},
}

func (w workload) draw(seed uint64, n int) []certificate {
	r := mathrand.New(mathrand.NewPCG(seed, 1))
	all := make([]certificate, n)
	for i := range all {
		ttl := w.ttls[r.IntN(len(w.ttls))]
		revoked := now.Add(-time.Duration(r.Int64N(int64(w.span))))
		lived := time.Duration(r.Int64N(int64(ttl)))
		if w.renewed {
			lived = time.Duration(float64(ttl) * (0.65 + r.Float64()*0.033))
		}
		all[i] = certificate{revokedAt: revoked, notAfter: revoked.Add(ttl - lived)}
	}
	return all
}

// In 95 of 100 cases the truth is within the margin that an estimate states,
// the margin is within five of a hundred entries, and no more is read than that
// takes.
func TestSampleErrs(t *testing.T) {
	const buffer, entries = 72 * hour, 4000
	seeds := fewer(1000)
	ca := newAuthority(t, "root")
	for _, w := range workloads {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			m := newTruth(t, ca, 0, w.draw(3, entries))
			truth := m.reclaimable(buffer)
			longest := pki.LongestTTL{Duration: w.longest}
			missed, reads, margins := 0, 0, int64(0)
			bounds := pki.NewEstimate([]pki.CRL{m.crl}, longest, buffer, now)
			for seed := range seeds {
				s := pki.NewSample(keyOf(seed), entries)
				e, n, passes := m.complete(t, s, longest, buffer, false, entries)
				reads += n
				margins += e.Margin
				if e.Likely < e.Low || e.Likely > e.High || e.Low != bounds.Low || e.High != bounds.High {
					t.Fatalf("seed %d: %d ± %d, between %d and %d", seed, e.Likely, e.Margin, e.Low, e.High)
				}
				if e.Margin > entries/20 && e.High-e.Low > entries/10 {
					t.Fatalf("seed %d: margin %d of %d entries after %d reads", seed, e.Margin, entries, n)
				}
				if passes > 3 {
					t.Fatalf("seed %d: %d passes", seed, passes)
				}
				if off := truth - e.Likely; off > e.Margin || -off > e.Margin {
					missed++
				}
			}
			t.Logf("truth %d, bounds %d to %d; %.1f reads, margin %.1f on average; missed %d of %d", truth, bounds.Low, bounds.High,
				float64(reads)/float64(seeds), float64(margins)/float64(seeds), missed, seeds)
			if missed > seeds/20+byChance() {
				t.Errorf("the truth was outside the margin in %d of %d cases", missed, seeds)
			}
		})
	}
}

// Reading may stop at any certificate: the stated margin holds for what was
// read until then, and the rest is read later, nothing twice.
func TestSampleInterrupted(t *testing.T) {
	const buffer, entries = 72 * hour, 3000
	seeds := fewer(400)
	ca := newAuthority(t, "root")
	for _, w := range workloads {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			m := newTruth(t, ca, 0, w.draw(5, entries))
			truth := m.reclaimable(buffer)
			longest := pki.LongestTTL{Duration: w.longest}
			stops := []int{1, 65, 70, 75, 85, 100, 130, 200}
			missed := make([]int, len(stops))
			for seed := range seeds {
				s := pki.NewSample(keyOf(seed), entries)
				clear(m.read)
				before := 0
				for i, stop := range stops {
					e, n, _ := m.complete(t, s, longest, buffer, false, stop-before)
					if before += n; n == 0 {
						break
					}
					if off := truth - e.Likely; off > e.Margin || -off > e.Margin {
						missed[i]++
					}
				}
				for serial, n := range m.read {
					if n > 1 {
						t.Fatalf("certificate %s was read %d times", serial, n)
					}
				}
			}
			t.Log("missed", missed)
			for i, n := range missed {
				if n > seeds*6/100+byChance() {
					t.Errorf("stopped at %d reads, the truth was outside the margin in %d of %d cases", stops[i], n, seeds)
				}
			}
		})
	}
}

// batchOf is n certificates that were revoked, and ended, so long ago.
func batchOf(n int, revoked, ended time.Duration) []certificate {
	all := make([]certificate, n)
	for i := range all {
		all[i] = certificate{revokedAt: now.Add(-revoked), notAfter: now.Add(-ended)}
	}
	return all
}

func together(batches ...[]certificate) []certificate {
	var all []certificate
	for _, b := range batches {
		all = append(all, b...)
	}
	return all
}

func gone(batch []certificate) []certificate {
	for i := range batch {
		batch[i].unstored = true
	}
	return batch
}

func TestSampleEstimate(t *testing.T) {
	const buffer = 72 * hour
	ca := newAuthority(t, "root")
	tests := []struct {
		name         string
		certificates []certificate
		longest      time.Duration // 0: unknown
		exact        bool
		low, high    int64
		likely       int64
		margin       int64
		unstored     int64
		reads        int // at most
		broken       bool
	}{
		// Nothing is in question, and 60 certificates confirm the longest TTL.
		{"bounds are enough", together(batchOf(300, 200*hour, 190*hour), batchOf(100, hour, -hour)), days, false, 300, 300, 300, 0, 0, 60, false},
		// Of 70 in question 40 ended more than the buffer ago.
		{"few in question are all read", together(batchOf(300, 200*hour, 190*hour), batchOf(40, 80*hour, 73*hour), batchOf(30, 80*hour, 71*hour)), days, false, 300, 370, 340, 0, 0, 130, false},
		{"to the second of the buffer", together(batchOf(20, 80*hour, 72*hour), batchOf(30, 80*hour, 72*hour+time.Second)), days, false, 0, 50, 30, 0, 0, 50, false},
		{"longest TTL unknown", together(batchOf(40, 200*hour, 190*hour), batchOf(60, 80*hour, 71*hour), batchOf(10, hour, -hour)), 0, false, 0, 100, 40, 0, 0, 100, false},
		// 20 of 60 are gone from Vault's store: half of them on either side.
		{"certificates no longer stored", together(batchOf(25, 80*hour, 73*hour), gone(batchOf(20, 80*hour, 73*hour)), batchOf(15, 80*hour, 71*hour)), days, false, 0, 60, 35, 10, 20, 60, false},
		{"all no longer stored", gone(batchOf(50, 80*hour, 73*hour)), days, false, 0, 50, 25, 25, 50, 50, false},
		// 100 live for a year where roles allow a day: what was sure is not.
		{"the longest TTL is wrong", together(batchOf(300, 200*hour, 190*hour), batchOf(100, 200*hour, -5000*hour)), days, false, 0, 400, 300, 0, 0, 400, true},
		{"a second longer is a clock", batchOf(50, 200*hour, 176*hour-30*time.Second), days, false, 50, 50, 50, 0, 0, 50, false},
		{"exact when asked", together(batchOf(1500, 80*hour, 73*hour), batchOf(700, 80*hour, 71*hour)), days, true, 0, 2200, 1500, 0, 0, 2200, false},
		{"none of those in question yet", batchOf(30, 80*hour, 71*hour), days, false, 0, 30, 0, 0, 0, 30, false},
		{"an empty list", nil, days, false, 0, 0, 0, 0, 0, 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newTruth(t, ca, 0, tt.certificates)
			s := pki.NewSample(keyOf(1), 10_000)
			e, reads, _ := m.complete(t, s, pki.LongestTTL{Duration: tt.longest}, buffer, tt.exact, 10_000)
			if e.Low != tt.low || e.High != tt.high || e.Likely != tt.likely || e.Margin != tt.margin || e.Unstored != tt.unstored {
				t.Errorf("%d ± %d, %d no longer stored, between %d and %d; want %d ± %d, %d, between %d and %d",
					e.Likely, e.Margin, e.Unstored, e.Low, e.High, tt.likely, tt.margin, tt.unstored, tt.low, tt.high)
			}
			if e.TTLBroken != tt.broken || tt.broken && (e.LowKnown || e.TTLExample == "") {
				t.Errorf("longest TTL broken: %t %q, want %t", e.TTLBroken, e.TTLExample, tt.broken)
			}
			if reads > tt.reads {
				t.Errorf("%d reads, want at most %d", reads, tt.reads)
			}
		})
	}
}

// A sample without reads, and none, say what the bounds say.
func TestSampleUnread(t *testing.T) {
	m := newTruth(t, newAuthority(t, "root"), 0, together(batchOf(40, 80*hour, 73*hour), batchOf(7, 200*hour, 190*hour)))
	longest := pki.LongestTTL{Duration: days}
	for _, s := range []*pki.Sample{nil, pki.NewSample(keyOf(1), 100)} {
		if e := s.Estimate([]pki.CRL{m.crl}, longest, 72*hour, now); e.Low != 7 || e.High != 47 || e.Likely != 7 || e.Margin != 40 || e.Read != 0 {
			t.Errorf("%d ± %d, between %d and %d", e.Likely, e.Margin, e.Low, e.High)
		}
	}
}

// What was added since the last pass is in doubt, what tidy took off is not
// counted, and a pass puts both right without reading anything again.
func TestSampleFollowsTheList(t *testing.T) {
	const buffer = 72 * hour
	ca := newAuthority(t, "root")
	longest := pki.LongestTTL{Duration: days}
	first := together(batchOf(40, 80*hour, 73*hour), batchOf(30, 81*hour, 71*hour))
	m := newTruth(t, ca, 78*hour, first)
	s := pki.NewSample(keyOf(1), 1000)
	m.complete(t, s, longest, buffer, false, 1000)

	later := newTruth(t, ca, hour, together(first, batchOf(20, 77*hour, 73*hour)))
	later.read = m.read
	e := s.Estimate([]pki.CRL{later.crl}, longest, buffer, now)
	if e.Likely != 50 || e.Margin != 10 || e.High != 90 {
		t.Errorf("20 not seen: %d ± %d of at most %d, want 50 ± 10 of 90", e.Likely, e.Margin, e.High)
	}
	if w := s.Want(e, false); !w.Pass {
		t.Errorf("no pass is wanted: %+v", w)
	}
	e, reads, passes := later.complete(t, s, longest, buffer, false, 1000)
	if e.Likely != 60 || e.Margin != 0 || reads != 20 || passes != 1 {
		t.Errorf("after %d reads and %d passes %d ± %d, want 60 exactly after 20 and 1", reads, passes, e.Likely, e.Margin)
	}

	tidied := newTruth(t, ca, 0, together(make([]certificate, 0), first))
	for serial, c := range tidied.all { // the same certificates as before, less the reclaimable
		if now.Sub(c.notAfter) > buffer {
			delete(tidied.all, serial)
		}
	}
	tidied = tidied.without(t, ca)
	e = s.Estimate([]pki.CRL{tidied.crl}, longest, buffer, now)
	if e.Likely != 0 || e.Margin != 30 {
		t.Errorf("after a tidy %d ± %d, want the bounds of 30 entries", e.Likely, e.Margin)
	}
	tidied.read = m.read
	e, reads, _ = tidied.complete(t, s, longest, buffer, false, 1000)
	if e.Likely != 0 || e.Margin != 0 || reads != 0 {
		t.Errorf("after a tidy and %d reads %d ± %d, want 0 exactly after none", reads, e.Likely, e.Margin)
	}
	if all, read := s.Len(); all != 30 || read != 30 {
		t.Errorf("%d held, %d of them read, want the 30 that are left", all, read)
	}
}

// without publishes a list of what is in all.
func (m *mountTruth) without(t *testing.T, ca authority) *mountTruth {
	t.Helper()
	template := &x509.RevocationList{Number: big.NewInt(8), ThisUpdate: now, NextUpdate: now.Add(72 * hour)}
	for i := range 1000 {
		if c, ok := m.all[vaultSerial(serialOf(i))]; ok {
			template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: serialOf(i), RevocationTime: c.revokedAt})
		}
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, ca.cert, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	n := &mountTruth{ca: ca, der: der, all: m.all, read: map[string]int{}}
	n.crl = pki.CRL{Mount: mount, Issuer: m.crl.Issuer, Summary: n.scan(t, nil), MeasuredAt: now}
	return n
}

// A limit makes the sample smaller and the margin wider; the truth stays within
// it.
func TestSampleLimit(t *testing.T) {
	const buffer, entries, limit = 72 * hour, 5000, 150
	w := workloads[1]
	m := newTruth(t, newAuthority(t, "root"), 0, w.draw(9, entries))
	truth, missed := m.reclaimable(buffer), 0
	cases := fewer(200)
	for seed := range cases {
		s := pki.NewSample(keyOf(seed), limit)
		e, _, _ := m.complete(t, s, pki.LongestTTL{Duration: w.longest}, buffer, false, entries)
		if all, _ := s.Len(); all > limit || all < limit/3 {
			t.Fatalf("%d certificates held, the limit is %d", all, limit)
		}
		if off := truth - e.Likely; off > e.Margin || -off > e.Margin {
			missed++
		}
	}
	if missed > cases/20 {
		t.Errorf("the truth was outside the margin in %d of %d cases", missed, cases)
	}
}

// A certificate that cannot be read counts for nothing and does not hold up the
// others.
func TestSampleFailedReads(t *testing.T) {
	const buffer = 72 * hour
	m := newTruth(t, newAuthority(t, "root"), 0, together(batchOf(60, 80*hour, 73*hour), batchOf(40, 80*hour, 71*hour)))
	s := pki.NewSample(keyOf(1), 1000)
	longest := pki.LongestTTL{Duration: days}
	e := s.Estimate([]pki.CRL{m.crl}, longest, buffer, now)
	m.pass(t, s, e, false)
	failed := 0
	for {
		e = s.Estimate([]pki.CRL{m.crl}, longest, buffer, now)
		due := s.Due(e, 10)
		if len(due) == 0 {
			break
		}
		for i, c := range due {
			if i == 0 {
				s.Failed(c)
				failed++
			} else {
				m.answer(t, s, c)
			}
		}
	}
	if e.Read != int64(100-failed) || e.Margin == 0 || e.Margin > 20 || e.Likely-e.Margin > 60 || e.Likely+e.Margin < 60 {
		t.Errorf("%d read, %d failed: %d ± %d, the truth is 60", e.Read, failed, e.Likely, e.Margin)
	}
	if w := s.Want(e, false); w.Reads != 0 || w.Pass {
		t.Errorf("of a list that has not changed is wanted %+v", w)
	}
}

// Lists of several issuers are sampled each by itself, and their doubts add up.
func TestSampleOfTwoLists(t *testing.T) {
	const buffer = 72 * hour
	longest := pki.LongestTTL{Duration: days}
	a := newTruth(t, newAuthority(t, "one"), 0, together(batchOf(40, 80*hour, 73*hour), batchOf(20, 80*hour, 71*hour)))
	b := newTruth(t, newAuthority(t, "two"), 0, batchOf(30, 80*hour, 71*hour))
	lists := []pki.CRL{a.crl, b.crl}
	s := pki.NewSample(keyOf(1), 1000)
	p := s.Pass(s.Estimate(lists, longest, buffer, now), false)
	a.scan(t, p.List(a.crl.Issuer))
	b.scan(t, p.List(b.crl.Issuer))
	s.Accept(p, lists)
	for {
		due := s.Due(s.Estimate(lists, longest, buffer, now), 7)
		if len(due) == 0 {
			break
		}
		for _, c := range due {
			a.answer(t, s, c)
		}
	}
	// Both truths number their certificates alike, so that b's first 30 are
	// answered as a's are: all of them reclaimable.
	if e := s.Estimate(lists, longest, buffer, now); e.Likely != 70 || e.Margin != 0 || e.Read != 90 {
		t.Errorf("%d ± %d by %d reads, want 70 exactly by 90", e.Likely, e.Margin, e.Read)
	}
}
