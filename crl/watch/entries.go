package watch

import (
	"context"
	"errors"
	"fmt"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
)

// Entries reads all full lists of a mount once more, whether or not the
// patterns select it, and shows their entries: begin is called for each list,
// and what it returns with each of the list's entries in turn, in constant
// memory. An error of either ends it and is returned wrapped. What was shown
// may be used once Entries has returned without an error, never before: only
// then were all signatures right.
//
// It returns the lists that it read, without their limits and what history says
// of them, and remembers nothing; an issuer without a list is left out.
func (w *Watch) Entries(ctx context.Context, m pki.Mount, begin func(pki.Issuer) func(crl.Entry) error) ([]pki.CRL, error) {
	issuers, err := w.o.Vault.Issuers(ctx, m)
	if err != nil {
		return nil, fmt.Errorf("listing issuers of mount %s: %w", m.Name(), err)
	}
	var read []pki.CRL
	for _, l := range group(issuers) {
		if l.cannotSign {
			continue
		}
		at := w.o.Now()
		summary, err := w.showEntries(ctx, m, l.issuer, begin(l.issuer))
		switch {
		case errors.Is(err, pki.ErrNoCRL):
			continue
		case err != nil:
			return nil, fmt.Errorf("reading entries of the CRL of %s: %w", subject(m, l.issuer), err)
		}
		read = append(read, pki.CRL{Mount: m, Issuer: l.issuer, Summary: summary, MeasuredAt: at})
	}
	return read, nil
}

func (w *Watch) showEntries(ctx context.Context, m pki.Mount, i pki.Issuer, each func(crl.Entry) error) (crl.Summary, error) {
	body, err := w.o.Vault.CRL(ctx, m, pki.CRLRequest{IssuerID: i.ID, Form: w.o.Fetch})
	if err != nil {
		return crl.Summary{}, err
	}
	defer body.Close()
	o := crl.Options{MaxBytes: w.o.MaxBytes, Each: each}
	if w.o.Spool != nil {
		spool, free := w.o.Spool()
		defer free()
		o.Spool = spool
	}
	summary, err := crl.Scan(body, o)
	if err == nil {
		err = summary.Verify(i.Certificate)
	}
	if err == nil && summary.Delta() {
		err = errors.New("it is a delta CRL")
	}
	return summary, err
}
