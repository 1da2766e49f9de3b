# Every target sets up what it needs in .venv; only Python 3.11+ and make have to be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
export PYTHONHASHSEED := 0

.DEFAULT_GOAL := help
.PHONY: help install dev demo test check format docs bench clean

help:
	@echo "make demo    diagnose the shipped organisms and write runs/demo/report.html"
	@echo "make test    run the test suite"
	@echo "make check   format, lint, types, import floors"
	@echo "make bench   measure what the docs claim"
	@echo "make docs    redraw README's picture and table from a demo run"
	@echo "make clean   remove .venv and runs"

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "setting up $(VENV): a few minutes the first time"
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(INSTALL) -e ".[dev]"
	@touch $@

install: $(VENV)/.installed

dev: $(VENV)/.dev

demo: install
	$(BIN)/latentprobe demo

test: dev
	$(BIN)/python -m pytest --cov --cov-report=term

check: dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright -p . --pythonpath $(BIN)/python
	$(BIN)/lint-imports --no-cache

format: dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: install
	$(BIN)/python docs/render_readme.py

bench: install
	$(BIN)/latentprobe bench attention

clean:
	rm -rf $(VENV) runs .pytest_cache .coverage
