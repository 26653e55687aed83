module github.com/pkiwarden/pkiwarden/test/e2e/servers/vault-1.17

go 1.22.5

require (
	github.com/GoogleCloudPlatform/grpc-gcp-go/grpcgcp v1.5.3
	github.com/hashicorp/vault v1.17.6
)

require github.com/google/tink/go v1.7.0 // indirect

// As in Vault's own go.mod.
replace (
	github.com/ma314smith/signedxml v1.1.1 => github.com/moov-io/signedxml v1.1.1
	github.com/pires/go-proxyproto v1.0.0 => github.com/peteski22/go-proxyproto v1.0.0
)
