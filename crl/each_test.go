package crl

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"testing"
	"time"
)

// TestEach: Each is shown what crypto/x509 finds, in both paths of the scan,
// and its error comes back as it is.
func TestEach(t *testing.T) {
	a := p256(t)
	for name, template := range lists() {
		t.Run(name, func(t *testing.T) {
			der := a.sign(t, template)
			want, err := x509.ParseRevocationList(der)
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			_, err = Scan(bytes.NewReader(der), Options{Each: func(e Entry) error {
				if n >= len(want.RevokedCertificateEntries) {
					t.Fatal("more entries than there are")
				}
				w := want.RevokedCertificateEntries[n]
				serial, err := asn1.Marshal(w.SerialNumber) // a tag and a length of one octet each
				if err != nil {
					t.Fatal(err)
				}
				serial = serial[2:]
				if !bytes.Equal(e.Serial, serial) || !e.RevokedAt.Equal(w.RevocationTime) || e.RevokedAt.Location() != time.UTC {
					t.Errorf("entry %d: %x at %v, want %x at %v", n, e.Serial, e.RevokedAt, serial, w.RevocationTime)
				}
				n++
				return nil
			}})
			if err != nil || n != len(want.RevokedCertificateEntries) {
				t.Errorf("%d of %d entries, %v", n, len(want.RevokedCertificateEntries), err)
			}
		})
	}
	enough := errors.New("enough")
	if s, err := Scan(bytes.NewReader(a.sign(t, listOf(3))), Options{Each: func(Entry) error { return enough }}); err != enough || s.Entries != 0 {
		t.Errorf("%v with %d entries, want Each's error and nothing else", err, s.Entries)
	}
}
