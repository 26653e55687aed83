package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"regexp"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/config"
	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/ops"
	"github.com/pkiwarden/pkiwarden/k8scsr"
)

// writeStatus prints the document for a person. Times are told from the moment
// at which it was made.
func writeStatus(w io.Writer, s ops.Status, now time.Time) error {
	var out bytes.Buffer
	p := statusPrinter{out: &out, s: s}
	p.head(now)
	p.certificates()
	p.trust()
	p.signers()
	p.deliveries()
	p.mounts()
	p.tidies()
	p.findings()
	_, err := w.Write(out.Bytes())
	return err
}

// statusPrinter prints what others said: all of their words go through
// printable.
type statusPrinter struct {
	out *bytes.Buffer
	s   ops.Status
}

func (p statusPrinter) line(format string, words ...any) {
	fmt.Fprintf(p.out, "%s\n", printable(fmt.Sprintf(format, words...)))
}

// when is a time with its distance, or nothing.
func (p statusPrinter) when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return instant(t, p.s.At)
}

// head says who it is, who leads, and what is not as it should be with the
// instance itself.
func (p statusPrinter) head(now time.Time) {
	s := p.s
	p.line("pkiwarden %s  %s, role %s: %s", s.Version, s.Identity, s.Role, strings.ToUpper(s.Status))
	l := s.Leadership
	switch {
	case l.Leading && l.Since.IsZero():
		p.line("Leads")
	case l.Leading:
		p.line("Leads since %s", p.when(l.Since))
	default:
		p.notLeading()
	}
	if outdated(s, now) {
		p.line("OUTDATED: it is of %s: clocks that differ, or a cache", instant(s.At, now))
	}
	switch file := cmp.Or(s.Config.File, "none, defaults alone"); {
	case s.Config.Since.IsZero():
		p.line("Configuration %s", file)
	case s.Config.Accepted:
		p.line("Configuration %s, in force since %s", file, p.when(s.Config.Since))
	default:
		p.line("Configuration %s REFUSED as it is now; the one of %s is in force: pkiwarden validate says why", file, p.when(s.Config.Since))
	}
	for _, doubt := range s.Undetermined {
		p.line("Unknown: %s", doubt)
	}
	if left := s.LeftOut; left != nil {
		p.line("Left out, since there is too much: %s", leftOut(*left))
	}
}

