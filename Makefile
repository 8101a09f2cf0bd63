# The two commands are `make repro` and `make test`; PYTHON and VENV may be set.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: repro test lint bench lock

repro: $(VENV)/train.stamp  ## prepare, train, export and evaluate, as far as something changed
	dvc repro

test: $(VENV)/dev.stamp  ## all tests
	pytest

lint: $(VENV)/dev.stamp  ## what pre-commit and CI check
	ruff check && ruff format --check && mypy && lint-imports

bench: $(VENV)/dev.stamp  ## measure the training settings side by side
	python benchmarks/training_cost.py

lock: $(VENV)/dev.stamp  ## requirements/ made anew from pyproject.toml
	requirements/lock

$(VENV)/%.stamp: requirements/%.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --no-compile -q -r $<
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps --no-build-isolation -e .
	touch $@
