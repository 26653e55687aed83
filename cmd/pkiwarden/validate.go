package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/config"
)

// validation is what `pkiwarden validate -o json` prints.
type validation struct {
	OK       bool             `json:"ok"`
	File     string           `json:"file,omitempty"` // absent with zero configuration
	Would    []intention      `json:"would,omitempty"`
	Problems []config.Problem `json:"problems,omitempty"`
}

// intention is one thing that the configuration makes pkiwarden do.
type intention struct {
	Part string `json:"part"` // vault, leadership, state, certificate, names, signer, deliver, crl, fleet, tidy or metrics
	Does string `json:"does"`
}

func newValidateCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "validate",
		Short: "Check the configuration and say what it would do",
		Long: `Validate reads the configuration as every other command does, and changes
nothing. It prints every problem with its line and column; a good configuration
is summed up as it is in force for its role, and the last line is ok.` + codes{0: "good", exitUsage: "wrong usage or configuration: every problem is listed"}.help(),
		Example: `  pkiwarden validate
  pkiwarden validate --config pkiwarden.yaml
  pkiwarden validate --config pkiwarden.yaml -o json | jq .problems`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return validate(a) },
	}
}

func validate(a *app) error {
	c, err := a.config()
	if err == nil && stateless(c) && tidies(c) {
		c, err = nil, errStateless
	}
	if a.output == outputJSON {
		return validateJSON(a, c, err)
	}
	if err != nil {
		return err
	}
	file := c.File
	if file == "" {
		file = "none: zero configuration"
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "file\t%s\n", file)
	for _, i := range intentions(c) {
		fmt.Fprintf(w, "%s\t%s\n", i.Part, i.Does)
	}
	fmt.Fprintln(w, "ok")
	return w.Flush()
}

func validateJSON(a *app, c *config.Config, err error) error {
	out := validation{OK: err == nil}
	var problems config.Problems
	switch {
	case errors.As(err, &problems):
		out.Problems = problems
		err = &exitError{code: exitUsage}
	case errors.Is(err, errStateless):
		out.Problems = config.Problems{{File: cmp.Or(a.configFile, a.env(config.EnvFile), config.DefaultFile), Path: "tidy.enabled", Message: err.Error()}}
		err = &exitError{code: exitUsage}
	case err != nil:
		return err
	default:
		out.File, out.Would = c.File, intentions(c)
	}
	return errors.Join(writeJSON(a.stdout, out), err)
}

// maxIntentions bounds what is said about certificates one by one.
const maxIntentions = 50

func intentions(c *config.Config) []intention {
	if c.LeaderElection.Role == config.RoleLocal {
		return localIntentions(c)
	}
	out := []intention{{"vault", vaultDoes(c.Vault)}, {"leadership", leadershipDoes(c.LeaderElection)}, {"state", stateDoes(c)}}
	for i, certificate := range c.Certificates.All() {
		if i == maxIntentions {
			out = append(out, intention{"certificate", fmt.Sprintf("and %d more", len(c.Certificates)-i)})
			break
		}
		out = append(out, intention{"certificate", certificateDoes(certificate)})
		if certificate.Profile != nil || len(certificate.NamesFrom) > 0 {
			out = append(out, intention{"names", namesDo(certificate)})
		}
	}
	for _, s := range c.Signers {
		out = append(out, intention{"signer", signerDoes(s)})
	}
	for _, d := range c.Deliver {
		out = append(out, intention{"deliver", deliverDoes(d)})
	}
	limit := "the storage's limit read from Vault"
	if !c.CRL.Limit.IsAuto() {
		limit = "the storage's limit as configured"
	}
	return append(out,
		intention{"crl", fmt.Sprintf("measures %s every %s against %s", strings.Join(c.CRL.Mounts, " "), config.Span(c.CRL.Interval), limit)},
		intention{"fleet", fleetDoes(c.CRL.FleetSize)},
		intention{"tidy", tidyDoes(c.Tidy)},
		intention{"metrics", "on " + c.Listen.Address},
	)
}

// localIntentions are those of an instance that never leads: what is declared
// for the leader, it reads to know the certificates that it delivers.
func localIntentions(c *config.Config) []intention {
	out := []intention{{"leadership", leadershipDoes(c.LeaderElection)}}
	for _, d := range c.Deliver {
		out = append(out, intention{"deliver", deliverDoes(d)})
	}
	if len(c.Deliver) == 0 {
		out = append(out, intention{"deliver", "nothing, so that there is nothing to do: deliver is empty"})
	}
	return append(out, intention{"metrics", "on " + c.Listen.Address})
}

// tidyDoes says when tidy runs; its windows hold for the command as well.
func tidyDoes(t config.Tidy) string {
	does := "says what it would run, and runs nothing"
	if t.Enabled {
		does = fmt.Sprintf("runs on %s with a safety buffer of %s", strings.Join(t.Mounts, " "), config.Span(t.SafetyBuffer))
	}
	if len(t.Windows) > 0 {
		var windows []string
		for _, w := range t.Windows {
			windows = append(windows, w.String())
		}
		does += "; only in the windows " + strings.Join(windows, "; ")
		if t.IgnoreWindowsWhenCritical {
			does += "; unless a list is critical"
		}
	}
	if t.OwnAutoTidy {
		does += "; switches the mounts' own auto-tidy off"
	}
	return does
}

