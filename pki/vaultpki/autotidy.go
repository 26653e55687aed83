package vaultpki

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
)

// autoTidyBesides are the switches of config/auto-tidy that delete or move
// something which [Vault.StartTidy] does not (builtin/logical/pki/path_tidy.go,
// getTidyConfigData). A version that does not know one does not tell it.
type autoTidyBesides struct {
	IssuerAssociations bool `json:"tidy_revoked_cert_issuer_associations"`
	ExpiredIssuers     bool `json:"tidy_expired_issuers"`
	LegacyCABundle     bool `json:"tidy_move_legacy_ca_bundle"`
	RevocationQueue    bool `json:"tidy_revocation_queue"`
	CrossCluster       bool `json:"tidy_cross_cluster_revoked_certs"`
	ACME               bool `json:"tidy_acme"`
	CertMetadata       bool `json:"tidy_cert_metadata"`
	CMPv2Nonces        bool `json:"tidy_cmpv2_nonce_store"`
	InvalidCerts       bool `json:"tidy_invalid_certs"` // OpenBao
}

// names are the switches that are on, in alphabetical order.
func (b autoTidyBesides) names() []string {
	var on []string
	for _, s := range []struct {
		name string
		on   bool
	}{
		{"tidy_acme", b.ACME},
		{"tidy_cert_metadata", b.CertMetadata},
		{"tidy_cmpv2_nonce_store", b.CMPv2Nonces},
		{"tidy_cross_cluster_revoked_certs", b.CrossCluster},
		{"tidy_expired_issuers", b.ExpiredIssuers},
		{"tidy_invalid_certs", b.InvalidCerts},
		{"tidy_move_legacy_ca_bundle", b.LegacyCABundle},
		{"tidy_revocation_queue", b.RevocationQueue},
		{"tidy_revoked_cert_issuer_associations", b.IssuerAssociations},
	} {
		if s.on {
			on = append(on, s.name)
		}
	}
	return on
}

// AutoTidy is the mount's config/auto-tidy.
func (v *Vault) AutoTidy(ctx context.Context, m pki.Mount) (pki.AutoTidy, error) {
	var c struct {
		Enabled      bool    `json:"enabled"`
		Interval     seconds `json:"interval_duration"`
		SafetyBuffer seconds `json:"safety_buffer"`
		CertStore    bool    `json:"tidy_cert_store"`
		RevokedCerts bool    `json:"tidy_revoked_certs"`
		autoTidyBesides
	}
	if err := v.read(ctx, get(m, "config/auto-tidy"), &c); err != nil {
		return pki.AutoTidy{}, fmt.Errorf("reading auto-tidy configuration of mount %s: %w", m.Name(), err)
	}
	return pki.AutoTidy{
		Enabled:      c.Enabled,
		Interval:     time.Duration(c.Interval),
		SafetyBuffer: time.Duration(c.SafetyBuffer),
		CertStore:    c.CertStore,
		RevokedCerts: c.RevokedCerts,
		Also:         c.names(),
	}, nil
}

// DisableAutoTidy switches the mount's own auto-tidy off. Its other settings
// stay as they are: Vault changes only what is written (path_tidy.go,
// pathConfigAutoTidyWrite).
func (v *Vault) DisableAutoTidy(ctx context.Context, m pki.Mount) error {
	r := request{
		method:    http.MethodPost,
		path:      m.Path + "/config/auto-tidy",
		namespace: m.Namespace,
		body:      map[string]any{"enabled": false},
	}
	if _, err := v.do(ctx, r); err != nil {
		return fmt.Errorf("switching off auto-tidy of mount %s: %w", m.Name(), err)
	}
	return nil
}
