package tidier

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
)

const (
	// rescueSample is how many certificates a plan reads of those that a mount's
	// lists have, and as many of those that they lack. Where there are not more,
	// the plan is exact.
	rescueSample = 2000
	// rescuePause is between two of them.
	rescuePause = time.Millisecond
	// sayEvery is after how many of them the progress is told.
	sayEvery = 100
)

// dossier is what a rescue knows of a mount.
type dossier struct {
	t       *Tidier
	o       RescueRequest
	mount   pki.Mount
	version string // of Vault
	cluster string // Vault's ID

	issuers  []pki.Issuer
	lists    []pki.CRL
	entries  []int64 // DER octets of the entries of each list
	config   *pki.CRLConfig
	index    index
	tooLarge *pki.TooLargeError

	denied        []pki.PermissionError
	deniedUnknown string
}

// open looks at a mount: the lists first and what Vault keeps afterwards, so
// that what is on a list and not kept was removed by a tidy, and not revoked in
// between.
func (d *dossier) open(ctx context.Context) error {
	d.say("reading the lists and what Vault keeps")
	measured, err := d.t.o.CRLs.Measure(ctx, d.mount) // for their limits
	if err != nil {
		return fmt.Errorf("measuring CRLs of mount %s: %w", d.mount.Name(), err)
	}
	if c, err := d.t.o.Vault.CRLConfig(ctx, d.mount); err == nil {
		d.config = &c
	} else if _, denied := isDenied(err); !denied {
		return err
	}
	if d.issuers, err = d.o.Vault.Issuers(ctx, d.mount); err != nil {
		return fmt.Errorf("listing issuers of mount %s: %w", d.mount.Name(), err)
	}
	if err := d.openLists(ctx); err != nil {
		return err
	}
	for i := range d.lists {
		if at := slices.IndexFunc(measured, func(c pki.CRL) bool { return c.Issuer.ID == d.lists[i].Issuer.ID }); at >= 0 {
			d.lists[i].Limit = d.limit(measured[at].Limit)
		}
	}
	if err := d.index.sort(); err != nil {
		return err
	}
	if err := d.list(ctx); err != nil {
		return err
	}
	return d.askRights(ctx)
}

// limit is a limit with the mount's own max_crl_entries, which only a watch that
// has looked at the mount's settings counts.
func (d *dossier) limit(l crl.Limit) crl.Limit {
	if d.config == nil || l.MaxEntries != 0 {
		return l
	}
	return l.WithMaxEntries(d.config.MaxEntries)
}

// openLists reads the lists as they are served.
func (d *dossier) openLists(ctx context.Context) error {
	var begun []string // issuers; one without a list has no entries
	var bytes []int64
	lists, err := d.o.Lists.Entries(ctx, d.mount, func(issuer pki.Issuer) func(crl.Entry) error {
		list := len(begun)
		begun, bytes = append(begun, issuer.ID), append(bytes, 0)
		return func(e crl.Entry) error {
			bytes[list] += pki.EntrySize(int64(len(e.Serial)))
			return d.index.add(magnitude(e.Serial), held{list: int16(list), served: true})
		}
	})
	if err != nil {
		return err
	}
	number := make([]int16, len(begun))
	for i, id := range begun {
		number[i] = int16(slices.IndexFunc(lists, func(l pki.CRL) bool { return l.Issuer.ID == id }))
		if number[i] >= 0 {
			d.entries = append(d.entries, bytes[i])
		}
	}
	d.index.each(func(h *held) { h.list = number[h.list] })
	d.lists = lists
	return nil
}

// list asks what Vault keeps now.
func (d *dossier) list(ctx context.Context) error {
	d.index.each(func(h *held) { h.kept = false })
	err := d.o.Vault.Revoked(ctx, d.mount, func(text string) error {
		serial, err := parseSerial(text)
		if err != nil {
			return err
		}
		if h := d.index.find(serial); h != nil {
			h.kept = true
			return nil
		}
		return d.index.add(serial, held{list: anyList, kept: true})
	})
	if err != nil {
		return err
	}
	return d.index.sort()
}

