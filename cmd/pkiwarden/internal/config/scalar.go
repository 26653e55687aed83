package config

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/netip"
	"net/url"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
)

type scalarKind int

const (
	notScalar scalarKind = iota
	text
	number
	boolean
	null
)

// scalarValue is a scalar as it is written, without quotes.
type scalarValue struct {
	kind  scalarKind
	value string
}

func scalarOf(n ast.Node) scalarValue {
	switch s := n.(type) {
	case *ast.StringNode:
		return scalarValue{text, s.Value}
	case *ast.LiteralNode:
		return scalarValue{text, s.Value.Value}
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return scalarValue{number, n.GetToken().Value}
	case *ast.BoolNode:
		return scalarValue{boolean, n.GetToken().Value}
	case *ast.NullNode:
		return scalarValue{null, n.GetToken().Value}
	}
	return scalarValue{}
}

// describe is what was found, for a message.
func describe(n ast.Node) string {
	switch s := scalarOf(n); s.kind {
	case text:
		return quote(s.value)
	case number, boolean:
		return s.value
	case null:
		return "nothing"
	}
	switch n.(type) {
	case ast.MapNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	}
	return "something else"
}

// userinfo is what may stand before the host of an address.
var userinfo = regexp.MustCompile(`://.*@`)

// The forms of keys and tokens that can stand by themselves: base64 of any kind
// without its armour, Vault's tokens, and UUIDs, as Consul's are.
var (
	encoded = regexp.MustCompile(`[A-Za-z0-9+_=-]{32,}`)
	tokens  = regexp.MustCompile(`\bhv[sbr]\.[A-Za-z0-9_-]{8}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}`)
)

// secretive tells whether the text may be a secret: it has the form of one. A
// name is in lower case.
func secretive(s string) bool {
	for _, run := range encoded.FindAllString(s, -1) {
		if strings.ToLower(run) != run && strings.ToUpper(run) != run && strings.ContainsAny(run, "0123456789") {
			return true
		}
	}
	return tokens.MatchString(s)
}

// shownKey is a key as messages show it: what may be a value that was pasted in
// its place is not.
func shownKey(key string) string {
	if utf8.RuneCountInString(key) > 60 || strings.Contains(key, "PRIVATE KEY") || secretive(key) {
		return "[…]"
	}
	return key
}

// quote shortens what is too long for a message.
func quote(s string) string {
	const most = 60
	// Messages go to logs: a key that was pasted where its name belongs does not,
	// nor do the user and password of an address.
	if strings.Contains(s, "PRIVATE KEY") {
		return `"[private key]"`
	}
	if secretive(s) {
		return `"[what looks like a key or a token]"`
	}
	s = userinfo.ReplaceAllString(s, "://[redacted]@")
	if utf8.RuneCountInString(s) > most {
		s = string([]rune(s)[:most]) + "…"
	}
	return strconv.Quote(s)
}

// scalar decodes what one scalar stands for. It returns false for kinds that
// take a mapping or a list.
func (d *decoder) scalar(n ast.Node, path string, v reflect.Value, tag reflect.StructTag) bool {
	var err error
	s := scalarOf(n)
	switch p := v.Addr().Interface().(type) {
	case *time.Duration:
		*p, err = keep(*p)(parseDuration(s, tag.Get("zero") != ""))
	case *netip.Addr:
		*p, err = keep(*p)(parseAddr(s))
	case *netip.Prefix:
		*p, err = keep(*p)(parsePrefix(s))
	case **url.URL:
		*p, err = keep(*p)(parseURI(s))
	case *fs.FileMode:
		*p, err = keep(*p)(parseMode(s))
	case *string:
		*p, err = keep(*p)(parseText(s, tag.Get("enum")))
	case *bool:
		*p, err = keep(*p)(parseBool(s))
	case *int:
		var i int64
		if i, err = parseInt(s, tag); err == nil {
			*p = int(i)
		}
	case *int64:
		*p, err = keep(*p)(parseInt(s, tag))
	case *float64:
		*p, err = keep(*p)(parseFloat(s, tag))
	default:
		return false
	}
	if err != nil {
		expected, hint, _ := strings.Cut(err.Error(), "; ")
		or := ""
		switch {
		case tag.Get("auto") != "" && expected == trueOrFalse:
			or = "auto, "
		case tag.Get("auto") != "":
			or = "auto or "
		}
		message := "expected " + or + expected + ", found " + describe(n)
		if hint != "" {
			message += "; " + hint
		}
		d.report(placeOf(n), path, "%s", message)
	}
	return true
}

