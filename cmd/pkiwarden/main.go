// Command pkiwarden renews the long-lived certificates of Vault and Consul on
// Kubernetes, keeps Vault's PKI tidy, and says ahead of time when a revocation
// list will no longer fit into Vault's storage.
package main

import "os"

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Getenv))
}
