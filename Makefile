# `make` alone lists the targets and variables.

PYTHON ?= python3
VENV ?= .venv
PRESET ?= cpu
DATA ?=
DATA_DIR ?=
ARGS ?=
NAME ?=

# Those of the environment are somebody else's.
ALL :=
DONE :=
SKIP :=
SEEDS :=

# Huge pages for large arrays, where Linux grants them on request: a step's memory is new each time,
# and pages of 4 KiB take up to a quarter of it.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.DEFAULT_GOAL := help

.DELETE_ON_ERROR:

BIN := $(VENV)/bin
FROM_DATA = $(if $(DATA),--data "$(DATA)") $(AND_DATA_DIR) $(SKIP)
AND_DATA_DIR = $(if $(DATA_DIR),--data-dir "$(DATA_DIR)")

# fig2cf is part of fig5, and fig4 of fig3.
QUICK := fig8 fig6 fig2ab fig9 fig1ab two_towers infinite_width fig1cd
FIGURES := $(QUICK) width_sweep ntk_evolution fig5 fig3 fig7 tables lars_steps predicted_steps

# A run of all says how far it is, leaves what an earlier one has done, and does not end where images
# do not do for one experiment.
figures: ALL := $(FIGURES)
quick: ALL := $(QUICK)
figures quick: SKIP := --skip-unfit
figures quick: DONE := --skip-done
# Three seeds decide claims about trained ResNets; one draws the figure in a third of the time.
quick: SEEDS := --seeds 0

PLACE = $(shell printf '%s\n' $(ALL) | grep -nx $@ | cut -d: -f1)

# The second line begins the command, which may go on after the call.
define EXPERIMENT
$(if $(ALL),@echo "$@: $(PLACE) of $(words $(ALL))")
$(BIN)/python -m experiments.$(1) --preset $(PRESET) $(DONE) $(ARGS)
endef

##@ Reproduce the paper
.PHONY: figures
figures: $(FIGURES)  ## every figure, at the preset PRESET, then the table of claims and results/index.html
	$(BIN)/python -m experiments.claims
	$(BIN)/python -m experiments report

.PHONY: paper
paper:  ## the same at the presets named paper, for a GPU: needs CIFAR-10 and STL-10, see data (takes DATA_DIR)
	$(MAKE) figures PRESET=paper

.PHONY: quick
quick: $(QUICK)  ## the quicker ones, 6 to 12 minutes in all on two cores
	$(BIN)/python -m experiments.claims

.PHONY: fig1ab
fig1ab: $(VENV)/.run  ## Figure 1a, b: the linear model learns its modes in steps (takes DATA, DATA_DIR)
	$(call EXPERIMENT,linear_model) $(FROM_DATA)

.PHONY: fig1cd
fig1cd: $(VENV)/.run  ## Figure 1c, d: a ResNet learns its embedding one dimension at a time (takes DATA, DATA_DIR)
	$(call EXPERIMENT,resnet_small_init) --methods barlow_twins $(SEEDS) $(FROM_DATA)

.PHONY: fig2ab
fig2ab: $(VENV)/.run  ## Figure 2a, b: a wide MLP against the prediction of its NTK (takes DATA, DATA_DIR)
	$(call EXPERIMENT,mlp) $(FROM_DATA)

.PHONY: fig2cf
fig2cf: $(VENV)/.run  ## Figure 2c to f: the same with SimCLR and VICReg (takes DATA, DATA_DIR)
	$(call EXPERIMENT,resnet_small_init) --methods simclr vicreg $(FROM_DATA)

.PHONY: fig3
fig3: $(VENV)/.run  ## Figures 3 and 4: standard initialisation, eigenvalues in two bands (takes DATA, DATA_DIR)
	$(call EXPERIMENT,resnet_standard) $(FROM_DATA)

.PHONY: fig4
fig4: fig3  ## the same command

.PHONY: fig5
fig5: $(VENV)/.run  ## Figure 5: all three losses, embeddings and hidden representations (takes DATA, DATA_DIR)
	$(call EXPERIMENT,resnet_small_init) $(FROM_DATA)

.PHONY: fig6
fig6: $(VENV)/.run  ## Figure 6: element dynamics
	$(call EXPERIMENT,element_dynamics)

.PHONY: fig7
fig7: $(VENV)/.run  ## Figure 7: accuracy of linear probes through training (takes DATA, DATA_DIR)
	$(call EXPERIMENT,probe_accuracy) $(FROM_DATA)

.PHONY: fig8
fig8: $(VENV)/.run  ## Figure 8: symmetry breaking
	$(call EXPERIMENT,symmetry_breaking)

.PHONY: fig9
fig9: $(VENV)/.run  ## Figure 9: losses and gradients for faster learning, and what they are worth
	$(call EXPERIMENT,faster_losses)

.PHONY: tables
tables: $(VENV)/.run  ## Tables 1 and 2: what ResNets learned against their NTK's prediction (takes DATA, DATA_DIR)
	$(call EXPERIMENT,embedding_alignment) $(FROM_DATA)

.PHONY: report
report: $(VENV)/.run  ## results/index.html: one page of all that results/ holds
	$(BIN)/python -m experiments report

.PHONY: claims
claims: $(VENV)/.run  ## the paper's claims against what the runs in results/ measured
	$(BIN)/python -m experiments.claims

