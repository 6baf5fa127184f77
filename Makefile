# Two commands set everything up on a machine with Python 3.10-3.13 and nothing else:
#   make demo    registers a phantom pair and says where the picture lies
#   make test    runs the test suite
# `make PYTHON=python3.12 …` picks the interpreter, `make PIP_FLAGS=… ` passes flags to pip.

PYTHON    ?= $(shell command -v python3.11 || command -v python3)
VENV      ?= .venv
BIN       := $(VENV)/bin
PIP_FLAGS ?=
INSTALL   := $(BIN)/python -m pip install --quiet $(PIP_FLAGS) -c constraints.txt

# Workers of the test suite; each computes with one thread.
WORKERS   ?= 2
TEST_ENV  := OMP_NUM_THREADS=1 ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS=1

.PHONY: demo test test-cluster lint docs constraints audit clean

demo: $(VENV)/.runtime
	$(BIN)/carl demo -o demo-output --overwrite

test: $(VENV)/.dev
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS)

# As root, on a machine of your own: it starts a Slurm cluster of one node.
test-cluster: $(VENV)/.dev
	tests/batch/slurm/install_slurm.sh
	$(TEST_ENV) $(BIN)/python -m pytest -m cluster

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The command reference in docs/ is the help text of the commands.
docs: $(VENV)/.dev
	$(BIN)/python docs/generate_cli.py

constraints: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.10 \
	  --no-header --no-annotate --output-file constraints.txt

# Known weaknesses of the pinned packages; asks the advisory data of PyPI, so it needs the network.
audit:
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install --quiet $(PIP_FLAGS) pip-audit
	$(VENV)-audit/bin/pip-audit --disable-pip --no-deps -r constraints.txt

clean:
	rm -rf $(VENV) $(VENV)-audit demo-output

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v < (3, 14) else f"Python 3.10-3.13 is needed, found {v[0]}.{v[1]}: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) -e .
	touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(INSTALL) -e '.[dev,train,cluster,bids]'
	touch $@
