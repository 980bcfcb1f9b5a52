# lakestorm, from a fresh clone. Each target first makes what it needs, once.
#
#   make demo          raw flights to predictions in the lake
#   make test          the tests
#   make test-long     the tests that take minutes each
#   make test-airflow  the DAGs of conf/airflow in a real Airflow, which it gets into .venv-airflow
#   make check         format, lint, types, and which way imports go
#   make bench         the benchmarks, but for the next one
#   make bench-scale   10, 30 and 100 million rows through all stages: an hour, 33 GB of disk
#   make cluster-up    a Spark cluster, MLflow and the scheduler in containers; needs Docker
#   make cluster-demo  the flights pipeline on it, by spark-submit
#   make cluster-down  stops it; what it wrote stays in its volumes
#   make test-cluster  kills its parts by turns; what they leave is what an undisturbed run leaves
#   make setup         only .venv and Java, which the others make by themselves
#   make clean         removes everything that make made, the demo's lake too
#
# PYTHON names another Python to build .venv with: make PYTHON=python3.12 test
# pip's own settings apply: PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL can lead it to a smaller, CPU-only torch.

PYTHON ?= python3
# Installed packages are compiled when they are first imported, see PIP. Where the environment forbids to
# keep that, each process compiles torch again: five seconds instead of two.
unexport PYTHONDONTWRITEBYTECODE
# Where it is installed, and with which extras of pyproject.toml: the image has its own.
VENV ?= .venv
EXTRAS ?= demo images dates serve dev
# The release of torch that everything here was tested with.
TORCH := torch==2.13.0
# The release of Airflow that conf/airflow was tested with. Airflow's own constraints lie where not every
# machine can read them; without them pip finds versions that fit each other.
AIRFLOW := apache-airflow==3.3.2 apache-airflow-providers-standard==1.21.0

# Petastorm pins setuptools<70, torch wants >=77, and pip refuses the two together. Petastorm needs no
# setuptools when it runs, so it is installed without its dependencies, and they are named here.
PETASTORM := $(shell sed -n 's/^ *"\(petastorm==[^"]*\)".*/\1/p' pyproject.toml)
PETASTORM_NEEDS := dill diskcache fsspec future packaging pyzmq six

BIN := $(VENV)/bin
# What is never imported need not be compiled; what is, Python compiles by itself.
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --use-pep517 --no-compile
# Runs a command with Java at hand, and gets Java first where there is none.
JAVA := conf/java.sh
# Compose v2, or the older docker-compose.
COMPOSE = $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose) \
    --file docker/docker-compose.yml
MASTER := spark://spark-master:7077
PIPELINE := conf/pipelines/flights.yaml
SUBMIT = $(COMPOSE) run --rm submit spark-submit
TYPED := $(wildcard pipeline jobs tests benchmarks)

.PHONY: help setup demo test test-long test-airflow check bench bench-scale clean
.PHONY: cluster-image cluster-up cluster-demo cluster-down test-cluster

help:
	@sed -n 's/^#   //p' Makefile

setup: $(VENV)/ready
	@$(JAVA) true

demo: $(VENV)/ready
	$(JAVA) $(BIN)/lakestorm run conf/pipelines/flights.yaml

test: $(VENV)/spark-classes.jsa
	$(JAVA) $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 25

test-long: $(VENV)/spark-classes.jsa
	$(JAVA) $(BIN)/pytest -m long

test-airflow: $(VENV)/ready .venv-airflow/ready
	$(JAVA) $(BIN)/pytest -m airflow

check: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(TYPED)
	$(BIN)/lint-imports --no-logo

