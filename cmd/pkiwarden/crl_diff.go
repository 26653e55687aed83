package main

import (
	"bufio"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/pkiwarden/pkiwarden/crl"
)

// comparison is what `crl diff` was asked for.
type comparison struct {
	sources  [2]string // OLD and NEW
	issuer   string    // file of the issuer's certificate, "" without
	serials  bool
	maxBytes int64
	timeout  time.Duration
}

func newCRLDiffCmd(a *app) *cobra.Command {
	var c comparison
	cmd := &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "Tell what was added to a CRL and what was removed",
		Long: `Diff compares two states of one CRL by their serial numbers, exactly: how many of
them are on NEW alone (added), on OLD alone (removed) and on both (kept). A serial
number that is on a list twice counts once.

OLD and NEW are each a file, an http or https URL or standard input (-), which
only one of them can be; DER, or PEM with any text around it. Nothing is printed
unless both are whole and valid and, with --issuer, signed by that issuer. Lists
of other issuers or keys are refused, and a delta CRL against a full one.

Memory does not grow with the lists. Above about 110,000 entries the serial
numbers are kept in a temporary file without a name, in $TMPDIR or else in /tmp,
21 bytes for each of Vault's.` + codes{
			0: "compared, whether they differ or not",
			exitCritical: "not a valid CRL, not signed by the issuer given, or not two states of\n" +
				"one list",
			exitUnknown: "a source or the issuer's file could not be read, a source is larger than\n" +
				"--max-bytes, a signature is of a kind that cannot be verified, or there\nis no room for the temporary file",
			exitInterrupted: interrupted,
		}.help(),
		Example: `  pkiwarden crl diff before.crl after.crl
  pkiwarden crl diff --serials --issuer ca.pem before.crl https://vault.example:8200/v1/pki/crl
  vault read -field=crl pki/issuer/default/crl | pkiwarden crl diff -o json before.pem -`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.sources = [2]string(args)
			if err := checkReadFlags(cmd, c.maxBytes, c.timeout); err != nil {
				return err
			}
			if args[0] == "-" && args[1] == "-" {
				return usageError(cmd, errors.New("OLD and NEW are both -: standard input holds one of them"))
			}
			return diffCRLs(cmd, a, c)
		},
	}
	cmd.Flags().BoolVar(&c.serials, "serials", false, "list the serial numbers added and removed as well")
	cmd.Flags().StringVar(&c.issuer, "issuer", "", "verify both signatures with this certificate `CERT.pem`")
	addReadFlags(cmd, &c.maxBytes, &c.timeout)
	return cmd
}

// diffCRLs reads one list after the other, then compares them: once for the
// numbers, and again for every list of serial numbers that is printed, so that
// none of them is ever held.
func diffCRLs(cmd *cobra.Command, a *app, c comparison) error {
	issuer, err := readCertificate(cmd, c.issuer)
	if err != nil {
		return err
	}
	var scratch scratchFiles
	defer scratch.close()
	var d difference
	for i, source := range c.sources {
		d.serials[i] = crl.NewSerials(scratch.open)
		if d.summaries[i], err = scanForDiff(cmd, a, c, source, issuer, d.serials[i]); err != nil {
			return err
		}
		d.names[i] = sourceName(source)
	}
	if err := crl.Comparable(d.summaries[0], d.summaries[1]); err != nil {
		return &exitError{code: exitCritical, err: err}
	}
	ctx := cmd.Context()
	if d.counts, err = d.each(ctx, nil); err != nil {
		return err
	}
	out := bufio.NewWriterSize(a.stdout, 64<<10)
	if a.output == outputJSON {
		err = d.writeJSON(ctx, out, c.serials)
	} else {
		err = d.writeTable(ctx, out, c)
	}
	if err != nil {
		return err
	}
	return out.Flush()
}

// scanForDiff gathers the serial numbers of a list, and refuses one that is not
// signed by the issuer given.
func scanForDiff(cmd *cobra.Command, a *app, c comparison, source string, issuer *x509.Certificate, serials *crl.Serials) (crl.Summary, error) {
	i := inspection{source: source, maxBytes: c.maxBytes, timeout: c.timeout, each: serials.Add}
	summary, v, err := scanVerified(cmd, a, i, issuer)
	if err == nil && v.err != nil {
		err = v.exit(source)
	}
	return summary, err
}

// difference is two lists that were read whole.
type difference struct {
	names     [2]string
	summaries [2]crl.Summary
	serials   [2]*crl.Serials
	counts    crl.Difference
}

// each compares the lists, showing every serial number, until the command is
// interrupted.
func (d *difference) each(ctx context.Context, show func(serial []byte, fate crl.Fate) error) (crl.Difference, error) {
	n := 0
	counts, err := crl.Diff(d.serials[0], d.serials[1], func(serial []byte, fate crl.Fate) error {
		if n++; n%8192 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if show == nil {
			return nil
		}
		return show(serial, fate)
	})
	if err != nil && ctx.Err() == nil {
		err = &exitError{code: exitUnknown, err: fmt.Errorf("comparing CRLs: %w", err)}
	}
	return counts, err
}

// scratchFiles are temporary files without a name: they are gone with the
// process, whatever happens to it.
type scratchFiles []*os.File

// scratchFile says what helps where its folder has no room.
type scratchFile struct{ *os.File }

func (f scratchFile) Write(b []byte) (int, error) {
	n, err := f.File.Write(b)
	if err != nil {
		err = fmt.Errorf("%w (free space there, or set TMPDIR to a folder with more)", err)
	}
	return n, err
}

func (s *scratchFiles) open() (crl.Scratch, error) {
	f, err := os.CreateTemp("", "pkiwarden-diff-*")
	if err != nil {
		return nil, fmt.Errorf("making a temporary file for serial numbers: %w (set TMPDIR to a folder with room)", err)
	}
	*s = append(*s, f)
	if err := os.Remove(f.Name()); err != nil {
		return nil, fmt.Errorf("unlinking a temporary file: %w", err)
	}
	return scratchFile{f}, nil
}

func (s *scratchFiles) close() {
	for _, f := range *s {
		f.Close()
	}
}