func vaultDoes(v config.Vault) string {
	if v.Address == "" {
		return "none: no vault.address and no VAULT_ADDR"
	}
	switch v.Auth.Method {
	case config.AuthKubernetes:
		return fmt.Sprintf("%s, Kubernetes login at %s as %s", v.Address, v.Auth.Mount, v.Auth.Role)
	case config.AuthTokenFile:
		return fmt.Sprintf("%s, token from %s", v.Address, v.Auth.TokenFile)
	}
	return v.Address + ", token from VAULT_TOKEN"
}

func leadershipDoes(l config.LeaderElection) string {
	if l.Role == config.RoleLocal {
		return "never leads (role local): this pod's delivery only; renewing certificates, watching CRLs and tidy are left to the leader"
	}
	if l.Backend == config.BackendNone {
		return "always leads: the only instance"
	}
	return fmt.Sprintf("candidate for the Lease %s in %s", l.Name, cmp.Or(l.Namespace, podNamespace))
}

// podNamespace is where a namespace that is not configured is.
const podNamespace = "the pod's namespace"

// stateDoes says where history, budgets and records are kept.
func stateDoes(c *config.Config) string {
	switch {
	case c.State.Backend == config.BackendFile:
		return "files in " + c.State.Path
	case c.State.Backend == config.BackendConsul:
		return "Consul's keys below " + c.State.Path
	case stateless(c):
		return "none: there is no cluster for ConfigMaps, so that history ends with the process, and tidy cannot run"
	}
	return "ConfigMaps in " + cmp.Or(c.LeaderElection.Namespace, podNamespace)
}

// stateless tells whether no place for state is configured. A cluster that is
// named and not here is taken to be where the configuration is meant for.
func stateless(c *config.Config) bool {
	return !c.State.BackendExplicit && !c.Kubernetes.Present && c.LeaderElection.Backend != config.BackendKubernetes
}

// tidies tells whether a running instance starts runs of tidy.
func tidies(c *config.Config) bool {
	return c.Tidy.Enabled && c.LeaderElection.Role != config.RoleLocal
}

// fleetDoes says what rollout headroom is counted in.
func fleetDoes(size int64) string {
	if size == 0 {
		return "live certificates are counted where that is cheap and trustworthy, else unknown"
	}
	return fmt.Sprintf("%d live certificates, as configured", size)
}

func certificateDoes(c config.Certificate) string {
	if c.Paused {
		return c.Name + ": paused"
	}
	approval := "awaits approval by others"
	if c.Approve {
		approval = "approves its own request"
	}
	does := fmt.Sprintf("%s: Secret %s/%s, signed by %s, %s, renewed at %v of the lifetime granted",
		c.Name, c.Secret.Namespace, c.Secret.Name, c.Signer, approval, c.RenewAt)
	if len(c.Windows) > 0 {
		var windows []string
		for _, w := range c.Windows {
			windows = append(windows, w.String())
		}
		does += fmt.Sprintf(", in the windows %s until it is critical at %v", strings.Join(windows, "; "), c.CriticalAt)
	}
	return does
}

// namesDo lists the names of a certificate that the file does not say outright.
func namesDo(c config.Certificate) string {
	wanted, _ := spec(c)
	wanted = wanted.WithDefaults()
	names := slices.Clone(wanted.DNSNames)
	for _, ip := range wanted.IPAddresses {
		names = append(names, ip.String())
	}
	names = append(names, wanted.URIs...)
	var parts []string
	if len(names) > 0 {
		parts = append(parts, fmt.Sprintf("%d: %s", len(names), strings.Join(names, ", ")))
	}
	var objects []string
	for _, o := range c.NamesFrom {
		objects = append(objects, fmt.Sprintf("%s %s/%s", o.Kind, o.Namespace, o.Name))
	}
	if len(objects) > 0 {
		parts = append(parts, "those that the cluster has for "+strings.Join(objects, ", "))
	}
	return c.Name + ": " + strings.Join(parts, "; and ")
}

func deliverDoes(d config.Deliver) string {
	steps := []string{"to " + d.Files.Directory}
	if d.From.Mounted != "" {
		steps = []string{"mounted at " + d.From.Mounted}
	}
	switch {
	case d.Reload.Signal != "":
		steps = append(steps, fmt.Sprintf("SIG%s to %s", d.Reload.Signal, d.Reload.Process))
	case d.Reload.Consul:
		steps = append(steps, "reload of the Consul agent")
	}
	for _, l := range d.Verify {
		steps = append(steps, "proof at "+l.Address)
	}
	return d.Certificate + ": " + strings.Join(steps, ", then ")
}
