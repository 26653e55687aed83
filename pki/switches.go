package pki

import (
	"strconv"
	"strings"
)

// tidySwitch is a parameter of POST tidy that pkiwarden sends.
type tidySwitch struct {
	name  string
	since int // minor version of Vault 1 that brought it
}

// tidySwitches are those parameters (builtin/logical/pki/fields.go and
// path_tidy.go of 1.13.0, 1.17.6 and 1.21.1; changelogs for the others). OpenBao
// 2, which left Vault at 1.14, and Vault 2 know them all.
//
// What is left out keeps Vault's default, which is off, for every other thing
// that tidy can delete: expired issuers, ACME accounts, revocation queues,
// metadata. OpenBao's tidy_invalid_certs stays off too: what cannot be parsed is
// for a person to look at.
var tidySwitches = []tidySwitch{
	{"tidy_cert_store", 0},
	{"tidy_revoked_certs", 0},
	{"safety_buffer", 0},
	{"pause_duration", 12},
	{"tidy_revoked_cert_issuer_associations", 12},
}

// newestKnown is the last minor version of Vault 1.
const newestKnown = 21

// TidySwitches are the names of the parameters that may be sent to a server of
// the given version, as sys/health tells it. An unknown version, for which
// known is false, gets those that all versions since Vault 1.12 have in common.
//
// A version of 2 is Vault's or OpenBao's: health does not say which, and both
// know the same of these.
func TidySwitches(version string) (names []string, known bool) {
	major, minor, ok := parseVersion(version)
	known = ok && (major == 1 && minor <= newestKnown || major == 2)
	for _, s := range tidySwitches {
		if !known || major > 1 || minor >= s.since {
			names = append(names, s.name)
		}
	}
	return names, known
}

// parseVersion reads the first two numbers of "1.21.1+ent" and the like.
func parseVersion(version string) (major, minor int, ok bool) {
	first, rest, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	second, _, _ := strings.Cut(rest, ".")
	second, _, _ = strings.Cut(second, "-")
	second, _, _ = strings.Cut(second, "+")
	major, err := strconv.Atoi(first)
	if err != nil || major < 0 {
		return 0, 0, false
	}
	minor, err = strconv.Atoi(second)
	return major, minor, err == nil && minor >= 0
}
