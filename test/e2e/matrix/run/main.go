// Command run makes many trials of the fault matrix and writes what they gave
// into a dated file, which the README quotes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pkiwarden/pkiwarden/test/e2e/matrix"
	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
)

func main() {
	var (
		runs  = flag.Int("runs", 1000, "trials")
		lanes = flag.Int("lanes", 3, "trials at a time, each lane with servers of its own")
		seed  = flag.Uint64("seed", uint64(time.Now().Unix()), "of the first trial")
		only  = flag.String("only", "", "regular expression: only these cases")
		out   = flag.String("out", "", "folder for the dated results; none are written without it")
	)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *runs, *lanes, *seed, *only, *out); err != nil {
		fmt.Fprintf(os.Stderr, "error: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, runs, lanes int, seed uint64, only, out string) (err error) {
	pattern, err := regexp.Compile(only)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	var cases []string
	for _, c := range matrix.Cases() {
		if pattern.MatchString(c) {
			cases = append(cases, c)
		}
	}
	if len(cases) == 0 {
		return fmt.Errorf("-only %q matches none of:\n  %s", only, strings.Join(matrix.Cases(), "\n  "))
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
	began, done, bad := time.Now(), 0, 0
	outcomes, err := matrix.Run(ctx, matrix.Options{
		Runs: runs, Lanes: lanes, Seed: seed, Cases: cases, NewSet: newSet,
		Each: func(o matrix.Outcome) {
			done++
			if why := o.Failed(); why != "" {
				bad++
				fmt.Printf("FAILED -only %q -seed %d: %s\n%s\n", "^"+o.Case+"$", o.Seed, why, o.Logs)
			}
			if done%10 == 0 || done == runs {
				fmt.Printf("%d of %d trials, %d failed, %s\n", done, runs, bad, time.Since(began).Round(time.Second))
			}
		},
	})
	if err != nil {
		return err
	}
	table, n, violations, unhit := matrix.Table(outcomes)
	harness := 0
	for _, o := range outcomes {
		if o.Err != nil {
			harness++
		}
	}
	fmt.Printf("\n%s\n%d runs, %d violations, %d not reached, %d errors of the harness\n", table, n, violations, unhit, harness)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("interrupted after %d of %d runs: no results are written", n, runs)
	case out != "":
		if err := write(out, table, n, violations, unhit, harness, seed, lanes, time.Since(began)); err != nil {
			return err
		}
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d trials failed", bad, n)
	}
	return nil
}

func write(folder, table string, runs, violations, unhit, harness int, seed uint64, lanes int, took time.Duration) error {
	today := time.Now().UTC().Format(time.DateOnly)
	text := fmt.Sprintf(`# Fault matrix, %s

%d runs, %d violations, %d points not reached, %d errors of the harness.

%s, %d processors, %d trials at a time, seeds from %d, %s.

%s`, today, runs, violations, unhit, harness, runtime.Version(), runtime.NumCPU(), lanes, seed, took.Round(time.Second), table)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	file := filepath.Join(folder, today+".md")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return err
	}
	fmt.Println("written to", file)
	return nil
}
