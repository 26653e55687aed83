# What pkiwarden needs to see: mounts, CRLs, their settings, how tidy is doing.
#
#   vault policy write pkiwarden-observe observe.hcl
#
# "+" stands for one path segment: these rules hold for every PKI mount whose
# path has none of its own slashes ("pki", "pki_int"). For a mount "team/pki"
# repeat each with "team/pki/…" ("+/+/…" for all of that depth). Vault
# Enterprise: write the policy into each namespace.
#
# "+" also stands for mounts of other types: in a KV version 1 mount, a secret
# at "roles/NAME" could be read. Where that matters, put the names of the PKI
# mounts in place of "+".
#
# CRLs, certificates, issuers and the seal status need no token at all.

path "sys/mounts" {
  capabilities = ["read"]
}

# The raft storage's limit. Needs no sudo.
path "sys/config/state/sanitized" {
  capabilities = ["read"]
}

path "+/config/crl" {
  capabilities = ["read"]
}

path "+/config/auto-tidy" {
  capabilities = ["read"]
}

path "+/tidy-status" {
  capabilities = ["read"]
}

# Whether Vault's own usage lets an issuer sign CRLs. No key is in there.
path "+/issuer/+" {
  capabilities = ["read"]
}

# The longest TTL of the roles bounds, for free, what a tidy could reclaim.
path "+/roles" {
  capabilities = ["list"]
}

path "+/roles/+" {
  capabilities = ["read"]
}

# The size of the fleet, for the rollout headroom: at most every six hours the
# serial numbers of a mount's certificates are listed and 400 of them read. It
# costs Vault about 3 ms for a thousand certificates; leave it out where there
# are very many, and set crl.fleetSize.
path "+/certs" {
  capabilities = ["list"]
}

# Optional: how many leases there are, and how many Vault could not revoke
# (findings vault-lease-backlog and vault-irrevocable-leases). It is all of
# Vault's telemetry, the names of mounts and hosts among it, so it is not given
# by default. Read every ten minutes, from the active node.
#
# path "sys/metrics" {
#   capabilities = ["read"]
# }

# Its own token, for tokens without the policy "default".
path "auth/token/lookup-self" {
  capabilities = ["read"]
}

path "auth/token/renew-self" {
  capabilities = ["update"]
}

path "auth/token/revoke-self" {
  capabilities = ["update"]
}
