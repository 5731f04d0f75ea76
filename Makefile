# Two commands do everything: `make demo` and `make test`. Both set up .venv first and are quick when run again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CXX_SOURCES := $(wildcard csrc/*.cpp csrc/*.h csrc/*/*.cpp csrc/*/*.h)

.DEFAULT_GOAL := help
.SUFFIXES:
.PHONY: help demo test install lint types format docs bench bench-full clean

help:
	@echo "make demo    set up $(VENV), upscale a photograph, write build/demo/comparison.png"
	@echo "make test    set up $(VENV), lint, check types, run the whole test suite"
	@echo "make bench   measure the decoder in some minutes; PUBLISHED=CHECKOUT: beside the published repository"
	@echo "make docs    build the documentation as a site in build/docs"
	@echo "make lint | types | format | bench-full | clean"

demo: $(VENV)/.installed
	@$(BIN)/python examples/demo.py --out build/demo

test: lint types
	$(BIN)/python -m pytest -q -n auto --dist worksteal

install: $(VENV)/.installed

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(if $(CXX_SOURCES),$(BIN)/clang-format --dry-run -Werror $(CXX_SOURCES))

types: $(VENV)/.installed
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(if $(CXX_SOURCES),$(BIN)/clang-format -i $(CXX_SOURCES))

# Strict: a warning, such as a dead link, ends it.
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# PUBLISHED: a checkout of the published repository, to run beside. bench-full takes over an hour on two cores and writes the
# results that the documents quote; `python -m benchmarks.report` then brings them up to date.
SUITE = $(BIN)/python -m pytest -q -p no:logging --disable-warnings --benchmark-columns=median,iqr,rounds \
  benchmarks/suite.py $(if $(PUBLISHED),--published $(PUBLISHED))

bench: $(VENV)/.installed
	$(SUITE)

bench-full: $(VENV)/.installed
	$(SUITE) --set full --out benchmarks/results
	$(BIN)/python -m benchmarks.growth

clean:
	rm -rf $(VENV) build dist *.egg-info liif_fast/_C*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 10) or sys.exit( \
	  f"liif_fast needs Python 3.10 or newer; $(PYTHON) is {v[0]}.{v[1]}. Try: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	@$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); \
	  echo "$(PYTHON) cannot make a virtual environment: install its venv module (Debian: python3-venv)"; exit 1; }
	@touch $@

# torch comes first and the build runs against it: with build isolation pip would fetch torch a second time.
$(VENV)/.torch: constraints.txt | $(VENV)/.made
	$(PIP) install -c constraints.txt torch numpy setuptools wheel ninja
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml setup.py $(CXX_SOURCES)
	$(PIP) install -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@
