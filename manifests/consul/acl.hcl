# For the instance that watches CRLs where Vault's storage is Consul: it reads
# the limits of the agent that Vault talks to (GET /v1/agent/self). No right on
# Vault's data in the KV store is needed, or should be given.
#
#   consul acl policy create -name pkiwarden -rules @acl.hcl
#   consul acl token create -description pkiwarden -policy-name pkiwarden
#
# Where the agent is always the same one, name it: agent "NODE" { … }.
agent_prefix "" {
  policy = "read"
}
