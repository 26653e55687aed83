package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/pkiwarden/pkiwarden/crl"
)

// diffReport is what `crl diff -o json` prints ahead of the serial numbers.
type diffReport struct {
	Added   int64       `json:"added"`
	Removed int64       `json:"removed"`
	Kept    int64       `json:"kept"`
	Old     stateReport `json:"old"`
	New     stateReport `json:"new"`
	Issuer  string      `json:"issuer"`
	Notes   []string    `json:"notes,omitempty"`
}

// stateReport is one of the lists that were compared.
type stateReport struct {
	Source     string  `json:"source"`
	Number     *string `json:"number"`
	BaseNumber string  `json:"baseNumber,omitempty"`
	ThisUpdate *string `json:"thisUpdate"`
	Entries    int64   `json:"entries"` // with those that are there twice
}

func (d *difference) state(i int) stateReport {
	s := d.summaries[i]
	r := stateReport{Source: d.names[i], Number: decimal(s.Number), ThisUpdate: rfc3339(s.ThisUpdate), Entries: s.Entries}
	if s.BaseNumber != nil {
		r.BaseNumber = s.BaseNumber.String()
	}
	return r
}

// notes is what makes the numbers mean something else, and what of them cannot
// be; none mostly.
func (d *difference) notes() []string {
	var notes []string
	if by := d.summaries[0].ThisUpdate.Sub(d.summaries[1].ThisUpdate); by > 0 {
		notes = append(notes, fmt.Sprintf("NEW is older than OLD, by %s: what is called added here has been removed since, and what is called removed has been added.", roughly(by)))
	}
	if d.counts.SameNumber(d.summaries[0], d.summaries[1]) {
		notes = append(notes, fmt.Sprintf("OLD and NEW are different lists with one CRL number, %v: RFC 5280 section 5.2.3 gives each list a higher one, and who compares numbers takes them for the same.", d.summaries[1].Number))
	}
	return notes
}

// writeJSON prints the report and, with the serial numbers, "addedSerials" and
// "removedSerials", each in the order of Vault's storage.
func (d *difference) writeJSON(ctx context.Context, out *bufio.Writer, serials bool) error {
	report := diffReport{Added: d.counts.Added, Removed: d.counts.Removed, Kept: d.counts.Kept, Old: d.state(0), New: d.state(1), Issuer: d.summaries[1].Issuer, Notes: d.notes()}
	var head bytes.Buffer
	if err := writeJSON(&head, report); err != nil {
		return err
	}
	out.Write(bytes.TrimSuffix(head.Bytes(), []byte("}\n")))
	if serials {
		for _, list := range []struct {
			name string
			fate crl.Fate
		}{{"addedSerials", crl.Added}, {"removedSerials", crl.Removed}} {
			fmt.Fprintf(out, `,"%s":[`, list.name)
			if err := d.writeSerials(ctx, out, list.fate); err != nil {
				return err
			}
			out.WriteByte(']')
		}
	}
	_, err := out.WriteString("}\n")
	return err
}

func (d *difference) writeSerials(ctx context.Context, out *bufio.Writer, of crl.Fate) error {
	var text []byte
	separator := `"`
	_, err := d.each(ctx, func(serial []byte, fate crl.Fate) error {
		if fate != of {
			return nil
		}
		text = append(crl.AppendSerial(append(text[:0], separator...), serial), '"')
		separator = `,"`
		_, err := out.Write(text)
		return err
	})
	return err
}

// writeTable prints both lists side by side for a person, and the serial
// numbers with + and - before them.
func (d *difference) writeTable(ctx context.Context, out *bufio.Writer, c comparison) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	old, new := d.summaries[0], d.summaries[1]
	row := func(name string, values ...string) { fmt.Fprintf(table, "%s\t%s\n", name, strings.Join(values, "\t")) }
	both := func(name string, show func(crl.Summary) string) { row(name, show(old), show(new)) }

	row("", "OLD", "NEW")
	row("Source", printable(d.names[0]), printable(d.names[1]))
	both("Number", func(s crl.Summary) string {
		switch {
		case s.Number == nil:
			return "none"
		case s.Delta():
			return fmt.Sprintf("%v (delta over %v)", s.Number, s.BaseNumber)
		}
		return s.Number.String()
	})
	both("This update", func(s crl.Summary) string { return s.ThisUpdate.UTC().Format("2006-01-02 15:04:05 UTC") })
	row("Entries", entriesCompared(old, d.counts.Removed+d.counts.Kept), entriesCompared(new, d.counts.Added+d.counts.Kept))
	if c.issuer != "" {
		both("Signature", func(s crl.Summary) string { return s.Algorithm() + ", verified" })
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "\nIssuer   %s\n", printable(new.Issuer))
	fmt.Fprintf(out, "Added    %s\nRemoved  %s\nKept     %s\n", grouped(d.counts.Added), grouped(d.counts.Removed), grouped(d.counts.Kept))
	for _, note := range d.notes() {
		fmt.Fprintln(out, note)
	}
	if !c.serials {
		return nil
	}
	out.WriteByte('\n')
	var line []byte
	_, err := d.each(ctx, func(serial []byte, fate crl.Fate) error {
		if fate == crl.Kept {
			return nil
		}
		sign := "+ "
		if fate == crl.Removed {
			sign = "- "
		}
		line = append(crl.AppendSerial(append(line[:0], sign...), serial), '\n')
		_, err := out.Write(line)
		return err
	})
	return err
}

// entriesCompared are a list's entries, and how many serial numbers they are
// where some are there more than once.
func entriesCompared(s crl.Summary, serials int64) string {
	if s.Entries == serials {
		return grouped(s.Entries)
	}
	return fmt.Sprintf("%s (%s serial numbers)", grouped(s.Entries), grouped(serials))
}
