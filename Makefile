# `make demo` and `make test` set up everything that they need; see the README.
SHELL := /usr/bin/env bash
.SHELLFLAGS := -o pipefail -c

# The first Python of the range that can make an environment: one that is only a pyenv shim, or that lacks ensurepip, is
# passed over. Another one: make PYTHON=/path/to/python.
VERSIONS := 3.12 3.11 3.13 3.10
USABLE := import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))
PYTHON ?= $(shell for p in $(VERSIONS:%=python%) python3 python; do "$$p" -c '$(USABLE)' >/dev/null 2>&1 && echo "$$p" && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-from-constraints
# Some pip configurations name indices that hold few packages, and pip warns of each package that is not there.
QUIETER := grep --line-buffered -v "^WARNING: Location .* is ignored: it is neither a file nor a directory"

.PHONY: demo test test-cluster lint docs install wheelhouse clean

install: $(STAMP)

$(STAMP): constraints.txt setup.cfg setup.py pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python 3.10 to 3.13 with venv and ensurepip on the PATH: make PYTHON=/path/to/python" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): about 7 GB with torch's CUDA libraries, a few minutes"
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]' 2> >($(QUIETER) >&2)
	touch $@

demo: $(STAMP)
	$(BIN)/cps4 demo --output demo_output

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy cps4_monai

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal --durations 15 --cov

# What takes a minute or longer: real processes that are killed and started again, hundreds of scans on workers.
test-cluster: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m cluster --durations 15

# All that a machine without a network needs, in one folder with hashes: docs/how-to/offline-machines.md. DATA=FOLDER
# takes a data set along; TORCH=2.13.0+cpu another torch than the pinned one; EXTRAS and WEIGHTS may be fewer.
WHEELHOUSE ?= wheelhouse
EXTRAS ?= dev
WEIGHTS ?= vit-s-focus minilm-l6
wheelhouse: $(STAMP)
	$(BIN)/python offline/wheelhouse.py fill $(WHEELHOUSE) --extras $(EXTRAS) $(if $(TORCH),--torch $(TORCH)) \
		$(if $(WEIGHTS),--weights $(WEIGHTS)) $(if $(DATA),--data $(DATA))

# The site of docs/, built without a network once its few packages are there; a broken link fails it.
DOCS_VENV ?= .venv-docs
$(DOCS_VENV)/.installed: docs/requirements.txt
	test -x $(DOCS_VENV)/bin/python || $(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip install --quiet --requirement $< 2> >($(QUIETER) >&2)
	touch $@

docs: $(DOCS_VENV)/.installed
	$(DOCS_VENV)/bin/sphinx-build -W --keep-going -b html docs build/docs

clean:
	rm -rf $(DOCS_VENV) $(VENV) demo_output build dist *.egg-info
