# berth. Everything here is one command of Go's, or of .ci/run.

GO ?= go
FUZZTIME ?= 30s

.PHONY: build test lint e2e fuzz ci

build: ## a static binary: ./berth
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags='-s -w' -o berth ./cmd/berth

test: ## what the README says
	$(GO) test -race ./...

lint:
	golangci-lint run

e2e: ## real clients, as root; E2E_TOOLS names the folder with registry, crane, containerd, ctr, dockerd, docker-compose, buildkitd and buildctl
	$(GO) test -tags e2e -count=1 -v ./e2e/

fuzz: ## every fuzz target for FUZZTIME
	@set -e; for package in $$($(GO) list ./...); do \
	  for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz'); do \
	    echo "$$package $$target"; \
	    $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$package; \
	  done; \
	done

ci: ## all of it
	.ci/run
