package k8scsr

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// The largest PEM that is parsed at all. Parsing hostile PEM and verifying
// hostile chains is expensive (cert-manager CVE-2024-12401), so size is checked
// first.
const (
	maxChain  = 95_000
	maxLeaf   = 36_500
	maxKey    = 13_000
	maxBundle = 330_000
	maxDepth  = 10   // certificates in a chain
	maxRSA    = 8192 // bits: as crypto/tls, which spends no more on a peer's key either
)

var oidCommonName = asn1.ObjectIdentifier{2, 5, 4, 3}

// clockSkew is how far a signer's clock may run ahead of ours.
const clockSkew = 5 * time.Minute

// Reason is why an answer was refused. The list is closed.
type Reason string

// The reasons of a Refusal.
const (
	TooLarge     Reason = "too-large"
	Malformed    Reason = "malformed"
	WrongKey     Reason = "wrong-key"
	WrongContent Reason = "wrong-content" // subject, names, usages, key type, a CA's certificate
	WeakSigned   Reason = "weak-signature"
	Untrusted    Reason = "untrusted"
	Expired      Reason = "expired"
	NotYetValid  Reason = "not-yet-valid"
	NotLater     Reason = "not-later"
)

// Refusal is the error of a certificate that must not replace the current one.
type Refusal struct {
	Reason Reason
	Detail string
	// ValidAt is set for NotYetValid where waiting is enough, because the
	// signer's clock is only slightly ahead.
	ValidAt time.Time
}

func (r *Refusal) Error() string { return r.Detail }

func refuse(reason Reason, format string, args ...any) error {
	return &Refusal{Reason: reason, Detail: fmt.Sprintf(format, args...)}
}

// Chain is a certificate that may be published.
type Chain struct {
	Leaf *x509.Certificate
	PEM  []byte // leaf first, encoded anew: no text, no headers, nothing but certificates

	certificates []*x509.Certificate
}

// Trust is the bundle of CA certificates that clients of the certificate trust.
// The zero value is no trust configured: chains are then checked by structure
// alone.
type Trust struct {
	Roots []*x509.Certificate
	PEM   []byte // the same, encoded anew
}

// Configured tells whether there is a bundle to check against.
func (t Trust) Configured() bool { return len(t.Roots) > 0 }

// ParseTrust reads a PEM bundle of at most 330 kB and 256 CAs; one that is there
// twice counts once. Text between the blocks is allowed; a bundle with anything
// but certificates, or with none, is refused.
func ParseTrust(data []byte) (Trust, error) {
	roots, err := parseBundle(data, maxTrusted)
	if err != nil {
		return Trust{}, fmt.Errorf("parsing trust bundle: %w", err)
	}
	return Trust{Roots: roots, PEM: encodeCertificates(roots)}, nil
}

// Validate tells whether the answer of a signer may be published for the key.
// It checks size, encoding, key, subject, names, usages, critical extensions,
// signature algorithm, that everything behind the leaf belongs to its chain, the
// chain up to the trust bundle where there is one, validity at now, and that the
// certificate ends later than the current one (nil when there is none worth
// keeping).
// Every refusal is a *Refusal. A lifetime shorter than asked is no reason to
// refuse.
func Validate(chainPEM []byte, key crypto.PublicKey, want Spec, trust Trust, now time.Time, current *x509.Certificate) (Chain, error) {
	if len(chainPEM) > maxChain {
		return Chain{}, refuse(TooLarge, "it has %d octets, more than %d", len(chainPEM), maxChain)
	}
	certs, err := parseCertificates(chainPEM)
	if err != nil {
		return Chain{}, refuse(Malformed, "it is no certificate chain: %v", err)
	}
	leaf := certs[0]
	switch {
	case len(certs) > maxDepth:
		return Chain{}, refuse(TooLarge, "it has %d certificates, more than %d", len(certs), maxDepth)
	case len(leaf.Raw) > maxLeaf:
		return Chain{}, refuse(TooLarge, "its first certificate has %d octets, more than %d", len(leaf.Raw), maxLeaf)
	case !sameKey(leaf.PublicKey, key):
		return Chain{}, refuse(WrongKey, "its first certificate is for another key than the one requested")
	}
	changed := want.Changed(leaf, "")
	if names := commonNames(leaf); len(names) > 1 {
		changed = append(changed, fmt.Sprintf("common names are %q, more than one", names))
	}
	if len(changed) > 0 {
		return Chain{}, refuse(WrongContent, "it is not what was asked for: %s", strings.Join(changed, "; "))
	}
	if unknown := leaf.UnhandledCriticalExtensions; len(unknown) > 0 {
		return Chain{}, refuse(WrongContent, "it has the critical extension %v, for which clients would refuse it (RFC 5280 section 4.2)", unknown[0])
	}
	if !strongSignature(leaf.SignatureAlgorithm) {
		return Chain{}, refuse(WeakSigned, "it is signed with %v", leaf.SignatureAlgorithm)
	}
	if err := validAt(leaf, now); err != nil {
		return Chain{}, err
	}
	if err := linked(certs); err != nil {
		return Chain{}, err
	}
	if trust.Configured() {
		if err := verifyChain(certs, trust, now); err != nil {
			return Chain{}, strangers(err, certs, trust)
		}
	}
	if current != nil && !leaf.NotAfter.After(current.NotAfter) {
		return Chain{}, refuse(NotLater, "it ends %s, not later than the current one, %s", stamp(leaf.NotAfter), stamp(current.NotAfter))
	}
	return Chain{Leaf: leaf, PEM: encodeCertificates(certs), certificates: certs}, nil
}

