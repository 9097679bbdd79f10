# `make help` lists the targets. Nothing is installed outside .venv and .tools.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash

PYTHONS := python3.13 python3.12 python3.11 python3
BIN     := .venv/bin
VENV    := .venv/.installed
# npm itself writes this file when an installation is complete
TOOLS   := .tools/node_modules/.package-lock.json
CLIENTS := .tools/clients/node_modules/.package-lock.json

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(VENV) $(TOOLS) $(CLIENTS) ## install what is locked: Python packages in .venv, the rest in .tools

.PHONY: demo
demo: $(VENV) ## verify and settle payments on a chain of their own, and tell the story
	@$(BIN)/python -m facilitator.demo

.PHONY: bench
bench: setup ## measure what a request costs, against a bare echo, on a chain of its own
	@$(BIN)/python -m tests.bench

.PHONY: bench-groups
bench-groups: setup ## measure what payments that share a transaction save, in transactions and gas
	@$(BIN)/python -m tests.bench.groups

# `make chaos SECONDS=300 SEED=7`; without a seed every run is another one.
SECONDS ?= 60
.PHONY: chaos
chaos: setup ## settle while everything fails and the service is killed, and judge by the chain
	@$(BIN)/python -m tests.chaos --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

# Most tests wait for blocks, so there may be more workers than cores: `make test WORKERS=8`.
WORKERS ?= 4
PYTEST  = pytest --numprocesses $(WORKERS) --dist worksteal

.PHONY: test
test: setup ## run every test, on real chains and real sockets
	@$(BIN)/python -m $(PYTEST)

.PHONY: coverage
coverage: setup ## run every test, show what none of them reaches, and hold the gate of 95 %
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m $(PYTEST)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

.PHONY: check
check: $(VENV) ## lint, formatting, types: what the CI checks beside the tests
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

.PHONY: format
format: $(VENV) ## format the code and mend what the linter can mend
	@$(BIN)/ruff check --fix --quiet
	@$(BIN)/ruff format

.PHONY: contracts
contracts: $(TOOLS) ## compile the Solidity sources into the committed artifacts
	@node facilitator/contracts/build.mjs
	@node facilitator/contracts/build.mjs --sources tests/contracts --out tests/contracts/artifacts

# The first lock holds everything that development needs; the second, what the service runs on, in
# the same versions. `make lock UPGRADE=--upgrade` takes newer releases.
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-config --custom-compile-command 'make lock' $(UPGRADE) pyproject.toml
.PHONY: lock
lock: $(VENV) ## pin the dependencies of pyproject.toml, with hashes
	@$(LOCK) --all-extras --output-file requirements-dev.lock
	@$(LOCK) --constraints requirements-dev.lock --output-file requirements.lock

.PHONY: clean
clean: ## remove what was built and installed here (databases stay)
	@rm -rf .venv .tools dist build htmlcov .coverage .coverage.* \
		.mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find facilitator tests -name __pycache__ -type d -prune -exec rm -rf {} +

# `make setup PYTHON=/path/to/python3.12` chooses the interpreter.
IN_RANGE := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
$(VENV): requirements-dev.lock pyproject.toml
	@set -euo pipefail; \
	if ! $(BIN)/python -c '$(IN_RANGE)' 2>/dev/null; then \
		found=; usable=; \
		for python in $(or $(PYTHON),$(PYTHONS)); do \
			"$$python" -c '$(IN_RANGE)' 2>/dev/null || continue; found=$$python; \
			"$$python" -c 'import ensurepip, venv' 2>/dev/null || continue; usable=$$python; break; \
		done; \
		[ -n "$$found" ] || { echo "error: no Python 3.11, 3.12 or 3.13 found (tried:" \
			"$(or $(PYTHON),$(PYTHONS))); install one, or name it: make setup PYTHON=/path/to/python" >&2; exit 1; }; \
		[ -n "$$usable" ] || { echo "error: $$found cannot make virtual environments;" \
			"on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }; \
		echo "making .venv with $$("$$usable" --version)"; \
		"$$usable" -m venv --clear .venv; \
	fi
	@echo "installing the locked Python packages into .venv"
	@$(BIN)/python -m pip --disable-pip-version-check -qq install --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip --disable-pip-version-check -qq install --no-deps --no-build-isolation -e .
	@touch $@

$(TOOLS): facilitator/contracts/package.json facilitator/contracts/package-lock.json
	@command -v npm >/dev/null || { echo "error: npm not found; install Node.js 20 or newer with npm," \
		"on Debian and Ubuntu: apt-get install nodejs npm" >&2; exit 1; }
	@# an older Node.js makes npm leave out anvil's binary without a word
	@node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' || { \
		echo "error: Node.js $$(node --version) is too old; install 20 or newer" >&2; exit 1; }
	@echo "installing anvil and solc into .tools"
	@mkdir -p .tools && cp $^ .tools/
	@npm ci --prefix .tools --no-audit --no-fund --no-update-notifier --loglevel=error >/dev/null
	@touch $@

# what the tests pay with; the recipe above has looked at Node.js and npm
$(CLIENTS): tests/clients/package.json tests/clients/package-lock.json | $(TOOLS)
	@echo "installing the official x402 packages for Node.js into .tools/clients"
	@mkdir -p .tools/clients && cp $^ .tools/clients/
	@npm ci --prefix .tools/clients --no-audit --no-fund --no-update-notifier --loglevel=error >/dev/null
	@touch $@
