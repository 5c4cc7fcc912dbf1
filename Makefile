# make demo and make test are the two to know. Everything works from a fresh clone.
GO      ?= go
PREFIX  ?= /usr/local
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
# The corpora of filters and network files that some tests read.
export BRANE_SHARED ?= $(abspath ../shared)
export CGO_ENABLED ?= 0

BUILD     = $(GO) build -buildvcs=false -trimpath -ldflags '-s -w -X main.release=$(VERSION)'
GOTEST    = $(GO) test -buildvcs=false -count=1 -timeout 15m
REPORT    = $(GO) run -buildvcs=false ./test/report
RACE     ?= ./frame ./filter ./internal/mux ./internal/datapath/... ./internal/store/... ./internal/network ./internal/linux/unixmsg
FUZZTIME ?= 20s

.PHONY: build demo test peers lint race fuzz torture bench man completion install clean

build: ## dist/brane, one static binary
	$(BUILD) -o dist/brane ./cmd/brane

demo: build ## networks and programs in them, what was blocked and why; leaves nothing behind
	@BRANE=$(CURDIR)/dist/brane examples/demo.sh

test: peers ## everything; as root on Debian it installs the programs it tests against
	$(GOTEST) -json ./... | $(REPORT) -skips='$(SKIPS)'

peers:
	@test/peers

lint: ## what .ci/run asks of the source: gofumpt, staticcheck, vet
	$(GO) vet ./...
	@out=$$(gofumpt -l .); test -z "$$out" || { echo "gofumpt would change:"; echo "$$out"; exit 1; }
	staticcheck ./...

# The detector's own memory is not what TestIdlePortsAreSmall measures.
race: ## the packages whose goroutines share memory, under the race detector
	CGO_ENABLED=1 $(GOTEST) -race -skip '^TestIdlePortsAreSmall$$' -json $(RACE) | $(REPORT)

fuzz: ## each fuzz target for FUZZTIME
	@test/fuzz $(FUZZTIME)

torture: peers ## the full counts instead of samples; takes long
	BRANE_TORTURE=1 $(GO) test -buildvcs=false -count=1 -timeout 6h -json ./... | $(REPORT)

bench: build peers ## brane beside its peers; writes docs/performance.md
	test/bench/run

man: build
	dist/brane man dist/man

completion: build
	mkdir -p dist/completion
	for shell in bash zsh fish; do dist/brane completion $$shell >dist/completion/brane.$$shell; done

install: man completion
	install -D dist/brane $(DESTDIR)$(PREFIX)/bin/brane
	install -d $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 0644 dist/man/*.1 $(DESTDIR)$(PREFIX)/share/man/man1
	install -D -m 0644 dist/completion/brane.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/brane
	install -D -m 0644 dist/completion/brane.zsh $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_brane
	install -D -m 0644 dist/completion/brane.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/brane.fish

clean:
	rm -rf dist
