package crl

import (
	"encoding/binary"
	"time"
)

// usualEntries reads entries as long as they are whole in memory and of the
// shape that those of Vault, and of most others, have: a short serial number,
// UTCTime, at most a reason code. It stops at the first that is not, so that
// entry says what is wrong with it, if anything. Its error is that of each.
//
// It is where the time of a scan goes that hashing leaves. Most entries begin as
// the one before, with the same lengths; such ones are read many at once, in
// loops that are short enough for the processor's registers.
func (s *scanner) usualEntries(end int64) error {
	most := len(s.times)
	for {
		b := s.in.unread()
		b = b[:min(int64(len(b)), end-s.in.offset())]
		shape, ok := shapeOf(b)
		if !ok {
			return nil
		}
		whole := min(len(b)/shape.size, most)
		n := shape.dates(b[:whole*shape.size], &s.times)
		if shape.reason() {
			n = shape.reasonsAlone(b[:n*shape.size])
		}
		n = s.serials.addAlike(b[:n*shape.size], shape)
		if n == 0 {
			return nil
		}
		if shape.reason() {
			for i := shape.size - 1; i < n*shape.size; i += shape.size {
				s.reasons[b[i]]++
			}
		}
		s.sum.Revocations.add(s.times[:n]...)
		if s.each != nil || s.tally != nil {
			for i, at := range s.times[:n] {
				entry := b[i*shape.size:]
				if err := s.show(entry[4:shape.dateAt:shape.dateAt], at); err != nil {
					return err
				}
			}
		}
		s.in.r += n * shape.size
		most = min(4*n+16, len(s.times)) // few, where entries were made to look alike and are not
	}
}

// show tells Options.Tally and Options.Each of an entry.
func (s *scanner) show(serial []byte, at int64) error {
	if s.tally != nil {
		s.tally.add(serial, at)
	}
	if s.each == nil {
		return nil
	}
	return s.each(Entry{Serial: serial, RevokedAt: time.Unix(at, 0).UTC()})
}

// shape is what the lengths at the beginning of an entry say of it.
type shape struct {
	head   uint32 // tag and length of the entry and of the serial number
	dateAt int    // where in the entry the date is
	size   int    // of the entry
	mask   uint64 // of the octets that firstOctets are
}

// shapeOf is the shape of the entry that b begins with, if it is a usual one.
func shapeOf(b []byte) (shape, bool) {
	if len(b) < 4 {
		return shape{}, false
	}
	h := binary.LittleEndian.Uint32(b)
	length, serial := int(h>>8&0xff), int(h>>24)
	e := shape{head: h, dateAt: 4 + serial, size: 2 + length}
	if h&0xff80ff != tagInteger<<16|tagSequence || serial == 0 {
		return shape{}, false
	}
	e.mask = ^uint64(0) << (64 - 8*min(serial, 8))
	return e, e.size == e.dateAt+15 || e.size == e.dateAt+15+len(reasonExtension)+1
}

// reason tells whether the entries may have a reason code.
func (e shape) reason() bool { return e.size > e.dateAt+15 }

// serial is the serial number of the entry that b begins with, if it has this
// shape and a number of as few octets as possible.
func (e shape) serial(b []byte) ([]byte, bool) {
	if binary.LittleEndian.Uint32(b) != e.head {
		return nil, false
	}
	serial := b[4:e.dateAt]
	needless := len(serial) > 1 && (serial[0] == 0 || serial[0] == 0xff) && serial[0]>>7 == serial[1]>>7
	return serial, !needless
}

// firstOctets are those of the serial number of an entry of this shape, at most
// eight, as the high end of an integer.
func (e shape) firstOctets(b []byte) uint64 {
	return binary.BigEndian.Uint64(b[4:]) & e.mask
}

// falls counts the entries, from an index of b on, whose serial number comes
// before the one ahead of it, by octets and as a number, which are the same where
// the lengths are. It stops at an entry of another shape, or one whose first
// octets do not tell because they are equal or the first is zero or has the sign,
// and returns its index. It stays out of its caller, for the registers' sake.
//
//go:noinline
func (e shape) falls(b []byte, from int, ahead uint64) (at int, falls int64) {
	for at = from; at >= 0 && at < len(b)-11; at += e.size { // which spares checks below
		entry := (*[12]byte)(b[at:])
		key := binary.BigEndian.Uint64(entry[4:]) & e.mask
		if binary.LittleEndian.Uint32(entry[:]) != e.head || key == ahead || int64(key) < 1<<56 {
			break
		}
		if key < ahead {
			falls++
		}
		ahead = key
	}
	return at, falls
}

// dates reads the dates of the entries that b is, if all have this shape, and
// returns how many are UTCTime as it should be.
func (e shape) dates(b []byte, times *[512]int64) int {
	at := e.dateAt
	for i := range times {
		if at < 0 || at >= len(b)-14 { // which spares checks below
			return i
		}
		date, clock, ok := utcFields((*[15]byte)(b[at:]))
		if !ok {
			return i
		}
		unix, ok := utcSeconds(date, clock)
		if !ok {
			return i
		}
		times[i] = unix
		at += e.size
	}
	return len(times)
}

// reasonExtension is how the extensions of an entry with nothing but a reason
// code begin; the code is the octet that follows.
const reasonExtension = "\x30\x0c\x30\x0a\x06\x03" + idReasonCode + "\x04\x03\x0a\x01"

// reasonsAlone returns how many of the entries that b is have extensions that
// are nothing but a reason code with a name.
func (e shape) reasonsAlone(b []byte) (n int) {
	for len(b) >= e.size {
		extensions := b[e.dateAt+15 : e.size]
		if string(extensions[:len(reasonExtension)]) != reasonExtension || int(extensions[len(reasonExtension)]) >= len(reasonNames) {
			return n
		}
		b = b[e.size:]
		n++
	}
	return n
}
