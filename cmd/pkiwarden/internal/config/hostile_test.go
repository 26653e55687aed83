package config

import (
	"strings"
	"testing"
	"time"
)

// TestHostileShapes holds that what no configuration looks like costs no more
// than a moment: each of these made the parser or the checks take minutes.
func TestHostileShapes(t *testing.T) {
	const size = MaxFileBytes - 64
	many := func(s string) string { return strings.Repeat(s, size/len(s)) }
	var deep strings.Builder
	for i := 0; deep.Len() < size/2; i++ {
		deep.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	for name, doc := range map[string]string{
		"nested flow lists":       many("["),
		"nested flow mappings":    many("{a: "),
		"nested block lists":      many("- "),
		"block lists in flow":     "tidy:\n  mounts: [" + many("- "),
		"one mapping, many keys":  many("a:\n"),
		"explicit keys":           many("? a\n: b\n"),
		"nested mappings":         deep.String(),
		"many empty certificates": "certificates:\n" + many("-\n"),
		"many aliases":            "certificates:\n" + many("- *a\n"),
		"aliases of aliases":      "certificates:\n- &a {dnsNames: &b [" + strings.Repeat("x, ", 900) + "]}\n" + strings.Repeat("- {<<: *a, uris: *b}\n", 900),
		"a merge of itself":       "vault: &a {<<: *a}\n",
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			if _, err := Parse("x.yml", []byte(doc), noEnv); err == nil {
				t.Fatal("accepted")
			}
			if took := time.Since(start); took > 30*time.Second {
				t.Errorf("took %s", took)
			}
			t.Log(time.Since(start))
		})
	}
}

func noEnv(string) string { return "" }
