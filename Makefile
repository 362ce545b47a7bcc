# make demo and make test set everything up by themselves: a virtual environment, the packages, then the work.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
JOBS ?= 2

.PHONY: demo test lint typecheck bench clean

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[all]'
	touch $(STAMP)

demo: $(STAMP)  ## the whole story on the embedded data, ending with the table
	PATH="$(CURDIR)/$(BIN):$$PATH" bash train/pipeline.sh demo

test: $(STAMP) lint typecheck  ## every test, the slow ones too, in JOBS processes
	$(BIN)/python -m pytest --numprocesses=$(JOBS) --dist=loadfile

lint: $(STAMP)
	$(BIN)/ruff check .

typecheck: $(STAMP)
	$(BIN)/mypy

bench: $(STAMP)  ## measure again what the README's table shows; needs EDGEDET_DATA
	PATH="$(CURDIR)/$(BIN):$$PATH" bash benchmarks/cifake.sh

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache
