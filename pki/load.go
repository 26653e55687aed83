package pki

import (
	"fmt"
	"time"
)

// A Vault counts as degraded when it answers this much slower than usual, and
// slower than this at all: below it nobody waits for it.
const (
	degradedFactor = 5
	degradedAbove  = 500 * time.Millisecond
)

// Degraded tells whether Vault answers much slower than usual, and says so in
// words. What is unknown is not degraded.
func (l Load) Degraded() (why string, degraded bool) {
	if l.Usual <= 0 || l.Now <= degradedAbove || l.Now <= degradedFactor*l.Usual {
		return "", false
	}
	return fmt.Sprintf("Vault answers small reads in %s, usually in %s", milliseconds(l.Now), milliseconds(l.Usual)), true
}

// milliseconds is a latency as a person reads it.
func milliseconds(d time.Duration) time.Duration {
	if d < 10*time.Millisecond {
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(time.Millisecond)
}
