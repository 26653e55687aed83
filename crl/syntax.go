package crl

import (
	"errors"
	"fmt"
)

// ErrTooLarge is returned by Scan for a list, or an element in it, that is
// longer than what Scan accepts. Nothing was cut: there is no summary.
var ErrTooLarge = errors.New("too large")

// ErrMaxBytes is the ErrTooLarge, which it wraps, of a list that a larger
// Options.MaxBytes accepts.
var ErrMaxBytes error = maxBytesError{}

type maxBytesError struct{}

func (maxBytesError) Error() string { return ErrTooLarge.Error() }
func (maxBytesError) Unwrap() error { return ErrTooLarge }

// SyntaxError says where a list is not what RFC 5280 and DER ask for.
type SyntaxError struct {
	// Offset is the octet, counted from 0, at which the expectation failed: of
	// the DER list or, where PEM is set, of the PEM input around it.
	Offset int64
	PEM    bool
	Want   string
	Got    string

	// Rule is the sentence that the list breaks where crypto/x509 would have
	// accepted it, "" elsewhere.
	Rule string
}

func (e *SyntaxError) Error() string {
	of := ""
	if e.PEM {
		of = " of the PEM input"
	}
	s := fmt.Sprintf("at byte %d%s: expected %s, got %s", e.Offset, of, e.Want, e.Got)
	if e.Rule != "" {
		s += " (" + e.Rule + ")"
	}
	return s
}

// The rules in which Scan is stricter than crypto/x509.ParseRevocationList.
const (
	ruleOneList      = "RFC 5280 section 5.1: a CRL is one CertificateList, with nothing after it"
	ruleNoTrailing   = "RFC 5280 section 5.1: the ASN.1 definition has no further fields here"
	ruleUTCTime      = "RFC 5280 section 4.1.2.5.1: UTCTime MUST be expressed in Greenwich Mean Time and MUST include seconds"
	ruleGeneralized  = "RFC 5280 section 4.1.2.5.2: GeneralizedTime MUST be expressed in Greenwich Mean Time and MUST include seconds"
	ruleDeltaCRLBase = "RFC 5280 section 5.2.4: the delta CRL indicator holds a BaseCRLNumber"

	ruleDistributionPoint = "RFC 5280 section 5.2.5: the extension holds an IssuingDistributionPoint; section 5.1: what is signed is ASN.1 DER encoded"
)

// ASN.1 tags (X.690 section 8.1.2) of what a list is made of.
const (
	tagBoolean         = 0x01
	tagInteger         = 0x02
	tagBitString       = 0x03
	tagOctetString     = 0x04
	tagOID             = 0x06
	tagEnumerated      = 0x0a
	tagUTF8String      = 0x0c
	tagNumericString   = 0x12
	tagPrintableString = 0x13
	tagT61String       = 0x14
	tagIA5String       = 0x16
	tagUTCTime         = 0x17
	tagGeneralizedTime = 0x18
	tagBMPString       = 0x1e
	tagSequence        = 0x30
	tagSet             = 0x31
	tagKeyID           = 0x80 // [0] IMPLICIT in AuthorityKeyIdentifier
	tagExtensions      = 0xa0 // [0] EXPLICIT in TBSCertList
)

var tagNames = map[byte]string{
	tagBoolean: "BOOLEAN", tagInteger: "INTEGER", tagBitString: "BIT STRING", tagOctetString: "OCTET STRING",
	0x05: "NULL", tagOID: "OBJECT IDENTIFIER", tagEnumerated: "ENUMERATED", tagUTF8String: "UTF8String",
	tagNumericString: "NumericString", tagPrintableString: "PrintableString", tagT61String: "T61String",
	tagIA5String: "IA5String", tagUTCTime: "UTCTime", tagGeneralizedTime: "GeneralizedTime",
	tagBMPString: "BMPString", tagSequence: "SEQUENCE", tagSet: "SET", tagKeyID: "[0]", tagExtensions: "[0]",
}

// tagName is the tag in words, with its octet.
func tagName(tag byte) string {
	if name := tagNames[tag]; name != "" {
		return fmt.Sprintf("%s (0x%02x)", name, tag)
	}
	return fmt.Sprintf("tag 0x%02x", tag)
}

// header is the identifier and length octets of an element.
type header struct {
	tag    byte
	octets int   // of the header itself
	length int64 // of the contents
}

// maxHeader is the length of the longest header that parseHeader accepts.
const maxHeader = 6

