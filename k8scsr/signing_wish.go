package k8scsr

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

var (
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidExtKeyUsage      = asn1.ObjectIdentifier{2, 5, 29, 37}
)

// wish is what somebody wants in a certificate, taken apart.
type wish struct {
	commonName   string
	otherSubject []string // in words
	dnsNames     []string
	ips          []netip.Addr
	otherNames   []string // of other kinds, in words
	namesFollow  bool     // more names come later
	usages       []string // as the API names them
	key          crypto.PublicKey
}

// refusal is the first of refusals.
func (p SigningPolicy) refusal(w wish) *SigningRefusal {
	if all := p.refusals(w); len(all) > 0 {
		return all[0]
	}
	return nil
}

// refusals are all reasons against the wish, but for its key.
func (p SigningPolicy) refusals(w wish) []*SigningRefusal {
	var out []*SigningRefusal
	add := func(reason SigningReason, format string, args ...any) {
		out = append(out, refuseToSign(reason, format, args...))
	}
	for _, other := range w.otherSubject {
		add(BadSubject, "its subject has %s, and may have a common name alone", other)
	}
	if w.commonName != "" && !p.allowsDNS(w.commonName) {
		add(BadSubject, "its common name %q is not among the DNS names that the signer allows", w.commonName)
	}
	for _, name := range w.dnsNames {
		if !p.allowsDNS(name) {
			add(BadName, "the DNS name %q is not among those that the signer allows", name)
		}
	}
	for _, ip := range w.ips {
		if !p.allowsIP(ip) {
			add(BadName, "the IP address %v is not among those that the signer allows", ip)
		}
	}
	for _, other := range w.otherNames {
		add(BadName, "it has the %s, and the signer allows DNS names and IP addresses only", other)
	}
	if len(w.dnsNames)+len(w.ips) == 0 && !w.namesFollow {
		add(BadName, "it has no DNS name and no IP address")
	}
	for _, name := range w.usages {
		if _, known := usages[name]; !known || !slices.Contains(p.Usages, name) {
			add(BadUsage, "the usage %q is not among those that the signer gives, %q", name, p.Usages)
		}
	}
	if problem := unlimitedUse(w.usages); problem != "" {
		add(BadUsage, "its usages %q are not enough: %s", w.usages, problem)
	}
	return out
}

// unlimitedUse says where usages would leave an extension out: a certificate
// without keyUsage, or without extKeyUsage, is good for every use of that kind
// (RFC 5280 sections 4.2.1.3 and 4.2.1.12), which is more than any list.
func unlimitedUse(names []string) string {
	var key, ext bool
	for _, name := range names {
		u, known := usages[name]
		key, ext = key || known && u.key != 0, ext || known && u.key == 0
	}
	switch {
	case !key:
		return `one such as "digital signature" is needed, since a certificate without key usage is good for every one`
	case !ext:
		return `"server auth" or "client auth" is needed, since a certificate without either is good for every purpose`
	}
	return ""
}

// allowsDNS: names are compared as they are, in lower case.
func (p SigningPolicy) allowsDNS(name string) bool {
	if checkDNSName(name) != nil {
		return false
	}
	if slices.Contains(p.DNSNames, name) {
		return true
	}
	label, suffix, _ := strings.Cut(name, ".")
	return label != "*" && suffix != "" && slices.Contains(p.DNSNames, "*."+suffix)
}

func (p SigningPolicy) allowsIP(ip netip.Addr) bool {
	return ip.IsValid() && ip.Zone() == "" && slices.ContainsFunc(p.IPAddresses, func(prefix netip.Prefix) bool { return prefix.Contains(ip.Unmap()) })
}

// readWish takes a request apart. What is expensive comes after what bounds it.
func readWish(r Request) (wish, *SigningRefusal) {
	csr, refusal := readRequest(r.PEM)
	if refusal != nil {
		return wish{}, refusal
	}
	if refusal := refuseKey(csr.PublicKey); refusal != nil {
		return wish{}, refusal
	}
	if !strongSignature(csr.SignatureAlgorithm) {
		return wish{}, refuseToSign(MalformedRequest, "it is signed with %v", csr.SignatureAlgorithm)
	}
	if err := csr.CheckSignature(); err != nil {
		return wish{}, refuseToSign(MalformedRequest, "its signature is not valid")
	}
	w := wish{usages: r.Usages, key: csr.PublicKey}
	w.readSubject(csr)
	return w, w.readExtensions(csr)
}

// readRequest reads spec.request: one PEM block with nothing but white space
// around it.
func readRequest(data []byte) (*x509.CertificateRequest, *SigningRefusal) {
	if len(data) > maxRequest {
		return nil, refuseToSign(OversizeRequest, "it has %d octets, more than %d", len(data), maxRequest)
	}
	data = bytes.TrimSpace(data)
	block, rest := pem.Decode(data)
	switch {
	case block == nil || block.Type != "CERTIFICATE REQUEST" || len(block.Headers) > 0 || !bytes.HasPrefix(data, []byte("-----BEGIN ")):
		return nil, refuseToSign(MalformedRequest, "it is not a plain PEM block of type CERTIFICATE REQUEST")
	case len(rest) > 0:
		return nil, refuseToSign(MalformedRequest, "there is more than one PEM block in it")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, refuseToSign(MalformedRequest, "it does not parse: %v", err)
	}
	return csr, nil
}

// leastExponent of an RSA key: smaller ones have broken paddings to their name
// (NIST SP 800-56B section 6.2).
const leastExponent = 1<<16 + 1

