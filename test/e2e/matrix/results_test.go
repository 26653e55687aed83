package matrix

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/test/e2e/dated"
)

// TestReadmeQuotesTheNewestResults: what the README says of the fault matrix is
// what its last run gave, and that was a good one.
func TestReadmeQuotesTheNewestResults(t *testing.T) {
	readme, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	said := regexp.MustCompile(`On [^.:]+: [\d,]+ runs, [\d,]+ violations \([^)]*\)\.`).FindAllString(string(readme), -1)
	day, sums, err := Newest("results")
	if err != nil {
		t.Fatal(err)
	}
	if err := sums.Quotable(); err != nil {
		t.Error(err)
	}
	if want := Sentence(day, sums); len(said) != 1 || said[0] != want {
		t.Errorf("the README says %q, and the newest results are: %s", said, want)
	}
}

func TestNewest(t *testing.T) {
	folder := t.TempDir()
	if _, _, err := Newest(folder); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no results: %v", err)
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("2026-11-02.md", "# Fault matrix, 2026-11-02\n\n2000 runs, 3 violations, 0 points not reached, 0 errors of the harness.\n")
	write("2026-11-21.md", "# Fault matrix, 2026-11-21\n\n1000 runs, 0 violations, 0 points not reached, 0 errors of the harness.\n")
	write("2026-12-01-partial.md", "7 runs, 0 violations, 0 points not reached, 0 errors of the harness.\n")
	write("notes.md", "5 runs, 0 violations, 0 points not reached, 0 errors of the harness.\n")
	day, sums, err := Newest(folder)
	if err != nil || sums != (Sums{Runs: 1000}) {
		t.Fatalf("%v %+v, %v", day, sums, err)
	}
	if want, got := "On 21 November 2026: 1,000 runs, 0 violations (`make matrix`).", Sentence(day, sums); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for _, text := range []string{"# Fault matrix\n", "1000 runs, 0 violations, 0 points not reached, 0 errors of the harness.\n\n**Partial: interrupted after 1000 of 2000 runs.**\n"} {
		write("2026-11-22.md", text)
		if _, _, err := Newest(folder); err == nil {
			t.Errorf("%q counts as a result", text)
		}
	}
}

func TestQuotable(t *testing.T) {
	for sums, want := range map[Sums]bool{
		{Runs: 1000}:                true,
		{Runs: 999}:                 false,
		{Runs: 1000, Violations: 1}: false,
		{Runs: 1000, Missed: 1}:     false,
		{Runs: 1000, Harness: 1}:    false,
	} {
		if err := sums.Quotable(); (err == nil) != want {
			t.Errorf("%+v: %v", sums, err)
		}
	}
}

// What a report says is read back, and it names the command for what failed.
func TestReport(t *testing.T) {
	outcomes := []Outcome{
		{Case: "SIGKILL after approve", Seed: 7, Hit: true, Point: "after approve", Converged: time.Second, Took: 3 * time.Second},
		{Case: "SIGKILL after approve", Seed: 8, Hit: true, Point: "after approve", Converged: 2 * time.Second, Took: 3 * time.Second, Violations: []string{"I2: gone", "I4: two"}},
		{Case: "etcd killed", Seed: 9, Hit: true, Point: "before look", Converged: 4 * time.Second, Took: 6 * time.Second},
		{Case: "etcd killed", Seed: 10, Point: "files done", Took: 4 * time.Second},
		{Case: "etcd killed", Seed: 11, Err: errors.New("no room"), Took: 4 * time.Second},
	}
	made := Made{At: time.Date(2026, 11, 21, 23, 0, 0, 0, time.UTC), Revision: "abc", Machine: "2 processors", Lanes: 3, Seed: 7, Took: 10 * time.Second, Wanted: 5}
	report := Report(outcomes, made)
	for _, want := range []string{
		"# Fault matrix, 2026-11-21\n\n5 runs, 2 violations, 1 points not reached, 1 errors of the harness.\n",
		"Revision abc. 2 processors. Seeds from 7 on, one for each run. 3 trials at a time, 10s altogether: 2.0 s for each run, which takes 4.0 s.",
		"| SIGKILL after approve | 2 | 2 | 2 | 2.0 s | 2.0 s | 3.0 s |\n",
		"| etcd killed | 3 | 1 | 0 | 4.0 s | 4.0 s | 4.0 s |\n",
		"| etcd killed | before look 1 |\n",
		"Failed: I2: gone; I4: two\n\n    go run ./test/e2e/matrix/run -runs 1 -only '^SIGKILL after approve$' -seed 8\n",
		"Failed: the point was not reached\n\n    go run ./test/e2e/matrix/run -runs 1 -only '^etcd killed$' -seed 10\n",
	} {
		if !strings.Contains(report, want) {
			t.Errorf("the report lacks %q:\n%s", want, report)
		}
	}
	folder := t.TempDir()
	file, err := dated.Write(folder, report, made.At, false)
	if err != nil || filepath.Base(file) != "2026-11-21.md" {
		t.Fatalf("%s, %v", file, err)
	}
	if _, sums, err := Newest(folder); err != nil || sums != (Sums{Runs: 5, Missed: 1, Violations: 2, Harness: 1}) {
		t.Errorf("%+v, %v", sums, err)
	}
	made.Wanted = 100
	if !strings.Contains(Report(outcomes, made), "**Partial: interrupted after 5 of 100 runs.**") {
		t.Error("a partial report does not say so")
	}
}
