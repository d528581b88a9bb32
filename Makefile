# Assay. `make help` lists what can be made; a fresh clone needs Go and nothing else to say `go build ./...`.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
# A Debian version begins with a digit: a tag's number, or 0~ and the commit.
DEBVERSION ?= $(shell echo "$(VERSION)" | sed -E -e 's/^v([0-9])/\1/' -e '/^[0-9]+\./!s/^/0~/' -e 's/-/./g')
LDFLAGS := -s -w -buildid= -X github.com/assay-attest/assay/internal/cli.Version=$(VERSION)
BUILD   := CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags "$(LDFLAGS)"

STATICCHECK ?= $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME    ?= 15s
FUZZJOBS    ?= 2
FUZZDIRS    ?= .
BENCHTIME   ?= 1s
BENCH       ?= .

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/assay, one static, reproducible binary, and bin/assay-keeper and bin/assay-monitor, which are measured by themselves
	$(BUILD) -o bin/assay ./cmd/assay
	$(BUILD) -o bin/assay-keeper ./cmd/assay-keeper
	$(BUILD) -o bin/assay-monitor ./cmd/assay-monitor
	@$(MAKE) --no-print-directory enclave

# The measuring enclave: its MRENCLAVE depends on the module and these four numbers alone (internal/measuring/entry).
MEASURING = bin/assay-measuring
.PHONY: enclave
enclave: ## build the measuring enclave, signed with the published test key (ENCLAVE_KEY=signer.pem: with that one)
	GOOS=wasip1 GOARCH=wasm CGO_ENABLED=0 $(GO) build -buildmode=c-shared -trimpath -buildvcs=false -ldflags "-s -w -buildid=" \
		-o $(MEASURING).wasm ./internal/measuring/inside
	bin/assay enclave build $(MEASURING).wasm --out $(MEASURING).enclave --heap 805306368 --buffer 2097152 --product 1 --svn 1 --launch-config
	bin/assay enclave sign $(MEASURING).enclave --out $(MEASURING).sig --date "$$(git log -1 --format=%cs 2>/dev/null || echo 2026-01-01)" \
		$(if $(ENCLAVE_KEY),--key $(ENCLAVE_KEY))

.PHONY: quickstart
quickstart: tools build ## see the whole idea on this machine: trusted, changed, not trusted, restored (flags: ARGS=--keep)
	bin/assay quickstart $(ARGS)

.PHONY: test
test: tools vm-tools ## every test, with the race detector
	$(GO) test -race -timeout 30m ./...

