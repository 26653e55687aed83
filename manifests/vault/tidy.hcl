# What pkiwarden needs to act (tidy.enabled: true, or the CronJob), on top of
# observe.hcl; "+" and other mounts as explained there.
#
#   vault policy write pkiwarden-tidy tidy.hcl
#
# Not in it, and never needed: "pki/*", revoking, issuing, issuers, any config
# path but that of auto-tidy.hcl, sys/raw, sudo.

path "+/tidy" {
  capabilities = ["update"]
}

# Optional: stopping a run of its own that makes Vault slow, or, with
# --cancel-on-interrupt, that of a job which is ended. Without it runs go on.
path "+/tidy-cancel" {
  capabilities = ["update"]
}

# Reading it rebuilds the CRL: tidy does not, where auto_rebuild is on.
path "+/crl/rotate" {
  capabilities = ["read"]
}
