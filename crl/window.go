package crl

import (
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
)

const (
	windowSize = 16 << 10
	// maxElement is the largest name, extension, entry or signature: these are
	// held in memory as a whole.
	maxElement = 64 << 10
)

// window is the part of the list that is in memory. It copies the signed part,
// as it reads it, to a hash and, where there is one, to a spool.
type window struct {
	src  io.Reader
	buf  []byte
	r, w int   // buf[r:w] has not been consumed
	base int64 // offset of buf[0] in the list
	err  error // that src or the spool ended with

	hash      hash.Hash // nil outside the signed part
	spool     io.Writer // nil: none
	signedEnd int64     // offset at which the signed part ends
}

// offset is where in the list the next unread octet is.
func (w *window) offset() int64 { return w.base + int64(w.r) }

func (w *window) unread() []byte { return w.buf[w.r:w.w] }

// startSigned copies the list, from an offset that is still in memory up to
// another, to the hash and the spool.
func (w *window) startSigned(h hash.Hash, spool io.Writer, from, to int64) {
	w.hash, w.spool, w.signedEnd = h, spool, to
	w.signed(int(from - w.base))
}

// signed copies what is in memory from index from on, as far as it is signed.
func (w *window) signed(from int) {
	if w.hash == nil {
		return
	}
	end := min(int64(w.w), w.signedEnd-w.base)
	if end <= int64(from) {
		return
	}
	w.hash.Write(w.buf[from:end]) // never returns an error
	if w.spool != nil {
		if _, err := w.spool.Write(w.buf[from:end]); err != nil {
			w.err, w.spool = &spoolError{err}, nil
		}
	}
}

// fill reads until n octets are unread. It returns false when there are fewer;
// w.err is then the reason, io.EOF at the end.
func (w *window) fill(n int) bool {
	if w.w-w.r >= n {
		return true
	}
	if w.r+n > len(w.buf) {
		buf := w.buf
		if n > len(buf) {
			buf = make([]byte, max(n, maxElement)) // once
		}
		w.w = copy(buf, w.unread())
		w.base += int64(w.r)
		w.r, w.buf = 0, buf
	}
	for empty := 0; w.w-w.r < n && w.err == nil; {
		read, err := w.src.Read(w.buf[w.w:])
		w.w += read
		w.err = err
		w.signed(w.w - read)
		if read > 0 {
			empty = 0
		} else if empty++; empty == 100 && err == nil {
			w.err = io.ErrNoProgress
		}
	}
	return w.w-w.r >= n
}

// short is the error for input that ended where what was expected.
func (w *window) short(what string) error {
	end := w.base + int64(w.w)
	if errors.Is(w.err, io.EOF) {
		return &SyntaxError{Offset: end, Want: what, Got: "the end of the input"}
	}
	return readError(w.err, end)
}

func readError(err error, at int64) error {
	var syntax *SyntaxError
	if errors.As(err, &syntax) || errors.Is(err, ErrTooLarge) {
		return err // of the PEM around the list
	}
	var spool *spoolError
	if errors.As(err, &spool) {
		return err
	}
	return fmt.Errorf("reading the CRL at byte %d: %w", at, err)
}

// spoolError is what Options.Spool ended the scan with.
type spoolError struct{ err error }

func (e *spoolError) Error() string {
	return "writing the CRL's signed part to the spool: " + e.err.Error()
}
func (e *spoolError) Unwrap() error { return e.err }

// peek is the tag of the next element before end, 0 when there is none.
func (w *window) peek(what string, end int64) (byte, error) {
	if w.offset() == end {
		return 0, nil
	}
	if !w.fill(1) {
		return 0, w.short(what)
	}
	return w.buf[w.r], nil
}

// enter consumes the header of an element of the given tag and returns the
// offset at which its contents end.
func (w *window) enter(what string, tag byte, end int64) (int64, error) {
	h, err := w.header(what, tag, end)
	if err != nil {
		return 0, err
	}
	w.r += h.octets
	return w.offset() + h.length, nil
}

// element is one element in memory. It stays valid until the window moves.
type element struct {
	cursor        // its contents
	raw    []byte // with its header
	start  int64  // offset of raw in the list
}

// take consumes an element of the given tag.
func (w *window) take(what string, tag byte, end int64) (element, error) {
	h, err := w.header(what, tag, end)
	if err != nil {
		return element{}, err
	}
	size := int64(h.octets) + h.length
	if size > maxElement {
		return element{}, fmt.Errorf("at byte %d: %s of %d bytes, at most %d are read: %w", w.offset(), what, size, maxElement, ErrTooLarge)
	}
	if !w.fill(int(size)) {
		return element{}, w.short(fmt.Sprintf("%s of %d bytes from byte %d on", what, size, w.offset()))
	}
	e := element{raw: w.buf[w.r : w.r+int(size) : w.r+int(size)], start: w.offset()}
	e.cursor = cursor{rest: e.raw[h.octets:], at: e.start + int64(h.octets)}
	w.r += int(size)
	return e, nil
}

// header reads the next header without consuming it and checks that the
// element ends by end.
func (w *window) header(what string, tag byte, end int64) (header, error) {
	at := w.offset()
	room := end - at
	if room <= 0 {
		return header{}, &SyntaxError{Offset: at, Want: what, Got: "the end of what encloses it"}
	}
	w.fill(int(min(room, maxHeader)))
	b := w.unread()
	b = b[:min(int64(len(b)), room)]
	if len(b) > 0 && b[0] != tag {
		return header{}, wrongTag(at, what, tag, b[0])
	}
	h, index, got, missing := parseHeader(b)
	switch {
	case missing && int64(len(b)) < room:
		return header{}, w.short(what)
	case missing:
		return header{}, &SyntaxError{Offset: at, Want: what, Got: "the end of what encloses it within its length"}
	case got != "":
		return header{}, &SyntaxError{Offset: at + int64(index), Want: wantLength + " of " + what, Got: got}
	case end != math.MaxInt64 && h.length > room-int64(h.octets):
		return header{}, tooLong(at+1, what, h.length, end)
	}
	return h, nil
}
