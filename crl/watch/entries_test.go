package watch_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/crl/watch/watchtest"
	"github.com/pkiwarden/pkiwarden/pki"
)

// Entries shows every entry of every list, of a mount that is not watched too,
// and remembers nothing.
func TestEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		m := b.vault.Mount("pki")
		b.vault.Issuer(m, "one", watchtest.IssuerOptions{})
		b.vault.Issuer(m, "two", watchtest.IssuerOptions{})
		b.vault.Issuer(m, "without", watchtest.IssuerOptions{})
		b.publish(m, "one", 5)
		b.publish(m, "two", 3)
		shown := map[string]map[string]bool{}
		lists, err := b.watch.Entries(context.Background(), m, func(i pki.Issuer) func(crl.Entry) error {
			serials := map[string]bool{}
			shown[i.Name] = serials
			return func(e crl.Entry) error {
				if e.RevokedAt.IsZero() {
					t.Error("an entry without a date")
				}
				serials[string(e.Serial)] = true
				return nil
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(shown["one"]) != 5 || len(shown["two"]) != 3 {
			t.Errorf("shown %v", shown)
		}
		var got []string
		for _, c := range lists {
			got = append(got, fmt.Sprintf("%s %d", c.Issuer.Name, c.Summary.Entries))
		}
		if text := strings.Join(got, ", "); text != "one 5, two 3" {
			t.Errorf("lists %s", text)
		}
		if _, known := b.watch.Latest(m); known {
			t.Error("a mount is remembered that was not measured")
		}
	})
}

// What makes a list no list of its issuer makes Entries fail, after it may have
// shown all of it.
func TestEntriesFail(t *testing.T) {
	stop := errors.New("that is enough")
	tests := []struct {
		name  string
		serve func(der []byte) io.Reader
		each  error
		want  string
	}{
		{"signature", func(der []byte) io.Reader {
			forged := bytes.Clone(der)
			forged[len(forged)-1] ^= 1
			return bytes.NewReader(forged)
		}, nil, "not signed by this issuer"},
		{"cut short", func(der []byte) io.Reader { return bytes.NewReader(der[:len(der)-10]) }, nil, "the end of the input"},
		{"the caller stops", nil, stop, "that is enough"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, nil)
				m := b.vault.Mount("pki")
				b.vault.Issuer(m, "one", watchtest.IssuerOptions{})
				b.publish(m, "one", 5)
				if tt.serve != nil {
					b.vault.Serve(m, "one", tt.serve)
				}
				lists, err := b.watch.Entries(context.Background(), m, func(pki.Issuer) func(crl.Entry) error {
					return func(crl.Entry) error { return tt.each }
				})
				if err == nil || lists != nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "mount pki, issuer one") {
					t.Errorf("%d lists, error %v, want … %s …", len(lists), err, tt.want)
				}
			})
		})
	}
}
