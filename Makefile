# Everything from a fresh clone: 'make demo', 'make test'. Needs python3 >= 3.10, pip, a C++ compiler
# and make; the rest goes into .venv.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python

# torch from elsewhere, e.g. a CPU build:
#   make setup PIP_TORCH_ARGS='--index-url URL'     or     make setup TORCH_SPEC='torch==2.12.0'
TORCH_SPEC ?= -r requirements/torch.txt
PIP_TORCH_ARGS ?=

PYTEST_FLAGS ?= -q --durations=15
PYTEST_ARGS ?=
# A process for each core, with one thread each: maps of tests are too small to be shared.
PYTEST_JOBS ?= auto
# A test that takes more seconds than this fails, and the others go on.
TEST_LIMIT ?= 900
PYTEST_LIMIT = -o faulthandler_timeout=$(TEST_LIMIT) -o faulthandler_exit_on_timeout=true
PYTEST = OMP_NUM_THREADS=1 $(PY) -m pytest -n $(PYTEST_JOBS) --dist worksteal

DEMO_CONFIG ?= configs/demo/maskrcnn_blockcopy_demo.py
DEMO_OUT ?= demo/out
DEMO_ARGS ?=
DEMO_COMMAND ?= $(PY) tools/test_video.py $(DEMO_CONFIG) --out $(DEMO_OUT)/results.json \
	--show-dir $(DEMO_OUT) $(DEMO_ARGS)
BENCHMARK_ARGS ?=
BENCHMARK_COMMAND ?= $(PY) -m benchmarks.efficiency $(BENCHMARK_ARGS)

PIP := $(PY) -m pip install --quiet --quiet --disable-pip-version-check --retries 10
SAY := @printf '== %s\n'

# One stamp a step, each after the one before: two pips never run at once, also under make -j. They
# live in the environment, so that removing it forgets them too.
STAMPS := $(VENV)/.stamps
EXTENSION_SOURCES := $(shell find cuda_ops -type f \( -name '*.cpp' -o -name '*.h' -o -name '*.hpp' \
	-o -name '*.cu' -o -name '*.cuh' -o -name '*.inc' \) 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help setup test test-slow test-weekly lint demo benchmark clean distclean
.DELETE_ON_ERROR:

help:  ## show this list
	@echo 'make TARGET, where TARGET is one of'
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) \
		| while IFS='|' read -r name text; do printf '  %-12s %s\n' "$$name" "$$text"; done
	@echo 'The first setup takes 5 minutes, and 8 to 16 more while onedl-mmcv compiles.'

setup: $(STAMPS)/package.stamp  ## make .venv with everything in it (does nothing where it is there)
	$(SAY) 'the environment is ready: $(VENV)'

test: setup  ## run the tests; PYTEST_ARGS='tests/test_policy -x' for some of them
	$(SAY) 'tests'
	@$(PYTEST) $(PYTEST_FLAGS) $(PYTEST_ARGS)

test-slow: setup  ## run the tests marked slow
	$(SAY) 'slow tests'
	@$(PYTEST) $(PYTEST_FLAGS) $(PYTEST_LIMIT) -m slow $(PYTEST_ARGS)

test-weekly: setup  ## run the tests that take hours: whole zoos, thousands of drawn cases
	$(SAY) 'weekly tests'
	@$(PYTEST) $(PYTEST_FLAGS) $(PYTEST_LIMIT) -m weekly $(PYTEST_ARGS)

lint: $(STAMPS)/lint.stamp  ## check the style with ruff
	$(SAY) 'ruff check'
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check --quiet .

demo: setup  ## run a detector on the demo clip, dense and on blocks; writes demo/out
	$(SAY) 'demo: a detector on a short clip, dense and on blocks'
	@mkdir -p $(DEMO_OUT)
	@$(DEMO_COMMAND)
	$(SAY) 'done; see $(DEMO_OUT)'

benchmark: setup  ## measure speed on this machine; BENCHMARK_ARGS='...' go to the benchmark
	$(SAY) 'benchmark (let the machine do nothing else meanwhile)'
	@$(BENCHMARK_COMMAND)

clean:  ## remove what builds and runs made; .venv stays
	rm -rf build dist *.egg-info .pytest_cache .hypothesis .ruff_cache demo/out
	rm -f blockcopy_plugins/*.so blockcopy_plugins/*/*.so blockcopy_plugins/_build.json \
		$(STAMPS)/package.stamp
	find . -path ./$(VENV) -prune -o -path ./.git -prune -o -name __pycache__ -type d \
		-exec rm -rf {} +

distclean: clean  ## remove .venv too
	rm -rf $(VENV)

$(STAMPS)/venv.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo '$(PYTHON) is too old or missing: Python 3.10 or newer is needed;' \
		'name one with make PYTHON=...'; exit 1; }
	$(SAY) 'making $(VENV) with '"$$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/lint.stamp: requirements/lint.txt $(STAMPS)/venv.stamp
	$(SAY) 'installing ruff'
	@$(PIP) -r requirements/lint.txt
	@touch $@

$(STAMPS)/build.stamp: requirements/build.txt $(STAMPS)/lint.stamp
	$(SAY) 'installing build tools'
	@$(PIP) -r requirements/build.txt
	@touch $@

$(STAMPS)/torch.stamp: requirements/torch.txt $(STAMPS)/build.stamp
	$(SAY) 'installing torch (about a minute, more on a slow line)'
	@$(PIP) $(PIP_TORCH_ARGS) $(TORCH_SPEC)
	@touch $@

# numpy and OpenCV are pinned in mm.txt; as constraints here, so that nothing is installed twice.
$(STAMPS)/mmcv.stamp: requirements/mmcv.txt requirements/mm.txt $(STAMPS)/torch.stamp
	$(SAY) 'installing onedl-mmcv (seconds from the pip cache, else it compiles for 8 to 16 minutes)'
	@$(PIP) --no-build-isolation -c requirements/mm.txt -r requirements/mmcv.txt
	@touch $@

$(STAMPS)/requirements.stamp: requirements/mm.txt requirements/visual.txt requirements/test.txt \
		$(STAMPS)/mmcv.stamp
	$(SAY) 'installing the other OneDL packages and what tests and pictures need (about 2 minutes)'
	@$(PIP) --no-build-isolation -c requirements/mmcv.txt -r requirements/mm.txt \
		-r requirements/visual.txt -r requirements/test.txt
	@touch $@

$(STAMPS)/package.stamp: setup.py pyproject.toml $(EXTENSION_SOURCES) $(STAMPS)/requirements.stamp
	$(SAY) 'building blockcopy_plugins (about a minute)'
	@BLOCKCOPY_REQUIRE_EXT=$${BLOCKCOPY_REQUIRE_EXT-1} $(PIP) --no-build-isolation -e .
	@touch $@
