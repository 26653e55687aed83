# What pkiwarden needs on top of tidy.hcl where it is to own the mounts' own
# auto-tidy (tidy.ownAutoTidy: true); "+" and other mounts as explained in
# observe.hcl.
#
#   vault policy write pkiwarden-auto-tidy auto-tidy.hcl
#
# It switches auto-tidy off, and can change nothing else of it: on again is for
# an administrator (the finding tidy-auto-tidy-off names the command).

path "+/config/auto-tidy" {
  capabilities       = ["update"]
  allowed_parameters = {
    "enabled" = [false]
  }
}