// parseHeader reads the header that b begins with. Tags are single octets,
// lengths definite and minimal (X.690 sections 8.1.2, 8.1.3 and 10.1) and at
// most four octets long. It returns what it got instead, with the index of the
// octet, or missing when b ends within the header.
func parseHeader(b []byte) (h header, at int, got string, missing bool) {
	if len(b) < 2 {
		return h, 0, "", true
	}
	h.tag, h.octets, h.length = b[0], 2, int64(b[1])
	if h.tag&0x1f == 0x1f {
		return h, 0, fmt.Sprintf("a tag of several octets (0x%02x)", h.tag), false
	}
	if b[1] < 0x80 {
		return h, 0, "", false
	}
	n := int(b[1] & 0x7f)
	switch {
	case n == 0:
		return h, 1, "an indefinite length", false
	case n > 4:
		return h, 1, fmt.Sprintf("a length of %d octets", n), false
	case len(b) < 2+n:
		return h, 0, "", true
	}
	h.octets, h.length = 2+n, 0
	for _, octet := range b[2 : 2+n] {
		h.length = h.length<<8 | int64(octet)
	}
	if h.length < 0x80 || b[2] == 0 {
		return h, 1, fmt.Sprintf("the length %d in %d octets", h.length, n+1), false
	}
	return h, 0, "", false
}

const wantLength = "a definite length in as few octets as possible"

// cursor reads the elements of contents that are in memory.
type cursor struct {
	rest []byte
	at   int64 // offset of rest in the list
}

func (c *cursor) empty() bool { return len(c.rest) == 0 }

// is tells whether the next element has the given tag.
func (c *cursor) is(tag byte) bool { return !c.empty() && c.rest[0] == tag }

// next reads one element of any tag.
func (c *cursor) next(what string) (tag byte, contents cursor, err error) {
	h, at, got, missing := parseHeader(c.rest)
	switch {
	case c.empty():
		return 0, cursor{}, &SyntaxError{Offset: c.at, Want: what, Got: "the end of what encloses it"}
	case got != "" && at == 0:
		return 0, cursor{}, &SyntaxError{Offset: c.at, Want: what, Got: got}
	case got != "":
		return 0, cursor{}, &SyntaxError{Offset: c.at + int64(at), Want: wantLength + " of " + what, Got: got}
	case missing:
		return 0, cursor{}, &SyntaxError{Offset: c.at, Want: what, Got: "the end of what encloses it within its length"}
	}
	end := int64(h.octets) + h.length
	if end > int64(len(c.rest)) {
		return 0, cursor{}, tooLong(c.at+1, what, h.length, c.at+int64(len(c.rest)))
	}
	contents = cursor{rest: c.rest[h.octets:end:end], at: c.at + int64(h.octets)}
	c.rest, c.at = c.rest[end:], c.at+end
	return h.tag, contents, nil
}

// read reads one element of the given tag.
func (c *cursor) read(what string, tag byte) (cursor, error) {
	if !c.empty() && c.rest[0] != tag {
		return cursor{}, wrongTag(c.at, what, tag, c.rest[0])
	}
	_, contents, err := c.next(what)
	return contents, err
}

// done is an error unless everything has been read.
func (c *cursor) done(what string) error {
	if c.empty() {
		return nil
	}
	return trailing(c.at, what, int64(len(c.rest)))
}

func wrongTag(at int64, what string, want, got byte) error {
	return &SyntaxError{Offset: at, Want: fmt.Sprintf("%s: %s", what, tagName(want)), Got: tagName(got)}
}

func tooLong(at int64, what string, length, end int64) error {
	return &SyntaxError{
		Offset: at,
		Want:   fmt.Sprintf("a length of %s that ends by byte %d", what, end),
		Got:    fmt.Sprintf("the length %d", length),
	}
}

func trailing(at int64, what string, octets int64) error {
	return &SyntaxError{Offset: at, Want: "the end of " + what, Got: fmt.Sprintf("%d more bytes", octets), Rule: ruleNoTrailing}
}

// integer checks the contents of an INTEGER or ENUMERATED: at least one octet
// and as few as possible (X.690 section 8.3).
func (c cursor) integer(what string) error {
	switch b := c.rest; {
	case len(b) == 0:
		return &SyntaxError{Offset: c.at, Want: what + " of at least one byte", Got: "none"}
	case len(b) > 1 && (b[0] == 0 && b[1] < 0x80 || b[0] == 0xff && b[1] >= 0x80):
		return &SyntaxError{Offset: c.at, Want: what + " in as few bytes as possible", Got: fmt.Sprintf("a needless 0x%02x", b[0])}
	}
	return nil
}
