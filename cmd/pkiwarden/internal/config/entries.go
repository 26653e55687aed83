package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// opened is what is known of one entry of certificates while it is decoded and
// checked. Of ten thousand entries it would take more memory than their values.
type opened struct {
	index  int
	prefix string // certificates[index]; "" while there is none
	places map[string]place
	failed map[string]bool
}

// has tells whether the path is that of the open entry or within it.
func (o *opened) has(path string) bool {
	return o.prefix != "" && strings.HasPrefix(path, o.prefix)
}

// certificates decodes and checks the entries one after another.
func (d *decoder) certificates(list *ast.SequenceNode, path string, v reflect.Value) {
	n := len(list.Values)
	if d.pieces != nil && list == d.sequence {
		n = len(d.pieces.entries)
	} else if n > maxEntries {
		d.report(placeOf(list), path, "expected at most %d entries, found %d%s", maxEntries, n, manyCertificates)
		return
	}
	d.sequence = list
	out := make(Certificates, n)
	for i := range out {
		var c Certificate
		if !d.open(i, &c) {
			return
		}
		d.checkCertificate(d.entry.prefix, i, &c)
		d.share(&c)
		out[i] = d.pool.pack(c)
	}
	v.Set(reflect.ValueOf(out))
}

// manyCertificates says how there can be more than a thousand.
var manyCertificates = fmt.Sprintf("; up to %d certificates in 16 MiB are read from a block list, each entry on lines of its own that begin with \"- \"", maxCertificates)

// open decodes one entry. It returns false when its text cannot be read by
// itself, which ends the work on the pieces.
func (d *decoder) open(i int, c *Certificate) bool {
	path := entryPath(i)
	c.defaults()
	clear(d.entry.places)
	clear(d.entry.failed)
	d.entry.index, d.entry.prefix = i, path
	node, ok := d.nodeOf(i)
	if !ok {
		return false
	}
	if node == nil || node.Type() == ast.NullType {
		d.report(d.placeOfEntry(i), path, "expected a value, found nothing")
		return true
	}
	d.value(node, path, reflect.ValueOf(c).Elem(), "")
	return d.uncut == nil
}

func entryPath(i int) string { return "certificates[" + strconv.Itoa(i) + "]" }

// placeOfEntry is where an entry of certificates begins, also an empty one.
func (d *decoder) placeOfEntry(i int) place {
	if d.pieces == nil {
		return placeOfEntry(d.sequence, i)
	}
	return place{d.pieces.entries[i].line, d.pieces.column}
}

// nodeOf is the node of one entry, parsed for the occasion where the file has
// been cut.
func (d *decoder) nodeOf(i int) (ast.Node, bool) {
	if d.pieces == nil {
		return d.sequence.Values[i], true
	}
	if d.pieces.empty(i) {
		return nil, true
	}
	node, problem := d.pieces.parseEntry(d.file, i)
	if problem != nil {
		d.uncut = problem
		return nil, false
	}
	if !d.again {
		d.collectAnchors(i, node)
	}
	return node, d.uncut == nil
}

// collectAnchors keeps the anchors of one entry for the aliases after it.
func (d *decoder) collectAnchors(i int, node ast.Node) {
	document, before := d.anchors, d.visited
	d.anchors = d.entryAnchors
	ast.Walk(d, node)
	d.anchors = document
	if d.visited == before {
		return
	}
	if d.anchored += len(d.pieces.text(i)); d.anchored > maxTextBytes {
		d.uncut = d.pieces.problem(d.file, d.pieces.entries[i], d.pieces.column, "expected at most 1 MiB of entries that have anchors (&), found more; one entry can have those that all need")
	}
}

// reopen makes the entry that the path is in the open one, once all have been
// decoded, so that it is known where its values stand.
func (d *decoder) reopen(path string) {
	rest, ok := strings.CutPrefix(path, "certificates[")
	if !ok || d.entry.has(path) || d.again {
		return
	}
	number, _, _ := strings.Cut(rest, "]")
	i, err := strconv.Atoi(number)
	if err != nil || d.sequence == nil {
		return
	}
	d.again = true
	d.open(i, new(Certificate))
	d.again = false
}
