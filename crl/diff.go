package crl

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"fmt"
)

// Fate is what became of a serial number from one list to another.
type Fate uint8

// A serial number is on the new list alone, on the old one alone, or on both.
const (
	Added Fate = iota
	Removed
	Kept
)

// Difference counts the serial numbers of two lists by their fate. One that is
// on a list more than once counts once; dates and reasons are not looked at.
type Difference struct {
	Added, Removed, Kept int64
}

// SameNumber tells whether two lists that are [Comparable], and differ by d, are
// not one list although they have one CRL number: what is on them or a date
// differs. RFC 5280 section 5.2.3 has an issuer raise the number with each list,
// so clients take the second for the first.
func (d Difference) SameNumber(old, new Summary) bool {
	if old.Number == nil || new.Number == nil || old.Number.Cmp(new.Number) != 0 {
		return false
	}
	return d.Added+d.Removed > 0 || old.Entries != new.Entries || !old.ThisUpdate.Equal(new.ThisUpdate) || !old.NextUpdate.Equal(new.NextUpdate)
}

// Diff compares two lists exactly. each, unless it is nil, is called with every
// serial number, in the order in which Vault sorts them: by their octets as an
// unsigned number. The serial is the contents of an INTEGER, valid only until
// each returns; an error of each ends the comparison and is returned as it is.
// Other errors are those of the scratch space.
//
// It may be called again, for the same lists and in the same order, but not
// beside itself. No more is added to the lists afterwards.
func Diff(old, new *Serials, each func(serial []byte, fate Fate) error) (Difference, error) {
	a, err := old.read()
	if err != nil {
		return Difference{}, err
	}
	b, err := new.read()
	if err != nil {
		return Difference{}, err
	}
	var counts [3]int64
	for a.serial != nil || b.serial != nil {
		order := -1
		if a.serial == nil {
			order = 1
		} else if b.serial != nil {
			order = compareSerials(a.serial, b.serial)
		}
		fate, serial := Kept, a.serial
		switch {
		case order < 0:
			fate = Removed
		case order > 0:
			fate, serial = Added, b.serial
		}
		counts[fate]++
		if each != nil {
			if err := each(serial, fate); err != nil {
				return Difference{}, err
			}
		}
		if order <= 0 {
			if err := a.next(); err != nil {
				return Difference{}, err
			}
		}
		if order >= 0 {
			if err := b.next(); err != nil {
				return Difference{}, err
			}
		}
	}
	return Difference{Added: counts[Added], Removed: counts[Removed], Kept: counts[Kept]}, nil
}

// Comparable says why two lists are not two states of one list, so that what
// differs between them was neither revoked nor removed: other issuers or keys,
// a full list and a delta CRL, delta CRLs on other bases (RFC 5280 section
// 5.2.4), or lists about other certificates or reasons (section 5.2.5).
func Comparable(old, new Summary) error {
	switch {
	case !bytes.Equal(old.RawIssuer, new.RawIssuer):
		return fmt.Errorf("comparing CRLs: the old one was issued by %q, the new one by %q: these are different lists", old.Issuer, new.Issuer)
	case len(old.AuthorityKeyID) > 0 && len(new.AuthorityKeyID) > 0 && !bytes.Equal(old.AuthorityKeyID, new.AuthorityKeyID):
		return fmt.Errorf("comparing CRLs: the old one was signed by key %x, the new one by key %x: each key of an issuer has a list of its own", old.AuthorityKeyID, new.AuthorityKeyID)
	case old.Delta() != new.Delta():
		kind := map[bool]string{true: "a delta CRL", false: "a full one"}
		return fmt.Errorf("comparing CRLs: the old one is %s, the new one %s: give two of a kind", kind[old.Delta()], kind[new.Delta()])
	case old.Delta() && old.BaseNumber.Cmp(new.BaseNumber) != 0:
		return fmt.Errorf("comparing CRLs: the old delta CRL is on top of number %v, the new one on %v: compare the full lists", old.BaseNumber, new.BaseNumber)
	case old.scope() != new.scope():
		return fmt.Errorf("comparing CRLs: their issuing distribution points differ: these are lists about different certificates; the old one is about %s; the new one is about %s", old.IDP, new.IDP)
	case new.IDP != nil && new.IDP.IndirectCRL:
		return fmt.Errorf("comparing CRLs: they are about %s: serial numbers alone do not tell the issuers' certificates apart", new.IDP)
	}
	return nil
}

// scope is the same for lists that are about the same, and empty where there is
// no issuing distribution point. Lists of one issuer that differ in it, as shards
// do, have nothing in common. It is a key, which Tally's records hold as a hash;
// DistributionPoint.String is for people.
func (s Summary) scope() string {
	if s.IDP == nil {
		return ""
	}
	return fmt.Sprintf("%+v", *s.IDP)
}

// compareSerials orders the contents of INTEGERs by their magnitude's octets,
// from the highest on, and a short one before the longer ones that it begins: as
// Vault's storage does, whose keys are these octets in hexadecimal. It is zero
// for equal ones only.
func compareSerials(a, b []byte) int {
	if c := bytes.Compare(magnitude(a), magnitude(b)); c != 0 {
		return c
	}
	return cmp.Compare(len(a), len(b)) // 80 is -128, 0080 is 128
}

// magnitude leaves out the octet that keeps a positive number from being read
// as a negative one.
func magnitude(serial []byte) []byte {
	if len(serial) > 1 && serial[0] == 0 {
		return serial[1:]
	}
	return serial
}

// AppendSerial appends the contents of a serial number's INTEGER as Vault
// prints it: octets in lower-case hexadecimal with colons between them, 0a:ff.
// A negative number, which RFC 5280 section 4.1.2.2 allows nobody, has a minus
// sign before those of its absolute value.
func AppendSerial(dst, serial []byte) []byte {
	octets := magnitude(serial)
	if len(serial) > 0 && serial[0] >= 0x80 {
		dst = append(dst, '-')
		octets = negated(serial)
	}
	for i := range octets {
		if i > 0 {
			dst = append(dst, ':')
		}
		dst = hex.AppendEncode(dst, octets[i:i+1])
	}
	return dst
}

// negated is the absolute value of a negative number.
func negated(serial []byte) []byte {
	octets := make([]byte, len(serial))
	carry := byte(1)
	for i := len(serial) - 1; i >= 0; i-- {
		octets[i] = ^serial[i] + carry
		if octets[i] != 0 {
			carry = 0
		}
	}
	return magnitude(octets)
}
