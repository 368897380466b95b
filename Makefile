# make demo, make test, make test-fast, make lint, make bench, make gpu. The first call makes $(VENV) and fills it (several GB, a few minutes);
# after that no target needs a network. VENV may be shared between checkouts: each runs its own code (PYTHONPATH).
VENV ?= .venv
PYTHON ?= python3
DEMO_ARGS ?=
PYTEST_ARGS ?=
BENCH_ARGS ?=
GPU_ARGS ?=

RUN := $(VENV)/bin/python
STAMP := $(VENV)/.invsolve-installed
export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))

.PHONY: demo test test-fast lint bench gpu install clean
.DEFAULT_GOAL := test
.DELETE_ON_ERROR:

demo: $(STAMP)
	$(RUN) -m invsolve demo $(DEMO_ARGS)

# One process a core: conftest.py says how many those are, and bounds the threads of each. What comes last wins:
# PYTEST_ARGS="-n 0" is one process, which a debugger needs.
PYTEST := $(RUN) -m pytest -n auto --dist worksteal

test: $(STAMP)
	$(PYTEST) $(PYTEST_ARGS)

test-fast: $(STAMP)
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

lint: $(STAMP)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

bench: $(STAMP)
	$(RUN) benchmarks/overhead.py $(BENCH_ARGS)

gpu: $(STAMP)
	$(RUN) benchmarks/gpu.py --out docs $(GPU_ARGS)

install: $(STAMP)

# The build tools come first, so that the editable install needs no isolated environment, which pip would download again.
# On a filled venv both lines find everything installed, and need no network.
$(STAMP): pyproject.toml
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install "hatchling>=1.26" "editables>=0.5"
	$(RUN) -m pip install --no-build-isolation --editable ".[dev]"
	touch $@

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache
	find invsolve tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
