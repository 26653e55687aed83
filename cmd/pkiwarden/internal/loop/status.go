package loop

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// State is what one loop has come to since it began. Times that are not known
// are zero.
type State struct {
	Name        string
	RunningAt   time.Time // when the run under way began; zero between two runs
	LastSuccess time.Time
	Failures    int    // in a row, up to now
	LastError   string // of the last run that failed, cut to maxErrorText; it stays after a success
	LastErrorAt time.Time
	NextAt      time.Time // when it runs next if it is not woken; zero during a run
}

// maxErrorText is how many octets of an error are kept, which others may have
// put into it.
const maxErrorText = 500

// States are those of all loops that have begun and not ended, by name. It
// waits for no run.
func (m *Metrics) States() []State {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.SortedFunc(maps.Values(m.states), func(a, b State) int { return cmp.Compare(a.Name, b.Name) })
}

// begun says that a run has begun.
func (m *Metrics) begun(loop string) {
	m.note(loop, func(s *State) { s.RunningAt, s.NextAt = time.Now(), time.Time{} })
}

// rests says when the next run begins, after one has ended.
func (m *Metrics) rests(loop string, pause time.Duration) {
	m.note(loop, func(s *State) { s.RunningAt, s.NextAt = time.Time{}, time.Now().Add(pause) })
}

// ended says how a run ended.
func (s State) ended(now time.Time, err error) State {
	if err == nil {
		s.LastSuccess, s.Failures = now, 0
		return s
	}
	s.Failures++
	s.LastError, s.LastErrorAt = cut(err.Error()), now
	return s
}

func (m *Metrics) note(loop string, change func(*State)) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.states[loop]
	s.Name = loop
	change(&s)
	m.states[loop] = s
}

func cut(text string) string {
	if len(text) <= maxErrorText {
		return text
	}
	return text[:maxErrorText] + "…"
}
