package crl

import (
	"bytes"
)

// Order is how the serial numbers of a list follow each other. Vault writes
// them by their octets, in one run for each issuer that shares the key and the
// name (Vault builtin/logical/pki/crl_util.go, over a storage that lists its
// keys sorted).
type Order struct {
	// Sorted is set where no number comes before the one ahead of it, compared
	// octet by octet without the leading zero octet that DER gives some, where a
	// number that begins another comes first: as hexadecimal strings are sorted.
	Sorted bool
	// Numeric is set where no number is smaller than the one ahead of it.
	Numeric bool
	// Runs is the number of longest stretches that are Sorted, 0 without entries.
	Runs int64
	// Duplicates is the number of entries with the same serial number as the one
	// ahead of them. Equal numbers that are not neighbours are not counted; where
	// Sorted is set there are none.
	Duplicates int64
}

// sequence checks the order of serial numbers, given as contents of INTEGERs.
type sequence struct {
	entries      bool   // there was one
	last         []byte // a copy of the newest
	room         [32]byte
	falls        int64 // numbers that are Sorted after a later one
	numericFalls int64
	duplicates   int64
}

// follow compares a serial number with the one ahead of it.
func (q *sequence) follow(ahead, serial []byte) {
	if bytes.Compare(magnitude(ahead), magnitude(serial)) > 0 {
		q.falls++
	}
	switch c := compareIntegers(ahead, serial); {
	case c > 0:
		q.numericFalls++
	case c == 0:
		q.duplicates++
	}
}

// add compares a serial number with the newest and keeps it.
func (q *sequence) add(serial []byte) {
	if q.entries {
		q.follow(q.last, serial)
	}
	q.keep(serial)
}

func (q *sequence) keep(serial []byte) {
	if !q.entries {
		q.entries, q.last = true, q.room[:0]
	}
	q.last = append(q.last[:0], serial...)
}

// addAlike is add for the entries that b is, as far as they have the shape and a
// serial number of as few octets as possible. It returns how many do.
func (q *sequence) addAlike(b []byte, e shape) int {
	at, signed := 0, true
	var ahead uint64
	for ; at < len(b); at += e.size {
		if !signed { // otherwise the first octets of the one ahead do not tell
			var falls int64
			at, falls = e.falls(b, at, ahead)
			q.falls += falls
			q.numericFalls += falls
			if at == len(b) {
				break
			}
		}
		serial, ok := e.serial(b[at:])
		if !ok {
			break
		}
		if at > 0 {
			q.follow(b[at-e.size+4:at-e.size+e.dateAt], serial)
		} else if q.entries {
			q.follow(q.last, serial)
		}
		signed = serial[0]-1 >= 0x7f
		ahead = e.firstOctets(b[at:])
	}
	if at > 0 {
		q.keep(b[at-e.size+4 : at-e.size+e.dateAt])
	}
	return at / e.size
}

func (q *sequence) order() Order {
	o := Order{Sorted: q.falls == 0, Numeric: q.numericFalls == 0, Duplicates: q.duplicates}
	if q.entries {
		o.Runs = q.falls + 1
	}
	return o
}

// compareIntegers compares two numbers in two's complement, as short as
// possible each.
func compareIntegers(a, b []byte) int {
	negative := a[0] >= 0x80
	switch {
	case negative != (b[0] >= 0x80):
		if negative {
			return -1
		}
		return 1
	case len(a) == len(b):
		return bytes.Compare(a, b)
	case (len(a) < len(b)) != negative:
		return -1
	}
	return 1
}
