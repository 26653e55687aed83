package crl

import (
	"encoding/binary"
	"time"
)

// utcMonths holds, for each month from January 1950 to December 2049 at index
// year%100*32 + month, the days from the Unix epoch to its first, times 32,
// plus its length. Other indexes have no days.
var utcMonths = func() (months [100 * 32]int32) {
	for year := 1950; year < 2050; year++ {
		for month := time.January; month <= time.December; month++ {
			first := time.Date(year, month, 1, 0, 0, 0, 0, time.UTC)
			start, end := first.Unix()/day, first.AddDate(0, 1, 0).Unix()/day
			months[year%100*32+int(month)] = int32(start<<5 | (end - start))
		}
	}
	return months
}()

// A UTCTime is worked on in two integers that hold its 15 octets side by side:
// tag, length and date in one, the clock and Z in the other, with the last
// digit of the day in both.
const (
	dateText  = 0x30303030_30300d17 // what 000000 would be, from the last octet to the first
	clockText = 0x5a303030_30303030
	// What brings an octet to its highest bit when it is above 9 or, at the tens
	// of months, days, hours, minutes and seconds, above 1, 3, 2, 5 and 5, or,
	// where there is but one value, above 0.
	dateExcess  = 0x767c767e_76767f7f
	clockExcess = 0x7f767a76_7a767d76
	highs       = 0x80808080_80808080
)

// parseUTCTime reads an element UTCTime of the form YYMMDDhhmmssZ as Unix time.
// Years from 50 on are of the twentieth century (RFC 5280 section 4.1.2.5.1).
func parseUTCTime(b *[15]byte) (unix int64, ok bool) {
	date, clock, ok := utcFields(b)
	if !ok {
		return 0, false
	}
	days, ok := daysOf(date)
	return days*day + secondsOf(clock), ok
}

// utcFields reads the two digits each of year, month and day into octets 2, 4
// and 6 of date, of hour, minute and second into octets 1, 3 and 5 of clock.
// The date may still be one that no calendar has. Like daysOf and secondsOf it
// is small enough to become part of a loop.
func utcFields(b *[15]byte) (date, clock uint64, ok bool) {
	date = binary.LittleEndian.Uint64(b[:8]) ^ dateText
	clock = binary.LittleEndian.Uint64(b[7:]) ^ clockText
	wrong := (date + dateExcess) | date | (clock + clockExcess) | clock
	date, clock = date*10+date>>8, clock*10+clock>>8
	const midnight = (0x80 - 24) << 8 // from hour 24 on, brings the octet to its highest bit
	return date, clock, wrong&highs|(clock+midnight)&0x8000 == 0
}

// daysOf are the days from the Unix epoch to the date.
func daysOf(date uint64) (days int64, ok bool) {
	month := int64(utcMonths[date>>16&0xff*32+date>>32&0x1f])
	days = int64(date>>48&0xff) - 1
	return month>>5 + days, uint64(days) < uint64(month&31)
}

func secondsOf(clock uint64) int64 {
	return int64(clock>>8&0xff*3600 + clock>>24&0xff*60 + clock>>40&0xff)
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
