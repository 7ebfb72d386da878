# The daily habits. `make help` lists them; every variable below can be given on the command line.

PYTHON ?= python3
VENV ?= .venv
# The version the tests run with. It goes in first, so that no dependency picks another build of torch.
TORCH ?= torch==2.13.0
# Passed on to the example (train) or to pytest (test).
ARGS ?=
# A process per core, at most four, each in its own part of the tests; ARGS="-n 0" runs them all in one, for --pdb or -s.
PYTEST := python -m pytest -n auto --maxprocesses 4 --dist worksteal

ACTIVATE := . "$(abspath $(VENV))/bin/activate"
INSTALLED := $(VENV)/.installed
OLDEST := $(VENV)-oldest

.PHONY: help train test test-oldest bench bench-full lint clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

# The stamp is touched last, so an interrupted installation starts again; both pip and venv skip what is there.
$(INSTALLED): setup.py pyproject.toml
	$(PYTHON) -m venv "$(VENV)"
	$(ACTIVATE) && python -m pip install "$(TORCH)"
	$(ACTIVATE) && python -m pip install -e ".[dev]"
	touch "$@"

train: $(INSTALLED)  ## install, then train the BabyAI example (ARGS="--help" shows its options)
	$(ACTIVATE) && accelerate launch examples/train_babyai.py $(ARGS)

test: $(INSTALLED)  ## install, then run the tests (ARGS="-k episodes" selects some)
	$(ACTIVATE) && $(PYTEST) $(ARGS)

# The lower bounds of setup.py, as exact versions.
$(OLDEST)/.installed: setup.py pyproject.toml
	$(PYTHON) -m venv "$(OLDEST)"
	grep -oE '[a-z-]+>=[0-9.]+' setup.py | sed 's/>=/==/' > "$(OLDEST)/constraints.txt"
	. "$(abspath $(OLDEST))/bin/activate" && python -m pip install --constraint "$(OLDEST)/constraints.txt" torch
	. "$(abspath $(OLDEST))/bin/activate" && python -m pip install --constraint "$(OLDEST)/constraints.txt" -e ".[dev]"
	touch "$@"

test-oldest: $(OLDEST)/.installed  ## the same with the oldest version that setup.py allows of everything it names
	. "$(abspath $(OLDEST))/bin/activate" && $(PYTEST) $(ARGS)

bench: $(INSTALLED)  ## measure AFSFT beside SFT, about 3 minutes of CPU time (writes outputs/bench)
	$(ACTIVATE) && python benchmarks/bench.py $(ARGS)

bench-full: $(INSTALLED)  ## the same with larger sizes and more rounds
	$(ACTIVATE) && python benchmarks/bench.py --full $(ARGS)

lint: $(INSTALLED)  ## check style and formatting
	$(ACTIVATE) && ruff check . && ruff format --check .

clean:  ## remove the environment, builds and caches, but no outputs
	rm -rf "$(VENV)" "$(OLDEST)" build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
