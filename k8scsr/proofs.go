package k8scsr

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"time"
)

// What a look checks at most, in what a signature of P-256 costs. What it does not
// come to is not known.
const (
	maxSignatures = 2048                 // beyond what crypto/x509 checks itself
	maxPaths      = 32 * signaturesOfOne // that have something between their ends
	maxBetween    = 16                   // certificates that can stand between a leaf and a CA, but for those of the chain itself
	maxChains     = 32                   // different ones, that peers present

	signaturesOfOne = 100 // that crypto/x509 checks for one path at most (maxChainSignatureChecks)
)

// cost is that of checking one signature by the key, about: P-256 has code of its
// own in crypto/elliptic, and of RSA the octets count.
func cost(key any) int {
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		if bits := key.Curve.Params().BitSize; bits > 384 {
			return 24
		} else if bits > 256 {
			return 8
		}
	case *rsa.PublicKey:
		return 1 + key.N.BitLen()/2048
	}
	return 1
}

// proofs remembers what was found out about the certificates of one observation:
// the same is asked for many times, and with many CAs of one subject each is to
// be tried. All is by the identity of certificates and lists, which nobody
// changes. It is for one goroutine. Nil remembers nothing.
type proofs struct {
	signed   map[link]bool
	verdicts map[question]error
	upheld   map[question]map[*x509.Certificate]vouching
	anchors  map[question]*x509.Certificate
	bundles  map[bundleRead]readBundle
	ids      map[*x509.Certificate]string
	peers    *proofs // of what peers present, which is to cost what is known of the rest nothing

	chains map[[sha256.Size]byte][]*x509.Certificate // different ones that peers present

	signatures, indirect int // what was spent of maxSignatures and maxPaths
	paths                int // that were checked
}

// vouching is what a CA does for a chain.
type vouching int

const (
	no    vouching = iota
	maybe          // there is too much to check
	yes
)

// link is a certificate and what may have signed it.
type link struct{ cert, issuer *x509.Certificate }

// question is a chain, the CAs that are to vouch for it, what is published beside
// it, and when.
type question struct {
	chain, cas, beside list
	at                 time.Time
}

// list is the identity of one.
type list struct {
	first  **x509.Certificate
	length int
}

func identity(certificates []*x509.Certificate) list {
	if len(certificates) == 0 {
		return list{}
	}
	return list{&certificates[0], len(certificates)}
}

// bundleRead is a bundle, and the trusted CAs that stand for those equal to them.
type bundleRead struct {
	text   *byte
	octets int
	roots  list
}

type readBundle struct {
	certificates []*x509.Certificate
	err          error
}

func newProofs() *proofs {
	return &proofs{
		signed: map[link]bool{}, verdicts: map[question]error{}, upheld: map[question]map[*x509.Certificate]vouching{}, anchors: map[question]*x509.Certificate{},
		bundles: map[bundleRead]readBundle{}, ids: map[*x509.Certificate]string{},
	}
}

// proofs are those of the observation, or fresh ones where there is no chain.
func (l Live) proofs() *proofs {
	if l.known == nil {
		return newProofs()
	}
	return l.known
}

// ofPeers are those of what peers present.
func (p *proofs) ofPeers() *proofs {
	if p.peers == nil {
		p.peers = newProofs()
	}
	return p.peers
}

// once is the first chain with the same content, so that what many peers present is
// judged once; or why it is not judged.
func (p *proofs) once(chain []*x509.Certificate) (first []*x509.Certificate, problem string) {
	sum := sha256.New()
	same := map[string]int{} // CAs by name and key
	for _, cert := range chain {
		sum.Write(cert.Raw)
		ca := string(cert.RawSubject) + string(cert.RawSubjectPublicKeyInfo)
		if same[ca]++; same[ca] > 2 {
			return nil, "its chain has more than two certificates of one name and key"
		}
	}
	id := [sha256.Size]byte(sum.Sum(nil))
	if known, is := p.chains[id]; is {
		return known, ""
	}
	if len(p.chains) == maxChains {
		return nil, fmt.Sprintf("the peers before it present %d different chains already", maxChains)
	}
	if p.chains == nil {
		p.chains = map[[sha256.Size]byte][]*x509.Certificate{}
	}
	p.chains[id] = chain
	return chain, ""
}

// id is LeafID.
func (p *proofs) id(cert *x509.Certificate) string {
	id, known := p.ids[cert]
	if !known {
		id = LeafID(cert)
		p.ids[cert] = id
	}
	return id
}

// published reads a bundle that is published, in which CAs that are trusted are
// those of the trust itself.
func (p *proofs) published(text []byte, trust Trust) ([]*x509.Certificate, error) {
	key := bundleRead{&text[0], len(text), identity(trust.Roots)}
	if read, known := p.bundles[key]; known {
		return read.certificates, read.err
	}
	certificates, err := parseBundle(text, maxSince)
	same := map[string]*x509.Certificate{}
	for _, ca := range trust.Roots {
		same[string(ca.Raw)] = ca
	}
	for i, ca := range certificates {
		if trusted, is := same[string(ca.Raw)]; is {
			certificates[i] = trusted
		}
	}
	p.bundles[key] = readBundle{certificates, err}
	return certificates, err
}

// verify is verifyChain.
func (p *proofs) verify(chain []*x509.Certificate, trust Trust, at time.Time) error {
	q := question{chain: identity(chain), cas: identity(trust.Roots), at: at}
	err, known := p.verdicts[q]
	if !known {
		err = verifyChain(chain, trust, at)
		p.paths++
		p.verdicts[q] = err
	}
	return err
}

