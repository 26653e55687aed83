package crl

import (
	"bytes"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"testing"
)

// tlv is an element with a minimal length.
func tlv(tag byte, contents ...[]byte) []byte {
	b := slices.Concat(contents...)
	n := len(b)
	switch {
	case n < 0x80:
		return slices.Concat([]byte{tag, byte(n)}, b)
	case n < 0x100:
		return slices.Concat([]byte{tag, 0x81, byte(n)}, b)
	default:
		return slices.Concat([]byte{tag, 0x82, byte(n >> 8), byte(n)}, b)
	}
}

// parts are the elements of a small list; a test replaces one.
type parts struct {
	version, algorithm, issuer, this, next, revoked, extensions, tbsEnd []byte
	outer, signature, end                                               []byte
	after                                                               []byte
}

var (
	ecdsaSHA256 = tlv(0x30, []byte("\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02"))
	ecdsaSHA384 = tlv(0x30, []byte("\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03"))
	commonName  = []byte("\x06\x03\x55\x04\x03")
	thisTime    = tlv(0x17, []byte("260501100000Z"))
	nextTime    = tlv(0x17, []byte("260504100000Z"))
	serial      = []byte{2, 1, 5}
)

func issuerOf(value []byte) []byte {
	return tlv(0x30, tlv(0x31, tlv(0x30, commonName, value)))
}

func small() parts {
	return parts{
		version: []byte{2, 1, 1}, algorithm: ecdsaSHA256, issuer: issuerOf(tlv(0x0c, []byte("CA"))),
		this: thisTime, next: nextTime, revoked: tlv(0x30, tlv(0x30, serial, thisTime)),
		extensions: extensionsOf(tlv(0x30, []byte("\x06\x03\x55\x1d\x14"), tlv(4, []byte{2, 1, 9}))),
		outer:      ecdsaSHA256, signature: []byte{3, 3, 0, 1, 2},
	}
}

func extensionsOf(list ...[]byte) []byte { return tlv(0xa0, tlv(0x30, list...)) }

func (p parts) der() []byte {
	tbs := tlv(0x30, p.version, p.algorithm, p.issuer, p.this, p.next, p.revoked, p.extensions, p.tbsEnd)
	return append(tlv(0x30, tbs, p.outer, p.signature, p.end), p.after...)
}

