package pki

import (
	"time"
)

// RecordVersion is the version of Record's JSON form.
const RecordVersion = 1

// historyLength is how many concluded runs a Record remembers.
const historyLength = 20

// Record is what is remembered about the tidying of one mount, shared by all
// instances and changed by compare-and-swap only. A run is in it before it is
// asked of Vault, so that one decision makes at most one run.
type Record struct {
	Version      int       `json:"version"`
	Mount        string    `json:"mount"` // its name, for a person who reads this
	WatchedSince time.Time `json:"watchedSince,omitzero"`
	EffectiveAt  time.Time `json:"effectiveAt,omitzero"` // end of the latest run that shrank a CRL
	Run          *Run      `json:"run,omitempty"`        // decided and not concluded
	History      []Run     `json:"history,omitempty"`    // concluded, oldest first

	AutoTidy *OwnedAutoTidy `json:"autoTidy,omitempty"` // the mount's own, where pkiwarden switched it off
}

// Step is how far a run has come. Each step can be taken up by another
// instance once the deadline of its holder has passed.
type Step string

// The steps of a run, in order.
const (
	StepDecided   Step = "decided"   // written down, not yet asked of Vault
	StepRunning   Step = "running"   // Vault accepted it
	StepRotating  Step = "rotating"  // it ended; the CRL is to be rebuilt
	StepMeasuring Step = "measuring" // the CRL is to be measured
	StepConcluded Step = "concluded"
)

// RunState is how a run ended, in Vault's words in lower case, or unknown.
type RunState string

// The states of a run that has ended.
const (
	RunFinished  RunState = "finished"
	RunError     RunState = "error"
	RunCancelled RunState = "cancelled"
	RunUnknown   RunState = "unknown" // Vault forgot it: restart or failover
)

// Outcome is the verdict on a run. The list is closed: it is a metric's label.
type Outcome string

// The outcomes of a run.
const (
	OutcomeOK          Outcome = "ok"          // a CRL was rebuilt without what was deleted
	OutcomeNoEffect    Outcome = "no_effect"   // it ended well and achieved nothing
	OutcomeFailed      Outcome = "failed"      // it ended in an error and achieved nothing
	OutcomeInterrupted Outcome = "interrupted" // never started, cancelled or forgotten, and achieved nothing
	OutcomeRefused     Outcome = "refused"     // Vault did not start it
)

// Outcomes are all of them.
var Outcomes = []Outcome{OutcomeOK, OutcomeNoEffect, OutcomeFailed, OutcomeInterrupted, OutcomeRefused}

// Run is one run of tidy, from the decision to the proof. Times are ours,
// except those called Vault's.
type Run struct {
	ID       string    `json:"id"`
	Holder   string    `json:"holder"` // the instance that takes the next step
	Step     Step      `json:"step"`
	Deadline time.Time `json:"deadline,omitzero"` // after it another instance takes over
	Foreign  bool      `json:"foreign,omitempty"` // somebody else's, which is followed

	Reason       string        `json:"reason"`
	DecidedAt    time.Time     `json:"decidedAt,omitzero"`
	SafetyBuffer time.Duration `json:"safetyBuffer"` // nanoseconds
	Predicted    Prediction    `json:"predicted"`
	Possible     int64         `json:"possible"` // upper bound of what was reclaimable
	Before       Size          `json:"before"`

	// PreviousStart is the start (Vault's) of the run before: a tidy-status
	// with another one speaks of this run or of a later one.
	PreviousStart time.Time `json:"previousStart,omitzero"`
	StartedAt     time.Time `json:"startedAt,omitzero"` // Vault's; zero: not seen

	Attempts    int              `json:"attempts,omitempty"` // at the present step
	State       RunState         `json:"state,omitempty"`
	Deleted     *int64           `json:"deleted,omitempty"` // revocations; nil: unknown
	Error       string           `json:"error,omitempty"`
	Denied      *PermissionError `json:"denied,omitempty"` // what Error says, where a right was missing
	Rotated     bool             `json:"rotated,omitempty"`
	After       *Size            `json:"after,omitempty"`
	EndedAt     time.Time        `json:"endedAt,omitzero"`
	Outcome     Outcome          `json:"outcome,omitempty"`
	Explanation string           `json:"explanation,omitempty"`
}

// Conclude returns r with run, its open run, moved to the history.
func (r Record) Conclude(run Run) Record {
	run.Step = StepConcluded
	run.Deadline = time.Time{}
	r.Run = nil
	r.History = append(append([]Run(nil), r.History...), run)
	if extra := len(r.History) - historyLength; extra > 0 {
		r.History = r.History[extra:]
	}
	if run.Outcome == OutcomeOK {
		r.EffectiveAt = run.EndedAt
	}
	return r
}

// Last is the latest concluded run, nil without one.
func (r Record) Last() *Run {
	if len(r.History) == 0 {
		return nil
	}
	return &r.History[len(r.History)-1]
}

// NeverStarted tells whether r left no trace in Vault.
func (r Run) NeverStarted() bool {
	return r.Outcome == OutcomeInterrupted && r.StartedAt.IsZero() && r.State == ""
}
