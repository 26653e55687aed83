package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/pkiwarden/pkiwarden/pki"
	"github.com/pkiwarden/pkiwarden/pki/tidier"
)

// rescueHelp is what --help says of --rescue.
const rescueHelp = `With --rescue it plans the way out for a mount whose CRL no longer fits into
Vault's storage: what Vault keeps of revocations is listed, the ends of their
certificates are read (up to 2,000 of those that a list has, and 2,000 of those
that it lacks: exact up to there, else with 95 % confidence), and each step is
given with the size after it. Nothing is changed, and crl/rotate is not called.
Exit code 0: nothing is over the limit; 2: something is, or a list lacks what it
should have; 3: not known, as where the limit is not and the lists are behind.

--apply carries out the steps that are pkiwarden's: 1 tidy (with the configured
safety buffer, beside no other run, whatever thresholds, windows and minInterval
say), 6 crl/rotate, and 7 the proof: every certificate that is revoked and has
not expired, of those on the old list and of those that Vault keeps, is on the
new one. It reads each certificate once for that, some 500 a second, and takes
on 500,000 revocations at most. It stops before what is yours (a shorter buffer,
a higher limit, another issuer, no lists) and says why and what remains: exit
code 2; 0 where all is proved. A missing right is named before anything is done. Where the
limit is not known, the storage's answer to crl/rotate is what the rest is
planned from. Interrupted, it says where it was, and goes on when called again.
A mount that Vault rebuilds by time (auto_rebuild) and that fits is brought up
to date where --mount names it, and else left alone.

With -o json, --rescue prints a list of
  {"mount","status":"fits|stale|over|disabled|unknown","verdict","enough":true|false|null,
   "limit":{"backend","known","maxBytes","maxEntries","rule"},
   "lists":[{"issuer","served":{"entries","bytes"},"next":SIZE,"missing","stale","read"}],
   "steps":[{"step":1-7,"what","why","by":"pkiwarden|you","needed":"yes|instead|no",
     "capability":{"path","capability","granted":true|false|null}|null,"commands":[],
     "ways":[[{"name","value","least"}]],"after":[SIZE],"done":""}],
   "refused" (absent where it is not),"complete","remains":[steps],
   "stopped" (why --apply ended before it was complete; absent where it did not),
   "proof":null|{"kept","unexpired","found","lost","lostSerials","expired","unstored",
     "lists":[{"issuer","number","thisUpdate","entries","bytes","room":N|null}]}}
where SIZE is {"issuer","entries","bytes","entriesLeast","bytesLeast","fits":true|false|null},
"instead" marks steps of which one is needed, and the settings of a way are to
be made together: "value" leaves room, "least" leaves none.`

// rescueFlags are the flags of tidy that make it a rescue.
type rescueFlags struct{ rescue, apply bool }

func (f *rescueFlags) add(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.rescue, "rescue", false, "plan the way out for a CRL that no longer fits into Vault's storage, and change nothing")
	cmd.Flags().BoolVar(&f.apply, "apply", false, "with --rescue: carry out the steps that are pkiwarden's, and prove the result")
}

// check refuses flags that contradict each other.
func (f *rescueFlags) check(cmd *cobra.Command) error {
	if f.apply && !f.rescue {
		return usageError(cmd, errors.New("--apply goes with --rescue"))
	}
	if !f.rescue {
		return nil
	}
	for _, other := range []string{"force", "wait", "cancel-on-interrupt"} {
		if flag := cmd.Flags().Lookup(other); flag != nil && flag.Changed {
			return usageError(cmd, fmt.Errorf("--rescue and --%s: a rescue has its own order of things", other))
		}
	}
	if dry := cmd.Flags().Lookup("dry-run"); f.apply && dry.Value.String() == "true" {
		return usageError(cmd, errors.New("--apply and --dry-run contradict each other: --rescue alone plans"))
	}
	return nil
}

// rescueMounts plans, or carries out, the rescue of the mounts asked for.
func rescueMounts(ctx context.Context, a *app, r tidier.Request, apply bool) error {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	var reports []tidier.RescueReport
	err = withTidier(ctx, a, cfg, apply, func(ctx context.Context, work *vaultWork, shown *progress) (err error) {
		reports, err = work.tidier.Rescue(ctx, tidier.RescueRequest{
			Vault: work.pki, Lists: work.watch, Mounts: r.Mounts, Apply: apply, Reading: shown.reading,
			Say: func(m pki.Mount, words string) {
				if shown != nil {
					fmt.Fprintf(shown, "%s: %s\n", m.Name(), words)
				}
			},
		})
		return err
	})
	if len(reports) > 0 || err == nil {
		if writeErr := writeRescues(a.stdout, a.output, reports); writeErr != nil {
			return writeErr
		}
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return &exitError{
			code: exitInterrupted, err: fmt.Errorf("interrupted: %s", err),
			hints: []string{"a tidy that was begun goes on in Vault, as long as that is up and unsealed; the same command goes on from what is there"},
		}
	}
	if exit := new(exitError); errors.As(err, &exit) {
		return err
	}
	if err != nil {
		return &exitError{code: tidyExitCode(err), err: err}
	}
	return rescueExit(reports)
}

