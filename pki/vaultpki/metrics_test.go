package vaultpki_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/pkiwarden/pkiwarden/pki"
)

func TestLeases(t *testing.T) {
	const others = `{"Name":"vault.runtime.num_goroutines","Value":314,"Labels":{}},`
	long := strings.Replace(others, "{}", `{"l":"`+strings.Repeat("x", 64<<10)+`"}`, 1)
	gauges := func(list string) string {
		return `{"Timestamp":"2026-03-01 10:00:00 +0000 UTC","Gauges":[` + list + `],"Points":[],"Counters":[{"Name":"x.expire.num_leases","Count":9}],"Samples":[]}`
	}
	tests := []struct {
		name, answer string
		want         pki.Leases
		err          string
	}{
		{"by default", gauges(others + `{"Name":"vault.expire.num_irrevocable_leases","Value":2,"Labels":{}},{"Name":"vault.expire.num_leases","Value":123456,"Labels":{"cluster":"c"}}`), pki.Leases{Total: 123456, Irrevocable: 2}, ""},
		{"with the host's name", gauges(`{"Name":"vault.vault-0.vault.svc.expire.num_leases","Value":7},{"Name":"vault.vault-0.vault.svc.expire.num_irrevocable_leases","Value":0}`), pki.Leases{Total: 7}, ""},
		{"with another prefix", gauges(`{"Name":"secrets.expire.num_leases","Value":7},{"Name":"secrets.expire.num_irrevocable_leases","Value":1}`), pki.Leases{Total: 7, Irrevocable: 1}, ""},
		{"without a prefix", gauges(`{"Name":"expire.num_leases","Value":7},{"Name":"expire.num_irrevocable_leases","Value":1}`), pki.Leases{Total: 7, Irrevocable: 1}, ""},
		{"others of a like name", gauges(`{"Name":"vault.expire.num_leases.by_type","Value":7},{"Name":"vault.unexpire.num_leases","Value":8}`), pki.Leases{}, "has no gauge expire.num_leases"},
		{"half", gauges(`{"Name":"vault.expire.num_leases","Value":7}`), pki.Leases{}, "has no gauge expire.num_irrevocable_leases"},
		{"filtered out", gauges(""), pki.Leases{}, "see prefix_filter"},
		{"none", `{"Timestamp":"x"}`, pki.Leases{}, "it has no gauges"},
		{"another form", `{"Gauges":{"a":1}}`, pki.Leases{}, "its gauges are not a list"},
		{"cut", `{"Timestamp":"x","Gauges":[{"Name":"vault.expire.num_leases","Val`, pki.Leases{}, "unexpected EOF"},
		{"not JSON", `200 # HELP x`, pki.Leases{}, "not an object"},
		{"denied", `403 {"errors":["permission denied"]}`, pki.Leases{}, `needs capability "read" on path "sys/metrics"`},
		{"endless", gauges(strings.Repeat(long, 10<<20/len(long)) + `{"Name":"vault.expire.num_leases","Value":7}`), pki.Leases{}, "sys/metrics is longer than 8388608 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t, map[string]string{"GET sys/metrics": tt.answer})
			got, err := f.vault().Leases(t.Context())
			if got != tt.want || !contains(err, tt.err) {
				t.Errorf("%+v, %v; want %+v, %s", got, err, tt.want, tt.err)
			}
			if f.requests[0].Header.Get("X-Vault-Token") != token {
				t.Error("asked without a token")
			}
		})
	}
	f := newFake(t, nil)
	f.server.Close()
	if _, err := f.vault().Leases(t.Context()); !errors.Is(err, pki.ErrUnreachable) {
		t.Errorf("gone: %v", err)
	}
}
