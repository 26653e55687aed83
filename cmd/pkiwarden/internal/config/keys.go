package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/agext/levenshtein"
)

// Closest is the candidate that was probably meant, or "" when none is near.
func Closest(got string, candidates []string) string {
	best, bestDistance := "", max(1, min(len(got)/3, 4))+1
	for _, candidate := range candidates {
		if d := distance(got, candidate); d < bestDistance && d < min(len(got), len(candidate)) {
			best, bestDistance = candidate, d
		}
	}
	return best
}

// distance ignores case and how words are joined: safety_buffer is safetyBuffer.
// Two neighbours swapped are one mistake, as a finger makes it: tydi is tidy.
func distance(a, b string) int {
	const most = 64 // no key is near that long
	if len(a) > most {
		return len(a)
	}
	a, b = plain(a), plain(b)
	for i := 1; i < len(a) && len(a) == len(b); i++ {
		if a[:i-1]+a[i:i+1]+a[i-1:i]+a[i+1:] == b {
			return min(1, levenshtein.Distance(a, b, nil))
		}
	}
	return levenshtein.Distance(a, b, nil)
}

func plain(s string) string {
	return strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(s))
}

// contractKeys is every key of the contract with the patterns of the mappings
// that it belongs to; "" is the top level.
var contractKeys = sync.OnceValue(func() map[string][]string {
	keys := map[string][]string{}
	var walk func(t reflect.Type, at string)
	walk = func(t reflect.Type, at string) {
		switch t.Kind() {
		case reflect.Pointer:
			walk(t.Elem(), at)
		case reflect.Slice:
			element := t.Elem()
			if t == reflect.TypeFor[Certificates]() {
				element = reflect.TypeFor[Certificate]()
			}
			walk(element, at+"[]")
		case reflect.Struct:
			for _, f := range fieldsOf(t) {
				key := f.Tag.Get("yaml")
				keys[key] = append(keys[key], at)
				walk(f.Type, join(at, key))
			}
		}
	}
	walk(reflect.TypeFor[Config](), "")
	return keys
})

// suggestKey says what was probably meant by a key that the mapping at path
// does not have.
func suggestKey(path, key string, siblings []string) string {
	near := Closest(key, siblings)
	if near != "" && distance(key, near) <= 1 {
		return fmt.Sprintf("did you mean %q?", near)
	}
	if homes := homesOf(path, key); len(homes) > 0 {
		return "this key belongs " + strings.Join(homes, " or ")
	}
	if near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return "expected " + listed(siblings)
}

// homesOf says where the contract has the key, the places nearest to path only.
func homesOf(path, key string) []string {
	here := pattern(path)
	shared, nearest := -1, []string(nil)
	for name, parents := range contractKeys() {
		if plain(name) != plain(key) {
			continue
		}
		for _, home := range parents {
			n := sharedKeys(here, home)
			if n > shared {
				shared, nearest = n, nil
			}
			if n == shared {
				nearest = append(nearest, home)
			}
		}
	}
	const most = 3 // a key that is nearly everywhere tells nothing
	if len(nearest) > most {
		return nil
	}
	slices.Sort(nearest)
	for i, home := range nearest {
		if home == "" {
			nearest[i] = "at the top level"
		} else {
			nearest[i] = fmt.Sprintf("under %q", home)
		}
	}
	return nearest
}

// sharedKeys counts the keys that two paths begin with.
func sharedKeys(a, b string) int {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	n := 0
	for n < len(as) && n < len(bs) && as[n] == bs[n] && as[n] != "" {
		n++
	}
	return n
}

// Span is a duration without the units that are zero: 24h, not 24h0m0s.
func Span(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// listed is "a, b or c".
func listed(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}
