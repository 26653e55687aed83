// Command run makes many trials of the fault matrix and writes what they gave
// into a dated file, which the README quotes. It exits with 1 where a trial
// failed, and with 130 where it was interrupted and none had failed until then.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pkiwarden/pkiwarden/test/e2e/dated"
	"github.com/pkiwarden/pkiwarden/test/e2e/matrix"
	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
)

const exitInterrupted = 130

var errInterrupted = errors.New("interrupted")

type options struct {
	runs, lanes int
	seed        uint64
	only, out   string
}

func main() {
	var o options
	flag.IntVar(&o.runs, "runs", matrix.EnoughRuns, "trials")
	flag.IntVar(&o.lanes, "lanes", 4, "trials at a time, each lane with servers of its own")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().Unix()), "of the first trial")
	flag.StringVar(&o.only, "only", "", "regular expression: only these cases")
	flag.StringVar(&o.out, "out", "", "folder for the dated results; none are written without it")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second one ends it at once
	switch err := run(ctx, o); {
	case errors.Is(err, errInterrupted):
		fmt.Fprintf(os.Stderr, "error: %v\n", err)
		os.Exit(exitInterrupted)
	case err != nil:
		fmt.Fprintf(os.Stderr, "error: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	cases, err := chosen(o.only)
	if err != nil {
		return err
	}
	var (
		mu   sync.Mutex
		sets []*servers.Set
	)
	defer func() {
		for _, set := range sets {
			err = errors.Join(err, set.Close())
		}
	}()
	newSet := func() (*servers.Set, error) {
		mu.Lock()
		defer mu.Unlock()
		set, err := servers.New(servers.Options{Progress: os.Stderr})
		if err == nil {
			sets = append(sets, set)
		}
		return set, err
	}
	began := time.Now()
	told := progress{wanted: o.runs, began: began}
	outcomes, err := matrix.Run(ctx, matrix.Options{
		Runs: o.runs, Lanes: min(o.lanes, o.runs), Seed: o.seed, Cases: cases, NewSet: newSet, Each: told.tell,
	})
	sums := matrix.Sum(outcomes)
	if sums.Runs == 0 {
		return errors.Join(err, ctx.Err())
	}
	interrupted := sums.Runs < o.runs
	made := matrix.Made{
		At: began, Revision: revision(ctx), Machine: fmt.Sprintf("%s, %d processors", runtime.Version(), runtime.NumCPU()),
		Lanes: o.lanes, Seed: o.seed, Took: time.Since(began), Wanted: o.runs,
	}
	report := matrix.Report(outcomes, made)
	fmt.Printf("\n%s\n", report)
	if o.out != "" {
		file, writing := dated.Write(o.out, report, made.At, interrupted)
		if writing != nil {
			return errors.Join(err, writing)
		}
		fmt.Println("written to", file)
	}
	switch {
	case err != nil && ctx.Err() == nil:
		return err
	case !sums.Good():
		return fmt.Errorf("trials failed: %s", sums)
	case interrupted:
		return fmt.Errorf("%w after %d of %d runs", errInterrupted, sums.Runs, o.runs)
	case sums.Quotable() == nil:
		fmt.Printf("the README's sentence:\n%s\n", matrix.Sentence(made.At.UTC(), sums))
	}
	return nil
}

// chosen are the cases whose names match.
func chosen(only string) ([]string, error) {
	pattern, err := regexp.Compile(only)
	if err != nil {
		return nil, fmt.Errorf("-only: %w", err)
	}
	var cases []string
	for _, c := range matrix.Cases() {
		if pattern.MatchString(c) {
			cases = append(cases, c)
		}
	}
	if len(cases) == 0 {
		return nil, fmt.Errorf("-only %q matches none of:\n  %s", only, strings.Join(matrix.Cases(), "\n  "))
	}
	return cases, nil
}

// progress tells how far it is, every few seconds, and of each failure at once.
type progress struct {
	wanted, done, failed, violations int
	began, told                      time.Time
}

func (p *progress) tell(o matrix.Outcome) {
	const pause = 5 * time.Second
	p.done++
	p.violations += len(o.Violations)
	if why := o.Failed(); why != "" {
		p.failed++
		fmt.Printf("FAILED %s, begun at %q: %s\n  again: %s\n%s\n", o.Case, o.Point, why, o.Command(), o.Logs)
	}
	if time.Since(p.told) < pause && p.done < p.wanted {
		return
	}
	p.told = time.Now()
	took := time.Since(p.began)
	left := took / time.Duration(p.done) * time.Duration(p.wanted-p.done)
	fmt.Printf("%d of %d trials, %d failed, %d violations, %s, about %s left\n",
		p.done, p.wanted, p.failed, p.violations, took.Round(time.Second), left.Round(time.Second))
}

// revision is that of the checkout, as far as git knows.
func revision(ctx context.Context) string {
	text, err := exec.CommandContext(context.WithoutCancel(ctx), "git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(text))
}
