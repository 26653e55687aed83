package loop

import (
	"log/slog"
	"regexp"
	"sync"
	"time"
)

// maxCauses bounds how many causes of one outage are told apart.
const maxCauses = 16

// Condition turns a stream of outcomes into one log line per change of state:
// the first failure, each further cause of the same outage once, and the
// recovery with the number of failures and how long they lasted.
//
// Two errors have the same cause when they differ only in digits: port
// numbers, request IDs and durations change from one attempt to the next.
type Condition struct {
	log *slog.Logger

	mu       sync.Mutex
	since    time.Time // of the first failure; zero while all is well
	failures int
	causes   map[string]bool
}

// NewCondition makes a condition that is well until told otherwise. The
// logger carries what it is about.
func NewCondition(log *slog.Logger) *Condition {
	return &Condition{log: log, causes: make(map[string]bool)}
}

var digits = regexp.MustCompile(`[0-9]+`)

// Set takes the outcome of one attempt; nil is success.
func (c *Condition) Set(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		if c.failures > 0 {
			c.log.Info("recovered", "failures", c.failures, "after", time.Since(c.since).Round(time.Millisecond))
		}
		c.since, c.failures = time.Time{}, 0
		clear(c.causes)
		return
	}
	c.failures++
	cause := digits.ReplaceAllString(err.Error(), "0")
	switch {
	case c.failures == 1:
		c.since = time.Now()
		c.log.Warn("failing", "error", err)
	case !c.causes[cause] && len(c.causes) < maxCauses:
		c.log.Warn("failing for another cause", "error", err, "failures", c.failures)
	default:
		c.log.Debug("failing still", "error", err, "failures", c.failures)
	}
	if len(c.causes) < maxCauses {
		c.causes[cause] = true
	}
}
