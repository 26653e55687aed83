package crl

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// pointOf is a list with the value as its issuing distribution point.
func pointOf(value ...[]byte) []byte {
	p := small()
	p.extensions = extensionsOf(tlv(0x30, []byte("\x06\x03\x55\x1d\x1c\x01\x01\xff"), tlv(4, value...)))
	return p.der()
}

func TestDistributionPoint(t *testing.T) {
	name := func(general ...[]byte) []byte { return tlv(0xa0, tlv(0xa0, general...)) }
	uri := tlv(0x86, []byte("http://ca.example/crl"))
	cn := tlv(0x31, tlv(0x30, commonName, tlv(0x0c, []byte("CA"))))
	many := slices.Repeat(uri, 18)
	for _, c := range []struct {
		what  string
		value []byte
		want  DistributionPoint
	}{
		{"nothing", nil, DistributionPoint{}},
		{"URI", name(uri), DistributionPoint{Names: []string{"http://ca.example/crl"}}},
		{"names of all kinds", name(
			uri, tlv(0x81, []byte("a@b")), tlv(0x82, []byte("ca.example")), tlv(0xa4, tlv(0x30, cn)), tlv(0x87, []byte{192, 0, 2, 1}),
			tlv(0x87, slices.Concat([]byte{0x20, 1, 0x0d, 0xb8}, make([]byte, 11), []byte{1})), tlv(0x88, []byte{0x2a, 3, 4}),
			tlv(0xa0, []byte{6, 2, 0x2a, 3}, tlv(0xa0, []byte{5, 0})), tlv(0xa3, nil), tlv(0xa5, nil),
		), DistributionPoint{Names: []string{
			"http://ca.example/crl", "rfc822Name:a@b", "dNSName:ca.example", "directoryName:CN=CA", "iPAddress:192.0.2.1",
			"iPAddress:2001:db8::1", "registeredID:1.2.3.4", "otherName:1.2.3", "x400Address:", "ediPartyName:",
		}}},
		{"not printable", name(tlv(0x86, []byte("a\x1b[2J\nb"))), DistributionPoint{Names: []string{"a%1b[2J%0ab"}}},
		{"many names", name(many), DistributionPoint{Names: slices.Repeat([]string{"http://ca.example/crl"}, 16), MoreNames: 2}},
		{"relative name", tlv(0xa0, tlv(0xa1, tlv(0x30, commonName, tlv(0x0c, []byte("2"))))), DistributionPoint{Names: []string{"nameRelativeToCRLIssuer:CN=2"}}},
		{"all flags", []byte("\x81\x01\xff\x82\x01\xff\x84\x01\xff\x85\x01\xff"), DistributionPoint{
			OnlyContainsUserCerts: true, OnlyContainsCACerts: true, OnlyContainsAttributeCerts: true, IndirectCRL: true,
		}},
		{"user certificates", slices.Concat(name(uri), []byte{0x81, 1, 0xff}), DistributionPoint{Names: []string{"http://ca.example/crl"}, OnlyContainsUserCerts: true}},
		{"CA certificates", []byte{0x82, 1, 0xff}, DistributionPoint{OnlyContainsCACerts: true}},
		{"indirect", []byte{0x84, 1, 0xff}, DistributionPoint{IndirectCRL: true}},
		{"attribute certificates", []byte{0x85, 1, 0xff}, DistributionPoint{OnlyContainsAttributeCerts: true}},
		{"no reasons", []byte{0x83, 1, 0}, DistributionPoint{OnlySomeReasons: []string{}}},
		{"two reasons", []byte{0x83, 2, 5, 0x60}, DistributionPoint{OnlySomeReasons: []string{"keyCompromise", "cACompromise"}}},
		{"all reasons", []byte{0x83, 3, 7, 0xff, 0x80}, DistributionPoint{OnlySomeReasons: []string{
			"unused", "keyCompromise", "cACompromise", "affiliationChanged", "superseded", "cessationOfOperation",
			"certificateHold", "privilegeWithdrawn", "aACompromise",
		}}},
		{"a reason without name", []byte{0x83, 3, 6, 0x00, 0x40}, DistributionPoint{OnlySomeReasons: []string{}}},
	} {
		der := pointOf(tlv(0x30, c.value))
		s, err := Scan(bytes.NewReader(der), Options{})
		if err != nil {
			t.Errorf("%s: %v", c.what, err)
			continue
		}
		compare(t, der, s)
		if s.IDP == nil || !reflect.DeepEqual(*s.IDP, c.want) {
			t.Errorf("%s: %+v, want %+v", c.what, s.IDP, c.want)
		}
		if s.UnhandledCritical != nil {
			t.Errorf("%s: unhandled %v", c.what, s.UnhandledCritical)
		}
	}
	if s, err := Scan(bytes.NewReader(small().der()), Options{}); err != nil || s.IDP != nil {
		t.Errorf("without the extension: %+v, %v", s.IDP, err)
	}
}

