# The one door to the project: people and CI call these targets and nothing else.
#
#   make build     bin/idmount, static
#   make check     what needs neither root nor a mount, and lint: under half a minute
#   make test      every test; needs root, because the tests mount file systems
#   make conformance  all scenarios by all callers under all maps on ext4, xfs, btrfs and
#                  tmpfs, with totals; SOURCES and MAPS (lists with commas) narrow it
#   make test-kernels  each backend on each source on Linux 5.10, 6.1, 6.12, 7.2 and the
#                  one that runs; KERNELS=list narrows it; a whole run writes docs/kernels.md
#   make demo      the walk-through: one home directory seen by another user; needs root
#   make bench     mounts beside those of bindfs and fuse-overlayfs, and what is to be
#                  reached; in BENCHDIR (a directory for scratch files, .bench)
#   make bench-go  Go benchmarks, whose output benchstat compares
#   make soak      random calls on all backends, against the kernel's own mount, for
#                  SOAKTIME (1m); SOAKSEED, SOAKBACKEND and SOAKCACHE narrow it down; and
#                  long runs of git, sqlite, postgres and others on mounts
#   make cover     how much of the shipped packages make test reaches, by package
#   make race      the server's tests under the race detector
#   make fuzz      every fuzzer for FUZZTIME (10s)
#   make lint      gofmt, go vet, staticcheck
#   make install   PREFIX (/usr/local), DESTDIR, HELPERDIR (/sbin)

SHELL := /bin/sh
GO ?= go

PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
MANDIR ?= $(PREFIX)/share/man
# mount(8) looks for its helpers in /sbin and nowhere else.
HELPERDIR ?= /sbin
DESTDIR ?=

FUZZTIME ?= 10s
SOAKTIME ?= 1m
SOAKSEED ?=
SOAKBACKEND ?=
SOAKCACHE ?=
TESTFLAGS ?=
BENCHFLAGS ?= -benchtime 1s -count 5
BENCHDIR ?= .bench

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

# A checkout that belongs to another user than the one who builds is common in
# containers and CI. The version comes from above, so Go need not ask git again.
export GOFLAGS += -buildvcs=false

