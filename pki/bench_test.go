package pki_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
)

// benchMounts are mounts with 2,000 entries each, as after 150 days of
// certificates of 1, 30 and 90 days.
func benchMounts(b *testing.B, n int) (mounts []*mountTruth, longest pki.LongestTTL) {
	b.Helper()
	ca := newAuthority(b, "root")
	w := workloads[3]
	for i := range n {
		mounts = append(mounts, newTruth(b, ca, 0, w.draw(uint64(i), 2000)))
	}
	return mounts, pki.LongestTTL{Duration: w.longest}
}

// BenchmarkPlan decides about 500 mounts with 1,000,000 revoked certificates in
// all. The last of them is what it takes where the end of each certificate is
// known, in a map by serial number.
func BenchmarkPlan(b *testing.B) {
	mounts, longest := benchMounts(b, 500)
	p := policy()
	var observations []pki.Observation
	for _, m := range mounts {
		o := observation(m.crl)
		o.LongestTTL = longest
		observations = append(observations, o)
	}
	var truth int64
	ends := make([]map[string]time.Time, len(mounts))
	for i, m := range mounts {
		truth += m.reclaimable(p.SafetyBuffer)
		ends[i] = make(map[string]time.Time, len(m.all))
		for serial, c := range m.all {
			ends[i][serial] = c.notAfter
		}
	}
	plan := func(b *testing.B) {
		b.ReportAllocs()
		var low, likely int64
		for b.Loop() {
			low, likely = 0, 0
			for i := range observations {
				e := pki.Plan(observations[i], p, now).Estimate
				low, likely = low+e.Low, likely+e.Likely
			}
		}
		b.ReportMetric(100*float64(likely-truth)/1e6, "%off")
	}
	b.Run("dates alone", plan)
	reads := 0
	for i, m := range mounts {
		observations[i].Sample = pki.NewSample(keyOf(i), 2000)
		_, n, _ := m.complete(b, observations[i].Sample, longest, p.SafetyBuffer, false, 2000)
		reads += n
	}
	b.Run(fmt.Sprintf("sample of %d", reads), plan)
	b.Run("map of 1000000", func(b *testing.B) {
		b.ReportAllocs()
		var likely int64
		for b.Loop() {
			likely = 0
			for i := range observations {
				var n int64
				for _, end := range ends[i] {
					if now.Sub(end) > p.SafetyBuffer {
						n++
					}
				}
				o := observations[i]
				o.Sample = nil
				pki.Plan(o, p, now)
				likely += n
			}
		}
		b.ReportMetric(100*float64(likely-truth)/1e6, "%off")
	})
}

// BenchmarkSamplePass collects the serial numbers to read from the entries of
// 500 lists, beside only scanning them.
func BenchmarkSamplePass(b *testing.B) {
	mounts, longest := benchMounts(b, 500)
	pass := func(each func(m *mountTruth) func(crl.Entry) error) func(*testing.B) {
		return func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				for _, m := range mounts {
					if _, err := crl.Scan(bytes.NewReader(m.der), crl.Options{Each: each(m)}); err != nil {
						b.Fatal(err)
					}
				}
			}
		}
	}
	b.Run("scan", pass(func(*mountTruth) func(crl.Entry) error { return nil }))
	b.Run("collect", pass(func(m *mountTruth) func(crl.Entry) error {
		s := pki.NewSample(keyOf(1), 2000)
		return s.Pass(s.Estimate([]pki.CRL{m.crl}, longest, policy().SafetyBuffer, now), false).List(m.crl.Issuer)
	}))
}

// BenchmarkSampleMemory says what a certificate of a sample takes, before and
// after it was read.
func BenchmarkSampleMemory(b *testing.B) {
	const n = 200_000
	r := rand.New(rand.NewPCG(1, 1))
	var serials [n][20]byte
	for i := range serials {
		for j := range serials[i] {
			serials[i][j] = byte(r.Uint32())
		}
		serials[i][0] &= 0x7f
	}
	m := newTruth(b, newAuthority(b, "root"), 0, batchOf(1, 80*hour, 73*hour))
	heap := func() float64 {
		var s runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&s)
		return float64(s.HeapAlloc)
	}
	for b.Loop() {
		before := heap()
		s := pki.NewSample(keyOf(1), n)
		p := s.Pass(pki.Estimate{}, true)
		add := p.List(m.crl.Issuer)
		for i := range serials {
			if err := add(crl.Entry{Serial: serials[i][:], RevokedAt: now.Add(-80 * hour)}); err != nil {
				b.Fatal(err)
			}
		}
		s.Accept(p, []pki.CRL{m.crl})
		waiting := heap() - before
		e := s.Estimate([]pki.CRL{m.crl}, pki.LongestTTL{}, 72*hour, now)
		for _, c := range s.Due(e, n) {
			s.NotAfter(c, now)
		}
		if _, read := s.Len(); read != n {
			b.Fatalf("%d were read", read)
		}
		b.ReportMetric(waiting/n, "B/waiting")
		b.ReportMetric((heap()-before)/n, "B/read")
		runtime.KeepAlive(s)
	}
}
