# The two commands are `make repro` and `make test`; PYTHON and VENV may be set.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
export PATH := $(abspath $(BIN)):$(PATH)
# Compiled once and kept: the training stack takes twice as long to import from source.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: repro monitor rehearse serve image serve-image test check lint bench soak lock

repro: $(VENV)/train.stamp  ## prepare, train, export and evaluate, as far as something changed; then an answer
	dvc repro
	evergreen predict "Thanks for the quick rebooking!"

test: $(VENV)/dev.stamp  ## all tests
	pytest

check: lint  ## what to run before each commit: the linters and the quick tests
	pytest -m "not slow"

lint: $(VENV)/dev.stamp  ## what pre-commit and CI check
	ruff check && ruff format --check && mypy && lint-imports
	.ci/lint-workflows

monitor: $(VENV)/train.stamp  ## a short replay: the alarm goes off, and the report that explains it, after make repro
	evergreen replay quickstart

rehearse: $(VENV)/dev.stamp  ## the whole loop on this machine, told as a page, after make repro
	PYTHONPATH=tests:tests/workflows:tests/deployment python tests/rehearsal/rehearse.py $(FLAGS)

serve: $(VENV)/train.stamp  ## live, batch and video on http://127.0.0.1:8000, after make repro
	evergreen serve

image:  ## the container, with the bundles under models/ (docker, buildah or podman)
	docker/build

serve-image:  ## the container on http://127.0.0.1:8000, after make image (docker or podman)
	docker/run

bench: $(VENV)/dev.stamp  ## measure training settings, forms of quantization, detection, serving (needs wrk)
	python benchmarks/training_cost.py
	python benchmarks/quantization.py
	python benchmarks/video_detect.py --minutes 1 5
	python benchmarks/serving.py

soak: $(VENV)/dev.stamp  ## ten thousand odd requests, a hundred kills under load, half an hour of memory
	python tests/serving/fuzz.py --requests 10000
	PYTHONPATH=tests:tests/serving python benchmarks/soak.py

lock: $(VENV)/dev.stamp  ## requirements/ made anew from pyproject.toml
	requirements/lock

# Without dependencies, since the lock names them all, and without compiling what no stage imports.
PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check -qq --no-deps
$(VENV)/%.stamp: requirements/%.txt pyproject.toml
	@echo "Setting up $(VENV) from $<: a few minutes the first time"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) --no-compile -r $<
	@$(PIP_INSTALL) --no-build-isolation -e .
	@touch $@
