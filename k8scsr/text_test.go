package k8scsr

import (
	"strings"
	"testing"
)

func TestPlain(t *testing.T) {
	for _, tc := range []struct{ text, want string }{
		{"", ""},
		{"not on my watch", "not on my watch"},
		{"exactly 16 octet", "exactly 16 octet"},
		{"exactly 16 octets", "exactly 16 o …"},
		{"ééééééééé", "éééééé …"},
		{"a\nb\tc\rd", "a b c d"},
		{"\x1b[2Jgone\a", "?[2Jgone?"},
		{"a\u202eb\u2066c\u200bd", "a?b?c?d"},
		{"a\u2028b\u0085c", "a?b?c"},
		{"\xff\xfe x", "?? x"},
		{strings.Repeat("\x1b", 400_000), "???????????? …"},
	} {
		if got := Plain(tc.text, 16); got != tc.want {
			t.Errorf("%.40q becomes %q, want %q", tc.text, got, tc.want)
		}
	}
}
