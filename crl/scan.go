package crl

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math"
	"time"
)

// Scan reads one revocation list, DER or PEM, from r to its end, in one pass
// and in memory that does not grow with the list. It hashes what is signed on
// the way, so that Summary.Verify can check the signature.
//
// It accepts version 2 lists of RFC 5280 section 5.1 in DER alone: definite,
// minimal lengths, one algorithm inside and outside, nothing after the list.
// PEM may have text and other blocks around the one list.
//
// How long it takes is r's to say: a read that should not wait for ever has a
// deadline of its own, and what r then returns ends the scan. Between two reads
// Scan does no more than the work on 16 KiB, or on the largest element accepted,
// of 64 KiB. A reader that returns nothing 100 times is io.ErrNoProgress.
//
// What is wrong with the list is a *SyntaxError or ErrTooLarge; every other
// error is r's own, or that of Options.Each or Options.Spool. With an error the
// Summary is empty.
func Scan(r io.Reader, o Options) (Summary, error) {
	maxBytes := o.MaxBytes
	if maxBytes <= 0 {
		maxBytes = DefaultMaxBytes
	}
	s := scanner{maxBytes: maxBytes, spool: o.Spool, each: o.Each, tally: o.Tally}
	s.in = window{src: r, buf: make([]byte, windowSize)}
	s.sum.Format = FormatDER
	var pem *pemReader
	if !s.in.looksLikeDER() {
		s.sum.Format = FormatPEM
		pem = &pemReader{src: r, buf: s.in.buf, end: s.in.w, err: s.in.err, max: pemBytes(maxBytes)}
		s.in = window{src: pem, buf: make([]byte, windowSize)}
	}
	if err := s.list(); err != nil {
		var syntax *SyntaxError
		if pem != nil && pem.state != pemText && errors.As(err, &syntax) && !syntax.PEM {
			err = fmt.Errorf("in the DER of the PEM block: %w", err)
		}
		return Summary{}, err
	}
	return s.sum, nil
}

// scanner walks the grammar of RFC 5280 section 5.1.
type scanner struct {
	in       window
	maxBytes int64
	spool    Spool
	each     func(Entry) error
	tally    *Tally
	serials  sequence
	sum      Summary
	times    [512]int64              // of the entries that are worked on
	reasons  [len(reasonNames)]int64 // entries by reason code
	unnamed  int64                   // entries with another reason code
	digest   [64]byte                // room for the longest
}

func (s *scanner) list() error {
	end, err := s.in.enter("CertificateList", tagSequence, math.MaxInt64)
	if err != nil {
		return err
	}
	if end > s.maxBytes {
		return fmt.Errorf("a list of %d bytes, at most %d are read: %w", end, s.maxBytes, ErrMaxBytes)
	}
	s.sum.Bytes = end
	if err := s.tbsCertList(end); err != nil {
		return err
	}
	outer, err := s.in.take("signature algorithm", tagSequence, end)
	if err != nil {
		return err
	}
	if !bytes.Equal(outer.rest, s.sum.algorithm) {
		return &SyntaxError{Offset: outer.at, Want: "the signature algorithm named inside the list", Got: "another"}
	}
	if err := s.signature(end); err != nil {
		return err
	}
	if left := end - s.in.offset(); left > 0 {
		return trailing(s.in.offset(), "the CertificateList", left)
	}
	if s.in.fill(1) {
		return &SyntaxError{Offset: end, Want: "the end of the input after the list", Got: "more", Rule: ruleOneList}
	}
	if s.in.err != io.EOF {
		return readError(s.in.err, end)
	}
	return nil
}

// tbsCertList reads the signed part and leaves its digest in the summary.
func (s *scanner) tbsCertList(end int64) error {
	from := s.in.offset()
	end, err := s.in.enter("TBSCertList", tagSequence, end)
	if err != nil {
		return err
	}
	if err := s.version(end); err != nil {
		return err
	}
	if err := s.innerAlgorithm(from, end); err != nil {
		return err
	}
	if err := s.issuer(end); err != nil {
		return err
	}
	if err := s.updates(end); err != nil {
		return err
	}
	if err := s.revoked(end); err != nil {
		return err
	}
	s.sum.Order = s.serials.order()
	if err := s.extensions(end); err != nil {
		return err
	}
	s.sum.Digest = s.sum.keep(s.in.hash.Sum(s.digest[:0]))
	return nil
}

