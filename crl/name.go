package crl

import (
	"encoding/asn1"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// attributeNames are the attribute types that pkix.RDNSequence prints by name,
// by the contents of their object identifier.
var attributeNames = map[string]string{
	"\x55\x04\x03": "CN", "\x55\x04\x05": "SERIALNUMBER", "\x55\x04\x06": "C", "\x55\x04\x07": "L", "\x55\x04\x08": "ST",
	"\x55\x04\x09": "STREET", "\x55\x04\x0a": "O", "\x55\x04\x0b": "OU", "\x55\x04\x11": "POSTALCODE",
}

// name reads the contents of a Name, a SEQUENCE of RDNs (RFC 5280 section
// 4.1.2.4), and prints it as pkix.RDNSequence does: the last RDN first.
func (c *cursor) name() (string, error) {
	var room [256]byte
	var places [16]int
	rdns, ends := room[:0], places[:0]
	for !c.empty() {
		set, err := c.read("relative distinguished name", tagSet)
		if err != nil {
			return "", err
		}
		if rdns, err = set.rdn(rdns); err != nil {
			return "", err
		}
		ends = append(ends, len(rdns))
	}
	var name strings.Builder
	name.Grow(len(rdns) + len(ends))
	for i := len(ends) - 1; i > 0; i-- {
		name.Write(rdns[ends[i-1]:ends[i]])
		name.WriteByte(',')
	}
	if len(ends) > 0 {
		name.Write(rdns[:ends[0]])
	}
	return name.String(), nil
}

// rdn reads the contents of a RelativeDistinguishedName and appends its text.
func (c *cursor) rdn(text []byte) ([]byte, error) {
	for first := true; !c.empty(); first = false {
		if !first {
			text = append(text, '+')
		}
		var err error
		if text, err = c.attribute(text); err != nil {
			return nil, err
		}
	}
	return text, nil
}

// attribute reads one AttributeTypeAndValue and appends its text to rdn.
func (c *cursor) attribute(rdn []byte) ([]byte, error) {
	pair, err := c.read("attribute of a name", tagSequence)
	if err != nil {
		return nil, err
	}
	id, err := pair.oid("attribute type")
	if err != nil {
		return nil, err
	}
	at := pair.at
	tag, value, err := pair.next("attribute value")
	if err != nil {
		return nil, err
	}
	text, problem := decodeString(tag, value.rest)
	if problem != "" {
		return nil, &SyntaxError{Offset: at, Want: "attribute value", Got: problem}
	}
	if err := pair.done("the attribute"); err != nil {
		return nil, err
	}
	if known, ok := attributeNames[string(id.rest)]; ok {
		rdn = append(append(rdn, known...), '=')
		return appendEscaped(rdn, text), nil
	}
	components, _ := parseOID(nil, id.rest)
	der, err := asn1.Marshal(string(text))
	if err != nil {
		return nil, fmt.Errorf("printing attribute %v of a name: %w", components, err)
	}
	return fmt.Appendf(rdn, "%v=#%x", components, der), nil
}

// appendEscaped appends the text as RFC 2253 section 2.4 escapes it.
func appendEscaped(rdn, text []byte) []byte {
	for i, o := range text {
		special := false
		switch o {
		case ',', '+', '"', '\\', '<', '>', ';':
			special = true
		case ' ':
			special = i == 0 || i == len(text)-1
		case '#':
			special = i == 0
		}
		if special {
			rdn = append(rdn, '\\')
		}
		rdn = append(rdn, o)
	}
	return rdn
}

// decodeString decodes the string types that crypto/x509 knows, with the same
// leniency: * and & in a PrintableString, Latin-1 as T61String, the Basic
// Multilingual Plane alone as BMPString.
func decodeString(tag byte, b []byte) (text []byte, problem string) {
	switch tag {
	case tagUTF8String:
		if !utf8.Valid(b) {
			return nil, "invalid UTF-8 in a UTF8String"
		}
	case tagPrintableString:
		return checked(b, "PrintableString", isPrintable)
	case tagIA5String:
		return checked(b, "IA5String", func(o byte) bool { return o < utf8.RuneSelf })
	case tagNumericString:
		return checked(b, "NumericString", func(o byte) bool { return '0' <= o && o <= '9' || o == ' ' })
	case tagT61String:
		for _, o := range b {
			text = utf8.AppendRune(text, rune(o))
		}
		return text, ""
	case tagBMPString:
		return decodeBMP(b)
	default:
		return nil, "a value that is no string: " + tagName(tag)
	}
	return b, ""
}

func checked(b []byte, kind string, allowed func(byte) bool) (text []byte, problem string) {
	for _, o := range b {
		if !allowed(o) {
			return nil, fmt.Sprintf("0x%02x in a %s", o, kind)
		}
	}
	return b, ""
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

func decodeBMP(b []byte) (text []byte, problem string) {
	if len(b)%2 != 0 {
		return nil, "a BMPString of an odd number of bytes"
	}
	if n := len(b); n >= 2 && b[n-2] == 0 && b[n-1] == 0 {
		b = b[:n-2] // some writers end it with NUL
	}
	for ; len(b) > 0; b = b[2:] {
		p := rune(b[0])<<8 | rune(b[1])
		if p >= 0xfffe || p >= 0xfdd0 && p <= 0xfdef || p >= 0xd800 && p <= 0xdfff {
			return nil, fmt.Sprintf("U+%04X in a BMPString", p)
		}
		text = utf8.AppendRune(text, p)
	}
	return text, ""
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

// oidText prints an object identifier that oid has checked. One that is longer
// than any in use is cut.
func oidText(b []byte) string {
	const most = 64
	if len(b) <= most {
		id, _ := parseOID(nil, b)
		return id.String()
	}
	end := most
	for b[end-1] >= 0x80 { // not within a component, of at most five octets
		end--
	}
	id, _ := parseOID(nil, b[:end])
	return id.String() + ".…"
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
