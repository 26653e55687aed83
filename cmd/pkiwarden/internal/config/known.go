package config

import "fmt"

// setPlace remembers where the value at path stands.
func (d *decoder) setPlace(path string, at place) {
	if d.entry.has(path) {
		d.entry.places[path] = at
	} else {
		d.places[path] = at
	}
}

// placeAt is where the file sets the path, if it does.
func (d *decoder) placeAt(path string) (place, bool) {
	if d.entry.has(path) {
		at, ok := d.entry.places[path]
		return at, ok
	}
	at, ok := d.places[path]
	return at, ok
}

// set tells whether the file has the key.
func (d *decoder) set(path string) bool {
	d.reopen(path)
	_, ok := d.placeAt(path)
	return ok
}

// near is where the file sets path, or else what path is part of.
func (d *decoder) near(path string) place {
	d.reopen(path)
	for {
		if at, ok := d.placeAt(path); ok {
			return at
		}
		if path == "" {
			return place{1, 1}
		}
		path = parent(path)
	}
}

// sound tells whether the values were decoded without a problem: what follows
// from a value that was refused is not worth a message.
func (d *decoder) sound(paths ...string) bool {
	for _, path := range paths {
		for p := path; p != ""; p = parent(p) {
			if d.entry.has(p) && d.entry.failed[p] || d.failed[p] {
				return false
			}
		}
	}
	return true
}

// fail remembers that the value at path has a problem.
func (d *decoder) fail(path string) {
	if d.entry.has(path) {
		d.entry.failed[path] = true
	} else {
		d.failed[path] = true
	}
}

// maxKept bounds the problems that are kept; maxShown is more than anyone
// reads.
const (
	maxKept  = 1000
	maxShown = 50
)

func (d *decoder) add(p Problem) {
	if d.again {
		return
	}
	if d.found++; d.found <= maxKept || p.File == environment {
		d.problems = append(d.problems, p)
	}
}

// report reports a problem with the value at path, which stands at that place:
// once, where many certificates have it from there.
func (d *decoder) report(at place, path, format string, args ...any) {
	if d.fail(path); d.found >= maxKept {
		d.add(Problem{})
		return
	}
	p := Problem{File: d.file, Line: at.line, Column: at.column, Path: path, Message: fmt.Sprintf(format, args...)}
	if d.entry.has(path) {
		what := said{at, path[len(d.entry.prefix):], p.Message}
		if d.said[what] {
			return
		}
		d.said[what] = true
	}
	d.add(p)
}

// said is a problem of an entry of certificates, whichever.
type said struct {
	at            place
	path, message string
}

// bad reports a problem with the value at path, in the file or in the variable
// that it came from; with a key that is missing, at the mapping that misses it.
func (d *decoder) bad(path, format string, args ...any) {
	if name, ok := d.env[path]; ok {
		d.failed[path] = true
		d.add(Problem{File: environment, Path: name, Message: fmt.Sprintf(format, args...)})
		return
	}
	var at place
	if d.found < maxKept {
		at = d.near(path)
	}
	d.report(at, path, format, args...)
}

// badOf is bad for what is wrong with one entry among the others: there, where
// the value itself stands before it and is merged in.
func (d *decoder) badOf(entry, key, format string, args ...any) {
	at, own := place{}, place{}
	if d.found < maxKept {
		at, own = d.near(entry+key), d.near(entry)
	}
	if at.line < own.line {
		at = own
	}
	d.report(at, entry+key, format, args...)
}

// refuse reports that the file cannot be read at all.
func (d *decoder) refuse(p Problem) {
	d.unreadable = true
	d.add(p)
}

// shown is the problems in their order, the first maxShown of the file and
// then how many more there are.
func (d *decoder) shown() Problems {
	d.problems.sort()
	n := 0
	for n < len(d.problems) && d.problems[n].File != environment {
		n++
	}
	if n <= maxShown {
		return d.problems
	}
	more := d.problems[maxShown]
	more.Path, more.Message = "", fmt.Sprintf("and %d more problems, from here on", d.found-(len(d.problems)-n)-maxShown)
	return append(append(d.problems[:maxShown:maxShown], more), d.problems[n:]...)
}