// objectName is what Kubernetes calls a pod or namespace: nothing else gets into
// a line that is there to be typed.
var objectName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]*$`)

// notLeading says whom to ask instead.
func (p statusPrinter) notLeading() {
	l := p.s.Leadership
	const known = "certificates and mounts are known to the leader alone"
	namespace := p.s.Namespace // the Lease may be in another one
	pod := l.Leader
	if at := strings.LastIndex(pod, "_"); at > 0 {
		pod = pod[:at]
	}
	switch {
	case p.s.Role == config.RoleLocal:
		p.line("Does not lead, and never will; %s: ask a candidate", known)
	case pod == "" && !l.LostAt.IsZero():
		p.line("Does not lead: led until %s, and lost the Lease: %s", p.when(l.LostAt), cmp.Or(l.LostWhy, "another instance had taken it"))
		p.line("Who leads is not known; %s", known)
	case pod == "" && l.LastLeader != "":
		p.line("Does not lead, and who does is not known: the last was %s, seen %s; %s", l.LastLeader, p.when(l.LastSeenAt), known)
	case pod == "":
		p.line("Does not lead, and who does is not known; %s", known)
	case !objectName.MatchString(pod) || namespace != "" && !objectName.MatchString(namespace):
		p.line("Does not lead: %s does, seen %s; %s", l.Leader, p.when(l.SeenAt), known)
	case namespace == "":
		p.line("Does not lead: %s does, seen %s; %s: in its namespace", l.Leader, p.when(l.SeenAt), known)
		p.line("  kubectl exec %s -c pkiwarden -- /pkiwarden status", pod)
	default:
		p.line("Does not lead: %s does, seen %s; %s:", l.Leader, p.when(l.SeenAt), known)
		p.line("  kubectl -n %s exec %s -c pkiwarden -- /pkiwarden status", namespace, pod)
	}
}

func leftOut(l ops.LeftOut) string {
	var parts []string
	for _, part := range []struct {
		n    int
		unit string
	}{{l.Certificates, "certificate"}, {l.Signers, "signer"}, {l.Deliveries, "delivery"}, {l.Mounts, "mount"}, {l.Findings, "finding"}, {l.Loops, "loop"}, {l.Undetermined, "doubt"}} {
		switch {
		case part.n == 0:
		case part.unit == "delivery" && part.n > 1:
			parts = append(parts, grouped(int64(part.n))+" deliveries")
		default:
			parts = append(parts, counted(int64(part.n), part.unit))
		}
	}
	return strings.Join(parts, ", ")
}

// table prints rows below a heading and an empty line; nothing without rows.
func (p statusPrinter) table(heading string, rows [][]string) {
	if len(rows) == 0 {
		return
	}
	p.out.WriteByte('\n')
	table := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, heading)
	for _, row := range rows {
		for i := range row {
			row[i] = printable(cmp.Or(row[i], "-"))
		}
		fmt.Fprintln(table, strings.Join(row, "\t"))
	}
	_ = table.Flush() // into memory
}

func (p statusPrinter) certificates() {
	var rows [][]string
	var oldest, newest time.Time
	for _, c := range p.s.Certificates {
		why := c.Reason
		if c.LastFailure != nil && !strings.Contains(why, c.LastFailure.Summary) {
			why += fmt.Sprintf("; the last attempt that failed, %s: %s", p.ago(c.LastFailure.At), c.LastFailure.Summary)
		}
		switch {
		case c.ObservedAt.IsZero():
		case c.State == stateUnknown || p.s.At.Sub(c.ObservedAt) > lookLate:
			why += fmt.Sprintf("; the dates are of %s", p.ago(c.ObservedAt))
		default:
			if oldest.IsZero() || c.ObservedAt.Before(oldest) {
				oldest = c.ObservedAt
			}
			if c.ObservedAt.After(newest) {
				newest = c.ObservedAt
			}
		}
		rows = append(rows, []string{c.Name, c.State, p.when(c.NotAfter), p.when(c.RenewAt), why})
	}
	p.table("CERTIFICATE\tSTATE\tVALID UNTIL\tRENEWAL\tWHY", rows)
	switch { // a look may be a minute old
	case oldest.IsZero():
	case p.ago(oldest) == p.ago(newest):
		p.line("Certificates as observed %s", p.ago(oldest))
	default:
		p.line("Certificates as observed %s to %s", p.ago(oldest), p.ago(newest))
	}
}

func (p statusPrinter) signers() {
	var rows [][]string
	for _, s := range p.s.Signers {
		signed := fmt.Sprintf("%s, %s refused", grouped(int64(s.Signed)), grouped(int64(s.Refused)))
		if !s.LastSignedAt.IsZero() {
			signed += ", the last " + p.ago(s.LastSignedAt)
		}
		rows = append(rows, []string{s.Name, s.State, p.when(s.NotAfter), signed, s.Reason})
	}
	p.table("SIGNER\tSTATE\tCA VALID UNTIL\tSIGNED\tWHY NOT", rows)
}

// trust prints the bundles that are changing: the others are as configured.
func (p statusPrinter) trust() {
	var rows [][]string
	for _, c := range p.s.Certificates {
		t := c.Trust
		if t == nil || t.State == string(k8scsr.ChangeNone) {
			continue
		}
		first := []string{c.Name, t.State}
		for _, a := range t.Authorities {
			rows = append(rows, append(first, fmt.Sprintf("%s CA %s (SHA-256 %.8s…)", a.State, a.Subject, a.SHA256), p.when(a.PublishedAt), p.when(a.NotAfter), ""))
			first = []string{"", ""}
		}
		for _, peer := range t.Peers {
			rows = append(rows, append(first, "peer "+peer.Address, "", "", strings.Join(filled(peer.State, peer.Detail), ": ")))
			first = []string{"", ""}
		}
		if len(t.Authorities) > 0 {
			rows[len(rows)-len(t.Authorities)-len(t.Peers)][5] = t.Reason
		}
	}
	p.table("TRUST\tCHANGE\tWHO\tPUBLISHED\tVALID UNTIL\tWHY", rows)
}

// ago is the distance alone.
func (p statusPrinter) ago(t time.Time) string {
	if d := p.s.At.Sub(t); d >= 0 {
		return roughly(d) + " ago"
	}
	return "in " + roughly(t.Sub(p.s.At))
}

func (p statusPrinter) deliveries() {
	var rows [][]string
	for _, d := range p.s.Deliveries {
		fingerprint := d.Fingerprint
		if len(fingerprint) > 12 {
			fingerprint = fingerprint[:12]
		}
		row := func(address, served, why string) {
			rows = append(rows, []string{d.Certificate, yesNo(d.Delivered), p.when(d.NotAfter), fingerprint, address, served, why})
		}
		if len(d.Addresses) == 0 {
			row("", "", d.Error)
		}
		for _, a := range d.Addresses {
			served := "unknown"
			if a.Served != nil && *a.Served {
				served = "yes"
			} else if a.Served != nil {
				served = "NO"
			}
			row(a.Address, served, strings.Join(filled(d.Error, a.Error), "; "))
		}
	}
	p.table("DELIVERY\tIN PLACE\tVALID UNTIL\tLEAF\tADDRESS\tSERVED\tWHY NOT", rows)
}

func filled(words ...string) []string {
	var out []string
	for _, w := range words {
		if w != "" {
			out = append(out, w)
		}
	}
	return out
}

func (p statusPrinter) mounts() {
	var rows [][]string
	for _, m := range p.s.Mounts {
		if m.Error != "" || len(m.CRLs) == 0 {
			rows = append(rows, []string{m.Name, "", "", "", "", "", m.Error})
		}
		for _, c := range m.CRLs {
			rows = append(rows, p.list(m.Name, c))
		}
	}
	p.table("MOUNT\tISSUER\tCRL\tOF THE LIMIT\tNEXT UPDATE\tMEASURED\tFORECAST", rows)
}

func (p statusPrinter) list(mount string, c ops.CRL) []string {
	if c.MeasuredAt.IsZero() {
		why := "not measured yet"
		if c.NoList {
			why = "has no list"
		}
		return []string{mount, c.Issuer, "", "", "", "", cmp.Or(c.Error, why)}
	}
	limit := "unknown, or none"
	if c.Limit > 0 {
		limit = fmt.Sprintf("%d %% of %s bytes", 100*c.Bytes/c.Limit, grouped(c.Limit))
	}
	forecast := c.Forecast
	if !c.LimitAt.IsZero() {
		forecast = "the limit is reached " + p.when(c.LimitAt)
	}
	if c.Error != "" {
		forecast = "NOT MEASURED SINCE: " + c.Error
	}
	size := fmt.Sprintf("%s bytes, %s", grouped(c.Bytes), countedEntries(c.Entries))
	return []string{mount, c.Issuer, size, limit, p.when(c.NextUpdate), p.ago(c.MeasuredAt), forecast}
}

func countedEntries(n int64) string {
	if n == 1 {
		return "1 entry"
	}
	return grouped(n) + " entries"
}

func (p statusPrinter) tidies() {
	var rows [][]string
	for _, m := range p.s.Mounts {
		t := m.Tidy
		if t == nil {
			continue
		}
		run := map[string]string{"run": "now", "follow": "is on", "wait": "no", "cannotHelp": "cannot help"}[t.Verdict]
		if t.Run && !t.Enabled {
			run = "would" // tidy.enabled is false
		}
		last := ""
		if r := t.LastRun; r != nil {
			last = r.Outcome + " " + p.ago(r.EndedAt)
			if r.Deleted != nil {
				last += ", " + grouped(*r.Deleted) + " deleted"
			}
		}
		why := t.Reason
		if t.Owed {
			why += "; a rotation is owed"
		}
		rows = append(rows, []string{m.Name, cmp.Or(run, t.Verdict), p.when(t.NextAt), last, why})
	}
	p.table("TIDY\tRUN\tNEXT\tLAST RUN\tWHY", rows)
}

func (p statusPrinter) findings() {
	switch none := len(p.s.Findings) == 0; {
	case !p.s.Leadership.Leading && none:
		p.out.WriteString("\nFindings: only this pod's are known, and it has none\n")
	case !p.s.Leadership.Leading:
		p.out.WriteString("\nFindings: only this pod's are known\n")
	case none && len(p.s.Undetermined) > 0:
		p.out.WriteString("\nNo findings of what is known\n")
	case none:
		p.out.WriteString("\nNo findings\n")
	}
	for _, f := range p.s.Findings {
		p.out.WriteByte('\n')
		p.line("%s %s: %s", strings.ToUpper(f.Severity), f.Rule, f.Subject)
		p.line("  %s", f.Summary)
		for _, more := range []struct{ name, text string }{{"evidence", f.Evidence}, {"remedy", f.Remedy}} {
			if more.text != "" {
				p.line("  %s: %s", more.name, oneLine(more.text))
			}
		}
	}
}
