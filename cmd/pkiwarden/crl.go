package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/config"
	"github.com/pkiwarden/pkiwarden/crl"
)

func newCRLCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "crl",
		Short: "Look into a CRL, at what changed, and at how large one may become",
		Example: `  pkiwarden crl inspect crl.pem
  pkiwarden crl diff before.crl after.crl
  pkiwarden crl limit --backend raft`,
	}
	cmd.AddCommand(newCRLInspectCmd(a), newCRLDiffCmd(a), newCRLLimitCmd(a))
	return cmd
}

// inspection is what `crl inspect` was asked for.
type inspection struct {
	source   string
	issuer   string // file of the issuer's certificate, "" without
	limit    int64
	maxBytes int64
	timeout  time.Duration
	each     func(crl.Entry) error // nil where the entries are not wanted
}

func newCRLInspectCmd(a *app) *cobra.Command {
	var i inspection
	cmd := &cobra.Command{
		Use:   "inspect FILE|URL|-",
		Short: "Check that a CRL is whole and valid, and show what is on it",
		Long: `Inspect reads one CRL, in DER or in PEM with any text around it, from a file, an
http or https URL or standard input (-), in memory that does not grow with it.

It is refused unless it is one whole CRL of version 2, DER by the grammar of RFC
5280 section 5. With --issuer its signature is verified as well, and --limit
holds its size against a limit.

What else RFC 5280 asks for is noted, and the exit code stays 0: nextUpdate that
has passed, is missing or is not after thisUpdate, thisUpdate more than 5 minutes
ahead of the clock here, a CRL number below 0 or above 20 octets, an extension
that is there more than once, reason codes without a name.` + codes{
			0: "valid",
			exitCritical: "not a valid CRL, not signed by the issuer given, or larger than the\n" +
				"--limit given",
			exitUnknown: "the source or the issuer's file could not be read, the source is larger\n" +
				"than --max-bytes, or the signature is of a kind that cannot be verified",
			exitInterrupted: interrupted,
		}.help(),
		Example: `  pkiwarden crl inspect /var/lib/crl/pki.crl
  pkiwarden crl inspect --issuer ca.pem -o json https://vault.example:8200/v1/pki/crl
  vault read -field=crl pki/issuer/default/crl | pkiwarden crl inspect --limit 1048445 -`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			i.source = args[0]
			if cmd.Flags().Changed("limit") {
				if err := wantPositive(cmd, "limit", i.limit, wantBytes); err != nil {
					return err
				}
			}
			if err := checkReadFlags(cmd, i.maxBytes, i.timeout); err != nil {
				return err
			}
			return inspectCRL(cmd, a, i)
		},
	}
	cmd.Flags().StringVar(&i.issuer, "issuer", "", "verify the signature with this certificate `CERT.pem`")
	cmd.Flags().Var(sizeFlag{&i.limit}, "limit", "hold the size against a limit of `N` bytes (see crl limit)")
	addReadFlags(cmd, &i.maxBytes, &i.timeout)
	return cmd
}

// addReadFlags adds the flags that bound what is read.
func addReadFlags(cmd *cobra.Command, maxBytes *int64, timeout *time.Duration) {
	*maxBytes = crl.DefaultMaxBytes
	cmd.Flags().Var(sizeFlag{maxBytes}, "max-bytes", "do not read a CRL of more than `N` bytes (or 512KiB, 64MiB, …)")
	cmd.Flags().DurationVar(timeout, "timeout", time.Minute, "give up on a URL after this `TIME`")
}

func checkReadFlags(cmd *cobra.Command, maxBytes int64, timeout time.Duration) error {
	if err := wantPositive(cmd, "max-bytes", maxBytes, wantBytes); err != nil {
		return err
	}
	return wantPositive(cmd, "timeout", timeout, wantTime)
}

// inspectCRL reads the list, prints it, and returns what is wrong with its
// signature.
func inspectCRL(cmd *cobra.Command, a *app, i inspection) error {
	issuer, err := readCertificate(cmd, i.issuer)
	if err != nil {
		return err
	}
	summary, v, err := scanVerified(cmd, a, i, issuer)
	if err != nil {
		return err
	}
	if a.output == outputJSON {
		err = writeJSON(a.stdout, inspectJSON(i, summary, v, a.now()))
	} else {
		err = writeInspection(a.stdout, i, summary, v, a.now())
	}
	switch {
	case err != nil:
		return err
	case v.err != nil:
		return v.exit(i.source)
	case i.limit > 0 && summary.Bytes > i.limit:
		return &exitError{code: exitCritical, err: fmt.Errorf("%s: %s bytes do not fit into %s", sourceName(i.source), grouped(summary.Bytes), grouped(i.limit))}
	}
	return nil
}

