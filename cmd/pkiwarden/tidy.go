package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/config"
	"github.com/pkiwarden/pkiwarden/pki"
	"github.com/pkiwarden/pkiwarden/pki/tidier"
)

func newTidyCmd(a *app) *cobra.Command {
	var r tidier.Request
	var rescue rescueFlags
	cmd := &cobra.Command{
		Use:   "tidy",
		Short: "Tidy Vault's PKI mounts where that is due, and prove what it achieved",
		Long: `Tidy looks at each PKI mount once and decides, as a running instance does,
whether a tidy is due. Where it is, it starts Vault's tidy, follows it, rotates
the CRL where Vault does not rebuild it by itself, and measures the CRL. Several
mounts have their turns one after the other, the neediest first.

A run of another instance is followed or left alone, never doubled: both keep
the same record (state in the configuration; with another one, only Vault's own
"already in progress" keeps them apart). Starting this command is the switch,
tidy.enabled is not asked; --dry-run changes nothing. A newly elected Vault is
left to settle for two minutes, or minInterval if that is less. A rotation that a
run owes and that failed is an error, and comes first in the next call.

A Vault that is away or sealed while a run is followed is waited for, five
minutes at most: after ten seconds, and then twice a minute, stderr says so.

Interrupted, the command ends and the run goes on in Vault; the next call
follows it to the proof. With --cancel-on-interrupt a run that this call
started is stopped, and what it deleted is proved by the next call.

` + rescueHelp + codes{
			0:            "each mount is done, not due, or held back for the reason given",
			exitCritical: "a run failed, was not proved, got lost or was refused, a right is\nmissing, or a mount is not there; a rescue is needed, or not complete",
			exitUnknown:  "it could not be determined: Vault sealed, away or failing (429 and\n5xx are asked again a few times first), an answer that is not\nVault's, or no mount is selected",
			exitUsage:    "wrong usage or configuration", exitInterrupted: interrupted,
		}.help(),
		Example: `  pkiwarden tidy --dry-run
  pkiwarden tidy --mount pki --force
  pkiwarden tidy --config /etc/pkiwarden/config.yaml -o json
  pkiwarden tidy --rescue --mount pki
  pkiwarden tidy --rescue --apply --mount pki`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := rescue.check(cmd); err != nil {
				return err
			}
			if rescue.rescue {
				return rescueMounts(cmd.Context(), a, r, rescue.apply)
			}
			return tidyOnce(cmd.Context(), a, r)
		},
	}
	rescue.add(cmd)
	cmd.Flags().StringArrayVar(&r.Mounts, "mount", nil, "only this `MOUNT`, or those that a pattern such as 'pki*' or '!old' (all but) selects; may be given again (default: tidy.mounts of the configuration)")
	cmd.Flags().BoolVar(&r.DryRun, "dry-run", false, "say what would be done, and which right would be missing; change nothing")
	cmd.Flags().BoolVar(&r.Force, "force", false, "run whether or not a threshold is reached or a window is open; never within minInterval, beside another run, or below the floor of the safety buffer")
	cmd.Flags().BoolVar(&r.Wait, "wait", true, "follow the run to its end and measure the CRL; false leaves result null")
	cmd.Flags().BoolVar(&r.CancelOnInterrupt, "cancel-on-interrupt", false, "on SIGINT or SIGTERM stop the run that this call started; else it goes on in Vault")
	return cmd
}

func tidyOnce(ctx context.Context, a *app, r tidier.Request) error {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	reports, err := oneTidy(ctx, a, cfg, r)
	if len(reports) > 0 || err == nil {
		if writeErr := writeReports(a.stdout, a.output, reports); writeErr != nil {
			return writeErr
		}
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return interruptedTidy(reports)
	}
	if exit := new(exitError); err == nil || errors.As(err, &exit) {
		return err
	}
	return &exitError{code: tidyExitCode(err), err: err}
}

