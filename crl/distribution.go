package crl

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// DistributionPoint is the extension issuing distribution point: where a list
// is published, and which certificates and reasons it is about (RFC 5280 section
// 5.2.5). Without one, or with all fields but the names empty, it is about all
// certificates of its issuer and all reasons.
type DistributionPoint struct {
	// Names are where the list is published: URIs as they are, other names after
	// the kind that RFC 5280 section 4.2.1.6 calls them and a colon, one that is
	// relative to the issuer after "nameRelativeToCRLIssuer:". There are at most
	// 16; MoreNames counts the others. Octets that are not printable ASCII are
	// written as in a URI, %0a, but for directory names.
	Names     []string
	MoreNames int

	OnlyContainsUserCerts      bool
	OnlyContainsCACerts        bool
	OnlyContainsAttributeCerts bool

	// OnlySomeReasons are the reasons that the list is about, by the names of
	// ReasonFlags, those that RFC 5280 does not name left out; nil where it is
	// about all.
	OnlySomeReasons []string

	// IndirectCRL is set where the list has entries for certificates of other
	// issuers, so that a serial number alone says nothing.
	IndirectCRL bool
}

// String tells a person what the list is about: "CA certificates only, published
// at http://ca.example/ca.crl".
func (d *DistributionPoint) String() string {
	if d == nil {
		return "all certificates (it has no issuing distribution point)"
	}
	text := "all certificates"
	switch {
	case d.OnlyContainsUserCerts:
		text = "end entity certificates only"
	case d.OnlyContainsCACerts:
		text = "CA certificates only"
	case d.OnlyContainsAttributeCerts:
		text = "attribute certificates only"
	}
	if d.IndirectCRL {
		text += " of several issuers (an indirect CRL)"
	}
	if d.OnlySomeReasons != nil {
		text += ", revoked for " + cmp.Or(strings.Join(d.OnlySomeReasons, ", "), "no reason that has a name") + " only"
	}
	if len(d.Names) > 0 {
		text += ", published at " + strings.Join(d.Names, ", ")
	}
	if d.MoreNames > 0 {
		text += fmt.Sprintf(" and %d more places", d.MoreNames)
	}
	return text
}

// maxNames bounds DistributionPoint.Names.
const maxNames = 16

// Tags of IssuingDistributionPoint, and of DistributionPointName within the
// first.
const (
	tagPointName      = 0xa0
	tagUserCerts      = 0x81
	tagCACerts        = 0x82
	tagSomeReasons    = 0x83
	tagIndirect       = 0x84
	tagAttributeCerts = 0x85

	tagFullName     = 0xa0
	tagRelativeName = 0xa1
)

// The tags of a GeneralName.
const (
	nameOther      = 0xa0
	nameRFC822     = 0x81
	nameDNS        = 0x82
	nameX400       = 0xa3
	nameDirectory  = 0xa4
	nameEDIParty   = 0xa5
	nameURI        = 0x86
	nameIP         = 0x87
	nameRegistered = 0x88
)

// reasonFlags are the names of the bits of ReasonFlags (RFC 5280 section
// 4.2.1.13), which are not the values of CRLReason.
var reasonFlags = [...]string{
	"unused", "keyCompromise", "cACompromise", "affiliationChanged", "superseded", "cessationOfOperation",
	"certificateHold", "privilegeWithdrawn", "aACompromise",
}

// distributionPoint reads the value as IssuingDistributionPoint. crypto/x509
// does not look at it, so that every error cites a rule.
func (e extension) distributionPoint() (*DistributionPoint, error) {
	d := new(DistributionPoint)
	err := d.read(e.value)
	var syntax *SyntaxError
	if errors.As(err, &syntax) {
		syntax.Rule = ruleDistributionPoint
	}
	if err != nil {
		return nil, err
	}
	return d, nil
}

func (d *DistributionPoint) read(value cursor) error {
	c, err := value.read("issuing distribution point", tagSequence)
	if err != nil {
		return err
	}
	if c.is(tagPointName) {
		if err := d.pointName(&c); err != nil {
			return err
		}
	}
	if d.OnlyContainsUserCerts, err = c.flag("onlyContainsUserCerts", tagUserCerts); err != nil {
		return err
	}
	if d.OnlyContainsCACerts, err = c.flag("onlyContainsCACerts", tagCACerts); err != nil {
		return err
	}
	if c.is(tagSomeReasons) {
		if d.OnlySomeReasons, err = c.reasonFlags(); err != nil {
			return err
		}
	}
	if d.IndirectCRL, err = c.flag("indirectCRL", tagIndirect); err != nil {
		return err
	}
	if d.OnlyContainsAttributeCerts, err = c.flag("onlyContainsAttributeCerts", tagAttributeCerts); err != nil {
		return err
	}
	if err := c.done("the issuing distribution point"); err != nil {
		return err
	}
	return value.done("the extension's value")
}

