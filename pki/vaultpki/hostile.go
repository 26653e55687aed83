package vaultpki

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// What Vault names (mounts, namespaces, issuers, roles) was chosen by whoever
// may make them, who need not be a friend of whoever reads our logs, or of the
// paths that our token may touch.

// The longest names that are taken: Vault's own are far shorter.
const (
	maxPath = 1024
	maxName = 256
	maxText = 4096
)

// checkPath says why path must not become a part of a request's path, nil when
// it may: it has to mean the same before and after it is escaped, joined and
// cleaned, by us or by what stands between us and Vault.
func checkPath(path string) error {
	switch {
	case len(path) > maxPath:
		return fmt.Errorf("it is longer than %d bytes", maxPath)
	case !isPrintable(path):
		return errors.New("it holds characters that are not printed")
	case strings.ContainsAny(path, `?#%\`):
		return errors.New(`it holds one of ? # % \`)
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return fmt.Errorf("it holds the segment %q", segment)
		}
	}
	return nil
}

// checkUUID says why uuid, which becomes a part of the keys of records, cannot
// be the one of a mount.
func checkUUID(uuid string) error {
	if len(uuid) > maxName || !isPrintable(uuid) {
		return fmt.Errorf("its UUID is %s", quote(uuid))
	}
	return nil
}

// checkID says why id is none of the UUIDs that Vault gives to issuers.
func checkID(id string) error {
	const form = "00000000-0000-0000-0000-000000000000"
	bad := len(id) != len(form)
	for i := 0; !bad && i < len(id); i++ {
		c := id[i] | 0x20 // in lower case, should it be a letter
		hex := c >= '0' && c <= '9' && id[i] == c || c >= 'a' && c <= 'f'
		bad = (form[i] == '-') != (id[i] == '-') || form[i] != '-' && !hex
	}
	if bad {
		return fmt.Errorf("issuer ID %s is no UUID", quote(id))
	}
	return nil
}

// isPrintable tells whether text is UTF-8 without control characters, marks
// that change the direction of writing, and the like.
func isPrintable(text string) bool {
	return utf8.ValidString(text) && strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

// printable is text as it may stand in a log line or a table: one line, with
// another sign in place of what is not printed, and not too long.
func printable(text string) string {
	text = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return utf8.RuneError
		}
		return r
	}, text)
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + " …"
	}
	return text
}

// quote is a name that is refused, as it may be shown.
func quote(name string) string {
	if len(name) > maxName {
		name = strings.ToValidUTF8(name[:maxName], "") + "…"
	}
	return fmt.Sprintf("%+q", name)
}