bench: $(VENV)/ready
	@for script in $(filter-out benchmarks/scale.py,$(sort $(wildcard benchmarks/*.py))); do \
	    echo "$$script"; $(JAVA) $(BIN)/python "$$script" || exit 1; \
	done

# Millions of rows, and a folder on a disk with room: make bench-scale SIZES="1 3" FOLDER=/data
bench-scale: $(VENV)/ready
	$(JAVA) $(BIN)/python benchmarks/scale.py $(if $(SIZES),--sizes $(SIZES)) $(if $(FOLDER),--folder $(FOLDER))

cluster-image:
	@for folder in $$PIP_FIND_LINKS; do \
	    cp --link --force $$folder/torch-*.whl docker/wheelhouse/ 2>/dev/null || \
	        cp $$folder/torch-*.whl docker/wheelhouse/ 2>/dev/null || true; \
	done
	$(COMPOSE) build

cluster-up: cluster-image
	$(COMPOSE) up --detach
	$(COMPOSE) run --rm submit lakestorm doctor $(PIPELINE) --master $(MASTER)

cluster-demo:
	$(SUBMIT) jobs/clean.py $(PIPELINE)
	$(SUBMIT) jobs/featurize.py $(PIPELINE)
	$(SUBMIT) jobs/train.py $(PIPELINE) --workers 2
	$(SUBMIT) jobs/score.py $(PIPELINE)
	$(SUBMIT) jobs/report.py $(PIPELINE)

cluster-down:
	$(COMPOSE) --profile job down

test-cluster: $(VENV)/ready
	$(BIN)/pytest -m containers -v --durations 25

clean:
	rm -rf .venv .venv-airflow .jre lake build dist spark-warehouse *.egg-info
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# .venv/ready is written last and holds the folder it was made in. A .venv that was interrupted, moved
# or whose Python is gone is made anew; one older than this file or pyproject.toml is brought up to date.
READY := $(shell $(BIN)/python -c "" 2>/dev/null && cat $(VENV)/ready 2>/dev/null)
ifneq ($(READY),$(CURDIR))
.PHONY: $(VENV)/ready
CLEAR := --clear
endif

$(VENV)/ready: pyproject.toml Makefile
	@command -v $(PYTHON) >/dev/null || \
	    { echo "$(PYTHON) was not found: install Python 3.11 or newer, or name one: make PYTHON=..."; exit 1; }
	@$(PYTHON) -c "$$CHECK_PYTHON"
	@echo "Installing lakestorm into $(VENV): a few minutes the first time."
	@rm -f $@
	$(PYTHON) -m venv $(CLEAR) $(VENV)
	@$(BIN)/python -c "$$REQUIREMENTS" $(EXTRAS) > $(VENV)/requirements.txt
	$(PIP) --requirement $(VENV)/requirements.txt $(PETASTORM_NEEDS) $(TORCH)
	$(PIP) --no-deps $(PETASTORM) --editable .
	@echo "$(CURDIR)" > $@

# Halves what each start of a Spark costs; the tests start dozens.
$(VENV)/spark-classes.jsa: $(VENV)/ready tests/java_classes.py
	@rm -f $@
	$(JAVA) $(BIN)/python -m tests.java_classes

# Airflow has an environment of its own: its packages and ours need not fit.
.venv-airflow/ready: Makefile
	@echo "Installing Airflow into .venv-airflow: a minute or two."
	@rm -f $@
	$(PYTHON) -m venv --clear .venv-airflow
	.venv-airflow/bin/python -m pip --disable-pip-version-check install --quiet $(AIRFLOW)
	@touch $@

# Runs on any Python, however old.
define CHECK_PYTHON
import sys
if sys.version_info < (3, 11):
    sys.exit("%s is Python %d.%d; lakestorm needs 3.11 or newer: make PYTHON=python3.12, for example"
             % ((sys.executable,) + tuple(sys.version_info[:2])))
try:
    import ensurepip, venv
except ImportError:
    sys.exit("%s lacks the module venv, or pip for it; on Debian or Ubuntu: apt-get install python3-venv"
             % sys.executable)
endef
export CHECK_PYTHON

# What pyproject.toml asks for, Petastorm excepted.
define REQUIREMENTS
import sys
import tomllib
with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
extras = project["optional-dependencies"]
wanted = [*project["dependencies"], *(one for extra in sys.argv[1:] for one in extras[extra])]
for requirement in wanted:
    if not requirement.startswith("petastorm"):
        print(requirement)
endef
export REQUIREMENTS
