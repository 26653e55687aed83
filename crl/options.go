package crl

import (
	"io"
	"time"
)

// DefaultMaxBytes is the cap on a list's size unless Options says otherwise.
const DefaultMaxBytes = 256 << 20

// Options are the bounds of a scan. The zero value is ready for use.
type Options struct {
	// MaxBytes is the length in octets of the largest DER list accepted;
	// 0 means DefaultMaxBytes. The input, with PEM's text and base64, may be
	// twice as long and a MiB more. Beyond, Scan returns ErrMaxBytes.
	MaxBytes int64

	// Spool keeps the signed part of the list where the algorithm signs the
	// message itself (Ed25519, RFC 8410), so that Verify can read it again;
	// nothing is written to it for other algorithms. It must be empty, and what
	// Bytes returns must stay as it is until the last Verify. Without one, such
	// a signature is ErrNotVerifiable. An error of Write ends the scan, which
	// returns it wrapped.
	Spool Spool

	// Each is shown every entry, in the list's order, before the signature or
	// even the rest of the list has been looked at. An error of Each ends the
	// scan, which returns it as it is.
	Each func(Entry) error

	// Tally, where there is one, is told of every entry.
	Tally *Tally
}

// Entry is one revoked certificate.
type Entry struct {
	// Serial is the contents of the INTEGER: the serial number in two's
	// complement, with the highest octet first and as few as possible. It is
	// valid only until Each returns.
	Serial    []byte
	RevokedAt time.Time // to the second, in UTC
}

// Spool holds the signed part of a list outside the heap, or in it: that is the
// caller's choice.
type Spool interface {
	// Writer appends the next octets, in order. They may change after it returns.
	io.Writer
	// Bytes returns all that was written.
	Bytes() ([]byte, error)
}
