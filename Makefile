# `make help` lists the targets. Every target makes what it needs; all are safe to repeat.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Each process has torch in memory: more of them would not fit beside each other everywhere.
PARALLEL := --numprocesses auto --maxprocesses 4 --dist worksteal
.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint format types check bench clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The stamps depend on pyproject.toml alone: the installation is editable, so the sources need no second one.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "dlrun needs Python >= 3.11: set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "$(PYTHON) cannot make a virtual environment: install its venv module (python3-venv)"; exit 1; }

$(VENV)/.installed: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(VENV)/.installed ## set up and train on handwritten digits
	$(BIN)/dlrun train

test: $(VENV)/.installed-dev ## set up and pass the tests
	$(BIN)/python -m pytest $(PARALLEL)

test-slow: $(VENV)/.installed-dev ## the long tests too (kill -9 in a loop, compilation, real CIFAR-10)
	$(BIN)/python -m pytest $(PARALLEL) -m 'slow or not slow'

lint: $(VENV)/.installed-dev ## ruff: errors and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed-dev ## ruff: mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.installed-dev ## mypy, strict
	$(BIN)/mypy

check: lint types test ## all that CI runs

bench: $(VENV)/.installed-dev ## the benchmarks, each a ratio to a peer measured in the same run
	$(BIN)/python benchmarks/step_overhead.py
	$(BIN)/python benchmarks/input_pipeline.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/char_rnn.py
	$(BIN)/python benchmarks/augment.py
	$(BIN)/python benchmarks/sweep.py

clean: ## remove the environment and what the tools left (never runs/)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
