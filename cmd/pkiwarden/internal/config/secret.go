package config

import (
	"fmt"
	"log/slog"
)

const redacted = "[redacted]"

// Secret is a token. However it is printed, logged or marshalled, it shows only
// whether it is set.
type Secret struct{ value string }

// NewSecret wraps a token.
func NewSecret(value string) Secret { return Secret{value} }

// Reveal is the token itself, "" when none is set.
func (s Secret) Reveal() string { return s.value }

// IsSet tells whether there is a token.
func (s Secret) IsSet() bool { return s.value != "" }

// String is "[redacted]", or "" when no token is set.
func (s Secret) String() string {
	if s.IsSet() {
		return redacted
	}
	return ""
}

// GoString redacts %#v.
func (s Secret) GoString() string { return fmt.Sprintf("%q", s.String()) }

// Format redacts every verb, %x and %d included.
func (s Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, s.String()) }

// LogValue redacts slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText redacts JSON and YAML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