func (s *scanner) version(end int64) error {
	version, err := s.in.take("version", tagInteger, end)
	if err != nil {
		return err
	}
	if err := version.integer("version"); err != nil {
		return err
	}
	if len(version.rest) != 1 || version.rest[0] != 1 {
		return &SyntaxError{Offset: version.at, Want: "version 2, encoded as 1", Got: quote(version.rest)}
	}
	s.sum.Version = 2
	return nil
}

// innerAlgorithm learns what the signature needs, a hash or the message itself,
// and starts it. What was read until here is still in memory: the header and
// one element.
func (s *scanner) innerAlgorithm(from, end int64) error {
	fields, err := s.in.take("signature algorithm", tagSequence, end)
	if err != nil {
		return err
	}
	s.sum.algorithm = s.sum.keep(fields.rest)
	algorithm, hash, err := fields.algorithm()
	if err != nil {
		return err
	}
	s.sum.SignatureAlgorithm, s.sum.DigestHash = algorithm, hash
	if hash == 0 {
		s.sum.DigestHash = crypto.SHA256
	}
	if algorithm == x509.PureEd25519 && s.spool != nil {
		s.sum.spool = s.spool
		s.in.startSigned(s.sum.DigestHash.New(), s.spool, from, end)
	} else {
		s.in.startSigned(s.sum.DigestHash.New(), nil, from, end)
	}
	return nil
}

func (s *scanner) issuer(end int64) error {
	fields, err := s.in.take("issuer", tagSequence, end)
	if err != nil {
		return err
	}
	s.sum.RawIssuer = s.sum.keep(fields.raw)
	s.sum.Issuer, err = fields.name()
	return err
}

func (s *scanner) updates(end int64) error {
	this, err := s.time("thisUpdate", end)
	if err != nil {
		return err
	}
	s.sum.ThisUpdate = time.Unix(this, 0).UTC()
	if s.tally != nil {
		s.tally.begin(this)
	}
	tag, err := s.in.peek("what follows thisUpdate", end)
	if err != nil || tag != tagUTCTime && tag != tagGeneralizedTime {
		return err
	}
	next, err := s.time("nextUpdate", end)
	if err != nil {
		return err
	}
	s.sum.NextUpdate = time.Unix(next, 0).UTC()
	return nil
}

// time reads a Time that is a field of the list itself.
func (s *scanner) time(what string, end int64) (int64, error) {
	tag, err := s.in.peek(what, end)
	if err != nil {
		return 0, err
	}
	if tag != tagGeneralizedTime {
		tag = tagUTCTime
	}
	field, err := s.in.take(what, tag, end)
	if err != nil {
		return 0, err
	}
	c := cursor{rest: field.raw, at: field.start}
	return c.instant(what)
}

// revoked reads revokedCertificates, which may be absent.
func (s *scanner) revoked(end int64) error {
	tag, err := s.in.peek("revokedCertificates or extensions", end)
	if err != nil || tag != tagSequence {
		return err
	}
	if end, err = s.in.enter("revokedCertificates", tagSequence, end); err != nil {
		return err
	}
	for s.in.offset() < end {
		if err := s.usualEntries(end); err != nil {
			return err
		}
		if s.in.offset() < end {
			if err := s.entry(end); err != nil {
				return err
			}
		}
	}
	s.sum.Entries = s.sum.Revocations.total
	if s.sum.Entries > 0 {
		s.sum.OldestRevocation = time.Unix(s.sum.Revocations.first, 0).UTC()
		s.sum.NewestRevocation = time.Unix(s.sum.Revocations.last, 0).UTC()
	}
	s.sum.UnnamedReasons = s.unnamed
	for code, n := range s.reasons {
		switch {
		case n == 0:
		case reasonNames[code] == "":
			s.sum.UnnamedReasons += n
		default:
			if s.sum.Reasons == nil {
				s.sum.Reasons = make(map[string]int64, len(reasonNames))
			}
			s.sum.Reasons[reasonNames[code]] = n
		}
	}
	return nil
}

