package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// environment is the File of a problem that comes from an environment variable.
const environment = "environment"

// Problem is one thing that is wrong with the configuration.
type Problem struct {
	File    string `json:"file"`             // "environment" for a variable
	Line    int    `json:"line,omitempty"`   // from 1; 0: not at one place of the file
	Column  int    `json:"column,omitempty"` // from 1, in characters
	Path    string `json:"path,omitempty"`   // tidy.trigger.reclaimableShare, certificates[0].name, or the variable
	Message string `json:"message"`          // what was expected, what was found, what was probably meant

	crowded bool // a list has too many entries
}

// Error is FILE:LINE:COLUMN: PATH: MESSAGE.
func (p Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
	}
	if p.Path != "" {
		b.WriteString(": " + p.Path)
	}
	b.WriteString(": " + p.Message)
	return visible(b.String())
}

// visible keeps what a file says from steering a terminal: a key may hold
// escape characters as "\e[2J".
func visible(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// Problems is everything that is wrong with the configuration, in the order of
// the file, the environment last.
type Problems []Problem

// Error is one line for each problem.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives each problem as an error of its own.
func (ps Problems) Unwrap() []error {
	errs := make([]error, len(ps))
	for i, p := range ps {
		errs[i] = p
	}
	return errs
}

func (ps Problems) sort() {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(
			cmp.Compare(rank(a), rank(b)),
			cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Column, b.Column),
			cmp.Compare(a.Path, b.Path),
		)
	})
}

func rank(p Problem) int {
	if p.File == environment {
		return 1
	}
	return 0
}
