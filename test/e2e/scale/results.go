package scale

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pkiwarden/pkiwarden/test/e2e/dated"
)

// Made is how the results came about.
type Made struct {
	At       time.Time
	Revision string
	Machine  string
	Took     time.Duration
	Sizes    []int // that were wanted
	Steady   time.Duration
}

// Complete tells whether there is a whole result for each size.
func (m Made) Complete(results []Result) bool {
	return len(results) == len(m.Sizes) && !slices.ContainsFunc(results, func(r Result) bool { return !r.Complete() })
}

const none = "-"

// Table is one row for each size, as Markdown, with the goals above.
func Table(results []Result) string {
	var b strings.Builder
	b.WriteString("| certificates | API calls for each renewal | renewing all | RSS when nothing is due | RSS at most | requests a minute when nothing is due | birth of all | known again after SIGKILL | wrong |\n")
	b.WriteString("|-|-|-|-|-|-|-|-|-|\n")
	fmt.Fprintf(&b, "| goal | %d | %s | | %s | | | | 0 |\n", GoalCalls, took(GoalTook), mebibytes(GoalMemory))
	for _, r := range results {
		cells := []string{grouped(r.Size), none, none, none, none, none, none, none, strconv.Itoa(len(r.Wrong))}
		if p := r.Renewal; p != nil && r.Restart != nil {
			cells[1], cells[2] = fmt.Sprintf("%.1f", p.Each(r.Size)), took(p.Took)
		}
		if p := r.Steady; p != nil {
			cells[3], cells[5] = mebibytes(p.Usage.RSS), grouped(int(p.PerMinute()+0.5))
		}
		if r.Restart != nil {
			cells[4] = mebibytes(r.Peak())
		}
		if p := r.Birth; p != nil && r.Steady != nil {
			cells[6] = took(p.Took)
		}
		if p := r.Restart; p != nil {
			cells[7] = took(p.Took)
		}
		fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | "))
	}
	return b.String()
}

// Missed are the goals that were not met, in words.
func (r Result) Missed() []string {
	var missed []string
	add := func(format string, args ...any) { missed = append(missed, fmt.Sprintf(format, args...)) }
	if p := r.Renewal; p != nil {
		if each := p.Each(r.Size); each > GoalCalls {
			add("%.1f API calls for each renewal, goal %d", each, GoalCalls)
		}
		if p.Took > GoalTook {
			add("%s to renew all, goal %s", took(p.Took), took(GoalTook))
		}
	}
	if peak := r.Peak(); peak > GoalMemory {
		add("%s at most, goal %s", mebibytes(peak), mebibytes(GoalMemory))
	}
	return missed
}

// phases are those that were measured, in order.
func (r Result) phases() (out []struct {
	Name string
	*Phase
}) {
	for _, p := range []struct {
		Name string
		*Phase
	}{{"birth", r.Birth}, {"nothing is due", r.Steady}, {"renewal", r.Renewal}, {"restart", r.Restart}, {"baseline", r.Baseline}} {
		if p.Phase != nil {
			out = append(out, p)
		}
	}
	return out
}

// details is everything that was measured at one size, as Markdown.
func (r Result) details() string {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s certificates\n\n", grouped(r.Size))
	if r.Err != nil {
		why, _, _ := strings.Cut(r.Err.Error(), "; the end of ") // a log
		fmt.Fprintf(&b, "**Gave up: %s**\n\n", why)
	}
	for _, wrong := range r.Wrong {
		fmt.Fprintf(&b, "WRONG: %s\n\n", wrong)
	}
	b.WriteString("| phase | took | calls | without watches and Lease | of each certificate | 409 | 429 | other errors | RSS, median | RSS, most | processor | goroutines |\n|-|-|-|-|-|-|-|-|-|-|-|-|\n")
	for _, p := range r.phases() {
		usage := []string{none, none, none, none}
		if p.Usage.RSS > 0 {
			usage = []string{mebibytes(p.Usage.RSS), mebibytes(p.Usage.Most), took(p.Usage.CPU), strconv.Itoa(p.Usage.Goroutines)}
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %.2f | %d | %d | %d | %s |\n", p.Name, took(p.Took), grouped(p.Calls.Total()), grouped(p.Calls.Counted()), p.Each(r.Size),
			p.Calls.Conflicts, p.Calls.Throttled, p.Calls.Failed, strings.Join(usage, " | "))
	}
	b.WriteString("\n| call |")
	phases := r.phases()
	all := map[Call]int{}
	for _, p := range phases {
		fmt.Fprintf(&b, " %s |", p.Name)
		for call, n := range p.Calls.By {
			all[call] += n
		}
	}
	b.WriteString("\n|-|" + strings.Repeat("-|", len(phases)) + "\n")
	calls := slices.SortedFunc(maps.Keys(all), func(x, y Call) int { return cmp.Or(cmp.Compare(all[y], all[x]), cmp.Compare(x.String(), y.String())) })
	for _, call := range calls {
		fmt.Fprintf(&b, "| %s |", call)
		for _, p := range phases {
			fmt.Fprintf(&b, " %s |", grouped(p.Calls.By[call]))
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "\nThe configuration has %s bytes, /metrics %s, /status.json %s (RSS at most %s while it is asked for). %d certificates were renewed more than once.\n",
		grouped(int(r.ConfigBytes)), grouped(int(r.MetricsBytes)), grouped(int(r.StatusBytes)), mebibytes(r.StatusPeak), r.Again)
	if r.Restart != nil {
		fmt.Fprintf(&b, "\nAfter the SIGKILL it led after %s, of which most is the rest of the Lease.\n", took(r.Leading))
	}
	for _, missed := range r.Missed() {
		fmt.Fprintf(&b, "\nOver the goal: %s.\n", missed)
	}
	return b.String()
}

// Report is the results as a page of Markdown.
func Report(results []Result, m Made) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Many certificates, %s\n\n", m.At.UTC().Format(time.DateOnly))
	if !m.Complete(results) {
		b.WriteString("**Partial: not every size was measured to its end.**\n\n")
	}
	b.WriteString(Table(results))
	fmt.Fprintf(&b, "\nRevision %s. %s, %s altogether; nothing was due for %s. The client's rate is %d requests a second, %d at once; %d until all are there.\n\n", m.Revision, m.Machine, took(m.Took), took(m.Steady), qps, burst, birthQPS)
	b.WriteString("API calls are those that the API server's audit log has of pkiwarden while all are renewed at once, since a name of each changes, without watches and those for the Lease, divided by the number of certificates. The baseline makes the five writes that a renewal needs, and nothing else.\n")
	for _, r := range results {
		b.WriteString("\n" + r.details())
	}
	return b.String()
}

