package pki

import "strings"

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
