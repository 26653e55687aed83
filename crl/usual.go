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
// It is where the time of a scan goes that hashing leaves.
func (s *scanner) usualEntries(end int64) error {
	b := s.in.unread()
	b = b[:min(int64(len(b)), end-s.in.offset())]
	unread := len(b)
	var times [256]int64
	n := 0
	// Most entries begin as the one before: with the same lengths.
	var head uint32
	var dateAt, size int
	for len(b) > 21 { // no shorter entry can be whole
		if h := binary.LittleEndian.Uint32(b); h != head {
			length, serial := int(h>>8&0xff), int(h>>24)
			if h&0xff80ff != tagInteger<<16|tagSequence || serial == 0 || length < serial+17 {
				break
			}
			head, dateAt, size = h, 4+serial, 2+length
		}
		if size > len(b) || b[4]+1 <= 1 && dateAt > 5 && b[4]>>7 == b[5]>>7 { // the latter: not minimal
			break
		}
		date, clock, ok := utcFields((*[15]byte)(b[dateAt:]))
		if !ok {
			break
		}
		days, ok := daysOf(date)
		if !ok || size > dateAt+15 && !s.reasonOnly(b[dateAt+15:size]) {
			break
		}
		times[n] = days*day + secondsOf(clock)
		if s.tally != nil {
			s.tally.add(b[4:dateAt:dateAt], times[n])
		}
		if s.each != nil {
			if err := s.each(Entry{Serial: b[4:dateAt:dateAt], RevokedAt: time.Unix(times[n], 0).UTC()}); err != nil {
				return err
			}
		}
		if n++; n == len(times) {
			s.sum.Revocations.add(times[:]...)
			n = 0
		}
		b = b[size:]
	}
	s.sum.Revocations.add(times[:n]...)
	s.in.r += unread - len(b)
	return nil
}

// reasonExtension is how the extensions of an entry with nothing but a reason
// code begin; the code is the octet that follows.
const reasonExtension = "\x30\x0c\x30\x0a\x06\x03" + idReasonCode + "\x04\x03\x0a\x01"

// reasonOnly counts the reason code if the extensions of an entry are nothing
// but one.
func (s *scanner) reasonOnly(extensions []byte) bool {
	if len(extensions) != len(reasonExtension)+1 || string(extensions[:len(reasonExtension)]) != reasonExtension {
		return false
	}
	code := int(extensions[len(reasonExtension)])
	if code >= len(s.reasons) {
		return false
	}
	s.reasons[code]++
	return true
}
