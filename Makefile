# Everything a newcomer types: `make demo`, `make test`. Both build the environment first when it is missing.
#   make test PY=python3.12     the same with another interpreter, in its own environment
PY ?= python3
VENV := .venv$(if $(filter-out python3,$(PY)),-$(notdir $(PY)))
BIN := $(VENV)/bin
READY := $(VENV)/ready
# Bytecode of most modules is never needed, and compiling all of it is half of what an installation takes: Python does it on import.
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
DEMO := runs/demo
# Images of containers often forbid Python to keep the bytecode it has compiled: without it every start takes seconds longer.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help env demo test test-all lint gpu-check wheel lock clean
help:
	@echo "make demo       train a small decoder on real text and report what it finds beyond its length (5 minutes on 2 cores)"
	@echo "make test       linter, type checker and the fast tests      make test-all   the slow ones as well"
	@echo "make lint       ruff and mypy only                           make lock       refresh requirements.lock"
	@echo "make wheel      dist/lmarch-*.whl"
	@echo "make gpu-check  what this machine's GPU makes of it: correctness, speed, memory (6 minutes; JSON in benchmarks/results)"
	@echo "make mutations  small mistakes in the package, each of which the tests must notice"

env: $(READY)
$(READY): requirements.lock pyproject.toml
	@$(PY) -c 'import sys, ensurepip; v = sys.version_info; v >= (3, 11) or sys.exit("lmarch needs Python 3.11 or newer; $(PY) is %d.%d (try: make PY=python3.12)" % v[:2])'
	@echo "Building the environment in $(VENV) (once, about a minute) ..."
	@$(PY) -m venv $(VENV)
	@$(PIP) --no-compile --requirement requirements.lock
	@$(PIP) --no-deps --editable .
	@touch $@

demo: $(READY)
	$(BIN)/lmarch train --config=demo --workdir=$(DEMO)
	$(BIN)/lmarch eval --workdir=$(DEMO)

# A process a core; each begins with its share of the files, and who is done takes over from the others.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

test: $(READY) lint
	$(PYTEST)

test-all: $(READY) lint
	$(PYTEST) -m ""

mutations: $(READY)
	$(BIN)/python -m tests.mutations

lint: $(READY)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy

# With a network: an environment of its own, with JAX for CUDA 12. Without one, on a machine that has JAX for its GPU with flax,
# optax, orbax-checkpoint and matplotlib: make gpu-check PY=python3 WHEELS=wheels, where the folder `wheels` holds what else
# is imported. Elsewhere, for such a machine with Python 3.12 on Linux:
#   pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 \
#     --platform manylinux_2_17_x86_64 -d wheels grain array-record portpicker cloudpickle tensorboardX
# and as well flax, optax, orbax-checkpoint, etils in the versions of requirements.lock where the machine's may be older.
CUDA := .venv-cuda
SITE := $(CURDIR)/.venv-wheels
ifdef WHEELS
gpu-check:
	$(PY) -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile --upgrade --target $(SITE) \
	  $(WHEELS)/*.whl
	PYTHONPATH=$(SITE):$(CURDIR) PYTHONUNBUFFERED=1 $(PY) -m benchmarks.gpu_check $(ARGS)
else
gpu-check: $(CUDA)/ready
	PYTHONUNBUFFERED=1 $(CUDA)/bin/python -m benchmarks.gpu_check $(ARGS)
endif
$(CUDA)/ready: pyproject.toml
	@$(PY) -m venv $(CUDA)
	@$(CUDA)/bin/pip install --quiet --disable-pip-version-check --editable '.[cuda]'
	@touch $@

wheel:
	$(PY) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

lock: $(READY)
	$(PY) -m venv $(VENV)-lock && $(VENV)-lock/bin/pip install --quiet uv
	$(VENV)-lock/bin/uv pip compile pyproject.toml --extra dev --extra sweep --extra cluster --universal \
	  --python-version 3.11 --no-annotate --no-header --no-emit-index-url --upgrade --output-file requirements.lock
	rm -rf $(VENV)-lock

clean:
	rm -rf .venv .venv-* runs .cache dist
