# Everything that one does with packbase. `make` lists it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help up build test test-zig test-smoke test-clients test-faults fuzz screenshots bench lint ci

# Zig versions to test with: the newest and the one most packages are written
# for; and for test-zig each that differs in how it fetches.
ZIGS ?= 0.17.1,0.15.2
ALL_ZIGS := 0.13.0,0.14.1,0.15.2,0.16.0,0.17.1

# Go where it is installed but not in PATH: by hand, or a Debian package of a
# certain version. An older one fetches the version that go.mod wants.
export PATH := $(PATH):/usr/sbin:/usr/local/go/bin$(addprefix :,$(lastword $(sort $(wildcard /usr/lib/go-1.[2-9][0-9]/bin))))
export GOTOOLCHAIN ?= auto

# Without git, or in a clone of another user, there is no version to stamp.
ifeq ($(shell git rev-parse HEAD 2>/dev/null),)
export GOFLAGS += -buildvcs=false
endif

# How long each fuzz target runs.
FUZZTIME ?= 1m

# What `packbase version` says: the tag, if this commit has one, and the commit.
VERSION ?= $(patsubst v%,%,$(shell git describe --tags --exact-match --match 'v[0-9]*' 2>/dev/null))
COMMIT ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null)
STAMP := $(VERSION:%=-X main.release=%) $(COMMIT:%=-X main.commit=%)

ENV := go run ./tests/env -zig

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: ## install what is missing, build, and run packbase with a Postgres and Redis of its own
	@.ci/install up
	@$(MAKE) --no-print-directory build
	exec bin/packbase up

build: ## build bin/packbase
	go build -trimpath -ldflags '$(STAMP)' -o bin/packbase ./cmd/packbase

# What go vet finds lint has found. Tests of whole processes go without the race detector, which takes twice their time:
# what runs in them has run with it in the tests of each package, and test-faults runs ./tests with it.
test: ## install what is missing, and run all checks and tests (ZIGS=0.17.1,0.15.2 sets the Zig versions)
	@.ci/install up test
	@$(MAKE) --no-print-directory lint
	$(ENV) '$(ZIGS)' -- go test -race -vet=off -timeout 30m $$(go list ./... | grep -v /packbase/tests)
	$(ENV) '$(ZIGS)' -- go test -vet=off -p 2 -parallel 4 -timeout 30m ./tests/...

test-zig: ## run the tests that use Zig with each version from 0.13 to 0.17
	@.ci/install up test
	PACKBASE_TEST_ZIG_COMPILES=1 $(ENV) '$(ALL_ZIGS)' -- go test -race -timeout 60m \
		$$(git grep --untracked -l PACKBASE_TEST_ZIGS -- '*.go' ':!tests/env' | xargs -rn1 dirname | sort -u | sed 's|^|./|')

test-smoke: ## try what the first packbase's scripts tried, and with a Docker engine docker/smoke.sh, too
	@.ci/install up test
	$(ENV) '$(ZIGS)' -- go test -count=1 -run 'TestFirstPackbase|TestWorkerSeeds' ./tests
	if docker info >/dev/null 2>&1; then docker/smoke.sh; else echo "docker/smoke.sh left out: no Docker engine answers"; fi

test-clients: ## run the tests with real clients, at length, and print who can do what
	@.ci/install up test
	@mkdir -p bin
	$(ENV) '$(ALL_ZIGS)' -- go test -count=1 -timeout 60m -tags clients ./tests/clients/... -args -table '$(CURDIR)/bin/clients.md'
	@cat bin/clients.md

test-faults: ## run the tests that kill, freeze, fill and cut, at length
	@.ci/install up test
	$(ENV) '$(ZIGS)' -- go test -count=1 -timeout 90m -tags failpoint,faults ./tests/faults/... ./tests/edges/...
	$(ENV) '$(ZIGS)' -- go test -count=1 -race -parallel 4 -timeout 30m ./tests
	@$(MAKE) --no-print-directory fuzz
	PACKBASE_TEST_LONG=200000 go test -count=1 -timeout 30m -run Differential ./storage/gitpack
	PACKBASE_TEST_LONG=5000 $(ENV) '$(ALL_ZIGS)' -- go test -count=1 -timeout 30m -run TestZig ./storage/tarball
	PACKBASE_TEST_LONG=3000 $(ENV) '$(ALL_ZIGS)' -- go test -count=1 -timeout 60m -run TestRealZig ./storage/zigpkg

fuzz: ## run each fuzz target for a minute (FUZZTIME=1m says how long)
	.ci/fuzz $(FUZZTIME)

screenshots: ## take the pictures in docs/ again
	@.ci/install up test
	PACKBASE_PICTURES='$(CURDIR)/docs' $(ENV) '$(ZIGS)' -- go test -count=1 -run TestPictures ./tests/browser

bench: ## measure against git, git http-backend and nginx side by side
	@.ci/install up test bench
	$(ENV) '$(ZIGS)' -- go test -count=1 -timeout 60m -run '^$$' -bench . -benchtime 1x ./tests/bench

lint: ## check formatting, go.mod, vet, staticcheck, known vulnerabilities
	@echo "gofmt -l"
	@unformatted=$$(git ls-files -z '*.go' | xargs -0 "$$(go env GOROOT)/bin/gofmt" -l); \
		if [[ -n $$unformatted ]]; then printf 'not formatted:\n%s\n' "$$unformatted" >&2; exit 1; fi
	go mod tidy -diff
	go vet ./...
	go tool staticcheck ./...
	.ci/vulncheck

ci: ## what .ci/run runs: test, once, with the Zig versions of test-zig
	@$(MAKE) --no-print-directory test ZIGS='$(ALL_ZIGS)'
