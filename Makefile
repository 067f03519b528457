# berth. Everything here is one command of Go's, or of .ci/run.

GO ?= go
FUZZTIME ?= 30s

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null | sed 's/^v//; s/^[^0-9]/0.0.0+&/; /\./!s/^/0.0.0+/')
ARCH ?= $(shell $(GO) env GOARCH)
.PHONY: build test race lint e2e fuzz walk size deb release ci

build: ## a static binary: ./berth
	CGO_ENABLED=0 $(GO) build -tags grpcnotrace -trimpath -ldflags='-s -w -X main.release=$(VERSION)' -o berth ./cmd/berth

deb: ## dist/berth_VERSION_ARCH.deb, for this machine's architecture
	packaging/release $(VERSION) dist $(ARCH)

release: ## dist/: programs, packages, bills of materials, an image, checksums, for amd64 and arm64
	packaging/release $(VERSION) dist

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
