package issuer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/pkiwarden/pkiwarden/k8scsr"
	"github.com/pkiwarden/pkiwarden/pki"
)

// State keeps small values under compare-and-swap.
type State interface {
	// Get returns nil and "" where there is no value.
	Get(ctx context.Context, key string) (data []byte, version string, err error)
	// Put replaces what Get returned with the given version, "" where there was
	// nothing. Its error wraps [pki.ErrConflict] where the value is another one
	// by now; nothing is written then.
	Put(ctx context.Context, key string, data []byte, version string) (newVersion string, err error)
}

// stateKey is the one record of all certificates.
const stateKey = "certificates"

// books are the record of requests as one round knows it.
type books struct {
	ledger  k8scsr.Ledger
	version string
	problem error                  // why the record cannot be used; then the requests in the cluster are counted
	listed  map[string][]time.Time // those, by signer; nil until they are needed

	ahead map[string]int // counted in the record and not yet in ledger, by signer
	since time.Time      // of the spell in which
	spent int            // requests were counted
}

// When many certificates are asked for at once, not each of them is a write to
// the record: from the eleventh in ten seconds on, as many are counted ahead as
// a twentieth of the certificates, a hundred at most. Who stops then leaves so
// many counted that were not made.
const (
	spell      = 10 * time.Second
	spellFrom  = 10
	aheadShare = 20
	mostAhead  = 100
)

// countAhead is how many requests the next write is to count beside its own.
func (b *books) countAhead(certificates int, now time.Time) int {
	if now.Sub(b.since) > spell || now.Before(b.since) {
		b.since, b.spent = now, 0
	}
	if b.spent++; b.spent <= spellFrom {
		return 0
	}
	return min(certificates/aheadShare, mostAhead)
}

// booksFor is how long a record holds that was read, while nothing is counted
// ahead: a write finds out in any case whether it is still the one.
const booksFor = 30 * time.Second

// openBooks reads the record once in a round; a write that meets another version
// closes them. A record that cannot be read, or not written, is doubt: it is
// told, and what the requests tell that the cluster still has is counted. One
// that was damaged is left for somebody to look at.
func (i *Issuer) openBooks(ctx context.Context) *books {
	if i.books != nil {
		return i.books
	}
	b := &books{ahead: map[string]int{}}
	i.books, i.booksAt = b, i.now()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	data, version, err := i.state.Get(ctx, stateKey)
	if err == nil {
		b.version = version
		b.ledger, err = k8scsr.ParseLedger(data)
	}
	b.problem, i.booksProblem = err, err
	return b
}

// checkBooks looks at the record when the work begins, and again while it cannot
// be used: that is told before it is needed.
func (i *Issuer) checkBooks(ctx context.Context) {
	now := i.now()
	if b := i.books; b != nil && (!i.goesOn || b.problem != nil || b.version == "" || (now.Sub(i.booksAt) >= booksFor || now.Before(i.booksAt)) && !b.holds()) {
		i.books = nil
	}
	if i.state == nil || !i.booksAt.IsZero() && (i.booksProblem == nil || now.Sub(i.booksAt) < i.interval && !now.Before(i.booksAt)) {
		return
	}
	i.openBooks(ctx)
}

// holds tells whether something is counted ahead.
func (b *books) holds() bool {
	for _, n := range b.ahead {
		if n > 0 {
			return true
		}
	}
	return false
}

