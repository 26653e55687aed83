package crl

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"testing"
)

// BenchmarkScan compares the verified scan with what crypto/x509 needs to parse
// and verify the same list, and with SHA-256 of it alone.
func BenchmarkScan(b *testing.B) {
	a := p256(b)
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