func validAt(leaf *x509.Certificate, now time.Time) error {
	if !now.Before(leaf.NotAfter) {
		return refuse(Expired, "it expired %s", stamp(leaf.NotAfter))
	}
	if now.Before(leaf.NotBefore) {
		r := &Refusal{Reason: NotYetValid, Detail: "it is not valid before " + stamp(leaf.NotBefore)}
		if leaf.NotBefore.Sub(now) <= clockSkew {
			r.ValidAt = leaf.NotBefore
		}
		return r
	}
	return nil
}

// commonNames are all of the subject, of which pkix.Name keeps the last.
func commonNames(leaf *x509.Certificate) []string {
	var out []string
	for _, attribute := range leaf.Subject.Names {
		if attribute.Type.Equal(oidCommonName) {
			out = append(out, fmt.Sprint(attribute.Value))
		}
	}
	return out
}

// linked checks that each certificate behind the leaf is that of a CA which
// signed one before it, so that nothing is presented to clients that has nothing
// to do with the leaf, and nothing before what it signed (RFC 8446 section
// 4.4.2). Cross-signed intermediates, which stand beside each other, pass. Keys
// whose signatures are expensive to verify are refused first: crypto/x509 sets
// no limit.
func linked(certs []*x509.Certificate) error {
	if err := affordable(certs); err != nil {
		return refuse(TooLarge, "of the chain, %v", err)
	}
	for i, issuer := range certs[1:] {
		var err error
		if !slices.ContainsFunc(certs[:i+1], func(cert *x509.Certificate) bool {
			err = cert.CheckSignatureFrom(issuer)
			return err == nil
		}) {
			return refuse(Untrusted, "certificate %d of the chain signed none of those before it: %v", i+2, err)
		}
	}
	return nil
}

// affordable refuses keys whose signatures take seconds and more to verify.
func affordable(certs []*x509.Certificate) error {
	for i, cert := range certs {
		if key, ok := cert.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() > maxRSA {
			return fmt.Errorf("certificate %d has an RSA key of %d bits, more than %d", i+1, key.N.BitLen(), maxRSA)
		}
	}
	return nil
}

// verifyChain checks the path to the bundle (RFC 5280 section 6).
func verifyChain(certs []*x509.Certificate, trust Trust, now time.Time) error {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for _, root := range trust.Roots {
		roots.AddCert(root)
	}
	for _, cert := range certs[1:] {
		intermediates.AddCert(cert)
	}
	_, err := certs[0].Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: intermediates,
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, // usages were compared with those wanted
	})
	if err != nil {
		return refuse(Untrusted, "the trust bundle does not vouch for it: %v", err)
	}
	return nil
}

// strangers is the refusal of an answer that the bundle does not vouch for, with
// the CA that it is from where that is not in the bundle.
func strangers(err error, certs []*x509.Certificate, trust Trust) error {
	var refusal *Refusal
	last := certs[len(certs)-1] // what the bundle ought to know, or its issuer
	known := slices.ContainsFunc(trust.Roots, func(ca *x509.Certificate) bool {
		return ca.Equal(last) || bytes.Equal(ca.RawSubject, last.RawIssuer) && last.CheckSignatureFrom(ca) == nil
	})
	if known || !errors.As(err, &refusal) || refusal.Reason != Untrusted {
		return err
	}
	name := fmt.Sprintf("%q (the answer does not hold it)", Plain(last.Issuer.String(), maxCAName))
	if last.IsCA {
		name = caName(last)
	}
	refusal.Detail += fmt.Sprintf("; it is from CA %s, which is not in the bundle: if the signer's CA changed, add the new one to the bundle first", name)
	return refusal
}

// parseCertificates reads all CERTIFICATE blocks; there is at least one.
func parseCertificates(data []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("a PEM block of type %q among the certificates", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(out)+1, err)
		}
		out = append(out, cert)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no PEM block of type CERTIFICATE in %d octets", len(data))
	}
	return out, nil
}

func encodeCertificates(certs []*x509.Certificate) []byte {
	var out bytes.Buffer
	for _, cert := range certs {
		out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	}
	return out.Bytes()
}

// ParseKey reads a PEM private key (PKCS #8, SEC 1 or PKCS #1) of at most
// 13 kB. Its errors say nothing of the key's content.
func ParseKey(data []byte) (crypto.Signer, error) {
	if len(data) > maxKey {
		return nil, fmt.Errorf("parsing private key: it has %d octets, more than %d", len(data), maxKey)
	}
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, fmt.Errorf("parsing private key: no PEM private key in %d octets", len(data))
		}
		if !strings.HasSuffix(block.Type, "PRIVATE KEY") {
			continue // openssl writes EC PARAMETERS before the key
		}
		if signer := parseDER(block.Bytes); signer != nil {
			return signer, nil
		}
		return nil, fmt.Errorf("parsing private key: its block %q is damaged, encrypted or of an unknown kind", block.Type)
	}
}

func parseDER(der []byte) crypto.Signer {
	if k, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		signer, _ := k.(crypto.Signer)
		return signer
	}
	if k, err := x509.ParseECPrivateKey(der); err == nil {
		return k
	}
	if k, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return k
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
