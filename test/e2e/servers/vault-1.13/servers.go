//go:build servers

// Package vault pins a Vault that writes to Consul without transactions, as all
// did before 1.14.5, in a module of its own, so that none of its dependencies
// reaches the product's go.mod.
package vault

import _ "github.com/hashicorp/vault"
