package k8scsr

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// The key algorithms of a Spec.
const (
	ECDSA   = "ECDSA"
	RSA     = "RSA"
	Ed25519 = "Ed25519"
)

// Key is the kind of private key that is wanted.
type Key struct {
	Algorithm string // ECDSA, RSA or Ed25519
	Size      int    // bits: ECDSA 256, 384, 521; RSA 2048, 3072, 4096; Ed25519 has no choice
}

func (k Key) withDefaults() Key {
	if k.Algorithm == "" {
		k.Algorithm = ECDSA
	}
	if k.Algorithm == Ed25519 {
		k.Size = 0
	}
	if k.Size == 0 {
		k.Size = map[string]int{ECDSA: 256, RSA: 2048}[k.Algorithm]
	}
	return k
}

func (k Key) validate() error {
	sizes := map[string][]int{ECDSA: {256, 384, 521}, RSA: {2048, 3072, 4096}, Ed25519: {0}}
	allowed, known := sizes[k.Algorithm]
	if !known {
		return fmt.Errorf("algorithm %q is not one of ECDSA, RSA, Ed25519", k.Algorithm)
	}
	if !slices.Contains(allowed, k.Size) {
		return fmt.Errorf("size %d is not one of %d for %s", k.Size, allowed, k.Algorithm)
	}
	return nil
}

// String is the kind as a person writes it: "ECDSA 256", "Ed25519".
func (k Key) String() string {
	if k.Size == 0 {
		return k.Algorithm
	}
	return fmt.Sprintf("%s %d", k.Algorithm, k.Size)
}

// KeyOf tells the kind of a public key. A key of no kind that a Spec can ask
// for has the zero size and its Go type as algorithm.
func KeyOf(public crypto.PublicKey) Key {
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		return Key{ECDSA, k.Curve.Params().BitSize}
	case *rsa.PublicKey:
		return Key{RSA, k.N.BitLen()}
	case ed25519.PublicKey:
		return Key{Algorithm: Ed25519}
	}
	return Key{Algorithm: fmt.Sprintf("%T", public)}
}

// sameKey compares two public keys; an absent one equals nothing.
func sameKey(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && b != nil && k.Equal(b)
}

// usage is one API usage as a certificate shows it.
type usage struct {
	key x509.KeyUsage    // 0 for an extended one
	ext x509.ExtKeyUsage // only where key is 0
}

// usages are those that a serving certificate may carry, by their API names.
// What would make it a CA, or good for anything, is left out on purpose.
var usages = map[string]usage{
	"digital signature":  {key: x509.KeyUsageDigitalSignature},
	"content commitment": {key: x509.KeyUsageContentCommitment},
	"key encipherment":   {key: x509.KeyUsageKeyEncipherment},
	"key agreement":      {key: x509.KeyUsageKeyAgreement},
	"data encipherment":  {key: x509.KeyUsageDataEncipherment},
	"server auth":        {ext: x509.ExtKeyUsageServerAuth},
	"client auth":        {ext: x509.ExtKeyUsageClientAuth},
}

func usageNames() string {
	return strings.Join(slices.Sorted(maps.Keys(usages)), ", ")
}

// wantedUsages splits the Spec's usages as a certificate shows them.
func (s Spec) wantedUsages() (key x509.KeyUsage, ext []x509.ExtKeyUsage) {
	for _, name := range s.Usages {
		u := usages[name]
		key |= u.key
		if u.key == 0 {
			ext = append(ext, u.ext)
		}
	}
	slices.Sort(ext)
	return key, ext
}
