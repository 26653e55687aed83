package config

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestInvalid compares each testdata/invalid-*.yml with what it has to say,
// word for word, in the .txt beside it. A first line "# env: NAME=VALUE …" sets
// variables.
func TestInvalid(t *testing.T) {
	files, err := filepath.Glob("testdata/invalid-*.yml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no fixtures: %v", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yml")
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			c, err := Parse(filepath.Base(file), data, fixtureEnv(data))
			if c != nil || err == nil {
				t.Fatal("accepted")
			}
			want, readErr := os.ReadFile("testdata/" + name + ".txt")
			if readErr != nil {
				t.Fatal(readErr)
			}
			if got := err.Error() + "\n"; got != string(want) {
				t.Errorf("got:\n%swant:\n%s", got, want)
			}
			var problems Problems
			if !errors.As(err, &problems) || len(problems) != strings.Count(string(want), "\n") {
				t.Errorf("%d problems in %d lines", len(problems), strings.Count(string(want), "\n"))
			}
		})
	}
}

func fixtureEnv(data []byte) func(string) string {
	first, _, _ := bytes.Cut(data, []byte("\n"))
	variables, _ := strings.CutPrefix(string(first), "# env: ")
	return envOf(strings.Fields(variables)...)
}

func envOf(variables ...string) func(string) string {
	values := map[string]string{}
	for _, v := range variables {
		name, value, _ := strings.Cut(v, "=")
		values[name] = value
	}
	return func(name string) string { return values[name] }
}
