package pki

import (
	"fmt"
	"time"
)

// The bounds of a pause that is chosen, and how far doublings may take it.
const (
	shortestPause = time.Millisecond
	usualPause    = 10 * time.Millisecond
	longestPause  = 50 * time.Millisecond
	slowedPause   = 500 * time.Millisecond
)

// maxSlower is how many doublings a Record remembers.
const maxSlower = 5

// pauseReads is how many reads a pause is as long as: tidy then has the lock
// that revocations wait for at most a fifth of the time.
const pauseReads = 4

// PauseInput is what the pause of a run is chosen from.
type PauseInput struct {
	Revocations  int64         // that the run looks at, one by one, under the lock that revoking needs
	Certificates int64         // stored ones that it looks at besides; negative: it does, and their number is unknown
	Read         time.Duration // how long Vault takes for a small read; 0: unknown
	Within       time.Duration // how long the run may take; 0: as long as it takes
	Slower       int           // how often to double, after runs that Vault was too slow for
}

// Pause is pause_duration of a run, whole milliseconds, and why.
type Pause struct {
	Each   time.Duration
	Reason string
}

// ChoosePause chooses how long tidy sleeps before each entry. Vault holds the
// mount's revocation lock through the whole revoked phase except while it
// sleeps (builtin/logical/pki/path_tidy.go, doTidyRevocationStore): without a
// pause every revocation waits for the end of the run.
//
// The pause is 10 ms, or four times what Vault takes for a read where that is
// more, at most 50 ms; less where the run would not end in the time that it
// has, but never less than 1 ms, since any pause at all lets revocations
// through. The doublings of Slower come on top, up to 500 ms, whatever the
// time.
func ChoosePause(in PauseInput) Pause {
	pause, why := usualPause, "the usual pause"
	if wanted := ceil(pauseReads * in.Read); wanted > usualPause {
		pause = min(wanted, longestPause)
		why = fmt.Sprintf("Vault takes %s for a small read", milliseconds(in.Read))
	}
	entries, counted := in.entries()
	if in.Within > 0 && entries > 0 {
		longest := max(in.Within/time.Duration(entries)-in.Read, 0).Truncate(time.Millisecond)
		if longest < pause {
			pause = max(longest, shortestPause)
			why = fmt.Sprintf("to be through within %s", in.Within.Round(time.Second))
		}
	}
	pause, slowed := slower(pause, in.Slower)
	if slowed {
		why += fmt.Sprintf(", doubled %s because Vault got slow during earlier runs", times(in.Slower))
	}
	reason := fmt.Sprintf("%s before each of %s: %s; about %s in all", pause, counted, why, about(time.Duration(entries)*(pause+in.Read)))
	return Pause{Each: pause, Reason: reason}
}

// FixedPause is a pause that the configuration sets, with its doublings.
func FixedPause(d time.Duration, doublings int) Pause {
	pause, slowed := slower(d, doublings)
	if !slowed {
		return Pause{Each: d, Reason: "as configured"}
	}
	return Pause{Each: pause, Reason: fmt.Sprintf("%s as configured, doubled %s because Vault got slow during earlier runs", d, times(doublings))}
}

// slower doubles a pause; what was none becomes the shortest first.
func slower(d time.Duration, doublings int) (time.Duration, bool) {
	if doublings <= 0 || d >= slowedPause {
		return d, false
	}
	d = max(d, shortestPause)
	for range min(doublings, maxSlower) {
		d *= 2
	}
	return min(d, slowedPause), true
}

// entries is how many entries a run looks at, and in words. A certificate that
// was revoked is stored as well, as a rule, so that unknown certificates are as
// many as revocations at least.
func (in PauseInput) entries() (int64, string) {
	switch {
	case in.Certificates < 0:
		return 2 * in.Revocations, fmt.Sprintf("%d revocations and the certificates stored, counted as often", in.Revocations)
	case in.Certificates == 0:
		return in.Revocations, fmt.Sprintf("%d revocations", in.Revocations)
	}
	return in.Revocations + in.Certificates, fmt.Sprintf("%d revocations and %d certificates", in.Revocations, in.Certificates)
}

func ceil(d time.Duration) time.Duration {
	return (d + time.Millisecond - 1).Truncate(time.Millisecond)
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", min(n, maxSlower))
}

// about is a duration as a guess is told.
func about(d time.Duration) time.Duration {
	if d > time.Minute {
		return d.Round(time.Minute)
	}
	return d.Round(time.Second)
}
