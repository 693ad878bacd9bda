# Every target sets up what it needs in .venv; nothing else on the machine is touched.
#   make demo       train a deep residual network and its plain twin, take both apart, write a report
#   make test       the fast tests          make test-all   all tests
#   make lint       ruff and mypy           make setup      only .venv
#   make docs       the documentation as a site, in site/ (with an environment of its own, .venv-docs)
# Another interpreter or other versions: make test PYTHON=python3.13 REQUIREMENTS=requirements/oldest.txt VENV=.venv-oldest

PYTHON ?= python3
VENV ?= .venv
REQUIREMENTS ?= requirements/pinned.txt
DOCS_VENV ?= .venv-docs
DEMO_DIR ?= runs/demo
BIN := $(VENV)/bin

.PHONY: setup demo demo-smoke test test-all lint docs clean
setup: $(VENV)/ready

$(VENV)/ready: $(REQUIREMENTS) setup.cfg setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "resjax needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
	       "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@echo "Setting up $(VENV) (once; about 1 GB) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(REQUIREMENTS)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

demo: setup
	$(BIN)/python -m resjax.demo --workdir=$(DEMO_DIR)

demo-smoke: setup
	$(BIN)/python -m resjax.demo --smoke --workdir=$(DEMO_DIR)-smoke

test: setup
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

test-all: setup
	$(BIN)/python -m pytest -n auto --dist worksteal

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(DOCS_VENV)/ready
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/python -m mkdocs build --strict
	@echo "Open site/index.html, or serve it, for its search: python3 -m http.server -d site"

$(DOCS_VENV)/ready: requirements/docs.txt
	@$(PYTHON) -m venv $(DOCS_VENV)
	@$(DOCS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/docs.txt
	@touch $@

clean:
	rm -rf $(VENV) $(DOCS_VENV) site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
