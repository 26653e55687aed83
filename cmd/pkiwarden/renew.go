package main

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/config"
	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/kube"
	"github.com/pkiwarden/pkiwarden/k8scsr"
	"github.com/pkiwarden/pkiwarden/k8scsr/issuer"
)

// defaultRenewWithin is how long others have to approve and to sign: as long as
// a request may wait before that is a finding.
const defaultRenewWithin = k8scsr.DefaultPatience

func newRenewCmd(a *app) *cobra.Command {
	var r issuer.RenewRequest
	within := defaultRenewWithin
	cmd := &cobra.Command{
		Use:   "renew [NAME]",
		Short: "Renew declared certificates now where that is due, or by force",
		Long: `Renew looks at the certificate NAME of the configuration, or at all of them, and
brings each as far as a running instance does: a key, a request, its approval
where approve is set, the answer checked, the Secret written. What is good and
not due is left as it is, and the reason is said.

--force renews also what is not due: outside of the renewal windows, without the
pause after an attempt that failed, and even if the new certificate ends sooner.
Never a certificate that is paused, and never beyond six failures an hour or the
budget of the signer.

It may run beside a controller: what one began, the other goes on with. Run it
under the same service account, for instance in its pod: a request counts only
where its requester decides about it, so a controller denies those of others.

Where somebody else approves, the request is waited for. Interrupted, or when
--timeout is over, the request stays, and the controller or the next call goes on
with it. A Kubernetes API that is away is asked four times, over some ten
seconds. Servers get the new pair from the pkiwarden beside them.` + codes{
			0:            "each certificate is renewed, or needs no renewal now",
			exitCritical: "a renewal failed, was refused, is held back though it is due, or\nwaits still; a right is missing; a Secret is in the way",
			exitUnknown:  "it could not be determined: the Kubernetes API is away or failing",
			exitUsage:    "wrong usage or configuration", exitInterrupted: interrupted,
		}.help(),
		Example: `  pkiwarden renew --dry-run
  pkiwarden renew vault-server --force --dry-run
  pkiwarden renew vault-server --force
  kubectl -n vault exec vault-0 -c pkiwarden -- /pkiwarden renew --force`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := wantPositive(cmd, "timeout", within, wantTime); err != nil {
				return err
			}
			r.Names = args
			return renew(cmd.Context(), a, r, within)
		},
	}
	cmd.Flags().BoolVar(&r.Force, "force", false, "renew also what is not due")
	cmd.Flags().BoolVar(&r.DryRun, "dry-run", false, "say what would be done, and what would change, value by value; change nothing")
	cmd.Flags().DurationVar(&within, "timeout", within, "how long to wait for an approval or a signature of somebody else")
	return cmd
}

func renew(ctx context.Context, a *app, r issuer.RenewRequest, within time.Duration) error {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	if err := declares(cfg, r.Names); err != nil {
		return err
	}
	log := newLogger(a.stderr, config.Log{Level: "warn", Format: cmp.Or(cfg.Log.Format, "text")})
	kube.BridgeLog(log)
	cluster, err := newCluster(a, log, cfg)
	if err != nil {
		return &exitError{code: exitUsage, err: err}
	}
	if cluster.kube == nil {
		return errNoCluster
	}
	certs, err := issuer.New(issuer.Options{
		Client: cluster.kube.Client, Certificates: issued(cfg.Certificates), Namespace: cluster.kube.Namespace, State: cluster.state, Log: log,
	})
	if err != nil {
		return &exitError{code: exitUsage, err: err}
	}
	r.Watch = func(name string, step k8scsr.Step) {
		fmt.Fprintf(a.stderr, "%s: waiting, at most %s: %s\n", name, within, printable(oneLine(step.Reason)))
	}
	done, err := renewWithin(ctx, certs, r, within)
	if writeErr := writeRenewals(a.stdout, a.output, done, r.DryRun); writeErr != nil {
		return writeErr
	}
	if err != nil && ctx.Err() != nil {
		return &exitError{code: exitInterrupted, err: errors.New("interrupted"), hints: whatStays(done)}
	}
	return renewVerdict(done, r, within)
}

// renewWithin renews, and tells of it on the objects.
func renewWithin(ctx context.Context, certs *issuer.Issuer, r issuer.RenewRequest, within time.Duration) ([]issuer.Renewal, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	telling, told := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = certs.Events(telling) // returns nil
	}()
	defer func() { told(); <-ended }()
	return certs.Renew(ctx, r)
}

// errNoCluster is what a command says that needs one.
var errNoCluster = &exitError{
	code:  exitUsage,
	err:   errors.New("no Kubernetes cluster is configured"),
	hints: []string{"set kubernetes.kubeconfig, or KUBECONFIG; in a pod nothing is needed"},
}

// declares checks that there is what is asked for.
func declares(cfg *config.Config, names []string) error {
	var declared []string
	for _, c := range cfg.Certificates.All() {
		declared = append(declared, c.Name)
	}
	if len(declared) == 0 {
		return &exitError{code: exitUsage, err: errors.New("no certificate is declared"), hints: []string{"declare it under certificates in the configuration; \"pkiwarden validate\" says what is in force"}}
	}
	for _, name := range names {
		if !slices.Contains(declared, name) {
			return &exitError{code: exitUsage, err: fmt.Errorf("certificate %q is not declared", name), hints: []string{"declared are " + strings.Join(declared, ", ")}}
		}
	}
	return nil
}

