package crl

import (
	"encoding/binary"
	"time"
)

// utcMonths holds, for each month from January 1950 to December 2049 at index
// year%100*16 + month, the days from the Unix epoch to its first and its
// length. Other indexes have no days.
var utcMonths = func() (months [100 * 16]struct{ start, days int32 }) {
	for year := 1950; year < 2050; year++ {
		for month := time.January; month <= time.December; month++ {
			first := time.Date(year, month, 1, 0, 0, 0, 0, time.UTC)
			m := &months[year%100*16+int(month)]
			m.start = int32(first.Unix() / day)
			m.days = int32(first.AddDate(0, 1, 0).Unix()/day) - m.start
		}
	}
	return months
}()

// parseUTCTime reads YYMMDDhhmmssZ as Unix time. Years from 50 on are of the
// twentieth century (RFC 5280 section 4.1.2.5.1).
func parseUTCTime(b []byte) (unix int64, ok bool) {
	if len(b) != 13 || b[12] != 'Z' {
		return 0, false
	}
	date, clock := binary.LittleEndian.Uint64(b)^zeros, uint64(binary.LittleEndian.Uint32(b[8:]))^zeros>>32
	// Above 9 an octet carries into its highest bit.
	if ((date+sixes)|date|(clock+sixes>>32)|clock)&highs != 0 {
		return 0, false
	}
	date, clock = date*10+date>>8, clock*10+clock>>8 // now every other octet is a number of two digits
	year, month, dayOf, hour := date&0xff, date>>16&0xff, date>>32&0xff, date>>48&0xff
	minute, second := clock&0xff, clock>>16&0xff
	if month > 12 || hour > 23 || minute > 59 || second > 59 {
		return 0, false
	}
	m := &utcMonths[year*16+month]
	if dayOf-1 >= uint64(m.days) { // also where dayOf is 0
		return 0, false
	}
	return (int64(m.start)+int64(dayOf)-1)*day + int64(hour*3600+minute*60+second), true
}

const (
	zeros = 0x3030303030303030
	sixes = 0x7676767676767676 // 0x80 - 10
	highs = 0x8080808080808080
)

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
	at := c.at
	tag, contents, err := c.next(what)
	if err != nil {
		return 0, err
	}
	ok, want, rule := false, "", ""
	switch tag {
	case tagUTCTime:
		unix, ok = parseUTCTime(contents.rest)
		want, rule = "UTCTime YYMMDDhhmmssZ", ruleUTCTime
	case tagGeneralizedTime:
		unix, ok = parseGeneralizedTime(contents.rest)
		want, rule = "GeneralizedTime YYYYMMDDhhmmssZ", ruleGeneralized
	default:
		return 0, &SyntaxError{Offset: at, Want: what + ": UTCTime or GeneralizedTime", Got: tagName(tag)}
	}
	if !ok {
		return 0, &SyntaxError{Offset: contents.at, Want: what + ": " + want, Got: quote(contents.rest), Rule: rule}
	}
	return unix, nil
}