// keep returns what was parsed, or, with an error, the value there was before.
func keep[T any](before T) func(T, error) (T, error) {
	return func(parsed T, err error) (T, error) {
		if err != nil {
			return before, err
		}
		return parsed, nil
	}
}

// The parsers' errors are what was expected, then, after "; ", a hint.

func parseText(s scalarValue, enum string) (string, error) {
	if enum == "" {
		if s.kind == number || s.kind == boolean {
			return "", errors.New("text; quote it: \"" + s.value + "\"")
		}
		if s.kind != text {
			return "", errors.New("text")
		}
		return s.value, nil
	}
	choices := strings.Split(enum, "|")
	for _, choice := range choices {
		if s.kind == text && s.value == choice {
			return choice, nil
		}
	}
	expected := "one of " + strings.Join(choices, ", ")
	if len(choices) == 1 {
		expected = choices[0]
	}
	if meant := Closest(s.value, choices); s.kind == text && meant != "" {
		expected += fmt.Sprintf("; did you mean %q?", meant)
	}
	return "", errors.New(expected)
}

const trueOrFalse = "true or false"

func parseBool(s scalarValue) (bool, error) {
	if s.kind == boolean {
		return s.value == "true" || s.value == "True" || s.value == "TRUE", nil
	}
	switch strings.ToLower(s.value) {
	case "yes", "on", "y", "true":
		return false, errors.New(trueOrFalse + "; did you mean true?")
	case "no", "off", "n", "false":
		return false, errors.New(trueOrFalse + "; did you mean false?")
	}
	return false, errors.New(trueOrFalse)
}

func parseDuration(s scalarValue, zero bool) (time.Duration, error) {
	expected := "a duration such as 90s, 15m or 72h"
	if s.kind == number {
		return 0, errors.New(expected + "; give the unit")
	}
	if s.kind != text {
		return 0, errors.New(expected)
	}
	if days, ok := strings.CutSuffix(s.value, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return 0, fmt.Errorf("%s; did you mean \"%dh\"?", expected, n*24)
		}
	}
	parsed, err := time.ParseDuration(s.value)
	switch {
	case err != nil:
		// The same with small numbers is a duration.
		if _, err := time.ParseDuration(numeral.ReplaceAllString(s.value, "1")); err == nil {
			return 0, fmt.Errorf("%s; it is too large, %dh is the most", expected, int64(math.MaxInt64/time.Hour))
		}
		return 0, errors.New(expected)
	case parsed < 0 && zero:
		return 0, errors.New("a duration of 0s or more")
	case parsed <= 0 && !zero:
		return 0, errors.New("a duration above 0s")
	}
	return parsed, nil
}

var numeral = regexp.MustCompile(`[0-9]+`)

// units of sizes, the longest suffix first.
var units = []struct {
	suffix string
	bytes  int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"B", 1}, {"", 1}}

func parseInt(s scalarValue, tag reflect.StructTag) (int64, error) {
	if tag.Get("unit") == "bytes" {
		return parseSize(s)
	}
	least, expected := int64(1), "a whole number above 0"
	if tag.Get("zero") == "ok" {
		least, expected = 0, "a whole number, 0 or more"
	}
	parsed, err := strconv.ParseInt(s.value, 10, 32)
	// What does not fit into 64 bits is text to the YAML decoder.
	if errors.Is(err, strconv.ErrRange) && parsed > 0 {
		return 0, fmt.Errorf("%s; it is too large, %d is the most", expected, math.MaxInt32)
	}
	if s.kind != number || err != nil || parsed < least {
		return 0, errors.New(expected)
	}
	return parsed, nil
}

