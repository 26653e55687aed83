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
// comes near.
const (
	maxFileBytes   = 1 << 20
	maxNesting     = 32
	maxMappingKeys = 100
	maxEntries     = 1000
)

// place is a line and column, both from 1.
type place struct{ line, column int }

// parseYAML turns the file into its one document, nil when that is empty.
func parseYAML(file string, data []byte) (ast.Node, Problems) {
	if len(data) > maxFileBytes {
		return nil, Problems{{File: file, Message: "the file is larger than 1 MiB"}}
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if problems := checkText(file, data); len(problems) > 0 {
		return nil, problems
	}
	tokens := lexer.Tokenize(string(data))
	if problem := checkShape(file, tokens); problem != nil {
		return nil, Problems{*problem}
	}
	parsed, err := parse(tokens)
	if err != nil {
		return nil, Problems{syntaxProblem(file, err)}
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
	return nil, Problems{{File: file, Line: at.line, Column: at.column, Message: "a second YAML document begins here; the configuration is one document"}}
}

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

func syntaxProblem(file string, err error) Problem {
	var syntax *yaml.SyntaxError
	if !errors.As(err, &syntax) || syntax.Token == nil || syntax.Token.Position == nil {
		return Problem{File: file, Message: strings.SplitN(err.Error(), "\n", 2)[0]}
	}
	at := syntax.Token.Position
	return Problem{File: file, Line: at.Line, Column: max(at.Column, 1), Message: "parsing YAML: " + syntax.Message}
}

// checkText finds what is not text that YAML can be made of: bytes that are not
// UTF-8, control characters, tabs as indentation.
func checkText(file string, data []byte) Problems {
	var problems Problems
	for i, line := range strings.Split(string(data), "\n") {
		at := func(offset int) Problem {
			return Problem{File: file, Line: i + 1, Column: utf8.RuneCountInString(line[:offset]) + 1}
		}
		if bad := firstInvalid(line); bad >= 0 {
			p := at(bad)
			p.Message = fmt.Sprintf("expected UTF-8, found the byte 0x%02x", line[bad])
			return append(problems, p)
		}
		if bad := strings.IndexFunc(strings.TrimSuffix(line, "\r"), isControl); bad >= 0 {
			p := at(bad)
			p.Message = fmt.Sprintf("expected text, found the control character %U", rune(line[bad]))
			return append(problems, p)
		}
		rest := strings.TrimLeft(line, " \t")
		indent := line[:len(line)-len(rest)]
		if tab := strings.IndexByte(indent, '\t'); tab >= 0 && strings.TrimSpace(rest) != "" && rest[0] != '#' {
			p := at(tab)
			p.Message = "expected spaces as indentation, found a tab"
			problems = append(problems, p)
		}
	}
	return problems
}

// firstInvalid is the offset of the first byte that is not UTF-8, or -1.
func firstInvalid(s string) int {
	for i, r := range s {
		if r == utf8.RuneError {
			if _, size := utf8.DecodeRuneInString(s[i:]); size == 1 {
				return i
			}
		}
	}
	return -1
}

func isControl(r rune) bool { return r < 0x20 && r != '\t' || r == 0x7f }

// shape counts what is open at one point of the tokens.
type shape struct {
	flow    []int       // keys of each open flow collection
	keys    map[int]int // keys of the open block mapping at each column
	entries map[int]int // entries of the open block list at each column
	line    int
	dashes  int // entries that begin on this line
}

// checkShape refuses, before it is parsed, what no configuration looks like.
func checkShape(file string, tokens token.Tokens) *Problem {
	s := shape{keys: map[int]int{}, entries: map[int]int{}}
	for _, t := range tokens {
		if message := s.next(t); message != "" {
			return &Problem{File: file, Line: t.Position.Line, Column: max(t.Position.Column, 1), Message: message}
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
		if s.flow = append(s.flow, 0); len(s.flow) > maxNesting {
			return tooDeep
		}
	case token.SequenceEndType, token.MappingEndType:
		s.flow = s.flow[:max(len(s.flow)-1, 0)]
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
		if s.entries[column] > maxEntries {
			return fmt.Sprintf("expected at most %d entries in a list, found more", maxEntries)
		}
	case token.MappingValueType:
		if open := len(s.flow); open > 0 {
			if s.flow[open-1]++; s.flow[open-1] > maxMappingKeys {
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
