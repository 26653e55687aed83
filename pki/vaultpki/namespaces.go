package vaultpki

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
)

const (
	// namespacesFor is how long namespaces that were listed are taken to be all.
	namespacesFor = 10 * time.Minute
	// How far namespaces are walked: Vault's own documentation does not go
	// beyond a thousand, nor so deep.
	maxNamespaces     = 1000
	maxNamespaceDepth = 16
)

// namespaces is what a walk found, and when.
type namespaces struct {
	all []string
	err error // what it could not find
	at  time.Time
}

// Namespaces are those whose mounts belong to this Vault: the client's own, and
// with Options.AllNamespaces all below it, which costs one LIST for each at
// most every ten minutes. A server without namespaces has the root alone.
//
// What could not be listed, or is refused for its name, or lies beyond the
// bounds of 1000 namespaces and 16 levels, is an error that comes with all
// others.
func (v *Vault) Namespaces(ctx context.Context) ([]string, error) {
	own := strings.Trim(v.client.Namespace(), "/")
	if !v.allNamespaces {
		return []string{own}, nil
	}
	v.mu.Lock()
	known := v.namespaces
	v.mu.Unlock()
	if known.all != nil && time.Since(known.at) < namespacesFor {
		return slices.Clone(known.all), known.err
	}
	all, err := v.walk(ctx, own)
	if err != nil {
		err = fmt.Errorf("finding namespaces: %w", err)
	}
	if !away(err) {
		v.mu.Lock()
		v.namespaces = namespaces{all: slices.Clone(all), err: err, at: time.Now()}
		v.mu.Unlock()
	}
	return all, err
}

// walk lists the namespaces at and below top, level by level.
func (v *Vault) walk(ctx context.Context, top string) ([]string, error) {
	all := []string{top}
	var errs []error
	depth := map[string]int{top: 0}
	for i := 0; i < len(all); i++ {
		children, err := v.childNamespaces(ctx, all[i])
		if err != nil {
			errs = append(errs, err)
			if away(err) {
				break
			}
		}
		for _, child := range children {
			if _, twice := depth[child]; twice {
				continue
			}
			depth[child] = depth[all[i]] + 1
			if len(all) == maxNamespaces || depth[child] > maxNamespaceDepth {
				return all, errors.Join(append(errs, fmt.Errorf("more than %d namespaces, or more than %d levels of them: name the one to watch", maxNamespaces, maxNamespaceDepth))...)
			}
			all = append(all, child)
		}
	}
	return all, errors.Join(errs...)
}

// childNamespaces lists the namespaces directly below parent.
func (v *Vault) childNamespaces(ctx context.Context, parent string) ([]string, error) {
	var list struct {
		Keys []string `json:"keys"`
	}
	err := v.read(ctx, request{method: "LIST", path: "sys/namespaces", namespace: parent}, &list)
	if notFound(err) { // no children, or a server that has no namespaces
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing namespaces below %q: %w", parent, err)
	}
	var children []string
	var errs []error
	slices.Sort(list.Keys)
	for _, name := range list.Keys {
		child := strings.TrimPrefix(parent+"/"+strings.TrimSuffix(name, "/"), "/")
		if err := checkPath(child); err != nil {
			errs = append(errs, fmt.Errorf("namespace %s is left out: %w", quote(child), err))
			continue
		}
		children = append(children, child)
	}
	return children, errors.Join(errs...)
}

// away tells whether there is no Vault to ask.
func away(err error) bool {
	return errors.Is(err, pki.ErrUnreachable) || errors.Is(err, pki.ErrSealed) || errors.Is(err, pki.ErrNoActiveNode) ||
		errors.Is(err, context.Canceled)
}