// interruptedTidy says what becomes of the run that the command started.
func interruptedTidy(reports []tidier.Report) error {
	exit := &exitError{code: exitInterrupted, err: errors.New("interrupted")}
	for _, r := range reports {
		next := fmt.Sprintf("\"pkiwarden tidy --mount %s\"", r.Mount)
		switch r.Left {
		case tidier.LeftRunning:
			exit.hints = append(exit.hints,
				fmt.Sprintf("the tidy of mount %s goes on in Vault; %s follows it to the proof", r.Mount, next),
				fmt.Sprintf("\"vault write -force %s/tidy-cancel\" stops it, and so does --cancel-on-interrupt the next time", r.Mount))
		case tidier.LeftUnknown:
			exit.hints = append(exit.hints, fmt.Sprintf("whether the tidy of mount %s goes on is not known, since Vault did not answer; once it does, %s finds out, and follows it where it goes on", r.Mount, next))
		case tidier.LeftCancelled:
			exit.hints = append(exit.hints, fmt.Sprintf("the tidy of mount %s is told to stop, which it does at its next entry; %s rebuilds the CRL where that is owed, and measures", r.Mount, next))
		case tidier.LeftOpen:
			exit.hints = append(exit.hints, fmt.Sprintf("the tidy of mount %s is not proved; %s does that", r.Mount, next))
		}
	}
	return exit
}

// tidyExitCode tells what could not be determined from what failed or was
// refused.
func tidyExitCode(err error) int {
	for _, unknown := range []error{errLogin, tidier.ErrNoMount, pki.ErrSealed, pki.ErrNoActiveNode, pki.ErrUnreachable, pki.ErrNotVault} {
		if errors.Is(err, unknown) {
			return exitUnknown
		}
	}
	if errors.As(err, new(*pki.FailingError)) {
		return exitUnknown
	}
	return exitCritical
}

// oneTidy makes the same tidier as a running instance has, and calls it once.
func oneTidy(ctx context.Context, a *app, cfg *config.Config, r tidier.Request) (reports []tidier.Report, err error) {
	err = withTidier(ctx, a, cfg, !r.DryRun, func(ctx context.Context, work *vaultWork, _ *progress) (err error) {
		reports, err = work.tidier.Tidy(ctx, r)
		return err
	})
	return reports, err
}

// withTidier makes the same tidier as a running instance has, and lets act use
// it. What acts needs a place for its record.
func withTidier(ctx context.Context, a *app, cfg *config.Config, acts bool, act func(context.Context, *vaultWork, *progress) error) error {
	shown := newProgress(a)
	defer shown.clear()
	log := newLogger(a.stderr, config.Log{Level: "warn", Format: cfg.Log.Format})
	if shown != nil {
		log = newLogger(shown, config.Log{Level: "warn", Format: cmp.Or(cfg.Log.Format, "text")})
	}
	cluster, err := newCluster(a, log, cfg)
	if err != nil {
		return err
	}
	if acts && cluster.state == nil {
		return errStateless
	}
	if cfg.Vault.Address == "" {
		return errNoVault
	}
	session, err := cluster.newSession(log, nil, true)
	if err != nil {
		return err
	}
	work, err := cluster.vaultWork(session, vaultWorkOptions{log: log, watchTidy: shown.tidy, watchSampling: shown.reading})
	if err != nil {
		return err
	}
	return oneSession(ctx, session, func(ctx context.Context) error { return act(ctx, work, shown) })
}

func writeReports(w io.Writer, format outputFormat, reports []tidier.Report) error {
	if format == outputJSON {
		if reports == nil {
			reports = []tidier.Report{}
		}
		return writeJSON(w, reports)
	}
	if len(reports) == 0 {
		_, err := fmt.Fprintln(w, "no PKI mount is selected")
		return err
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "MOUNT\tRUN\tSTATE\tPREDICTED\tDELETED\tENTRIES\tBYTES\tREASON")
	for _, r := range reports {
		fmt.Fprintln(table, reportRow(r))
	}
	return table.Flush()
}

func reportRow(r tidier.Report) string {
	if r.Result == nil {
		return fmt.Sprintf("%s\t%s\t-\t%d\t-\t-\t-\t%s", r.Mount, yesNo(r.Run), r.Predicted.Reclaimable, r.Reason)
	}
	deleted := "unknown"
	if d := r.Result.Deleted; d != nil {
		deleted = fmt.Sprint(*d)
	}
	return fmt.Sprintf("%s\t%s\t%s\t%d\t%s\t%d -> %d\t%d -> %d\t%s", r.Mount, yesNo(r.Run), r.Result.State, r.Predicted.Reclaimable, deleted,
		r.Result.EntriesBefore, r.Result.EntriesAfter, r.Result.BytesBefore, r.Result.BytesAfter, r.Reason)
}
