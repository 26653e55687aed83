package pki

import (
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
)

// Rescue is all that PlanRescue knows of a mount whose lists may no longer fit
// into Vault's storage. Vault keeps revocations whether or not it can write
// them on a list, so what it keeps is what its next lists hold.
type Rescue struct {
	Mount  Mount
	Lists  []RescueList
	Config *CRLConfig // nil: could not be read

	// Denied are the rights that the token does not have, of those that
	// RescueRights names. DeniedUnknown is why they are not known, "" where they
	// are.
	Denied        []PermissionError
	DeniedUnknown string

	// TooLarge is what was said to an attempt to write what Vault keeps now; nil
	// where there was none.
	TooLarge *TooLargeError
}

// RescueList is one list: as it is served, and what Vault keeps for the next
// one.
type RescueList struct {
	Served           CRL
	ServedEntryBytes int64 // DER of the entries served

	// Groups are the entries of the next list. Together they are all of it.
	Groups []RescueGroup

	Missing int64 // entries of the next list that the served one does not have
	Stale   int64 // entries of the served list that the next one will not have

	// Doomed are serial numbers among the stale ones whose certificates have not
	// expired: their revocation is gone from Vault, and a rebuild would publish
	// them as good.
	Doomed []string
}

// RescueGroup is entries of a list, of which some or all were looked at.
type RescueGroup struct {
	Entries int64
	Bytes   int64 // DER of all of them
	Sample  []RescueEntry
}

// RescueEntry is one entry that was looked at.
type RescueEntry struct {
	NotAfter int64 // of the certificate, in Unix seconds; 0 where Vault no longer stores it
	Bytes    int32 // DER of the entry
}

// exact tells whether all entries were looked at.
func (g RescueGroup) exact() bool { return int64(len(g.Sample)) == g.Entries }

// Kept is the number of entries of the next list.
func (l RescueList) Kept() (n int64) {
	for _, g := range l.Groups {
		n += g.Entries
	}
	return n
}

// Read is how many certificates of the next list were looked at.
func (l RescueList) Read() (n int64) {
	for _, g := range l.Groups {
		n += int64(len(g.Sample))
	}
	return n
}

// RescueStatus is the state of a mount's lists.
type RescueStatus string

// The states of a mount's lists.
const (
	RescueFits     RescueStatus = "fits"     // the next lists fit
	RescueStale    RescueStatus = "stale"    // they fit, and what is served lacks revocations that it should have
	RescueOver     RescueStatus = "over"     // a next list does not fit, or perhaps does not
	RescueDisabled RescueStatus = "disabled" // lists are switched off in the mount
	RescueUnknown  RescueStatus = "unknown"  // the limit is not known, and the next list is another one than is served
)

// RescuePlan is the way out for one mount, step by step.
type RescuePlan struct {
	Status  RescueStatus `json:"status"`
	Verdict string       `json:"verdict"` // in words

	// Enough tells whether the steps that pkiwarden takes are enough; nil: not
	// known.
	Enough *bool `json:"enough"`

	Limit RescueLimit    `json:"limit"`
	Lists []RescueReport `json:"lists"`
	Steps []RescueStep   `json:"steps"`

	// Refused is why the plan must not be carried out, "" where it may.
	Refused string `json:"refused,omitempty"`
}

// RescueLimit is the limit of the mount's lists.
type RescueLimit struct {
	Backend    string `json:"backend"`
	Known      bool   `json:"known"`
	MaxBytes   int64  `json:"maxBytes"`   // DER; 0: none, or unknown
	MaxEntries int64  `json:"maxEntries"` // max_crl_entries; 0: none, or unknown
	Rule       string `json:"rule"`
}

// RescueReport is one list as the plan found it.
type RescueReport struct {
	Issuer  string     `json:"issuer"`
	Served  Size       `json:"served"`
	Next    RescueSize `json:"next"`
	Missing int64      `json:"missing"` // revocations that the served list does not have
	Stale   int64      `json:"stale"`   // entries that Vault no longer keeps
	Read    int64      `json:"read"`    // certificates that were read, of those of the next list
}

// RescueSize is a list after a step: at most, and where that was sampled at
// least.
type RescueSize struct {
	Issuer       string `json:"issuer"`
	Entries      int64  `json:"entries"`
	Bytes        int64  `json:"bytes"`
	EntriesLeast int64  `json:"entriesLeast"`
	BytesLeast   int64  `json:"bytesLeast"`
	Fits         *bool  `json:"fits"` // nil: not known
}

