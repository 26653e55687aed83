package k8scsr

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// The tags of GeneralName (RFC 5280 section 4.2.1.6).
const (
	tagEmail = 1
	tagDNS   = 2
	tagURI   = 6
	tagIP    = 7
)

var (
	oidSubjectAltName   = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidExtensionRequest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 14}
)

// altNames encodes the Spec's names as a SubjectAltName value. The order is
// fixed, so that two encodings of the same names are equal octet for octet.
func (s Spec) altNames() ([]byte, error) {
	var names []asn1.RawValue
	add := func(tag int, value []byte) {
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, Bytes: value})
	}
	for _, name := range s.DNSNames {
		add(tagDNS, []byte(name))
	}
	for _, ip := range s.IPAddresses {
		add(tagIP, ip.AsSlice())
	}
	for _, uri := range s.URIs {
		add(tagURI, []byte(uri))
	}
	if len(names) == 0 {
		return nil, nil
	}
	return asn1.Marshal(names)
}

// wantedNames are the Spec's names in the notation of generalNames.
func (s Spec) wantedNames() []string {
	var out []string
	for _, name := range s.DNSNames {
		out = append(out, "DNS name "+name)
	}
	for _, ip := range s.IPAddresses {
		out = append(out, "IP address "+ip.String())
	}
	for _, uri := range s.URIs {
		out = append(out, "URI "+uri)
	}
	return sorted(out)
}

// generalNames reads every name of a SubjectAltName value, those of kinds that
// crypto/x509 passes over included: a name that is not seen cannot be refused.
func generalNames(der []byte) ([]string, error) {
	var names []asn1.RawValue
	rest, err := asn1.Unmarshal(der, &names)
	if err != nil {
		return nil, fmt.Errorf("parsing SubjectAltName: %w", err)
	}
	if len(rest) > 0 {
		return nil, errors.New("parsing SubjectAltName: octets follow its end")
	}
	var out []string
	for _, name := range names {
		switch {
		case name.Class != asn1.ClassContextSpecific:
			return nil, fmt.Errorf("parsing SubjectAltName: a name of class %d", name.Class)
		case name.Tag == tagDNS:
			out = append(out, "DNS name "+strings.ToLower(string(name.Bytes)))
		case name.Tag == tagIP:
			ip, ok := netip.AddrFromSlice(name.Bytes)
			if !ok {
				return nil, fmt.Errorf("parsing SubjectAltName: an IP address of %d octets", len(name.Bytes))
			}
			out = append(out, "IP address "+ip.Unmap().String())
		case name.Tag == tagURI:
			out = append(out, "URI "+string(name.Bytes))
		case name.Tag == tagEmail:
			out = append(out, "e-mail address "+string(name.Bytes))
		default:
			out = append(out, fmt.Sprintf("name of kind %d", name.Tag))
		}
	}
	return sorted(out), nil
}

// Changed lists, in words, what a certificate has otherwise than the Spec wants
// it: subject, names, usages, key type, and the signer where it was recorded
// (recordedSigner is "" for a certificate that was not written by us). Empty
// means that it is what is wanted. Lifetime is left out: it is settled at the
// next renewal.
//
// Validate refuses exactly what Changed would report, so that a certificate
// that was just published is never renewed for the same reason.
func (s Spec) Changed(leaf *x509.Certificate, recordedSigner string) []string {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }

	if leaf.Subject.CommonName != s.CommonName {
		add("common name is %q, not %q", leaf.Subject.CommonName, s.CommonName)
	}
	if !slices.Equal(sorted(leaf.Subject.Organization), s.Organizations) {
		add("organizations are %q, not %q", leaf.Subject.Organization, s.Organizations)
	}
	out = append(out, s.changedNames(leaf)...)
	if have := KeyOf(leaf.PublicKey); have != s.Key {
		add("key is %v, not %v", have, s.Key)
	}
	out = append(out, s.changedUsages(leaf)...)
	if recordedSigner != "" && recordedSigner != s.Signer {
		add("signer was %s, not %s", recordedSigner, s.Signer)
	}
	return out
}

func (s Spec) changedNames(leaf *x509.Certificate) []string {
	have, err := alternativeNames(leaf)
	if err != nil {
		return []string{err.Error()}
	}
	return difference(have, s.wantedNames())
}

// namesOf are the names of a leaf in the notation of generalNames; those of an
// extension that does not parse are none.
func namesOf(leaf *x509.Certificate) []string {
	names, _ := alternativeNames(leaf)
	return names
}

func alternativeNames(leaf *x509.Certificate) (names []string, err error) {
	for _, ext := range leaf.Extensions {
		if ext.Id.Equal(oidSubjectAltName) {
			if names, err = generalNames(ext.Value); err != nil {
				return nil, err
			}
		}
	}
	return names, nil
}

// difference compares two sorted lists of names.
func difference(have, want []string) []string {
	var out []string
	for _, name := range want {
		if _, found := slices.BinarySearch(have, name); !found {
			out = append(out, name+" is missing")
		}
	}
	for _, name := range have {
		if _, found := slices.BinarySearch(want, name); !found {
			out = append(out, name+" is not wanted")
		}
	}
	return out
}

// changedUsages wants the extended usages exactly. Key usages may be more than
// was asked for, since signers derive them from the key, but never a CA's.
func (s Spec) changedUsages(leaf *x509.Certificate) []string {
	var out []string
	key, ext := s.wantedUsages()
	if leaf.KeyUsage&key != key {
		out = append(out, fmt.Sprintf("key usages lack some of %q", s.Usages))
	}
	if leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		out = append(out, "it is a CA's certificate")
	}
	have := slices.Clone(leaf.ExtKeyUsage)
	slices.Sort(have)
	if !slices.Equal(slices.Compact(have), ext) || len(leaf.UnknownExtKeyUsage) > 0 {
		out = append(out, fmt.Sprintf("extended key usages are not exactly those of %q", s.Usages))
	}
	return out
}
