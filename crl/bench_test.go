package crl

import (
	"bytes"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"runtime"
	"testing"
)

// BenchmarkScan compares the verified scan with what crypto/x509 needs to parse
// and verify the same list, and with SHA-256 of it alone.
func BenchmarkScan(b *testing.B) {
	a := newAuthority(b, pkix.Name{CommonName: "Issuer of a mount, 2026"}, ecKey(b, elliptic.P256()), x509.ECDSAWithSHA256)
	for _, entries := range []int{15000, 100000, 1000000} {
		der := a.sign(b, listOf(entries))
		run := func(name string, once func() error) {
			b.Run(fmt.Sprintf("entries=%d/%s", entries, name), func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(len(der)))
				for b.Loop() {
					if err := once(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		run("scan+verify", func() error {
			s, err := Scan(bytes.NewReader(der), Options{})
			if err != nil {
				return err
			}
			if s.Entries != int64(entries) {
				return fmt.Errorf("%d entries", s.Entries)
			}
			return s.Verify(a.cert)
		})
		run("x509", func() error {
			l, err := x509.ParseRevocationList(der)
			if err != nil {
				return err
			}
			return l.CheckSignatureFrom(a.cert)
		})
		run("sha256", func() error {
			sum := sha256.Sum256(der)
			if sum == [32]byte{} {
				return fmt.Errorf("no digest")
			}
			return nil
		})
	}
}

// TestScanAllocations holds what a scan and its verification take from the
// heap, whatever the size of the list.
func TestScanAllocations(t *testing.T) {
	a := newAuthority(t, pkix.Name{CommonName: "Issuer of a mount, 2026"}, ecKey(t, elliptic.P256()), x509.ECDSAWithSHA256)
	for _, entries := range []int{1, 1000, 30000} {
		der := a.sign(t, listOf(entries))
		const most = 20
		if n := testing.AllocsPerRun(10, func() {
			s, err := Scan(bytes.NewReader(der), Options{})
			if err != nil || s.Verify(a.cert) != nil {
				t.Error(err)
			}
		}); n > most {
			t.Errorf("%d entries: %v allocations, want at most %d", entries, n, most)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := Scan(bytes.NewReader(der), Options{}); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 64<<10 {
			t.Errorf("%d entries: %d bytes allocated, want at most 64 KiB", entries, grown)
		}
	}
}
