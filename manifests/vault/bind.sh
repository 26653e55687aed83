#!/bin/sh
# Binds the two policies to pkiwarden's service accounts, through Vault's
# kubernetes auth method. Run it as a Vault administrator (VAULT_ADDR,
# VAULT_TOKEN). To observe only, leave pkiwarden-tidy out.
#
# Vault checks the tokens with its own service account, which needs the cluster
# role system:auth-delegator; the Vault chart binds it (server.authDelegator).
set -eu
cd "$(dirname "$0")"

vault policy write pkiwarden-observe observe.hcl
vault policy write pkiwarden-tidy tidy.hcl
# For tidy.ownAutoTidy: true, and then among the role's token_policies below:
#   vault policy write pkiwarden-auto-tidy auto-tidy.hcl

# Once per Vault; an answer "path is already in use" means that it is done:
#   vault auth enable kubernetes
#   vault write auth/kubernetes/config kubernetes_host=https://kubernetes.default.svc

# Who may log in: vault/vault are the sidecars of the shape "sidecars only"
# (those of the other shape never log in: leave vault out there),
# pkiwarden/pkiwarden is the controller, pkiwarden/pkiwarden-tidy the CronJob.
# The audience is that of the projected token in the manifests.
vault write auth/kubernetes/role/pkiwarden \
  bound_service_account_names=vault,pkiwarden,pkiwarden-tidy \
  bound_service_account_namespaces=vault,pkiwarden \
  audience=vault \
  token_policies=pkiwarden-observe,pkiwarden-tidy \
  token_no_default_policy=true \
  token_ttl=1h
