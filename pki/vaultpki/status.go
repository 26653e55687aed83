package vaultpki

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
)

// healthCodes make sys/health answer 200 in every state, so that a status says
// whether it is Vault that answers, and the body says how it is.
var healthCodes = url.Values{
	"activecode":             {"200"},
	"standbycode":            {"200"},
	"performancestandbycode": {"200"},
	"drsecondarycode":        {"200"},
	"haunhealthycode":        {"200"},
	"removedcode":            {"200"},
	"sealedcode":             {"200"},
	"uninitcode":             {"200"},
}

// Health is the state of the Vault at the client's address. No answer is an
// error wrapping [pki.ErrUnreachable]; a sealed or a standby Vault is not an
// error. No token is needed.
func (v *Vault) Health(ctx context.Context) (pki.Health, error) {
	var h struct {
		Initialized bool   `json:"initialized"`
		Sealed      bool   `json:"sealed"`
		Standby     bool   `json:"standby"`
		DRMode      string `json:"replication_dr_mode"`
		Version     string `json:"version"`
		ClusterID   string `json:"cluster_id"`
	}
	r := request{method: http.MethodGet, path: "sys/health", query: healthCodes, public: true, system: true}
	if err := v.readBare(ctx, r, &h); err != nil {
		return pki.Health{}, fmt.Errorf("reading Vault's health: %w", err)
	}
	health := pki.Health{
		Initialized: h.Initialized,
		Sealed:      h.Sealed,
		Standby:     h.Standby || h.DRMode == "secondary", // neither serves a request
		Version:     h.Version,
		ClusterID:   h.ClusterID,
	}
	if !h.Initialized || h.Sealed {
		return health, nil
	}
	// With a token, since listeners may be told to hide addresses without one.
	var leader struct {
		Address     string    `json:"leader_address"`
		ActiveSince time.Time `json:"active_time"`
	}
	if err := v.readBare(ctx, request{method: http.MethodGet, path: "sys/leader", system: true}, &leader); err != nil {
		return pki.Health{}, fmt.Errorf("reading Vault's leader: %w", err)
	}
	health.ActiveAddress, health.ActiveSince = leader.Address, leader.ActiveSince
	return health, nil
}

// ClusterID is the identity of the Vault cluster, which outlives its nodes.
// While Vault is sealed it is an error wrapping [pki.ErrSealed].
func (v *Vault) ClusterID(ctx context.Context) (string, error) {
	status, err := v.sealStatus(ctx)
	switch {
	case err != nil:
		return "", fmt.Errorf("reading the cluster ID: %w", err)
	case status.Sealed:
		return "", fmt.Errorf("reading the cluster ID: %w", pki.ErrSealed)
	case status.ClusterID == "":
		return "", fmt.Errorf("reading the cluster ID: sys/seal-status gives none")
	}
	return status.ClusterID, nil
}

type sealStatus struct {
	Sealed      bool   `json:"sealed"`
	Version     string `json:"version"`
	ClusterID   string `json:"cluster_id"`
	StorageType string `json:"storage_type"`
}

func (v *Vault) sealStatus(ctx context.Context) (sealStatus, error) {
	var s sealStatus
	r := request{method: http.MethodGet, path: "sys/seal-status", public: true, system: true}
	err := v.readBare(ctx, r, &s)
	return s, err
}

// Storage is the kind of storage below Vault and what Vault knows of its
// limits: raft's max_entry_size; nothing of Consul's. Where the policy hides
// raft's, kind and version come with the [pki.PermissionError].
//
// The size is what Vault's configuration file says at its last reload. It is
// in force only since the last start: a reload shows a changed max_entry_size
// and does not apply it (vault/raft.go, ReloadRaftConfig).
func (v *Vault) Storage(ctx context.Context) (crl.Storage, error) {
	status, err := v.sealStatus(ctx)
	if err != nil {
		return crl.Storage{}, fmt.Errorf("reading Vault's kind of storage: %w", err)
	}
	storage := crl.Storage{Backend: status.StorageType, VaultVersion: status.Version}
	if storage.Backend != "raft" {
		return storage, nil
	}
	config, err := v.config(ctx)
	if err != nil {
		return storage, fmt.Errorf("reading raft's max_entry_size: %w", err)
	}
	storage.Raft.Read = true
	if text := config.Storage.Raft.MaxEntrySize; text != "" {
		storage.Raft.MaxEntrySize, err = strconv.ParseInt(text, 10, 64)
		if err != nil {
			return storage, fmt.Errorf("reading raft's max_entry_size: %w", err)
		}
	}
	return storage, nil
}

// serverConfig is the part of sys/config/state/sanitized that is used.
type serverConfig struct {
	MaxLeaseTTL seconds `json:"max_lease_ttl"` // 0: Vault's default
	Storage     struct {
		Raft struct {
			MaxEntrySize string `json:"max_entry_size"` // "": Vault's default
		} `json:"raft"`
	} `json:"storage"`
}

func (v *Vault) config(ctx context.Context) (serverConfig, error) {
	var c serverConfig
	err := v.read(ctx, request{method: http.MethodGet, path: "sys/config/state/sanitized", system: true}, &c)
	return c, err
}
