//go:build servers

// Package vault pins the Vault from which an upgrade to the one beside it
// starts in a module of its own, so that none of its dependencies reaches the
// product's go.mod.
package vault

import _ "github.com/hashicorp/vault"
