package config

import (
	"fmt"
	"strings"
	"sync"
	"time"
	_ "time/tzdata" // the image has no time zones of its own
)

// aDay is what a clock shows at the latest, as the end of a window.
const aDay = 24 * time.Hour

// weekdays are the days as the file names them.
var weekdays = []struct {
	name string
	day  time.Weekday
}{
	{"Mon", time.Monday}, {"Tue", time.Tuesday}, {"Wed", time.Wednesday}, {"Thu", time.Thursday},
	{"Fri", time.Friday}, {"Sat", time.Saturday}, {"Sun", time.Sunday},
}

// Weekdays are the days on which the window opens; none: every day.
func (w Window) Weekdays() []time.Weekday {
	var days []time.Weekday
	for _, d := range weekdays {
		for _, name := range w.Days {
			if name == d.name {
				days = append(days, d.day)
			}
		}
	}
	return days
}

// Clock is From and To since midnight. A window that Load let through has both.
func (w Window) Clock() (from, to time.Duration) {
	from, _ = clock(w.From)
	to, _ = clock(w.To)
	return from, to
}

// Location is that of Timezone. A window that Load let through has one.
func (w Window) Location() *time.Location {
	l, err := zone(w.Timezone)
	if err != nil {
		return time.UTC
	}
	return l
}

// String is the window on one line.
func (w Window) String() string {
	days := "every day"
	if len(w.Days) > 0 {
		days = strings.Join(w.Days, ", ")
	}
	return fmt.Sprintf("%s %s-%s %s", days, w.From, w.To, w.Timezone)
}

// clock reads HH:MM, up to 24:00.
func clock(text string) (time.Duration, bool) {
	if text == "24:00" {
		return aDay, true
	}
	t, err := time.Parse("15:04", text)
	if err != nil || len(text) != len("15:04") {
		return 0, false
	}
	return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute, true
}

// zone is the time zone of that name in the IANA's database. "Local" is none: it
// would depend on the machine.
func zone(name string) (*time.Location, error) {
	if name == "" || name == "Local" {
		return nil, fmt.Errorf("unknown time zone %s", name)
	}
	if known, ok := zones.Load(name); ok {
		return known.(*time.Location), nil
	}
	l, err := time.LoadLocation(name)
	if err == nil {
		zones.Store(name, l)
	}
	return l, err
}

// zones are the time zones that windows have: many have the same.
var zones sync.Map

// checkWindows finds times that no clock shows, zones that do not exist, and
// windows that never open or never close.
func (d *decoder) checkWindows(at string, windows []Window) {
	for i, w := range windows {
		here := fmt.Sprintf("%s[%d]", at, i)
		from, fromOK := clock(w.From)
		if fromOK = fromOK && from < aDay; !fromOK && d.sound(here+".from") {
			d.bad(here+".from", `expected a time such as "02:00", up to "23:59", found %s`, quote(w.From))
		}
		to, toOK := clock(w.To)
		if toOK = toOK && to > 0; !toOK && d.sound(here+".to") {
			d.bad(here+".to", `expected a time such as "05:00", from "00:01" to "24:00", found %s`, quote(w.To))
		}
		if fromOK && toOK && from == to && d.sound(here+".from", here+".to") {
			d.contradict(here+".to", here+".from", `a window from %s to %s is none; a whole day is from "00:00" to "24:00"`, w.From, w.To)
		}
		if _, err := zone(w.Timezone); err != nil && d.sound(here+".timezone") {
			d.bad(here+".timezone", "expected a name of the IANA time zone database such as Europe/Berlin or UTC, found %s", quote(w.Timezone))
		}
		seen := map[string]bool{}
		for j, day := range w.Days {
			if seen[day] && d.sound(fmt.Sprintf("%s.days[%d]", here, j)) {
				d.bad(fmt.Sprintf("%s.days[%d]", here, j), "%s is there twice", day)
			}
			seen[day] = true
		}
	}
}
