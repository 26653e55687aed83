package k8scsr

import "time"

// How long a look at a certificate that failed is put off: twice as long each
// time. With the fifth that chance adds, the longest is under a minute, so that
// what recovers is noticed within one.
const (
	firstPause   = time.Second
	longestPause = 45 * time.Second
	// longestAsked bounds the delay that a server may ask for.
	longestAsked = 10 * time.Minute
)

// Pace is when one certificate is looked at next. Each has its own, so that one
// that fails does not slow the others. The zero Pace is due at once.
type Pace struct {
	NextAt   time.Time
	Failures int // looks in a row that failed

	since time.Time
}

// Due tells whether it is time. A clock that went back makes it so.
func (p Pace) Due(now time.Time) bool {
	return now.Before(p.since) || !now.Before(p.NextAt)
}

// Looked is the pace after a look at now that worked.
func (p Pace) Looked(now, next time.Time) Pace {
	return Pace{NextAt: next, since: now}
}

// Failed is the pace after a look at now that did not work. The pause begins
// with a second and doubles, up to 45 s; chance, in [0, 1), makes it up to a
// fifth longer, so that those who failed together do not come back together.
// A server's own wish, asked, is honoured where it is longer, up to ten minutes.
func (p Pace) Failed(now time.Time, asked time.Duration, chance float64) Pace {
	pause := longestPause
	if p.Failures < 6 {
		pause = min(pause, firstPause<<p.Failures)
	}
	pause = max(pause, min(asked, longestAsked))
	pause += time.Duration(chance * float64(pause) / 5)
	return Pace{NextAt: now.Add(pause), Failures: p.Failures + 1, since: now}
}
