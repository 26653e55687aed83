package crl

import (
	"encoding/binary"
	"time"
)

// utcMonths holds, for each month from January 1950 to December 2049 at index
// year%100*32 + month, the days from the Unix epoch to the day before its first,
// times 256, plus its length. Other indexes have no days.
var utcMonths = func() (months [128 * 32]int64) {
	for year := 1950; year < 2050; year++ {
		for month := time.January; month <= time.December; month++ {
			first := time.Date(year, month, 1, 0, 0, 0, 0, time.UTC)
			start, end := first.Unix()/day, first.AddDate(0, 1, 0).Unix()/day
			months[year%100*32+int(month)] = (start-1)<<8 | (end - start)
		}
	}
	return months
}()

// A UTCTime is worked on in two integers that hold its 15 octets side by side:
// tag, length and date in one, the clock and Z in the other, with the last
// digit of the day in both. What they are worked on with never changes; it is
// read from memory because eight octets within an instruction take longer.
var (
	dateText  uint64 = 0x30303030_30300d17 // what 000000 would be, from the last octet to the first
	clockText uint64 = 0x5a303030_30303030
	// What brings an octet to its highest bit when it is above 9 or, at the tens
	// of months, days, hours, minutes and seconds, above 1, 3, 2, 5 and 5, or,
	// where there is but one value, above 0.
	dateExcess  uint64 = 0x767c767e_76767f7f
	clockExcess uint64 = 0x7f767a76_7a767d76
	highs       uint64 = 0x80808080_80808080
	// Where year and month are once two digits are one octet, and by what a
	// multiplication adds them up in the highest bits, to year*32 + month; what
	// else it makes is lower. The same for the seconds since midnight.
	monthMask uint64 = 0x1f_00ff_0000
	monthSum  uint64 = 1<<20 | 1<<41
	clockMask uint64 = 0xff00_ff00_ff00
	clockSum  uint64 = 3600<<39 | 60<<23 | 1<<7
)

// parseUTCTime reads an element UTCTime of the form YYMMDDhhmmssZ as Unix time.
// Years from 50 on are of the twentieth century (RFC 5280 section 4.1.2.5.1).
func parseUTCTime(b *[15]byte) (unix int64, ok bool) {
	date, clock, ok := utcFields(b)
	if !ok {
		return 0, false
	}
	return utcSeconds(date, clock)
}

// utcFields reads the two digits each of year, month and day into octets 2, 4
// and 6 of date, of hour, minute and second into octets 1, 3 and 5 of clock. The
// octets between them hold what is not needed. Like utcSeconds it is small enough
// to become part of a loop.
func utcFields(b *[15]byte) (date, clock uint64, ok bool) {
	date = binary.LittleEndian.Uint64(b[:8]) ^ dateText
	clock = binary.LittleEndian.Uint64(b[7:]) ^ clockText
	wrong := (date + dateExcess) | date | (clock + clockExcess) | clock
	return date*10 + date>>8, clock*10 + clock>>8, wrong&highs == 0
}

// utcSeconds is the instant, unless no calendar and no clock has it.
func utcSeconds(date, clock uint64) (unix int64, ok bool) {
	month := utcMonths[date&monthMask*monthSum>>52]
	seconds := clock & clockMask * clockSum >> 47
	d := date >> 48 & 0xff
	if uint8(d-1) >= uint8(month) || seconds >= day {
		return 0, false
	}
	return (month>>8+int64(d))*day + int64(seconds), true
}

// parseGeneralizedTime reads YYYYMMDDhhmmssZ as Unix time.
func parseGeneralizedTime(b []byte) (unix int64, ok bool) {
	const layout = "20060102150405Z"
	if len(b) != len(layout) {
		return 0, false
	}
	t, err := time.Parse(layout, string(b))
	if err != nil || t.Format(layout) != string(b) { // Parse takes signs among the digits
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
