package tidier

import (
	"context"
	"fmt"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
)

// RescueProof is what the lists were found to hold at the end of a rescue: each
// revoked certificate that has not expired, of those on the lists when it began
// and of those that Vault keeps, has to be on the list that it belongs on.
type RescueProof struct {
	Kept      int64        `json:"kept"`      // revocations that Vault keeps
	Unexpired int64        `json:"unexpired"` // revoked, and not expired: kept, or on a list before
	Found     int64        `json:"found"`     // of these, on the list that they belong on
	Lost      int64        `json:"lost"`      // of these, not on it
	LostOnes  []string     `json:"lostSerials"`
	Expired   int64        `json:"expired"`  // taken off, expired
	Unstored  int64        `json:"unstored"` // taken off, of which Vault had no certificate any more: an earlier tidy deleted it, which deletes what has expired
	Lists     []ProvedList `json:"lists"`
}

// ProvedList is a list as it is served now.
type ProvedList struct {
	Issuer     string    `json:"issuer"`
	Number     string    `json:"number"`
	ThisUpdate time.Time `json:"thisUpdate"`
	pki.Size
	Room *int64 `json:"room"` // revocations that fit besides; nil: no limit, or none known
}

// words sums it up.
func (p *RescueProof) words() string {
	if p.Lost > 0 {
		return fmt.Sprintf("%d of %d revoked certificates that have not expired are not on the lists: %v", p.Lost, p.Unexpired, p.LostOnes)
	}
	return fmt.Sprintf("all %d revoked certificates that have not expired are on the lists; %d expired ones were taken off", p.Unexpired, p.Expired+p.Unstored)
}

// lostShown is how many lost serial numbers are named.
const lostShown = 5

// prove takes step 7: it asks what Vault keeps, fetches the lists, and looks for
// the ones on the others. It tells whether nothing is lost.
//
// What Vault keeps is asked before the lists are, so that what is revoked
// meanwhile can only be on them besides.
func (r *rescuing) prove(ctx context.Context) (bool, error) {
	r.step = "step 7 (proof)"
	r.say("step 7: proof")
	if err := r.relist(ctx); err != nil {
		return false, err
	}
	lists, err := r.fetch(ctx)
	if err != nil {
		return false, err
	}
	now := r.t.now()
	p := &RescueProof{Lists: []ProvedList{}, LostOnes: []string{}}
	r.index.each(func(h *held) {
		if h.kept {
			p.Kept++
		}
		switch {
		case h.list == noList:
		case h.notAfter > now.Unix(), h.kept && h.unstored:
			p.Unexpired++
			if h.listed {
				p.Found++
				return
			}
			p.Lost++
			if len(p.LostOnes) < lostShown {
				p.LostOnes = append(p.LostOnes, r.index.text(*h))
			}
		case h.listed || !h.served:
		case h.unstored:
			p.Unstored++
		default:
			p.Expired++
		}
	})
	for _, l := range lists {
		s := l.Summary
		proved := ProvedList{Issuer: l.Issuer.Label(), ThisUpdate: s.ThisUpdate, Size: pki.Size{Entries: s.Entries, Bytes: s.Bytes}}
		if s.Number != nil {
			proved.Number = s.Number.String()
		}
		if room, known := pki.RoomFor(r.limitOf(l), s.Bytes, s.Entries); known {
			proved.Room = &room
		}
		p.Lists = append(p.Lists, proved)
	}
	r.report.Proof = p
	if p.Lost > 0 {
		return false, nil
	}
	r.done(pki.StepProve, p.words())
	r.report.Status, r.report.Enough = pki.RescueFits, new(true)
	r.report.Verdict = "rescued: " + p.words()
	return true, nil
}

// limitOf is the limit of a list that was fetched.
func (r *rescuing) limitOf(l pki.CRL) crl.Limit {
	for _, before := range r.lists {
		if before.Issuer.ID == l.Issuer.ID {
			return before.Limit
		}
	}
	return crl.Limit{}
}

// fetch reads the lists that are served now, and marks what is on the list that
// it belongs on.
func (r *rescuing) fetch(ctx context.Context) ([]pki.CRL, error) {
	r.index.each(func(h *held) { h.listed = false })
	return r.o.Lists.Entries(ctx, r.mount, func(i pki.Issuer) func(crl.Entry) error {
		list := int16(noList)
		for n, l := range r.lists {
			if l.Issuer.ID == i.ID {
				list = int16(n)
			}
		}
		return func(e crl.Entry) error {
			if h := r.index.find(magnitude(e.Serial)); h != nil && (h.list == list || h.list == anyList) {
				h.listed = true
			}
			return nil
		}
	})
}
