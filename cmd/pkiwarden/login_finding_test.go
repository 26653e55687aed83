package main

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/ops"
	"github.com/pkiwarden/pkiwarden/pki"
)

// TestOneFindingForTheLogin: thirteen mounts whose rights are missing because the
// token is bad are one finding; what does not follow from it stays.
func TestOneFindingForTheLogin(t *testing.T) {
	var log strings.Builder
	findings, err := ops.NewFindings(prometheus.NewPedanticRegistry(), slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	of := func(rules ...string) (list []ops.Finding) {
		for n, rule := range rules {
			list = append(list, ops.Finding{Rule: rule, Severity: "warning", Subject: fmt.Sprint("mount ", n)})
		}
		return list
	}
	mended := 0
	watched := of("crl-disabled", "crl-unreadable")
	l := &login{findings: findings, mended: func() { mended++ }}
	l.crl = func() []ops.Finding {
		if l.out.Load() {
			return watched[:1] // as the watch does
		}
		return watched
	}
	want := func(rules ...string) {
		t.Helper()
		var got []string
		for _, f := range findings.All() {
			got = append(got, f.Severity+" "+f.Rule)
		}
		if strings.Join(got, ", ") != strings.Join(rules, ", ") {
			t.Errorf("findings %q, want %q", got, rules)
		}
	}
	refused := errors.New("logging in to Vault: the token in /token is not accepted")

	l.told(refused) // nothing has begun yet
	want("unknown vault-login")
	if mended != 0 || !strings.Contains(log.String(), "the token in /token is not accepted") {
		t.Errorf("mended %d times:\n%s", mended, log.String())
	}
	l.told(nil)
	want()
	var rights []string
	for range 13 {
		rights = append(rights, "tidy-permission")
	}
	findings.Set(crlSource, l.crl())
	l.reportTidy(of("tidy-would-run", "tidy-permission"))
	want("warning crl-disabled", "warning crl-unreadable", "warning tidy-permission", "warning tidy-would-run")

	l.told(refused)
	want("unknown vault-login", "warning crl-disabled", "warning tidy-would-run")
	l.reportTidy(of(rights...))
	l.told(refused)
	want("unknown vault-login", "warning crl-disabled")
	if strings.Count(log.String(), "rule=tidy-permission") != 2 { // found, cleared
		t.Errorf("log:\n%s", log.String())
	}

	// Vault itself is away: the CRL watch says so.
	away := &pki.RedirectError{Address: "https://a", Location: "https://b"}
	l.told(away)
	want("warning crl-disabled")

	// A good token: what was held back is looked at anew, not shown.
	if l.told(nil); mended != 1 {
		t.Errorf("mended %d times", mended)
	}
	want("warning crl-disabled")
	l.reportTidy(of("tidy-permission"))
	want("warning crl-disabled", "warning tidy-permission")
	if l.told(nil); mended != 1 {
		t.Errorf("mended %d times: a token that goes on being good mends nothing", mended)
	}
	l.forget()
	want()
}
