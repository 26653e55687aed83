package config

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// What a file may hold at most. The parser's cost grows with the square of
// the nesting, the keys of a mapping and the entries of a list; no configuration
// comes near, but with its certificates, which are parsed one by one (cut.go).
const (
	MaxFileBytes   = 16 << 20
	maxTextBytes   = 1 << 20 // parsed at once
	maxNesting     = 32
	maxMappingKeys = 100
	maxEntries     = 1000
)

// place is a line and column, both from 1.
type place struct{ line, column int }

// parseYAML turns the text into its one document, nil when that is empty. Its
// first line is the file's line moved(1), and so on.
func parseYAML(file, text string, moved func(line int) int) (ast.Node, *Problem) {
	tokens := lexer.Tokenize(text)
	for _, t := range tokens {
		t.Position.Line = moved(t.Position.Line)
	}
	if problem := checkShape(file, tokens); problem != nil {
		return nil, problem
	}
	parsed, err := parse(tokens)
	if err != nil {
		return nil, syntaxProblem(file, err)
	}
	var documents []ast.Node
	for _, doc := range parsed.Docs {
		if doc.Body != nil && doc.Body.Type() != ast.CommentType {
			documents = append(documents, doc.Body)
		}
	}
	switch len(documents) {
	case 0:
		return nil, nil
	case 1:
		return documents[0], nil
	}
	at := placeOf(documents[1])
	return nil, &Problem{File: file, Line: at.line, Column: at.column, Message: "a second YAML document begins here; the configuration is one document"}
}

func inPlace(line int) int { return line }

// parse reports a defect of the parser as what it is for the reader of the
// message: a file that cannot be parsed.
func parse(tokens token.Tokens) (f *ast.File, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("this is not YAML that can be parsed: %v", p)
		}
	}()
	return parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
}

func syntaxProblem(file string, err error) *Problem {
	var syntax *yaml.SyntaxError
	if !errors.As(err, &syntax) || syntax.Token == nil || syntax.Token.Position == nil {
		return &Problem{File: file, Message: strings.SplitN(err.Error(), "\n", 2)[0]}
	}
	at := syntax.Token.Position
	return &Problem{File: file, Line: at.Line, Column: max(at.Column, 1), Message: "parsing YAML: " + syntax.Message}
}

// checkText finds what is not text that YAML can be made of: bytes that are not
// UTF-8, control characters, tabs as indentation.
func (d *decoder) checkText(data []byte) {
	for n := 1; len(data) > 0; n++ {
		line, after, _ := bytes.Cut(data, []byte("\n"))
		data = after
		at := func(offset int) place { return place{n, utf8.RuneCount(line[:offset]) + 1} }
		if bad := firstInvalid(line); bad >= 0 {
			d.report(at(bad), "", "expected UTF-8, found the byte 0x%02x", line[bad])
			return
		}
		if bad := bytes.IndexFunc(bytes.TrimSuffix(line, []byte("\r")), isControl); bad >= 0 {
			d.report(at(bad), "", "expected text, found the control character %U", rune(line[bad]))
			return
		}
		rest := bytes.TrimLeft(line, " \t")
		indent := line[:len(line)-len(rest)]
		if tab := bytes.IndexByte(indent, '\t'); tab >= 0 && len(bytes.TrimSpace(rest)) > 0 && rest[0] != '#' {
			d.report(at(tab), "", "expected spaces as indentation, found a tab")
		}
	}
}

// firstInvalid is the offset of the first byte that is not UTF-8, or -1.
func firstInvalid(s []byte) int {
	if utf8.Valid(s) {
		return -1
	}
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRune(s[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return -1
}

func isControl(r rune) bool { return r < 0x20 && r != '\t' || r == 0x7f }

// shape counts what is open at one point of the tokens.
type shape struct {
	flow    []flow      // the open flow collections
	keys    map[int]int // keys of the open block mapping at each column
	entries map[int]int // entries of the open block list at each column
	line    int
	dashes  int // entries that begin on this line
	crowded bool
}

// flow counts what is in a flow collection.
type flow struct{ keys, entries int }

// checkShape refuses, before it is parsed, what no configuration looks like.
func checkShape(file string, tokens token.Tokens) *Problem {
	s := shape{keys: map[int]int{}, entries: map[int]int{}}
	for _, t := range tokens {
		if message := s.next(t); message != "" {
			return &Problem{File: file, Line: t.Position.Line, Column: max(t.Position.Column, 1), Message: message, crowded: s.crowded}
		}
	}
	return nil
}

// next takes one token in; a message refuses it.
func (s *shape) next(t *token.Token) string {
	const tooDeep, tooManyKeys = "nested too deeply", "too many keys in one mapping"
	if t.Position.Line != s.line {
		s.dashes, s.line = 0, t.Position.Line
	}
	switch t.Type {
	case token.SequenceStartType, token.MappingStartType:
		if s.flow = append(s.flow, flow{}); len(s.flow) > maxNesting {
			return tooDeep
		}
	case token.SequenceEndType, token.MappingEndType:
		s.flow = s.flow[:max(len(s.flow)-1, 0)]
	case token.CollectEntryType:
		if open := len(s.flow); open > 0 {
			if s.flow[open-1].entries++; s.flow[open-1].entries > maxEntries {
				return fmt.Sprintf("expected at most %d entries in a list, found more%s", maxEntries, manyCertificates)
			}
		}
	case token.MappingKeyType:
		return "expected KEY: VALUE, found an explicit key (?)"
	case token.SequenceEntryType:
		column := t.Position.Column
		forget(s.keys, column)
		forget(s.entries, column)
		s.entries[column]++
		if s.dashes++; s.dashes > maxNesting || len(s.entries) > maxNesting {
			return tooDeep
		}
		if s.crowded = s.entries[column] > maxEntries; s.crowded {
			return fmt.Sprintf("expected at most %d entries in a list, found more", maxEntries)
		}
	case token.MappingValueType:
		if open := len(s.flow); open > 0 {
			if s.flow[open-1].keys++; s.flow[open-1].keys > maxMappingKeys {
				return tooManyKeys
			}
			return ""
		}
		column := t.Position.Column
		if t.Prev != nil {
			column = t.Prev.Position.Column
		}
		forget(s.keys, column)
		forget(s.entries, column-1)
		if s.keys[column]++; s.keys[column] > maxMappingKeys {
			return tooManyKeys
		}
		if len(s.keys) > maxNesting {
			return tooDeep
		}
	}
	return ""
}

// forget ends what is open to the right of a column.
func forget(open map[int]int, column int) {
	for c := range open {
		if c > column {
			delete(open, c)
		}
	}
}

// placeOf is where a node begins. A block mapping begins at its first key; its
// own token is the colon after that.
func placeOf(n ast.Node) place {
	switch m := n.(type) {
	case *ast.MappingNode:
		if !m.IsFlowStyle && len(m.Values) > 0 {
			return placeOf(m.Values[0])
		}
	case *ast.MappingValueNode:
		return placeOf(m.Key)
	}
	t := n.GetToken()
	if t == nil || t.Position == nil {
		return place{1, 1}
	}
	return place{t.Position.Line, max(t.Position.Column, 1)}
}

// placeOfEntry is where an entry of a list begins, also an empty one.
func placeOfEntry(list *ast.SequenceNode, i int) place {
	switch {
	case !list.IsFlowStyle && i < len(list.Entries) && list.Entries[i].Start != nil:
		at := list.Entries[i].Start.Position
		return place{at.Line, max(at.Column, 1)}
	case list.Values[i] != nil:
		return placeOf(list.Values[i])
	}
	return placeOf(list)
}
