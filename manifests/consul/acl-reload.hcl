# For the sidecars of Consul servers: PUT /v1/agent/reload after a new
# certificate. Write covers what acl.hcl reads.
#
#   consul acl policy create -name pkiwarden-reload -rules @acl-reload.hcl
#   consul acl token create -description pkiwarden-reload -policy-name pkiwarden-reload
#
# The names of the servers' nodes begin with the name of their StatefulSet.
agent_prefix "consul-server" {
  policy = "write"
}
