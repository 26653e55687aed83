module github.com/pkiwarden/pkiwarden/test/e2e/servers/vault

go 1.25.3

require github.com/hashicorp/vault v1.21.1

// As in Vault's own go.mod: the original module is gone.
replace github.com/99designs/keyring => github.com/Jeffail/keyring v1.2.3
