package k8scsr

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Unrelated tells why a stored pair that we did not write looks like somebody
// else's, which nothing may be written over: it could be the only copy of a key.
// "" where it may be adopted, and replaced when it is due: nothing is stored, or
// a server's certificate that has a name in common with the one wanted.
func (s Spec) Unrelated(live Live) string {
	switch {
	case live.Managed || live.Leaf == nil && live.Problem == "":
		return ""
	case live.Leaf == nil:
		return "what it holds is not known: " + live.Problem
	case live.Leaf.IsCA:
		return fmt.Sprintf("it holds the certificate of a CA, %q", live.Leaf.Subject)
	}
	have := append(namesOf(live.Leaf), commonNames(live.Leaf)...)
	want := append(s.wantedNames(), some(s.CommonName)...)
	telling := slices.DeleteFunc(slices.Clone(want), everybodys)
	if len(telling) == 0 {
		telling = want
	}
	if slices.ContainsFunc(have, func(name string) bool { return slices.Contains(telling, name) }) {
		return ""
	}
	const shown = 3
	names := strings.Join(have[:min(len(have), shown)], ", ")
	if len(have) > shown {
		names += ", …"
	}
	return fmt.Sprintf("its certificate has no name in common with the one wanted, but %s", cmp.Or(names, "no name at all"))
}

// everybodys are the names of the host itself, which tell nothing: every server
// has them.
func everybodys(name string) bool {
	return slices.Contains([]string{"DNS name localhost", "IP address 127.0.0.1", "IP address ::1"}, name)
}
