package config

import (
	"fmt"
	"reflect"
	"slices"
	"sort"
	"strings"
	"sync"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// What aliases can blow a small file up to: so many values, and so many more
// for each certificate of a list that is read one by one.
const (
	maxValues      = 100_000
	valuesPerEntry = 64
)

// decoder fills the contract's types from a document and remembers where each
// value stood, for the checks. It reports every problem and carries on.
type decoder struct {
	file       string
	problems   Problems          // the first maxKept
	said       map[said]bool     // those of certificates
	found      int               // all of them
	unreadable bool              // the file is not YAML
	places     map[string]place  // of each value that the file sets, by path, outside certificates
	failed     map[string]bool   // paths with a problem
	env        map[string]string // variable that a value came from, by path
	anchors    map[string][]*ast.AnchorNode
	values     int // decoded so far
	maxValues  int

	sequence *ast.SequenceNode // certificates
	entry    opened            // the entry of it at hand
	again    bool              // it is decoded a second time, for its places
	names    map[string]int    // certificates by name
	secrets  map[ObjectName]int
	pool     pool

	pieces       *pieces  // the file, when sequence stands for its entries
	uncut        *Problem // why the file has to be read as a whole
	entryAnchors map[string][]*ast.AnchorNode
	visited      int // anchors so far
	anchored     int // bytes of the entries that have anchors, which stay in memory
}

func newDecoder(file string) *decoder {
	return &decoder{
		file: file, said: map[said]bool{}, places: map[string]place{}, failed: map[string]bool{},
		env: map[string]string{}, anchors: map[string][]*ast.AnchorNode{}, maxValues: maxValues,
		entry: opened{places: map[string]place{}, failed: map[string]bool{}},
		names: map[string]int{}, secrets: map[ObjectName]int{}, pool: newPool(),
		entryAnchors: map[string][]*ast.AnchorNode{},
	}
}

// Visit collects the anchors, in the order of the file.
func (d *decoder) Visit(n ast.Node) ast.Visitor {
	if a, ok := n.(*ast.AnchorNode); ok && a.Name != nil {
		name := a.Name.GetToken().Value
		d.anchors[name] = append(d.anchors[name], a)
		d.visited++
	}
	return d
}

// document decodes the whole file.
func (d *decoder) document(n ast.Node, c *Config) {
	if n == nil {
		return
	}
	ast.Walk(d, n)
	d.places[""] = placeOf(n)
	d.value(n, "", reflect.ValueOf(c).Elem(), "")
}

// value decodes one node. A node that does not fit leaves v as it is.
func (d *decoder) value(n ast.Node, path string, v reflect.Value, tag reflect.StructTag) {
	if d.uncut != nil {
		return
	}
	if !d.count(n, path) {
		return
	}
	n = d.follow(n, path)
	if n == nil {
		return
	}
	if _, isTag := n.(*ast.TagNode); isTag {
		d.report(placeOf(n), path, "expected a plain value, found the YAML tag %s", quote(n.GetToken().Value))
		return
	}
	d.setPlace(path, placeOf(n))
	if tag.Get("auto") != "" {
		if s := scalarOf(n); s.kind == text && s.value == "auto" {
			v.SetZero()
			return
		}
	}
	if d.scalar(n, path, v, tag) {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		fresh := newValue(v.Type().Elem())
		before := d.found
		d.value(n, path, fresh, tag)
		if d.found == before || fresh.Kind() == reflect.Struct {
			v.Set(fresh.Addr())
		}
	case reflect.Struct:
		d.mapping(n, path, v, tag)
	case reflect.Slice:
		d.list(n, path, v, tag)
	default:
		panic(fmt.Sprintf("no way to decode %s into %s", path, v.Type()))
	}
}

// count takes one more value or merge in, and tells whether there may be one.
func (d *decoder) count(n ast.Node, path string) bool {
	if !d.again {
		if d.values++; d.values == d.maxValues+1 {
			d.report(placeOf(n), path, "more than %d values once aliases are followed", d.maxValues)
		}
	}
	return d.values <= d.maxValues
}

func newValue(t reflect.Type) reflect.Value {
	v := reflect.New(t)
	if d, ok := v.Interface().(defaulter); ok {
		d.defaults()
	}
	return v.Elem()
}

func (d *decoder) list(n ast.Node, path string, v reflect.Value, tag reflect.StructTag) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		if n.Type() == ast.NullType {
			return // every entry commented out
		}
		found := describe(n)
		hint := ""
		if s := scalarOf(n); s.kind == text {
			hint = "; one entry is written [" + s.value + "]"
		}
		d.report(placeOf(n), path, "expected a list, found %s%s", found, hint)
		return
	}
	if v.Type() == reflect.TypeFor[Certificates]() {
		d.certificates(seq, path, v)
		return
	}
	if len(seq.Values) > maxEntries {
		d.report(placeOf(n), path, "expected at most %d entries, found %d", maxEntries, len(seq.Values))
		return
	}
	out := reflect.MakeSlice(v.Type(), 0, len(seq.Values))
	for i, entry := range seq.Values {
		at := fmt.Sprintf("%s[%d]", path, i)
		element := newValue(v.Type().Elem())
		if entry == nil || entry.Type() == ast.NullType {
			d.report(placeOfEntry(seq, i), at, "expected a value, found nothing")
		} else {
			d.value(entry, at, element, tag)
		}
		out = reflect.Append(out, element)
	}
	v.Set(out)
}

