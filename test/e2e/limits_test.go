package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"

	"github.com/pkiwarden/pkiwarden/pki"
	"github.com/pkiwarden/pkiwarden/pki/vaultpki"
	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
	"github.com/pkiwarden/pkiwarden/test/e2e/servers/serverstest"
)

// limitCase is one storage, and what a list that it refuses is answered with.
type limitCase struct {
	name    string
	version string // of Vault, "" for the current one
	setting int    // the setting that bounds a value: max_entry_size, kv_max_value_size
	raft    bool
	txn     int // txn_max_req_len
	path    string

	// What the storage says to a list of one byte, and of 200 bytes, too many,
	// and the limit that pkiwarden reads from both; 0 where it reads none.
	refusals [2]string
	named    int64
}

const (
	raftEntryTooLarge = `error storing CRL: put failed due to value being too large; got \d+ bytes, max: \d+ bytes`
	raftValueTooLarge = `error storing CRL: put failed due to value being too large, max value size for key \S+ is \d+, got \d+`
	consulBodyTooBig  = `error storing CRL: .*Request body\(\d+ bytes\) too large, max size: \d+ bytes`
	consulValueTooBig = `error storing CRL: put failed due to value being too large: .*Value for key "\S+" is too large \(\d+ > \d+ bytes\)`
)

var limitCases = []limitCase{
	// Each of the three has lengths of another number of bytes in its log entries.
	{name: "raft of 12 KiB", raft: true, setting: 12288, refusals: [2]string{raftEntryTooLarge, raftValueTooLarge}, named: 12288},
	{name: "raft by default", raft: true, refusals: [2]string{raftEntryTooLarge, raftValueTooLarge}, named: 1048576},
	{name: "raft of 2 MiB and a bit", raft: true, setting: 2100003, refusals: [2]string{raftEntryTooLarge, raftValueTooLarge}, named: 2100003},

	{name: "consul by default", refusals: [2]string{consulBodyTooBig, consulBodyTooBig}, named: 524288},
	{name: "consul with a larger kv and a longer path", setting: 98765, txn: 65536, path: "secrets/vault/", refusals: [2]string{consulBodyTooBig, consulBodyTooBig}, named: 98765},
	{name: "consul with a larger txn", setting: 65536, txn: 1 << 20, refusals: [2]string{consulValueTooBig, consulValueTooBig}, named: 65536},

	{name: "consul by default under Vault 1.13", version: "1.13", refusals: [2]string{consulBodyTooBig, consulBodyTooBig}, named: 524288},
	{name: "consul with a larger kv under Vault 1.13", version: "1.13", setting: 98765, txn: 65536, refusals: [2]string{consulBodyTooBig, consulBodyTooBig}, named: 98765},
}

// Nothing is computed here: real servers are asked for the size up to which
// they store a list, and pkiwarden for the one that it takes for the limit: a
// list of that size has to be stored, and one of a byte more refused.
func TestLimits(t *testing.T) {
	t.Parallel()
	set := serverstest.New(t)
	pkiwarden, err := set.BuildPkiwarden(serverstest.Context(t))
	must(t, err)
	for _, c := range limitCases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ctx := serverstest.Context(t)
			vault, consul := startLimited(t, ctx, set, c)
			said := crlLimit(t, ctx, set, pkiwarden, vault, consul, c.path)

			l := newLists(t, ctx, vault)
			edge := l.edge(c.bound(), said.MaxBytes)
			if said.MaxBytes == nil || int64(edge) != *said.MaxBytes {
				t.Errorf("stored %d bytes and refused %d; pkiwarden crl limit says %+v", edge, edge+1, said)
			}
			t.Logf("stored %d bytes and refused %d with %d entries, after %d writes: %s", edge, edge+1, len(l.revoked), l.writes, said.Rule)
			for i, tooMany := range []int{1, 200} {
				l.refuses(edge+tooMany, c.refusals[i], c.named)
			}
			l.keepsOld(edge)
		})
	}
}

// bound is the setting, or its default.
func (c limitCase) bound() int {
	switch {
	case c.setting != 0:
		return c.setting
	case c.raft:
		return 1 << 20
	}
	return 512 << 10
}

func startLimited(t *testing.T, ctx context.Context, set *servers.Set, c limitCase) (*servers.Vault, *servers.Consul) {
	t.Helper()
	var consul *servers.Consul
	// A log that is cut often takes less of the disk.
	const short = "snapshot_threshold = \"100\"\ntrailing_logs = \"100\"\nsnapshot_interval = \"2s\""
	var storage servers.VaultStorage = servers.RaftStorage{MaxEntrySize: c.setting, Extra: short}
	if !c.raft {
		var err error
		consul, err = set.StartConsul(ctx, servers.ConsulOptions{KVMaxValueSize: c.setting, TxnMaxReqLen: c.txn})
		must(t, err)
		t.Cleanup(func() { endProgram(t, consul.Program) })
		storage = servers.ConsulStorage{Consul: consul, Path: c.path}
	}
	vault, err := set.StartVault(ctx, servers.VaultOptions{Version: c.version, Storage: storage})
	must(t, err)
	t.Cleanup(func() { endProgram(t, vault.Program) })
	return vault, consul
}

// endProgram frees memory and disk for the cases that follow. What failed is kept.
func endProgram(t *testing.T, p *servers.Program) {
	if t.Failed() {
		return
	}
	if err := p.Kill(); err != nil {
		t.Error(err)
	}
	if err := os.RemoveAll(p.Dir()); err != nil {
		t.Error(err)
	}
}

