package k8scsr

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// What a bundle and its record hold at most. The bundle of all CAs that browsers
// trust has about 150.
const (
	maxTrusted = 256            // CAs of a trust source
	maxSince   = 2 * maxTrusted // entries of the record, and CAs that are published
	maxRecord  = maxSince * 128 // octets of the record
	maxCAName  = 100            // octets of a subject in a message
	lateness   = clockSkew      // a CA is kept that much longer than it is valid
)

// Authority is one CA of the bundle that clients follow, which is published
// beside the certificate.
type Authority struct {
	Certificate *x509.Certificate
	Wanted      bool      // it is in the trust source; else it is to leave
	Since       time.Time // when it was published; zero: long ago
	Why         string    // it is still there although it is to leave
}

// Bundle is what is to be published, and how it differs from what is.
type Bundle struct {
	Authorities []Authority // those wanted, in their order, and then those that are to leave
	PEM         []byte      // the same, encoded anew
	Changed     bool        // it, or the record of it, differs from what is published
	Problem     string      // why it cannot be published; "" where it can
	AskPeers    bool        // what the peers present now decides

	added, dropped []*x509.Certificate
	reasons        []string // of dropped, one for each
	published      []*x509.Certificate
	trusted        bool // the configured trust alone vouches for the certificate in use
	kept           bool // for want of peers
}

// Record is when each of the CAs was published, as [ParseSince] reads it, rounded
// up to whole seconds.
func (b Bundle) Record() string {
	since := map[string]time.Time{}
	for _, a := range b.Authorities {
		since[LeafID(a.Certificate)] = a.Since.UTC().Add(time.Second - 1).Truncate(time.Second)
	}
	text, err := json.Marshal(since)
	if err != nil {
		return "{}" // a year beyond 9999, which no clock shows
	}
	return string(text)
}

// leaving are the CAs that are to leave.
func (b Bundle) leaving() []Authority {
	var out []Authority
	for _, a := range b.Authorities {
		if !a.Wanted {
			out = append(out, a)
		}
	}
	return out
}

// ParseSince reads when CAs were published: JSON, RFC 3339 by the SHA-256 of the
// certificate in hexadecimal. Whoever may write the Secret may write this: too
// large a text is an empty record, and entries that mean nothing are passed over.
// A CA without an entry in a record counts as published just now, so that what is
// lost costs time, not trust.
func ParseSince(text string) map[string]time.Time {
	out := map[string]time.Time{}
	var read map[string]string
	if len(text) > maxRecord || json.Unmarshal([]byte(text), &read) != nil || len(read) > maxSince {
		return out
	}
	for id, value := range read {
		at, err := time.Parse(time.RFC3339, value)
		if err == nil && id != LeafID(nil) && isLeafID(id) {
			out[id] = at
		}
	}
	return out
}

// Bundle is the bundle to be published at now: the configured trust, and of what
// is published the CAs that a client may still need. Those are of two kinds: what
// vouches for the live certificate, and what may have vouched for one before it
// that some peer still presents. A CA that was published by somebody else is of
// the first kind or of none, since whatever is in it, clients trust. The zero
// Bundle is for where no trust is configured.
func (s State) Bundle(want Spec, now time.Time) Bundle {
	if !s.Trust.Configured() {
		return Bundle{}
	}
	p := newPublication(s, want, now)
	var b Bundle
	b.published, b.trusted = p.certificates, p.trusted()
	for _, ca := range s.Trust.Roots {
		a := Authority{Certificate: ca, Wanted: true, Since: p.since(ca)}
		if !p.holds(ca) {
			a.Since = now
			b.added = append(b.added, ca)
		}
		b.Authorities = append(b.Authorities, a)
	}
	for _, ca := range p.certificates {
		if p.wanted[ca] {
			continue
		}
		keep, why := p.keeps(ca)
		if keep {
			b.Authorities = append(b.Authorities, Authority{Certificate: ca, Since: p.since(ca), Why: why})
			continue
		}
		b.dropped, b.reasons = append(b.dropped, ca), append(b.reasons, why)
	}
	all := make([]*x509.Certificate, len(b.Authorities))
	for i, a := range b.Authorities {
		all[i] = a.Certificate
	}
	b.PEM, b.AskPeers, b.kept = encodeCertificates(all), p.ask, p.kept
	switch {
	case len(b.PEM) > maxBundle:
		b.Problem = fmt.Sprintf("old and new CAs together take %d octets, more than %d", len(b.PEM), maxBundle)
	case len(all) > maxSince:
		b.Problem = fmt.Sprintf("old and new CAs together are %d, more than %d", len(all), maxSince)
	}
	// Of one CA alone it does not matter since when.
	b.Changed = p.unreadable || p.corrected && len(all) > 1 || !slices.EqualFunc(all, p.certificates, (*x509.Certificate).Equal)
	return b
}

