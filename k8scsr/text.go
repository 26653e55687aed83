package k8scsr

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Plain is a text that somebody else wrote as it may be shown and kept: valid
// UTF-8 of at most limit octets, at least 8. A longer one is cut, with an
// ellipsis. Line ends and tabs become spaces; other control characters, and
// those that are not seen or change the direction of what is (Unicode's Cc, Cf,
// Zl, Zp), become question marks: in a terminal they would tell another story.
func Plain(text string, limit int) string {
	const cut = " …"
	var out strings.Builder
	end := 0 // where the ellipsis would go
	for _, r := range text {
		switch {
		case r == '\n' || r == '\r' || r == '\t':
			r = ' '
		case r == utf8.RuneError || unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp):
			r = '?'
		}
		if out.Len()+utf8.RuneLen(r) > limit {
			return out.String()[:end] + cut
		}
		out.WriteRune(r)
		if out.Len() <= limit-len(cut) {
			end = out.Len()
		}
	}
	return out.String()
}
