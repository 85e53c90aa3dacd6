# Plimsoll. `make help` lists what there is; each target does all the set-up that it needs on Debian 12 as root.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# How long `make fuzz` goes on with each target, seconds.
FUZZ_SECONDS := 60

# What property tests draw from: the same cases each time, so that a checkout that passes passes again. `make fuzz` looks for others.
PROPTEST_RNG_SEED := 1

# Where `make install` puts things.
PREFIX := /usr/local

# What is needed to build Plimsoll and its guest kernel, and to run VMs by QEMU.
PACKAGES_BUILD := gcc make binutils bc bison flex patch xz-utils cpio libc6-dev libelf-dev libssl-dev linux-source-6.12 busybox-static
PACKAGES_RUN := qemu-system-x86 erofs-utils e2fsprogs nftables
# What the tests need besides: a Debian root file system, a browser for the report.
PACKAGES_TEST := iproute2 curl debootstrap chromium python3 docker.io containerd tmux podman conmon skopeo docker-registry apache2-utils openssl
# What the lab is made of.
PACKAGES_LAB := zstd cpio xz-utils util-linux strace
# The peers that starts are compared with, and the registry that images are deployed from.
PACKAGES_BENCH := bubblewrap crun runc docker-registry

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: setup
setup: packages kernel build ## Install packages, build the guest kernel and Plimsoll

.PHONY: packages
packages: ## Install Debian's packages that are missing
	@tools/packages $(PACKAGES_BUILD) $(PACKAGES_RUN)

.PHONY: kernel
kernel: packages ## Build the guest kernel, once
	@guest/kernel/build.sh

.PHONY: build
build: packages ## Build the plimsoll command (target/x86_64-unknown-linux-gnu/release/plimsoll)
	cargo build --release --locked

.PHONY: bench
bench: setup ## Measure containers and VMs, and write the report (PLIMSOLL_PLAN=quick|default|full)
	@tools/packages $(PACKAGES_BENCH)
	cargo bench --locked

.PHONY: test
test: packages kernel ## Run all tests, in the lab too, and prove that nothing is left
	@tools/packages $(PACKAGES_TEST)
	@tests/stock-kernels >/dev/null
	@tests/nothing-left before
	PROPTEST_RNG_SEED=$(PROPTEST_RNG_SEED) cargo test --locked --workspace --no-fail-fast
	@tools/packages $(PACKAGES_LAB)
	@lab/test
	@cargo run --locked --quiet -- doctor --repair >/dev/null
	@tests/nothing-left after

.PHONY: lab
lab: packages kernel ## Run the whole-program tests on emulated hardware KVM and cgroup v2
	@tools/packages $(PACKAGES_LAB)
	@lab/test

.PHONY: lint
lint: packages ## Check format, clippy and documentation
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps

.PHONY: install
install: build ## Install the command, its man pages and shell completions below PREFIX (/usr/local)
	@binary=target/x86_64-unknown-linux-gnu/release/plimsoll; to=$(DESTDIR)$(PREFIX); \
	install -D -m 755 $$binary $$to/bin/plimsoll; \
	$$binary man $$to/share/man/man1; \
	install -d $$to/share/bash-completion/completions $$to/share/zsh/site-functions $$to/share/fish/vendor_completions.d; \
	$$binary completion bash >$$to/share/bash-completion/completions/plimsoll; \
	$$binary completion zsh >$$to/share/zsh/site-functions/_plimsoll; \
	$$binary completion fish >$$to/share/fish/vendor_completions.d/plimsoll.fish

.PHONY: clean
clean: ## Remove what was built here (the guest kernel in /var/cache/plimsoll stays)
	cargo clean

.PHONY: soak
soak: packages kernel ## Kill commands, supervisors, monitors and workloads at 400 random moments
	PLIMSOLL_KILLS=400 cargo test --locked -p plimsoll --test crash -- --nocapture

.PHONY: fuzz
fuzz: packages ## Mutate what guests, archives, manifests and Dockerfiles say, for a while (FUZZ_SECONDS=60 for each target)
	PLIMSOLL_FUZZ_SECONDS=$(FUZZ_SECONDS) cargo test --locked -p microvm-core --lib fuzz:: -- --nocapture --test-threads 2
	PLIMSOLL_FUZZ_SECONDS=$(FUZZ_SECONDS) cargo test --locked -p image-core --test fuzz -- --nocapture --test-threads 2
