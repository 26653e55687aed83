// Package crl reads X.509 certificate revocation lists in one pass and
// constant memory, and knows how large a list each Vault storage accepts.
//
// It is pure: no clock, no I/O beyond the reader it is given, no Vault.
package crl

import (
	"crypto"
	"crypto/x509"
	"math/big"
	"time"
)

// Format is the encoding a list was read from.
type Format string

// The two encodings that Scan accepts.
const (
	FormatDER Format = "der"
	FormatPEM Format = "pem"
)

// Summary is what one pass over a revocation list yields. Nothing in it grows
// with the number of entries.
type Summary struct {
	Format     Format
	Bytes      int64    // length in octets of the DER CertificateList
	Version    int      // always 2 (RFC 5280 section 5.1.2.1)
	Issuer     string   // RDN sequence as crypto/x509/pkix prints it
	RawIssuer  []byte   // DER of the issuer name
	Number     *big.Int // CRL number, nil when absent (RFC 5280 section 5.2.3)
	BaseNumber *big.Int // delta CRL indicator, nil for a full list (section 5.2.4)

	AuthorityKeyID []byte

	// IDP says what the list is about, nil where it is about all that its issuer
	// has issued.
	IDP *DistributionPoint

	// UnhandledCritical lists the object identifiers of critical extensions, of
	// the list and of its entries, that this package does not interpret; at most
	// 16 of them. Such a list must not be used to decide that a certificate is
	// good (RFC 5280 section 5.2).
	UnhandledCritical []string

	// RepeatedExtensions lists the object identifiers of extensions that the list,
	// or one of its entries, has more than once; at most 16 of them. RFC 5280
	// section 4.2 allows one instance of each; as with crypto/x509 the last one
	// counts. An extension is compared with the first 16 different ones ahead of
	// it.
	RepeatedExtensions []string

	ThisUpdate time.Time
	NextUpdate time.Time // zero when absent

	Entries          int64
	OldestRevocation time.Time // zero without entries
	NewestRevocation time.Time // zero without entries
	Revocations      Histogram
	Reasons          map[string]int64 // by RFC 5280 name; entries without a reason are left out
	UnnamedReasons   int64            // entries with a reason code that RFC 5280 section 5.3.1 does not name
	Order            Order

	SignatureAlgorithm x509.SignatureAlgorithm

	// Digest is that of the signed part, the DER of tbsCertList with its header,
	// by DigestHash: the hash that the signature algorithm names, or SHA-256
	// where it names none (Ed25519) or one that is not verified (MD5, or an
	// algorithm that is not known). Two lists with the same one are the same list,
	// but for the signature, unless DigestHash is SHA-1.
	Digest     []byte
	DigestHash crypto.Hash

	algorithm []byte // contents of the AlgorithmIdentifier
	signature []byte
	spool     Spool  // holds the signed part; nil unless the algorithm signs that itself
	kept      []byte // what the fields of octets share: one allocation for all
}

// Delta tells whether the list is a delta CRL.
func (s Summary) Delta() bool { return s.BaseNumber != nil }

// keep copies b out of the scan's window.
func (s *Summary) keep(b []byte) []byte {
	if s.kept == nil {
		s.kept = make([]byte, 0, 512)
	}
	from := len(s.kept)
	s.kept = append(s.kept, b...)
	return s.kept[from:len(s.kept):len(s.kept)]
}
