package crl

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	_ "crypto/sha1" // links crypto.SHA1, in which old lists are signed
	_ "crypto/sha256"
	_ "crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
)

// ErrNotVerifiable is returned by Summary.Verify when it cannot tell whether
// the signature is right, which is not the same as a wrong one: the algorithm
// is not known or no longer trusted, or it is Ed25519, which signs the message
// itself and not a digest that a pass over the list could leave behind, and the
// scan had no Options.Spool or the spool no longer holds the list.
var ErrNotVerifiable = errors.New("signature cannot be verified")

// ErrNotSigned is returned by Summary.Verify when the list was not signed by
// the issuer that it was given.
var ErrNotSigned = errors.New("not signed by this issuer")

// Verify checks that the list was signed by issuer: the same name octet by
// octet, the same key identifier where both carry one (RFC 5280 section
// 5.2.1), the right to sign lists where issuer has a key usage (section
// 6.3.3 f), and the signature, by RSA (PKCS #1 v1.5 or PSS), ECDSA or Ed25519.
// It does not look at dates or at issuer's own signature. Its errors wrap
// ErrNotSigned or ErrNotVerifiable.
func (s Summary) Verify(issuer *x509.Certificate) error {
	if !bytes.Equal(s.RawIssuer, issuer.RawSubject) {
		return fmt.Errorf("verifying CRL: %w: it was issued by %q, the certificate is for %q", ErrNotSigned, s.Issuer, rawName(issuer.RawSubject))
	}
	if len(s.AuthorityKeyID) > 0 && len(issuer.SubjectKeyId) > 0 && !bytes.Equal(s.AuthorityKeyID, issuer.SubjectKeyId) {
		return fmt.Errorf("verifying CRL: %w: it was signed by key %x, the certificate holds key %x", ErrNotSigned, s.AuthorityKeyID, issuer.SubjectKeyId)
	}
	if issuer.KeyUsage != 0 && issuer.KeyUsage&x509.KeyUsageCRLSign == 0 {
		return fmt.Errorf("verifying CRL: %w: the key usage of its certificate does not include CRL signing", ErrNotSigned)
	}
	if err := s.verifySignature(issuer.PublicKey); err != nil {
		if !errors.Is(err, ErrNotVerifiable) {
			err = fmt.Errorf("%w: %w", ErrNotSigned, err)
		}
		return fmt.Errorf("verifying CRL: %w", err)
	}
	return nil
}

// Algorithm is the name that crypto/x509 prints for the signature algorithm,
// "ECDSA-SHA256", or the object identifier of one that it does not know,
// "1.2.840.113549.1.1.99".
func (s Summary) Algorithm() string {
	if s.SignatureAlgorithm != x509.UnknownSignatureAlgorithm {
		return s.SignatureAlgorithm.String()
	}
	c := cursor{rest: s.algorithm}
	id, err := c.oid("signature algorithm")
	if err != nil {
		return "unknown" // of a Summary that Scan did not make
	}
	return oidText(id.rest)
}

func (s Summary) verifySignature(key any) error {
	switch s.SignatureAlgorithm {
	case x509.ECDSAWithSHA1, x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512:
		if key, ok := key.(*ecdsa.PublicKey); ok {
			if !ecdsa.VerifyASN1(key, s.Digest, s.signature) {
				return errors.New("the ECDSA signature does not match")
			}
			return nil
		}
	case x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS:
		if key, ok := key.(*rsa.PublicKey); ok {
			return rsa.VerifyPSS(key, s.DigestHash, s.Digest, s.signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		}
	case x509.SHA1WithRSA, x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA:
		if key, ok := key.(*rsa.PublicKey); ok {
			return rsa.VerifyPKCS1v15(key, s.DigestHash, s.Digest, s.signature)
		}
	case x509.PureEd25519:
		if key, ok := key.(ed25519.PublicKey); ok {
			return s.verifyEd25519(key)
		}
	default:
		return fmt.Errorf("%w: algorithm %s", ErrNotVerifiable, s.Algorithm())
	}
	return fmt.Errorf("it is signed with %s, the key is %T", s.SignatureAlgorithm, key)
}

// verifyEd25519 verifies the message that the spool holds (RFC 8032 section
// 5.1.7), once it is known to be the one that was scanned.
func (s Summary) verifyEd25519(key ed25519.PublicKey) error {
	if s.spool == nil {
		return fmt.Errorf("%w: %s needs the whole list again, and no spool kept it", ErrNotVerifiable, s.SignatureAlgorithm)
	}
	message, err := s.spool.Bytes()
	if err != nil {
		return fmt.Errorf("%w: reading the CRL's signed part from the spool: %w", ErrNotVerifiable, err)
	}
	h := s.DigestHash.New()
	h.Write(message)
	if !bytes.Equal(h.Sum(nil), s.Digest) {
		return fmt.Errorf("%w: the spool holds something else than the list", ErrNotVerifiable)
	}
	if len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, message, s.signature) {
		return errors.New("the Ed25519 signature does not match")
	}
	return nil
}

