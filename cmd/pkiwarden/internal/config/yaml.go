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

// What a file may hold at most. The parser's cost grows with the square of the
// nesting and of the keys in one mapping; no mapping of the contract comes near.
const (
	maxFileBytes   = 1 << 20
	maxNesting     = 32
	maxMappingKeys = 100
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

// checkShape refuses, before it is parsed, what no configuration looks like.
func checkShape(file string, tokens token.Tokens) *Problem {
	refuse := func(t *token.Token, message string) *Problem {
		return &Problem{File: file, Line: t.Position.Line, Column: t.Position.Column, Message: message}
	}
	const tooDeep, tooMany = "nested too deeply", "too many keys in one mapping"
	var flow []int               // keys in each open flow collection
	block := make(map[int]int)   // keys in the open block mapping at each column
	entries, line := 0, 0        // "-" on this line
	forget := func(column int) { // the mappings that end where something begins at column
		for c := range block {
			if c > column {
				delete(block, c)
			}
		}
	}
	for _, t := range tokens {
		if t.Position.Line != line {
			entries, line = 0, t.Position.Line
		}
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			if flow = append(flow, 0); len(flow) > maxNesting {
				return refuse(t, tooDeep)
			}
		case token.SequenceEndType, token.MappingEndType:
			flow = flow[:max(len(flow)-1, 0)]
		case token.MappingKeyType:
			return refuse(t, "expected KEY: VALUE, found an explicit key (?)")
		case token.SequenceEntryType:
			forget(t.Position.Column)
			if entries++; entries > maxNesting {
				return refuse(t, tooDeep)
			}
		case token.MappingValueType:
			if len(flow) > 0 {
				flow[len(flow)-1]++
				if flow[len(flow)-1] > maxMappingKeys {
					return refuse(t, tooMany)
				}
				continue
			}
			column := t.Position.Column
			if t.Prev != nil {
				column = t.Prev.Position.Column
			}
			forget(column)
			if block[column]++; block[column] > maxMappingKeys {
				return refuse(t, tooMany)
			}
			if len(block) > maxNesting {
				return refuse(t, tooDeep)
			}
		}
	}
	return nil
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