// rescueExit is exit code 2 where something remains, 3 where that is not known.
func rescueExit(reports []tidier.RescueReport) error {
	var exit error
	for _, r := range reports {
		switch {
		case r.Complete:
		case r.Status == pki.RescueUnknown:
			if exit == nil {
				exit = &exitError{code: exitUnknown}
			}
		default:
			exit = &exitError{code: exitCritical}
		}
	}
	return exit
}

func writeRescues(w io.Writer, format outputFormat, reports []tidier.RescueReport) error {
	if format == outputJSON {
		if reports == nil {
			reports = []tidier.RescueReport{}
		}
		return writeJSON(w, reports)
	}
	if len(reports) == 0 {
		_, err := fmt.Fprintln(w, "no PKI mount is selected")
		return err
	}
	for i, r := range reports {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if err := writeRescue(w, r); err != nil {
			return err
		}
	}
	return nil
}

func writeRescue(w io.Writer, r tidier.RescueReport) error {
	fmt.Fprintf(w, "mount %s: %s\n", r.Mount, r.Verdict)
	if r.Refused != "" {
		fmt.Fprintf(w, "refused: %s\n", r.Refused)
	}
	if r.Stopped != "" {
		fmt.Fprintf(w, "stopped: %s\n", r.Stopped)
	}
	if r.Limit.Rule != "" {
		fmt.Fprintln(w, limitWords(r.Limit))
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ISSUER\tSERVED\tNEXT\tMISSING\tREAD")
	for _, l := range r.Lists {
		fmt.Fprintf(table, "%s\t%d entries, %d bytes\t%s\t%d\t%d\n", l.Issuer, l.Served.Entries, l.Served.Bytes, sizeWords(l.Next), l.Missing, l.Read)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if p := r.Proof; p != nil {
		for _, l := range p.Lists {
			room := "no limit known"
			if l.Room != nil {
				room = fmt.Sprintf("room for %d more", *l.Room)
			}
			fmt.Fprintf(w, "now: issuer %s: %d entries, %d bytes, number %s of %s; %s\n", l.Issuer, l.Entries, l.Bytes, l.Number, l.ThisUpdate.Format("2006-01-02T15:04:05Z07:00"), room)
		}
	}
	if r.Complete && r.Proof == nil {
		return nil // what could be done is of no interest
	}
	tight := make(map[string]bool) // lists whose size is the matter
	for _, l := range r.Lists {
		if l.Next.Fits == nil || !*l.Next.Fits {
			tight[l.Issuer] = true
		}
	}
	for _, s := range r.Steps {
		if r.Complete && s.Done == "" {
			continue
		}
		if err := writeStep(w, s, tight); err != nil {
			return err
		}
	}
	return nil
}

// limitWords is a limit in a line. Where the mount's max_crl_entries is met
// before the storage's limit, that is what it says.
func limitWords(l pki.RescueLimit) string {
	if rest, binds := strings.CutPrefix(l.Rule, fmt.Sprintf("max_crl_entries of the mount binds: at most %d entries", l.MaxEntries)); binds {
		return fmt.Sprintf("limit: %d entries (max_crl_entries)%s", l.MaxEntries, rest)
	}
	limit := ""
	if l.MaxBytes > 0 {
		limit = fmt.Sprintf("%d bytes; ", l.MaxBytes)
	}
	return fmt.Sprintf("limit (%s): %s%s", l.Backend, limit, l.Rule)
}

// writeStep prints a step, and its effect on the lists that are tight.
func writeStep(w io.Writer, s pki.RescueStep, tight map[string]bool) error {
	mark := map[pki.RescueNeed]string{pki.Needed: "needed", pki.Instead: "would do", pki.Useless: "no"}[s.Need]
	if s.Done != "" {
		mark = "done"
	}
	fmt.Fprintf(w, "%d %-8s %-9s %s\n", s.Step, mark, s.By, s.What)
	indent := strings.Repeat(" ", 21)
	if s.Done != "" {
		_, err := fmt.Fprintf(w, "%s%s\n", indent, s.Done)
		return err
	}
	fmt.Fprintf(w, "%s%s\n", indent, s.Why)
	if s.Need == pki.Useless {
		return nil
	}
	for _, size := range s.After {
		if !tight[size.Issuer] || s.Step >= pki.StepRotate {
			continue
		}
		fmt.Fprintf(w, "%safter it: issuer %s: %s\n", indent, size.Issuer, sizeWords(size))
	}
	if c := s.Capability; c != nil {
		granted := ""
		if c.Granted != nil {
			granted = map[bool]string{true: ", granted", false: ", NOT granted"}[*c.Granted]
		}
		fmt.Fprintf(w, "%scapability %q on path %q%s\n", indent, c.Capability, c.Path, granted)
	}
	for _, command := range s.Commands {
		fmt.Fprintf(w, "%s$ %s\n", indent, command)
	}
	return nil
}

// sizeWords is a size in a line.
func sizeWords(s pki.RescueSize) string {
	fits := "not known whether it fits"
	if s.Fits != nil {
		fits = map[bool]string{true: "fits", false: "does not fit"}[*s.Fits]
	}
	if s.EntriesLeast != s.Entries {
		return fmt.Sprintf("%d to %d entries, %d to %d bytes, %s", s.EntriesLeast, s.Entries, s.BytesLeast, s.Bytes, fits)
	}
	return fmt.Sprintf("%d entries, %d bytes, %s", s.Entries, s.Bytes, fits)
}
