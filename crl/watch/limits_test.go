package watch_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/crl/watch"
	"github.com/pkiwarden/pkiwarden/crl/watch/watchtest"
)

type consul struct {
	kv, txn int64
	err     error
	asked   int
}

func (c *consul) Limits(context.Context) (int64, int64, error) {
	c.asked++
	return c.kv, c.txn, c.err
}

func TestLimits(t *testing.T) {
	denied := errors.New(`permission denied: needs capability "read" on path "sys/config/state/sanitized"`)
	for _, c := range []struct {
		name       string
		storage    crl.Storage // Vault's answer
		storageErr error
		consul     *consul
		edit       func(*watch.LimitOptions)
		want       int64
		rule       string
	}{
		{name: "raft", storage: crl.Storage{Backend: "raft", Raft: crl.RaftLimits{MaxEntrySize: 65536}}, want: 65405, rule: "65536 (max_entry_size)"},
		{name: "raft, hidden", storage: crl.Storage{Backend: "raft"}, storageErr: denied, rule: "sys/config/state/sanitized"},
		{name: "consul", storage: crl.Storage{Backend: "consul", VaultVersion: "1.21.4"}, consul: &consul{kv: 524288, txn: 524288}, want: 392892, rule: "txn_max_req_len"},
		{name: "consul, old Vault", storage: crl.Storage{Backend: "consul", VaultVersion: "1.13.0"}, consul: &consul{kv: 524288, txn: 524288}, want: 524255, rule: "kv_max_value_size"},
		{name: "consul, longer path", storage: crl.Storage{Backend: "consul"}, consul: &consul{kv: 524288, txn: 524288},
			edit: func(o *watch.LimitOptions) { o.ConsulPath = "vault12/" }, want: 392889, rule: "at path vault12/"},
		{name: "consul, not configured", storage: crl.Storage{Backend: "consul"}, rule: "set consul.address, or crl.limit"},
		{name: "consul, down", storage: crl.Storage{Backend: "consul"}, consul: &consul{err: errors.New("connection refused")}, rule: "reading Consul's limits: connection refused"},
		{name: "file", storage: crl.Storage{Backend: "file"}, rule: "no limit"},
		{name: "configured bytes", storage: crl.Storage{Backend: "raft"}, edit: func(o *watch.LimitOptions) { o.Bytes = 5000; o.Vault = nil }, want: 5000, rule: "crl.limit"},
		{name: "configured storage", storageErr: denied, edit: func(o *watch.LimitOptions) {
			o.Storage = crl.Storage{Backend: "consul", Consul: crl.ConsulLimits{KVMaxValueSize: 65536}}
			o.ConsulPath = "vault/"
		}, want: 65503, rule: "65536 (kv_max_value_size)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			vault := &watchtest.Vault{}
			vault.SetStorage(c.storage, c.storageErr)
			o := watch.LimitOptions{Vault: vault}
			if c.consul != nil {
				o.Consul = c.consul
			}
			if c.edit != nil {
				c.edit(&o)
			}
			limits, err := watch.NewLimits(o)
			if err != nil {
				t.Fatal(err)
			}
			got := limits.Limit(t.Context())
			known := c.want > 0 || c.rule == "no limit"
			if got.MaxBytes != c.want || got.Known != known || !strings.Contains(got.Rule, c.rule) {
				t.Errorf("%+v, want %d bytes and %q", got, c.want, c.rule)
			}
		})
	}
	if _, err := watch.NewLimits(watch.LimitOptions{}); err == nil {
		t.Error("nothing to read a limit from is accepted")
	}
}

// TestLimitsAreKept: a known limit is read every ten minutes and survives a
// failure; an unknown one is asked for every time.
func TestLimitsAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		vault, c := &watchtest.Vault{}, &consul{err: errors.New("down")}
		vault.SetStorage(crl.Storage{Backend: "consul"}, nil)
		limits, err := watch.NewLimits(watch.LimitOptions{Vault: vault, Consul: c})
		if err != nil {
			t.Fatal(err)
		}
		step := func(what string, want int64, asked int) {
			t.Helper()
			if got := limits.Limit(t.Context()); got.MaxBytes != want || c.asked != asked {
				t.Errorf("%s: %d bytes after %d questions, want %d after %d", what, got.MaxBytes, c.asked, want, asked)
			}
		}
		step("down", 0, 1)
		step("still down", 0, 2)
		*c = consul{kv: 524288, txn: 524288}
		step("up", 392892, 1)
		time.Sleep(9 * time.Minute)
		c.kv = 65536
		step("changed, not yet read", 392892, 1)
		time.Sleep(time.Minute)
		step("changed", 65503, 2)
		time.Sleep(10 * time.Minute)
		c.err = errors.New("down")
		step("down again", 65503, 3)
		time.Sleep(time.Minute)
		step("down for longer", 65503, 4)
	})
}
