# `make` alone lists the targets and variables.

PYTHON ?= python3
VENV ?= .venv
PRESET ?= cpu
DATA ?=
DATA_DIR ?=
ARGS ?=
NAME ?=
LOCK ?= requirements.lock
URL ?=

# Those of the environment are somebody else's.
ALL :=
DONE :=
SKIP :=
SEEDS :=

# Huge pages for large arrays, where Linux grants them on request: a step's memory is new each time,
# and pages of 4 KiB take up to a quarter of it.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
# OpenBLAS's idle threads sleep at once (after 2^4 cycles). By default they spin for some 40 ms after
# each eigendecomposition, and take cores from the next step.
export OPENBLAS_THREAD_TIMEOUT ?= 4

.DEFAULT_GOAL := help

.DELETE_ON_ERROR:

BIN := $(VENV)/bin
AND_DATA_DIR = $(if $(DATA_DIR),--data-dir "$(DATA_DIR)")
RUN = $(BIN)/python -m experiments run
OPTIONS = --preset $(PRESET) $(if $(DATA),--data "$(DATA)") $(AND_DATA_DIR) $(ARGS)

# A folder with a file experiment.py is a target.
PAPER := $(notdir $(patsubst %/experiment.py,%,$(wildcard experiments/*/experiment.py)))
BEYOND := $(notdir $(patsubst %/experiment.py,%,$(wildcard experiments/beyond/*/experiment.py)))

##@ Reproduce the paper
.PHONY: figures
figures: $(VENV)/.run  ## every figure, at the preset PRESET, then the table of claims and results/index.html
	$(RUN) --all $(OPTIONS)

.PHONY: quick
quick: $(VENV)/.run  ## the quicker ones, 5 to 10 minutes in all on two cores
	$(RUN) --all --quick $(OPTIONS)

.PHONY: paper
paper:  ## all at the presets named paper, for a GPU: needs CIFAR-10 and STL-10, see data (takes DATA_DIR)
	$(MAKE) figures PRESET=paper

.PHONY: $(PAPER) $(BEYOND)
$(PAPER) $(BEYOND): $(VENV)/.run
	$(RUN) $@ $(OPTIONS)

# DATA of the study of speed-ups may be several names.
speedup: OPTIONS = --preset $(PRESET) $(if $(DATA),--data $(DATA)) $(AND_DATA_DIR) $(ARGS)

.PHONY: fig1cd
fig1cd: $(VENV)/.run  ## Figure 1 (C, D): of Figure 5 the part of Barlow Twins
	$(RUN) fig5 --methods barlow_twins $(OPTIONS)

.PHONY: fig2cf
fig2cf: $(VENV)/.run  ## Figure 2 (C to F): of Figure 5 the part of SimCLR and VICReg
	$(RUN) fig5 --methods simclr vicreg $(OPTIONS)

.PHONY: fig3 fig4
fig3 fig4: fig3_4

.PHONY: losses
losses: any_loss  ## beyond the paper: any_loss by a shorter name

.PHONY: report
report: $(VENV)/.run  ## results/index.html: one page of all that results/ holds
	$(BIN)/python -m experiments report

.PHONY: claims
claims: $(VENV)/.run  ## the paper's claims against what the runs in results/ measured
	$(BIN)/python -m experiments claims

.PHONY: data
data: data-name .venv-data/.run  ## fetch and prepare NAME=cifar10 or stl10 in DATA_DIR (installs TensorFlow, apart)
# By path and with -P: `-m sslstep.data.prepare` would import the package, and with it JAX.
	.venv-data/bin/python -P sslstep/data/prepare.py $(NAME) $(AND_DATA_DIR) $(ARGS)

##@ Develop
.PHONY: test
test: $(VENV)/.test $(VENV)/.torch  ## the tests that are not slow, and the docstrings' examples (ARGS go to pytest)
	$(PYTEST) -m "not slow" $(ARGS)

.PHONY: test-slow
test-slow: $(VENV)/.test $(VENV)/.torch  ## the slow tests: experiments, devices, processes that start or are killed
	$(PYTEST) -m slow $(ARGS)

# Memory that is freed stays with the process (16 GiB is more than a worker has): the suite takes 7% less
# time, and a worker no more memory. Not for experiments, where large kernels would leave gaps in it.
test test-slow: export GLIBC_TUNABLES := $(GLIBC_TUNABLES):glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184

PYTEST = $(BIN)/python -m pytest --numprocesses auto --dist worksteal

.PHONY: check
check: $(VENV)/.check  ## ruff, mypy, and the documentation with warnings as errors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BUILD_DOCS)

.PHONY: docs
docs: $(VENV)/.docs  ## the documentation, every example run, into docs/_build/html
	$(BUILD_DOCS)

# -E reads every page anew: a changed function must run in the pages that use it. Several at once.
BUILD_DOCS = $(BIN)/sphinx-build -j auto -W --keep-going -E -q docs docs/_build/html

.PHONY: bench
bench: $(VENV)/.bench $(VENV)/.torch  ## all benchmarks, ten minutes each at most, into results/benchmarks/report.md
	$(BIN)/python -m benchmarks $(ARGS)

# With the newest Python, because the newest JAX needs it.
.PHONY: canary
canary: PYTHON := python3.13
canary:  ## the tests on the newest of everything, pre-releases too, in .venv-canary made anew
	rm -rf .venv-canary
	UV_PRERELEASE=allow $(MAKE) test test-slow VENV=.venv-canary LOCK= PYTHON=$(PYTHON)

.PHONY: lock
lock: $(VENV)/.uv  ## requirements.lock: the newest versions that setup.cfg admits, for each Python
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-annotate --no-header \
	  --override overrides.txt --all-extras setup.cfg --output-file requirements.lock

