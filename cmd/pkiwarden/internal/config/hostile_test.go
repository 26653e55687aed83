package config

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestHostileShapes holds that what no configuration looks like costs no more
// than a moment, whether it is as large as what is parsed at once or as a file
// can be: each of these made the parser or the checks take minutes.
func TestHostileShapes(t *testing.T) {
	share, sizes := 1, []int{maxTextBytes - 64, MaxFileBytes - 64}
	if testing.Short() { // with the race detector, which is ten times slower
		share, sizes = 20, []int{maxTextBytes / 8}
	}
	for name, doc := range map[string]func(size int) string{
		"nested flow lists":       repeat("", "["),
		"nested flow mappings":    repeat("", "{a: "),
		"nested block lists":      repeat("", "- "),
		"block lists in flow":     repeat("tidy:\n  mounts: [", "- "),
		"one mapping, many keys":  repeat("", "a:\n"),
		"explicit keys":           repeat("", "? a\n: b\n"),
		"nested mappings":         nested,
		"tabs":                    repeat("", "\ta\n"),
		"many empty certificates": repeat("certificates:\n", "-\n"),
		"many aliases":            repeat("certificates:\n", "- *a\n"),
		"certificates of lists":   repeat("certificates:\n", "- ["+strings.Repeat("[", 900)+"\n"),
		"certificates of keys":    repeat("certificates:\n", "- {"+strings.Repeat("a: b, ", 90)+"}\n"),
		"certificates of dashes":  repeat("certificates:\n", "- "+strings.Repeat("- ", 25)+strings.Repeat("x", 900)+"\n"),
		"large certificates":      repeat("certificates:\n", "- dnsNames: ["+strings.Repeat("x, ", 40_000)+"]\n"),
		"certificates of anchors": repeat("certificates:\n", "- {<<: &a {}, dnsNames: &b ["+strings.Repeat("x, ", 900)+"]}\n"),
		"aliases of aliases": func(int) string {
			return "certificates:\n- &a {dnsNames: &b [" + strings.Repeat("x, ", 900) + "]}\n" + strings.Repeat("- {<<: *a, uris: *b}\n", 900/share)
		},
		"many aliases of aliases": func(int) string {
			return "certificates:\n- &a {dnsNames: &b [" + strings.Repeat("x, ", 900) + "]}\n" + strings.Repeat("- {<<: *a, uris: *b}\n", 19_000/share)
		},
		"many merges of merges": func(int) string {
			doc := "certificates:\n- &x0 {name: a}\n"
			for i := range 8 {
				doc += fmt.Sprintf("- &x%d {<<: [%s]}\n", i+1, strings.Repeat(fmt.Sprintf("*x%d, ", i), 900))
			}
			return doc
		},
		"deliveries of nobody": func(int) string {
			return string(many(20_000/share, nil)) + "deliver:\n" + strings.Repeat("- {certificate: web}\n", 1000/share)
		},
		"a merge of itself": func(int) string { return "vault: &a {<<: *a}\n" },
	} {
		for _, size := range sizes {
			text := doc(size)
			if size > maxTextBytes && text == doc(maxTextBytes-64) {
				continue // one that has a size of its own
			}
			t.Run(fmt.Sprintf("%s, %d KiB", name, len(text)>>10), func(t *testing.T) {
				start := time.Now()
				_, err := Parse("x.yml", []byte(text), noEnv)
				if err == nil {
					t.Fatal("accepted")
				}
				if took := time.Since(start); took > time.Minute {
					t.Errorf("took %s", took)
				}
				if said := len(err.Error()); said > 64<<10 {
					t.Errorf("%d bytes of problems", said)
				}
				first, _, _ := strings.Cut(err.Error(), "\n")
				t.Log(time.Since(start), first)
			})
		}
	}
}

// repeat is one text after the other up to that size.
func repeat(before, text string) func(size int) string {
	return func(size int) string { return before + strings.Repeat(text, (size-len(before))/len(text)) }
}

func nested(size int) string {
	var deep strings.Builder
	for i := 0; deep.Len() < size/2; i++ {
		deep.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	return deep.String()
}

func noEnv(string) string { return "" }
