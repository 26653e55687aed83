package vaultpki

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/pkiwarden/pkiwarden/pki"
)

// Capabilities is what the token may do at each of paths, as policies name
// them: capabilities such as read or update by path; "root" stands for all,
// "deny" for none. The paths are those of m's namespace. Vault's default policy
// lets every token ask; where it may not, the error is a [pki.PermissionError]
// of sys/capabilities-self.
func (v *Vault) Capabilities(ctx context.Context, m pki.Mount, paths []string) (map[string][]string, error) {
	var raw map[string]json.RawMessage
	r := request{method: http.MethodPost, path: "sys/capabilities-self", namespace: m.Namespace, body: map[string]any{"paths": paths}}
	if err := v.read(ctx, r, &raw); err != nil {
		return nil, fmt.Errorf("asking for the token's capabilities: %w", err)
	}
	granted := make(map[string][]string, len(paths))
	for _, path := range paths {
		text, ok := raw[path]
		if !ok {
			return nil, fmt.Errorf("asking for the token's capabilities: the answer has none for %s", path)
		}
		var capabilities []string
		if err := json.Unmarshal(text, &capabilities); err != nil {
			return nil, fmt.Errorf("asking for the token's capabilities: decoding those for %s: %w", path, err)
		}
		granted[path] = capabilities
	}
	return granted, nil
}
