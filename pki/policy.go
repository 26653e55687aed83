package pki

import (
	"fmt"
	"time"
)

// SafetyBufferFloor is the shortest safety buffer that is accepted without
// Policy.AllowShortSafetyBuffer. Clocks and relying parties lag; what tidy has
// deleted cannot be listed as revoked again.
const SafetyBufferFloor = 24 * time.Hour

// SettleTime is how long a newly elected active node is left alone by default:
// it has leases to restore and clients to take in.
const SettleTime = 2 * time.Minute

// Policy says when tidy runs and with which switches. The zero value never
// runs: it has no safety buffer.
type Policy struct {
	// Enabled: runs are carried out. Plan does not look at it, so that a
	// disabled policy can say what it would do.
	Enabled bool

	SafetyBuffer           time.Duration
	AllowShortSafetyBuffer bool
	Trigger                Trigger
	MinInterval            time.Duration // between the end of one run and the start of the next
	Pause                  time.Duration // pause_duration of a run
	CertStore              bool          // tidy expired certificates too
	Rotate                 bool          // rotate the CRL where tidy does not rebuild it

	// Settle is how long a newly elected active node is left alone; 0 stands for
	// SettleTime.
	Settle time.Duration

	// Asked: a person or a job asks for a run now. It is not held back by an
	// earlier request that Vault refused.
	Asked bool

	// Force skips Trigger and Settle. Nothing else yields to it.
	Force bool
}

// Trigger holds the thresholds of which any one makes a run due. Zero switches
// a threshold off.
type Trigger struct {
	ReclaimableShare   float64       // of the mount's entries, counted by Estimate.Sure
	ReclaimableEntries int64         // likewise
	LimitShare         float64       // of the storage's limit, by any CRL of which something may be reclaimable
	AtLeastEvery       time.Duration // longest pause between two runs
}

// Validate refuses a policy that no run may follow, and names the remedy.
func (p Policy) Validate() error {
	switch {
	case p.SafetyBuffer < time.Second:
		return fmt.Errorf("safety buffer %s is shorter than the second that Vault asks for: set tidy.safetyBuffer", p.SafetyBuffer)
	case p.SafetyBuffer < SafetyBufferFloor && !p.AllowShortSafetyBuffer:
		return fmt.Errorf("safety buffer %s is below the floor of %s: lengthen tidy.safetyBuffer, or set tidy.allowShortSafetyBuffer: true", p.SafetyBuffer, SafetyBufferFloor)
	case p.SafetyBuffer%time.Second != 0:
		return fmt.Errorf("safety buffer %s is not whole seconds, which Vault asks for", p.SafetyBuffer)
	case p.MinInterval < 0 || p.Pause < 0 || p.Trigger.AtLeastEvery < 0:
		return fmt.Errorf("minInterval %s, pause %s and atLeastEvery %s must not be negative", p.MinInterval, p.Pause, p.Trigger.AtLeastEvery)
	}
	return nil
}

// Params are the switches of the runs that p allows.
func (p Policy) Params() TidyParams {
	return TidyParams{
		CertStore:    p.CertStore,
		RevokedCerts: true,
		SafetyBuffer: p.SafetyBuffer,
		Pause:        p.Pause,
	}
}
