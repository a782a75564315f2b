# Everything a newcomer types: `make demo`, `make test`. Both build the environment first when it is missing.
#   make test PY=python3.12     the same with another interpreter, in its own environment
PY ?= python3
VENV := .venv$(if $(filter-out python3,$(PY)),-$(notdir $(PY)))
BIN := $(VENV)/bin
READY := $(VENV)/ready
DEMO := runs/demo

.PHONY: help env demo test test-all fast-tests all-tests lint lock clean
help:
	@echo "make demo       train a small decoder on real text and report how it extrapolates (10 minutes on 2 cores)"
	@echo "make test       linter, type checker and the fast tests      make test-all   the slow ones as well"
	@echo "make lint       ruff and mypy only                           make lock       refresh requirements.lock"

env: $(READY)
$(READY): requirements.lock pyproject.toml
	@$(PY) -c 'import sys, ensurepip; v = sys.version_info; v >= (3, 11) or sys.exit("lmarch needs Python 3.11 or newer; $(PY) is %d.%d (try: make PY=python3.12)" % v[:2])'
	@echo "Building the environment in $(VENV) (once, about a minute) ..."
	@$(PY) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

demo: $(READY)
	$(BIN)/python train.py --config=configs/demo.py --workdir=$(DEMO)
	$(BIN)/python eval.py --workdir=$(DEMO)

# A process a core; each begins with its share of the files, and who is done takes over from the others.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

# The type checker has one process: the tests go on beside it.
test: $(READY)
	@$(MAKE) --no-print-directory --jobs 2 lint fast-tests

test-all: $(READY)
	@$(MAKE) --no-print-directory --jobs 2 lint all-tests

fast-tests: $(READY)
	$(PYTEST)

all-tests: $(READY)
	$(PYTEST) -m ""

lint: $(READY)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy

lock: $(READY)
	$(PY) -m venv $(VENV)-lock && $(VENV)-lock/bin/pip install --quiet uv
	$(VENV)-lock/bin/uv pip compile pyproject.toml --extra dev --extra sweep --extra cluster --universal \
	  --python-version 3.11 --no-annotate --no-header --no-emit-index-url --upgrade --output-file requirements.lock
	rm -rf $(VENV)-lock

clean:
	rm -rf .venv .venv-* runs .cache
