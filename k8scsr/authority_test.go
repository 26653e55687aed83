package k8scsr

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"
)

func TestAuthorityEnds(t *testing.T) {
	const day = 24 * time.Hour
	from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name       string
		life, leaf time.Duration
		age        time.Duration
		want       Severity
		says       string
	}{
		{"new", 1000 * day, 10 * day, 0, "", ""},
		{"before its time", 1000 * day, 10 * day, -5 * day, "", ""},
		{"just below three quarters", 1000 * day, 10 * day, 749 * day, "", ""},
		{"three quarters", 1000 * day, 10 * day, 750 * day, Warning, "ends 2028-09-27T00:00:00Z: 75 % of its life has passed"},
		{"just below nine tenths", 1000 * day, 10 * day, 899 * day, Warning, "90 % of its life"},
		{"nine tenths", 1000 * day, 10 * day, 900 * day, Critical, "ends 2028-09-27T00:00:00Z: 90 % of its life has passed"},
		{"at its end", 1000 * day, 10 * day, 1000 * day, Critical, "ended 2028-09-27T00:00:00Z"},
		{"past its end", 1000 * day, 10 * day, 1001 * day, Critical, "ended"},

		{"two lifetimes left of four", 1000 * day, 250 * day, 500 * day, "", ""},
		{"less than two lifetimes left of four", 1000 * day, 250 * day, 501 * day, Warning, "less than twice the 6000h0m0s is left"},
		{"one lifetime left of four", 1000 * day, 250 * day, 750 * day, Warning, "75 %"},
		{"less than one lifetime left of four", 1000 * day, 250 * day, 751 * day, Critical, "less than the 6000h0m0s is left"},

		{"less than two lifetimes left of fewer than four", 1000 * day, 251 * day, 600 * day, "", ""},
		{"less than one lifetime left of fewer than four", 1000 * day, 251 * day, 760 * day, Warning, "76 %"},
		{"shorter than what it signs", 100 * day, 365 * day, 10 * day, "", ""},
		{"shorter than what it signs, late", 100 * day, 365 * day, 95 * day, Critical, "95 %"},

		{"lifetime unknown, not yet", 1000 * day, 0, 700 * day, "", ""},
		{"lifetime unknown, late", 1000 * day, 0, 800 * day, Warning, "80 %"},
		{"no life at all", 0, day, -day, "", ""},
	} {
		ca := &x509.Certificate{NotBefore: from, NotAfter: from.Add(c.life)}
		severity, reason := AuthorityEnds(ca, c.leaf, from.Add(c.age))
		if severity != c.want || !strings.Contains(reason, c.says) || (reason == "") != (c.want == "") {
			t.Errorf("%s: %q, %q", c.name, severity, reason)
		}
	}
}
