# make demo and make test need only this file's folder, make, and Python 3.11 or newer with its venv module.

# The first interpreter that starts (a version manager's shim may be found and yet fail), is recent enough and can
# make an environment. Choose another with: make test PYTHON=/path/to/python
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3 python; do \
	$$python -c 'import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null \
	&& echo $$python && break; done)
BIN := .venv/bin
QUIETLY := --disable-pip-version-check --progress-bar off --quiet
PIP_INSTALL = $(BIN)/python -m pip install $(QUIETLY) -c constraints.txt
PACKAGED := pyproject.toml constraints.txt

.NOTPARALLEL:
.PHONY: help demo test browser opengl lint format types docs wheel newest check bench clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' Makefile

demo: .venv/installed ## train PEARL on the point robot, adapt to unseen goals, draw what it did
	$(BIN)/python examples/demo.py

test: .venv/installed-test ## run the tests, on all cores
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

browser: .venv/installed-dev ## open reports, comparisons and the documentation in Chromium, which has to be installed
	$(BIN)/python -m pytest -m browser

opengl: .venv/installed-test ## draw MuJoCo's worlds, for which OpenGL (without a GPU: Mesa) has to be installed
	$(BIN)/python -m pytest -m opengl --numprocesses auto --dist loadfile

lint: .venv/installed-dev ## check style and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/hadolint docker/Dockerfile

format: .venv/installed-dev ## mend style and formatting
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: .venv/installed-dev ## check types
	$(BIN)/pyright

docs: .venv/installed-dev ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

wheel: ## build the wheel, install it into an environment of its own, and train with it
	rm -rf build/wheel && "$(PYTHON)" -m venv build/wheel
	build/wheel/bin/python -m pip wheel $(QUIETLY) --no-deps --wheel-dir build/wheel .
	build/wheel/bin/python -m pip install $(QUIETLY) -c constraints.txt build/wheel/nacre-*.whl
	cd build && wheel/bin/nacre --version && wheel/bin/python ../.ci/smoke.py

newest: ## the same with the newest versions of everything, and pictures if there is OpenGL
	rm -rf build/newest && "$(PYTHON)" -m venv build/newest
	build/newest/bin/python -m pip install $(QUIETLY) --upgrade .
	cd build && newest/bin/nacre --version && newest/bin/python ../.ci/smoke.py $(if $(wildcard /usr/lib/*/libEGL.so.1),--draw)

check: test lint types docs ## everything that CI checks

bench: .venv/installed ## measure speed and memory
	@for script in benchmarks/simulator.py benchmarks/learner.py benchmarks/replay_memory.py benchmarks/startup.py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

clean: ## remove the environment and all that is built; runs stay
	rm -rf .venv site build dist .pytest_cache .ruff_cache

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "nacre needs Python 3.11, 3.12 or 3.13 with its venv module (on Debian and Ubuntu: the package python3-venv)." \
		"None was found; name one with: make PYTHON=/path/to/python" >&2; exit 2; }
	@rm -rf .venv
	"$(PYTHON)" -m venv .venv || { rm -rf .venv; exit 2; }

.venv/installed: $(PACKAGED) | .venv/bin/python
	@echo "Installing nacre and the packages it needs into .venv: a minute or two."
	$(PIP_INSTALL) -e .
	@touch $@

.venv/installed-%: $(PACKAGED) | .venv/bin/python
	@echo "Installing nacre and the packages it needs into .venv: a minute or two."
	$(PIP_INSTALL) -e '.[$*]'
	@touch $@