// TestScanSyntax holds what is refused and what is not. The offsets were
// counted by hand on the 119 octets of the list that small builds.
func TestScanSyntax(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(p *parts)
		want string // "" where the list is accepted
		rule string // where crypto/x509 accepts
	}{
		{"as it is", func(p *parts) {}, "", ""},
		{"nothing optional", func(p *parts) { p.next, p.revoked, p.extensions = nil, nil, nil }, "", ""},
		{"empty revokedCertificates", func(p *parts) { p.revoked = tlv(0x30) }, "", ""},
		{"no version", func(p *parts) { p.version = nil }, "at byte 4: expected version: INTEGER (0x02), got SEQUENCE (0x30)", ""},
		{"version 1", func(p *parts) { p.version = []byte{2, 1, 0} }, "at byte 6: expected version 2, encoded as 1, got 0x00", ""},
		{"version 3", func(p *parts) { p.version = []byte{2, 1, 2} }, "at byte 6: expected version 2, encoded as 1, got 0x02", ""},
		{"version, not minimal", func(p *parts) { p.version = []byte{2, 2, 0, 1} }, "at byte 6: expected version in as few bytes as possible, got a needless 0x00", ""},
		{"algorithms differ", func(p *parts) { p.outer = ecdsaSHA384 }, "expected the signature algorithm named inside the list, got another", ""},
		{"algorithm unknown", func(p *parts) { p.algorithm = tlv(0x30, []byte{6, 2, 0x2a, 3}); p.outer = p.algorithm }, "", ""},
		{"algorithm without identifier", func(p *parts) { p.algorithm = tlv(0x30); p.outer = p.algorithm }, "at byte 9: expected signature algorithm, got the end of what encloses it", ""},
		{"algorithm with two parameters", func(p *parts) { p.algorithm = tlv(0x30, []byte{6, 2, 0x2a, 3, 5, 0, 5, 0}); p.outer = p.algorithm }, "at byte 15: expected the end of the algorithm identifier, got 2 more bytes", ruleNoTrailing},
		{"issuer no SEQUENCE", func(p *parts) { p.issuer = tlv(0x31) }, "at byte 19: expected issuer: SEQUENCE (0x30), got SET (0x31)", ""},
		{"issuer empty", func(p *parts) { p.issuer = tlv(0x30) }, "", ""},
		{"issuer's value no string", func(p *parts) { p.issuer = issuerOf([]byte{1, 1, 0}) }, "at byte 30: expected attribute value, got a value that is no string: BOOLEAN (0x01)", ""},
		{"issuer in bad UTF-8", func(p *parts) { p.issuer = issuerOf(tlv(0x0c, []byte{0xff})) }, "got invalid UTF-8 in a UTF8String", ""},
		{"issuer printable", func(p *parts) { p.issuer = issuerOf(tlv(0x13, []byte("A*&"))) }, "", ""},
		{"issuer not printable", func(p *parts) { p.issuer = issuerOf(tlv(0x13, []byte("A_"))) }, "got 0x5f in a PrintableString", ""},
		{"issuer IA5", func(p *parts) { p.issuer = issuerOf(tlv(0x16, []byte("a@b"))) }, "", ""},
		{"issuer not IA5", func(p *parts) { p.issuer = issuerOf(tlv(0x16, []byte{0x80})) }, "got 0x80 in a IA5String", ""},
		{"issuer numeric", func(p *parts) { p.issuer = issuerOf(tlv(0x12, []byte("1 2"))) }, "", ""},
		{"issuer not numeric", func(p *parts) { p.issuer = issuerOf(tlv(0x12, []byte("1.2"))) }, "got 0x2e in a NumericString", ""},
		{"issuer T61", func(p *parts) { p.issuer = issuerOf(tlv(0x14, []byte{0xe9})) }, "", ""},
		{"issuer BMP", func(p *parts) { p.issuer = issuerOf(tlv(0x1e, []byte{0, 'C', 0, 0})) }, "", ""},
		{"issuer BMP surrogate", func(p *parts) { p.issuer = issuerOf(tlv(0x1e, []byte{0xd8, 0})) }, "got U+D800 in a BMPString", ""},
		{"issuer BMP odd", func(p *parts) { p.issuer = issuerOf(tlv(0x1e, []byte{0})) }, "got a BMPString of an odd number of bytes", ""},
		{"attribute type's component too large", func(p *parts) {
			p.issuer = tlv(0x30, tlv(0x31, tlv(0x30, []byte{6, 6, 0x2a, 0x90, 0x80, 0x80, 0x80, 0}, tlv(0x0c))))
		}, "expected attribute type: OBJECT IDENTIFIER, got 0x2a9080808000", ""},
		{"attribute with a third field", func(p *parts) { p.issuer = issuerOf([]byte{0x0c, 0, 5, 0}) }, "at byte 32: expected the end of the attribute, got 2 more bytes", ruleNoTrailing},

		{"no thisUpdate", func(p *parts) { p.this, p.next, p.revoked, p.extensions = nil, nil, nil, nil }, "at byte 34: expected thisUpdate, got the end of what encloses it", ""},
		{"thisUpdate of another type", func(p *parts) { p.this = []byte{2, 1, 1} }, "at byte 34: expected thisUpdate: UTCTime (0x17), got INTEGER (0x02)", ""},
		{"GeneralizedTime before 2050", func(p *parts) { p.this = tlv(0x18, []byte("20260501100000Z")) }, "", ""},
		{"GeneralizedTime with a fraction", func(p *parts) { p.this = tlv(0x18, []byte("20260501100000.5Z")) }, "at byte 36: expected thisUpdate: GeneralizedTime YYYYMMDDhhmmssZ, got \"20260501100000.5Z\"", ""},
		{"GeneralizedTime with an offset", func(p *parts) { p.this = tlv(0x18, []byte("20260501100000+0100")) }, "got \"20260501100000+0100\"", ruleGeneralized},
		{"UTCTime with an offset", func(p *parts) { p.this = tlv(0x17, []byte("260501100000+0100")) }, "got \"260501100000+0100\"", ruleUTCTime},
		{"UTCTime without seconds", func(p *parts) { p.next = tlv(0x17, []byte("2605011000Z")) }, "at byte 51: expected nextUpdate: UTCTime YYMMDDhhmmssZ, got \"2605011000Z\"", ruleUTCTime},
		{"month 0", func(p *parts) { p.this = tlv(0x17, []byte("260001100000Z")) }, "got \"260001100000Z\"", ""},
		{"month 13", func(p *parts) { p.this = tlv(0x17, []byte("261301100000Z")) }, "got \"261301100000Z\"", ""},
		{"day 0", func(p *parts) { p.this = tlv(0x17, []byte("260500100000Z")) }, "got \"260500100000Z\"", ""},
		{"29 February", func(p *parts) { p.this = tlv(0x17, []byte("280229100000Z")) }, "", ""},
		{"29 February 2000", func(p *parts) { p.this = tlv(0x17, []byte("000229100000Z")) }, "", ""},
		{"29 February in another year", func(p *parts) { p.this = tlv(0x17, []byte("260229100000Z")) }, "got \"260229100000Z\"", ""},
		{"hour 24", func(p *parts) { p.this = tlv(0x17, []byte("260501240000Z")) }, "got \"260501240000Z\"", ""},
		{"second 60", func(p *parts) { p.this = tlv(0x17, []byte("260501100060Z")) }, "got \"260501100060Z\"", ""},
		{"no digit", func(p *parts) { p.this = tlv(0x17, []byte("2605011000:0Z")) }, "got \"2605011000:0Z\"", ""},

		{"after thisUpdate", func(p *parts) { p.next, p.revoked, p.extensions = []byte{5, 0}, nil, nil }, "at byte 49: expected the end of the TBSCertList, got 2 more bytes", ruleNoTrailing},
		{"after nextUpdate", func(p *parts) { p.revoked, p.extensions = []byte{5, 0}, nil }, "at byte 64: expected the end of the TBSCertList, got 2 more bytes", ruleNoTrailing},
		{"after the extensions", func(p *parts) { p.tbsEnd = []byte{0, 0, 0} }, "expected the end of the TBSCertList, got 3 more bytes", ruleNoTrailing},
		{"after the extensions' SEQUENCE", func(p *parts) { p.extensions = tlv(0xa0, tlv(0x30), []byte{5, 0}) }, "expected the end of the extensions of the list, got 2 more bytes", ruleNoTrailing},
		{"after the signature", func(p *parts) { p.end = []byte{5, 0} }, "expected the end of the CertificateList, got 2 more bytes", ruleNoTrailing},
		{"after the list", func(p *parts) { p.after = []byte{'\n'} }, "at byte 119: expected the end of the input after the list, got more", ruleOneList},

		{"entry no SEQUENCE", func(p *parts) { p.revoked = tlv(0x30, tlv(0x31)) }, "at byte 66: expected entry: SEQUENCE (0x30), got SET (0x31)", ""},
		{"entry longer than the list of entries", func(p *parts) { p.revoked = tlv(0x30, []byte{0x30, 40, 2, 1, 5}, thisTime) }, "at byte 67: expected a length of entry that ends by byte 86, got the length 40", ""},
		{"serial empty", func(p *parts) { p.revoked = tlv(0x30, tlv(0x30, []byte{2, 0}, thisTime)) }, "at byte 70: expected serial number of at least one byte, got none", ""},
		{"serial not minimal", func(p *parts) { p.revoked = tlv(0x30, tlv(0x30, []byte{2, 2, 0, 5}, thisTime)) }, "at byte 70: expected serial number in as few bytes as possible, got a needless 0x00", ""},
		{"serial not minimal, negative", func(p *parts) { p.revoked = tlv(0x30, tlv(0x30, []byte{2, 2, 0xff, 0x85}, thisTime)) }, "got a needless 0xff", ""},
		{"serial zero", func(p *parts) { p.revoked = tlv(0x30, tlv(0x30, []byte{2, 1, 0}, thisTime)) }, "", ""},
		{"entry's date wrong", func(p *parts) { p.revoked = tlv(0x30, tlv(0x30, serial, tlv(0x17, []byte("269901100000Z")))) }, "at byte 73: expected revocation date: UTCTime YYMMDDhhmmssZ, got \"269901100000Z\"", ""},
		{"entry without date", func(p *parts) { p.revoked = tlv(0x30, tlv(0x30, serial)) }, "at byte 71: expected revocation date, got the end of what encloses it", ""},
		{"after the date", func(p *parts) { p.revoked = tlv(0x30, tlv(0x30, serial, thisTime, []byte{5, 0})) }, "at byte 86: expected the end of the entry, got 2 more bytes", ruleNoTrailing},
		{"reason not ENUMERATED", func(p *parts) { p.revoked = reasonEntry([]byte{2, 1, 1}) }, "expected reason code: ENUMERATED (0x0a), got INTEGER (0x02)", ""},
		{"reason with more", func(p *parts) { p.revoked = reasonEntry([]byte{10, 1, 1, 0}) }, "expected the end of the reason code, got 1 more bytes", ruleNoTrailing},
		{"reason of nine octets", func(p *parts) { p.revoked = reasonEntry([]byte{10, 9, 1, 0, 0, 0, 0, 0, 0, 0, 0}) }, "expected reason code of at most 8 bytes, got 9 bytes", ""},
		{"reason without name", func(p *parts) { p.revoked = reasonEntry([]byte{10, 1, 7}) }, "", ""},
		{"reason of two octets", func(p *parts) { p.revoked = reasonEntry([]byte{10, 2, 1, 1}) }, "", ""},
		{"reason negative", func(p *parts) { p.revoked = reasonEntry([]byte{10, 1, 0xff}) }, "", ""},

		{"critical neither", func(p *parts) { p.extensions = extensionsOf(tlv(0x30, []byte{6, 1, 0x2a, 1, 1, 1, 4, 0})) }, "expected critical: BOOLEAN 0x00 or 0xff, got 0x01", ""},
		{"critical false, spelt out", func(p *parts) { p.extensions = extensionsOf(tlv(0x30, []byte{6, 1, 0x2a, 1, 1, 0, 4, 0})) }, "", ""},
		{"extension without value", func(p *parts) { p.extensions = extensionsOf(tlv(0x30, []byte{6, 1, 0x2a})) }, "expected extension value, got the end of what encloses it", ""},
		{"extension with more", func(p *parts) { p.extensions = extensionsOf(tlv(0x30, []byte{6, 1, 0x2a, 4, 0, 5, 0})) }, "expected the end of the extension, got 2 more bytes", ruleNoTrailing},
		{"extension's identifier empty", func(p *parts) { p.extensions = extensionsOf(tlv(0x30, []byte{6, 0, 4, 0})) }, "expected extension identifier: OBJECT IDENTIFIER", ""},
		{"extension's identifier not minimal", func(p *parts) { p.extensions = extensionsOf(tlv(0x30, []byte{6, 2, 0x2a, 0x80, 4, 0})) }, "expected extension identifier: OBJECT IDENTIFIER, got 0x2a80", ""},
		{"extension's identifier cut", func(p *parts) { p.extensions = extensionsOf(tlv(0x30, []byte{6, 2, 0x2a, 0x81, 4, 0})) }, "expected extension identifier: OBJECT IDENTIFIER, got 0x2a81", ""},
		{"number no INTEGER", func(p *parts) { p.extensions = listExtension(0x14, []byte{4, 0}) }, "expected CRL number: INTEGER (0x02), got OCTET STRING (0x04)", ""},
		{"number with more", func(p *parts) { p.extensions = listExtension(0x14, []byte{2, 1, 1, 0}) }, "expected the end of the CRL number, got 1 more bytes", ruleNoTrailing},
		{"number negative", func(p *parts) { p.extensions = listExtension(0x14, []byte{2, 2, 0xff, 0x00}) }, "", ""},
		{"base number malformed", func(p *parts) { p.extensions = listExtension(0x1b, []byte{2, 0}) }, "expected base CRL number of at least one byte, got none", ruleDeltaCRLBase},
		{"key identifier critical", func(p *parts) {
			p.extensions = extensionsOf(tlv(0x30, []byte("\x06\x03\x55\x1d\x23\x01\x01\xff\x04\x02\x30\x00")))
		}, "expected authority key identifier marked as not critical, got critical", ""},
		{"key identifier absent", func(p *parts) { p.extensions = listExtension(0x23, []byte{0x30, 0}) }, "", ""},
		{"key identifier malformed", func(p *parts) { p.extensions = listExtension(0x23, []byte{4, 0}) }, "expected authority key identifier: SEQUENCE (0x30), got OCTET STRING (0x04)", ""},
		{"key identifier with more", func(p *parts) { p.extensions = listExtension(0x23, []byte{0x30, 0, 5, 0}) }, "expected the end of the authority key identifier, got 2 more bytes", ruleNoTrailing},

		{"signature absent", func(p *parts) { p.signature = nil }, "expected signature, got the end of what encloses it", ""},
		{"signature empty", func(p *parts) { p.signature = []byte{3, 0} }, "expected signature: BIT STRING with its unused bits zero", ""},
		{"signature of no bits", func(p *parts) { p.signature = []byte{3, 1, 0} }, "", ""},
		{"signature with 8 unused bits", func(p *parts) { p.signature = []byte{3, 2, 8, 0} }, "BIT STRING with its unused bits zero, got 0x0800", ""},
		{"signature with unused bits set", func(p *parts) { p.signature = []byte{3, 2, 1, 1} }, "BIT STRING with its unused bits zero, got 0x0101", ""},
		{"signature with unused bits", func(p *parts) { p.signature = []byte{3, 2, 1, 2} }, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := small()
			c.edit(&p)
			der := p.der()
			s, err := Scan(bytes.NewReader(der), Options{})
			_, x509Err := x509.ParseRevocationList(der)
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				if x509Err != nil {
					t.Fatalf("crypto/x509 refuses it: %v", x509Err)
				}
				compare(t, der, s)
				return
			}
			var syntax *SyntaxError
			if !errors.As(err, &syntax) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v, want %q", err, c.want)
			}
			// The citation is there whenever the place is one where crypto/x509
			// may be laxer, so it is required only where it was.
			if x509Err == nil && (c.rule == "" || syntax.Rule != c.rule) {
				t.Errorf("crypto/x509 accepts it, and the rule is %q, want %q", syntax.Rule, c.rule)
			}
			if x509Err != nil && c.rule != "" {
				t.Errorf("crypto/x509 refuses it too: %v", x509Err)
			}
		})
	}
}

