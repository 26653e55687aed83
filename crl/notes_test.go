package crl

import (
	"bytes"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestNotes holds what is noted about lists that are accepted. They are in force
// from 1 May 2026 10:00 to 4 May.
func TestNotes(t *testing.T) {
	number := func(value ...byte) []byte { return tlv(0x30, []byte("\x06\x03\x55\x1d\x14"), tlv(4, tlv(2, value))) }
	other := func(last byte) []byte { return tlv(0x30, []byte{6, 2, 0x2a, last, 4, 0}) }
	reason := func(code byte) []byte {
		return tlv(0x30, []byte("\x06\x03\x55\x1d\x15"), tlv(4, []byte{10, 1, code}))
	}
	entry := func(extensions ...[]byte) []byte { return tlv(0x30, serial, thisTime, tlv(0x30, extensions...)) }
	var apart [][]byte
	for i := range byte(17) {
		apart = append(apart, other(i))
	}
	first := time.Date(2026, 5, 1, 10, 0, 0, 0, time.UTC)
	const (
		unnamed = "1 entry has a reason code that RFC 5280 section 5.3.1 does not name"
		twice   = "is there more than once, of which the last counts: RFC 5280 section 4.2 allows one"
	)
	for _, c := range []struct {
		name string
		edit func(p *parts)
		at   time.Time // first where it is zero
		want []string
	}{
		{name: "in force", edit: func(*parts) {}},
		{"its last second", func(*parts) {}, first.AddDate(0, 0, 3).Add(-1), nil},
		{"out of date", func(*parts) {}, first.AddDate(0, 0, 3), []string{"nextUpdate has passed: clients that check revocation refuse every certificate of this issuer (RFC 5280 section 5.1.2.5)"}},
		{"five minutes early", func(*parts) {}, first.Add(-5 * time.Minute), nil},
		{"earlier", func(*parts) {}, first.Add(-5*time.Minute - time.Second), []string{"thisUpdate lies in the future: the issuer's clock is wrong, or the one here (RFC 5280 section 5.1.2.4: the issue date)"}},
		{name: "no nextUpdate", edit: func(p *parts) { p.next = nil }, want: []string{
			"there is no nextUpdate, so that nobody can tell when the list is out of date: RFC 5280 section 5.1.2.5 requires it",
		}},
		{"an instant", func(p *parts) { p.next = thisTime }, first.Add(-time.Minute), []string{
			"nextUpdate is not after thisUpdate, so that the list was never in force (RFC 5280 sections 5.1.2.4 and 5.1.2.5)",
		}},
		{name: "the wrong way round", edit: func(p *parts) { p.this, p.next = nextTime, thisTime }, want: []string{
			"nextUpdate has passed: clients that check revocation refuse every certificate of this issuer (RFC 5280 section 5.1.2.5)",
			"thisUpdate lies in the future: the issuer's clock is wrong, or the one here (RFC 5280 section 5.1.2.4: the issue date)",
			"nextUpdate is not after thisUpdate, so that the list was never in force (RFC 5280 sections 5.1.2.4 and 5.1.2.5)",
		}},

		{name: "number 0", edit: func(p *parts) { p.extensions = extensionsOf(number(0)) }},
		{name: "number negative", edit: func(p *parts) { p.extensions = extensionsOf(number(0xff)) }, want: []string{"the CRL number is negative: RFC 5280 section 5.2.3 counts from 0"}},
		{name: "number of 20 octets", edit: func(p *parts) { p.extensions = extensionsOf(number(append([]byte{0x7f}, make([]byte, 19)...)...)) }},
		{name: "number of 21 octets, with its sign", edit: func(p *parts) { p.extensions = extensionsOf(number(append([]byte{0, 0x80}, make([]byte, 19)...)...)) },
			want: []string{"the CRL number has 21 octets: RFC 5280 section 5.2.3 allows 20"}},
		{name: "base number negative", edit: func(p *parts) { p.extensions = listExtension(0x1b, []byte{2, 1, 0x80}) }, want: []string{"the base CRL number is negative: RFC 5280 section 5.2.3 counts from 0"}},

		{name: "two numbers", edit: func(p *parts) { p.extensions = extensionsOf(number(3), number(4)) }, want: []string{"extension 2.5.29.20 " + twice}},
		{name: "three of a kind and two", edit: func(p *parts) {
			p.extensions = extensionsOf(other(3), number(1), other(3), other(4), other(4), other(3))
		}, want: []string{"extension 1.2.3 " + twice, "extension 1.2.4 " + twice}},
		{name: "as many as are compared, and two more", edit: func(p *parts) { p.extensions = extensionsOf(append(apart, apart[15], apart[16])...) },
			want: []string{"extension 1.2.15 " + twice}},
		{name: "in an entry", edit: func(p *parts) { p.revoked = tlv(0x30, entry(other(3), reason(1), reason(4))) }, want: []string{"extension 2.5.29.21 " + twice}},
		{name: "in two entries, once each", edit: func(p *parts) { p.revoked = tlv(0x30, entry(other(3)), entry(other(3))) }},

		{name: "reasons 6 and 8", edit: func(p *parts) { p.revoked = tlv(0x30, entry(reason(6)), entry(reason(8))) }},
		{name: "reason 7", edit: func(p *parts) { p.revoked = tlv(0x30, entry(reason(7))) }, want: []string{unnamed}},
		{name: "reason 11", edit: func(p *parts) { p.revoked = tlv(0x30, entry(reason(11))) }, want: []string{unnamed}},
		{name: "reason -1", edit: func(p *parts) { p.revoked = tlv(0x30, entry(reason(0xff))) }, want: []string{unnamed}},
		{name: "reasons of all kinds", edit: func(p *parts) {
			p.revoked = tlv(0x30, entry(reason(7)), entry(reason(1)), entry(reason(7)), entry(other(3), reason(7)), entry(other(3)), entry(reason(200)))
		}, want: []string{"4 entries have a reason code that RFC 5280 section 5.3.1 does not name"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := small()
			c.edit(&p)
			der := p.der()
			s, err := Scan(bytes.NewReader(der), Options{})
			if err != nil {
				t.Fatal(err)
			}
			if c.at.IsZero() {
				c.at = first
			}
			if got := s.Notes(c.at); !slices.Equal(got, c.want) {
				t.Errorf("got %q\nwant %q", got, c.want)
			}
			if _, err := x509.ParseRevocationList(der); err != nil {
				t.Errorf("crypto/x509 refuses it: %v", err)
			}
		})
	}
}

// TestListedIdentifiersBounded: what a list makes up neither grows a Summary nor
// its notes.
func TestListedIdentifiersBounded(t *testing.T) {
	long := tlv(6, bytes.Repeat([]byte{0x87, 0xff, 0xff, 0xff, 0x7f}, 100))
	critical := tlv(0x30, long, []byte{1, 1, 0xff, 4, 0})
	p := small()
	p.revoked = tlv(0x30, tlv(0x30, serial, thisTime, tlv(0x30, critical, critical)))
	s, err := Scan(bytes.NewReader(p.der()), Options{})
	if err != nil {
		t.Fatal(err)
	}
	const component = ".2147483647" // cut at the twelfth of them
	want := []string{"2.2147483567" + strings.Repeat(component, 11) + ".…"}
	if !slices.Equal(s.UnhandledCritical, want) || !slices.Equal(s.RepeatedExtensions, want) {
		t.Errorf("critical %q\nrepeated %q\nwant %q", s.UnhandledCritical, s.RepeatedExtensions, want)
	}
}

func TestAlgorithm(t *testing.T) {
	for identifier, want := range map[string]string{
		"\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02":             "ECDSA-SHA256",
		"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x63":         "1.2.840.113549.1.1.99",
		"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a\x05\x00": "1.2.840.113549.1.1.10", // PSS of unknown parameters
		"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x04":         "MD5-RSA",
	} {
		p := small()
		p.algorithm = tlv(0x30, []byte(identifier))
		p.outer = p.algorithm
		s, err := Scan(bytes.NewReader(p.der()), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Algorithm(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
		if err := s.Verify(&x509.Certificate{RawSubject: s.RawIssuer}); s.DigestHash == 0 ||
			want != "ECDSA-SHA256" && (!errors.Is(err, ErrNotVerifiable) || !strings.HasSuffix(err.Error(), "signature cannot be verified: algorithm "+want)) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
