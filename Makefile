# make quickstart   install into .venv, fetch the data and models, run sweeps/quickstart.yaml
# make test         lint, types, tests; those of SLURM are skipped where none is installed
# make lint         ruff format --check, ruff check
# make bench        benchmarks/*.py
# make coverage     tests with line and branch coverage
# make clean        remove .venv and caches; results and downloads stay
#
# PYTHON=...        the interpreter for .venv (3.10 to 3.12)
# TEST_WORKERS=...  tests at a time (as many as there are cores, 4 at most); those of SLURM and a browser go one by one
# TORCH_INDEX=...   another index for torch, for example https://download.pytorch.org/whl/cpu for a small CPU build

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: quickstart test lint types bench coverage clean

BIN := .venv/bin
TEST_WORKERS ?= auto
# A file stays with one worker, so that what its tests share is made once.
SIDE_BY_SIDE := -n $(TEST_WORKERS) --maxprocesses 4 --dist loadfile
SUPPORTED := import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info < (3, 13))
# Run, not only found: version managers put commands on PATH that fail when called.
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.10; do \
    $$p -c '$(SUPPORTED)' 2>/dev/null && { echo $$p; break; }; done)

quickstart: .venv/installed
	$(BIN)/w2s sweep sweeps/quickstart.yaml

test: lint types
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)
	$(BIN)/python -m pytest -m recipe $(SIDE_BY_SIDE)
	$(BIN)/python -m pytest -m slurm
	$(BIN)/python -m pytest -m browser

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/installed
	$(BIN)/mypy

bench: .venv/installed
	for file in benchmarks/*.py; do $(BIN)/python "$$file"; done

coverage: .venv/installed
	mkdir -p .coverage
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine
	$(BIN)/coverage report

# Installs again when what is asked for changes; a stopped install is done again. DS_BUILD_OPS=0: no compiler needed.
.venv/installed: setup.cfg pyproject.toml constraints.txt
	@[ -n "$(PYTHON)" ] || { echo "w2s needs Python 3.10, 3.11 or 3.12 with venv; none was found on PATH." \
	  "Install one (Debian: apt-get install python3-venv), or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c '$(SUPPORTED)' 2>/dev/null || { echo "PYTHON=$(PYTHON) is not a working Python 3.10 to 3.12" \
	  "with venv" >&2; exit 1; }
	@$(BIN)/python -c '$(SUPPORTED)' 2>/dev/null || $(PYTHON) -m venv --clear .venv
	@echo "Installing into .venv with $$($(BIN)/python --version); the first time this takes some minutes"
	@DS_BUILD_OPS=0 $(BIN)/python -m pip install --disable-pip-version-check \
	  $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt -e '.[test]' 2>&1 \
	  | tee .venv/install.log | awk -v tty="$$(test -t 1 && echo 1 || true)" \
	    '/^ERROR/ {print} tty && /^(Collecting|  Downloading|Installing)/ {printf "\r\033[K%s", substr($$0, 1, 78); fflush()} \
	     END {if (tty) printf "\r\033[K"}' \
	  || { tail -n 20 .venv/install.log; echo "The installation failed; all of it is in .venv/install.log" >&2; exit 1; }
	@touch $@
	@$(BIN)/python -c 'from importlib.metadata import version as v; print("Installed: w2s", v("w2s") + ", torch", v("torch"))'

clean:
	rm -rf .venv build .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache *.egg-info
	find w2s tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