// reason says what publishing the bundle changes.
func (b Bundle) reason() string {
	var parts []string
	if len(b.added) > 0 {
		parts = append(parts, "CA "+caNames(b.added)+" is new")
	}
	for _, a := range b.leaving() {
		parts = append(parts, fmt.Sprintf("CA %s stays: %s", caName(a.Certificate), a.Why))
	}
	for i, ca := range b.dropped {
		parts = append(parts, fmt.Sprintf("CA %s is dropped: %s", caName(ca), b.reasons[i]))
	}
	if len(parts) == 0 {
		return "the trust bundle changed"
	}
	const most = 6
	if len(parts) > most {
		parts = append(parts[:most], "…")
	}
	return "the trust bundle changed: " + strings.Join(parts, "; ")
}

// publication is the bundle that is published, as clients follow it.
type publication struct {
	s            State
	want         Spec
	now          time.Time
	certificates []*x509.Certificate        // none where it does not parse
	held, wanted map[*x509.Certificate]bool // what is published, and what is trusted; equal ones are the same
	proofs       *proofs
	unreadable   bool
	corrected    bool        // the record is to be written anew
	future       []time.Time // of the record, in their order, each once; nil: not looked at

	vouched  *bool   // the configured trust alone vouches for the live certificate
	familiar *bool   // see known
	need     *string // what is still expected of the peers; "" for nothing
	ask      bool    // the peers decide
	kept     bool    // there are none who could
}

func newPublication(s State, want Spec, now time.Time) *publication {
	p := &publication{s: s, want: want, now: now, proofs: s.Live.proofs(), held: map[*x509.Certificate]bool{}, wanted: map[*x509.Certificate]bool{}}
	for _, ca := range s.Trust.Roots {
		p.wanted[ca] = true
	}
	if len(s.Live.CA) == 0 {
		return p
	}
	published, err := p.proofs.published(s.Live.CA, s.Trust)
	if p.unreadable = err != nil; err == nil {
		p.certificates = published
	}
	for _, ca := range p.certificates {
		p.held[ca] = true
	}
	return p
}

func (p *publication) holds(ca *x509.Certificate) bool { return p.held[ca] }

// since is when the CA was published. Where nothing is recorded at all, an older
// release or somebody else published the whole, at the latest with the pair. A
// time that is yet to come, by more than clocks differ, is wrong, and begins
// anew, in the order in which such times were.
func (p *publication) since(ca *x509.Certificate) time.Time {
	live := p.s.Live
	if live.CASince == nil {
		if live.IssuedAt.IsZero() && live.Leaf != nil {
			return live.Leaf.NotBefore
		}
		return live.IssuedAt
	}
	at, recorded := live.CASince[p.proofs.id(ca)]
	if recorded && !p.toCome(at) {
		return at
	}
	p.corrected = p.corrected || p.holds(ca)
	before := 0
	if recorded {
		before, _ = slices.BinarySearchFunc(p.yetToCome(), at, time.Time.Compare)
	}
	return p.now.Add(min(time.Duration(before)*time.Second, clockSkew))
}

// yetToCome are the times of the record that are.
func (p *publication) yetToCome() []time.Time {
	if p.future == nil {
		p.future = []time.Time{}
		for _, at := range p.s.Live.CASince {
			if p.toCome(at) {
				p.future = append(p.future, at)
			}
		}
		slices.SortFunc(p.future, time.Time.Compare)
		p.future = slices.CompactFunc(p.future, time.Time.Equal)
	}
	return p.future
}

func (p *publication) toCome(at time.Time) bool { return at.After(p.now.Add(clockSkew)) }

// ours tells whether we published the CA.
func (p *publication) ours(ca *x509.Certificate) bool {
	_, recorded := p.s.Live.CASince[p.proofs.id(ca)]
	return recorded
}

