package servers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/consul/api"
)

// ConsulOptions describe one Consul server. The zero value works.
type ConsulOptions struct {
	// KVMaxValueSize and TxnMaxReqLen are Consul's limits of those names, in
	// bytes; its own defaults when 0.
	KVMaxValueSize int
	TxnMaxReqLen   int
	// TLS serves HTTPS with these files instead of HTTP. They are read at start
	// and at every reload.
	TLS *TLSFiles
	// Port is where the API listens on 127.0.0.1: from [FreePort], for a test
	// whose other parts must know the address before the server starts. One is
	// picked when 0.
	Port int
	// NodeName is the node's, which ACL rules name; the server's folder by default.
	NodeName string
	// ManagementToken switches ACLs on, with everything denied by default. It is
	// a UUID, and may do everything.
	ManagementToken string
	// Extra is added to the end of the configuration file, as HCL.
	Extra string
}

// Consul is one Consul server that is its own leader.
type Consul struct {
	*Program
	// Address is the API's URL, ListenAddress the same as host:port.
	Address       string
	ListenAddress string
	ConfigFile    string

	options ConsulOptions
	caFile  string
	client  *api.Client
}

// StartConsul starts a Consul and waits until it leads.
func (s *Set) StartConsul(ctx context.Context, o ConsulOptions) (*Consul, error) {
	paths, err := s.find(ctx, "consul")
	if err != nil {
		return nil, err
	}
	c := &Consul{options: o}
	c.Program, err = s.launch(ctx, "consul", 4, func(dir string, ports []int) (ProgramOptions, error) {
		ports[0] = cmp.Or(o.Port, ports[0])
		c.ListenAddress = loopback(ports[0])
		c.Address = "http://" + c.ListenAddress
		if o.TLS != nil {
			c.Address = "https://" + c.ListenAddress
		}
		c.ConfigFile = filepath.Join(dir, "consul.hcl")
		c.caFile = filepath.Join(dir, "ca.crt")
		if err := c.write(dir, ports); err != nil {
			return ProgramOptions{}, err
		}
		return ProgramOptions{
			Path:  paths["consul"],
			Args:  []string{"agent", "-config-file=" + c.ConfigFile},
			Ready: c.leads,
			// Its graceful leave has nobody to take leave of.
			StopWithin: 5 * time.Second,
		}, nil
	})
	return c, err
}

func (c *Consul) write(dir string, ports []int) error {
	if err := os.WriteFile(c.ConfigFile, []byte(c.config(dir, ports)), 0o600); err != nil {
		return fmt.Errorf("writing consul's configuration: %w", err)
	}
	config := &api.Config{Address: c.ListenAddress, Scheme: "http", Token: c.options.ManagementToken, Transport: &http.Transport{}}
	if c.options.TLS != nil {
		if err := os.WriteFile(c.caFile, c.options.TLS.CA, 0o644); err != nil {
			return fmt.Errorf("writing consul's CA: %w", err)
		}
		config.Scheme = "https"
		config.TLSConfig = api.TLSConfig{CAPem: c.options.TLS.CA}
	}
	var err error
	if c.client, err = api.NewClient(config); err != nil {
		return fmt.Errorf("making a client of consul: %w", err)
	}
	return nil
}

func (c *Consul) config(dir string, ports []int) string {
	httpPort, httpsPort, tls := ports[0], -1, ""
	if t := c.options.TLS; t != nil {
		httpPort, httpsPort = -1, ports[0]
		tls = fmt.Sprintf("tls {\n  https {\n    cert_file = %q\n    key_file = %q\n    ca_file = %q\n    verify_incoming = false\n  }\n}\n", t.CertFile, t.KeyFile, c.caFile)
	}
	limits := ""
	if n := c.options.KVMaxValueSize; n != 0 {
		limits += fmt.Sprintf("  kv_max_value_size = %d\n", n)
	}
	if n := c.options.TxnMaxReqLen; n != 0 {
		limits += fmt.Sprintf("  txn_max_req_len = %d\n", n)
	}
	acl := ""
	if token := c.options.ManagementToken; token != "" {
		acl = fmt.Sprintf("acl {\n  enabled = true\n  default_policy = \"deny\"\n  tokens {\n    initial_management = %q\n  }\n}\n", token)
	}
	return fmt.Sprintf(`
server = true
bootstrap_expect = 1
node_name = %q
data_dir = %q
bind_addr = "127.0.0.1"
client_addr = "127.0.0.1"
ports {
  http = %d
  https = %d
  server = %d
  serf_lan = %d
  serf_wan = -1
  dns = -1
  grpc = -1
  grpc_tls = -1
}
limits {
  http_max_conns_per_client = 1000
%s}
performance {
  raft_multiplier = 1
}
leave_on_terminate = false
disable_update_check = true
log_level = "debug"
%s%s%s
`, cmp.Or(c.options.NodeName, filepath.Base(dir)), filepath.Join(dir, "data"), httpPort, httpsPort, ports[1], ports[2], limits, tls, acl, c.options.Extra)
}

// leads is ready once the server takes writes.
func (c *Consul) leads(ctx context.Context) error {
	leader, err := c.client.Status().LeaderWithQueryOptions((&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return err
	}
	if leader == "" {
		return errors.New("no leader yet")
	}
	_, err = c.client.KV().Put(&api.KVPair{Key: "ready"}, (&api.WriteOptions{}).WithContext(ctx))
	return err
}

// Client is a client with the management token, where there is one. It is shared.
func (c *Consul) Client() *api.Client { return c.client }
