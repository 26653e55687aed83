package k8scsr

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"
)

// What becomes of a Difference's value with the next certificate.
const (
	Kept    = "kept"
	Added   = "added"
	Removed = "removed"
)

// Difference is one value of a certificate, and what becomes of it with a
// renewal. A value that changes is Removed and Added.
type Difference struct {
	What   string `json:"what"` // "DNS name", "key", "lifetime", …
	Value  string `json:"value"`
	Change string `json:"change"`         // kept, added or removed
	Note   string `json:"note,omitempty"` // when, where that is not with the certificate, and why
}

// Differences compares the live certificate with the one that a renewal asks
// for, value by value: subject, names, usages, key, signer, lifetime and the
// trust bundle, in this order, and each kind sorted. The signer of a certificate
// that was not written by us is not known, and the bundle is left out where none
// is configured. The CAs are those of the bundle that is published at now: an old
// one that stays for a while is Kept, with a Note of what ends that.
func (s State) Differences(want Spec, now time.Time) []Difference {
	live := s.Live
	var d differences
	var is Spec
	var lifetime []string
	var commonName []string
	if leaf := live.Leaf; leaf != nil {
		is = Spec{Organizations: leaf.Subject.Organization, Usages: leafUsages(leaf), Signer: live.Signer}
		commonName = commonNames(leaf)
		granted := want.life(leaf, live.IssuedAt)
		if (granted - want.Lifetime).Abs() <= max(want.Lifetime/100, longestBackdate) {
			granted = want.Lifetime // signers round and backdate
		}
		lifetime = []string{granted.Round(time.Second).String()}
	}
	d.compare("common name", commonName, some(want.CommonName))
	d.compare("organization", sorted(is.Organizations), want.Organizations)
	d.compareNames(live.Leaf, want)
	d.compare("usage", is.Usages, want.Usages)
	d.compare("key", keyOf(live.Leaf), some(want.Key.String()))
	d.compare("signer", some(is.Signer), some(want.Signer))
	d.compare("lifetime", lifetime, some(want.Lifetime.String()))
	d.compareTrust(s, want, now)
	return d
}

// compareTrust adds the CAs that are wanted, those that are to leave, and those
// that are dropped at once. A CA is published before any certificate from it, and
// an old one outlives the certificate; see [State.Bundle].
func (d *differences) compareTrust(s State, want Spec, now time.Time) {
	const what = "trusted CA"
	b := s.Bundle(want, now)
	for _, a := range b.Authorities {
		diff := Difference{What: what, Value: caName(a.Certificate), Change: Kept}
		switch {
		case !a.Wanted && len(want.Peers) > 0:
			diff.Note = fmt.Sprintf("stays until all peers present certificates from what is in the trust source, or until it has expired, %s", stamp(a.Certificate.NotAfter))
		case !a.Wanted:
			diff.Note = fmt.Sprintf("stays until it has expired, %s, since no trust.peers are there to be asked", stamp(a.Certificate.NotAfter))
		case contains(b.added, a.Certificate):
			diff.Change = Added
			if s.mayPublish(b, want, now) {
				diff.Note = "is published first, before the certificate changes"
			}
		}
		*d = append(*d, diff)
	}
	for i, ca := range b.dropped {
		*d = append(*d, Difference{what, caName(ca), Removed, b.reasons[i]})
	}
	if len(s.Live.CA) > 0 && len(b.published) == 0 && s.Trust.Configured() {
		*d = append(*d, Difference{What: what, Value: "a bundle that does not parse", Change: Removed})
	}
}

// longestBackdate is how far signers set NotBefore back; the built-in one does
// by five minutes.
const longestBackdate = 10 * time.Minute

type differences []Difference

// compare adds the values that are kept or added, in their order, and then
// those that are removed.
func (d *differences) compare(what string, is, becomes []string) {
	for _, value := range becomes {
		change := Added
		if slices.Contains(is, value) {
			change = Kept
		}
		*d = append(*d, Difference{What: what, Value: value, Change: change})
	}
	for _, value := range is {
		if !slices.Contains(becomes, value) {
			*d = append(*d, Difference{What: what, Value: value, Change: Removed})
		}
	}
}

// nameKinds are those that generalNames tells, as its notation begins.
var nameKinds = []string{"DNS name", "IP address", "URI", "e-mail address", "name of kind"}

func (d *differences) compareNames(leaf *x509.Certificate, want Spec) {
	var have []string
	if leaf != nil {
		have = namesOf(leaf)
	}
	of := func(names []string, kind string) []string {
		var out []string
		for _, name := range names {
			if value, is := strings.CutPrefix(name, kind+" "); is {
				out = append(out, value)
			}
		}
		return out
	}
	wanted := want.wantedNames()
	for _, kind := range nameKinds {
		d.compare(kind, of(have, kind), of(wanted, kind))
	}
}

// leafUsages are a leaf's usages as the API names them, sorted; others by number.
func leafUsages(leaf *x509.Certificate) []string {
	var out []string
	known := x509.KeyUsage(0)
	for name, u := range usages {
		if u.key != 0 && leaf.KeyUsage&u.key != 0 || u.key == 0 && slices.Contains(leaf.ExtKeyUsage, u.ext) {
			out = append(out, name)
		}
		known |= u.key
	}
	if rest := leaf.KeyUsage &^ known; rest != 0 {
		out = append(out, fmt.Sprintf("key usage bits %#x", int(rest)))
	}
	for _, ext := range leaf.ExtKeyUsage {
		if ext != x509.ExtKeyUsageServerAuth && ext != x509.ExtKeyUsageClientAuth {
			out = append(out, "extended usage "+ext.String())
		}
	}
	for _, oid := range leaf.UnknownExtKeyUsage {
		out = append(out, "extended usage "+oid.String())
	}
	return sorted(out)
}

func keyOf(leaf *x509.Certificate) []string {
	if leaf == nil {
		return nil
	}
	return []string{KeyOf(leaf.PublicKey).String()}
}

func some(value string) []string {
	if value == "" {
		return nil
	}
	return []string{value}
}