// The steps of a rescue.
const (
	StepTidy = iota + 1
	StepBuffer
	StepRaise
	StepNewKey
	StepDisable
	StepRotate
	StepProve
)

// RescueNeed tells whether a step is to be taken.
type RescueNeed string

// The needs of a step.
const (
	Needed  RescueNeed = "yes"
	Instead RescueNeed = "instead" // one of those that are marked so is needed
	Useless RescueNeed = "no"
)

// RescueStep is one step of a plan.
type RescueStep struct {
	Step       int          `json:"step"`
	What       string       `json:"what"`
	Why        string       `json:"why"`
	By         string       `json:"by"` // pkiwarden or you
	Need       RescueNeed   `json:"needed"`
	Capability *RescueRight `json:"capability"` // nil: none of Vault's
	Commands   []string     `json:"commands"`
	// Ways are alternatives; the settings of one are to be made together.
	Ways  [][]RescueSetting `json:"ways"`
	After []RescueSize      `json:"after"` // the lists, the step taken and those before it that are needed
	Done  string            `json:"done"`  // what came of it; "" where it was not taken
}

// Who takes a step.
const (
	ByPkiwarden = "pkiwarden"
	ByYou       = "you"
)

// RescueRight is what a step needs of Vault's policy.
type RescueRight struct {
	Path       string `json:"path"`
	Capability string `json:"capability"`
	Granted    *bool  `json:"granted"` // nil: not asked for, or not known
}

// RescueSetting is a setting and its value: with room for more revocations, and
// at the least, which leaves none.
type RescueSetting struct {
	Name  string `json:"name"`
	Value int64  `json:"value"`
	Least int64  `json:"least"`
}

// roomShare is the share of a raised limit that a list is to take: below it no
// warning is given by default.
const roomShare = 0.6

// RescueRights are the rights that pkiwarden's own steps need.
func RescueRights(m Mount) []PermissionError {
	return []PermissionError{TidyRight(m), RotateRight(m), {Path: m.Path + "/certs/revoked", Capability: "list"}}
}

// TidyRight is the right to start a run.
func TidyRight(m Mount) PermissionError {
	return PermissionError{Path: m.Path + "/tidy", Capability: "update"}
}

// StatusRight is the right to see whether a run is on, without which none is
// begun.
func StatusRight(m Mount) PermissionError {
	return PermissionError{Path: m.Path + "/tidy-status", Capability: "read"}
}

// RotateRight is the right to have the lists rebuilt.
func RotateRight(m Mount) PermissionError {
	return PermissionError{Path: m.Path + "/crl/rotate", Capability: "read"}
}

// PlanRescue plans the way out. It is a function of its arguments, and changes
// nothing.
//
// A list is said to fit only where it surely does: sizes are upper bounds, of
// what was sampled with 95 % confidence.
func PlanRescue(r Rescue, p Policy, now time.Time) RescuePlan {
	q := planner{r: r, p: p, now: now}
	q.all = q.sizes(q.keepAll)
	q.tidied = q.sizes(q.keepAfter(p.SafetyBuffer))
	q.fit = worst(q.tidied)
	plan := RescuePlan{Status: q.status(), Lists: q.reports()}
	if len(r.Lists) > 0 {
		l := r.Lists[0].Served.Limit
		plan.Limit = RescueLimit{Backend: l.Backend, Known: l.Known, MaxBytes: l.MaxBytes, MaxEntries: l.MaxEntries, Rule: l.Rule}
	}
	q.plan = &plan
	plan.Steps = q.steps()
	q.verdict()
	plan.Refused = q.refused()
	return plan
}

// Needs tells whether the plan needs a step.
func (p RescuePlan) Needs(step int) bool {
	for _, s := range p.Steps {
		if s.Step == step {
			return s.Need == Needed
		}
	}
	return false
}

// fits tells whether a list of this size can be stored; known is false where
// nobody knows.
func fits(l crl.Limit, bytes, entries int64) (fit, known bool) {
	used, bounded := l.Used(bytes, entries)
	switch {
	case bounded && used > 1:
		return false, true
	case !l.Known: // whatever max_crl_entries says, the storage's own is not known
		return false, false
	}
	return true, true
}
