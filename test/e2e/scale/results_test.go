package scale

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

// TestReadmeQuotesTheNewestResults: what the README says of many certificates is
// what was measured last, and nothing was wrong then.
func TestReadmeQuotesTheNewestResults(t *testing.T) {
	readme, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	said := regexp.MustCompile("On [^.:]+ certificates: [^`]+ \\(`make scale`\\)\\.").FindAllString(string(readme), -1)
	day, rows, err := Newest("results")
	if err != nil {
		t.Fatal(err)
	}
	if err := Quotable(rows); err != nil {
		t.Error(err)
	}
	if want := Sentence(day, rows); len(said) != 1 || said[0] != want {
		t.Errorf("the README says %q, and the newest results are: %s", said, want)
	}
}

func measured(size int, each int, took time.Duration, rss, peak int64) Result {
	calls := Calls{By: map[Call]int{{"get", "secrets"}: size * each, {"update", "leases"}: 40, {"watch", "certificatesigningrequests"}: 2}, Conflicts: 3}
	phase := func(took time.Duration) *Phase {
		return &Phase{Took: took, Calls: calls, Over: 2 * time.Minute, Usage: Usage{RSS: rss, Most: peak, CPU: 7 * time.Second, Goroutines: 23}}
	}
	return Result{Size: size, Birth: phase(50 * time.Second), Steady: phase(2 * time.Minute), Renewal: phase(took), Restart: phase(17 * time.Second), Leading: 16 * time.Second}
}

var made = Made{At: time.Date(2026, 11, 21, 23, 0, 0, 0, time.UTC), Revision: "abc", Machine: "2 processors", Took: 90 * time.Second, Sizes: []int{100, 1000}, Steady: 2 * time.Minute}

// What a report says is read back.
func TestReport(t *testing.T) {
	results := []Result{measured(100, 5, 12*time.Second, 33<<20, 36<<20), measured(1000, 7, 125*time.Second, 40<<20, 80<<20)}
	report := Report(results, made)
	for _, want := range []string{
		"# Many certificates, 2026-11-21\n\n| certificates |",
		"| goal | 6 | 20 min | | 64 MiB | | | | 0 |\n",
		"| 100 | 5.0 | 12.0 s | 33 MiB | 36 MiB | 271 | 50.0 s | 17.0 s | 0 |\n",
		"| 1,000 | 7.0 | 2 min 5 s | 40 MiB | 80 MiB | 3,521 | 50.0 s | 17.0 s | 0 |\n",
		"| renewal | 12.0 s | 542 | 500 | 5.00 | 3 | 0 | 0 | 33 MiB | 36 MiB | 7.0 s | 23 |\n",
		"Over the goal: 7.0 API calls for each renewal, goal 6.\n",
		"Over the goal: 80 MiB at most, goal 64 MiB.\n",
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
	day, rows, err := Newest(folder)
	if err != nil || Quotable(rows) != nil {
		t.Fatalf("%v, %v", err, Quotable(rows))
	}
	const want = "On 21 November 2026, with 100 and 1,000 certificates: 5.0 and 7.0 API calls for each renewal, 12.0 s and 2 min 5 s to renew all at once, at most 36 MiB and 80 MiB of memory, 271 and 3,521 requests a minute when nothing is due (`make scale`)."
	if got := Sentence(day, rows); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

// What was not measured to its end says so, and is not quoted.
func TestPartialReport(t *testing.T) {
	given := Result{Size: 1000, Birth: measured(1000, 5, time.Second, 1, 1).Birth, Err: errors.New("birth: no progress for 5 min; the end of the log:\nbusy")}
	for _, results := range [][]Result{{measured(100, 5, time.Second, 1, 1)}, {measured(100, 5, time.Second, 1, 1), given}} {
		if made.Complete(results) {
			t.Fatal("it counts as complete")
		}
		folder := t.TempDir()
		if _, err := dated.Write(folder, Report(results, made), made.At, true); err != nil {
			t.Fatal(err)
		}
		if _, _, err := Newest(folder); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a partial result counts: %v", err)
		}
		if _, err := dated.Write(folder, Report(results, made), made.At, false); err != nil {
			t.Fatal(err)
		}
		if _, _, err := Newest(folder); err == nil {
			t.Error("a report that says it is partial counts")
		}
	}
	if report := Report([]Result{given}, made); !strings.Contains(report, "| 1,000 | - | - | - | - | - | - | - | 0 |\n") || !strings.Contains(report, "**Gave up: birth: no progress for 5 min**\n") {
		t.Errorf("it does not say what was not measured:\n%s", report)
	}
}

func TestQuotable(t *testing.T) {
	for _, c := range []struct {
		rows []Row
		want bool
	}{
		{[]Row{{Size: 100}, {Size: 1000}}, true},
		{[]Row{{Size: 100}, {Size: 1000}, {Size: 10000}}, true},
		{[]Row{{Size: 100}}, false},
		{[]Row{{Size: 100}, {Size: 1000, Wrong: 1}}, false},
		{nil, false},
	} {
		if err := Quotable(c.rows); (err == nil) != c.want {
			t.Errorf("%+v: %v", c.rows, err)
		}
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
	write("2026-11-02.md", "| 100 | 9.0 | 12.0 s | 33 MiB | 36 MiB | 86 | 50.0 s | 17.0 s | 0 |\n")
	write("2026-11-21.md", "| goal | 6 | 20 min | | 64 MiB | | | | 0 |\n| 10,000 | 5.1 | 18 min 2 s | 33 MiB | 36 MiB | 86 | 50.0 s | 17.0 s | 2 |\n")
	write("notes.md", "| 5 | 9.0 | 12.0 s | 33 MiB | 36 MiB | 86 | 50.0 s | 17.0 s | 0 |\n")
	day, rows, err := Newest(folder)
	want := Row{Size: 10000, Calls: "5.1", Took: "18 min 2 s", Most: "36 MiB", Minutes: "86", Wrong: 2}
	if err != nil || day.Day() != 21 || len(rows) != 1 || rows[0] != want {
		t.Errorf("%v %+v, %v", day, rows, err)
	}
	write("2026-11-22.md", "# Many certificates\n")
	if _, _, err := Newest(folder); err == nil {
		t.Error("a report without rows counts")
	}
}

func TestTook(t *testing.T) {
	for d, want := range map[time.Duration]string{
		90 * time.Millisecond: "0.1 s", 59900 * time.Millisecond: "59.9 s", 59960 * time.Millisecond: "1 min",
		time.Minute: "1 min", 61 * time.Second: "1 min 1 s", 20 * time.Minute: "20 min", 75*time.Minute + 3*time.Second: "75 min 3 s",
	} {
		if got := took(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}
