# For state: {backend: consul}: histories and tidy records below state.path.
#
#   consul acl policy create -name pkiwarden-state -rules @acl-state.hcl
#   consul acl token create -description pkiwarden-state -policy-name pkiwarden-state
key_prefix "pkiwarden/" {
  policy = "write"
}
