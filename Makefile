# `make train` and `make test` set everything up on a fresh machine, then do their job; both are cheap to call again.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# A model of the built-in faces in a few minutes on two cores. Called again it continues, or says that all is done.
TRAIN_RUN ?= runs/first
TRAIN_OPTIONS ?= --data drawn --image-size 32 --width 32 --batch-size 64 --iterations 1800

.PHONY: train test lint types check clean

train: $(READY)
	$(BIN)/igan-fast train --run $(TRAIN_RUN) --resume $(TRAIN_OPTIONS)

test: $(READY)
	$(BIN)/pytest

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-cache

types: $(READY)
	$(BIN)/mypy

check: test lint types

$(READY): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "igan_fast needs Python 3.10 or newer; %s is %s. Name another with: make PYTHON=..." % (sys.executable, sys.version.split()[0]))'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt setuptools wheel torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