// askRights finds out what the token may not do.
func (d *dossier) askRights(ctx context.Context) error {
	rights := pki.RescueRights(d.mount)
	var paths []string
	for _, r := range rights {
		paths = append(paths, r.Path)
	}
	granted, err := d.o.Vault.Capabilities(ctx, d.mount, paths)
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		d.deniedUnknown = err.Error()
		return nil
	}
	d.denied = lacking(granted, rights)
	return nil
}

// lacking are those of rights that are not among what is granted by path.
func lacking(granted map[string][]string, rights []pki.PermissionError) []pki.PermissionError {
	var lacking []pki.PermissionError
	for _, r := range rights {
		if has := granted[r.Path]; !slices.Contains(has, r.Capability) && !slices.Contains(has, "root") {
			lacking = append(lacking, r)
		}
	}
	return lacking
}

// read reads certificates: all of what is not known, or samples.
func (d *dossier) read(ctx context.Context, all bool) error {
	groups := []func(held) bool{
		func(h held) bool { return h.kept && h.served },
		func(h held) bool { return h.kept && !h.served },
		func(h held) bool { return h.served && !h.kept },
	}
	var chosen []int
	for _, belongs := range groups {
		var group []int
		known := 0
		for i, h := range d.index.held {
			switch {
			case !belongs(h):
			case h.known:
				known++
			default:
				group = append(group, i)
			}
		}
		if room := max(0, rescueSample-known); !all && len(group) > room {
			rand.Shuffle(len(group), func(i, j int) { group[i], group[j] = group[j], group[i] })
			group = group[:room]
		}
		chosen = append(chosen, group...)
	}
	for n, i := range chosen {
		if n%sayEvery == 0 {
			d.reading(n, len(chosen))
		}
		if err := d.readOne(ctx, &d.index.held[i]); err != nil {
			return err
		}
		if err := sleep(ctx, rescuePause); err != nil {
			return err
		}
	}
	d.reading(len(chosen), len(chosen))
	return nil
}

func (d *dossier) readOne(ctx context.Context, h *held) error {
	serial := d.index.text(*h)
	cert, revokedAt, err := d.o.Vault.Certificate(ctx, d.mount, serial)
	switch {
	case err != nil && !unreadable(err):
		return err
	case err != nil:
		// Vault stops at it as well, when it builds a list and when it tidies.
		return fmt.Errorf("%v; Vault can neither tidy nor build a list past it, see the runbook's tidy-failed", err)
	}
	h.known = true
	if cert == nil {
		cert = d.issuerOf(d.index.serial(*h)) // which need not be stored as a certificate
	}
	if cert == nil {
		h.unstored = true
		return nil
	}
	h.notAfter = cert.NotAfter.Unix()
	if h.served && !h.kept && !revokedAt.IsZero() {
		h.kept = true // revoked between our two looks
	}
	if !h.served {
		h.list = d.attribute(cert)
	}
	return nil
}

// unreadable tells whether it is the certificate that is at fault.
func unreadable(err error) bool {
	for _, other := range []error{pki.ErrSealed, pki.ErrNoActiveNode, pki.ErrUnreachable, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, other) {
			return false
		}
	}
	return !refused(err)
}

// issuerOf is the issuer's certificate with a serial number, nil without one.
func (d *dossier) issuerOf(serial []byte) *x509.Certificate {
	for _, i := range d.issuers {
		if i.Certificate != nil && i.Certificate.SerialNumber != nil && bytes.Equal(i.Certificate.SerialNumber.Bytes(), serial) {
			return i.Certificate
		}
	}
	return nil
}

// attribute is the list that Vault puts a certificate on: that of its issuer,
// else that of the default issuer, where the mount does not have its issuer any
// more. A certificate by an issuer without a list is on none, and a root is not
// on its own (builtin/logical/pki/crl_util.go).
func (d *dossier) attribute(cert *x509.Certificate) int16 {
	for _, i := range d.issuers {
		if i.Certificate == nil || !bytes.Equal(i.Certificate.RawSubject, cert.RawIssuer) || !issuedBy(cert, i.Certificate) {
			continue
		}
		if bytes.Equal(i.Certificate.Raw, cert.Raw) {
			return noList
		}
		for n, l := range d.lists {
			c := l.Issuer.Certificate
			if bytes.Equal(c.RawSubject, i.Certificate.RawSubject) && bytes.Equal(c.RawSubjectPublicKeyInfo, i.Certificate.RawSubjectPublicKeyInfo) {
				return int16(n)
			}
		}
		return noList
	}
	return d.orphans()
}