// saidLimit is what `pkiwarden crl limit -o json` prints.
type saidLimit struct {
	Backend  string `json:"backend"`
	MaxBytes *int64 `json:"maxBytes"`
	Entries  *int64 `json:"entries"`
	Rule     string `json:"rule"`
}

func (s saidLimit) String() string {
	if s.MaxBytes == nil {
		return "no limit: " + s.Rule
	}
	return fmt.Sprintf("%d bytes: %s", *s.MaxBytes, s.Rule)
}

// crlLimit has pkiwarden read the limit of the running servers.
func crlLimit(t *testing.T, ctx context.Context, set *servers.Set, pkiwarden string, vault *servers.Vault, consul *servers.Consul, path string) saidLimit {
	t.Helper()
	env := []string{"VAULT_ADDR=" + vault.Address, "VAULT_TOKEN=" + vault.RootToken().Reveal()}
	if consul != nil {
		env = append(env, "CONSUL_HTTP_ADDR="+consul.Address)
	}
	args := []string{"crl", "limit", "-o", "json"}
	if path != "" {
		file := filepath.Join(t.TempDir(), "config.yaml")
		must(t, os.WriteFile(file, fmt.Appendf(nil, "apiVersion: pkiwarden/v1\nconsul:\n  storagePath: %s\n", path), 0o600))
		args = append(args, "--config", file)
	}
	result, err := set.Run(ctx, servers.ProgramOptions{Name: "crl-limit", Path: pkiwarden, Args: args, Env: env})
	must(t, err)
	var said saidLimit
	if err := json.Unmarshal([]byte(result.Stdout), &said); err != nil || result.ExitCode != 0 {
		t.Fatalf("pkiwarden crl limit: exit code %d\n%s%s", result.ExitCode, result.Stdout, result.Stderr)
	}
	return said
}

// isTooLarge checks that pkiwarden recognises the refusal of a list, by a limit
// of this value.
func isTooLarge(t *testing.T, err error, words string, named int64) {
	t.Helper()
	var refused *pki.TooLargeError
	if !errors.As(err, &refused) {
		t.Fatalf("a list that does not fit: %v", err)
	}
	if !regexp.MustCompile(words).MatchString(refused.Message) {
		t.Errorf("the storage says %q, want %q", refused.Message, words)
	}
	if named != 0 && refused.Limit != named {
		t.Errorf("the limit in %q is read as %d, want %d", refused.Message, refused.Limit, named)
	}
}

// Vault itself refuses a list of more than max_crl_entries.
func TestLimitOfEntries(t *testing.T) {
	t.Parallel()
	ctx := serverstest.Context(t)
	server, err := serverstest.New(t).StartVault(ctx, servers.VaultOptions{Storage: servers.RaftStorage{}})
	must(t, err)
	l := newLists(t, ctx, server)
	l.newIssuer(300)
	for range 3 {
		l.revoke(20)
	}
	vault, mount := l.vault, l.mount
	set := func(n int) int64 {
		must(t, l.setCRL("max_crl_entries", n))
		config, err := vault.CRLConfig(ctx, mount)
		must(t, err)
		return config.MaxEntries
	}
	if n := set(3); n != 3 {
		t.Fatalf("max_crl_entries %d, want 3", n)
	}
	must(t, vault.Rotate(ctx, mount))
	before := l.served()
	storage, err := vault.Storage(ctx)
	must(t, err)
	limit := storage.Limit().WithMaxEntries(3)
	if used, known := limit.Used(int64(len(before.Raw)), 3); used != 1 || !known {
		t.Errorf("three of three entries are %v %t of the limit", used, known)
	}
	if limit.Entries() != 3 || !strings.HasPrefix(limit.Rule, "max_crl_entries of the mount binds: at most 3 entries;") {
		t.Errorf("limit %+v", limit)
	}

	l.revoke(20)
	isTooLarge(t, vault.Rotate(ctx, mount), `revocation list size \(4\) exceeds configured maximum \(3\)`, 3)
	if !bytes.Equal(l.served().Raw, before.Raw) {
		t.Error("after the refusal another list is served")
	}
	if n := set(0); n != 3 {
		t.Errorf("after writing 0 max_crl_entries is %d, want 3 as before", n)
	}
	raise := limit.Raise(int64(len(before.Raw)) + 39)
	if n := set(int(raise.Ways[0][0].Value)); n < 4 {
		t.Errorf("raised to %d entries: %s", n, raise.Words)
	}
	must(t, vault.Rotate(ctx, mount))
	if n := len(l.served().RevokedCertificateEntries); n != 4 {
		t.Errorf("%d entries, want 4", n)
	}
	if n := set(-1); n != -1 || storage.Limit().WithMaxEntries(n) != storage.Limit() {
		t.Errorf("switched off, max_crl_entries is %d", n)
	}
	l.revoke(20)
	must(t, vault.Rotate(ctx, mount))
}

// newLists mounts a PKI backend that has no issuer yet and builds lists only
// when it is told to.
func newLists(t *testing.T, ctx context.Context, server *servers.Vault) *lists {
	t.Helper()
	client := server.Client()
	must(t, client.Sys().MountWithContext(ctx, "pki", &api.MountInput{Type: "pki", Config: api.MountConfigInput{MaxLeaseTTL: "87600h"}}))
	vault, err := vaultpki.New(vaultpki.Options{Client: client})
	must(t, err)
	mounts, err := vault.Mounts(ctx)
	must(t, err)
	if len(mounts) != 1 {
		t.Fatalf("mounts %+v", mounts)
	}
	l := &lists{t: t, ctx: ctx, client: client, vault: vault, mount: mounts[0]}
	must(t, l.setCRL("auto_rebuild", true))
	return l
}
