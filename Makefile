# Everything runs in .venv, which is made from constraints.txt when it is missing or out of date.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: quickstart test lint install
.DEFAULT_GOAL := quickstart

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

quickstart: install
	$(BIN)/mtm quickstart

test: lint
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