// Row is one size in a report, as it is quoted.
type Row struct {
	Size                       int
	Calls, Took, Most, Minutes string
	Wrong                      int
}

// Sentence is what the README says of the results of one day.
func Sentence(day time.Time, rows []Row) string {
	of := func(cell func(Row) string) string {
		var all []string
		for _, r := range rows {
			all = append(all, cell(r))
		}
		return list(all)
	}
	return fmt.Sprintf("On %s, with %s certificates: %s API calls for each renewal, %s to renew all at once, at most %s of memory, %s requests a minute when nothing is due (`make scale`).",
		day.Format("2 January 2006"), of(func(r Row) string { return grouped(r.Size) }), of(func(r Row) string { return r.Calls }),
		of(func(r Row) string { return r.Took }), of(func(r Row) string { return r.Most }), of(func(r Row) string { return r.Minutes }))
}

// list joins as people write it.
func list(all []string) string {
	if len(all) < 2 {
		return strings.Join(all, "")
	}
	return strings.Join(all[:len(all)-1], ", ") + " and " + all[len(all)-1]
}

var tableRow = regexp.MustCompile(`(?m)^\| ([\d,]+) \| ([^|]+) \| ([^|]+) \| [^|]+ \| ([^|]+) \| ([^|]+) \| [^|]+ \| [^|]+ \| (\d+) \|$`)

// Newest reads the last results in the folder; see [dated.Newest].
func Newest(folder string) (day time.Time, rows []Row, err error) {
	report, err := dated.Newest(folder)
	if err != nil {
		return day, nil, fmt.Errorf("many certificates: %w", err)
	}
	var errs []error
	for _, cells := range tableRow.FindAllStringSubmatch(report.Text, -1) {
		size, err := strconv.Atoi(strings.ReplaceAll(cells[1], ",", ""))
		wrong, err2 := strconv.Atoi(cells[6])
		errs = append(errs, err, err2)
		rows = append(rows, Row{Size: size, Calls: cells[2], Took: cells[3], Most: cells[4], Minutes: cells[5], Wrong: wrong})
	}
	if len(rows) == 0 {
		return day, nil, fmt.Errorf("reading the results %s: no row tells of any size", report.File)
	}
	return report.Day, rows, errors.Join(errs...)
}

// QuotedSizes are those that results need which the README quotes.
var QuotedSizes = []int{100, 1000}

// Quotable is nil where the README may quote the results: they are of all those
// sizes, and nothing was wrong.
func Quotable(rows []Row) error {
	for _, size := range QuotedSizes {
		if !slices.ContainsFunc(rows, func(r Row) bool { return r.Size == size }) {
			return fmt.Errorf("the newest results of many certificates have none of %s: make scale", grouped(size))
		}
	}
	for _, r := range rows {
		if r.Wrong > 0 {
			return fmt.Errorf("the newest results of many certificates are not good: %d things are wrong with %s", r.Wrong, grouped(r.Size))
		}
	}
	return nil
}

// grouped is a number as people write it: 1,000.
func grouped(n int) string {
	text := strconv.Itoa(n)
	for at := len(text) - 3; at > 0; at -= 3 {
		text = text[:at] + "," + text[at:]
	}
	return text
}

// took is a duration as people write it: 7.3 s, 2 min 5 s.
func took(d time.Duration) string {
	if d < time.Minute-50*time.Millisecond {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	d = d.Round(time.Second)
	minutes := fmt.Sprintf("%d min", int(d.Minutes()))
	if seconds := int(d.Seconds()) % 60; seconds > 0 {
		minutes += fmt.Sprintf(" %d s", seconds)
	}
	return minutes
}

func mebibytes(n int64) string { return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20)) }
