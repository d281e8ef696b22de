# `make demo` forgets a person from a real model; `make test` runs the tests. Both set up .venv first.
PYTHON ?= python3
BIN = .venv/bin
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: install demo docs test test-slow lint coverage build wheel lowest clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rkld needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# The documentation as a site, in build/site; every link is checked.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

demo: install
	$(BIN)/rkld demo

test: install
	$(PYTEST) -m 'not slow'

test-slow: install
	-$(MAKE) build/transformers-4 build/deepspeed
	$(PYTEST) -m slow

# A Python with transformers 4, which must read what rkld writes; the test that needs it is skipped without it.
build/transformers-4: tests/transformers-4.txt
	$(PYTHON) -m venv --clear $@
	$@/bin/python -m pip install --quiet --disable-pip-version-check -r tests/transformers-4.txt || (rm -rf $@; exit 1)
	touch $@

# DeepSpeed and what it needs beside the packages of .venv; the test under ZeRO-2 is skipped without it.
build/deepspeed: tests/deepspeed.txt install
	rm -rf $@
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $@ -r tests/deepspeed.txt || (rm -rf $@; exit 1)
	touch $@

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check

coverage: install
	$(PYTEST) -m 'not slow' --cov --cov-report=term-missing:skip-covered

# Source distribution and wheel in dist/, the same bytes from the same commit: dates are the commit's.
build: install
	rm -rf dist
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m build --no-isolation --outdir dist .
	sha256sum dist/*

# Wheel and source distribution, each alone in a clean environment: the command, its data files, the demo's first phase.
wheel: build
	for archive in dist/*.tar.gz dist/*.whl; do \
	  $(PYTHON) -m venv --clear build/clean && \
	  build/clean/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "$$archive[demo]" && \
	  build/clean/bin/python -P tests/wheel.py || exit 1; \
	done

# The tests with the lowest versions that pyproject.toml declares.
lowest:
	$(PYTHON) -m venv --clear build/lowest
	build/lowest/bin/python -m pip install --quiet --disable-pip-version-check -c tests/lowest.txt -e '.[dev]'
	OMP_NUM_THREADS=1 build/lowest/bin/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder -m 'not slow'

clean:
	rm -rf .venv build dist
