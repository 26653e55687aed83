# What `pkiwarden tidy --rescue` needs on top of observe.hcl, and with --apply
# of tidy.hcl; "+" and other mounts as explained there. It is for the person who
# rescues, for as long as that takes: nothing that runs by itself needs it.
#
#   vault policy write pkiwarden-rescue rescue.hcl

# What Vault keeps of revocations, whether or not it could write them on a list.
# It costs Vault in proportion to their number.
path "+/certs/revoked" {
  capabilities = ["list"]
}

# Which rights the token has, so that a missing one is named before anything is
# done; for tokens without the policy "default".
path "sys/capabilities-self" {
  capabilities = ["update"]
}
