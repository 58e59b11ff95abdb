# Everything a person or CI calls. `make` alone lists it.
PYTHON ?= $(shell for p in python3.12 python3.11 python3 python; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && \
	{ echo $$p; break; }; done)
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
READY_TEST := $(VENV)/.installed-test
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -q --no-compile -c constraints.txt
# pip would compile 150 packages on one core; this takes all cores. It fails on templates that are no Python yet.
COMPILE := $(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo setup test test-slow test-browser lint audit repro serve ui clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY) ## set up, then run the whole pipeline on drawn pictures (8 to 14 minutes on 2 cores)
	$(BIN)/dsrg run

setup: $(READY) ## make .venv and install everything

test: $(READY_TEST) ## set up, then run the fast tests
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

test-slow: $(READY_TEST) ## the tests that take longer
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "slow and not gpu and not browser" $(PYTEST_ARGS)

test-browser: $(READY_TEST) ## the tests that drive a browser; they need chromium (apt-get install chromium)
	$(BIN)/python -m pytest -m "browser" $(PYTEST_ARGS)

lint: $(READY_TEST) ## format check, ruff and mypy
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

audit: $(BIN)/python ## ask PyPI which of the pinned packages have known weaknesses (needs the network)
	$(BIN)/python -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip install --disable-pip-version-check -q pip-audit
	$(VENV)/audit/bin/pip-audit -r constraints.txt --no-deps --disable-pip

repro: $(READY) ## the same pipeline through DVC alone
	$(BIN)/dsrg stages
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/dvc repro

serve: $(READY) ## the Prefect UI on http://127.0.0.1:4200 (and MLflow's on 5000): start, watch and cancel runs
	$(BIN)/dsrg serve

ui: $(READY) ## compare all runs in MLflow's UI on http://127.0.0.1:5000
	$(BIN)/mlflow ui --backend-store-uri "sqlite:///$(abspath mlflow.db)" --host 127.0.0.1

clean: ## remove what the pipeline made here; DVC's cache and .venv stay
	rm -rf data reports report.html .work mlflow.db mlruns mlartifacts

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found; name one: make PYTHON=/path/to/python3" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(READY): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e .
	@$(COMPILE)
	@touch $@

$(READY_TEST): pyproject.toml constraints.txt $(READY)
	$(INSTALL) -e '.[test]'
	@$(COMPILE)
	@touch $@