# Built from what is committed. A package index shows README by itself, so its links need an address.
.PHONY: dist
dist: $(VENV)/.uv  ## dist/: sdist and wheel, installed and tried in an empty environment (URL: of the repository)
	rm -rf dist build && mkdir -p build/source build/elsewhere
	git archive HEAD | tar -x -C build/source
	@test -n "$(URL)" || echo "README keeps its relative links: give URL=https://... to publish" >&2
	test -z "$(URL)" || sed -i -E -e 's#(!\[[^]]*\]\()([^):]+\))#\1$(URL)/raw/main/\2#g' \
	  -e 's#(^|[^!])(\[[^]]*\]\()([^):]+\))#\1\2$(URL)/blob/main/\3#g' build/source/README.md
	$(BIN)/uv build --quiet --out-dir dist build/source
	$(PYTHON) -m venv build/empty
	$(UV_INSTALL) build/empty/bin/python dist/*.whl
	awk '/^```python/ { on = 1; next } /^```/ { on = 0 } on' README.md > build/elsewhere/readme.py
	cd build/elsewhere && ../empty/bin/python readme.py && ../empty/bin/python -m sslstep --versions
	ls -l dist && du -sh build/empty

##@ Keep house
.PHONY: install
install: $(VENV)/.run  ## the environment for experiments, and nothing else

.PHONY: clean
clean:  ## remove .venv, .venv-data, caches and built documentation
	rm -rf $(VENV) .venv-data .venv-canary docs/_build build dist *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "results/ is kept: remove it yourself if you want every experiment run from scratch"

.PHONY: help
help:  ## this list
	@list() { for each in $$1/*/experiment.py; do \
	    printf '  make %-15s %s\n' "$$(basename "$$(dirname "$$each")")" "$$(sed -n '1{s/^r*"""//;s/"""$$//;p}' "$$each")"; done; }; \
	part() { awk -v part="$$1" 'BEGIN { FS = ":.*## " } \
	  /^##@ / { inside = substr($$0, 5) == part } \
	  inside && /^[a-z0-9_-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' Makefile; }; \
	echo "Reproduce the paper"; part "Reproduce the paper"; list experiments; \
	printf '\nBeyond the paper\n'; list experiments/beyond; \
	printf '\nDevelop\n'; part Develop; printf '\nKeep house\n'; part "Keep house"
	@echo
	@echo "Variables, as in  make figures PRESET=paper"
	@echo "  PRESET    of the experiments: cpu (default: minutes, no download) or paper (as published, or larger: one GPU)"
	@echo "  DATA      photos (default), cifar10, stl10 or, but for speedup, a folder of images; DATA_DIR  where prepared data lie"
	@echo "  ARGS      more options for the experiments, pytest or the benchmarks; with figures, for each run"
	@echo "            (figures, paper and quick leave results that are still those of these settings,"
	@echo "            images, code and versions: --no-skip-done makes them again)"
	@echo "  LOCK      versions to install, default requirements.lock; LOCK= is the newest that setup.cfg admits"
	@echo "  PYTHON    3.11, 3.12 or 3.13, default python3; VENV  the environment made with it, default .venv"

# Environments. A stamp stands for one set of extras installed, once and again when setup.cfg changes.
# uv, because it can leave out what neural-tangents asks for and nothing uses: see overrides.txt.
EXTRAS := all
$(VENV)/.test: EXTRAS := all,test
$(VENV)/.docs: EXTRAS := all,docs
$(VENV)/.check: EXTRAS := all,check,docs
$(VENV)/.bench: EXTRAS := all,bench

UV_INSTALL = $(BIN)/uv pip install --quiet --python

$(VENV)/.run $(VENV)/.test $(VENV)/.docs $(VENV)/.check $(VENV)/.bench: \
  setup.cfg pyproject.toml overrides.txt $(LOCK) $(VENV)/.uv
	$(UV_INSTALL) $(BIN)/python --override overrides.txt $(if $(LOCK),--constraint $(LOCK)) --editable '.[$(EXTRAS)]'
	@touch $@

# PyTorch, to compare with.
$(VENV)/.torch: tests/requirements-torch.txt $(VENV)/.uv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

# TensorFlow lives apart from JAX: only preparing data needs it.
.venv-data/.run: sslstep/data/requirements-prepare.txt $(VENV)/.uv | data-name
	$(BIN)/python -m venv .venv-data
	$(UV_INSTALL) .venv-data/bin/python --requirements $<
	@touch $@

.PHONY: data-name
data-name:
	@test -n "$(NAME)" || { echo "Which data? make data NAME=cifar10  or  make data NAME=stl10" >&2; exit 2; }

$(VENV)/.uv: | python-version
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@touch $@

# PYTHON matters when an environment is made; if it was given by hand and there is one already, the
# two have to agree.
.PHONY: python-version
python-version:
	@version() { "$$@" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }; \
	if [ -e $(VENV)/.uv ] && [ "$(origin PYTHON)" = file ]; then exit 0; fi; \
	found=$$(version $(PYTHON)) || found='not a Python that runs'; \
	case "$$found" in 3.11|3.12|3.13) ;; *) \
	  echo "sslstep needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is $$found: give another, as in  make PYTHON=python3.12 $(or $(MAKECMDGOALS),figures)" >&2; exit 1;; \
	esac; \
	if [ -e $(VENV)/.uv ] && [ "$$(version $(BIN)/python)" != "$$found" ]; then \
	  echo "$(VENV) was made with another Python than $(PYTHON), which is $$found: run make clean, or give another folder, as in  make VENV=.venv-$$found" >&2; exit 1; \
	fi
