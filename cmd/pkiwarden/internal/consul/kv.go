package consul

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/hashicorp/consul/api"
)

// ErrStale is the end of a KVCAS on a key that is no longer as it was read.
// Nothing was written.
var ErrStale = errors.New("the key has changed since it was read")

// KVGet reads a key below a prefix, as the servers' leader has it now, and the
// index of its last change: nil and 0 when it is absent. It needs
// key:read.
func (c *Client) KVGet(ctx context.Context, prefix, name string) (value []byte, index uint64, err error) {
	o := (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx)
	pair, _, err := c.api.KV().Get(prefix+name, o)
	if err != nil {
		return nil, 0, c.explain(fmt.Sprintf("reading Consul's key %s%s", prefix, name), rule(prefix), err)
	}
	if pair == nil {
		return nil, 0, nil
	}
	return pair.Value, pair.ModifyIndex, nil
}

// KVCAS writes a key below a prefix if index is still that of its last change,
// or with index 0 if it is absent, and returns the new index. Otherwise its
// error wraps [ErrStale]. It needs key:write.
func (c *Client) KVCAS(ctx context.Context, prefix, name string, value []byte, index uint64) (newIndex uint64, err error) {
	doing := fmt.Sprintf("writing Consul's key %s%s", prefix, name)
	// A transaction of one operation tells the new index, which KV's own
	// compare-and-swap does not.
	operations := api.TxnOps{{KV: &api.KVTxnOp{Verb: api.KVCAS, Key: prefix + name, Value: value, Index: index}}}
	var done api.TxnResponse
	_, err = c.api.Raw().Write("/v1/txn", operations, &done, (&api.WriteOptions{}).WithContext(ctx))
	if err != nil {
		return 0, c.explain(doing, rule(prefix), refused(err))
	}
	if len(done.Results) != 1 || done.Results[0].KV == nil || done.Results[0].KV.ModifyIndex == 0 {
		return 0, fmt.Errorf("%s: the agent at %s answers with no index", doing, c.address)
	}
	return done.Results[0].KV.ModifyIndex, nil
}

// refused is what a transaction that was rolled back failed of: it answers 409,
// also where the token lacks a right (agent/txn_endpoint.go).
func refused(err error) error {
	var answer api.StatusError
	if !errors.As(err, &answer) || answer.Code != http.StatusConflict {
		return err
	}
	var rolledBack api.TxnResponse
	if json.Unmarshal([]byte(answer.Body), &rolledBack) != nil {
		return err
	}
	for _, e := range rolledBack.Errors {
		switch {
		case strings.Contains(e.What, "index is stale"):
			return ErrStale
		case strings.HasPrefix(e.What, "Permission denied"):
			return api.StatusError{Code: http.StatusForbidden, Body: e.What}
		}
	}
	return err
}

// rule is what an ACL policy has to say, for whoever reads and writes.
func rule(prefix string) string { return fmt.Sprintf(`key_prefix %q { policy = "write" }`, prefix) }
