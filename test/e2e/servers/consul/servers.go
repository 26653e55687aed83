//go:build servers

// Package consul pins the Consul server of the end-to-end tests in a module of
// its own, so that none of its dependencies reaches the product's go.mod.
package consul

import _ "github.com/hashicorp/consul"
