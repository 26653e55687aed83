package pki_test

import (
	"slices"
	"testing"

	"github.com/pkiwarden/pkiwarden/pki"
)

func TestTidySwitches(t *testing.T) {
	old := []string{"tidy_cert_store", "tidy_revoked_certs", "safety_buffer"}
	all := append(slices.Clone(old), "pause_duration", "tidy_revoked_cert_issuer_associations")
	tests := []struct {
		version string
		names   []string
		known   bool
	}{
		{"1.11.12", old, true},
		{"1.12.0", all, true},
		{"1.13.0", all, true},
		{"1.17.6+ent.hsm.fips1402", all, true},
		{"1.21.1", all, true},
		{"1.21.0-rc1", all, true},
		{"2.0.4", all, true}, // Vault
		{"2.6.2", all, true}, // OpenBao
		{"v2.4.4-HEAD", all, true},
		{"1.22.0", all, false}, // there is none
		{"3.0.0", all, false},
		{"", all, false},
		{"1", all, false},
		{"one.two", all, false},
		{"-1.12", all, false},
	}
	for _, tt := range tests {
		names, known := pki.TidySwitches(tt.version)
		if !slices.Equal(names, tt.names) || known != tt.known {
			t.Errorf("%q: %v, known %t; want %v, %t", tt.version, names, known, tt.names, tt.known)
		}
	}
}