// TestDistributionPointRefused: crypto/x509 accepts all of these.
func TestDistributionPointRefused(t *testing.T) {
	point := func(b ...byte) []byte { return tlv(0x30, tlv(0xa0, b)) }
	full := func(b ...byte) []byte { return tlv(0x30, tlv(0xa0, tlv(0xa0, b))) }
	for want, value := range map[string][]byte{
		"expected issuing distribution point: SEQUENCE (0x30), got INTEGER (0x02)":                       {2, 1, 1},
		"expected issuing distribution point, got the end of what encloses it":                           {},
		"expected the end of the extension's value, got 2 more bytes":                                    {0x30, 0, 5, 0},
		"expected the end of the issuing distribution point, got 3 more bytes":                           {0x30, 3, 0x86, 1, 0xff},
		"expected the end of the issuing distribution point, got 6 more bytes":                           {0x30, 9, 0x85, 1, 0xff, 0x84, 1, 0xff, 0x81, 1, 0xff},
		"expected onlyContainsUserCerts: BOOLEAN 0xff, or nothing, got 0x00":                             {0x30, 3, 0x81, 1, 0},
		"expected onlyContainsCACerts: BOOLEAN 0xff, or nothing, got 0x01":                               {0x30, 3, 0x82, 1, 1},
		"expected indirectCRL: BOOLEAN 0xff, or nothing, got 0xffff":                                     {0x30, 4, 0x84, 2, 0xff, 0xff},
		"expected a length of onlyContainsAttributeCerts that ends by byte":                              {0x30, 2, 0x85, 1},
		"expected onlySomeReasons: BIT STRING that ends with a bit set, got \"\"":                        {0x30, 2, 0x83, 0},
		"expected onlySomeReasons: BIT STRING that ends with a bit set, got 0x01":                        {0x30, 3, 0x83, 1, 1},
		"expected onlySomeReasons: BIT STRING that ends with a bit set, got 0x0000":                      {0x30, 4, 0x83, 2, 0, 0},
		"expected onlySomeReasons: BIT STRING that ends with a bit set, got 0x0561":                      {0x30, 4, 0x83, 2, 5, 0x61},
		"expected onlySomeReasons: BIT STRING that ends with a bit set, got 0x0540":                      {0x30, 4, 0x83, 2, 5, 0x40},
		"expected onlySomeReasons: BIT STRING that ends with a bit set, got 0x0880":                      {0x30, 4, 0x83, 2, 8, 0x80},
		"expected full name of the distribution point, got the end of what encloses it":                  point(),
		"expected full name of the distribution point: [0] (0xa0), got tag 0x86":                         point(0x86, 0),
		"expected name of the distribution point, got the end of what encloses it":                       full(),
		"expected name of the distribution point, got UTF8String (0x0c)":                                 full(0x0c, 0),
		"expected name of the distribution point, got 0x80 in a IA5String":                               full(0x86, 1, 0x80),
		"expected the end of the distribution point, got 2 more bytes":                                   point(0xa0, 2, 0x86, 0, 0xa1, 0),
		"expected IP address of 4 or 16 bytes, got 0x010203":                                             full(0x87, 3, 1, 2, 3),
		"expected registered identifier, got 0x80":                                                       full(0x88, 1, 0x80),
		"expected directory name: SEQUENCE (0x30), got SET (0x31)":                                       full(0xa4, 2, 0x31, 0),
		"expected the end of the directory name, got 2 more bytes":                                       full(0xa4, 4, 0x30, 0, 5, 0),
		"expected kind of the other name, got the end of what encloses it":                               full(0xa0, 0),
		"expected other name, got the end of what encloses it":                                           full(0xa0, 3, 6, 1, 0x2a),
		"expected the end of the other name's value, got 2 more bytes":                                   full(0xa0, 9, 6, 1, 0x2a, 0xa0, 4, 5, 0, 5, 0),
		"expected the end of the other name, got 2 more bytes":                                           full(0xa0, 9, 6, 1, 0x2a, 0xa0, 2, 5, 0, 5, 0),
		"expected attribute of a name: SEQUENCE (0x30), got NULL (0x05)":                                 point(0xa1, 2, 5, 0),
		"expected a definite length in as few octets as possible of name of the distribution point, got": full(0x86, 0x81, 0),
	} {
		der := pointOf(value)
		if _, err := x509.ParseRevocationList(der); err != nil {
			t.Errorf("%s: crypto/x509 has %v", want, err)
		}
		s, err := Scan(bytes.NewReader(der), Options{})
		var syntax *SyntaxError
		if !errors.As(err, &syntax) || !strings.Contains(err.Error(), want) || syntax.Rule != ruleDistributionPoint {
			t.Errorf("%x: %v %v, want %q", value, err, s.IDP, want)
		}
	}
}

// TestNameOfManyParts: what a name takes grows with its length, not with the
// square of it.
func TestNameOfManyParts(t *testing.T) {
	const parts = 5000
	rdn := tlv(0x31, tlv(0x30, commonName, tlv(0x0c, []byte("x"))))
	p := small()
	p.issuer = tlv(0x30, slices.Repeat(rdn, parts))
	der := p.der()
	s, err := scanWithin(t, "issuer", der)
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("CN=x%s", strings.Repeat(",CN=x", parts-1)); s.Issuer != want {
		t.Errorf("issuer of %d bytes, want %d", len(s.Issuer), len(want))
	}
}
