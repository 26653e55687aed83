package pki

import (
	"time"
)

// Observation is all that Plan knows about one mount. What could not be
// learned is nil or zero and is read as unknown, never as fine.
type Observation struct {
	Mount Mount

	// CRLs are the mount's lists as they were just measured; nil when none
	// could be. Issuers that share key and subject share one list, which may
	// appear once per issuer.
	CRLs []CRL

	// Sample is what was read of the certificates behind the lists' entries; nil:
	// nothing. Plan does not change it.
	Sample *Sample

	LongestTTL LongestTTL
	CRLConfig  *CRLConfig // nil: could not be read
	AutoTidy   *AutoTidy  // nil: could not be read
	Health     Health
	Status     *TidyStatus // nil: could not be read
	OtherRun   string      // name of another mount whose tidy is on, "" without one
	Record     Record      // our own memory of this mount
	Denied     []PermissionError

	Load   Load    // of Vault
	Leases *Leases // nil: not read
}

// Load is how fast Vault answers small reads, as this client sees it.
type Load struct {
	Usual time.Duration // median over the last hour, 0: unknown
	Now   time.Duration // median of the last few, 0: unknown
}

// Leases are Vault's own counts (sys/metrics).
type Leases struct {
	Total       int64 // vault.expire.num_leases
	Irrevocable int64 // vault.expire.num_irrevocable_leases
}

// LongestTTL is the longest lifetime that the mount's roles give to a
// certificate. It bounds NotAfter from above by the date of a revocation plus
// itself, since Vault refuses to revoke what has expired.
//
// It is as good as the roles: certificates issued before a role was shortened,
// or with an explicit not_after, live longer.
type LongestTTL struct {
	Duration time.Duration // 0: unknown
	Source   string        // what sets it, or why it is unknown
}

// Known tells whether there is a bound at all.
func (t LongestTTL) Known() bool { return t.Duration > 0 }

// CRLConfig is config/crl of a mount.
type CRLConfig struct {
	Disabled    bool          // lists are empty; revocations are still stored
	AutoRebuild bool          // lists are rebuilt by time, so that tidy does not shrink them
	Expiry      time.Duration // 0: unknown
	GracePeriod time.Duration // with AutoRebuild: how long before the expiry a list is rebuilt
	MaxEntries  int64         // max_crl_entries; 0: unknown to this version, -1: none
	EnableDelta bool          // delta CRLs are built between two lists
}

// Health is the state of the Vault that answers at the configured address.
type Health struct {
	Unreachable   string // why nothing answered, "" when something did
	Initialized   bool
	Sealed        bool
	Standby       bool
	ActiveAddress string    // address of the active node, "" when unknown
	ActiveSince   time.Time // zero: unknown, or Vault has no high availability
	Version       string
	ClusterID     string
}

// TidyState is what tidy-status says about the latest run.
type TidyState string

// The states of Vault's tidy (builtin/logical/pki/path_tidy.go). They are kept
// in the memory of the active node: after a restart or a failover it is
// Inactive again, whatever happened before.
const (
	TidyInactive   TidyState = "Inactive"
	TidyRunning    TidyState = "Running"
	TidyCancelling TidyState = "Cancelling"
	TidyCancelled  TidyState = "Cancelled"
	TidyFinished   TidyState = "Finished"
	TidyError      TidyState = "Error"
)

// Active tells whether a run is on.
func (s TidyState) Active() bool { return s == TidyRunning || s == TidyCancelling }

// TidyStatus is tidy-status of a mount. Times are Vault's clock.
type TidyStatus struct {
	State            TidyState
	Error            string // what ended the run in TidyError
	TooLarge         error  // a *TooLargeError where Error says that a list did not fit
	Message          string // where it is, or was when it failed
	StartedAt        time.Time
	FinishedAt       time.Time // zero while it runs
	SafetyBuffer     time.Duration
	CertStore        bool
	RevokedCerts     bool
	CertStoreDeleted int64
	RevokedDeleted   int64

	// What Vault counts by itself; nil unless maintain_stored_certificate_counts
	// is on, and not to be trusted while CountingError is set.
	CertStoreCount *int64
	RevokedCount   *int64
	CountingError  string
}

// TidyParams are the switches of one run.
type TidyParams struct {
	CertStore    bool          // delete expired certificates
	RevokedCerts bool          // delete expired revocations, which shrinks the CRL
	SafetyBuffer time.Duration // how long after NotAfter a certificate is kept; whole seconds
	Pause        time.Duration // sleep before each entry, during which revocations go through
	Version      string        // of the server that is asked, see [TidySwitches]; "": unknown
}