func newCRLLimitCmd(a *app) *cobra.Command {
	var s crl.Storage
	var maxEntries int64
	cmd := &cobra.Command{
		Use:   "limit",
		Short: "Tell how large a CRL Vault's storage accepts",
		Long: `Limit tells the size in DER of the largest CRL that Vault can still store: exactly
for consul, raft, dynamodb and azure. Other backends have no limit, or one that
is set where Vault does not know it; the rule then says which.

Without --backend it reads the running Vault, and Consul where Vault's data is
there, as the configuration says.` + codes{
			0:           "told, also that there is no limit, or that one is not known for this\nbackend",
			exitUnknown: "the running system did not tell, or no Vault has such a backend",
			exitUsage:   "wrong usage or configuration", exitInterrupted: interrupted,
		}.help(),
		Example: `  pkiwarden crl limit
  pkiwarden crl limit --backend consul --kv-max-value-size 1048576 --txn-max-req-len 2097152
  pkiwarden crl limit --backend consul --vault-version 1.13.0
  pkiwarden crl limit --backend raft --max-entry-size 4194304 -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkLimitFlags(cmd, s); err != nil {
				return usageError(cmd, err)
			}
			return printLimit(cmd.Context(), a, s, maxEntries)
		},
	}
	cmd.Flags().StringVar(&s.Backend, "backend", "", "Vault's storage `BACKEND`: consul, raft, dynamodb, azure, etcd, file, …")
	cmd.Flags().Var(sizeFlag{&s.Consul.KVMaxValueSize}, "kv-max-value-size", "consul: limits.kv_max_value_size of the agent, `N` bytes (default 524288)")
	cmd.Flags().Var(sizeFlag{&s.Consul.TxnMaxReqLen}, "txn-max-req-len", "consul: limits.txn_max_req_len of the agent, `N` bytes (default 524288)")
	cmd.Flags().StringVar(&s.Consul.Path, "path", "", "consul: `PATH` of Vault's data (default vault/)")
	cmd.Flags().Var(sizeFlag{&s.Raft.MaxEntrySize}, "max-entry-size", "raft: max_entry_size, `N` bytes (default 1048576)")
	cmd.Flags().StringVar(&s.VaultVersion, "vault-version", "", "`VERSION` of Vault, for consul (default: a current one)")
	cmd.Flags().Int64Var(&maxEntries, "max-crl-entries", 0, "the mount's max_crl_entries, `N` entries (Vault 1.19 and later; config/crl)")
	return cmd
}

// limitFlags are the flags that mean something for one backend alone.
var limitFlags = map[string]string{
	"kv-max-value-size": "consul", "txn-max-req-len": "consul", "path": "consul", "vault-version": "", "max-entry-size": "raft",
	"max-crl-entries": "",
}

func checkLimitFlags(cmd *cobra.Command, s crl.Storage) error {
	for name, backend := range limitFlags {
		flag := cmd.Flags().Lookup(name)
		switch {
		case !flag.Changed:
		case s.Backend == "":
			return fmt.Errorf("--%s needs --backend: without one the running Vault is asked", name)
		case backend != "" && s.Backend != backend:
			return fmt.Errorf("--%s is for --backend %s, not %s", name, backend, s.Backend)
		case flag.Value.String() == "0":
			return fmt.Errorf("--%s is 0: want a number of bytes", name)
		}
	}
	return s.Validate()
}

func printLimit(ctx context.Context, a *app, s crl.Storage, maxEntries int64) error {
	var limit crl.Limit
	if s.Backend != "" {
		limit = s.Limit().WithMaxEntries(maxEntries)
	} else {
		var err error
		if limit, err = runningLimit(ctx, a); err != nil {
			return err
		}
	}
	var err error
	if a.output == outputJSON {
		err = writeJSON(a.stdout, limitJSON(limit))
	} else {
		_, err = fmt.Fprint(a.stdout, limitText(limit))
	}
	if err != nil || limit.Known || s.Backend != "" && slices.Contains(config.StorageTypes, s.Backend) {
		return err
	}
	unknown := &exitError{code: exitUnknown, err: fmt.Errorf("the limit is not known: %s", limit.Rule)}
	if meant := config.Closest(s.Backend, config.StorageTypes); meant != "" {
		unknown.hints = []string{fmt.Sprintf("did you mean --backend %s?", meant)}
	}
	return unknown
}

// limitReport is what `crl limit -o json` prints.
type limitReport struct {
	Backend  string `json:"backend"`
	MaxBytes *int64 `json:"maxBytes"`
	Entries  *int64 `json:"entries"`
	Rule     string `json:"rule"`
}

func limitJSON(l crl.Limit) limitReport {
	report := limitReport{Backend: l.Backend, Rule: l.Rule}
	if l.MaxBytes > 0 {
		entries := l.Entries()
		report.MaxBytes, report.Entries = &l.MaxBytes, &entries
	}
	return report
}

func limitText(l crl.Limit) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Backend  %s\n", printable(l.Backend))
	switch {
	case l.MaxBytes > 0:
		fmt.Fprintf(&b, "Limit    %s bytes of DER, about %s entries\n", grouped(l.MaxBytes), grouped(l.Entries()))
	case l.Known:
		fmt.Fprintf(&b, "Limit    none\n")
	default:
		fmt.Fprintf(&b, "Limit    unknown\n")
	}
	fmt.Fprintf(&b, "Rule     %s\n", printable(l.Rule))
	return b.String()
}
