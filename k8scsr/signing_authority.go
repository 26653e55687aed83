package k8scsr

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"
)

// SigningCA is a CA that signs, with the certificates above it.
type SigningCA struct {
	Certificate *x509.Certificate
	Parents     []*x509.Certificate // as its file has them, nearest first; a self-signed root may be among them
}

// ParseSigningCA reads the PEM of a CA: its own certificate first, then those
// above it, each of which signed the one before. It is bounded as a chain is.
func ParseSigningCA(data []byte) (SigningCA, error) {
	if len(data) > maxChain {
		return SigningCA{}, fmt.Errorf("parsing the CA's certificate: it has %d octets, more than %d", len(data), maxChain)
	}
	certs, err := parseCertificates(data)
	if err != nil {
		return SigningCA{}, fmt.Errorf("parsing the CA's certificate: %w", err)
	}
	if len(certs) >= maxDepth {
		return SigningCA{}, fmt.Errorf("parsing the CA's certificate: it has %d certificates, more than %d", len(certs), maxDepth-1)
	}
	if err := linked(certs); err != nil {
		return SigningCA{}, fmt.Errorf("parsing the CA's certificate: %w", err)
	}
	for n := range certs[1:] {
		if certs[n].CheckSignatureFrom(certs[n+1]) != nil {
			return SigningCA{}, fmt.Errorf("parsing the CA's certificate: certificate %d of the file did not sign the one before it: put the CA first, then what signed it, and so on", n+2)
		}
	}
	return SigningCA{Certificate: certs[0], Parents: certs[1:]}, nil
}

// Matches tells whether the key is the CA's.
func (a SigningCA) Matches(key crypto.PublicKey) bool { return sameKey(a.Certificate.PublicKey, key) }

func (a SigningCA) all() []*x509.Certificate {
	return append([]*x509.Certificate{a.Certificate}, a.Parents...)
}

// NotAfter is the end of the CA, or of the first one above it that ends sooner.
func (a SigningCA) NotAfter() time.Time {
	return slices.MinFunc(a.all(), func(x, y *x509.Certificate) int { return x.NotAfter.Compare(y.NotAfter) }).NotAfter
}

// Ends is AuthorityEnds of the CA, or of one above it that is worse.
func (a SigningCA) Ends(leafLifetime time.Duration, now time.Time) (severity Severity, reason string) {
	for n, cert := range a.all() {
		s, why := AuthorityEnds(cert, leafLifetime, now)
		if s == "" || severity == Critical || s == severity {
			continue
		}
		if severity, reason = s, why; n > 0 {
			reason = fmt.Sprintf("stands under %q, which %s", Plain(cert.Subject.String(), 200), why)
		}
	}
	return severity, reason
}

// Usable tells why the CA cannot sign at now: it is none (RFC 5280 sections
// 4.2.1.3 and 4.2.1.9), its key is weak, it or one above it is not valid now, or
// it ends before the shortest certificate would.
func (a SigningCA) Usable(now time.Time) error {
	ca := a.Certificate
	switch {
	case ca == nil:
		return errors.New("there is no CA")
	case !ca.BasicConstraintsValid || !ca.IsCA:
		return errors.New("its certificate is not that of a CA: basic constraints CA:TRUE is missing")
	case ca.KeyUsage&x509.KeyUsageCertSign == 0:
		return errors.New("its certificate may not sign others: the key usage certificate signing is missing")
	case len(ca.UnhandledCriticalExtensions) > 0:
		return fmt.Errorf("its certificate has the critical extension %v, for which clients would refuse what it signs", ca.UnhandledCriticalExtensions[0])
	case len(ca.RawSubject) <= len(emptyName):
		return errors.New("its certificate has an empty subject, which no CA may have (RFC 5280 section 4.1.2.6)")
	case now.Before(ca.NotBefore):
		return fmt.Errorf("it is not valid before %s", stamp(ca.NotBefore))
	case !now.Before(ca.NotAfter):
		return fmt.Errorf("it ended %s", stamp(ca.NotAfter))
	case a.NotAfter().Sub(now) < minLifetime:
		return fmt.Errorf("it, or one above it, ends %s, sooner than the shortest certificate would", stamp(a.NotAfter()))
	}
	if err := a.checkKey(); err != nil {
		return err
	}
	for n, parent := range a.Parents {
		// Those between it and a leaf (RFC 5280 section 4.2.1.9).
		if below := n + 1; parent.MaxPathLen >= 0 && below > parent.MaxPathLen {
			return fmt.Errorf("certificate %d of its file allows %d CAs below it, and there are %d", n+2, parent.MaxPathLen, below)
		}
	}
	if err := a.verify(ca, x509.ExtKeyUsageAny, now); err != nil {
		return fmt.Errorf("the certificates above it do not vouch for it: %w", err)
	}
	return nil
}

