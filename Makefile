# What is done often with this repository. `make` alone lists it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

export CGO_ENABLED := 0

MODULES := . cmd/lifeboat-scheduler
# No -trimpath: with it every package, Kubernetes' too, would be compiled once more
# than for the tests.
GO_BUILD := go build -ldflags='-s -w'
# Passed to the local cluster's commands, as in: make cluster-up ARGS='--nodes 2'
ARGS ?=

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build every program, statically linked, into bin/
	$(GO_BUILD) -o bin/ ./cmd/...
	cd cmd/lifeboat-scheduler && $(GO_BUILD) -o ../../bin/lifeboat-scheduler .

.PHONY: generate
generate: bin/controller-gen ## Generate deep copies, CRDs and the peer protocol (needs protoc 3.21)
	bin/controller-gen object paths=./api/v1alpha1 output:object:dir=api/v1alpha1
	bin/controller-gen crd:allowDangerousTypes=true paths=./api/v1alpha1 output:crd:dir=manifests/crds
	@command -v protoc >/dev/null || { echo 'protoc is missing; on Debian: apt-get install protobuf-compiler' >&2; exit 1; }
	PATH="$(CURDIR)/bin:$$PATH" go generate ./api/...

.PHONY: lint
lint: bin/golangci-lint check-crds ## Run every linter
	for module in $(MODULES); do (cd $$module && $(CURDIR)/bin/golangci-lint run --config $(CURDIR)/.golangci.yml ./...); done

# The CRDs that are installed must be those of the Go types.
.PHONY: check-crds
check-crds: bin/controller-gen
	@fresh=$$(mktemp -d); trap 'rm -r "$$fresh"' EXIT; \
	bin/controller-gen crd:allowDangerousTypes=true paths=./api/v1alpha1 output:crd:dir="$$fresh"; \
	bin/controller-gen object paths=./api/v1alpha1 output:object:dir="$$fresh"; \
	diff -u api/v1alpha1/zz_generated.deepcopy.go "$$fresh"/zz_generated.deepcopy.go && rm "$$fresh"/*.go && \
	diff -ru manifests/crds "$$fresh" || { echo 'generated files are out of date: run make generate' >&2; exit 1; }

.PHONY: unit
# Packages run one after the other: many tests watch what real processes do within
# seconds, and two cores are few. The simulator takes all of them for itself.
unit: ## Run the tests of the packages (as root: they use cgroups, runc and CRIU)
	packages=$$(go list ./... | grep -v '/lifeboat/e2e'); go test -p 1 -timeout 20m $$packages
	go test -timeout 20m ./e2e/simulate
	cd cmd/lifeboat-scheduler && go test -p 1 -timeout 20m ./...

.PHONY: e2e
# -count=1: the tests build the programs that they run, which Go's cache of results knows
# nothing of.
e2e: ## Run the end-to-end tests on local clusters (as root)
	packages=$$(go list ./e2e/... | grep -v /e2e/simulate); go test -count=1 -p 1 -timeout 60m $$packages

.PHONY: test
test: lint unit e2e ## Run lint, unit and e2e

.PHONY: simulate
simulate: ## Play random histories of a cluster against the code that decides who may run (ARGS='-seed 2')
	go run ./e2e/simulate -histories 100000 $(ARGS)

.PHONY: demo
demo: ## Cut the power of a node and watch its pod come back (KEEP=1 leaves the cluster running)
	go run ./e2e/demo $(ARGS)

.PHONY: tour
tour: ## Run the commands of kubectl lifeboat on a local cluster, and write their output into the reference
	go run ./e2e/tour $(ARGS)

.PHONY: cluster-up
cluster-up: ## Start a local cluster, without Lifeboat
	go run ./e2e/lab up $(ARGS)

.PHONY: cluster-down
cluster-down: ## Stop the local cluster and remove what it left
	go run ./e2e/lab down $(ARGS)

.PHONY: matrix
matrix: ## Checkpoint Debian's programs 50 times in a row under load, and lose their node (ARGS='-programs redis')
	go test -count=1 -timeout 60m ./e2e/matrix -v -generations 50 $(ARGS)

.PHONY: softdirty
softdirty: ## Test and measure pre-copy with soft-dirty on Debian's kernels under QEMU (some minutes)
	go run ./e2e/softdirty $(ARGS)

.PHONY: chaos
chaos: ## Break a local cluster in every way, and judge what came of it (ARGS='--only partition'; --list)
	go run ./e2e/chaos $(ARGS)

.PHONY: bench-rto
bench-rto: ## Measure recovery over twenty node losses, beside stock Kubernetes (ARGS='--losses 3')
	go run ./e2e/rto $(ARGS)

.PHONY: soak
soak: ## Keep the nodes as busy as they get: no pod may be moved or stand still for long (ARGS='--for 2h')
	go run ./e2e/soak $(ARGS)

.PHONY: experiments
experiments: ## Measure every way to move a pod, and write docs/experiments.md (as root, hours; ARGS='--small --runs 1')
	go run ./experiments run $(ARGS)
	go run ./experiments report

.PHONY: bench-checkpoint
bench-checkpoint: ## Measure a checkpoint's pause beside runc's (as root; ARGS='--quick')
	go run ./e2e/bench checkpoint $(ARGS)

.PHONY: bench-store
bench-store: ## Measure what generations take of disk, network and processor (as root)
	go run ./e2e/bench store $(ARGS)

.PHONY: bench-restore
bench-restore: ## Measure the time to the first right answer beside runc's (as root)
	go run ./e2e/bench restore $(ARGS)

.PHONY: bench-scheduler
bench-scheduler: ## Measure how fast pods are placed on 1,000 and 5,000 nodes (ARGS='--sizes 1000:2000')
	go run ./e2e/scale scheduler $(ARGS)

.PHONY: bench-watcher
bench-watcher: ## Measure what the watcher costs with 1,000 nodes and 10,000 pods (ARGS='--nodes 100')
	go run ./e2e/scale watcher $(ARGS)

.PHONY: clean
clean: ## Remove what was built here; the cache of the local cluster stays
	rm -rf bin dist

bin/golangci-lint: tools/lint/go.mod tools/lint/go.sum
	go build -C tools/lint -o ../../bin/ tool
	@touch $@

bin/controller-gen: tools/go.mod tools/go.sum
	go build -C tools -o ../bin/ tool
	@touch $@