// pointName reads the DistributionPointName.
func (d *DistributionPoint) pointName(c *cursor) error {
	point, err := c.read("distribution point", tagPointName)
	if err != nil {
		return err
	}
	if point.is(tagRelativeName) {
		set, err := point.read("name relative to the issuer", tagRelativeName)
		if err != nil {
			return err
		}
		text, err := set.rdn(nil)
		if err != nil {
			return err
		}
		d.Names = []string{"nameRelativeToCRLIssuer:" + string(text)}
		return point.done("the distribution point")
	}
	names, err := point.read("full name of the distribution point", tagFullName)
	if err != nil {
		return err
	}
	for first := true; first || !names.empty(); first = false { // at least one
		name, err := names.generalName()
		if err != nil {
			return err
		}
		if len(d.Names) < maxNames {
			d.Names = append(d.Names, name)
		} else {
			d.MoreNames++
		}
	}
	return point.done("the distribution point")
}

// generalName reads one GeneralName as text.
func (c *cursor) generalName() (string, error) {
	at := c.at
	tag, b, err := c.next("name of the distribution point")
	if err != nil {
		return "", err
	}
	switch tag {
	case nameURI, nameRFC822, nameDNS:
		text, problem := decodeString(tagIA5String, b.rest)
		if problem != "" {
			return "", &SyntaxError{Offset: b.at, Want: "name of the distribution point", Got: problem}
		}
		return map[byte]string{nameURI: "", nameRFC822: "rfc822Name:", nameDNS: "dNSName:"}[tag] + visible(text), nil
	case nameDirectory:
		fields, err := b.read("directory name", tagSequence)
		if err != nil {
			return "", err
		}
		name, err := fields.name()
		if err != nil {
			return "", err
		}
		return "directoryName:" + name, b.done("the directory name")
	case nameIP:
		ip, ok := netip.AddrFromSlice(b.rest)
		if !ok {
			return "", &SyntaxError{Offset: b.at, Want: "IP address of 4 or 16 bytes", Got: quote(b.rest)}
		}
		return "iPAddress:" + ip.String(), nil
	case nameRegistered:
		id, ok := parseOID(nil, b.rest)
		if !ok {
			return "", &SyntaxError{Offset: b.at, Want: "registered identifier", Got: quote(b.rest)}
		}
		return "registeredID:" + id.String(), nil
	case nameOther:
		return b.otherName()
	case nameX400, nameEDIParty: // what they hold is not looked at
		return map[byte]string{nameX400: "x400Address", nameEDIParty: "ediPartyName"}[tag] + ":", nil
	}
	return "", &SyntaxError{Offset: at, Want: "name of the distribution point", Got: tagName(tag)}
}

// otherName reads the contents of an OtherName, of which the text holds the
// kind alone.
func (c *cursor) otherName() (string, error) {
	id, err := c.oid("kind of the other name")
	if err != nil {
		return "", err
	}
	value, err := c.read("other name", tagExtensions) // [0] EXPLICIT too
	if err != nil {
		return "", err
	}
	if _, _, err := value.next("other name"); err != nil {
		return "", err
	}
	if err := value.done("the other name's value"); err != nil {
		return "", err
	}
	kind, _ := parseOID(nil, id.rest) // checked when it was read
	return "otherName:" + kind.String(), c.done("the other name")
}

// flag reads a BOOLEAN DEFAULT FALSE of another tag: DER leaves out what is
// FALSE (X.690 section 11.5).
func (c *cursor) flag(what string, tag byte) (bool, error) {
	if !c.is(tag) {
		return false, nil
	}
	contents, err := c.read(what, tag)
	if err != nil {
		return false, err
	}
	if len(contents.rest) != 1 || contents.rest[0] != 0xff {
		return false, &SyntaxError{Offset: contents.at, Want: what + ": BOOLEAN 0xff, or nothing", Got: quote(contents.rest)}
	}
	return true, nil
}

// reasonFlags reads onlySomeReasons: a BIT STRING that ends with a bit that is
// set (X.690 section 11.2.2).
func (c *cursor) reasonFlags() ([]string, error) {
	bits, err := c.read("onlySomeReasons", tagSomeReasons)
	if err != nil {
		return nil, err
	}
	b := bits.rest
	empty := len(b) == 1 && b[0] == 0
	if !empty && (len(b) < 2 || b[0] > 7 || b[len(b)-1]&(1<<(b[0]+1)-1) != 1<<b[0]) {
		return nil, &SyntaxError{Offset: bits.at, Want: "onlySomeReasons: BIT STRING that ends with a bit set", Got: quote(b)}
	}
	reasons := []string{}
	for i, name := range reasonFlags {
		if octet := 1 + i/8; octet < len(b) && b[octet]>>(7-i%8)&1 == 1 {
			reasons = append(reasons, name)
		}
	}
	return reasons, nil
}

// visible is text with what is not printable ASCII written as in a URI.
func visible(text []byte) string {
	for _, o := range text {
		if o < ' ' || o > '~' {
			var b []byte
			for _, o := range text {
				if o < ' ' || o > '~' {
					b = fmt.Appendf(b, "%%%02x", o)
				} else {
					b = append(b, o)
				}
			}
			return string(b)
		}
	}
	return string(text)
}
