package tidier

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
)

// Status is one mount as [Tidier.Once] last saw it, and what was decided. Times
// that are not known are zero.
type Status struct {
	Mount     pki.Mount
	DecidedAt time.Time
	Verdict   pki.Verdict
	Reason    string    // of the verdict, in words
	NextAt    time.Time // when a run may be due, see [pki.DueAt]
	Run       *pki.Run  // decided and not concluded; nil: there is none
	Last      *pki.Run  // the latest that was concluded; nil: none is known
	Owed      bool      // a rotation that a run owes
}

// board holds statuses for those who must not wait for a turn.
type board struct {
	mu  sync.Mutex
	all []Status
}

// Status is what was last decided about each mount that could be looked at, by
// name. It waits for no look and asks nobody.
func (t *Tidier) Status() []Status {
	t.board.mu.Lock()
	defer t.board.mu.Unlock()
	return slices.Clone(t.board.all)
}

// show replaces what is shown by what the views say; what is in none of them is
// no longer known.
func (t *Tidier) show(views []*view) {
	all := make([]Status, 0, len(views))
	for _, v := range views {
		s := Status{Mount: v.mount, DecidedAt: v.lookedAt, Verdict: v.decision.Verdict, Reason: v.decision.Reason, NextAt: t.dueAt(v), Owed: v.record.Owed != nil}
		if run := v.record.Run; run != nil {
			s.Run = new(*run)
		}
		if last := v.record.Last(); last != nil {
			s.Last = new(*last)
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b Status) int { return cmp.Compare(a.Mount.Name(), b.Mount.Name()) })
	t.board.mu.Lock()
	defer t.board.mu.Unlock()
	t.board.all = all
}
