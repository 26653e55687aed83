package pki

import (
	"fmt"
	"time"
)

// SafetyBufferFloor is the shortest safety buffer that is accepted without
// Policy.AllowShortSafetyBuffer. Clocks and relying parties lag; what tidy has
// deleted cannot be listed as revoked again.
const SafetyBufferFloor = 24 * time.Hour

// LongestPause is the longest pause that a run may be given: a run of a thousand
// entries takes three hours then, and is not cancelled earlier than after one of
// them.
const LongestPause = 10 * time.Second

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

	// Windows are when runs may begin; none: always. A run that has begun is
	// seen through whenever it ends.
	Windows []Window

	// IgnoreWindowsWhenCritical lets a run begin outside Windows while a list of
	// which something may be reclaimable is Critical.
	IgnoreWindowsWhenCritical bool
	Critical                  Pressure

	// OwnAutoTidy: the mount's own auto-tidy is switched off, as far as runs do
	// what it does.
	OwnAutoTidy bool

	// Asked: a person or a job asks for a run now. It is not held back by an
	// earlier request that Vault refused.
	Asked bool

	// Force skips Trigger, Settle and Windows. Nothing else yields to it.
	Force bool
}

// Pressure is how near to the storage's limit a list is, by either. Zero
// switches one off.
type Pressure struct {
	Share   float64       // of the limit
	Horizon time.Duration // until the limit is likely reached
}

// Trigger holds the thresholds of which any one makes a run due. Zero switches
// a threshold off.
type Trigger struct {
	ReclaimableShare   float64       // of the mount's entries, counted by Estimate.Sure
	ReclaimableEntries int64         // likewise
	LimitShare         float64       // of the storage's limit, by any CRL of which something may be reclaimable
	Horizon            time.Duration // until the limit is likely reached, by any such CRL
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
	case p.Pause > LongestPause:
		return fmt.Errorf("pause %s is longer than %s, which a run then takes for each entry: set tidy.pause, or leave it at auto", p.Pause, LongestPause)
	case p.MinInterval < 0 || p.Pause < 0 || p.Trigger.AtLeastEvery < 0 || p.Trigger.Horizon < 0 || p.Critical.Horizon < 0:
		return fmt.Errorf("minInterval %s, pause %s, atLeastEvery %s and horizons %s, %s must not be negative",
			p.MinInterval, p.Pause, p.Trigger.AtLeastEvery, p.Trigger.Horizon, p.Critical.Horizon)
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
