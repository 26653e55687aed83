package servers

import (
	"fmt"
	"path/filepath"
	"strings"
)

// VaultStorage is where a Vault keeps its data: one of [RaftStorage],
// [ConsulStorage], [FileStorage] and [InmemStorage].
type VaultStorage interface {
	stanza(v *Vault, dir string) string
}

// RaftStorage is Vault's integrated storage in the server's own folder.
type RaftStorage struct {
	// MaxEntrySize in bytes; Vault's default of 1 MiB when 0.
	MaxEntrySize int
	// Extra is added to the storage stanza, as HCL.
	Extra string
}

// ConsulStorage keeps Vault's data in a Consul.
type ConsulStorage struct {
	Consul *Consul
	Path   string // "vault/" by default
	// Extra is added to the storage stanza, as HCL.
	Extra string
}

// FileStorage is a folder below the server's own.
type FileStorage struct{}

// InmemStorage is lost when the server stops.
type InmemStorage struct{}

func (r RaftStorage) stanza(v *Vault, dir string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "storage \"raft\" {\n  path = %q\n  node_id = %q\n  performance_multiplier = 1\n  autopilot_reconcile_interval = \"200ms\"\n  autopilot_update_interval = \"100ms\"\n", dir, filepath.Base(dir))
	if r.MaxEntrySize != 0 {
		fmt.Fprintf(&b, "  max_entry_size = \"%d\"\n", r.MaxEntrySize)
	}
	if peer := v.options.Peer; peer != nil {
		fmt.Fprintf(&b, "  retry_join {\n    leader_api_addr = %q\n", peer.Address)
		if tls := peer.options.TLS; tls != nil {
			fmt.Fprintf(&b, "    leader_ca_cert = %q\n", tls.CA)
		}
		b.WriteString("  }\n")
	}
	return b.String() + r.Extra + "\n}\n"
}

func (c ConsulStorage) stanza(*Vault, string) string {
	path := c.Path
	if path == "" {
		path = "vault/"
	}
	scheme := "http"
	tls := ""
	if c.Consul.options.TLS != nil {
		scheme = "https"
		tls = fmt.Sprintf("  tls_ca_file = %q\n", c.Consul.caFile)
	}
	return fmt.Sprintf("storage \"consul\" {\n  address = %q\n  scheme = %q\n  path = %q\n%s%s\n}\n", c.Consul.ListenAddress, scheme, path, tls, c.Extra)
}

func (FileStorage) stanza(_ *Vault, dir string) string {
	return fmt.Sprintf("storage \"file\" {\n  path = %q\n}\n", filepath.Join(dir, "data"))
}

func (InmemStorage) stanza(*Vault, string) string { return "storage \"inmem\" {}\n" }

func (v *Vault) scheme() string {
	if v.options.TLS != nil {
		return "https"
	}
	return "http"
}

func (v *Vault) config(dir string) string {
	tls := "  tls_disable = true"
	if t := v.options.TLS; t != nil {
		tls = fmt.Sprintf("  tls_cert_file = %q\n  tls_key_file = %q", t.CertFile, t.KeyFile)
	}
	cluster := loopback(v.ClusterPort)
	return v.options.Storage.stanza(v, dir) + fmt.Sprintf(`
listener "tcp" {
  address = %q
  cluster_address = %q
%s
%s
}
api_addr = %q
cluster_addr = %q
disable_mlock = true
max_lease_ttl = "87600h"
log_level = "debug"
%s
`, v.ListenAddress, cluster, tls, v.options.ListenerExtra, v.Address, "https://"+cluster, v.options.Extra)
}
