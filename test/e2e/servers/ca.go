package servers

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// CA is a small certificate authority with an ECDSA P-256 key, for servers
// that are given certificates and for tests that replace them.
type CA struct {
	Certificate *x509.Certificate
	// PEM is the certificate.
	PEM []byte

	key *ecdsa.PrivateKey
}

// NewCA makes a self-signed CA that is valid from an hour ago for ten years.
func NewCA(commonName string) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the key of CA %q: %w", commonName, err)
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: commonName},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().AddDate(10, 0, 0),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	ca := &CA{Certificate: template, key: key}
	ca.Certificate, ca.PEM, err = ca.sign(template, key.Public())
	if err != nil {
		return nil, fmt.Errorf("making CA %q: %w", commonName, err)
	}
	return ca, nil
}

// LeafOptions describe a certificate to issue.
type LeafOptions struct {
	CommonName    string
	Organizations []string
	DNSNames      []string
	IPs           []net.IP
	NotBefore     time.Time // five minutes ago by default
	NotAfter      time.Time // in a day by default
	// KeyUsage is digital signature by default.
	KeyUsage x509.KeyUsage
	// Usages are server and client authentication by default.
	Usages []x509.ExtKeyUsage
}

// Leaf is an issued certificate with its key.
type Leaf struct {
	Certificate *x509.Certificate
	// CertificatePEM is the leaf, without its CA.
	CertificatePEM []byte
	// KeyPEM is the private key, PKCS #8.
	KeyPEM []byte
}

// Issue makes a key and a certificate for it.
func (ca *CA) Issue(o LeafOptions) (*Leaf, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the key of %q: %w", o.CommonName, err)
	}
	if o.NotBefore.IsZero() {
		o.NotBefore = time.Now().Add(-5 * time.Minute)
	}
	if o.NotAfter.IsZero() {
		o.NotAfter = time.Now().Add(24 * time.Hour)
	}
	if o.KeyUsage == 0 {
		o.KeyUsage = x509.KeyUsageDigitalSignature
	}
	if o.Usages == nil {
		o.Usages = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	certificate, encoded, err := ca.sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: o.CommonName, Organization: o.Organizations},
		DNSNames:    o.DNSNames,
		IPAddresses: o.IPs,
		NotBefore:   o.NotBefore,
		NotAfter:    o.NotAfter,
		KeyUsage:    o.KeyUsage,
		ExtKeyUsage: o.Usages,
	}, key.Public())
	if err != nil {
		return nil, fmt.Errorf("issuing for %q: %w", o.CommonName, err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding the key of %q: %w", o.CommonName, err)
	}
	return &Leaf{Certificate: certificate, CertificatePEM: encoded, KeyPEM: keyPEM}, nil
}

// IssueLoopback is Issue for a server on 127.0.0.1 and localhost, with the
// given further DNS names.
func (ca *CA) IssueLoopback(commonName string, names ...string) (*Leaf, error) {
	return ca.Issue(LeafOptions{
		CommonName: commonName,
		DNSNames:   append([]string{"localhost"}, names...),
		IPs:        []net.IP{net.IPv4(127, 0, 0, 1)},
	})
}

func (ca *CA) sign(template *x509.Certificate, public crypto.PublicKey) (*x509.Certificate, []byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, err
	}
	template.SerialNumber = serial
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Certificate, public, ca.key)
	if err != nil {
		return nil, nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	return certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// KeyPEM is the CA's private key, PKCS #8: for a signer that is given this CA.
func (ca *CA) KeyPEM() ([]byte, error) { return encodeKey(ca.key) }

// Pool holds the CA alone.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.Certificate)
	return pool
}

// Write writes the CA's certificate and private key, each by renaming a
// finished file.
func (ca *CA) Write(certFile, keyFile string) error {
	key, err := ca.KeyPEM()
	if err != nil {
		return err
	}
	if err := replaceFile(keyFile, key, 0o600); err != nil {
		return err
	}
	return replaceFile(certFile, ca.PEM, 0o644)
}

// Write writes the certificate and the private key, each by renaming a
// finished file.
func (l *Leaf) Write(certFile, keyFile string) error {
	if err := replaceFile(keyFile, l.KeyPEM, 0o600); err != nil {
		return err
	}
	return replaceFile(certFile, l.CertificatePEM, 0o644)
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// replaceFile lets no reader see half a file.
func replaceFile(path string, content []byte, mode os.FileMode) error {
	temporary := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := os.WriteFile(temporary, content, mode); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
