# Two commands set everything up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# A worker for each core, up to four: each holds PyTorch and compiles nothing twice that a file's tests share.
PARALLEL := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: help demo test test-slow faults check bench clean

help:
	@echo "make demo       train a tiny pix2pix, export it, run it on a video (about 5 minutes)"
	@echo "make test       all tests but the slow ones"
	@echo "make test-slow  the slow tests too"
	@echo "make faults     inject every known fault and print which are survived"
	@echo "make check      ruff, ruff format, mypy"
	@echo "make bench      short benchmarks, and docs/benchmarks.md of them (about 16 minutes)"

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "i2i needs Python 3.10 or newer; make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
# OpenCV with windows needs libGL, which servers and containers lack; its headless twin needs nothing.
	@$(BIN)/python -c 'import cv2' 2>/dev/null || { \
		echo "opencv-python cannot load here (no libGL?): using opencv-python-headless, without --show"; \
		$(BIN)/pip uninstall --quiet --yes opencv-python; \
		$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt opencv-python-headless; }
	@touch $@

demo: $(INSTALLED)
	$(BIN)/python docs/demo.py --out demo-results

# What compares times comes last, with nothing beside it.
test: $(INSTALLED)
	$(BIN)/python -m pytest $(PARALLEL)
	$(BIN)/python -m pytest -m quiet

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest $(PARALLEL) -m "not quiet"
	$(BIN)/python -m pytest -m quiet

faults: $(INSTALLED)
	$(BIN)/python -m pytest $(PARALLEL) -m fault --fault-table

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)
	$(BIN)/python benchmarks/refresh.py

clean:
	rm -rf $(VENV) build dist demo-results bench-results .mypy_cache .ruff_cache .pytest_cache .hypothesis
