package crl

import (
	"bytes"
	"fmt"
	"math/big"
	"slices"
)

// extension is one Extension (RFC 5280 section 4.1). Its value stays valid as
// long as what it was read from.
type extension struct {
	id       []byte // contents of the object identifier
	critical bool
	value    cursor // contents of the OCTET STRING
}

// Object identifiers below 2.5.29 (id-ce), as contents octets.
const (
	idCRLNumber      = "\x55\x1d\x14"
	idReasonCode     = "\x55\x1d\x15"
	idDeltaCRL       = "\x55\x1d\x1b"
	idIDP            = "\x55\x1d\x1c"
	idAuthorityKeyID = "\x55\x1d\x23"
)

const (
	// maxListed bounds Summary.UnhandledCritical and Summary.RepeatedExtensions.
	maxListed = 16
	// maxCompared is how many different extensions, and maxComparedID how long
	// identifiers, are remembered to find one that is there again.
	maxCompared   = 16
	maxComparedID = 32
)

// extension reads the contents of one Extension.
func (c *cursor) extension() (extension, error) {
	var e extension
	id, err := c.oid("extension identifier")
	if err != nil {
		return e, err
	}
	e.id = id.rest
	if !c.empty() && c.rest[0] == tagBoolean {
		critical, err := c.read("critical", tagBoolean)
		if err != nil {
			return e, err
		}
		if len(critical.rest) != 1 || critical.rest[0] != 0 && critical.rest[0] != 0xff {
			return e, &SyntaxError{Offset: critical.at, Want: "critical: BOOLEAN 0x00 or 0xff", Got: quote(critical.rest)}
		}
		e.critical = critical.rest[0] == 0xff
	}
	if e.value, err = c.read("extension value", tagOctetString); err != nil {
		return e, err
	}
	return e, c.done("the extension")
}

// listExtension takes one of the list's own extensions in.
func (s *Summary) listExtension(e extension) error {
	switch string(e.id) {
	case idAuthorityKeyID:
		return s.authorityKeyID(e)
	case idCRLNumber:
		number, err := e.number("CRL number", "")
		s.Number = number
		return err
	case idDeltaCRL:
		number, err := e.number("base CRL number", ruleDeltaCRLBase)
		s.BaseNumber = number
		return err
	case idIDP:
		point, err := e.distributionPoint()
		s.IDP = point
		return err
	}
	s.unhandled(e)
	return nil
}

// authorityKeyID reads the keyIdentifier of RFC 5280 section 4.2.1.1.
func (s *Summary) authorityKeyID(e extension) error {
	if e.critical {
		return &SyntaxError{Offset: e.value.at, Want: "authority key identifier marked as not critical", Got: "critical"}
	}
	fields, err := e.value.read("authority key identifier", tagSequence)
	if err != nil {
		return err
	}
	s.AuthorityKeyID = nil
	if !fields.empty() && fields.rest[0] == tagKeyID {
		id, err := fields.read("key identifier", tagKeyID)
		if err != nil {
			return err
		}
		s.AuthorityKeyID = s.keep(id.rest)
	}
	return e.value.done("the authority key identifier")
}

// number reads the value as one INTEGER. rule is what a malformed one breaks
// where crypto/x509 does not look.
func (e extension) number(what, rule string) (*big.Int, error) {
	contents, err := e.value.read(what, tagInteger)
	if err == nil {
		err = contents.integer(what)
	}
	if err != nil {
		if syntax, ok := err.(*SyntaxError); ok {
			syntax.Rule = rule
		}
		return nil, err
	}
	n := new(big.Int).SetBytes(contents.rest)
	if contents.rest[0] >= 0x80 { // two's complement
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(contents.rest))))
	}
	return n, e.value.done("the " + what)
}

// unhandled notes a critical extension that is not interpreted.
func (s *Summary) unhandled(e extension) {
	if e.critical {
		s.UnhandledCritical = listed(s.UnhandledCritical, e.id)
	}
}

// repeated tells whether an extension is among the identifiers of those ahead of
// it, and notes it.
func (s *Summary) repeated(ahead [][]byte, e extension) bool {
	for _, id := range ahead {
		if bytes.Equal(id, e.id) {
			s.RepeatedExtensions = listed(s.RepeatedExtensions, e.id)
			return true
		}
	}
	return false
}

// listed is the list with one more identifier, unless it is there already or
// there is no room.
func listed(list []string, id []byte) []string {
	if len(list) == maxListed {
		return list
	}
	if text := oidText(id); !slices.Contains(list, text) {
		list = append(list, text)
	}
	return list
}

// reasonNames are the CRLReasons of RFC 5280 section 5.3.1 by value; 7 is not
// used.
var reasonNames = [...]string{
	"unspecified", "keyCompromise", "cACompromise", "affiliationChanged", "superseded", "cessationOfOperation",
	"certificateHold", "", "removeFromCRL", "privilegeWithdrawn", "aACompromise",
}

// reasonCode reads the value as CRLReason. Values that RFC 5280 does not name
// are returned as they are.
func (e extension) reasonCode() (int64, error) {
	contents, err := e.value.read("reason code", tagEnumerated)
	if err == nil {
		err = contents.integer("reason code")
	}
	if err != nil {
		return 0, err
	}
	if len(contents.rest) > 8 {
		return 0, &SyntaxError{Offset: contents.at, Want: "reason code of at most 8 bytes", Got: fmt.Sprintf("%d bytes", len(contents.rest))}
	}
	var code int64
	if contents.rest[0] >= 0x80 {
		code = -1
	}
	for _, o := range contents.rest {
		code = code<<8 | int64(o)
	}
	return code, e.value.done("the reason code")
}
