package main

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
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
		if strings.Contains(want, "\n…\n") {
			continue // what real servers answered, shortened: the end-to-end tests hold it
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

var (
	codeBlock   = regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$")
	codeSpan    = regexp.MustCompile("`([^`\n]+)`")
	invocation  = regexp.MustCompile(`(?:^|[|(;&] *)(?:[A-Z_]+=\S+ )*pkiwarden ([a-z][a-z-]*(?: [a-z][a-z-]*)?)`)
	commandName = regexp.MustCompile(`^[a-z]+( [a-z]+)?$`)
	yamlArgs    = regexp.MustCompile(`(?m)^\s*args: \[([a-z]+)`)
)

// TestNamedCommands holds that each command that the README, the runbook and the
// manifests tell somebody to use is one of the binary's.
func TestNamedCommands(t *testing.T) {
	known := map[string]bool{}
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		known[strings.TrimPrefix(cmd.CommandPath(), "pkiwarden ")] = true
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(newRootCmd(&app{stdout: io.Discard, stderr: io.Discard}))
	named := 0
	check := func(file, command string) {
		t.Helper()
		named++
		first, _, _ := strings.Cut(command, " ")
		if !known[command] && (!known[first] || first == "crl") {
			t.Errorf("%s names the command %q, which there is none of", file, command)
		}
	}
	files := []string{"../../README.md"}
	err := filepath.WalkDir("../../manifests", func(name string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			files = append(files, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text := string(content)
		var code []string
		for _, block := range codeBlock.FindAllStringSubmatch(text, -1) {
			for line := range strings.Lines(block[2]) {
				if line, typed := strings.CutPrefix(line, "$ "); typed || block[1] == "sh" {
					code = append(code, line)
				}
			}
		}
		for _, span := range codeSpan.FindAllStringSubmatch(codeBlock.ReplaceAllString(text, ""), -1) {
			code = append(code, span[1])
		}
		for _, line := range code {
			for _, found := range invocation.FindAllStringSubmatch(line, -1) {
				check(file, found[1])
			}
		}
		for _, found := range yamlArgs.FindAllStringSubmatch(text, -1) {
			check(file, found[1])
		}
		_, exitCodes, _ := strings.Cut(text, "\n## Exit codes\n")
		for _, found := range codeSpan.FindAllStringSubmatch(exitCodes, -1) {
			if commandName.MatchString(found[1]) {
				check(file, found[1])
			}
		}
	}
	if named < 20 {
		t.Errorf("%d commands are named: they are not found", named)
	}
}