.PHONY: data
data: data-name .venv-data/.run  ## fetch and prepare NAME=cifar10 or stl10 in DATA_DIR (installs TensorFlow, apart)
# By path and with -P: `-m sslstep.data.prepare` would import the package, and with it JAX.
	.venv-data/bin/python -P sslstep/data/prepare.py $(NAME) $(AND_DATA_DIR) $(ARGS)

##@ Beyond the paper
.PHONY: animation
animation: $(VENV)/.run  ## embeddings while they are learned: a point, a line, a plane (takes DATA, DATA_DIR)
	$(call EXPERIMENT,animation) $(FROM_DATA)

.PHONY: infinite_width
infinite_width: $(VENV)/.run  ## Section 5: embeddings of infinitely wide networks, and their worth downstream (takes DATA, DATA_DIR)
	$(call EXPERIMENT,infinite_width) $(FROM_DATA)

.PHONY: lars_steps
lars_steps: $(VENV)/.run  ## how long plateaus last under LARS: not as 1/γ (takes DATA, DATA_DIR)
	$(call EXPERIMENT,lars_steps) $(FROM_DATA)

.PHONY: mlp_readings
mlp_readings: $(VENV)/.run  ## Figure 2a, b: what the text may mean by scaling weights by α, tried out (takes DATA, DATA_DIR)
	$(call EXPERIMENT,mlp_readings) $(FROM_DATA)

.PHONY: ntk_evolution
ntk_evolution: $(VENV)/.run  ## the NTK of finite networks: at initialisation for growing widths, and after training (takes DATA, DATA_DIR)
	$(call EXPERIMENT,ntk_evolution) $(FROM_DATA)

.PHONY: predicted_steps
predicted_steps: $(VENV)/.run  ## step times by the network's NTK, at the start and along training (takes DATA, DATA_DIR)
	$(call EXPERIMENT,predicted_steps) $(FROM_DATA)

.PHONY: speedup
speedup: $(VENV)/.run  ## what the speed-ups of Appendix G are worth: about an hour (takes DATA="photos cifar10", DATA_DIR)
# Of which DATA may be several names.
	$(call EXPERIMENT,speedup) $(if $(DATA),--data $(DATA)) $(AND_DATA_DIR)

.PHONY: two_towers
two_towers: $(VENV)/.run  ## Section 5.2: two networks on two kinds of views (takes DATA, DATA_DIR)
	$(call EXPERIMENT,two_towers) $(FROM_DATA)

.PHONY: width_sweep
width_sweep: $(VENV)/.run  ## finite networks against the infinitely wide one, at growing width (takes DATA, DATA_DIR)
	$(call EXPERIMENT,width_sweep) $(FROM_DATA)

##@ Develop
.PHONY: test
test: $(VENV)/.test $(VENV)/.torch  ## all tests and the docstrings' examples (ARGS go to pytest)
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal $(ARGS)

.PHONY: check
check: $(VENV)/.check  ## ruff, mypy, and the documentation with warnings as errors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BUILD_DOCS)

.PHONY: docs
docs: $(VENV)/.docs  ## the documentation, every example run, into docs/_build/html
	$(BUILD_DOCS)

# -E reads every page anew: a changed function must run in the pages that use it.
BUILD_DOCS = $(BIN)/sphinx-build -W --keep-going -E -q docs docs/_build/html

.PHONY: bench
bench: $(VENV)/.bench $(VENV)/.torch  ## all benchmarks, ten minutes each at most, into results/benchmarks/report.md
	$(BIN)/python -m benchmarks $(ARGS)

##@ Keep house
.PHONY: install
install: $(VENV)/.run  ## the environment for experiments, and nothing else

.PHONY: clean
clean:  ## remove .venv, .venv-data, caches and built documentation
	rm -rf $(VENV) .venv-data docs/_build build *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "results/ is kept: remove it yourself if you want every experiment run from scratch"

.PHONY: help
help:  ## this list
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z0-9_]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "Variables, as in  make figures PRESET=paper"
	@echo "  PRESET    of the experiments: cpu (default: minutes, no download) or paper (as published, or larger: one GPU)"
	@echo "  DATA      photos (default), cifar10, stl10 or, but for speedup, a folder of images; DATA_DIR  where prepared data lie"
	@echo "  ARGS      more options for the experiments, pytest or the benchmarks; with figures, for each run"
	@echo "            (figures, paper and quick leave results that are still those of these settings,"
	@echo "            images, code and versions: --no-skip-done makes them again)"
	@echo "  PYTHON    3.11, 3.12 or 3.13, default python3; VENV  the environment made with it, default .venv"

# Environments. A stamp stands for one set of extras installed, once and again when setup.cfg changes.
# uv, because it can leave out what neural-tangents asks for and nothing uses: see overrides.txt.
EXTRAS :=
$(VENV)/.test: EXTRAS := [test]
$(VENV)/.docs: EXTRAS := [docs]
$(VENV)/.check: EXTRAS := [check,docs]
$(VENV)/.bench: EXTRAS := [bench]

UV_INSTALL = $(BIN)/uv pip install --quiet --python

$(VENV)/.run $(VENV)/.test $(VENV)/.docs $(VENV)/.check $(VENV)/.bench: \
  setup.cfg pyproject.toml overrides.txt $(VENV)/.uv
	$(UV_INSTALL) $(BIN)/python --override overrides.txt --editable '.$(EXTRAS)'
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
