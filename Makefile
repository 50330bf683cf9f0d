# Each target makes .venv and installs what it needs, with the versions in constraints.txt. Stamps in .venv remember
# what is installed; a change of pyproject.toml, CMakeLists.txt, constraints.txt or csrc/ installs and compiles anew.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet -c constraints.txt
NATIVE := $(shell find csrc -type f)
FORMATTED := $(filter %.cpp %.h %.cu,$(NATIVE) $(wildcard tests/native/*))
INPUTS := pyproject.toml CMakeLists.txt constraints.txt $(NATIVE)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test bench gpu lint format clean
# pip must not run twice at once in one environment.
.NOTPARALLEL:

help: ## shows this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile
	@echo "PYTHON=python3.12 chooses another Python (3.10 or later); ARGS='-k name' is passed on."

demo: $(VENV)/.with-base ## measures a model sampled in many ways and writes pyaccel-demo/report.html
	$(BIN)/pyaccel demo $(ARGS)

test: $(VENV)/.with-test ## runs the tests
	$(BIN)/pytest -n auto --dist worksteal $(ARGS)

bench: $(VENV)/.with-bench,triton ## runs the benchmarks against their peers and the machine's limit
	$(BIN)/pytest benchmarks $(ARGS)

gpu: $(VENV)/.with-test ## on a machine with a GPU: all tests, compute-sanitizer, benchmarks to benchmarks/results/
	$(BIN)/python benchmarks/gpu.py --check
	$(BIN)/pytest tests/gpu -v  # by name: so an interrupted run has said what failed
	$(BIN)/pytest --ignore tests/gpu $(ARGS)
	@# Only some kernels share memory between threads, and only those can race.
	@if command -v compute-sanitizer >/dev/null; then \
	  set -ex; \
	  compute-sanitizer --tool memcheck --error-exitcode 1 $(BIN)/pytest tests/gpu -k "native and not 2_to_the_31"; \
	  compute-sanitizer --tool racecheck --error-exitcode 1 $(BIN)/pytest tests/gpu \
	    -k "native and (relative_l1 or quantize or threshold or adaln or norm_rope)"; \
	else echo "compute-sanitizer was not found: memcheck and racecheck are left out"; fi
	$(BIN)/python benchmarks/gpu.py

lint: $(VENV)/.lint ## checks style and format of Python and C++
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(FORMATTED)

format: $(VENV)/.lint ## puts Python and C++ into that format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(FORMATTED)

clean: ## removes .venv and all that was built; results stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .benchmarks .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment, once there is a Python that will do.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	  echo "pyaccel needs Python 3.10 or later, but '$(PYTHON)' is $$($(PYTHON) --version 2>&1 | head -n 1)." >&2; \
	  echo "Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments: install its venv module (Debian: python3-venv)." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.lint: $(VENV)/.made constraints.txt
	$(PIP) ruff clang-format
	@touch $@

# The package in place, with the extras that stand in the stamp's name. The build tools come first and from the same
# list of versions, so pip need not fetch its own copies of them for each build.
$(VENV)/.with-%: $(VENV)/.made $(INPUTS)
	@command -v "$${CXX:-c++}" >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null || { \
	  echo "pyaccel needs a C++17 compiler, and neither \$$CXX nor c++, g++ or clang++ was found." >&2; \
	  echo "Debian: apt-get install g++; macOS: xcode-select --install" >&2; exit 1; }
	@$(BIN)/python -c 'import os, sys, sysconfig; \
	  sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || { \
	  echo "Python.h was not found: install the headers of $(PYTHON) (Debian: python3-dev)." >&2; exit 1; }
	@echo "Installing pyaccel and what it needs ($*); the first time takes some minutes."
	$(PIP) scikit-build-core pybind11 ninja cmake
	$(PIP) --no-build-isolation -e '.$(if $(filter-out base,$*),[$*])'
	@# A peer whose samplers need none of the packages that it asks for.
	$(if $(filter-out base,$*),$(PIP) --no-deps k-diffusion)
	@touch $@
