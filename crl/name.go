package crl

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// name reads the contents of a Name: a SEQUENCE of RDNs (RFC 5280 section
// 4.1.2.4).
func (c *cursor) name() (pkix.RDNSequence, error) {
	var rdns pkix.RDNSequence
	for !c.empty() {
		set, err := c.read("relative distinguished name", tagSet)
		if err != nil {
			return nil, err
		}
		var rdn pkix.RelativeDistinguishedNameSET
		for !set.empty() {
			attribute, err := set.attribute()
			if err != nil {
				return nil, err
			}
			rdn = append(rdn, attribute)
		}
		rdns = append(rdns, rdn)
	}
	return rdns, nil
}

func (c *cursor) attribute() (pkix.AttributeTypeAndValue, error) {
	var a pkix.AttributeTypeAndValue
	pair, err := c.read("attribute of the issuer", tagSequence)
	if err != nil {
		return a, err
	}
	id, err := pair.oid("attribute type")
	if err != nil {
		return a, err
	}
	a.Type, _ = parseOID(nil, id.rest)
	at := pair.at
	tag, value, err := pair.next("attribute value")
	if err != nil {
		return a, err
	}
	text, problem := decodeString(tag, value.rest)
	if problem != "" {
		return a, &SyntaxError{Offset: at, Want: "attribute value", Got: problem}
	}
	a.Value = text
	return a, pair.done("the attribute")
}

// decodeString decodes the string types that crypto/x509 knows, with the same
// leniency: * and & in a PrintableString, Latin-1 as T61String, the Basic
// Multilingual Plane alone as BMPString.
func decodeString(tag byte, b []byte) (text, problem string) {
	switch tag {
	case tagUTF8String:
		if !utf8.Valid(b) {
			return "", "invalid UTF-8 in a UTF8String"
		}
	case tagPrintableString:
		return checked(b, "PrintableString", isPrintable)
	case tagIA5String:
		return checked(b, "IA5String", func(o byte) bool { return o < utf8.RuneSelf })
	case tagNumericString:
		return checked(b, "NumericString", func(o byte) bool { return '0' <= o && o <= '9' || o == ' ' })
	case tagT61String:
		runes := make([]rune, len(b))
		for i, o := range b {
			runes[i] = rune(o)
		}
		return string(runes), ""
	case tagBMPString:
		return decodeBMP(b)
	default:
		return "", "a value that is no string: " + tagName(tag)
	}
	return string(b), ""
}

func checked(b []byte, kind string, allowed func(byte) bool) (text, problem string) {
	for _, o := range b {
		if !allowed(o) {
			return "", fmt.Sprintf("0x%02x in a %s", o, kind)
		}
	}
	return string(b), ""
}

func isPrintable(o byte) bool {
	switch {
	case 'a' <= o && o <= 'z', 'A' <= o && o <= 'Z', '0' <= o && o <= '9', '\'' <= o && o <= ')', '+' <= o && o <= '/':
		return true
	}
	switch o {
	case ' ', ':', '=', '?', '*', '&':
		return true
	}
	return false
}

func decodeBMP(b []byte) (text, problem string) {
	if len(b)%2 != 0 {
		return "", "a BMPString of an odd number of bytes"
	}
	if n := len(b); n >= 2 && b[n-2] == 0 && b[n-1] == 0 {
		b = b[:n-2] // some writers end it with NUL
	}
	points := make([]uint16, 0, len(b)/2)
	for ; len(b) > 0; b = b[2:] {
		p := uint16(b[0])<<8 | uint16(b[1])
		if p >= 0xfffe || p >= 0xfdd0 && p <= 0xfdef || p >= 0xd800 && p <= 0xdfff {
			return "", fmt.Sprintf("U+%04X in a BMPString", p)
		}
		points = append(points, p)
	}
	return string(utf16.Decode(points)), ""
}

// oid reads an OBJECT IDENTIFIER and returns its contents, checked.
func (c *cursor) oid(what string) (cursor, error) {
	contents, err := c.read(what, tagOID)
	if err != nil {
		return cursor{}, err
	}
	var room [16]int
	if _, ok := parseOID(room[:0], contents.rest); !ok {
		return cursor{}, &SyntaxError{Offset: contents.at, Want: what + ": OBJECT IDENTIFIER", Got: quote(contents.rest)}
	}
	return contents, nil
}

// parseOID appends the components of an object identifier, of at least one
// octet and each below 2^31, to id (X.690 section 8.19).
func parseOID(id asn1.ObjectIdentifier, b []byte) (asn1.ObjectIdentifier, bool) {
	for first := true; first || len(b) > 0; first = false {
		n, octets := 0, 0
		for more := true; more; octets++ {
			if octets == len(b) || octets == 5 || n >= 1<<24 || octets == 0 && b[0] == 0x80 {
				return nil, false
			}
			n = n<<7 | int(b[octets]&0x7f)
			more = b[octets] >= 0x80
		}
		b = b[octets:]
		if first { // the first two components share a number
			top := min(n/40, 2)
			id = append(id, top)
			n -= 40 * top
		}
		id = append(id, n)
	}
	return id, true
}

// quote shows octets in an error: printable ones as a string, others in
// hexadecimal, and no more than 32 of them.
func quote(b []byte) string {
	const most = 32
	more := ""
	if len(b) > most {
		b, more = b[:most], "…"
	}
	for _, o := range b {
		if o < ' ' || o > '~' {
			return fmt.Sprintf("0x%x%s", b, more)
		}
	}
	return strconv.Quote(string(b)) + more
}