// ParseSize reads a size in bytes as the configuration has it: digits, with B,
// KiB, MiB or GiB after them. Its error says what was expected, on one line.
func ParseSize(text string) (int64, error) {
	n, err := parseSize(scalarValue{number, text})
	if err != nil {
		return 0, fmt.Errorf("expected %w", err)
	}
	return n, nil
}

func parseSize(s scalarValue) (int64, error) {
	const expected = "a size such as 524288, 512KiB or 256MiB"
	if s.kind != number && s.kind != text {
		return 0, errors.New(expected)
	}
	for _, unit := range units {
		digits, ok := strings.CutSuffix(s.value, unit.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil && !errors.Is(err, strconv.ErrRange) {
			continue
		}
		if err != nil || n <= 0 || n > math.MaxInt64/unit.bytes {
			return 0, errors.New("a size above 0 and below 8 EiB")
		}
		return n * unit.bytes, nil
	}
	for _, wrong := range []struct{ suffix, right string }{{"KB", "KiB"}, {"kB", "KiB"}, {"MB", "MiB"}, {"GB", "GiB"}, {"Ki", "KiB"}, {"Mi", "MiB"}, {"Gi", "GiB"}, {"K", "KiB"}, {"M", "MiB"}, {"G", "GiB"}} {
		if digits, ok := strings.CutSuffix(s.value, wrong.suffix); ok {
			if _, err := strconv.ParseUint(digits, 10, 63); err == nil {
				return 0, fmt.Errorf("%s; did you mean %q?", expected, digits+wrong.right)
			}
		}
	}
	return 0, errors.New(expected)
}

func parseFloat(s scalarValue, tag reflect.StructTag) (float64, error) {
	expected, fits := "a number above 0", func(f float64) bool { return f > 0 }
	switch {
	case tag.Get("is") == "share":
		expected, fits = "a share above 0 and up to 1, such as 0.75", func(f float64) bool { return f > 0 && f <= 1 }
	case tag.Get("zero") != "":
		expected, fits = "a number of 0 or more", func(f float64) bool { return f >= 0 }
	}
	parsed, err := strconv.ParseFloat(s.value, 64)
	if s.kind != number || err != nil || math.IsInf(parsed, 0) || !fits(parsed) {
		return 0, errors.New(expected)
	}
	return parsed, nil
}

func parseAddr(s scalarValue) (netip.Addr, error) {
	addr, err := netip.ParseAddr(s.value)
	if s.kind != text || err != nil || addr.Zone() != "" {
		return netip.Addr{}, errors.New("an IP address such as 127.0.0.1 or ::1")
	}
	return addr.Unmap(), nil
}

func parsePrefix(s scalarValue) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(s.value)
	if s.kind != text || err != nil {
		return netip.Prefix{}, errors.New("an IP prefix such as 10.0.0.0/8")
	}
	if prefix != prefix.Masked() {
		return netip.Prefix{}, fmt.Errorf("an IP prefix; did you mean %q?", prefix.Masked())
	}
	return prefix, nil
}

func parseURI(s scalarValue) (*url.URL, error) {
	uri, err := url.Parse(s.value)
	if s.kind != text || err != nil || uri.Scheme == "" {
		return nil, errors.New("a URI with a scheme, such as spiffe://example.org/vault")
	}
	return uri, nil
}

// parseMode reads the digits as octal whether or not they are quoted: YAML
// would make 384 of an unquoted 0600.
func parseMode(s scalarValue) (fs.FileMode, error) {
	digits := strings.TrimPrefix(s.value, "0o")
	mode, err := strconv.ParseUint(digits, 8, 32)
	if s.kind != text && s.kind != number || err != nil || len(strings.TrimLeft(digits, "0")) > 3 {
		return 0, errors.New(`file permissions such as "0600" or "0640"`)
	}
	return fs.FileMode(mode), nil
}
