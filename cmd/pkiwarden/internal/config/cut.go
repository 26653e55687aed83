package config

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// What a block list of certificates may hold. It is parsed one entry at a time:
// the parser's tokens and nodes take a hundred times the text's memory, and so
// they are those of one entry.
const (
	maxCertificates = 20_000
	maxEntryBytes   = 128 << 10
)

// listKey is the line that a block list of certificates begins with.
const listKey = "certificates:"

// pieces is a file that is cut at the entries of its block list of
// certificates.
type pieces struct {
	data    []byte
	key     int     // line of listKey
	column  int     // of the dashes, from 1
	entries []piece // each ends where the next begins, the last at tail
	tail    piece   // what stands after the list
}

// piece is where a part of the file begins.
type piece struct{ offset, line int }

// cut finds the entries of the block list of certificates by their indentation
// alone. That is a guess until the pieces have been parsed: the text may stand
// within quotes. With a problem, the pieces are those before it; without a list
// there are none.
func cut(file string, data []byte) (*pieces, *Problem) {
	p := &pieces{data: data}
	line := 0
	for offset := 0; offset < len(data); {
		text, _, _ := bytes.Cut(data[offset:], []byte("\n"))
		here := piece{offset, line + 1}
		line++
		offset += len(text) + 1
		if p.key == 0 {
			if isListKey(text) {
				p.key = line
			}
			continue
		}
		rest := bytes.TrimLeft(text, " ")
		column := len(text) - len(rest) + 1
		rest = bytes.TrimRight(rest, " \t\r")
		if len(rest) == 0 || rest[0] == '#' {
			continue
		}
		isEntry := rest[0] == '-' && (len(rest) == 1 || rest[1] == ' ')
		switch {
		case p.column == 0 && !isEntry:
			return p, nil
		case isEntry && (p.column == 0 || column == p.column):
			if p.column = column; len(p.entries) == maxCertificates {
				return p, p.problem(file, here, column, "expected at most %d entries, found more", maxCertificates)
			}
			p.entries = append(p.entries, here)
		case column > p.column:
		case column == 1 && !bytes.ContainsRune([]byte("!&*?|>%@`,[]{}-."), rune(rest[0])): // else the parser may take it for part of the last entry
			p.tail = here
			return p, p.tooLarge(file)
		default:
			return p, p.misplaced(file, here, column)
		}
	}
	p.tail = piece{len(data), line + 1}
	return p, p.tooLarge(file)
}

func (p *pieces) misplaced(file string, at piece, column int) *Problem {
	return p.problem(file, at, column, "expected an entry with its dash at column %d, what belongs to one, or a key at column 1", p.column)
}

func (p *pieces) problem(file string, at piece, column int, format string, args ...any) *Problem {
	return &Problem{File: file, Line: at.line, Column: column, Path: "certificates", Message: fmt.Sprintf(format, args...)}
}

// tooLarge is the problem of a piece that is not to be parsed.
func (p *pieces) tooLarge(file string) *Problem {
	for i, e := range p.entries {
		if size := len(p.text(i)); size > maxEntryBytes {
			return p.problem(file, e, p.column, "expected at most 128 KiB for one entry, found %d bytes", size)
		}
	}
	if len(p.entries) > 0 && p.entries[0].offset+len(p.data)-p.tail.offset > maxTextBytes {
		return &Problem{File: file, Message: "the file is larger than 1 MiB without the entries of certificates"}
	}
	return nil
}

// text is the entry with that index.
func (p *pieces) text(i int) []byte {
	end := p.tail.offset
	if i+1 < len(p.entries) {
		end = p.entries[i+1].offset
	}
	return p.data[p.entries[i].offset:end]
}

// empty tells whether the entry with that index is its dash alone. What follows
// is not its value, which the parser would take it for.
func (p *pieces) empty(i int) bool {
	text := bytes.TrimLeft(p.text(i), " ")[1:]
	for line := range bytes.Lines(text) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' {
			return false
		}
	}
	return true
}

// around is the file with one short entry instead of all.
func (p *pieces) around() string {
	return string(p.data[:p.entries[0].offset]) + strings.Repeat(" ", p.column-1) + "- entry\n" + string(p.data[p.tail.offset:])
}

// parseAround parses the file without its entries, and finds within it the list
// that they belong to. There is none when what looks like it is something else.
func (p *pieces) parseAround(file string) (document ast.Node, list *ast.SequenceNode, problem *Problem) {
	entry := p.entries[0].line
	document, problem = parseYAML(file, p.around(), func(line int) int {
		if line > entry {
			line += p.tail.line - entry - 1
		}
		return line
	})
	if problem != nil {
		return nil, nil, problem
	}
	list = p.listOf(document, entry)
	if list == nil {
		return nil, nil, p.problem(file, piece{line: p.key}, 1, "expected a block list whose entries can be read one by one, found another YAML structure around it")
	}
	return document, list, nil
}

// parseEntry parses the entry with that index by itself.
func (p *pieces) parseEntry(file string, i int) (ast.Node, *Problem) {
	at := p.entries[i]
	text, keys := listKey+"\n"+string(p.text(i)), 1
	if at.offset+len(p.text(i)) < len(p.data) {
		// Something else follows, which tells the parser where the entry ends.
		text, keys = text+"end:\n", 2
	}
	document, problem := parseYAML(file, text, func(line int) int { return line + at.line - 2 })
	if problem != nil {
		return nil, p.dashed(file, i, problem)
	}
	list := p.listOf(document, at.line)
	if list == nil || len(document.(*ast.MappingNode).Values) != keys {
		return nil, p.problem(file, at, p.column, "expected an entry that can be read by itself, found another YAML structure")
	}
	return list.Values[0], nil
}

// dashed is the problem of an entry that cannot be parsed, which is that of a dash
// further in than those of the entries where the parser stopped at one.
func (p *pieces) dashed(file string, i int, problem *Problem) *Problem {
	line := p.entries[i].line
	for text := range bytes.Lines(p.text(i)) {
		rest := bytes.TrimLeft(text, " ")
		column := len(text) - len(rest) + 1
		if line == problem.Line && column == problem.Column && column > p.column && (bytes.HasPrefix(rest, []byte("- ")) || string(bytes.TrimSpace(rest)) == "-") {
			return p.misplaced(file, piece{line: line}, column)
		}
		line++
	}
	return problem
}

// listOf is the list of certificates, of one entry whose dash is on that line,
// in a document that is a block mapping.
func (p *pieces) listOf(document ast.Node, line int) *ast.SequenceNode {
	m, ok := document.(*ast.MappingNode)
	if !ok || m.IsFlowStyle {
		return nil
	}
	for _, pair := range m.Values {
		list, ok := pair.Value.(*ast.SequenceNode)
		if !ok || list.IsFlowStyle || len(list.Values) != 1 || placeOf(list) != (place{line, p.column}) {
			continue
		}
		if key := scalarOf(pair.Key); key.kind == text && key.value+":" == listKey && placeOf(pair.Key).column == 1 {
			return list
		}
	}
	return nil
}

// isListKey tells whether the line opens a block list of certificates.
func isListKey(line []byte) bool {
	rest, ok := bytes.CutPrefix(line, []byte(listKey))
	if !ok {
		return false
	}
	value := bytes.TrimSpace(rest)
	return len(value) == 0 || value[0] == '#' && len(rest) > len(value) && rest[0] != '#'
}
