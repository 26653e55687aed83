module github.com/pkiwarden/pkiwarden/test/e2e/servers/vault-1.13

// As in Vault's own go.mod. It stands for the defaults of its time, and among
// them for x509negativeserial=1: a certificate that Vault 1.13 carries has such
// a serial number, and Vault does not start when it cannot be parsed.
go 1.19

require github.com/hashicorp/vault v1.13.0

// Likewise.
replace go.etcd.io/etcd/client/pkg/v3 v3.5.0 => go.etcd.io/etcd/client/pkg/v3 v3.0.0-20210928084031-3df272774672
