# Targets for working on the bridge; `make help` lists them.
#
# Each target first makes what it needs and what is not made yet: the environment in .venv, from the exact versions of
# the lock files. Only Python 3.11 or newer and make must be installed.

PYTHON ?= python3
WORKERS ?= auto
VENV := .venv
RUN := $(VENV)/bin/python
PYTEST := $(RUN) -m pytest -n $(WORKERS) --dist worksteal
PIP := $(RUN) -m pip --quiet --disable-pip-version-check --no-input
# Dozens of tests start the program, and each process of pytest imports all of them: they must not compile it each time.
unexport PYTHONDONTWRITEBYTECODE
RUNTIME := $(VENV)/.runtime-installed
DEV := $(VENV)/.dev-installed
ORACLES := tests/oracles/node_modules/.installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test campaign check bench screenshots lock clean environment livekit

help: ## list the targets
	@echo "usage: make TARGET [NAME=value]…"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(RUNTIME) ## see it work, with no account: until Ctrl-C, or for DURATION=20s
	@$(RUN) -m bridge demo $(if $(DURATION),--duration $(DURATION))

test: environment ## run the tests on WORKERS=auto processes; ARGS="-k name" picks some
	@$(PYTEST) -m "not campaign" $(ARGS)

campaign: environment livekit ## run what takes minutes: hundreds of kills, long replays, many random histories
	@$(PYTEST) -m "campaign or hypothesis" --hypothesis-profile campaign $(ARGS)

check: environment ## lint, format, types, floors, then the tests
	@echo "ruff check" && $(RUN) -m ruff check .
	@echo "ruff format --check" && $(RUN) -m ruff format --check .
	@echo "mypy" && $(RUN) -m mypy
	@echo "lint-imports" && $(VENV)/bin/lint-imports
	@$(MAKE) --no-print-directory test

bench: $(DEV) ## measure it, as a Markdown table; ARGS="--only chain --json FILE"
	@$(RUN) -m benchmarks $(ARGS)

screenshots: $(DEV) ## take the pictures of README: needs Chromium
	@$(RUN) -m tests.screenshots

lock: ## write the lock files from pyproject.toml; UPGRADE=1 takes the newest versions
	@$(PYTHON) -m venv build/uv && build/uv/bin/python -m pip --quiet --disable-pip-version-check install uv
	@printf 'hatchling\neditables\n' | build/uv/bin/uv pip compile $(COMPILE) pyproject.toml - -o requirements.lock
	@build/uv/bin/uv pip compile $(COMPILE) --group dev --constraints requirements.lock -o requirements-dev.lock
	@echo "requirements.lock: what runs and builds the bridge; requirements-dev.lock: what tests and checks it"

# Versions only, for every platform: no hashes, no addresses. The project itself is built with what the lock names.
COMPILE := --quiet --universal --python-version 3.11 --custom-compile-command 'make lock' --no-annotate --no-emit-index-url $(if $(UPGRADE),--upgrade)

environment: $(DEV) $(ORACLES) ## only make what the tests need

livekit: environment ## only build the livekit-server that tests need (Go; some minutes, once)
	@$(RUN) -m tests.harness.livekit

clean: ## remove what was made: the environment, caches, builds
	@rm -rf $(VENV) .cache build dist tests/oracles/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUN):
	@command -v $(PYTHON) > /dev/null || { echo "error: there is no $(PYTHON): install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $$($(PYTHON) --version 2>&1) is too old: Python 3.11 or newer is needed; name one with make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "error: $(PYTHON) cannot make a virtual environment: on Debian and Ubuntu, install python3-venv" >&2; exit 1; }

$(RUNTIME): requirements.lock pyproject.toml | $(RUN)
	@echo "Installing what the bridge needs (requirements.lock)"
	@$(PIP) install --no-deps -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV): requirements-dev.lock $(RUNTIME)
	@echo "Installing what the tests and checks need (requirements-dev.lock)"
	@$(PIP) install --no-deps -r requirements-dev.lock
	@touch $@

# Other people's implementations, which some tests compare with. Without npm those tests are skipped; under CI they fail.
$(ORACLES): tests/oracles/package-lock.json
	@if ! command -v npm > /dev/null; then \
	    echo "There is no npm: the tests that compare with Node packages are skipped"; \
	elif echo "Installing the Node packages that tests compare with" && npm ci --prefix tests/oracles --no-audit --no-fund --loglevel error > /dev/null; then \
	    touch $@; \
	elif [ -n "$$CI" ]; then \
	    exit 1; \
	else \
	    echo "npm failed: the tests that compare with Node packages are skipped" >&2; \
	fi
