package tidier_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
	"github.com/pkiwarden/pkiwarden/pki/tidier"
	"github.com/pkiwarden/pkiwarden/pki/tidier/tidiertest"
)

// Mounts are asked for as the configuration names them: by pattern, with
// exclusions. A pattern for nothing is an error that names it.
func TestTidyByPattern(t *testing.T) {
	const shown = "among those that Vault shows: infra, pki-a, pki-b"
	tests := []struct {
		ask   string
		looks string
		err   string
	}{
		{"pki-b", "pki-b", ""},
		{"pki-b/", "pki-b", ""},
		{"pki-*", "pki-a pki-b", ""},
		{"*", "infra pki-a pki-b", ""},
		{"!infra", "pki-a pki-b", ""},
		{"pki-* !pki-a", "pki-b", ""},
		{"pki-b pki-a pki-*", "pki-a pki-b", ""},
		{"pkj-*", "", `no PKI mount "pkj-*" ` + shown},
		{"pki-* pkj-* !test-*", "", `no PKI mount "pkj-*", "!test-*" ` + shown},
		{"infra !infra", "", `no PKI mount to tidy: ["infra" "!infra"] leave out all that Vault shows: infra, pki-a, pki-b`},
	}
	for _, tt := range tests {
		t.Run(tt.ask, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v, err := tidiertest.New(time.Now, ripeMount("infra"), ripeMount("pki-a"), ripeMount("pki-b"))
				if err != nil {
					t.Fatal(err)
				}
				tr, err := tidier.New(tidier.Options{Vault: v, CRLs: v, Policy: pki.Policy{SafetyBuffer: 72 * hour}})
				if err != nil {
					t.Fatal(err)
				}
				reports, err := tr.Tidy(t.Context(), tidier.Request{Mounts: strings.Fields(tt.ask), DryRun: true})
				var looks []string
				for _, r := range reports {
					looks = append(looks, r.Mount)
				}
				if got := strings.Join(looks, " "); got != tt.looks || text(err) != tt.err {
					t.Errorf("looked at %q, error %q\nwant %q, %q", got, text(err), tt.looks, tt.err)
				}
				if strings.Contains(tt.ask, "infra !infra") != errors.Is(err, tidier.ErrNoMount) {
					t.Errorf("ErrNoMount: %v", err)
				}
			})
		})
	}
}
