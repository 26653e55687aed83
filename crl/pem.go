package crl

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

const (
	pemBegin = "-----BEGIN "
	pemDash  = "-----"
)

// pemEnds is the line that ends a list by the line that begins it. The label
// CRL is rare (RFC 7468 section 6).
var pemEnds = map[string]string{
	"-----BEGIN X509 CRL-----": "-----END X509 CRL-----",
	"-----BEGIN CRL-----":      "-----END CRL-----",
}

// looksLikeDER tells DER from PEM with text before it. Text begins with the
// tag of a SEQUENCE where its first character is 0.
func (w *window) looksLikeDER() bool {
	if !w.fill(2) || w.buf[0] != tagSequence || w.buf[1] >= 0x80 {
		return w.w > 0 && w.buf[0] == tagSequence
	}
	w.fill(len(w.buf))
	return !bytes.Contains(w.unread(), []byte(pemBegin))
}

// pemBytes is the longest PEM input read for a list of at most n octets.
func pemBytes(n int64) int64 { return 2*n + 1<<20 }

// pemReader reads the octets of the one PEM block X509 CRL among text and other
// blocks (RFC 7468 section 5, lax: lines of any length, white space, header
// fields). It ends only when it has seen the end of its input.
type pemReader struct {
	src        io.Reader
	buf        []byte
	start, end int   // buf[start:end] has not been looked at
	base       int64 // offset of buf[0] in the input
	max        int64 // of the input
	err        error // that src ended with

	state   pemState
	endLine string // of the list's block
	midLine bool   // the next piece does not begin a line
	other   string // label of the first block that is not a list
	carry   []byte // base64 short of a group of four
	begun   bool   // base64 has been seen: no more header fields
	padded  bool   // padding has been seen: base64 is at its end
	decoded []byte // capacity for what is decoded at once
	ready   []byte // part of decoded not yet read
	failed  error  // what reading ended with, once ready is read
}

type pemState int

const (
	pemText pemState = iota
	pemBody
	pemDone
)

// Read implements io.Reader.
func (p *pemReader) Read(out []byte) (int, error) {
	for len(p.ready) == 0 {
		if p.failed != nil {
			return 0, p.failed
		}
		p.decode()
	}
	n := copy(out, p.ready)
	p.ready = p.ready[n:]
	return n, nil
}

// decode makes the next octets ready, and notes why there are no more.
func (p *pemReader) decode() {
	if p.decoded == nil {
		p.decoded = make([]byte, 0, 2*len(p.buf))
	}
	p.decoded = p.decoded[:0]
	for p.failed == nil && len(p.decoded) < len(p.buf) {
		switch piece, at, whole, err := p.piece(); {
		case err == nil:
			p.failed = p.take(bytes.TrimRight(piece, " \t\r\n"), at, whole)
		case errors.Is(err, io.EOF):
			p.failed = p.ended()
		default:
			p.failed = err
		}
	}
	p.ready = p.decoded
}

// piece is the next line of the input or, where it is longer than the buffer,
// a part of it. whole tells whether it begins a line.
func (p *pemReader) piece() (piece []byte, at int64, whole bool, err error) {
	whole, at = !p.midLine, p.base+int64(p.start)
	for {
		unread := p.buf[p.start:p.end]
		if i := bytes.IndexByte(unread, '\n'); i >= 0 {
			p.start += i + 1
			p.midLine = false
			return unread[:i+1], at, whole, nil
		}
		if len(unread) == len(p.buf) || p.err != nil && len(unread) > 0 {
			p.start = p.end
			p.midLine = true
			return unread, at, whole, nil
		}
		if p.err != nil {
			return nil, at, whole, p.err
		}
		p.base += int64(p.start)
		p.start, p.end = 0, copy(p.buf, unread)
		p.read()
	}
}

// read reads more, at least one octet unless p.err is set.
func (p *pemReader) read() {
	for range 100 {
		n, err := p.src.Read(p.buf[p.end:])
		p.end += n
		p.err = err
		if p.base+int64(p.end) > p.max {
			p.err = fmt.Errorf("more than %d bytes of PEM: %w", p.max, ErrMaxBytes)
			p.end = p.start
		}
		if n > 0 || p.err != nil {
			return
		}
	}
	p.err = io.ErrNoProgress
}

