package crl

import (
	"fmt"
	"testing"
	"time"
)

// TestParseUTCTime compares with the time package: every pair of digits in
// every field, every day of a century, and every octet in every place.
func TestParseUTCTime(t *testing.T) {
	check := func(text string) {
		t.Helper()
		element := tlv(tagUTCTime, []byte(text))
		unix, ok := parseUTCTime((*[15]byte)(element))
		want, err := time.Parse("060102150405Z", text)
		if want.Year() >= 2050 {
			want = want.AddDate(-100, 0, 0)
		}
		if err == nil && want.Format("060102150405Z") != text {
			err = fmt.Errorf("signs among the digits")
		}
		if ok != (err == nil) || ok && unix != want.Unix() {
			t.Errorf("%q: %d %t, time has %d %v", text, unix, ok, want.Unix(), err)
		}
	}
	for n := range 100 {
		for m := range 100 {
			check(fmt.Sprintf("26%02d%02d101112Z", n, m)) // month, day
			check(fmt.Sprintf("%02d02%02d101112Z", n, m)) // year, day of February
			check(fmt.Sprintf("260102%02d%02d12Z", n, m)) // hour, minute
			check(fmt.Sprintf("260102%02d12%02dZ", n, m)) // hour, second
		}
	}
	for at := time.Date(1950, 1, 1, 23, 59, 59, 0, time.UTC); at.Year() < 2050; at = at.AddDate(0, 0, 1) {
		check(at.Format("060102150405Z"))
	}
	for at := range 13 {
		for o := range 256 {
			text := []byte("260102101112Z")
			text[at] = byte(o)
			if at == 12 && o != 'Z' {
				if _, ok := parseUTCTime((*[15]byte)(tlv(tagUTCTime, text))); ok {
					t.Errorf("%q is accepted", text)
				}
				continue
			}
			check(string(text))
		}
	}
	for _, header := range [][]byte{{tagUTCTime, 12}, {tagUTCTime, 14}, {tagGeneralizedTime, 13}, {0, 13}, {0xff, 13}, {tagUTCTime, 0xff}} {
		if _, ok := parseUTCTime((*[15]byte)(append(header, "260102101112Z"...))); ok {
			t.Errorf("% x is accepted", header)
		}
	}
}

func TestParseGeneralizedTime(t *testing.T) {
	for text, want := range map[string]int64{
		"20500101000000Z": 2524608000, "19700101000000Z": 0, "99991231235959Z": 253402300799, "00000101000000Z": -62167219200,
	} {
		if unix, ok := parseGeneralizedTime([]byte(text)); !ok || unix != want {
			t.Errorf("%q: %d %t, want %d", text, unix, ok, want)
		}
	}
	for _, text := range []string{"", "2050010100000Z", "+0500101000000Z", "2050+101000000Z", "20501301000000Z", "20500101000060Z", "20500101000000z", "205001010000000"} {
		if _, ok := parseGeneralizedTime([]byte(text)); ok {
			t.Errorf("%q is accepted", text)
		}
	}
}