// observeBudget reads what the signer was asked for.
func (i *Issuer) observeBudget(ctx context.Context, c *Certificate, o *observation, now time.Time) error {
	if i.state == nil || !k8scsr.NeedsBudget(o.State, c.Spec, now) {
		return nil
	}
	b := i.openBooks(ctx)
	o.Spending.Budget = i.budget(c.Spec.Signer)
	if b.problem == nil && b.version != "" {
		o.Spending.Counted = b.ledger.Counts(c.label, o.Pending.CSRName)
		o.Spending.Account, o.Spending.Asked = b.ledger.Signers[c.Spec.Signer], b.ledger.Asked(c.label, now)
		return nil
	}
	if b.listed == nil {
		var err error
		if b.listed, err = i.listRequests(ctx, o.Identity); err != nil {
			return err
		}
		n := 0
		for _, times := range b.listed {
			n += len(times)
		}
		if b.problem == nil { // there is no record: the first one, or it was lost
			i.log.Info("there is no record of earlier requests; those that the cluster still has are counted", "requests", n)
			b.ledger.Signers = map[string]*k8scsr.Account{}
			for signer, times := range b.listed {
				b.ledger.Signers[signer] = k8scsr.AccountOf(times, now)
			}
		}
	}
	if b.problem == nil {
		o.Spending.Account = b.ledger.Signers[c.Spec.Signer]
		return nil
	}
	o.Spending.Account = k8scsr.AccountOf(b.listed[c.Spec.Signer], now)
	return nil
}

// budget is that of a signer, for the certificates that are declared and what
// they were granted.
func (i *Issuer) budget(signer string) k8scsr.Budget {
	if b, known := i.budgets[signer]; known {
		return b
	}
	var periods []time.Duration
	for n := range i.outlooks {
		if o := &i.outlooks[n]; o.signer == signer {
			periods = append(periods, o.period)
		}
	}
	i.budgets[signer] = k8scsr.BudgetFor(periods)
	return i.budgets[signer]
}

// spend counts a request that is about to be made. The record is written first,
// and only if it is the one that was decided on.
func (i *Issuer) spend(ctx context.Context, c *Certificate, o *observation, now time.Time) error {
	if i.state == nil || o.Spending.Counted {
		return nil
	}
	b := i.books
	if b == nil { // it was not observed
		return errChanged
	}
	if b.problem != nil {
		b.listed[c.Spec.Signer] = append(b.listed[c.Spec.Signer], now)
		return nil
	}
	next := b.ledger.Spend(c.Spec.Signer, c.label, c.Namespace+"/"+c.Secret, o.Pending.CSRName, now)
	ahead := b.countAhead(len(i.outlooks), now)
	if b.ahead[c.Spec.Signer] > 0 {
		b.ledger = next
		b.ahead[c.Spec.Signer]--
		return nil
	}
	next = next.Fit()
	data, err := next.Ahead(c.Spec.Signer, ahead, now).Encode()
	if err == nil {
		var version string
		short, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		if version, err = i.state.Put(short, stateKey, data, b.version); err == nil {
			b.ledger, b.version, b.ahead = next, version, map[string]int{c.Spec.Signer: ahead}
			return nil
		}
	}
	if errors.Is(err, pki.ErrConflict) {
		i.books = nil
	} else {
		b.problem, i.booksProblem = err, err
	}
	return errChanged // observe again, and decide on what is known then
}

// listRequests are the times of all our requests that the cluster still has, by
// signer.
func (i *Issuer) listRequests(ctx context.Context, us k8scsr.Identity) (map[string][]time.Time, error) {
	type made struct {
		signer string
		at     time.Time
	}
	own, err := ownRequests(ctx, i, LabelCertificate, us, func(csr *certificatesv1.CertificateSigningRequest) made {
		return made{strings.Clone(csr.Spec.SignerName), csr.CreationTimestamp.Time}
	})
	if err != nil {
		return nil, err
	}
	out := map[string][]time.Time{}
	for _, r := range own {
		out[r.signer] = append(out[r.signer], r.at)
	}
	return out, nil
}

// booksFinding tells that the record of requests cannot be used; nil when it can.
func (i *Issuer) booksFinding() *k8scsr.Finding {
	if i.booksProblem == nil {
		return nil
	}
	return &k8scsr.Finding{
		Rule: k8scsr.RuleBudgetUnknown, Severity: k8scsr.Unknown, Subject: "certificates",
		Summary:  "how often the signers were asked within a day is not known: the record cannot be read or written",
		Evidence: fmt.Sprint(i.booksProblem),
		Remedy:   "see the message; until then those requests are counted that the cluster still has, which finished ones leave after an hour",
	}
}
