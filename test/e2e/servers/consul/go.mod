module github.com/pkiwarden/pkiwarden/test/e2e/servers/consul

go 1.23.8

require github.com/hashicorp/consul v1.21.0

// As in Consul's own go.mod: these have breaking changes.
exclude (
	github.com/hashicorp/go-msgpack v1.1.5
	github.com/hashicorp/go-msgpack v1.1.6
)
