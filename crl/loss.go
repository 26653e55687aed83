package crl

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"time"
)

const (
	// AssumedSafetyBuffer is what tidy is taken to go by where none is known: a
	// third of Vault's default (72 h, path_tidy.go). A mount that is tidied with
	// less gives back certificates to clients whose clocks lag.
	AssumedSafetyBuffer = 24 * time.Hour
	// lossFor is how long entries that were removed early are a finding unless
	// they come back before: so long that an alert fires and somebody looks.
	lossFor = 24 * time.Hour
	// manyEntries is how many a list has at least of which half are missed.
	manyEntries = 20
)

// Early is the number of entries that were certainly removed before their time,
// at the least. Counts do not show when a certificate expires, so most early
// removals cannot be seen in them. But Vault revokes only what has not expired,
// and its tidy removes only what expired longer ago than the safety buffer: an
// entry that is gone although it was revoked less than the buffer ago was not
// removed by a tidy with that buffer. It is 0 where the lists are in the wrong
// order, and where more than the buffer lies between them.
func (c Changes) Early(safetyBuffer time.Duration) int64 {
	if c.Backwards {
		return 0
	}
	return c.young(c.elapsed, int64(safetyBuffer/time.Second))
}

// young counts what is gone of the classes of age that no tidy can have removed
// up to so many seconds after the earlier list was made.
func (c Changes) young(elapsed, buffer int64) int64 {
	var n int64
	for class, gone := range c.gone[:ages-1] {
		if elapsed+oldest(class) < buffer {
			n += gone
		}
	}
	return n
}

// Loss is that entries were removed from a list before their time, or that many
// were and no tidy is known. It outlasts the list in which they were first
// missing: what is built later hides nothing.
type Loss struct {
	Before  Mark  `json:"before"` // of the last list that had them
	At      int64 `json:"at"`     // thisUpdate of the first one without, Unix time
	SeenAt  int64 `json:"seen"`   // when that was seen, Unix time
	Missing int64 `json:"missing"`
	Added   int64 `json:"added"` // from the one to the other, with what left in time
	Removed int64 `json:"removed"`
	Buffer  int64 `json:"buffer"` // the safety buffer that it follows from, in seconds; 0 where it is Untidied
	// Assumed: that is not known, but AssumedSafetyBuffer.
	Assumed bool `json:"assumed,omitempty"`
	// Untidied: nothing is known of when the entries' certificates expire, but no
	// tidy is known to have removed them.
	Untidied bool `json:"untidied,omitempty"`
}

// NewLoss is what is certain of the changes from the list that left a Mark
// behind to s, seen at an instant: nil where nothing was removed early. The
// buffer is the smallest that a tidy between the two may have gone by; 0 where
// none is known.
func NewLoss(before Mark, s Summary, c Changes, safetyBuffer time.Duration, at time.Time) *Loss {
	l := &Loss{
		Before: before, At: s.ThisUpdate.Unix(), SeenAt: at.Unix(), Added: c.Added, Removed: c.Removed,
		Buffer: int64(safetyBuffer / time.Second), Assumed: safetyBuffer <= 0,
	}
	if l.Assumed {
		l.Buffer = int64(AssumedSafetyBuffer / time.Second)
	}
	if l.Missing = c.Early(time.Duration(l.Buffer) * time.Second); l.Missing == 0 {
		return nil
	}
	return l
}

// NewUntidied is that at least half of a list of 20 entries and more were
// removed, seen at an instant, for a list between which and the one that left a
// Mark behind no tidy is known: nil where it were fewer. They may all have been
// old enough, so it is a question and no verdict.
func NewUntidied(before Mark, s Summary, c Changes, at time.Time) *Loss {
	if c.Backwards || before.Entries < manyEntries || c.Removed < before.Entries-c.Removed {
		return nil
	}
	return &Loss{
		Before: before, At: s.ThisUpdate.Unix(), SeenAt: at.Unix(), Missing: c.Removed, Added: c.Added, Removed: c.Removed, Untidied: true,
	}
}

// Exceeds tells whether l is the one to speak of, of two at different times:
// what is certain before what is not, then the larger. The later of equal ones.
func (l *Loss) Exceeds(earlier *Loss) bool {
	switch {
	case l == nil || earlier == nil:
		return l != nil
	case l.Untidied != earlier.Untidied:
		return earlier.Untidied
	}
	return l.Missing >= earlier.Missing
}

// After is what is left of the loss in a later list, of which c are the changes
// against Before: nil once all entries are back. Entries that were revoked anew
// have another date, and are not those that were lost.
func (l *Loss) After(c Changes) *Loss {
	if c.Backwards {
		return l
	}
	gone := c.Removed
	if !l.Untidied {
		gone = c.young(l.At-l.Before.ThisUpdate, l.Buffer)
	}
	missing := min(l.Missing, gone)
	switch missing {
	case 0:
		return nil
	case l.Missing:
		return l
	}
	left := *l
	left.Missing = missing
	return &left
}

