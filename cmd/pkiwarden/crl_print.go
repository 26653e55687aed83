package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/pkiwarden/pkiwarden/crl"
)

// verdict is what became of the signature: nothing where issuer is nil.
type verdict struct {
	issuer *x509.Certificate
	err    error
}

// exit is the error of a command that was to verify: a signature that is wrong
// is told from one that is of an unknown kind.
func (v verdict) exit(source string) error {
	code := exitCritical
	if errors.Is(v.err, crl.ErrNotVerifiable) {
		code = exitUnknown
	}
	return &exitError{code: code, err: fmt.Errorf("%s: %w", sourceName(source), v.err)}
}

// verified is true, false, or nil where it is not known.
func (v verdict) verified() *bool {
	if v.issuer == nil || errors.Is(v.err, crl.ErrNotVerifiable) {
		return nil
	}
	ok := v.err == nil
	return &ok
}

// inspectReport is what `crl inspect -o json` prints.
type inspectReport struct {
	Source           string           `json:"source"`
	Format           crl.Format       `json:"format"`
	Bytes            int64            `json:"bytes"`
	Version          int              `json:"version"`
	Issuer           string           `json:"issuer"`
	Number           *string          `json:"number"`
	ThisUpdate       *string          `json:"thisUpdate"`
	NextUpdate       *string          `json:"nextUpdate"`
	Entries          int64            `json:"entries"`
	Delta            bool             `json:"delta"`
	OldestRevocation *string          `json:"oldestRevocation"`
	NewestRevocation *string          `json:"newestRevocation"`
	Reasons          map[string]int64 `json:"reasons"`
	Signature        signatureReport  `json:"signature"`

	// What most lists do not have is there only where it is.
	Limit              *againstLimit     `json:"limit,omitempty"`  // with --limit
	Limits             []againstLimit    `json:"limits,omitempty"` // without: those of storages as they are by default
	BaseNumber         string            `json:"baseNumber,omitempty"`
	DistributionPoint  *distributionJSON `json:"distributionPoint,omitempty"`
	CriticalExtensions []string          `json:"criticalExtensions,omitempty"` // that are not interpreted
	Duplicates         int64             `json:"duplicates,omitempty"`         // equal neighbours
	Notes              []string          `json:"notes,omitempty"`              // what is not as RFC 5280 wants it
}

// distributionJSON is the issuing distribution point: what the list is about.
type distributionJSON struct {
	Names           []string `json:"names,omitempty"`
	OnlyContains    string   `json:"onlyContains,omitempty"`
	OnlySomeReasons []string `json:"onlySomeReasons,omitempty"`
	IndirectCRL     bool     `json:"indirectCRL,omitempty"`
}

// againstLimit is a size held against a limit.
type againstLimit struct {
	Backend string  `json:"backend,omitempty"` // whose default it is
	Bytes   int64   `json:"bytes"`
	Share   float64 `json:"share"` // of it that the list takes
	Fits    bool    `json:"fits"`
}

type signatureReport struct {
	Algorithm string `json:"algorithm"`
	Verified  *bool  `json:"verified"`
}

func inspectJSON(i inspection, s crl.Summary, v verdict, now time.Time) inspectReport {
	r := inspectReport{
		Source: sourceName(i.source), Format: s.Format, Bytes: s.Bytes, Version: s.Version, Issuer: s.Issuer,
		ThisUpdate: rfc3339(s.ThisUpdate), NextUpdate: rfc3339(s.NextUpdate), Entries: s.Entries, Delta: s.Delta(),
		OldestRevocation: rfc3339(s.OldestRevocation), NewestRevocation: rfc3339(s.NewestRevocation),
		Reasons: s.Reasons, Number: decimal(s.Number), Notes: s.Notes(now),
		Signature: signatureReport{Algorithm: s.Algorithm(), Verified: v.verified()},
	}
	r.CriticalExtensions, r.Duplicates = s.UnhandledCritical, s.Order.Duplicates
	if s.BaseNumber != nil {
		r.BaseNumber = s.BaseNumber.String()
	}
	if d := s.IDP; d != nil {
		r.DistributionPoint = &distributionJSON{Names: d.Names, OnlyContains: onlyContains(d), OnlySomeReasons: d.OnlySomeReasons, IndirectCRL: d.IndirectCRL}
	}
	for _, against := range limitsToShow(i.limit) {
		held := againstLimit{Backend: against.backend, Bytes: against.bytes, Share: float64(s.Bytes) / float64(against.bytes), Fits: s.Bytes <= against.bytes}
		if i.limit > 0 {
			r.Limit = &held
		} else {
			r.Limits = append(r.Limits, held)
		}
	}
	if r.Reasons == nil {
		r.Reasons = map[string]int64{}
	}
	return r
}

