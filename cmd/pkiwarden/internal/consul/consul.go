// Package consul speaks to the one Consul agent that matters: the one that
// Vault stores its data through, or that this pod's server is.
package consul

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/wire"
)

// Options describe the agent.
type Options struct {
	Address    string // https://HOST:PORT
	CAFile     string // trusted alone; default: the system's CAs. It may appear later, and change
	ServerName string // verified instead of the address's host
	TokenFile  string // read anew when it changes; default: Token
	Token      wire.Secret

	Log *slog.Logger // default: slog.Default()
}

// Client is a Consul agent's client. It does not retry and follows no
// redirects.
type Client struct {
	address string
	api     *api.Client
}

const (
	requestTimeout = 10 * time.Second
	maxBody        = 4 << 20 // an agent describes itself in well under 100 KB
)

// New makes a client. It sends nothing and reads no file, and it ignores the
// environment: CONSUL_HTTP_SSL_VERIFY is never honoured.
func New(o Options) (*Client, error) {
	if err := wire.CheckAddress("consul.address", o.Address); err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	token := func() (wire.Secret, error) { return o.Token, nil }
	if o.TokenFile != "" {
		token = (&wire.SecretFile{Path: o.TokenFile}).Cached
	}
	transport := wire.NewTransport(wire.TransportOptions{
		Server: "Consul", Setting: "consul.address",
		CAFile: o.CAFile, ServerName: o.ServerName,
		MaxBody: func(*http.Request) int64 { return maxBody },
		Authorize: func(r *http.Request) error {
			t, err := token()
			if err == nil && t != "" {
				r.Header.Set("X-Consul-Token", t.Reveal())
			}
			return err
		},
		Log: o.Log,
	})
	c := &Client{address: o.Address}
	err := wire.WithoutEnviron("CONSUL_", func() (err error) {
		c.api, err = api.NewClient(&api.Config{
			Address:    o.Address,
			HttpClient: &http.Client{Transport: transport, Timeout: requestTimeout},
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("making Consul client: %w", err)
	}
	return c, nil
}

// Limits asks the agent for its kv_max_value_size and txn_max_req_len, in
// bytes. It needs agent:read.
func (c *Client) Limits(ctx context.Context) (kvMax, txnMax int64, err error) {
	const doing = "reading Consul's limits"
	var self struct {
		DebugConfig struct {
			KVMaxValueSize json.Number
			TxnMaxReqLen   json.Number
		}
	}
	if _, err := c.api.Raw().Query("/v1/agent/self", &self, (&api.QueryOptions{}).WithContext(ctx)); err != nil {
		return 0, 0, c.explain(doing, "agent:read", err)
	}
	kvMax, kvErr := self.DebugConfig.KVMaxValueSize.Int64()
	txnMax, txnErr := self.DebugConfig.TxnMaxReqLen.Int64()
	if kvErr != nil || txnErr != nil || kvMax <= 0 || txnMax <= 0 {
		return 0, 0, fmt.Errorf("%s: the agent at %s answers with KVMaxValueSize %q and TxnMaxReqLen %q, want two positive numbers",
			doing, c.address, self.DebugConfig.KVMaxValueSize, self.DebugConfig.TxnMaxReqLen)
	}
	return kvMax, txnMax, nil
}

// Reload makes the agent read its configuration and certificates again. It
// needs agent:write.
func (c *Client) Reload(ctx context.Context) error {
	_, err := c.api.Raw().Write("/v1/agent/reload", nil, nil, (&api.WriteOptions{}).WithContext(ctx))
	if err != nil {
		return c.explain("reloading Consul", "agent:write", err)
	}
	return nil
}

func (c *Client) explain(doing, right string, err error) error {
	var answer api.StatusError
	var redirect *wire.RedirectError
	switch {
	case errors.Is(err, ErrStale):
		return fmt.Errorf("%s: %w", doing, err)
	case errors.As(err, &redirect):
		return fmt.Errorf("%s: %w", doing, redirect)
	case errors.As(err, &answer) && answer.Code == http.StatusForbidden:
		return fmt.Errorf("%s: permission denied: the token needs %s on the agent at %s: %s", doing, right, c.address, wire.Scrub(answer.Body))
	case errors.As(err, &answer):
		return fmt.Errorf("%s: the agent at %s answered %d: %s", doing, c.address, answer.Code, wire.Scrub(answer.Body))
	}
	return fmt.Errorf("%s: %w", doing, wire.NoAnswer("Consul", "consul", c.address, err))
}