// trusted tells whether the configured trust alone vouches for the live
// certificate.
func (p *publication) trusted() bool {
	if p.vouched == nil {
		p.vouched = new(p.s.Live.Leaf != nil && p.proofs.vouches(p.s.Trust.Roots, p.s.Live.Chain, p.now))
	}
	return *p.vouched
}

// keeps tells whether a CA that is not wanted any more has to stay, and why, or
// why not.
func (p *publication) keeps(ca *x509.Certificate) (bool, string) {
	switch {
	case p.now.After(ca.NotAfter.Add(lateness)):
		return false, "it expired " + stamp(ca.NotAfter)
	case !p.trusted() && p.upholds(ca) == yes:
		return true, "it vouches for the certificate in use"
	case !p.known() && p.upholds(ca) == yes:
		return true, "clients may know the certificate in use by it alone"
	case !(p.trusted() && p.known()) && p.upholds(ca) == maybe:
		return true, "it may vouch for the certificate in use: there are too many CAs of its name to tell"
	case !p.ours(ca):
		return false, "it vouches for no certificate of ours, and was not published by us"
	case p.late(ca):
		return false, "no certificate from it was ever published"
	case !p.trusted():
		return true, "a peer may present a certificate from it"
	}
	return p.peersNeed()
}

// known tells whether clients have had the time to take up a wanted CA that vouches
// for the certificate in use, or nothing can be lost. Until then those stay by
// which they trust it: a CA that was renewed with its key, say, vouches at once
// for what it never issued.
func (p *publication) known() bool {
	if p.familiar == nil {
		p.familiar = new(p.want.Settle <= 0 || !p.s.Live.Usable(p.now) || slices.ContainsFunc(p.s.Trust.Roots, func(ca *x509.Certificate) bool {
			return p.holds(ca) && !p.since(ca).Add(p.want.Settle).After(p.now) && p.upholds(ca) == yes
		}))
	}
	return *p.familiar
}

// late tells whether the CA came after the certificate in use, so that none from
// it was published: each needs its CA published first, and what may have been
// from it when it was there before, the peers were seen not to present any more.
func (p *publication) late(ca *x509.Certificate) bool {
	live := p.s.Live
	if live.Leaf == nil || live.Managed && live.IssuedAt.IsZero() {
		return false // it is not known when
	}
	return p.since(ca).After(live.IssuedAt.Add(clockSkew))
}

// upholds tells whether the CA has a part in vouching for the live certificate.
func (p *publication) upholds(ca *x509.Certificate) vouching {
	if p.s.Live.Leaf == nil {
		return no
	}
	return p.proofs.upholders(p.s.Live.Chain, p.certificates, p.s.Trust, p.now)[ca]
}

func contains(list []*x509.Certificate, ca *x509.Certificate) bool {
	return slices.ContainsFunc(list, func(other *x509.Certificate) bool { return bytes.Equal(other.Raw, ca.Raw) })
}

// parseBundle reads a bundle of at most 330 kB and so many certificates, without
// those that are there twice.
func parseBundle(data []byte, most int) ([]*x509.Certificate, error) {
	if len(data) > maxBundle {
		return nil, fmt.Errorf("it has %d octets, more than %d", len(data), maxBundle)
	}
	all, err := parseCertificates(data)
	if err == nil {
		err = affordable(all)
	}
	if err != nil {
		return nil, err
	}
	var out []*x509.Certificate
	seen := map[string]bool{}
	for _, ca := range all {
		if !seen[string(ca.Raw)] {
			out = append(out, ca)
		}
		seen[string(ca.Raw)] = true
	}
	if len(out) > most {
		return nil, fmt.Errorf("it has %d certificates, more than %d", len(out), most)
	}
	return out, nil
}

// caName tells a CA in messages: two may have the same subject.
func caName(ca *x509.Certificate) string {
	return fmt.Sprintf("%s (SHA-256 %s…)", cmp.Or(Plain(ca.Subject.String(), maxCAName), "without a subject"), LeafID(ca)[:8])
}

// caNames lists CAs.
func caNames(list []*x509.Certificate) string {
	const most = 3
	var names []string
	for _, ca := range list[:min(len(list), most)] {
		names = append(names, caName(ca))
	}
	if len(list) > most {
		names = append(names, fmt.Sprintf("and %d more", len(list)-most))
	}
	return strings.Join(names, ", ")
}
