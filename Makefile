# berth. Everything here is one command of Go's, or of .ci/run.

GO ?= go
FUZZTIME ?= 30s

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null | sed 's/^v//; s/^[^0-9]/0.0.0+&/; /\./!s/^/0.0.0+/')
ARCH ?= $(shell $(GO) env GOARCH)
# Run from its own module: what it needs is not what berth needs.
NFPM ?= $(GO) run github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.4

.PHONY: build test race lint e2e fuzz walk size deb ci

build: ## a static binary: ./berth
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags='-s -w -X main.release=$(VERSION)' -o berth ./cmd/berth

deb: ## dist/berth_VERSION_ARCH.deb, for this machine's architecture
	mkdir -p dist/build
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags='-s -w -X main.release=$(VERSION)' -o dist/build/berth ./cmd/berth
	dist/build/berth version --sbom >dist/build/sbom.cdx.json
	for shell in bash zsh fish; do dist/build/berth completion $$shell >dist/build/$$shell; done
	ARCH=$(ARCH) VERSION=$(VERSION) $(NFPM) package --config packaging/nfpm.yaml --packager deb --target dist/

test: ## what the README says
	$(GO) test ./...

race: ## the same, looking for data races too: this needs a C compiler
	$(GO) test -race ./...

lint:
	golangci-lint run

e2e: ## real clients, as root; E2E_TOOLS names the folder with registry, crane, containerd, ctr, dockerd, docker-compose, buildkitd and buildctl
	$(GO) test -tags e2e -count=1 -v ./e2e/

fuzz: ## every fuzz target for FUZZTIME
	.ci/fuzz $(FUZZTIME)

walk: ## what a pull runs through: functions, files, packages
	$(GO) run ./bench/walk

size: ## lines and functions of each package
	$(GO) run ./bench/size

ci: ## all of it
	.ci/run