func reasonEntry(value []byte) []byte {
	return tlv(0x30, tlv(0x30, serial, thisTime, tlv(0x30, tlv(0x30, []byte("\x06\x03\x55\x1d\x15"), tlv(4, value)))))
}

func listExtension(id byte, value []byte) []byte {
	return extensionsOf(tlv(0x30, []byte{6, 3, 0x55, 0x1d, id}, tlv(4, value)))
}

// TestScanLengths holds the forms of a length, on the outermost element.
func TestScanLengths(t *testing.T) {
	for input, want := range map[string]string{
		"":                             "at byte 0: expected a list in DER (beginning with 0x30) or in a PEM block X509 CRL, got no input at all",
		"\x31\x00":                     "at byte 0: expected a list in DER (beginning with 0x30) or in a PEM block X509 CRL, got neither",
		"\x30":                         "at byte 1: expected CertificateList, got the end of the input",
		"\x30\x00":                     "at byte 2: expected TBSCertList, got the end of what encloses it",
		"\x30\x80\x00\x00":             "at byte 1: expected a definite length in as few octets as possible of CertificateList, got an indefinite length",
		"\x30\x81\x7f":                 "at byte 1: expected a definite length in as few octets as possible of CertificateList, got the length 127 in 2 octets",
		"\x30\x82\x00\xff":             "at byte 1: expected a definite length in as few octets as possible of CertificateList, got the length 255 in 3 octets",
		"\x30\x85\x01\x00\x00\x00\x00": "at byte 1: expected a definite length in as few octets as possible of CertificateList, got a length of 5 octets",
		"\x30\x84\x01\x00":             "at byte 4: expected CertificateList, got the end of the input",
		"\x30\x82\x01\x00\x30\x82":     "at byte 6: expected TBSCertList, got the end of the input",
		"\x30\x03\x30\x05\x02\x01\x01": "at byte 3: expected a length of TBSCertList that ends by byte 5, got the length 5",
		"\x30\x03\x30\x81\x80":         "at byte 3: expected a length of TBSCertList that ends by byte 5, got the length 128",
		"\x30\x02\x30\x82":             "at byte 2: expected TBSCertList, got the end of what encloses it within its length",
		"\x30\x02\x1f\x01":             "at byte 2: expected TBSCertList: SEQUENCE (0x30), got tag 0x1f",
	} {
		_, err := Scan(strings.NewReader(input), Options{})
		if err == nil || err.Error() != want {
			t.Errorf("%x:\n got %v\nwant %s", input, err, want)
		}
	}
}

