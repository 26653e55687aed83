package vaultpki_test

import (
	"slices"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
)

// The answers are those of Vault 1.21.1 and, without what came later, 1.13.0.
func TestAutoTidy(t *testing.T) {
	tests := []struct {
		name, answer string
		want         pki.AutoTidy
	}{
		{"1.21.1", `{"data":{"acme_account_safety_buffer":2592000,"enabled":true,"interval_duration":43200,"issuer_safety_buffer":31536000,"maintain_stored_certificate_counts":false,"max_startup_backoff_duration":900,"min_startup_backoff_duration":300,"pause_duration":"0s","publish_stored_certificate_count_metrics":false,"revocation_queue_safety_buffer":172800,"safety_buffer":259200,"tidy_acme":true,"tidy_cert_metadata":false,"tidy_cert_store":true,"tidy_cmpv2_nonce_store":false,"tidy_cross_cluster_revoked_certs":false,"tidy_expired_issuers":true,"tidy_move_legacy_ca_bundle":false,"tidy_revocation_queue":false,"tidy_revoked_cert_issuer_associations":true,"tidy_revoked_certs":true}}`,
			pki.AutoTidy{Enabled: true, Interval: 12 * time.Hour, SafetyBuffer: 72 * time.Hour, CertStore: true, RevokedCerts: true,
				Also: []string{"tidy_acme", "tidy_expired_issuers", "tidy_revoked_cert_issuer_associations"}}},
		{"1.13.0", `{"data":{"enabled":false,"interval_duration":3600,"issuer_safety_buffer":31536000,"pause_duration":"0s","safety_buffer":60,"tidy_cert_store":false,"tidy_expired_issuers":false,"tidy_move_legacy_ca_bundle":false,"tidy_revoked_cert_issuer_associations":false,"tidy_revoked_certs":true}}`,
			pki.AutoTidy{Interval: time.Hour, SafetyBuffer: time.Minute, RevokedCerts: true}},
	}
	for _, tt := range tests {
		f := newFake(t, map[string]string{"GET team/pki/config/auto-tidy": tt.answer})
		got, err := f.vault().AutoTidy(t.Context(), mount)
		if err != nil || !slices.Equal(got.Also, tt.want.Also) {
			t.Errorf("%s: %+v, %v", tt.name, got, err)
		}
		got.Also, tt.want.Also = nil, nil
		if got.Enabled != tt.want.Enabled || got.Interval != tt.want.Interval || got.SafetyBuffer != tt.want.SafetyBuffer || got.CertStore != tt.want.CertStore || got.RevokedCerts != tt.want.RevokedCerts {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

func TestDisableAutoTidy(t *testing.T) {
	f := newFake(t, map[string]string{"POST team/pki/config/auto-tidy": `{"data":{"enabled":false}}`})
	if err := f.vault().DisableAutoTidy(t.Context(), mount); err != nil {
		t.Fatal(err)
	}
	if f.bodies[0] != `{"enabled":false}` {
		t.Errorf("sent %s", f.bodies[0])
	}
	f.answers["POST team/pki/config/auto-tidy"] = `403 {"errors":["permission denied"]}`
	if err := f.vault().DisableAutoTidy(t.Context(), mount); !contains(err, `permission denied: needs capability "update" on path "team/pki/config/auto-tidy"`) {
		t.Errorf("%v", err)
	}
}
