package vaultpki

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
)

// defaultMaxLeaseTTL is Vault's max_lease_ttl where none is configured
// (vault/core.go).
const defaultMaxLeaseTTL = 32 * 24 * time.Hour

// LongestTTL is the longest lifetime that a role of the mount gives: the
// largest max_ttl, and the mount's own limit where a role sets none or there
// is no role. A role with a fixed not_after has no such bound: the result is
// unknown and says so. It costs one request per role.
//
// Where the policy hides what is needed, the unknown result comes with the
// [pki.PermissionError].
func (v *Vault) LongestTTL(ctx context.Context, m pki.Mount) (pki.LongestTTL, error) {
	longest, err := v.longestTTL(ctx, m)
	if err != nil {
		var denied *pki.PermissionError
		if errors.As(err, &denied) {
			longest = pki.LongestTTL{Source: denied.Error()}
		}
		return longest, fmt.Errorf("finding the longest TTL of mount %s: %w", m.Name(), err)
	}
	return longest, nil
}

func (v *Vault) longestTTL(ctx context.Context, m pki.Mount) (pki.LongestTTL, error) {
	var roles struct {
		Keys []string `json:"keys"`
	}
	err := v.read(ctx, request{method: "LIST", path: m.Path + "/roles", namespace: m.Namespace}, &roles)
	if err != nil && !notFound(err) {
		return pki.LongestTTL{}, err
	}
	longest := pki.LongestTTL{}
	unlimited := "the mount's max_lease_ttl (no role)"
	needMount := len(roles.Keys) == 0
	for _, name := range roles.Keys {
		if checkPath(name) != nil {
			return pki.LongestTTL{Source: fmt.Sprintf("role %s is not asked for because of its name", quote(name))}, nil
		}
		var role struct {
			MaxTTL   seconds `json:"max_ttl"`
			NotAfter string  `json:"not_after"`
		}
		if err := v.read(ctx, get(m, "roles/"+name), &role); notFound(err) {
			continue // deleted since it was listed
		} else if err != nil {
			return pki.LongestTTL{}, err
		}
		ttl := time.Duration(role.MaxTTL)
		switch {
		case role.NotAfter != "":
			return pki.LongestTTL{Source: fmt.Sprintf("role %s issues with a fixed not_after, %s", name, printable(role.NotAfter))}, nil
		case ttl == 0:
			needMount, unlimited = true, fmt.Sprintf("the mount's max_lease_ttl (role %s sets no max_ttl)", name)
		case ttl > longest.Duration:
			longest = pki.LongestTTL{Duration: ttl, Source: fmt.Sprintf("max_ttl of role %s", name)}
		}
	}
	if !needMount {
		return longest, nil
	}
	ttl, err := v.mountMaxTTL(ctx, m)
	if err != nil {
		return pki.LongestTTL{}, err
	}
	if ttl > longest.Duration {
		longest = pki.LongestTTL{Duration: ttl, Source: unlimited}
	}
	return longest, nil
}

// mountMaxTTL is the max_lease_ttl in force for the mount: its own, else the
// server's, else Vault's default. sys/internal/ui/mounts gives it to any token
// that has a right below the mount; else it is put together.
func (v *Vault) mountMaxTTL(ctx context.Context, m pki.Mount) (time.Duration, error) {
	var info mountInfo
	r := request{method: http.MethodGet, path: "sys/internal/ui/mounts/" + m.Path, namespace: m.Namespace}
	if err := v.read(ctx, r, &info); err == nil && info.Config.MaxLeaseTTL > 0 {
		return time.Duration(info.Config.MaxLeaseTTL), nil
	}
	var all map[string]mountInfo
	if err := v.read(ctx, request{method: http.MethodGet, path: "sys/mounts", namespace: m.Namespace}, &all); err != nil {
		return 0, err
	}
	if own := all[m.Path+"/"].Config.MaxLeaseTTL; own > 0 {
		return time.Duration(own), nil
	}
	config, err := v.config(ctx)
	if err != nil {
		return 0, err
	}
	if config.MaxLeaseTTL > 0 {
		return time.Duration(config.MaxLeaseTTL), nil
	}
	return defaultMaxLeaseTTL, nil
}