func (d *decoder) mapping(n ast.Node, path string, v reflect.Value, tag reflect.StructTag) {
	if n.Type() == ast.NullType {
		return // every key commented out
	}
	fields := fieldsOf(v.Type())
	if _, ok := n.(ast.MapNode); !ok {
		or := ""
		if tag.Get("auto") != "" {
			or = "auto or "
		}
		d.report(placeOf(n), path, "expected %sa mapping with %s, found %s", or, listed(keysOf(fields)), describe(n))
		return
	}
	for _, e := range d.entries(n, path, nil) {
		at := join(path, e.key)
		i := slices.IndexFunc(fields, func(f reflect.StructField) bool { return f.Tag.Get("yaml") == e.key })
		if i < 0 {
			hint := ""
			if d.found < maxKept {
				hint = suggestKey(path, e.key, keysOf(fields))
			}
			d.report(e.at, join(path, shownKey(e.key)), "unknown key; %s", hint)
			continue
		}
		field := v.FieldByIndex(fields[i].Index)
		before := reflect.ValueOf(field.Interface())
		d.value(e.value, at, field, fields[i].Tag)
		d.refuseUnsupported(at, before, field)
	}
}

// entry is one key of a mapping, merged ones included.
type entry struct {
	key   string
	at    place
	value ast.Node
}

// entries lists a mapping's keys: its own, each once, then what it merges in
// (<<) and does not set itself. It stands within those mappings, each merged by
// the one before it.
func (d *decoder) entries(n ast.Node, path string, within []ast.Node) []entry {
	var own []entry
	var merges []ast.Node
	seen := map[string]place{}
	for it := n.(ast.MapNode).MapRange(); it.Next(); {
		key := it.Key()
		if key.IsMergeKey() {
			merges = append(merges, it.Value())
			continue
		}
		at := placeOf(key)
		written := scalarOf(key)
		if written.kind == notScalar {
			d.report(at, path, "expected a key, found %s", describe(key))
			continue
		}
		name := written.value
		if first, twice := seen[name]; twice {
			d.report(at, join(path, shownKey(name)), "duplicate key; it is already set at line %d", first.line)
			continue
		}
		seen[name] = at
		own = append(own, entry{name, at, it.Value()})
	}
	for _, merge := range merges {
		for _, e := range d.merged(merge, path, append(slices.Clip(within), n)) {
			if _, set := seen[e.key]; !set {
				seen[e.key] = e.at
				own = append(own, e)
			}
		}
	}
	return own
}

