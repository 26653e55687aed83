package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	readmeBlock = regexp.MustCompile("(?ms)^```(yaml|console)\n(.*?)^```$")
	readmeFile  = regexp.MustCompile(`^# (\S+\.yaml)\n`)
)

// TestReadme runs every pkiwarden command that the README shows, on the files
// that it shows, and wants the output that it shows.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	commands := 0
	for _, block := range readmeBlock.FindAllStringSubmatch(string(readme), -1) {
		kind, text := block[1], block[2]
		if kind == "yaml" {
			name := readmeFile.FindStringSubmatch(text)
			if name == nil {
				t.Errorf("a YAML block does not begin with the name of its file:\n%s", text)
				continue
			}
			if err := os.WriteFile(filepath.Clean(name[1]), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			continue
		}
		line, want, _ := strings.Cut(text, "\n")
		env := map[string]string{}
		words := strings.Fields(strings.TrimPrefix(line, "$ "))
		for strings.Contains(words[0], "=") {
			key, value, _ := strings.Cut(words[0], "=")
			env[key] = value
			words = words[1:]
		}
		if words[0] != "pkiwarden" {
			continue // make's own: the end-to-end tests run those
		}
		commands++
		var out bytes.Buffer
		run(words[1:], strings.NewReader(""), &out, &out, func(key string) string { return env[key] })
		if out.String() != want {
			t.Errorf("%s\nprints\n%s\nthe README has\n%s", line, out.String(), want)
		}
	}
	if commands < 3 {
		t.Errorf("the README shows %d pkiwarden commands: the blocks are not found", commands)
	}
}
