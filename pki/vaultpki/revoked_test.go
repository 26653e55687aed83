package vaultpki_test

import (
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/pkiwarden/pkiwarden/pki"
)

func TestRevocationsAreListed(t *testing.T) {
	const list = "LIST team/pki/certs/revoked"
	for name, tc := range map[string]struct {
		answer string // none: 404 without words
		want   []string
		err    string
	}{
		"two":        {`{"data":{"keys":["0a:ff","7f"]}}`, []string{"0a:ff", "7f"}, ""},
		"none":       {"", nil, ""},
		"no mount":   {`404 {"errors":["no handler for route \"team/pki/certs/revoked\". route entry not found."]}`, nil, "no handler for route"},
		"Vault 1.12": {`404 {"errors":["1 error occurred:\n\t* unsupported path\n\n"]}`, nil, "came with 1.13"},
		"cut short":  {`{"data":{"keys":["0a:ff","7f`, []string{"0a:ff"}, "unexpected EOF"},
		"denied":     {`403 {"errors":["permission denied"]}`, nil, `needs capability "list" on path "team/pki/certs/revoked"`},
	} {
		answers := map[string]string{list: tc.answer}
		if tc.answer == "" {
			answers = nil
		}
		var got []string
		err := newFake(t, answers).vault().Revoked(t.Context(), mount, func(serial string) error {
			got = append(got, serial)
			return nil
		})
		if !slices.Equal(got, tc.want) || !contains(err, tc.err) {
			t.Errorf("%s: %q, %v, want %q, %q", name, got, err, tc.want, tc.err)
		}
		if err != nil && !contains(err, "listing revocations of mount team/pki: ") {
			t.Errorf("%s: %v does not say where", name, err)
		}
	}
}

func TestCapabilities(t *testing.T) {
	const path = "POST sys/capabilities-self"
	ask := func(answer string) (map[string][]string, *fake, error) {
		f := newFake(t, map[string]string{path: answer})
		got, err := f.vault().Capabilities(t.Context(), mount, []string{"team/pki/tidy", "team/pki/crl/rotate"})
		return got, f, err
	}
	got, f, err := ask(`{"data":{"team/pki/tidy":["deny"],"team/pki/crl/rotate":["read","update"],"capabilities":["root"]}}`)
	want := map[string][]string{"team/pki/tidy": {"deny"}, "team/pki/crl/rotate": {"read", "update"}}
	if err != nil || !maps.EqualFunc(got, want, slices.Equal) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
	if body := f.bodies[0]; body != `{"paths":["team/pki/tidy","team/pki/crl/rotate"]}` {
		t.Errorf("asked with %s", body)
	}
	if f.requests[0].Header.Get("X-Vault-Token") != token {
		t.Error("asked without the token")
	}

	_, _, err = ask(`403 {"errors":["permission denied"]}`)
	var denied *pki.PermissionError
	if !errors.As(err, &denied) || denied.Path != "sys/capabilities-self" || denied.Capability != "update" {
		t.Errorf("denied: %v", err)
	}
	for answer, want := range map[string]string{
		`{"data":{"team/pki/tidy":["update"]}}`:                                "the answer has none for team/pki/crl/rotate",
		`{"data":{"team/pki/tidy":"update","team/pki/crl/rotate":["update"]}}`: "decoding those for team/pki/tidy",
		`{"data":[]}`: "decoding answer",
	} {
		if _, _, err := ask(answer); !contains(err, want) {
			t.Errorf("%s: %v, want %s", answer, err, want)
		}
	}
}