.PHONY: check
check: ## before a commit: format, vet and test what changed, no race detector, below a minute
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$unformatted" ]; then echo "gofmt needed: $$unformatted" >&2; exit 1; fi
	@base=$$(git merge-base HEAD origin/main 2>/dev/null || true); \
	if [ -z "$$base" ] || [ "$$base" = "$$(git rev-parse HEAD)" ]; then base=$$(git rev-parse -q --verify HEAD~ || git rev-parse HEAD); fi; \
	dirs=$$( { git diff --name-only "$$base" -- '*.go' '*/testdata/*'; git ls-files --others --exclude-standard -- '*.go'; } \
		| sed -e 's,/testdata/.*,/x,' | xargs -r -n1 dirname | sort -u); \
	pkgs=""; for d in $$dirs; do if ls "$$d"/*.go >/dev/null 2>&1; then pkgs="$$pkgs ./$$d"; fi; done; \
	echo "changed since $${base:0:12}:$${pkgs:- nothing}"; \
	$(GO) vet $$pkgs ./test/house && $(GO) test -short $$pkgs ./test/house

.PHONY: lint
lint: ## gofmt, go vet, staticcheck
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$unformatted" ]; then echo "gofmt needed: $$unformatted" >&2; exit 1; fi
	$(GO) vet ./...
	@if $(STATICCHECK) -version >/dev/null 2>&1; then echo "$(STATICCHECK) ./..."; $(STATICCHECK) ./...; \
	else echo "staticcheck can't be fetched here: skipped" >&2; fi

.PHONY: bench
bench: ## benchmarks (BENCH=regexp BENCHTIME=1s); figures, never pass or fail
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchtime $(BENCHTIME) -timeout 60m ./...

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME each, FUZZJOBS at a time (FUZZDIRS="evidence enclave" for a part)
	@grep -rhoE --include='*_test.go' --with-filename '^func Fuzz[A-Za-z0-9_]*' $(FUZZDIRS) | sed 's,:func , ,' | \
	xargs -P $(FUZZJOBS) -L 1 bash -c 'pkg=./$$(dirname "$$0"); out=$$($(GO) test -run "^$$" -fuzz "^$$1$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x -parallel 1 "$$pkg" 2>&1) \
		&& echo "$$pkg $$1: $$(grep -oE "execs: [0-9]+" <<<"$$out" | tail -n 1), no finding" && exit 0; \
		if $(GO) test -run "^$$1$$" "$$pkg" >/dev/null 2>&1; then echo "$$pkg $$1: the engine stopped early, its input passes when run again"; exit 0; fi; \
		echo "$$out"; echo "$$pkg $$1: FOUND SOMETHING"; exit 255'

.PHONY: generate
generate: ## rewrite generated pages (docs/reference)
	$(GO) generate ./...

.PHONY: tools
tools: ## install what tests and quickstart need: swtpm, PostgreSQL, a C compiler for the race detector
	@missing=""; \
	command -v swtpm >/dev/null || missing="$$missing swtpm"; \
	command -v swtpm_setup >/dev/null || missing="$$missing swtpm-tools"; \
	ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || command -v postgres >/dev/null || missing="$$missing postgresql"; \
	command -v gcc >/dev/null || missing="$$missing gcc libc6-dev"; \
	command -v openssl >/dev/null || missing="$$missing openssl"; \
	command -v mmdebstrap >/dev/null || missing="$$missing mmdebstrap"; \
	command -v systemd-nspawn >/dev/null || missing="$$missing systemd-container"; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing$$missing"; apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $$missing >/dev/null; \
	else echo "missing:$$missing; install with: sudo apt-get install$$missing" >&2; exit 1; fi

VM_PACKAGES = qemu-system-x86:qemu-system-x86_64 ovmf:/usr/share/OVMF/OVMF_CODE_4M.fd busybox-static:busybox \
	systemd-boot-efi:/usr/lib/systemd/boot/efi/linuxx64.efi.stub sbsigntool:sbsign openssl:openssl e2fsprogs:mke2fs mmdebstrap:mmdebstrap
VM_KERNEL = $${XDG_CACHE_HOME:-$$HOME/.cache}/assay/vm
# Unpacked for guests, never installed: a distribution's way to boot, and systemd with the libraries it needs.
VM_GUEST = shim-signed grub-efi-amd64-signed systemd $$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts \
	--no-breaks --no-replaces --no-enhances systemd libtss2-esys-3.0.2-0 libtss2-rc0 libtss2-mu0 libtss2-tcti-device0 | grep '^lib' | sort -u)

.PHONY: vm-tools
vm-tools: ## install what test/vm boots virtual machines with; without root, only say what is missing
	@missing=""; for p in $(VM_PACKAGES); do \
		what=$${p#*:}; [ -e "$$what" ] || command -v "$$what" >/dev/null || missing="$$missing $${p%%:*}"; done; \
	kernel="$(VM_KERNEL)"; ls "$$kernel"/boot/vmlinuz-* >/dev/null 2>&1 && kernel=""; \
	guest="$(VM_KERNEL)/guest"; [ -e "$$guest/complete" ] && guest=""; \
	debian="$(VM_KERNEL)/debian"; [ -e "$$debian/complete" ] && debian=""; \
	if [ -z "$$missing$$kernel$$guest$$debian" ]; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
		echo "virtual machine tests are skipped without:$$missing$${kernel:+ linux-image-cloud-amd64, unpacked in $$kernel}$${guest:+ shim, GRUB and systemd, unpacked in $$guest}$${debian:+ Debian in $$debian}" >&2; exit 0; fi; \
	echo "installing$$missing$${kernel:+ and unpacking a kernel in $$kernel}$${guest:+ and shim, GRUB and systemd in $$guest}$${debian:+ and a minimal Debian in $$debian}"; apt-get -qq update; \
	if [ -n "$$missing" ]; then DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $$missing >/dev/null; fi; \
	if [ -n "$$kernel" ]; then mkdir -p "$$kernel" && cd "$$kernel" && rm -f ./*.deb && \
		apt-get -qq download "$$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-/ {print $$2; exit}')" 2>/dev/null && \
		dpkg-deb -x ./*.deb . && rm -f ./*.deb; fi; \
	if [ -n "$$guest" ]; then { mkdir -p "$$guest" && cd "$$guest" && rm -f ./*.deb && apt-get -qq download $(VM_GUEST) 2>/dev/null && \
		for d in ./*.deb; do dpkg-deb -x "$$d" . || exit 1; done && rm -f ./*.deb && touch complete; } || \
		echo "shim, GRUB or systemd can't be had as Debian 12 has them: tests that boot by them are skipped" >&2; fi; \
	if [ -n "$$debian" ]; then { rm -rf "$$debian" && mmdebstrap --quiet --variant=minbase --include=initramfs-tools,dracut-core,busybox,kmod,zstd bookworm "$$debian" && \
		touch "$$debian/complete"; } || echo "no minimal Debian system can be had: tests of initramfs images are skipped" >&2; fi

NFPM ?= $(GO) run github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.44.0

.PHONY: deb
deb: build ## build dist/assay_VERSION_ARCH.deb: binaries, units, users, completion
	mkdir -p dist/completion
	bin/assay completion bash >dist/completion/assay.bash
	bin/assay completion zsh >dist/completion/_assay
	bin/assay completion fish >dist/completion/assay.fish
	VERSION="$(DEBVERSION)" ARCH="$$($(GO) env GOARCH)" $(NFPM) package --config deploy/deb/nfpm.yaml --packager deb --target dist/

.PHONY: clean
clean: ## remove what make made
	rm -rf bin dist coverage.out