// merged lists what a mapping, or each of a list of mappings, adds to the last of
// those within which it is merged.
func (d *decoder) merged(n ast.Node, path string, within []ast.Node) []entry {
	target := d.follow(n, path)
	if list, ok := target.(*ast.SequenceNode); ok {
		var all []entry
		for _, one := range list.Values {
			all = append(all, d.mergedOne(one, d.follow(one, path), path, within)...)
		}
		return all
	}
	return d.mergedOne(n, target, path, within)
}

func (d *decoder) mergedOne(n, target ast.Node, path string, within []ast.Node) []entry {
	if target == nil || !d.count(n, path) {
		return nil
	}
	switch _, ok := target.(ast.MapNode); {
	case !ok:
		d.report(placeOf(n), path, "expected a mapping to merge (<<), found %s", describe(target))
	case slices.Contains(within, target):
		d.report(placeOf(n), path, "a merge (<<) contains itself")
	case len(within) > maxNesting:
		d.report(placeOf(n), path, "merges (<<) within merges are too deep: expected at most %d, found more", maxNesting)
	default:
		return d.entries(target, path, within)
	}
	return nil
}

// follow replaces an anchor by what it names and an alias by what it stands
// for; nil when there is no such anchor.
func (d *decoder) follow(n ast.Node, path string) ast.Node {
	start := n
	for range maxNesting {
		switch a := n.(type) {
		case *ast.AnchorNode:
			n = a.Value
		case *ast.AliasNode:
			name := a.Value.GetToken().Value
			n = d.anchoredBy(name, a)
			if n == nil {
				d.report(placeOf(a), path, "the alias *%s has no anchor before it", name)
				return nil
			}
		case nil:
			d.report(d.near(path), path, "expected a value, found nothing")
			return nil
		default:
			return n
		}
	}
	d.report(placeOf(start), path, "an alias stands for itself")
	return nil
}

// anchoredBy is the value of the last anchor of that name before the alias.
func (d *decoder) anchoredBy(name string, alias *ast.AliasNode) ast.Node {
	at := alias.GetToken().Position
	var last *ast.AnchorNode
	for _, anchors := range [][]*ast.AnchorNode{d.anchors[name], d.entryAnchors[name]} {
		after := sort.Search(len(anchors), func(i int) bool { return !before(anchors[i], at) })
		if after > 0 && (last == nil || before(last, anchors[after-1].GetToken().Position)) {
			last = anchors[after-1]
		}
	}
	if last == nil {
		return nil
	}
	return last.Value
}

// before tells whether the anchor begins before that position, or there.
func before(a *ast.AnchorNode, at *token.Position) bool {
	p := a.GetToken().Position
	return p.Line < at.Line || p.Line == at.Line && p.Column <= at.Column
}

// fields remembers what fieldsOf found: the types are few, the values many.
var fields sync.Map

// fieldsOf are the fields that the file can set.
func fieldsOf(t reflect.Type) []reflect.StructField {
	known, ok := fields.Load(t)
	if !ok {
		known, _ = fields.LoadOrStore(t, slices.DeleteFunc(reflect.VisibleFields(t), func(f reflect.StructField) bool { return f.Tag.Get("yaml") == "" }))
	}
	return known.([]reflect.StructField)
}

func keysOf(fields []reflect.StructField) []string {
	keys := make([]string, len(fields))
	for i, f := range fields {
		keys[i] = f.Tag.Get("yaml")
	}
	return keys
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// parent is the path without its last key or index.
func parent(path string) string {
	return path[:max(strings.LastIndexAny(path, ".["), 0)]
}

// pattern is the path with every index left open: certificates[].name.
func pattern(path string) string {
	var b strings.Builder
	inIndex := false
	for _, r := range path {
		switch {
		case r == '[':
			inIndex = true
			b.WriteRune(r)
		case r == ']':
			inIndex = false
			b.WriteRune(r)
		case !inIndex:
			b.WriteRune(r)
		}
	}
	return b.String()
}
