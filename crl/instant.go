package crl

import (
	"encoding/binary"
	"time"
)

// utcMonths holds, for each month from January 1950 to December 2049 at index
// year%100*16 + month, the days from the Unix epoch to its first, times 32,
// plus its length. Other indexes have no days.
var utcMonths = func() (months [100 * 16]int32) {
	for year := 1950; year < 2050; year++ {
		for month := time.January; month <= time.December; month++ {
			first := time.Date(year, month, 1, 0, 0, 0, 0, time.UTC)
			start, end := first.Unix()/day, first.AddDate(0, 1, 0).Unix()/day
			months[year%100*16+int(month)] = int32(start<<5 | (end - start))
		}
	}
	return months
}()

// The digits of a UTCTime are worked on side by side, in the octets of an
// integer.
const (
	zeros = 0x3030303030303030
	sixes = 0x7676767676767676 // 0x80 - 10: above 9, an octet reaches its highest bit
	highs = 0x8080808080808080

	// 0x80 minus the first value that is too large, in every other octet.
	dateLimits  = (0x80-24)<<48 | (0x80-32)<<32 | (0x80-13)<<16 | (0x80 - 100)
	clockLimits = (0x80-60)<<16 | (0x80 - 60)
)

// parseUTCTime reads an element UTCTime of the form YYMMDDhhmmssZ as Unix time.
// Years from 50 on are of the twentieth century (RFC 5280 section 4.1.2.5.1).
//
// It and what it calls are each small enough to become part of a loop.
func parseUTCTime(b *[15]byte) (unix int64, ok bool) {
	date, notDigits := pairs(binary.LittleEndian.Uint64(b[2:]))
	clock, notDigits2 := pairs(uint64(binary.LittleEndian.Uint32(b[10:])) | zeros>>32<<32)
	if notDigits|notDigits2|((date+dateLimits)|(clock+clockLimits))&highs != 0 || b[0] != tagUTCTime || b[1] != 13 || b[14] != 'Z' {
		return 0, false
	}
	days, ok := daysOf(date)
	return days*day + int64(date>>48*3600+clock&0xff*60+clock>>16&0xff), ok
}

// pairs makes the numbers of two digits each that are in b, in every other
// octet. wrong is not zero when there is another character.
func pairs(b uint64) (numbers, wrong uint64) {
	b ^= zeros
	return (b*10 + b>>8) & 0x00ff00ff00ff00ff, ((b + sixes) | b) & highs
}

// daysOf are the days from the Unix epoch to a date: year, month and day in
// every other octet, from the lowest.
func daysOf(date uint64) (days int64, ok bool) {
	month := int64(utcMonths[date&0xff*16+date>>16&0xf])
	days = int64(date>>32&0xff) - 1
	return month>>5 + days, uint64(days) < uint64(month&31)
}

// parseGeneralizedTime reads YYYYMMDDhhmmssZ as Unix time.
func parseGeneralizedTime(b []byte) (unix int64, ok bool) {
	const layout = "20060102150405Z"
	if len(b) != len(layout) {
		return 0, false
	}
	t, err := time.Parse(layout, string(b))
	if err != nil {
		return 0, false
	}
	return t.Unix(), true
}

// instant reads a Time: UTCTime or GeneralizedTime, as RFC 5280 section 4.1.2.5
// has them. Either is accepted for any date.
func (c *cursor) instant(what string) (unix int64, err error) {
	raw := *c
	tag, contents, err := c.next(what)
	if err != nil {
		return 0, err
	}
	ok, want, rule := false, "", ""
	switch tag {
	case tagUTCTime:
		if len(raw.rest) >= 15 {
			unix, ok = parseUTCTime((*[15]byte)(raw.rest))
		}
		want, rule = "UTCTime YYMMDDhhmmssZ", ruleUTCTime
	case tagGeneralizedTime:
		unix, ok = parseGeneralizedTime(contents.rest)
		want, rule = "GeneralizedTime YYYYMMDDhhmmssZ", ruleGeneralized
	default:
		return 0, &SyntaxError{Offset: raw.at, Want: what + ": UTCTime or GeneralizedTime", Got: tagName(tag)}
	}
	if !ok {
		return 0, &SyntaxError{Offset: contents.at, Want: what + ": " + want, Got: quote(contents.rest), Rule: rule}
	}
	return unix, nil
}
