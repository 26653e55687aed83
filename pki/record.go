package pki

import (
	"strings"
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

	// Owed is the rotation without which the lists still show what a run of the
	// history deleted; nil where none is owed.
	Owed *OwedRotation `json:"owedRotation,omitempty"`

	// Slower is how often the next run's pause is doubled: once for each run
	// that was cancelled because Vault got slow, less one for each that was not.
	Slower int `json:"slower,omitempty"`
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
	Pause        time.Duration `json:"pause,omitempty"`
	PauseReason  string        `json:"pauseReason,omitempty"`
	Predicted    Prediction    `json:"predicted"`
	Margin       int64         `json:"margin,omitempty"`  // the prediction is off by at most this in 95 of 100 cases
	Sampled      int64         `json:"sampled,omitempty"` // certificates that were read for it
	Possible     int64         `json:"possible"`          // upper bound of what was reclaimable
	Before       Size          `json:"before"`

	// PreviousStart is the start (Vault's) of the run before: a tidy-status
	// with another one speaks of this run or of a later one.
	PreviousStart time.Time `json:"previousStart,omitzero"`
	StartedAt     time.Time `json:"startedAt,omitzero"` // Vault's; zero: not seen

	Attempts    int              `json:"attempts,omitempty"` // at the present step
	State       RunState         `json:"state,omitempty"`
	Deleted     *int64           `json:"deleted,omitempty"` // revocations; nil: unknown
	Cancel      string           `json:"cancel,omitempty"`  // why we asked Vault to stop it
	Error       string           `json:"error,omitempty"`
	Denied      *PermissionError `json:"denied,omitempty"` // what Error says, where a right was missing
	Rotated     bool             `json:"rotated,omitempty"`
	Owes        bool             `json:"owes,omitempty"` // the lists were to be rotated, and could not be
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
	switch {
	case run.Outcome == OutcomeOK: // whatever was owed before is on these lists
		r.EffectiveAt, r.Owed = run.EndedAt, nil
	case run.Owes:
		r.Owed = &OwedRotation{Run: run.ID, Since: run.EndedAt}
	}
	switch {
	case run.Foreign:
	case run.CancelledForLoad():
		r.Slower = min(r.Slower+1, maxSlower)
	case run.State == RunFinished:
		r.Slower = max(r.Slower-1, 0)
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

// Is tells whether a status speaks of the run: of the one that began when it
// did, or, before that is known, of any that is not the one before it.
func (r Run) Is(s TidyStatus) bool {
	if !r.StartedAt.IsZero() {
		return s.StartedAt.Equal(r.StartedAt)
	}
	return !s.StartedAt.IsZero() && !s.StartedAt.Equal(r.PreviousStart)
}

// IsOn tells whether a status says that the run is on.
func (r Run) IsOn(s TidyStatus) bool { return s.State.Active() && r.Is(s) }

// CancelledForLoad tells whether the run was stopped for Vault's sake, so that
// the next one has to be gentler. One that a person stopped says nothing about
// Vault.
func (r Run) CancelledForLoad() bool { return strings.HasPrefix(r.Cancel, cancelForLoad) }

// cancelForLoad begins Run.Cancel where Vault got slow.
const cancelForLoad = "Vault got slow: "

// CancelForLoad returns r with the reason to stop it for Vault's sake.
func (r Run) CancelForLoad(why string) Run {
	r.Cancel = cancelForLoad + why
	return r
}

// NeverStarted tells whether r left no trace in Vault.
func (r Run) NeverStarted() bool {
	return r.Outcome == OutcomeInterrupted && r.StartedAt.IsZero() && r.State == ""
}