// Current tells whether the loss is still to be spoken of.
func (l *Loss) Current(now time.Time) bool {
	if l == nil || l.Missing <= 0 {
		return false
	}
	age := now.Sub(time.Unix(l.SeenAt, 0))
	return -lossFor < age && age < lossFor // a clock may have been wrong
}

// usable tells whether a Loss that was stored is one that this package made.
func (l *Loss) usable() bool {
	return l != nil && l.Before.usable() && l.Missing > 0 && (l.Buffer > 0) != l.Untidied && l.Buffer >= 0 && l.Buffer < 1<<40 && l.Removed >= l.Missing && l.At >= l.Before.ThisUpdate
}

// over tells whether l is the one to keep of the two: the later; of the same,
// that of which more has come back.
func (l *Loss) over(other *Loss) bool {
	if l == nil || other == nil {
		return l != nil
	}
	if c := cmp.Or(cmp.Compare(l.At, other.At), cmp.Compare(l.SeenAt, other.SeenAt), cmp.Compare(other.Missing, l.Missing)); c != 0 {
		return c > 0
	}
	a, errA := json.Marshal(l)
	b, errB := json.Marshal(other)
	return errA == nil && errB == nil && bytes.Compare(a, b) > 0
}

// removedEarly: entries are gone that no tidy can have removed, or so many that
// one is missed. Most early
// removals cannot be seen in counts; what is said is certain, but for a buffer
// that is assumed.
func removedEarly(o Observation, _ Thresholds, now time.Time) (Finding, bool) {
	l := o.Lost
	if !l.Current(now) {
		return Finding{}, false
	}
	instant := func(unix int64) string { return time.Unix(unix, 0).UTC().Format(time.RFC3339) }
	if l.Untidied {
		return Finding{
			Severity: Unknown,
			Summary:  fmt.Sprintf("At least %d of %d entries were removed from the CRL, and no tidy is known that removed them: whether their certificates had expired cannot be told.", l.Missing, l.Before.Entries),
			Evidence: fmt.Sprintf("the CRL of %s had %d entries, that of %s had %d of them fewer and %d more, and %d have not come back; tidy-status tells of no run since, and auto-tidy is off",
				instant(l.Before.ThisUpdate), l.Before.Entries, instant(l.At), l.Removed, l.Added, l.Missing),
			Remedy: "Compare the lists (pkiwarden crl diff --serials OLD NEW), and the serial numbers that are gone with the certificates' dates. Vault forgets tidy-status when it restarts or fails over: its audit log says whether tidy ran. " +
				"If not, see whether an issuer was deleted, imported or made the default, whether config/crl disable was set, or whether revocations were deleted from Vault's storage, and revoke anew what has not expired. The finding ends when the entries are back, or a day after they were missed.",
			Citation: "Vault builtin/logical/pki/path_tidy.go: with tidy_revoked_certs alone entries leave a CRL; the status of a run is kept in memory",
		}, true
	}
	buffer := time.Duration(l.Buffer) * time.Second
	f := Finding{
		Severity: Critical,
		Summary:  fmt.Sprintf("At least %d entries were removed from the CRL before their certificates can have expired: to clients these are good again.", l.Missing),
		Evidence: fmt.Sprintf("the CRL of %s had %d entries fewer and %d more than that of %s, and %d have not come back; ", instant(l.At), l.Removed, l.Added, instant(l.Before.ThisUpdate), l.Missing),
		Remedy: "Compare the lists (pkiwarden crl diff --serials OLD NEW). See whether an issuer was deleted, imported or made the default, whether config/crl disable was set, or whether Vault was restored from a backup; " +
			"then revoke those certificates again. The finding ends when the entries are back, or a day after they were missed.",
		Citation: "RFC 5280 section 3.3: an entry must not be removed until it appears on one regularly scheduled CRL issued beyond the revoked certificate's validity period",
	}
	switch {
	case l.Assumed && o.wentBack(now):
		f.Evidence += "the CRL number went backwards, as after a restore, and no tidy does that"
	case l.Assumed:
		f.Severity = Warning
		f.Evidence += fmt.Sprintf("Vault tells of no tidy, and one that leaves what was revoked within %s is assumed", exactly(buffer))
		f.Remedy += " Where tidy runs here with a shorter safety buffer, let pkiwarden read tidy-status and config/auto-tidy, or lengthen the buffer."
	default:
		f.Evidence += fmt.Sprintf("tidy leaves what was revoked within %s here", exactly(buffer))
	}
	return f, true
}

// exactly is a duration for a person, without parts that are zero.
func exactly(d time.Duration) string {
	if d >= time.Hour && d%time.Hour == 0 {
		return fmt.Sprintf("%d h", d/time.Hour)
	}
	return d.String()
}
