package config

import (
	"strings"
	"testing"
)

// A password in an address is refused, and not repeated.
func TestAddressWithPassword(t *testing.T) {
	for _, key := range []string{"vault", "consul"} {
		text := key + ":\n  address: https://user:canary@host:8200\n"
		_, err := Parse("x.yaml", []byte(text), func(string) string { return "" })
		if err == nil {
			t.Errorf("%s.address with a password is accepted", key)
			continue
		}
		if strings.Contains(err.Error(), "canary") {
			t.Errorf("%s.address: the message repeats the password: %v", key, err)
		}
		if !strings.Contains(err.Error(), "://[redacted]@host:8200") {
			t.Errorf("%s.address: the message does not show the rest of the address: %v", key, err)
		}
	}
	env := func(name string) string {
		if name == "VAULT_ADDR" {
			return "https://user:canary@host:8200"
		}
		return ""
	}
	if _, err := Parse("", nil, env); err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("VAULT_ADDR with a password: %v", err)
	}
}
