# Weir: `make help` lists what there is to do.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

MODULES := api kit policy extauthz ratelimit controlplane mesh services cli e2e bench
BINARIES := ./cli/cmd/weir ./controlplane/cmd/controlplaned ./extauthz/cmd/extauthzd ./ratelimit/cmd/ratelimitd ./ratelimit/cmd/ratelimit ./services/cmd/userd ./services/cmd/datad
# Modules with tests that run without the rest of Weir.
UNIT := $(filter-out e2e bench,$(MODULES))
DIR ?= examples/quickstart
TESTFLAGS ?=

export GOFLAGS ?= -buildvcs=false
# Static binaries: an image holds one of them and nothing else.
export CGO_ENABLED ?= 0

.PHONY: help
help: ## List the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  \033[1m%-10s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build every binary into bin/
	@echo "building (the first time takes a few minutes) ..."
	@mkdir -p bin
	@go build -o bin/ $(BINARIES)
	@ls bin | sed 's/^/  bin\//'

.PHONY: up
up: build ## Build and run Weir with DIR (default examples/quickstart); Ctrl-C stops it
	@exec bin/weir up --dir $(DIR)

.PHONY: down
down: ## Stop what `weir up --detach` left running
	@bin/weir down

.PHONY: test
test: ## Everything that must hold: generated code, modules alone, unit, feature and edge tests
	@scripts/test.sh $(TESTFLAGS)

.PHONY: e2e
e2e: build ## The slower suites: load, kills and long imports through the real Envoy
	@scripts/e2e.sh

.PHONY: lint
lint: ## golangci-lint, buf lint and shell checks
	@scripts/lint.sh

.PHONY: generate
generate: ## Generate code, OpenAPI, descriptors and reference pages
	@scripts/generate.sh

.PHONY: breaking
breaking: ## Compare the protos with BASE (default origin/main) for breaking changes
	@scripts/generate.sh --breaking $(or $(BASE),origin/main)

.PHONY: bench
bench: ## Run the benchmarks; table on the terminal, picture in docs/bench/
	@scripts/bench.sh
	@scripts/bench-gateways.sh

.PHONY: bench-gateways
bench-gateways: ## Changed routes beside Envoy Gateway (built once, about ten minutes), and at 5,000 routes
	@scripts/bench-gateways.sh

.PHONY: images
images: build ## Make the container images as an OCI layout, with what is in them (out/images)
	@go run ./e2e/cmd/images -o out/images

.PHONY: cluster
cluster: build ## Boot a Kubernetes node without Docker (root on Linux; 15 minutes to build, once)
	@scripts/prerequisites.sh node
	@go run ./e2e/cmd/cluster up

.PHONY: clean
clean: ## Remove bin/ and out/
	@rm -rf bin out