// rawName prints the DER of a name as Scan prints a list's issuer.
func rawName(der []byte) string {
	c := cursor{rest: der}
	if fields, err := c.read("name", tagSequence); err == nil {
		if name, err := fields.name(); err == nil {
			return name
		}
	}
	return fmt.Sprintf("0x%x", der)
}

// algorithms are the signature algorithms by object identifier (contents
// octets). Parameters are not looked at, except RSASSA-PSS's and that Ed25519
// has none. Those without a hash cannot be verified: MD5 is broken, DSA is no
// longer implemented, Ed25519 signs the message itself.
var algorithms = map[string]struct {
	algorithm x509.SignatureAlgorithm
	hash      crypto.Hash
}{
	"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x04": {x509.MD5WithRSA, 0},
	"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05": {x509.SHA1WithRSA, crypto.SHA1},
	"\x2b\x0e\x03\x02\x1d":                 {x509.SHA1WithRSA, crypto.SHA1}, // ISO's identifier
	"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b": {x509.SHA256WithRSA, crypto.SHA256},
	"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0c": {x509.SHA384WithRSA, crypto.SHA384},
	"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0d": {x509.SHA512WithRSA, crypto.SHA512},
	"\x2a\x86\x48\xce\x38\x04\x03":         {x509.DSAWithSHA1, 0},
	"\x60\x86\x48\x01\x65\x03\x04\x03\x02": {x509.DSAWithSHA256, 0},
	"\x2a\x86\x48\xce\x3d\x04\x01":         {x509.ECDSAWithSHA1, crypto.SHA1},
	"\x2a\x86\x48\xce\x3d\x04\x03\x02":     {x509.ECDSAWithSHA256, crypto.SHA256},
	"\x2a\x86\x48\xce\x3d\x04\x03\x03":     {x509.ECDSAWithSHA384, crypto.SHA384},
	"\x2a\x86\x48\xce\x3d\x04\x03\x04":     {x509.ECDSAWithSHA512, crypto.SHA512},
	idEd25519:                              {x509.PureEd25519, 0},
}

const (
	idEd25519 = "\x2b\x65\x70"
	idPSS     = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a"
)

// algorithm reads the contents of an AlgorithmIdentifier (RFC 5280 section
// 4.1.1.2). One that is not known is not an error.
func (c *cursor) algorithm() (x509.SignatureAlgorithm, crypto.Hash, error) {
	id, err := c.oid("signature algorithm")
	if err != nil {
		return 0, 0, err
	}
	parameters := c.rest
	if !c.empty() {
		if _, _, err := c.next("algorithm parameters"); err != nil {
			return 0, 0, err
		}
	}
	if err := c.done("the algorithm identifier"); err != nil {
		return 0, 0, err
	}
	switch known := algorithms[string(id.rest)]; {
	case string(id.rest) == idPSS:
		algorithm, hash := pss(parameters)
		return algorithm, hash, nil
	case string(id.rest) == idEd25519 && len(parameters) > 0:
		return x509.UnknownSignatureAlgorithm, 0, nil
	default:
		return known.algorithm, known.hash, nil
	}
}

// pss tells which of the three uses of RSASSA-PSS that crypto/x509 knows the
// parameters ask for (RFC 4055 section 3.1): hash and mask generation hash
// alike, and a salt as long as the hash.
func pss(parameters []byte) (x509.SignatureAlgorithm, crypto.Hash) {
	var p struct {
		Hash         pkix.AlgorithmIdentifier `asn1:"explicit,tag:0"`
		MGF          pkix.AlgorithmIdentifier `asn1:"explicit,tag:1"`
		SaltLength   int                      `asn1:"explicit,tag:2"`
		TrailerField int                      `asn1:"optional,explicit,tag:3,default:1"`
	}
	var mgfHash pkix.AlgorithmIdentifier
	if _, err := asn1.Unmarshal(parameters, &p); err != nil {
		return 0, 0
	}
	if _, err := asn1.Unmarshal(p.MGF.Parameters.FullBytes, &mgfHash); err != nil {
		return 0, 0
	}
	nullOrNone := func(a pkix.AlgorithmIdentifier) bool {
		return len(a.Parameters.FullBytes) == 0 || bytes.Equal(a.Parameters.FullBytes, asn1.NullBytes)
	}
	mgf1 := asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 8}
	if !nullOrNone(p.Hash) || !nullOrNone(mgfHash) || !p.MGF.Algorithm.Equal(mgf1) ||
		!mgfHash.Algorithm.Equal(p.Hash.Algorithm) || p.TrailerField != 1 {
		return 0, 0
	}
	sha2 := asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2}
	switch hash := p.Hash.Algorithm; {
	case hash.Equal(append(sha2, 1)) && p.SaltLength == 32:
		return x509.SHA256WithRSAPSS, crypto.SHA256
	case hash.Equal(append(sha2, 2)) && p.SaltLength == 48:
		return x509.SHA384WithRSAPSS, crypto.SHA384
	case hash.Equal(append(sha2, 3)) && p.SaltLength == 64:
		return x509.SHA512WithRSAPSS, crypto.SHA512
	}
	return 0, 0
}
