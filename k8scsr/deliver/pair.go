package deliver

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"
)

// Size caps, checked before anything is parsed. They are cert-manager's
// (internal/pem): no certificate in use comes near them.
const (
	maxCertificateBytes = 330_000
	maxKeyBytes         = 13_000
)

const redacted = "[redacted private key]"

// Key is a private key in PEM. However it is printed, logged or marshalled, it
// shows a placeholder. The octets are held by a function because package fmt
// prints a value inside an unexported field without asking its methods, and
// follows pointers there for some verbs.
type Key struct{ octets func() []byte }

// NewKey wraps a PEM-encoded private key. It keeps the slice.
func NewKey(octets []byte) Key {
	return Key{octets: func() []byte { return octets }}
}

// PEM returns the octets, nil for the zero Key.
func (k Key) PEM() []byte {
	if k.octets == nil {
		return nil
	}
	return k.octets()
}

func (Key) String() string               { return redacted }
func (Key) GoString() string             { return redacted }
func (Key) Format(s fmt.State, _ rune)   { _, _ = io.WriteString(s, redacted) }
func (Key) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }
func (Key) MarshalJSON() ([]byte, error) { return json.Marshal(redacted) }

// Pair is a certificate with its key, as a Secret holds them.
type Pair struct {
	Certificate []byte // PEM, the leaf first, then its chain
	Key         Key
	CA          []byte // PEM trust bundle; empty where the Secret has none
}

func (p Pair) equal(q Pair) bool {
	return bytes.Equal(p.Certificate, q.Certificate) &&
		bytes.Equal(p.Key.PEM(), q.Key.PEM()) && bytes.Equal(p.CA, q.CA)
}

// fingerprint is the SHA-256 of a certificate's DER.
type fingerprint [sha256.Size]byte

// String is short enough for a log line and long enough to tell two leaves apart.
func (f fingerprint) String() string { return fmt.Sprintf("%x", f[:8]) }

// stored is a pair that passed every check of [check].
type stored struct {
	Pair
	leaf        *x509.Certificate
	fingerprint fingerprint // of the leaf
	digest      [sha256.Size]byte
}

// check parses the pair whole. What it returns can be loaded by any server: the
// certificates parse, the key is the leaf's, the CA bundle, if any, is one.
// The leaf may have expired; that is for the caller to judge.
func check(p Pair) (*stored, error) {
	for _, part := range []struct {
		name string
		size int
		max  int
	}{
		{"certificate chain", len(p.Certificate), maxCertificateBytes},
		{"private key", len(p.Key.PEM()), maxKeyBytes},
		{"CA bundle", len(p.CA), maxCertificateBytes},
	} {
		if part.size > part.max {
			return nil, fmt.Errorf("checking size: %s has %d bytes, more than the %d allowed", part.name, part.size, part.max)
		}
	}
	chain, err := parseCertificates(p.Certificate)
	if err != nil {
		return nil, fmt.Errorf("parsing certificate chain: %w", err)
	}
	if _, err := tls.X509KeyPair(p.Certificate, p.Key.PEM()); err != nil {
		return nil, fmt.Errorf("matching private key with leaf: %w", err)
	}
	if len(p.CA) > 0 {
		if _, err := parseCertificates(p.CA); err != nil {
			return nil, fmt.Errorf("parsing CA bundle: %w", err)
		}
	}
	return &stored{
		Pair:        p,
		leaf:        chain[0],
		fingerprint: sha256.Sum256(chain[0].Raw),
		digest:      digest(p),
	}, nil
}

// parseCertificates accepts certificates alone: a key that strayed into the
// certificate's file would be published with the certificate's rights.
func parseCertificates(data []byte) ([]*x509.Certificate, error) {
	var certificates []*x509.Certificate
	for {
		var block *pem.Block
		block, data = pem.Decode(data)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("PEM block %d is not a CERTIFICATE", len(certificates)+1)
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("PEM block %d: %w", len(certificates)+1, err)
		}
		certificates = append(certificates, certificate)
	}
	if len(certificates) == 0 {
		return nil, errors.New("no CERTIFICATE block in PEM form")
	}
	return certificates, nil
}

func digest(p Pair) (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, part := range [][]byte{p.Certificate, p.Key.PEM(), p.CA} {
		_ = binary.Write(h, binary.BigEndian, uint64(len(part)))
		h.Write(part)
	}
	h.Sum(sum[:0])
	return sum
}

// valid reports whether the leaf's validity includes now.
func (s *stored) valid(now time.Time) bool {
	return !now.Before(s.leaf.NotBefore) && !now.After(s.leaf.NotAfter)
}
