# Two commands matter: `make demo` and `make test`. `make help` lists the rest.
SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.1.4
# A govulncheck database as a folder; without one the check is left out, and says so.
GOVULNDB    ?= ../shared/govulndb
# Where the corpora of foreign CRLs and certificates are; tests that need them skip without.
export PKIWARDEN_CORPORA ?= $(abspath ../shared/corpora)

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
PKGS    := ./cmd/... ./crl/... ./pki/... ./k8scsr/...
FUZZTIME ?= 30s
RUNS     ?= 1000
SIZES    ?= 100,1000,10000

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: build
build: ## build ./bin/pkiwarden, static and stripped
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/pkiwarden ./cmd/pkiwarden

.PHONY: servers
servers: ## build the real servers that are missing, once per user
	go run ./test/e2e/servers/build

.PHONY: demo
demo: ## the main job on real servers of this machine (KEEP=1 runs on)
	go run ./test/e2e/demo

.PHONY: test
test: vet test-long test-race e2e ## every test: vet, unit, unit with -race, end to end

.PHONY: vet
vet: ## gofmt and go vet
	@bad=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$bad" ] || { echo "gofmt: run 'gofmt -w' on: $$bad" >&2; exit 1; }
	go vet ./...

.PHONY: test-unit
test-unit: ## unit tests in seconds, with shorter simulations
	go test -short $(PKGS)

.PHONY: test-long
test-long: ## unit tests with whole simulations
	go test $(PKGS)

.PHONY: test-race
test-race: ## unit tests with the race detector, which the simulations run shorter under
	go test -race -short $(PKGS)

.PHONY: e2e
e2e: servers ## the stories on real etcd, kube-apiserver, Vault, Consul and Prometheus
	go test -count=1 -timeout 60m -p 1 -parallel 8 ./test/e2e/...

.PHONY: bench
bench: ## benchmarks on one CPU, each beside what it is compared with
	go test -run '^$$' -bench . -benchmem -cpu 1 $(PKGS)

.PHONY: fuzz
fuzz: ## every fuzz target in turn, FUZZTIME each (default 30s)
	@for p in $$(go list $(PKGS)); do \
	  for f in $$(go test -list '^Fuzz' $$p | grep '^Fuzz' || true); do \
	    echo "== $$p $$f"; go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$p; \
	  done; \
	done

.PHONY: lint
lint: ## staticcheck, and govulncheck where its database is
	go run $(STATICCHECK) -checks all ./...
	@if [ -d '$(GOVULNDB)' ]; then \
	  echo 'go run $(GOVULNCHECK) ./cmd/...'; go run $(GOVULNCHECK) -db 'file://$(abspath $(GOVULNDB))' ./cmd/...; \
	else echo 'govulncheck left out: no database at $(GOVULNDB) (set GOVULNDB)'; fi

.PHONY: footprint
footprint: build servers ## measure binary size and idle RSS
	go run ./test/e2e/footprint $(abspath bin/pkiwarden)

.PHONY: matrix
matrix: servers ## RUNS trials (default 1000) of the fault matrix, with dated results
	go run ./test/e2e/matrix/run -runs $(RUNS) -out test/e2e/matrix/results

.PHONY: scale
scale: servers ## SIZES certificates (default 100,1000,10000): calls, time and memory, with dated results
	go run ./test/e2e/scale/run -sizes $(SIZES) -out test/e2e/scale/results

.PHONY: generate
generate: ## write again what is generated
	go generate ./...

.PHONY: verify
verify: generate ## nothing generated is out of date, go.mod is tidy
	go mod tidy -diff
	git diff --exit-code
