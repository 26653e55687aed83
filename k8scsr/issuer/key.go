package issuer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base32"
	"encoding/pem"
	"fmt"
	"log/slog"
	"strings"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

// redacted is all that a private key ever says of itself.
const redacted = "[private key]"

// privateKey is a key and its PEM. Whatever prints it, prints that it is one.
type privateKey struct {
	signer crypto.Signer
	pem    []byte
}

func (privateKey) String() string               { return redacted }
func (privateKey) GoString() string             { return redacted }
func (privateKey) Format(f fmt.State, _ rune)   { fmt.Fprint(f, redacted) }
func (privateKey) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (privateKey) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// generateKey makes a key of the wanted kind, encoded as PKCS #8.
func generateKey(want k8scsr.Key) (privateKey, error) {
	var signer crypto.Signer
	var err error
	switch want.Algorithm {
	case k8scsr.ECDSA:
		curve := map[int]elliptic.Curve{256: elliptic.P256(), 384: elliptic.P384(), 521: elliptic.P521()}[want.Size]
		signer, err = ecdsa.GenerateKey(curve, rand.Reader)
	case k8scsr.RSA:
		signer, err = rsa.GenerateKey(rand.Reader, want.Size)
	case k8scsr.Ed25519:
		_, signer, err = ed25519.GenerateKey(rand.Reader)
	default:
		err = fmt.Errorf("unknown algorithm %q", want.Algorithm)
	}
	if err != nil {
		return privateKey{}, fmt.Errorf("generating %v key: %w", want, err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		return privateKey{}, fmt.Errorf("encoding %v key: %w", want, err)
	}
	return privateKey{signer, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})}, nil
}

// signRequest makes the PKCS #10 request of the Spec for the key.
func signRequest(want k8scsr.Spec, key privateKey) ([]byte, error) {
	template, err := want.Template()
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key.signer)
	if err != nil {
		return nil, fmt.Errorf("signing the request of certificate %q: %w", want.Name, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// requestPrefix begins the name of every CSR.
const requestPrefix = "pkiwarden-"

// requestName draws a name for a CSR that nobody else uses: the Secret's name
// to be recognised, and 80 random bits.
func requestName(secret string) string {
	var random [10]byte
	rand.Read(random[:]) // never fails (crypto/rand)
	suffix := strings.ToLower(base32.StdEncoding.EncodeToString(random[:]))
	return requestPrefix + strings.TrimRight(secret[:min(len(secret), 200)], ".-") + "-" + suffix
}
