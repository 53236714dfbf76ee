# Everything a newcomer, a developer and CI run. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.9
JSON ?=
SPIRE ?=
PYTEST_ARGS ?=
SEED ?=
CALLERS ?=
# bash counts in SECONDS itself: only what make was given counts
FAULT_SECONDS := $(SECONDS)

.PHONY: help demo test test-live tools go-tools check bench faults faults-table coverage fmt docs clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(VENV)/ready: pyproject.toml uv.lock
	@$(PYTHON) -c 'import sys; sys.exit("Stepwrit needs Python 3.11 or newer; found " + sys.version.split()[0] + ". Try: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV) (once) ..." >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)" >&2
	@$(BIN)/uv sync --quiet --frozen --inexact --all-extras >&2
	@touch $@

demo: $(VENV)/ready $(if $(SPIRE),go-tools) ## the main job on embedded defaults, as a story (JSON=1: one object; SPIRE=1: on real SPIRE)
	@$(BIN)/stepwrit demo $(if $(JSON),--json,) $(if $(SPIRE),--spire,)

test: $(VENV)/ready ## all tests that need only Python
	@$(BIN)/python -m pytest -m "not live" $(PYTEST_ARGS)

test-live: $(VENV)/ready ## the long and live suites; a missing server or tool fails
	@$(BIN)/python -m pytest -m "live" $(PYTEST_ARGS)

tools: go-tools ## what live tests and SPIRE=1 run, built with Go and installed by npm, into a cache outside the checkout
	@$(BIN)/python -m stepwrit_broker.dev.suites

go-tools: $(VENV)/ready
	@$(BIN)/python -m stepwrit_broker.dev.tools

check: $(VENV)/ready ## lint, types, import rules, spelling
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-cache | tail -n 12
	@$(BIN)/mypy
	@$(BIN)/pyright
	@$(BIN)/codespell agents broker tests docs deploy README.md CHANGELOG.md SECURITY.md CONTRIBUTING.md

bench: $(VENV)/ready ## cycles per second, latency and CPU against a floor measured in the same run (JSON=1; FLEET=1: brokers on Redis and PostgreSQL)
	@$(BIN)/python -m tests.bench$(if $(FLEET),.fleet) $(if $(JSON),--json,)

faults: $(VENV)/ready ## break processes, disks, clocks and networks under load; prove nothing is lost (JSON=1 SEED= SECONDS= CALLERS=)
	@$(BIN)/python -m tests.faults $(if $(JSON),--json,) $(if $(SEED),--seed $(SEED),) $(if $(FAULT_SECONDS),--seconds $(FAULT_SECONDS),) $(if $(CALLERS),--callers $(CALLERS),)

faults-table: $(VENV)/ready ## the same, and the table in docs/reference is written anew
	@$(BIN)/python -m tests.faults --table docs/reference/fault-table.md $(if $(SEED),--seed $(SEED),) $(if $(FAULT_SECONDS),--seconds $(FAULT_SECONDS),) $(if $(CALLERS),--callers $(CALLERS),)

coverage: $(VENV)/ready ## branch coverage: 100% of core and flows, 95% elsewhere
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest -m "not live" $(PYTEST_ARGS)
	@$(BIN)/coverage combine -q
	@$(BIN)/coverage report --include='*/core/*,*/flows/*' --fail-under=100
	@$(BIN)/coverage report --fail-under=95

fmt: $(VENV)/ready ## format the code
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

docs: $(VENV)/ready ## regenerate the generated references
	@$(BIN)/python -m stepwrit_broker.config > docs/reference/configuration.md
	@$(BIN)/python -m stepwrit_broker.config schema > docs/reference/schemas/broker.schema.json
	@$(BIN)/python -m tests.refusals.table > docs/reference/spiffe-refusals.md

clean: ## remove the virtual environment and caches
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
