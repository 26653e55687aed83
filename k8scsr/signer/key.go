package signer

import (
	"crypto"
	"crypto/rand"
	"fmt"
	"log/slog"
	"math/big"
)

// redacted is all that a CA's key ever says of itself.
const redacted = "[CA key]"

// caKey is a CA's private key. Whatever prints it, prints that it is one.
type caKey struct{ signer *crypto.Signer }

func newCAKey(signer crypto.Signer) caKey { return caKey{&signer} }

// forget lets go of the key: nothing that still holds the value has it.
func (k caKey) forget() { *k.signer = nil }

func (caKey) String() string               { return redacted }
func (caKey) GoString() string             { return redacted }
func (caKey) Format(f fmt.State, _ rune)   { fmt.Fprint(f, redacted) }
func (caKey) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (caKey) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// newSerial draws 159 random bits: what 20 octets hold as a positive number (RFC
// 5280 section 4.1.2.2). None of them is a counter or a time.
func newSerial() *big.Int {
	var octets [20]byte
	rand.Read(octets[:]) // never fails (crypto/rand)
	octets[0] &= 0x7f
	return new(big.Int).SetBytes(octets[:])
}