MANPAGES := $(wildcard docs/man/*.8)

.PHONY: all build check cover test conformance test-kernels demo bench bench-go soak race fuzz lint fmt-check vet install clean help

all: build

help:
	@sed -n 's/^#   //p' Makefile

# The tag leaves out what would write manual pages, and costs each start 0.5 ms.
build:
	CGO_ENABLED=0 $(GO) build -tags urfave_cli_no_docs -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/idmount ./cmd/idmount

# What is tested here needs neither root nor a mount.
CHECKED := ./idmap ./detect ./fusefs ./bench ./cmd/idmount ./internal/test/archtest ./internal/fuseconn \
	./internal/mntopt ./internal/mounts ./internal/test/treecmp

check: lint
	IDMOUNT_CHECK=1 $(GO) test -short -timeout 10m $(TESTFLAGS) $(CHECKED)

SHIPPED := .,./idmap,./detect,./native,./fusefs,./bench,./cmd/...,./internal/fuseconn,./internal/mntopt,./internal/mounts,./internal/sys
cover:
	@./hack/need-root.sh 'make cover'
	@./hack/setup.sh test
	@profile=$$(mktemp); $(GO) test -p 1 -timeout 60m -coverpkg $(SHIPPED) -coverprofile $$profile $(TESTFLAGS) ./... && \
		./hack/cover.sh $$profile; result=$$?; rm -f $$profile; exit $$result

# Packages run one after the other: they mount, and the mounts of one should
# not slow or disturb the deadlines of another.
test:
	@./hack/need-root.sh 'make test'
	@./hack/setup.sh test
	@$(MAKE) --no-print-directory fmt-check vet
	$(GO) test -p 1 -timeout 60m $(TESTFLAGS) ./...

SOURCES ?= ext4,xfs,btrfs,tmpfs
MAPS ?=
conformance:
	@./hack/need-root.sh 'make conformance'
	@./hack/setup.sh test
	@totals=$$(mktemp); TMPDIR=/dev/shm IDMOUNT_CONFORMANCE=full IDMOUNT_CONFORMANCE_TOTALS=$$totals \
		IDMOUNT_SOURCES=$(SOURCES) IDMOUNT_MAPS=$(MAPS) \
		$(GO) test -count 1 -timeout 4h -run 'TestConformance$$|TestFewDescriptors$$' $(TESTFLAGS) ./internal/test/conformance; \
	result=$$?; cat $$totals; rm -f $$totals; exit $$result

# About half an hour for all of them; with IDMOUNT_KERNELS_CASES=all more than a day.
# A part of it is in make test.
KERNELS ?= all
test-kernels:
	@./hack/need-root.sh 'make test-kernels'
	@./hack/setup.sh test
	IDMOUNT_KERNELS=$(KERNELS) IDMOUNT_KERNELS_WRITE=$(if $(filter all,$(KERNELS)),1) \
		$(GO) test -count 1 -v -run 'TestKernels|TestNFS|TestQuota|TestRing' -timeout $(if $(filter all,$(IDMOUNT_KERNELS_CASES)),0,90m) ./internal/test/kernels

demo: build
	@./hack/need-root.sh 'make demo'
	@./hack/setup.sh demo
	@./hack/demo.sh bin/idmount

bench: build
	@./hack/need-root.sh 'make bench'
	@./hack/setup.sh bench
	@mkdir -p $(BENCHDIR)
	./hack/uring.sh bin/idmount bench --full --json $(BENCHDIR)/report.json --html $(BENCHDIR)/report.html $(BENCHDIR)
	$(GO) run ./bench/report $(BENCHDIR)/report.json

bench-go:
	@./hack/need-root.sh 'make bench-go'
	@./hack/setup.sh bench
	$(GO) test -run '^$$' -bench . -benchmem -p 1 -timeout 120m $(BENCHFLAGS) ./...

# /dev/shm: a sync of the file systems' images should not wait for a disk.
soak:
	@./hack/need-root.sh 'make soak'
	@./hack/setup.sh soak
	TMPDIR=/dev/shm SOAKTIME=$(SOAKTIME) SOAKSEED=$(SOAKSEED) SOAKBACKEND=$(SOAKBACKEND) SOAKCACHE=$(SOAKCACHE) \
		$(GO) test -count 1 -timeout 0 -v -run 'TestRandom|TestScript' $(TESTFLAGS) ./internal/test/differential
	TMPDIR=/dev/shm IDMOUNT_CLIENTS=long $(GO) test -count 1 -timeout 60m -v $(TESTFLAGS) ./internal/test/clients

race:
	@./hack/need-root.sh 'make race'
	@./hack/setup.sh race
	$(GO) test -race -count 1 -timeout 20m $(TESTFLAGS) ./fusefs ./internal/fuseconn

fuzz:
	@./hack/fuzz.sh $(FUZZTIME)

lint: fmt-check vet
	@./hack/staticcheck.sh

fmt-check:
	@unformatted=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go' 2>/dev/null || find . -name '*.go')); \
	if [ -n "$$unformatted" ]; then \
		echo "not formatted by gofmt:" >&2; echo "$$unformatted" >&2; exit 1; \
	fi

vet:
	$(GO) vet ./...

install: build
	install -d $(DESTDIR)$(BINDIR) $(DESTDIR)$(MANDIR)/man8 $(DESTDIR)$(HELPERDIR)
	install -m 0755 bin/idmount $(DESTDIR)$(BINDIR)/idmount
	install -m 0644 $(MANPAGES) $(DESTDIR)$(MANDIR)/man8/
	ln -sf $(BINDIR)/idmount $(DESTDIR)$(HELPERDIR)/mount.idmount
	ln -sf $(BINDIR)/idmount $(DESTDIR)$(HELPERDIR)/mount.fuse.idmount
	ln -sf $(BINDIR)/idmount $(DESTDIR)$(HELPERDIR)/umount.fuse.idmount

clean:
	rm -rf bin
