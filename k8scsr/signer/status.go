package signer

import (
	"cmp"
	"slices"
	"time"
)

// Status is what the last looks of one signer left. Times that are not known are
// zero.
type Status struct {
	Name      string
	Namespace string // of the CA's Secret
	Secret    string

	LookedAt time.Time // the end of the last look; zero before the first
	Err      error     // why the last look failed; nil: it did not. What was observed is then older
	NextAt   time.Time // of the next look, if nothing happens before

	CAProblem string    // why the CA cannot sign; "" when it can, or was not looked at yet
	NotBefore time.Time // of the CA's certificate
	NotAfter  time.Time // of the CA, or of the first above it that ends sooner

	Signed       int // since this instance leads
	Refused      int // since this instance leads
	LastSignedAt time.Time
}

func (st *Status) count(r result, now time.Time) {
	switch r {
	case resultSigned:
		st.Signed++
		st.LastSignedAt = now
	case resultRefused:
		st.Refused++
	}
}

func (a *authority) note(change func(*Status)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change(&a.status)
}

// Status is what is known of each signer, by name. It waits for no look and asks
// nobody. It holds no key.
func (s *Signer) Status() []Status {
	out := make([]Status, 0, len(s.all))
	for _, a := range s.all {
		a.mu.Lock()
		st := a.status
		a.mu.Unlock()
		st.Name, st.Namespace, st.Secret = a.name(), a.Namespace, a.Secret
		out = append(out, st)
	}
	slices.SortFunc(out, func(a, b Status) int { return cmp.Compare(a.Name, b.Name) })
	return out
}
