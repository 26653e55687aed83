package crl

import (
	"bytes"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"runtime"
	"testing"
)

// BenchmarkScan compares the verified scan with what crypto/x509 needs to parse
// and verify the same list, and with SHA-256 of it alone; and shows what it costs
// more where each entry goes to a Tally or to Each.
func BenchmarkScan(b *testing.B) {
	a := newAuthority(b, pkix.Name{CommonName: "Issuer of a mount, 2026"}, ecKey(b, elliptic.P256()), x509.ECDSAWithSHA256)
	for _, entries := range []int{15000, 100000, 1000000} {
		b.Run(fmt.Sprintf("entries=%d", entries), func(b *testing.B) { benchmarkScan(b, a, entries) })
	}
}

func benchmarkScan(b *testing.B, a authority, entries int) {
	der := a.sign(b, listOf(entries))
	run := func(name string, once func() error) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(der)))
			for b.Loop() {
				if err := once(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	scan := func(o Options) error {
		s, err := Scan(bytes.NewReader(der), o)
		if err != nil {
			return err
		}
		if s.Entries != int64(entries) {
			return fmt.Errorf("%d entries", s.Entries)
		}
		return s.Verify(a.cert)
	}
	run("scan+verify", func() error { return scan(Options{}) })
	run("x509", func() error {
		l, err := x509.ParseRevocationList(der)
		if err != nil {
			return err
		}
		return l.CheckSignatureFrom(a.cert)
	})
	run("sha256", func() error {
		if sha256.Sum256(der) == [32]byte{} {
			return errors.New("no digest")
		}
		return nil
	})
	run("scan+verify+tally", func() error { return scan(Options{Tally: NewTally(nil, [16]byte{1})}) })
	run("scan+verify+each", func() error {
		n := 0
		err := scan(Options{Each: func(e Entry) error {
			n += len(e.Serial)
			return nil
		}})
		if err == nil && n < 10*entries {
			return fmt.Errorf("%d octets of serial numbers", n)
		}
		return err
	})
}

// TestScanAllocations holds what a scan and its verification take from the
// heap, whatever the size of the list.
func TestScanAllocations(t *testing.T) {
	a := newAuthority(t, pkix.Name{CommonName: "Issuer of a mount, 2026"}, ecKey(t, elliptic.P256()), x509.ECDSAWithSHA256)
	for _, entries := range []int{1, 1000, 30000, fewer(300000)} {
		der := a.sign(t, listOf(entries))
		verified := func() {
			s, err := Scan(bytes.NewReader(der), Options{})
			if err != nil || s.Verify(a.cert) != nil {
				t.Error(err)
			}
		}
		const mostAllocations, mostBytes = 20, 64 << 10
		if n := testing.AllocsPerRun(10, verified); n > mostAllocations {
			t.Errorf("%d entries: %v allocations, want at most %d", entries, n, mostAllocations)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		verified()
		runtime.ReadMemStats(&after)
		if grown := after.TotalAlloc - before.TotalAlloc; grown > mostBytes {
			t.Errorf("%d entries: %d bytes allocated, want at most %d", entries, grown, mostBytes)
		}
	}
}