// orphans is the list of what has no issuer in the mount.
func (d *dossier) orphans() int16 {
	for n, l := range d.lists {
		if l.Issuer.Default {
			return int16(n)
		}
	}
	return noList
}

// issuedBy tells two issuers of one name apart.
func issuedBy(cert, issuer *x509.Certificate) bool {
	if len(cert.AuthorityKeyId) > 0 && len(issuer.SubjectKeyId) > 0 {
		return bytes.Equal(cert.AuthorityKeyId, issuer.SubjectKeyId)
	}
	return issuer.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) == nil
}

// plan plans from what is known.
func (d *dossier) plan() pki.RescuePlan {
	now := d.t.now()
	r := pki.Rescue{Mount: d.mount, Config: d.config, Denied: d.denied, DeniedUnknown: d.deniedUnknown, TooLarge: d.tooLarge}
	for i, l := range d.lists {
		r.Lists = append(r.Lists, pki.RescueList{Served: l, ServedEntryBytes: d.entries[i]})
	}
	present := make([]pki.RescueGroup, len(d.lists))
	missing := make([]pki.RescueGroup, len(d.lists))
	var unread pki.RescueGroup // missing ones of which it is not known where they belong
	d.index.each(func(h *held) {
		bytes := d.index.entryBytes(*h)
		entry := pki.RescueEntry{NotAfter: h.notAfter, Bytes: int32(bytes)}
		group := &unread
		switch {
		case h.list == noList:
			return
		case !h.kept:
			d.planStale(&r, *h, now)
			return
		case h.served && h.list >= 0:
			group = &present[h.list]
		case h.list >= 0:
			group = &missing[h.list]
		case h.unstored, len(d.lists) == 1:
			n := d.orphans()
			if len(d.lists) == 1 {
				n = 0
			}
			if n < 0 {
				return
			}
			group = &missing[n]
		}
		group.Entries++
		group.Bytes += bytes
		if h.known {
			group.Sample = append(group.Sample, entry)
		}
	})
	spread(missing, unread)
	for i := range r.Lists {
		l := &r.Lists[i]
		l.Missing = missing[i].Entries
		for _, g := range []pki.RescueGroup{present[i], missing[i]} {
			if g.Entries > 0 {
				l.Groups = append(l.Groups, g)
			}
		}
	}
	return pki.PlanRescue(r, d.t.o.Policy, now)
}

// planStale counts an entry that is served and that Vault no longer keeps.
// Revoked issuers are on lists without being kept.
func (d *dossier) planStale(r *pki.Rescue, h held, now time.Time) {
	if !h.served || d.issuerOf(d.index.serial(h)) != nil {
		return
	}
	l := &r.Lists[h.list]
	l.Stale++
	if h.notAfter > now.Unix() {
		l.Doomed = append(l.Doomed, d.index.text(h))
	}
}

// spread gives the groups what was not looked at, in proportion to what was.
func spread(groups []pki.RescueGroup, unread pki.RescueGroup) {
	var all int64
	for _, g := range groups {
		all += g.Entries
	}
	for i := range groups {
		g := &groups[i]
		if all == 0 { // nothing was: the first one is as good as another
			g.Entries, g.Bytes = unread.Entries, unread.Bytes
			return
		}
		share := float64(g.Entries) / float64(all)
		g.Entries += int64(share * float64(unread.Entries))
		g.Bytes += int64(share * float64(unread.Bytes))
	}
}

func (d *dossier) say(words string) {
	if d.o.Say != nil {
		d.o.Say(d.mount, words)
	}
}

func (d *dossier) reading(done, total int) {
	if d.o.Reading != nil {
		d.o.Reading(d.mount, int64(done), int64(total))
	}
}