// entry reads one entry of any shape.
func (s *scanner) entry(end int64) error {
	e, err := s.in.take("entry", tagSequence, end)
	if err != nil {
		return err
	}
	serial, err := e.read("serial number", tagInteger)
	if err != nil {
		return err
	}
	if err := serial.integer("serial number"); err != nil {
		return err
	}
	at, err := e.instant("revocation date")
	if err != nil {
		return err
	}
	if !e.empty() && e.rest[0] == tagSequence {
		extensions, err := e.read("extensions of the entry", tagSequence)
		if err != nil {
			return err
		}
		if err := s.entryExtensions(extensions); err != nil {
			return err
		}
	}
	s.sum.Revocations.add(at)
	if err := e.done("the entry"); err != nil {
		return err
	}
	s.serials.add(serial.rest)
	return s.show(serial.rest, at)
}

func (s *scanner) entryExtensions(c cursor) error {
	var room [maxCompared][]byte
	seen := room[:0]
	var reason int64
	given := false
	for !c.empty() {
		fields, err := c.read("extension", tagSequence)
		if err != nil {
			return err
		}
		e, err := fields.extension()
		if err != nil {
			return err
		}
		if string(e.id) == idReasonCode {
			if reason, err = e.reasonCode(); err != nil {
				return err
			}
			given = true
		} else {
			s.sum.unhandled(e)
		}
		if !s.sum.repeated(seen, e) && len(seen) < cap(seen) {
			seen = append(seen, e.id)
		}
	}
	switch {
	case !given:
	case reason >= 0 && reason < int64(len(s.reasons)):
		s.reasons[reason]++
	default:
		s.unnamed++
	}
	return nil
}

// extensions reads crlExtensions, which may be absent, and checks that nothing
// follows them.
func (s *scanner) extensions(end int64) error {
	tag, err := s.in.peek("extensions of the list", end)
	if err != nil || tag == 0 && s.in.offset() == end {
		return err
	}
	if tag != tagExtensions {
		return trailing(s.in.offset(), "the TBSCertList", end-s.in.offset())
	}
	explicit, err := s.in.enter("extensions of the list", tagExtensions, end)
	if err != nil {
		return err
	}
	list, err := s.in.enter("extensions of the list", tagSequence, explicit)
	if err != nil {
		return err
	}
	var room [maxCompared][]byte
	seen := room[:0]
	for s.in.offset() < list {
		fields, err := s.in.take("extension", tagSequence, list)
		if err != nil {
			return err
		}
		e, err := fields.extension()
		if err != nil {
			return err
		}
		if err := s.sum.listExtension(e); err != nil {
			return err
		}
		if !s.sum.repeated(seen, e) && len(seen) < cap(seen) && len(e.id) <= maxComparedID {
			seen = append(seen, s.sum.keep(e.id))
		}
	}
	if s.in.offset() < explicit {
		return trailing(s.in.offset(), "the extensions of the list", explicit-s.in.offset())
	}
	if s.in.offset() < end {
		return trailing(s.in.offset(), "the TBSCertList", end-s.in.offset())
	}
	return nil
}

// signature reads signatureValue.
func (s *scanner) signature(end int64) error {
	bits, err := s.in.take("signature", tagBitString, end)
	if err != nil {
		return err
	}
	b := bits.rest
	if len(b) == 0 || b[0] > 7 || len(b) == 1 && b[0] > 0 || len(b) > 1 && b[len(b)-1]&(1<<b[0]-1) != 0 {
		return &SyntaxError{Offset: bits.at, Want: "signature: BIT STRING with its unused bits zero", Got: quote(b)}
	}
	// As crypto/x509 does, should the bits not fill the octets.
	s.sum.signature = s.sum.keep(asn1.BitString{Bytes: b[1:], BitLength: 8*(len(b)-1) - int(b[0])}.RightAlign())
	return nil
}