// decimal is n in digits, nil where it is absent.
func decimal(n *big.Int) *string {
	if n == nil {
		return nil
	}
	return new(n.String())
}

// rfc3339 is t in UTC, nil where it is absent.
func rfc3339(t time.Time) *string {
	if t.IsZero() {
		return nil
	}
	text := t.UTC().Format(time.RFC3339)
	return &text
}

// writeInspection prints the list for a person.
func writeInspection(w io.Writer, i inspection, s crl.Summary, v verdict, now time.Time) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, format string, values ...any) {
		fmt.Fprintf(table, "%s\t%s\n", name, fmt.Sprintf(format, values...))
	}

	kind := "full CRL"
	if s.Delta() {
		kind = fmt.Sprintf("delta CRL over number %v", s.BaseNumber)
	}
	row("Source", "%s (%s)", printable(sourceName(i.source)), strings.ToUpper(string(s.Format)))
	row("Issuer", "%s", printable(s.Issuer))
	if s.Number != nil {
		row("Number", "%v, %s", s.Number, kind)
	} else {
		row("Number", "none, %s", kind)
	}
	row("Size", "%s bytes of DER", grouped(s.Bytes))
	for _, against := range limitsToShow(i.limit) {
		verdict := ""
		if s.Bytes > against.bytes {
			verdict = ": DOES NOT FIT"
		}
		row("Limit", "%s %d %% of %s bytes%s%s", bar(s.Bytes, against.bytes, 40), 100*s.Bytes/against.bytes, grouped(against.bytes), against.of, verdict)
	}
	row("Entries", "%s", entriesText(s))
	if line, days := sparkline(s.Revocations, 60); line != "" {
		row("Revoked", "%s  %s to %s, %s", line,
			s.OldestRevocation.Format(time.DateOnly), s.NewestRevocation.Format(time.DateOnly), days)
	} else if s.Entries > 0 {
		row("Revoked", "%s to %s", s.OldestRevocation.Format(time.DateOnly), s.NewestRevocation.Format(time.DateOnly))
	}
	row("This update", "%s", instant(s.ThisUpdate, now))
	switch {
	case s.NextUpdate.IsZero():
		row("Next update", "none")
	case !s.NextUpdate.After(now):
		row("Next update", "%s: OVERDUE", instant(s.NextUpdate, now))
	default:
		row("Next update", "%s", instant(s.NextUpdate, now))
	}
	row("Signature", "%s, %s", s.Algorithm(), v)
	if s.Order.Duplicates > 0 {
		row("Duplicates", "%s entries repeat the one ahead of them", grouped(s.Order.Duplicates))
	}
	if s.IDP != nil {
		row("About", "%s", printable(s.IDP.String()))
	}
	if len(s.UnhandledCritical) > 0 {
		row("Critical", "extensions that are not interpreted: %s", strings.Join(s.UnhandledCritical, ", "))
	}
	for _, note := range s.Notes(now) {
		row("Note", "%s", note)
	}
	return table.Flush()
}

type shownLimit struct {
	bytes   int64
	of      string
	backend string // whose default it is, "" for the one given
}

// limitsToShow are the limit that was given, else those of the two storages
// that most Vaults have, as they are without further settings.
func limitsToShow(given int64) []shownLimit {
	if given > 0 {
		return []shownLimit{{given, "", ""}}
	}
	return []shownLimit{
		{crl.Storage{Backend: "consul"}.Limit().MaxBytes, " (Consul's default)", "consul"},
		{crl.Storage{Backend: "raft"}.Limit().MaxBytes, " (raft's default)", "raft"},
	}
}

