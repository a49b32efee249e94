# "make help" says what there is. CI runs .ci/run, which calls these targets.
GO       ?= $(or $(shell command -v go 2>/dev/null),$(wildcard /usr/local/go/bin/go),go)
VERSION  ?= $(or $(shell git describe --tags --always --dirty 2>/dev/null),dev)
LDFLAGS  := -s -w -X main.version=$(VERSION)
FUZZTIME ?= 30s
# Fuzz targets (a regular expression) that get 30s even if FUZZTIME is less.
FUZZLONG ?=
# Further arguments for go test, as in: make test TESTFLAGS='-run Copy -v'
TESTFLAGS ?=
# The packages with goroutines of their own, and all below them.
RACE     ?= ./...
# Code that the pattern ./... leaves out, because it is under testdata.
EXTRA    := ./testdata/examples ./testdata/bench ./testdata/rungs
# The cases that make conformance runs, as in: make conformance CASES='copy link/chown-name'
CASES    ?=
# The tests that make vm runs, a regular expression.
VMTESTS  ?=
LINT     := bin/golangci-lint-v2.15.0

# Programs for administrators are not on an ordinary user's path.
export PATH := $(PATH):/usr/sbin:/sbin

SHELL        := /bin/bash
.SHELLFLAGS  := -euo pipefail -c
.DEFAULT_GOAL := build

build: ## build bin/strake, one static binary
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o bin/strake ./cmd/strake

check: lint vet test ## all that a change must pass: lint, vet, test

vet: ## go vet, gofmt, and go.mod as go mod tidy would write it
	$(GO) vet ./... $(EXTRA)
	@bad=$$($$($(GO) env GOROOT)/bin/gofmt -l $$(git ls-files -co --exclude-standard '*.go')); \
		if [ -n "$$bad" ]; then echo "gofmt would change:"; echo "$$bad"; exit 1; fi
	.ci/again $(GO) mod tidy -diff # it asks for modules that nothing else needs

lint: $(LINT) ## golangci-lint with .golangci.yml
	$(LINT) run ./... $(EXTRA)

# Built from source once: the download is checked by go.sum's database.
$(LINT):
	mkdir -p bin/.lint
	GOBIN=$(CURDIR)/bin/.lint GOFLAGS= .ci/again $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
	mv bin/.lint/golangci-lint $@

# With the usual umask: tests look at the modes of files that they make.
test: ## all tests; what needs root is skipped without it
	@.ci/deps test
	umask 022; $(GO) test -timeout 20m $(TESTFLAGS) ./...

race: ## the tests under the race detector (needs gcc)
	@.ci/deps all
	umask 022; CGO_ENABLED=1 GORACE=atexit_sleep_ms=0 $(GO) test -race -timeout 30m $(TESTFLAGS) $(RACE)

fuzz: ## every fuzz target, FUZZTIME (30s) each
	@GO=$(GO) .ci/fuzz '$(FUZZTIME)' '$(FUZZLONG)'

bench: build ## benchmarks, and whole commands against the promised limits
	@.ci/deps all
	$(GO) test -run '^$$' -bench . -benchmem -benchtime 0.5s ./... | grep -v -e '^ok ' -e 'no test files'
	$(GO) run ./testdata/bench -strake bin/strake

demo: build ## build testdata/examples/hello on a base of busybox, and run it
	@.ci/deps demo
	@testdata/examples/demo.sh bin/strake

examples: build ## three real applications: build, push, pull, run (needs root and the network)
	@.ci/deps all
	STRAKE=$(CURDIR)/bin/strake GO=$(GO) $(GO) test -count=1 -timeout 20m -v $(TESTFLAGS) ./testdata/examples

conformance: build ## the cases of testdata/conformance on every rung, against BuildKit's results (needs root and Docker)
	@.ci/deps conformance
	@testdata/conformance/rungs bin/strake bin/conformance $(CASES)

rungs: build ## builds on every rung of the isolation ladder, as users and in containers (needs root; TESTFLAGS="-run Places" needs no network)
	@.ci/deps all
	STRAKE=$(CURDIR)/bin/strake $(GO) test -count=1 -timeout 15m $(TESTFLAGS) ./testdata/rungs

vm: ## tests on Debian's kernel and control groups of version 2, in a virtual machine (VMTESTS chooses some, VM_ARCH=arm64 another machine)
	testdata/vm/run $(if $(VMTESTS),'$(VMTESTS)')

deps: ## install what the targets need: Debian packages, with sudo if not root
	@.ci/deps all

clean: ## remove what the targets made
	@chmod -R u+rwX bin 2>/dev/null || true
	rm -rf bin

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build check vet lint test race fuzz bench demo examples conformance rungs vm deps clean help