func TestScanCaps(t *testing.T) {
	a := p256(t)
	der := a.sign(t, listOf(100))
	size := int64(len(der))
	for _, input := range []string{string(der), pemBlock("X509 CRL", der)} {
		if _, err := Scan(strings.NewReader(input), Options{MaxBytes: size}); err != nil {
			t.Errorf("at the cap: %v", err)
		}
		if s, err := Scan(strings.NewReader(input), Options{MaxBytes: size - 1}); !errors.Is(err, ErrMaxBytes) || !errors.Is(err, ErrTooLarge) || s.Bytes != 0 {
			t.Errorf("above the cap: %v", err)
		}
	}
	endless := readerFunc(func(b []byte) (int, error) { return copy(b, "endless text\n"), nil })
	if _, err := Scan(endless, Options{MaxBytes: 1000}); !errors.Is(err, ErrMaxBytes) {
		t.Errorf("endless text: %v", err)
	}
	stuck := readerFunc(func(b []byte) (int, error) { return 0, nil })
	if _, err := Scan(stuck, Options{}); err == nil || !strings.Contains(err.Error(), "multiple Read calls return no data") {
		t.Errorf("a reader that returns nothing: %v", err)
	}

	large := small()
	large.extensions = nil
	large.issuer = issuerOf(tlv(0x0c, bytes.Repeat([]byte("x"), 60000)))
	s, err := Scan(bytes.NewReader(large.der()), Options{})
	if err != nil {
		t.Fatalf("an issuer larger than the window: %v", err)
	}
	compare(t, large.der(), s)
	long := append([]byte("\x30\x83\x50\x00\x00\x30\x83\x4f\x00\x00\x02\x01\x01"), ecdsaSHA256...)
	long = append(long, "\x30\x82\xff\xfd"...)
	if _, err := Scan(bytes.NewReader(long), Options{}); !errors.Is(err, ErrTooLarge) || errors.Is(err, ErrMaxBytes) || !strings.Contains(err.Error(), "at byte 25: issuer of 65537 bytes") {
		t.Errorf("a huge issuer: %v", err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

func TestScanPEM(t *testing.T) {
	a := p256(t)
	der := a.sign(t, listOf(20))
	block := pemBlock("X509 CRL", der)
	lines := strings.SplitAfter(block, "\n")
	body := strings.Join(lines[1:len(lines)-2], "")
	begin, end := lines[0], lines[len(lines)-2]
	oneLine := begin + strings.ReplaceAll(body, "\n", "") + "\n" + end
	ragged := begin
	for i, r := range strings.ReplaceAll(body, "\n", "") {
		ragged += string(r)
		if i%7 == 0 || i%11 == 0 {
			ragged += " \t\r\n"
		}
	}
	ragged += "\n" + end

	for name, input := range map[string]string{
		"plain":                block,
		"no newline at end":    strings.TrimSuffix(block, "\n"),
		"carriage returns":     strings.ReplaceAll(block, "\n", "\r\n"),
		"one line":             oneLine,
		"rare label":           strings.ReplaceAll(block, " X509 CRL-", " CRL-"),
		"ragged":               ragged,
		"header fields":        begin + "Comment: a list\nX-Other: b\n\n" + body + end,
		"text around":          "0 starts like DER\n" + block + "the rest\n",
		"a dash in the text":   "-----\n---- -----BEGIN X509 CRL-----\n" + block,
		"long line before":     strings.Repeat("x", 100000) + "\n" + block + strings.Repeat("y", 100000),
		"other blocks":         pemBlock("CERTIFICATE", []byte("first")) + block + pemBlock("CERTIFICATE", []byte("last")),
		"white space after it": strings.Replace(block, "-----\n", "----- \t\n", 2),
	} {
		s, err := Scan(strings.NewReader(input), Options{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if s.Bytes != int64(len(der)) || s.Format != FormatPEM || s.Verify(a.cert) != nil {
			t.Errorf("%s: %+v", name, s)
		}
	}

	cut := begin + lines[1]
	for name, c := range map[string]struct{ input, want string }{
		"no list":           {pemBlock("CERTIFICATE", []byte("x")), `in a PEM block X509 CRL, got a PEM block "CERTIFICATE"`},
		"text alone":        {"hello\n", "in a PEM block X509 CRL, got neither"},
		"two lists":         {block + block, "of the PEM input: expected one list, got a second PEM block X509 CRL"},
		"no end":            {begin + body, "of the PEM input: expected -----END X509 CRL-----, got the end of the input"},
		"another end":       {begin + body + "-----END CERTIFICATE-----\n", `of the PEM input: expected -----END X509 CRL-----, got "-----END CERTIFICATE-----"`},
		"ends mixed":        {strings.Replace(block, "END X509 CRL-", "END CRL-", 1), `expected -----END X509 CRL-----, got "-----END CRL-----"`},
		"labels mixed":      {block + strings.ReplaceAll(block, " X509 CRL-", " CRL-"), "expected one list, got a second PEM block"},
		"no base64":         {begin + "MII*\n" + end, `at byte 28 of the PEM input: expected base64, got "*"`},
		"form feed":         {strings.Replace(ragged, "\t", "\f", 1), "of the PEM input: expected base64, got 0x0c"},
		"other spaces":      {strings.Replace(ragged, "\t", "\u00a0", 1), "of the PEM input: expected base64, got 0xc2a0"},
		"short group":       {begin + "MIIBB\n" + end, "at byte 31 of the PEM input: expected base64 in groups of four characters, got 1 left over"},
		"after the padding": {begin + "MA==\nMAAA\n" + end, `at byte 30 of the PEM input: expected -----END X509 CRL----- after the padding, got "MAAA"`},
		"cut inside":        {cut + end, "in the DER of the PEM block: at byte 48: expected"},
		"more inside":       {pemBlock("X509 CRL", append(bytes.Clone(der), 0)), "in the DER of the PEM block: at byte "},
		"empty":             {begin + end, "in the DER of the PEM block: at byte 0: expected CertificateList, got the end of the input"},
	} {
		_, err := Scan(strings.NewReader(c.input), Options{})
		var syntax *SyntaxError
		if !errors.As(err, &syntax) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
