# `make demo` and `make test` set up everything that they need; see the README.
PYTHON ?= $(shell for v in 3.12 3.11 3.13; do command -v python$$v >/dev/null && python$$v -c 'import venv' 2>/dev/null && echo python$$v && exit; done; echo python3)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-from-constraints

.PHONY: demo test lint install clean

install: $(STAMP)

$(STAMP): constraints.txt setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/cps4 demo --output demo_output

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy cps4_monai

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

clean:
	rm -rf $(VENV) demo_output build dist *.egg-info
