# Everything below needs Python 3.11 or newer with pip and venv, make, and a C compiler; the rest is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml setup.py $(wildcard bridgecore/*.pyx bridgecore/*.pxd)

CORE_TESTS := $(foreach room,cache hashing heads http1 scan serving singleflight sse,$(wildcard tests/test_$(room)*.py))
SANITIZERS = $(shell $(CC) -print-file-name=libasan.so) $(shell $(CC) -print-file-name=libubsan.so)
TRACES ?=
PEERS ?=
CLIENTS := build/clients

.DEFAULT_GOAL := help

.PHONY: help build run test soak clients bench bench-gateway types lint format debug asan wheel lock clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

$(BIN)/python:
	@$(PYTHON) -m venv $(VENV)

# The stamp is newer than the build's sources exactly when the extensions in the tree are up to date.
$(VENV)/.built: $(BIN)/python $(SOURCES)
	@echo "building into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.built requirements.lock
	@echo "installing the tools of development into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --group dev
	@touch $@

build: $(VENV)/.built  ## editable install with compiled extensions

run: build  ## a gateway on 127.0.0.1:8080 with SQLite below .dev/
	@exec $(BIN)/bridgecore serve --dev

test: $(VENV)/.dev  ## the whole suite, on every core
	$(BIN)/pytest --numprocesses auto --dist worksteal

soak: $(VENV)/.dev  ## the tests that take minutes
	$(BIN)/pytest -m soak --timeout 1800

# Nothing goes into the home folder, not even the cache. Not `npm ci`: the lock need not hold every platform's package.
$(CLIENTS)/.installed: tests/clients/package.json tests/clients/package-lock.json
	@echo "installing the clients into $(CLIENTS)"
	@mkdir -p $(CLIENTS) && cp $^ $(CLIENTS)
	@npm install --prefix $(CLIENTS) --cache $(CURDIR)/$(CLIENTS)/.npm --loglevel error --no-audit --no-fund
	@touch $@

clients: $(VENV)/.dev $(CLIENTS)/.installed  ## Claude Code, Codex and opencode through a gateway, without a network; needs npm
	sh tests/clients/offline.sh $(BIN)/pytest -m clients tests/clients

$(VENV)/.bench: $(VENV)/.dev
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --group bench
	@touch $@

bench: $(VENV)/.bench  ## hit ratios and nanoseconds beside other caches; TRACES=folder replays traces from files
	$(BIN)/python benchmarks/micro.py --json benchmarks/results/micro.json
	$(BIN)/python benchmarks/hit_ratio.py $(if $(TRACES),--traces $(TRACES)) --json benchmarks/results/hit_ratio.json
	$(BIN)/python benchmarks/render.py

bench-gateway: $(VENV)/.built  ## docs/benchmarks.md; PEERS=folder measures the gateways in it too
	$(BIN)/python -m benchmarks.gateway $(if $(PEERS),--peers $(PEERS))
	$(BIN)/python -m benchmarks.gateway.report

types: $(VENV)/.dev  ## mypy and pyright, both strict, and the stubs against the compiled modules
	$(BIN)/mypy
	$(BIN)/stubtest bridgecore
	$(BIN)/pyright

lint: $(VENV)/.dev  ## ruff and cython-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH="$(BIN):$$PATH" $(BIN)/cython-lint bridgecore

format: $(VENV)/.dev  ## rewrite the sources the way `make lint` wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

debug: $(VENV)/.dev  ## the suite on a checked, line-traced build; restores the release build afterwards
	BRIDGECORE_DEBUG=1 $(BIN)/python setup.py --quiet build_ext --inplace --force
	$(BIN)/pytest; status=$$?; $(BIN)/python setup.py --quiet build_ext --inplace --force; exit $$status

asan: $(VENV)/.dev  ## the tests of the core under AddressSanitizer and UBSan; restores the release build afterwards
	BRIDGECORE_SANITIZE=1 $(BIN)/python setup.py --quiet build_ext --inplace --force
	ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc LD_PRELOAD="$(SANITIZERS)" \
	    $(BIN)/pytest -s $(CORE_TESTS); \
	    status=$$?; $(BIN)/python setup.py --quiet build_ext --inplace --force; exit $$status

wheel: $(VENV)/.dev  ## sdist, and the wheel built from it
	$(BIN)/python -m pip install --quiet build
	$(BIN)/python -m build

lock: $(VENV)/.dev  ## resolve the development environment anew for every supported Python
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --no-header --no-annotate --python-version 3.11 --group dev --output-file requirements.lock pyproject.toml

clean:  ## remove what was built
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find bridgecore -name '*.so' -delete