func refuseKey(public crypto.PublicKey) *SigningRefusal {
	kind := KeyOf(public)
	if err := kind.validate(); err != nil {
		return refuseToSign(BadKey, "its key is %v: %v", kind, err)
	}
	if k, ok := public.(*rsa.PublicKey); ok && k.E < leastExponent {
		return refuseToSign(BadKey, "the exponent of its RSA key is %d, less than %d", k.E, leastExponent)
	}
	return nil
}

func (w *wish) readSubject(csr *x509.CertificateRequest) {
	for _, attribute := range csr.Subject.Names {
		value := fmt.Sprint(attribute.Value)
		if attribute.Type.Equal(oidCommonName) && w.commonName == "" && value != "" {
			w.commonName = value
			continue
		}
		w.otherSubject = append(w.otherSubject, fmt.Sprintf("the attribute %v with the value %q", attribute.Type, value))
	}
}

func (w *wish) readExtensions(csr *x509.CertificateRequest) *SigningRefusal {
	var seen []string
	for _, ext := range csr.Extensions {
		id := ext.Id.String()
		if slices.Contains(seen, id) {
			return refuseToSign(BadExtension, "it has the extension %s twice", id)
		}
		seen = append(seen, id)
		var refusal *SigningRefusal
		switch {
		case ext.Id.Equal(oidSubjectAltName):
			refusal = w.readNames(ext.Value)
		case ext.Id.Equal(oidKeyUsage):
			refusal = w.checkKeyUsage(ext.Value)
		case ext.Id.Equal(oidExtKeyUsage):
			refusal = w.checkExtKeyUsage(ext.Value)
		case ext.Id.Equal(oidBasicConstraints):
			refusal = checkBasicConstraints(ext.Value)
		default:
			refusal = refuseToSign(BadExtension, "it asks for the extension %s, which is not given", id)
		}
		if refusal != nil {
			return refusal
		}
	}
	return nil
}

// readNames reads every name of a SubjectAltName, those of kinds that crypto/x509
// passes over included.
func (w *wish) readNames(der []byte) *SigningRefusal {
	var names []asn1.RawValue
	if rest, err := asn1.Unmarshal(der, &names); err != nil || len(rest) > 0 {
		return refuseToSign(BadExtension, "its SubjectAltName does not parse")
	}
	for _, name := range names {
		ip, isIP := netip.AddrFromSlice(name.Bytes)
		switch {
		case name.Class != asn1.ClassContextSpecific:
			return refuseToSign(BadExtension, "its SubjectAltName does not parse")
		case name.Tag == tagDNS && !name.IsCompound:
			w.dnsNames = append(w.dnsNames, string(name.Bytes))
		case name.Tag == tagIP && isIP && !name.IsCompound:
			w.ips = append(w.ips, ip.Unmap())
		case name.Tag == tagURI:
			w.otherNames = append(w.otherNames, fmt.Sprintf("URI %q", name.Bytes))
		case name.Tag == tagEmail:
			w.otherNames = append(w.otherNames, fmt.Sprintf("e-mail address %q", name.Bytes))
		default:
			w.otherNames = append(w.otherNames, fmt.Sprintf("name of kind %d", name.Tag))
		}
	}
	w.dnsNames = sorted(w.dnsNames)
	slices.SortFunc(w.ips, netip.Addr.Compare)
	w.ips = slices.Compact(w.ips)
	return nil
}

// checkKeyUsage: spec.usages decides; what the request itself asks for beyond
// that would be dropped in silence otherwise.
func (w *wish) checkKeyUsage(der []byte) *SigningRefusal {
	var bits asn1.BitString
	if rest, err := asn1.Unmarshal(der, &bits); err != nil || len(rest) > 0 {
		return refuseToSign(BadExtension, "its key usage does not parse")
	}
	given, _ := Spec{Usages: w.usages}.wantedUsages()
	for n := range bits.BitLength {
		// Bit n of the extension is bit n of x509.KeyUsage (RFC 5280 section 4.2.1.3).
		if bits.At(n) != 0 && given&(1<<n) == 0 {
			return refuseToSign(BadUsage, "the request itself asks for key usage bit %d, which is not among its usages %q", n, w.usages)
		}
	}
	return nil
}

// extKeyUsages are those of usages, as the extension has them (RFC 5280 section
// 4.2.1.12).
var extKeyUsages = map[string]asn1.ObjectIdentifier{
	"server auth": {1, 3, 6, 1, 5, 5, 7, 3, 1},
	"client auth": {1, 3, 6, 1, 5, 5, 7, 3, 2},
}

func (w *wish) checkExtKeyUsage(der []byte) *SigningRefusal {
	var asked []asn1.ObjectIdentifier
	if rest, err := asn1.Unmarshal(der, &asked); err != nil || len(rest) > 0 {
		return refuseToSign(BadExtension, "its extended key usage does not parse")
	}
	for _, id := range asked {
		if !slices.ContainsFunc(w.usages, func(name string) bool { return extKeyUsages[name].Equal(id) }) {
			return refuseToSign(BadUsage, "the request itself asks for the extended key usage %v, which is not among its usages %q", id, w.usages)
		}
	}
	return nil
}

func checkBasicConstraints(der []byte) *SigningRefusal {
	var asked struct {
		IsCA       bool `asn1:"optional"`
		MaxPathLen int  `asn1:"optional,default:-1"`
	}
	if rest, err := asn1.Unmarshal(der, &asked); err != nil || len(rest) > 0 {
		return refuseToSign(BadExtension, "its basic constraints do not parse")
	}
	if asked.IsCA || asked.MaxPathLen != -1 {
		return refuseToSign(BadExtension, "it asks to be a CA")
	}
	return nil
}