// onlyContains names the certificates that the list is about, "" for all.
func onlyContains(d *crl.DistributionPoint) string {
	switch {
	case d.OnlyContainsUserCerts:
		return "userCerts"
	case d.OnlyContainsCACerts:
		return "caCerts"
	case d.OnlyContainsAttributeCerts:
		return "attributeCerts"
	}
	return ""
}

// String tells a person what became of the signature.
func (v verdict) String() string {
	switch verified := v.verified(); {
	case v.issuer == nil:
		return "not verified (--issuer names the certificate to verify with)"
	case verified == nil:
		return "which is not verified here"
	case *verified:
		return "verified: signed by the issuer given"
	default:
		return "WRONG: not signed by the issuer given"
	}
}

func entriesText(s crl.Summary) string {
	text := grouped(s.Entries)
	if len(s.Reasons) == 0 {
		return text
	}
	var reasons []string
	names := slices.SortedFunc(maps.Keys(s.Reasons), func(a, b string) int {
		if s.Reasons[a] != s.Reasons[b] {
			return int(s.Reasons[b] - s.Reasons[a])
		}
		return strings.Compare(a, b)
	})
	for _, name := range names {
		reasons = append(reasons, fmt.Sprintf("%s %s", name, grouped(s.Reasons[name])))
	}
	return text + " (" + strings.Join(reasons, ", ") + ")"
}

// instant is a time with its distance from now in words.
func instant(t, now time.Time) string {
	text := t.UTC().Format("2006-01-02 15:04:05 UTC")
	if d := t.Sub(now); d >= 0 {
		return text + ", in " + roughly(d)
	} else {
		return text + ", " + roughly(-d) + " ago"
	}
}

// roughly is a duration in its two largest units.
func roughly(d time.Duration) string {
	units := []struct {
		name string
		size time.Duration
	}{{"year", 365 * 24 * time.Hour}, {"day", 24 * time.Hour}, {"hour", time.Hour}, {"minute", time.Minute}, {"second", time.Second}}
	for i, u := range units {
		n := d / u.size
		if n == 0 {
			continue
		}
		text := counted(int64(n), u.name)
		if i+1 < len(units) {
			if rest := d % u.size / units[i+1].size; rest > 0 {
				text += " " + counted(int64(rest), units[i+1].name)
			}
		}
		return text
	}
	return "less than a second"
}

func counted(n int64, unit string) string {
	if n == 1 {
		return "1 " + unit
	}
	return grouped(n) + " " + unit + "s"
}

// bar shows a share in characters; what goes beyond the limit fills it.
func bar(value, limit int64, width int) string {
	full := int(min(int64(width), (value*int64(width)+limit/2)/limit))
	return strings.Repeat("█", full) + strings.Repeat("░", width-full)
}

// sparkline shows the revocations of each day, or of several days together so
// that the line has at most width characters. It is empty for less than two
// days, and where the days are not known.
func sparkline(h crl.Histogram, width int) (line, unit string) {
	var days []int64
	for _, n := range h.Days {
		days = append(days, n)
	}
	if len(days) < 2 {
		return "", ""
	}
	each := (len(days) + width - 1) / width
	var columns []int64
	for chunk := range slices.Chunk(days, each) {
		var sum int64
		for _, n := range chunk {
			sum += n
		}
		columns = append(columns, sum)
	}
	steps := []rune("▁▂▃▄▅▆▇█")
	highest := slices.Max(columns)
	var b strings.Builder
	for _, n := range columns {
		if n == 0 {
			b.WriteRune(' ')
			continue
		}
		b.WriteRune(steps[(n*int64(len(steps))-1)/highest])
	}
	return b.String(), "by " + map[bool]string{true: "day", false: counted(int64(each), "day")}[each == 1]
}

// grouped is n with a comma at each thousand.
func grouped(n int64) string {
	digits := strconv.FormatInt(n, 10)
	sign := ""
	if digits[0] == '-' {
		sign, digits = "-", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return sign + digits
}

// printable keeps what a list says about itself from steering the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}