// renewVerdict is what is wrong after all, each certificate with its remedy.
func renewVerdict(done []issuer.Renewal, r issuer.RenewRequest, within time.Duration) error {
	exit := &exitError{code: exitUnknown}
	var problems []error
	for _, d := range done {
		waits := d.Step.Waits() && d.Step.Kind != k8scsr.Nothing
		switch {
		case d.Err != nil:
			problems = append(problems, fmt.Errorf("certificate %s: %w", d.Certificate, d.Err))
			if !issuer.Undetermined(d.Err) {
				exit.code = exitCritical
			}
			if errors.As(d.Err, new(*issuer.ForeignAttempt)) {
				exit.hints = append(exit.hints, "run this under the account of the controller: kubectl exec … -c pkiwarden -- /pkiwarden renew "+d.Certificate)
			}
		case d.Obstructed || !r.DryRun && (waits || d.Needed != "") || d.Needed != "" && d.Step.Kind == k8scsr.Nothing:
			exit.code = exitCritical
			why := d.Step.Reason
			if d.Step.Kind != k8scsr.Nothing {
				why = fmt.Sprintf("not within %s: %s", within, why)
			}
			problems = append(problems, fmt.Errorf("certificate %s is not renewed: %s", d.Certificate, why))
			exit.hints = append(exit.hints, remedies(d)...)
		}
	}
	if len(problems) == 0 {
		return nil
	}
	exit.hints = append(exit.hints, whatStays(done)...)
	exit.err = errors.Join(problems...)
	return exit
}

// remedies are those of what is wrong with one certificate, each once.
func remedies(d issuer.Renewal) []string {
	var out []string
	if d.Paused {
		out = append(out, d.Certificate+": set paused: false in the configuration")
	}
	for _, f := range d.Findings {
		if line := d.Certificate + ": " + f.Remedy; f.Remedy != "" && !slices.Contains(out, line) {
			out = append(out, line)
		}
	}
	return out
}

// whatStays says of each request that is still open what becomes of it.
func whatStays(done []issuer.Renewal) []string {
	var out []string
	for _, d := range done {
		if d.Step.Kind == k8scsr.AwaitApproval || d.Step.Kind == k8scsr.AwaitIssue {
			out = append(out, fmt.Sprintf("the request of certificate %s stays; a running controller goes on with it, or %q", d.Certificate, "pkiwarden renew "+d.Certificate))
		}
	}
	return out
}

// renewalReport is one certificate in `pkiwarden renew -o json`.
type renewalReport struct {
	Certificate string `json:"certificate"`
	Secret      string `json:"secret"`   // namespace/name
	Renewed     bool   `json:"renewed"`  // another certificate is live than before
	Needed      string `json:"needed"`   // why a new one is still to be asked for now, "" where none is
	Reason      string `json:"reason"`   // what it waits for, or why nothing is done
	Observed    bool   `json:"observed"` // false: what there is could not be read; error says why
	Before      *pair  `json:"before"`   // null: there was none
	After       *pair  `json:"after"`    // null: there is none

	Changes []k8scsr.Difference `json:"changes,omitempty"` // with --dry-run: of the one that is live and the one wanted
	Error   string              `json:"error,omitempty"`
}

// pair is one certificate as it is told from others.
type pair struct {
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
	SHA256    string    `json:"sha256"` // of its DER, in hexadecimal
}

func pairOf(leaf *x509.Certificate) *pair {
	if leaf == nil {
		return nil
	}
	return &pair{leaf.NotBefore.UTC(), leaf.NotAfter.UTC(), k8scsr.LeafID(leaf)}
}

func writeRenewals(w io.Writer, format outputFormat, done []issuer.Renewal, dry bool) error {
	reports := []renewalReport{}
	for _, d := range done {
		r := renewalReport{
			Certificate: d.Certificate, Secret: d.Namespace + "/" + d.Secret, Renewed: d.Renewed(), Needed: d.Needed, Reason: d.Step.Reason, Observed: d.Observed,
			Before: pairOf(d.Before), After: pairOf(d.After),
		}
		if dry {
			r.Changes = d.Differences
		}
		if d.Err != nil {
			r.Error = d.Err.Error()
		}
		reports = append(reports, r)
	}
	switch {
	case format == outputJSON:
		return writeJSON(w, reports)
	case dry:
		return writeChanges(w, reports)
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "CERTIFICATE\tSECRET\tRENEWED\tVALID UNTIL\tREASON")
	for _, r := range reports {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", r.Certificate, r.Secret, yesNo(r.Renewed), r.until(), printable(oneLine(cmp.Or(r.Error, r.Reason))))
	}
	return table.Flush()
}

// until is the end of the live pair, "-" without one.
func (r renewalReport) until() string {
	switch {
	case !r.Observed:
		return "unknown"
	case r.After == nil:
		return "-"
	}
	return r.After.NotAfter.Format(time.RFC3339)
}

func yesNo(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}

// changeMarks are those of diff.
var changeMarks = map[string]string{k8scsr.Kept: "=", k8scsr.Added: "+", k8scsr.Removed: "-"}

func writeChanges(w io.Writer, reports []renewalReport) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range reports {
		verdict := "would not be renewed now: " + r.Reason
		if r.Error != "" {
			verdict = "unknown: " + r.Error
		}
		if r.Needed != "" && r.Error == "" {
			verdict = "would be renewed: " + r.Needed
			if r.Needed != r.Reason {
				verdict = fmt.Sprintf("is to be renewed (%s), and next is: %s", r.Needed, r.Reason)
			}
		}
		if r.Before != nil {
			verdict = "valid until " + r.until() + ", " + verdict
		}
		fmt.Fprintf(table, "%s (Secret %s): %s\n", r.Certificate, r.Secret, printable(oneLine(verdict)))
		for _, c := range r.Changes {
			value := c.Value
			if c.Note != "" {
				value += ": " + c.Note
			}
			fmt.Fprintf(table, "  %s %s\t%s\n", changeMarks[c.Change], c.What, printable(value))
		}
	}
	return table.Flush()
}
