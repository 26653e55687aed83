package matrix

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pkiwarden/pkiwarden/test/e2e/dated"
)

// Sums count the outcomes.
type Sums struct {
	Runs       int
	Missed     int // runs whose point was not reached
	Violations int
	Harness    int // runs in which the harness itself failed
}

// Good tells whether nothing at all went wrong.
func (s Sums) Good() bool { return s.Missed == 0 && s.Violations == 0 && s.Harness == 0 }

func (s Sums) String() string {
	return fmt.Sprintf("%d runs, %d violations, %d points not reached, %d errors of the harness", s.Runs, s.Violations, s.Missed, s.Harness)
}

// Sum counts the outcomes.
func Sum(outcomes []Outcome) Sums {
	var s Sums
	for _, o := range outcomes {
		s.Runs++
		s.Violations += len(o.Violations)
		switch {
		case o.Err != nil:
			s.Harness++
		case !o.Hit:
			s.Missed++
		}
	}
	return s
}

// Table is the outcomes by case, as Markdown.
func Table(outcomes []Outcome) string {
	var b strings.Builder
	b.WriteString("| fault | runs | reached | violations | until all was well again, median | at most | a trial, median |\n|-|-|-|-|-|-|-|\n")
	for _, name := range Cases() {
		var converged, took []time.Duration
		n, bad := 0, 0
		for _, o := range outcomes {
			if o.Case != name {
				continue
			}
			n++
			bad += len(o.Violations)
			took = append(took, o.Took)
			if o.Hit {
				converged = append(converged, o.Converged)
			}
		}
		if n > 0 {
			fmt.Fprintf(&b, "| %s | %d | %d | %d | %s | %s | %s |\n", name, n, len(converged), bad, middle(converged), most(converged), middle(took))
		}
	}
	return b.String()
}

// pointsTable is where the faults began whose point chance chose, as Markdown.
func pointsTable(outcomes []Outcome) string {
	var b strings.Builder
	b.WriteString("| fault | began |\n|-|-|\n")
	for _, name := range faults {
		began := map[string]int{}
		for _, o := range outcomes {
			if o.Case == name && o.Hit {
				began[o.Point]++
			}
		}
		var all []string
		for _, point := range pointsOf(name) {
			if n := began[point]; n > 0 {
				all = append(all, fmt.Sprintf("%s %d", point, n))
			}
		}
		if len(all) > 0 {
			fmt.Fprintf(&b, "| %s | %s |\n", name, strings.Join(all, ", "))
		}
	}
	return b.String()
}

func middle(all []time.Duration) string {
	if len(all) == 0 {
		return "-"
	}
	return seconds(slices.Sorted(slices.Values(all))[len(all)/2])
}

func most(all []time.Duration) string {
	if len(all) == 0 {
		return "-"
	}
	return seconds(slices.Max(all))
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// Command is the one that makes the trial of an outcome again.
func (o Outcome) Command() string {
	return fmt.Sprintf("go run ./test/e2e/matrix/run -runs 1 -only '^%s$' -seed %d", regexp.QuoteMeta(o.Case), o.Seed)
}

// Made is how the outcomes came about.
type Made struct {
	At       time.Time
	Revision string
	Machine  string
	Lanes    int
	Seed     uint64
	Took     time.Duration
	Wanted   int // runs; where fewer were made, it was interrupted
}

// Report is the outcomes as a page of Markdown.
func Report(outcomes []Outcome, m Made) string {
	sums := Sum(outcomes)
	var b strings.Builder
	fmt.Fprintf(&b, "# Fault matrix, %s\n\n%s.\n\n", m.At.UTC().Format(time.DateOnly), sums)
	if sums.Runs < m.Wanted {
		fmt.Fprintf(&b, "**Partial: interrupted after %d of %d runs.**\n\n", sums.Runs, m.Wanted)
	}
	var took, spent time.Duration
	for _, o := range outcomes {
		took += o.Took
	}
	if sums.Runs > 0 {
		spent = m.Took / time.Duration(sums.Runs)
		took /= time.Duration(sums.Runs)
	}
	fmt.Fprintf(&b, "Revision %s. %s. Seeds from %d on, one for each run. %d trials at a time, %s altogether: %s for each run, which takes %s.\n\n",
		m.Revision, m.Machine, m.Seed, m.Lanes, m.Took.Round(time.Second), seconds(spent), seconds(took))
	b.WriteString("A SIGKILL is at the point named; in one run of three the next process is killed too.\n\n")
	b.WriteString(Table(outcomes))
	b.WriteString("\nThe other faults begin at a point that chance chooses:\n\n")
	b.WriteString(pointsTable(outcomes))
	for _, o := range outcomes {
		if why := o.Failed(); why != "" {
			fmt.Fprintf(&b, "\nFailed: %s\n\n    %s\n", why, o.Command())
		}
	}
	return b.String()
}

// Sentence is what the README says of the results of one day.
func Sentence(day time.Time, s Sums) string {
	return fmt.Sprintf("On %s: %s runs, %s violations (`make matrix`).", day.Format("2 January 2006"), grouped(s.Runs), grouped(s.Violations))
}

// grouped is a number as people write it: 1,000.
func grouped(n int) string {
	text := strconv.Itoa(n)
	for at := len(text) - 3; at > 0; at -= 3 {
		text = text[:at] + "," + text[at:]
	}
	return text
}

var sumsLine = regexp.MustCompile(`(?m)^(\d+) runs, (\d+) violations, (\d+) points not reached, (\d+) errors of the harness\.$`)

// Newest reads the last results in the folder; see [dated.Newest].
func Newest(folder string) (day time.Time, s Sums, err error) {
	report, err := dated.Newest(folder)
	if err != nil {
		return day, s, fmt.Errorf("fault matrix: %w", err)
	}
	found := sumsLine.FindStringSubmatch(report.Text)
	if found == nil {
		return day, s, fmt.Errorf("reading the results %s: no line says how many runs and violations there were", report.File)
	}
	var errs []error
	for n, to := range []*int{&s.Runs, &s.Violations, &s.Missed, &s.Harness} {
		var err error
		*to, err = strconv.Atoi(found[n+1])
		errs = append(errs, err)
	}
	return report.Day, s, errors.Join(errs...)
}

// EnoughRuns is how many runs a result needs that the README quotes.
const EnoughRuns = 1000

// Quotable is nil where the README may quote the results: enough runs, and
// nothing went wrong in any.
func (s Sums) Quotable() error {
	switch {
	case s.Runs < EnoughRuns:
		return fmt.Errorf("the newest results of the fault matrix are of %d runs, want %d: make matrix", s.Runs, EnoughRuns)
	case !s.Good():
		return fmt.Errorf("the newest results of the fault matrix are not good: %s", s)
	}
	return nil
}