// take takes in one piece without its line's end.
func (p *pemReader) take(piece []byte, at int64, whole bool) error {
	boundary := whole && bytes.HasPrefix(piece, []byte(pemDash))
	switch {
	case p.state == pemBody && boundary:
		return p.endOfBody(piece, at)
	case p.state == pemBody:
		return p.body(piece, at)
	case boundary && pemEnds[string(piece)] != "":
		if p.state == pemDone {
			return &SyntaxError{PEM: true, Offset: at, Want: "one list", Got: "a second PEM block X509 CRL", Rule: ruleOneList}
		}
		p.state, p.endLine = pemBody, pemEnds[string(piece)]
	case boundary && p.other == "" && bytes.HasPrefix(piece, []byte(pemBegin)) && len(piece) < 80:
		p.other = string(bytes.TrimSuffix(piece[len(pemBegin):], []byte(pemDash)))
	}
	return nil
}

func (p *pemReader) endOfBody(piece []byte, at int64) error {
	if string(piece) != p.endLine {
		return &SyntaxError{PEM: true, Offset: at, Want: p.endLine, Got: quote(piece)}
	}
	if len(p.carry) > 0 {
		return &SyntaxError{PEM: true, Offset: at, Want: "base64 in groups of four characters", Got: fmt.Sprintf("%d left over", len(p.carry))}
	}
	p.state = pemDone
	return nil
}

// pemSpaces are the white space within a line that encoding/pem skips: no form
// feed, nor what Unicode has.
const pemSpaces = " \t\r"

// body decodes one piece of base64. White space has no meaning, and lines with
// a colon before the first group are header fields (RFC 1421 section 4.4).
func (p *pemReader) body(piece []byte, at int64) error {
	if !p.begun && bytes.IndexByte(piece, ':') >= 0 {
		return nil
	}
	p.begun = p.begun || len(piece) > 0
	if bytes.ContainsAny(piece, pemSpaces) {
		piece = slices.DeleteFunc(piece, func(o byte) bool { return strings.IndexByte(pemSpaces, o) >= 0 })
	}
	if p.padded && len(piece) > 0 {
		return &SyntaxError{PEM: true, Offset: at, Want: p.endLine + " after the padding", Got: quote(piece)}
	}
	if len(p.carry) > 0 {
		n := min(4-len(p.carry), len(piece))
		p.carry = append(p.carry, piece[:n]...)
		piece = piece[n:]
		if len(p.carry) < 4 {
			return nil
		}
		group := p.carry
		p.carry = nil
		if err := p.groups(group, at); err != nil {
			return err
		}
		if p.padded && len(piece) > 0 {
			return &SyntaxError{PEM: true, Offset: at, Want: p.endLine + " after the padding", Got: quote(piece)}
		}
	}
	groups := len(piece) &^ 3
	if groups < len(piece) {
		p.carry = append(p.carry, piece[groups:]...)
	}
	return p.groups(piece[:groups], at)
}

// groups decodes whole groups of four characters.
func (p *pemReader) groups(b []byte, at int64) error {
	if len(b) == 0 {
		return nil
	}
	used := len(p.decoded)
	n, err := base64.StdEncoding.Decode(p.decoded[used:cap(p.decoded)], b)
	if err != nil {
		var corrupt base64.CorruptInputError
		if errors.As(err, &corrupt) {
			at += int64(corrupt)
		}
		return &SyntaxError{PEM: true, Offset: at, Want: "base64", Got: quote(b[min(int(corrupt), len(b)-1):])}
	}
	p.decoded = p.decoded[:used+n]
	p.padded = b[len(b)-1] == '='
	return nil
}

// ended is what the end of the input means.
func (p *pemReader) ended() error {
	at := p.base + int64(p.end)
	switch p.state {
	case pemDone:
		return io.EOF
	case pemBody:
		return &SyntaxError{PEM: true, Offset: at, Want: p.endLine, Got: "the end of the input"}
	}
	got := "neither"
	switch {
	case at == 0:
		got = "no input at all"
	case p.other != "":
		got = fmt.Sprintf("a PEM block %q", p.other)
	}
	return &SyntaxError{Want: "a list in DER (beginning with 0x30) or in a PEM block X509 CRL", Got: got}
}
