# scalenet_mm: `make quickstart` and `make test` make all they need. `make help` lists the targets.
#
# Variables: PYTHON=/path/to/python3.11   the Python to start from (default: found on the PATH)
#            VENV=folder                  the virtual environment (default: .venv)
#            ARGS='...'                   passed on, e.g. make test ARGS='-k growth -x'
#            FORCE_CUDA=1                 build mmcv's CUDA ops as well and use the GPU

SHELL := /bin/bash
VENV ?= .venv
PYTHON ?=
FORCE_CUDA ?= 0
ARGS ?=
RUN := $(VENV)/bin/python

export VENV PYTHON FORCE_CUDA

# mmcv is built with its CPU ops by default; with a GPU in sight, detectors would stop at nms.
ifneq ($(FORCE_CUDA),1)
export CUDA_VISIBLE_DEVICES :=
endif

.DEFAULT_GOAL := help
.PHONY: help env quickstart study learngene test bench docs errors metafiles package stacks test-onedl \
	check-env lint clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

env: ## make the virtual environment (once 10-20 minutes, then nothing)
	@tools/dev/make_env.sh

quickstart: env ## train a detector, grow it, train the increments, print AP (10 minutes on 2 cores)
	@$(RUN) tools/quickstart.py $(ARGS)

study: env ## quickstart with three seeds against a control (hours)
	@$(RUN) tools/quickstart.py --study $(ARGS)

learngene: env ## SWS in small: descendants of many depths from one learngene (30 minutes on 2 cores)
	@$(RUN) benchmarks/learngene_digits.py $(or $(ARGS),--write-docs)

test: env ## run the tests (about 30 minutes on 2 cores)
	@$(RUN) -m pytest $(ARGS)

# peft brings packages that mmpretrain does not load with, so it lives in a folder of its own, where
# only the benchmark looks. Where it can't be installed, its rows are left out.
$(VENV)/bench/.done: requirements-bench.txt constraints.txt | env
	@rm -rf '$(VENV)/bench'
	@$(RUN) -m pip install -q --no-deps --target '$(VENV)/bench' -r requirements-bench.txt \
		-c constraints.txt && touch '$@' || echo '[scalenet_mm] peft is not installed'

bench: env $(VENV)/bench/.done ## speed and memory beside the peers, into docs (10 minutes on 2 cores)
	@$(RUN) benchmarks/speed.py $(or $(ARGS),--write-docs)

docs: env ## build the documents into docs/_build/html, warnings as errors
	@$(RUN) -m sphinx -W --keep-going -b html docs docs/_build/html $(ARGS)

errors: env ## list every error and warning of the package in docs/errors.md
	@$(RUN) tools/dev/list_errors.py $(ARGS)

metafiles: env ## compute parameters and FLOPs of every config, write model-index.yml and metafiles
	@$(RUN) tools/dev/make_metafiles.py $(ARGS)

package: env ## build the wheel and the sdist into dist
	@$(RUN) -m build --no-isolation $(ARGS)

stacks: env ## the tests where one toolbox alone is installed, in real environments (an hour)
	@$(RUN) tools/dev/stacks.py one-toolbox $(ARGS)

test-onedl: env ## the tests on the OneDL forks, in an environment of their own (an hour)
	@$(RUN) tools/dev/stacks.py onedl $(ARGS)

check-env: env ## print the versions found and what does not work together
	@$(RUN) tools/check_env.py $(ARGS)

lint: env ## ruff, codespell, mypy and a check of blanks, as in the tests
	@$(RUN) tools/dev/lint.py $(ARGS)

clean: ## remove the virtual environment and caches of the tools (not the wheel cache)
	@if [ -f '$(VENV)/pyvenv.cfg' ]; then rm -rf '$(VENV)'; fi
	@rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis docs/_build \
		scalenet_mm/.mim '$(VENV)-setup.log'
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
