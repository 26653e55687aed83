// Command run measures pkiwarden with many certificates and writes what it found
// into a dated file, which the README quotes. It exits with 1 where a certificate
// was wrong or a size could not be measured, and with 130 where it was
// interrupted and nothing was wrong until then. A goal that is missed is told,
// and fails nothing.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pkiwarden/pkiwarden/test/e2e/dated"
	"github.com/pkiwarden/pkiwarden/test/e2e/scale"
	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
)

const exitInterrupted = 130

var errInterrupted = errors.New("interrupted")

type options struct {
	sizes, out, pkiwarden string
	steady, patience      time.Duration
	baseline              int
}

func main() {
	var o options
	flag.StringVar(&o.sizes, "sizes", "100,1000,10000", "numbers of certificates, one after the other")
	flag.DurationVar(&o.steady, "steady", 2*time.Minute, "how long is measured while nothing is due")
	flag.DurationVar(&o.patience, "patience", 5*time.Minute, "give up where nothing has changed for so long")
	flag.IntVar(&o.baseline, "baseline", 1000, "largest size that is also obtained by the least calls that do it")
	flag.StringVar(&o.pkiwarden, "pkiwarden", "", "program to measure; built from this checkout without it")
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
	sizes, err := parseSizes(o.sizes)
	if err != nil {
		return err
	}
	var sets []*servers.Set
	defer func() {
		for _, set := range sets {
			err = errors.Join(err, set.Close())
		}
	}()
	began := time.Now()
	results, ended := scale.Run(ctx, scale.Options{
		Sizes: sizes, Steady: o.steady, Patience: o.patience, Baseline: o.baseline, Pkiwarden: o.pkiwarden, Progress: os.Stderr,
		NewSet: func() (*servers.Set, error) {
			set, err := servers.New(servers.Options{Progress: os.Stderr})
			if err == nil {
				sets = append(sets, set)
			}
			return set, err
		},
	})
	made := scale.Made{
		At: began, Revision: revision(ctx), Machine: fmt.Sprintf("%s, %d processors", runtime.Version(), runtime.NumCPU()),
		Took: time.Since(began), Sizes: sizes, Steady: o.steady,
	}
	report := scale.Report(results, made)
	fmt.Printf("\n%s\n", report)
	complete := made.Complete(results)
	if o.out != "" {
		file, err := dated.Write(o.out, report, made.At, !complete)
		if err != nil {
			return err
		}
		fmt.Println("written to", file)
	}
	var errs []error
	for _, r := range results {
		for _, wrong := range r.Wrong {
			errs = append(errs, fmt.Errorf("with %d certificates: %s", r.Size, wrong))
		}
		if r.Err != nil && ctx.Err() == nil {
			errs = append(errs, fmt.Errorf("with %d certificates: %w", r.Size, r.Err))
		}
	}
	switch {
	case len(errs) > 0:
		return errors.Join(errs...)
	case ended != nil || ctx.Err() != nil:
		return fmt.Errorf("%w after %d of %d sizes", errInterrupted, max(0, len(results)-1), len(sizes))
	case o.out != "":
		day, rows, err := scale.Newest(o.out)
		if err == nil && scale.Quotable(rows) == nil {
			fmt.Printf("the README's sentence:\n%s\n", scale.Sentence(day, rows))
		}
		return err
	}
	return nil
}

func parseSizes(text string) ([]int, error) {
	const most = 99_999 // what the names have room for
	var sizes []int
	for word := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(word))
		if err != nil || n < 1 || n > most {
			return nil, fmt.Errorf("-sizes: expected numbers from 1 to %d with commas between them, found %q", most, word)
		}
		sizes = append(sizes, n)
	}
	return sizes, nil
}

// revision is that of the checkout, as far as git knows.
func revision(ctx context.Context) string {
	text, err := exec.CommandContext(context.WithoutCancel(ctx), "git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(text))
}
