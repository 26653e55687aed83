package pki_test

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"math/big"
	mathrand "math/rand/v2"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
)

// life is a mount over time: certificates are revoked all the while, by other
// habits from the middle on, and now and then a tidy takes off what has expired.
type life struct {
	ca  authority
	all []certificate // in the order of their revocation; serial numbers are their places
	off []bool        // tidied
}

func newLife(t *testing.T, from, to time.Time, each time.Duration) *life {
	l := &life{ca: newAuthority(t, "root")}
	r := mathrand.New(mathrand.NewPCG(11, 1))
	for at := from; at.Before(to); at = at.Add(each) {
		left := time.Duration(r.Int64N(int64(30 * days)))
		if at.After(now) && r.IntN(3) > 0 {
			left = time.Duration(r.Int64N(int64(2 * days)))
		}
		l.all = append(l.all, certificate{revokedAt: at, notAfter: at.Add(left)})
	}
	l.off = make([]bool, len(l.all))
	return l
}

// list is what Vault publishes at an instant, and how much of it a tidy would
// take off then.
func (l *life) list(t *testing.T, at time.Time, buffer time.Duration) (c pki.CRL, der []byte, truth int64) {
	t.Helper()
	template := &x509.RevocationList{Number: big.NewInt(at.Unix()), ThisUpdate: at, NextUpdate: at.Add(72 * hour)}
	for i, known := range l.all {
		if l.off[i] || known.revokedAt.After(at) {
			continue
		}
		if at.Sub(known.notAfter) > buffer {
			truth++
		}
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: serialOf(i), RevocationTime: known.revokedAt})
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, l.ca.cert, l.ca.key)
	if err != nil {
		t.Fatal(err)
	}
	summary, err := crl.Scan(bytes.NewReader(der), crl.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return pki.CRL{Mount: mount, Issuer: pki.Issuer{ID: "root"}, Summary: summary, MeasuredAt: at}, der, truth
}

// tidy takes off what has expired, and what came to be known of it stays known.
func (l *life) tidy(at time.Time, buffer time.Duration) {
	for i, c := range l.all {
		l.off[i] = l.off[i] || at.Sub(c.notAfter) > buffer
	}
}

// A sample that is kept for weeks, with few reads at a time, while the list
// grows, the habits change and tidies take entries off, stays a sample: the
// truth is within the margin at least as often as is stated, and no certificate
// is read twice.
func TestSampleOverWeeks(t *testing.T) {
	t.Parallel()
	const buffer, step, steps, budget = 72 * hour, 8 * hour, 60, 60
	seeds := fewer(30)
	longest := pki.LongestTTL{Duration: 30 * days}
	l := newLife(t, now.Add(-40*days), now.Add(steps*step), 20*time.Minute)
	places := make(map[string]int, len(l.all))
	for i := range l.all {
		places[vaultSerial(serialOf(i))] = i
	}
	samples := make([]*pki.Sample, seeds)
	reads := make([]map[string]int, seeds)
	for i := range samples {
		samples[i], reads[i] = pki.NewSample(keyOf(i), 5000), map[string]int{}
	}
	missed, wide, cases := 0, 0, 0
	for n := range steps {
		at := now.Add(time.Duration(n) * step)
		if n%15 == 14 {
			l.tidy(at, buffer)
		}
		c, der, truth := l.list(t, at, buffer)
		lists := []pki.CRL{c}
		for i, s := range samples {
			left := budget
			for passes := 0; ; {
				e := s.Estimate(lists, longest, buffer, at)
				w := s.Want(e, false)
				if due := s.Due(e, min(int(w.Reads), left)); len(due) > 0 {
					for _, c := range due {
						reads[i][c.Serial]++
						s.NotAfter(c, l.all[places[c.Serial]].notAfter)
					}
					left -= len(due)
					continue
				}
				if !w.Pass || passes > 1 {
					break
				}
				passes++
				p := s.Pass(e, false)
				if _, err := crl.Scan(bytes.NewReader(der), crl.Options{Each: p.List(c.Issuer)}); err != nil {
					t.Fatal(err)
				}
				s.Accept(p, lists)
			}
			e := s.Estimate(lists, longest, buffer, at)
			cases++
			if off := truth - e.Likely; off > e.Margin || -off > e.Margin {
				missed++
			}
			if e.Margin > e.Total.Entries/20 {
				wide++
			}
		}
	}
	for i := range reads {
		for serial, n := range reads[i] {
			if n > 1 {
				t.Fatalf("certificate %s was read %d times", serial, n)
			}
		}
	}
	t.Logf("missed %d, wider than 5 points %d of %d", missed, wide, cases)
	if missed > cases/20 {
		t.Errorf("the truth was outside the margin in %d of %d cases", missed, cases)
	}
	if wide > cases/8 {
		t.Errorf("the margin was wider than five of a hundred entries in %d of %d cases", wide, cases)
	}
}