// vouches tells whether the roots vouch for the first certificate of the chain
// at now. A clock that jumped back is no reason to distrust it.
func (p *proofs) vouches(roots, chain []*x509.Certificate, now time.Time) bool {
	return len(roots) > 0 && p.verify(chain, Trust{Roots: roots}, inForce(chain, now)) == nil
}

// inForce is now, or from when on the first certificate is valid.
func inForce(chain []*x509.Certificate, now time.Time) time.Time {
	if now.Before(chain[0].NotBefore) {
		return chain[0].NotBefore
	}
	return now
}

// issued tells whether the issuer is a CA that signed the certificate.
func (p *proofs) issued(issuer, cert *x509.Certificate) vouching {
	if !bytes.Equal(issuer.RawSubject, cert.RawIssuer) {
		return no
	}
	at := link{cert, issuer}
	signed, known := p.signed[at]
	if !known {
		if p.signatures >= maxSignatures {
			return maybe
		}
		p.signatures += cost(issuer.PublicKey)
		signed = cert.CheckSignatureFrom(issuer) == nil
		p.signed[at] = signed
	}
	if signed {
		return yes
	}
	return no
}

// ladder is what signatures lead to from a chain's first certificate, through the
// rest of the chain and some of what is beside it.
type ladder struct {
	reached map[*x509.Certificate]bool
	between []*x509.Certificate // those that a path can lead through, of the chain and beside it
	blind   bool                // not all could be checked
}

// climb finds them among the CAs and those beside. No path leads through a CA that
// signed itself: what else could have signed it has its key, and is reached
// without it.
func (p *proofs) climb(chain, beside, cas []*x509.Certificate) ladder {
	l := ladder{reached: map[*x509.Certificate]bool{}}
	fromBeside := 0
	for next := []*x509.Certificate{chain[0]}; len(next) > 0; next = next[1:] {
		for n, list := range [][]*x509.Certificate{chain[1:], beside, cas} {
			for _, ca := range list {
				if l.reached[ca] {
					continue
				}
				signed := p.issued(ca, next[0])
				l.blind = l.blind || signed == maybe
				l.reached[ca] = signed == yes
				if signed != yes || n == 2 || p.issued(ca, ca) == yes {
					continue
				}
				if n == 1 {
					fromBeside++
				}
				if fromBeside > maxBetween {
					l.blind = true
					continue
				}
				l.between, next = append(l.between, ca), append(next, ca)
			}
		}
	}
	return l
}

// upholders tells of the CAs of the trust, of what is published and of the chain
// itself whether each alone vouches for the chain's first certificate at now,
// where what is published is known too.
func (p *proofs) upholders(chain, published []*x509.Certificate, trust Trust, now time.Time) map[*x509.Certificate]vouching {
	q := question{identity(chain), identity(trust.Roots), identity(published), now}
	if known, is := p.upheld[q]; is {
		return known
	}
	l := p.climb(chain, published, trust.Roots)
	out := map[*x509.Certificate]vouching{}
	each := 1
	for _, ca := range l.between {
		each = max(each, cost(ca.PublicKey))
	}
	for _, list := range [][]*x509.Certificate{trust.Roots, published, chain[1:]} {
		for _, ca := range list {
			if _, done := out[ca]; done {
				continue
			}
			out[ca] = p.alone(ca, chain, l, now)
			if out[ca] == maybe && !l.blind {
				if p.indirect += each * signaturesOfOne; p.indirect <= maxPaths {
					out[ca] = p.path(append(chain[:1:1], l.between...), ca, now)
				}
			}
		}
	}
	p.upheld[q] = out
	return out
}

// alone is what can be said of one CA without trying what is between; maybe where
// that has to be tried.
func (p *proofs) alone(ca *x509.Certificate, chain []*x509.Certificate, l ladder, now time.Time) vouching {
	itself := ca.Equal(chain[0])
	switch {
	case itself || p.issued(ca, chain[0]) == yes:
		if p.path(chain[:1], ca, now) == yes {
			return yes
		}
	case !l.reached[ca] && !l.blind:
		return no
	}
	if len(l.between) == 0 && !l.blind {
		return no
	}
	return maybe
}

// path tries one CA alone.
func (p *proofs) path(chain []*x509.Certificate, ca *x509.Certificate, now time.Time) vouching {
	p.paths++
	if verifyChain(chain, Trust{Roots: []*x509.Certificate{ca}}, inForce(chain, now)) == nil {
		return yes
	}
	return no
}

// anchor is the first of the CAs that alone vouches for the chain; nil where none
// does, or it is not among the first that signatures lead to.
func (p *proofs) anchor(chain, cas []*x509.Certificate, now time.Time) *x509.Certificate {
	q := question{chain: identity(chain), cas: identity(cas), at: now}
	if known, is := p.anchors[q]; is {
		return known
	}
	l := p.climb(chain, nil, cas)
	p.anchors[q] = nil
	tried := 0
	for _, ca := range cas {
		if !l.reached[ca] && !ca.Equal(chain[0]) {
			continue
		}
		if tried++; tried > maxBetween {
			break
		}
		if p.path(append(chain[:1:1], l.between...), ca, now) == yes {
			p.anchors[q] = ca
			break
		}
	}
	return p.anchors[q]
}
