package pki

import (
	"fmt"
	"slices"
	"strings"
)

// Select returns those of mounts that patterns ask for, in their order. A
// pattern is a mount's name in which each * stands for any text; one that
// begins with ! leaves mounts out, whatever the others say. Without a pattern
// that takes mounts in, all are.
func Select(mounts []Mount, patterns []string) []Mount {
	var in, out []string
	for _, p := range patterns {
		if rest, leave := strings.CutPrefix(p, "!"); leave {
			out = append(out, rest)
		} else {
			in = append(in, p)
		}
	}
	var selected []Mount
	for _, m := range mounts {
		if (len(in) == 0 || matchesAny(in, m.Name())) && !matchesAny(out, m.Name()) {
			selected = append(selected, m)
		}
	}
	return selected
}

// Unmatched are the patterns, as [Select] reads them, that match none of mounts.
func Unmatched(mounts []Mount, patterns []string) []string {
	var unmatched []string
	for _, p := range patterns {
		name := []string{strings.TrimPrefix(p, "!")}
		if !slices.ContainsFunc(mounts, func(m Mount) bool { return matchesAny(name, m.Name()) }) {
			unmatched = append(unmatched, p)
		}
	}
	return unmatched
}

// NoMount is the finding that nothing is tidied: of the mounts that Vault shows,
// patterns select none.
func NoMount(shown []Mount, patterns []string) Finding {
	const most = 10
	var names []string
	for _, m := range shown[:min(len(shown), most)] {
		names = append(names, m.Name())
	}
	if len(shown) > most {
		names = append(names, "…")
	}
	f := Finding{
		Rule:     "tidy-no-mount",
		Severity: Unknown,
		Subject:  "Vault",
		Summary:  "No PKI mount is tidied.",
		Evidence: fmt.Sprintf("tidy.mounts %q selects none of the %d PKI mounts that Vault shows: %s", patterns, len(shown), strings.Join(names, ", ")),
		Remedy:   "correct tidy.mounts",
		Citation: "Vault API, sys/mounts: it shows what the token's policy lets it see",
	}
	if len(shown) == 0 {
		f.Evidence = "Vault shows no PKI mount"
		f.Remedy = "see vault.address and vault.namespace, and whether the token's policy has read on sys/mounts of the namespace"
	}
	return f
}

func matchesAny(patterns []string, name string) bool {
	for _, p := range patterns {
		if matches(strings.Trim(p, "/"), name) {
			return true
		}
	}
	return false
}

// matches takes the leftmost place for each part between two stars, which
// finds a match wherever there is one.
func matches(pattern, name string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == name
	}
	first, last := parts[0], parts[len(parts)-1]
	if !strings.HasPrefix(name, first) {
		return false
	}
	name = name[len(first):]
	for _, part := range parts[1 : len(parts)-1] {
		_, rest, found := strings.Cut(name, part)
		if !found {
			return false
		}
		name = rest
	}
	return strings.HasSuffix(name, last)
}
