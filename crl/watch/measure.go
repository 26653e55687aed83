package watch

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
)

// measure fetches, scans and verifies every list of m, and remembers what was
// right about it.
func (w *Watch) measure(ctx context.Context, m pki.Mount, limit crl.Limit) ([]pki.CRL, error) {
	issuers, err := w.o.Vault.Issuers(ctx, m)
	if err != nil {
		err = fmt.Errorf("listing issuers of mount %s: %w", m.Name(), err)
		if ctx.Err() == nil {
			w.remember(m, limit, func(s *mountState) { s.err = err })
		}
		return nil, err
	}
	groups := lists(issuers)
	var errs []error
	for _, l := range groups {
		if l.cannotSign {
			continue
		}
		startedAt := w.o.Now()
		summary, err := w.read(ctx, m, l.issuer)
		if err != nil && ctx.Err() != nil {
			return nil, err
		}
		l.err = err
		if err != nil {
			errs = append(errs, err)
		} else {
			l.summary, l.measuredAt = summary, startedAt
		}
	}
	var measured []pki.CRL
	w.remember(m, limit, func(s *mountState) {
		s.err = nil
		w.merge(m, s, groups)
		if len(errs) == 0 {
			s.latest, s.known = crls(m, groups, limit), true
			measured = append(measured, s.latest...)
		}
	})
	return measured, errors.Join(errs...)
}

// remember changes what is known of m.
func (w *Watch) remember(m pki.Mount, limit crl.Limit, change func(*mountState)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.limit, w.asked = limit, true
	if w.mounts[m] == nil {
		w.mounts[m] = &mountState{}
	}
	change(w.mounts[m])
}

// merge replaces the lists of s by groups. A list that could not be read, or
// that somebody else has read later, keeps its values.
func (w *Watch) merge(m pki.Mount, s *mountState, groups []*list) {
	for _, l := range groups {
		i := slices.IndexFunc(s.lists, func(old *list) bool { return old.key == l.key })
		var old *crl.Summary
		if i >= 0 {
			former := s.lists[i]
			old = former.summary
			if l.summary == nil || former.measuredAt.After(l.measuredAt) {
				l.summary, l.measuredAt = former.summary, former.measuredAt
			}
		}
		w.logChange(m, l, old)
	}
	s.lists = groups
}

// logChange says that Vault has built a new list.
func (w *Watch) logChange(m pki.Mount, l *list, old *crl.Summary) {
	if l.summary == nil || old != nil && old.ThisUpdate.Equal(l.summary.ThisUpdate) && old.Bytes == l.summary.Bytes {
		return
	}
	attributes := []any{
		"mount", m.Name(), "issuer", l.issuer.Label(), "bytes", l.summary.Bytes, "entries", l.summary.Entries,
		"this_update", l.summary.ThisUpdate, "next_update", l.summary.NextUpdate,
	}
	if w.limit.MaxBytes > 0 {
		attributes = append(attributes, "limit_bytes", w.limit.MaxBytes)
	}
	w.o.Log.Info("CRL measured", attributes...)
}

func crls(m pki.Mount, groups []*list, limit crl.Limit) []pki.CRL {
	var measured []pki.CRL
	for _, l := range groups {
		if l.summary != nil {
			measured = append(measured, pki.CRL{Mount: m, Issuer: l.issuer, Summary: *l.summary, Limit: limit, MeasuredAt: l.measuredAt})
		}
	}
	return measured
}

// read fetches one list, whole, and verifies it.
func (w *Watch) read(ctx context.Context, m pki.Mount, i pki.Issuer) (*crl.Summary, error) {
	fail := func(err error) (*crl.Summary, error) {
		return nil, fmt.Errorf("measuring CRL of %s: %w", subject(m, i), err)
	}
	body, err := w.o.Vault.CRL(ctx, m, pki.CRLRequest{IssuerID: i.ID, Form: w.o.Fetch})
	if err != nil {
		return fail(err)
	}
	defer body.Close()
	summary, err := crl.Scan(body, crl.Options{MaxBytes: w.o.MaxBytes})
	if err != nil {
		return fail(fmt.Errorf("scanning CRL: %w", err))
	}
	if err := summary.Verify(i.Certificate); err != nil {
		return fail(err)
	}
	return &summary, nil
}

// lists groups the issuers of a mount by name and key: Vault keeps one list for
// each group (builtin/logical/pki/crl_util.go). Issuers without a key have
// none. The default issuer stands for its group, else the first by label.
func lists(issuers []pki.Issuer) []*list {
	ordered := slices.Clone(issuers)
	slices.SortFunc(ordered, func(a, b pki.Issuer) int {
		if a.Default != b.Default {
			if a.Default {
				return -1
			}
			return 1
		}
		return cmp.Or(strings.Compare(a.Label(), b.Label()), strings.Compare(a.ID, b.ID))
	})
	var groups []*list
	for _, i := range ordered {
		if i.KeyID == "" || i.Certificate == nil {
			continue
		}
		key := listKey{subject: string(i.Certificate.RawSubject), publicKey: string(i.Certificate.RawSubjectPublicKeyInfo)}
		maySign := i.Certificate.KeyUsage == 0 || i.Certificate.KeyUsage&x509.KeyUsageCRLSign != 0
		at := slices.IndexFunc(groups, func(l *list) bool { return l.key == key })
		switch {
		case at < 0:
			groups = append(groups, &list{key: key, issuer: i, cannotSign: !maySign})
		case groups[at].cannotSign && maySign: // one that signs for the others
			groups[at].issuer, groups[at].cannotSign = i, false
		}
	}
	return groups
}

// forget drops what is remembered of mounts that are gone or no longer wanted.
func (w *Watch) forget(present []pki.Mount) {
	w.mu.Lock()
	defer w.mu.Unlock()
	maps.DeleteFunc(w.mounts, func(m pki.Mount, _ *mountState) bool { return !slices.Contains(present, m) })
}

// ordered are the remembered mounts by name.
func (w *Watch) ordered() []pki.Mount {
	return slices.SortedFunc(maps.Keys(w.mounts), func(a, b pki.Mount) int {
		return cmp.Or(strings.Compare(a.Name(), b.Name()), strings.Compare(a.UUID, b.UUID))
	})
}