// emptyName is the encoding of a name without attributes.
var emptyName = []byte{0x30, 0}

func (a SigningCA) checkKey() error {
	kind := KeyOf(a.Certificate.PublicKey)
	if kind.Algorithm == RSA { // of any size that is neither weak nor costly
		if n := a.Certificate.PublicKey.(*rsa.PublicKey).N.BitLen(); n < 2048 || n > maxRSA {
			return fmt.Errorf("its RSA key has %d bits, not between 2048 and %d", n, maxRSA)
		}
		return nil
	}
	if err := kind.validate(); err != nil {
		return fmt.Errorf("its key is %v: %w", kind, err)
	}
	return nil
}

// keyID is the CA's subject key identifier, made as that of a leaf where its
// certificate has none.
func (a SigningCA) keyID() []byte {
	if id := a.Certificate.SubjectKeyId; len(id) > 0 {
		return id
	}
	return keyID(a.Certificate.PublicKey)
}

// refusal tells what a wish cannot have under this CA whatever the policy says.
func (a SigningCA) refusal(w wish) *SigningRefusal {
	if sameKey(w.key, a.Certificate.PublicKey) {
		return refuseToSign(BadKey, "its key is the CA's own")
	}
	subject, err := asn1.Marshal(w.certificate().Subject.ToRDNSequence())
	if err != nil || bytes.Equal(subject, a.Certificate.RawSubject) {
		return refuseToSign(BadSubject, "its subject is the CA's own")
	}
	return nil
}

// verify checks the path from a certificate to the topmost one of the file, which
// the CA itself is where it stands alone.
func (a SigningCA) verify(leaf *x509.Certificate, usage x509.ExtKeyUsage, now time.Time) error {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for n, cert := range a.all() {
		if n == len(a.Parents) {
			roots.AddCert(cert)
		} else {
			intermediates.AddCert(cert)
		}
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}})
	return err
}

// Answer is status.certificate for a certificate that the CA signed: the leaf,
// then the CA and what is above it where the CA is no root; a self-signed root is
// left out, since those who trust it have it. It is given only where the
// certificate is that of the template
// and the path to the top of the CA's file holds at now for each of its usages.
//
// A *SigningRefusal is the CA's own constraints; another error is a fault in the
// making.
func (a SigningCA) Answer(der []byte, template *x509.Certificate, now time.Time) ([]byte, error) {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("checking the certificate that was signed: %w", err)
	}
	if err := a.isOf(leaf, template); err != nil {
		return nil, fmt.Errorf("checking the certificate that was signed: %w", err)
	}
	for _, usage := range leaf.ExtKeyUsage {
		err := a.verify(leaf, usage, now)
		var invalid x509.CertificateInvalidError
		switch {
		case err == nil:
		case errors.As(err, &invalid):
			return nil, refuseToSign(Constrained, "the CA is not entitled to it: %v", err)
		default:
			return nil, fmt.Errorf("checking the certificate that was signed: %w", err)
		}
	}
	out := []*x509.Certificate{leaf}
	for _, cert := range a.all() {
		if !bytes.Equal(cert.RawSubject, cert.RawIssuer) || cert.CheckSignatureFrom(cert) != nil {
			out = append(out, cert)
		}
	}
	return encodeCertificates(out), nil
}

func (a SigningCA) isOf(leaf, template *x509.Certificate) error {
	for _, c := range []struct {
		what string
		same bool
	}{
		{"key", sameKey(leaf.PublicKey, template.PublicKey)},
		{"serial number", template.SerialNumber.Cmp(leaf.SerialNumber) == 0},
		{"validity", leaf.NotBefore.Equal(template.NotBefore) && leaf.NotAfter.Equal(template.NotAfter)},
		{"issuer", bytes.Equal(leaf.RawIssuer, a.Certificate.RawSubject)},
		{"common name", leaf.Subject.CommonName == template.Subject.CommonName},
		{"DNS names", slices.Equal(leaf.DNSNames, template.DNSNames)},
		{"number of names", len(leaf.IPAddresses) == len(template.IPAddresses) && len(leaf.URIs)+len(leaf.EmailAddresses) == 0},
		{"usages", leaf.KeyUsage == template.KeyUsage && slices.Equal(leaf.ExtKeyUsage, template.ExtKeyUsage) && len(leaf.UnknownExtKeyUsage) == 0},
		{"basic constraints", leaf.BasicConstraintsValid && !leaf.IsCA},
		{"subject key identifier", len(leaf.SubjectKeyId) > 0 && bytes.Equal(leaf.SubjectKeyId, template.SubjectKeyId)},
		{"authority key identifier", len(leaf.AuthorityKeyId) > 0 && bytes.Equal(leaf.AuthorityKeyId, a.keyID())},
	} {
		if !c.same {
			return fmt.Errorf("its %s is not what was to be signed", c.what)
		}
	}
	return nil
}
