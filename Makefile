# A thin skin over `python -m benchmark`. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
# An index for another build of torch (a CUDA one, say); TORCH=system takes an installed torch.
TORCH_INDEX ?=
TORCH ?=
PROTOCOL ?= quick

BIN := $(VENV)/bin
CLI := $(BIN)/python -m benchmark
STAMP := $(VENV)/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1

need = $(if $($(1)),,$(error $(1) is missing; expected for example: make $@ $(1)=$(2)))
plugins = $(if $(PLUGIN),--plugin $(PLUGIN))
common = $(plugins) $(if $(SEEDS),--seeds $(SEEDS)) --protocol $(PROTOCOL) $(ARGS)

.PHONY: help setup bench train grid profile data datasets new check reference submit verify \
        same leaderboard plots claims site readme render respond perf perf-tables soak lint test \
        test-slow clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

setup: $(STAMP) ## create .venv and install requirements.lock (done by the other targets)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "error: Python %d.%d was found, this suite needs 3.11 or newer; name one with PYTHON=." % v[:2])'
	@$(PYTHON) -m venv $(if $(filter system,$(TORCH)),--system-site-packages) $(VENV)
ifeq ($(TORCH),system)
	@$(BIN)/python -c 'import torch' 2>/dev/null || { echo "error: no torch is installed for $(PYTHON); leave TORCH=system out to install one." >&2; rm -rf $(VENV); exit 2; }
endif
ifneq ($(TORCH_INDEX),)
	@$(BIN)/pip install -q --index-url $(TORCH_INDEX) $$(grep '^torch==' requirements.lock)
endif
	@echo "installing requirements.lock into $(VENV) (once, about a minute)"
	@$(BIN)/pip install -q $(if $(filter system,$(TORCH)),-r <(grep -v '^torch==' requirements.lock),-r requirements.lock)
	@$(BIN)/pip install -q --no-deps --no-build-isolation -e .
	@touch $@

bench: setup ## ALGO= [DATASET= TASK= SEEDS= PROTOCOL= PLUGIN= ARGS=]: make data, train, rank, draw
	$(call need,ALGO,mfdiffuser)
	@$(CLI) bench $(ALGO) $(if $(DATASET),--dataset $(DATASET)) $(if $(TASK),--task $(TASK)) $(common)

train: setup ## ALGO= DATASET= [SEEDS= PROTOCOL= ARGS=]: one row on one dataset, in one process
	$(call need,ALGO,bc)
	$(call need,DATASET,mpe/spread/medium-v1)
	@$(CLI) train $(ALGO) $(DATASET) $(common)

grid: setup ## ALGOS= DATASETS= [SEEDS= PROTOCOL= EXECUTOR=ray ARGS=]: many runs, resumable
	$(call need,ALGOS,"bc matd3bc")
	$(call need,DATASETS,"mpe/spread/medium-v1")
	@$(CLI) grid --algos $(ALGOS) --datasets $(DATASETS) $(if $(EXECUTOR),--executor $(EXECUTOR)) $(common)

profile: setup ## ALGO= [DATASET= TASK= ARGS=]: where an update's time goes, beside its floor
	$(call need,ALGO,matd3bc)
	@$(CLI) profile $(ALGO) $(if $(DATASET),--dataset $(DATASET)) $(if $(TASK),--task $(TASK)) $(common)

data: setup ## DATASET= or ALL=1: make datasets from their recipes (ALL: the small ones; goes on)
	@$(CLI) data $(DATASET) $(if $(ALL),--all) $(ARGS)

datasets: setup ## print the catalogue of datasets, one id a row
	@$(CLI) datasets $(ARGS)

new: setup ## ALGO= [PLUGIN=/path/ALGO.py]: write the start of an algorithm
	$(call need,ALGO,mine)
	@$(CLI) new $(ALGO) $(plugins)

check: setup ## ALGO=, TASK= or DATASET=: hold it against the contracts
	@$(CLI) check $(if $(ALGO),--algo $(ALGO)) $(if $(TASK),--task $(TASK)) \
	  $(if $(DATASET),--dataset $(DATASET)) $(plugins) $(ARGS)

reference: setup ## TASK=: measure a task's reference scores and write them
	$(call need,TASK,mpe/spread-v1)
	@$(CLI) reference $(TASK) $(ARGS)

submit: setup ## ALGO= [DATASETS= PROTOCOL= PLUGIN= ARGS=]: check, run what is missing, write a submission
	$(call need,ALGO,mine)
	@$(CLI) submit $(ALGO) $(if $(DATASETS),--datasets $(DATASETS)) $(plugins) \
	  --protocol $(PROTOCOL) $(ARGS)

verify: setup ## [SUBMISSION= LEVEL=1 BASE= RUN_CODE=1 PLUGIN= ARGS=]: is what was submitted true
	@$(CLI) verify $(SUBMISSION) $(if $(LEVEL),--level $(LEVEL)) $(if $(BASE),--base $(BASE)) \
	  $(if $(RUN_CODE),--run-code) $(plugins) $(ARGS)

leaderboard: setup ## [ARGS="--view summary --format latex"]: the board of the committed records
	@$(CLI) leaderboard $(ARGS)

plots: setup ## [KINDS="bars cost tiers"]: draw the committed records as PNG and SVG
	@$(CLI) plots $(KINDS) $(ARGS)

site: setup ## build the one-file page of the committed records
	@$(CLI) site $(ARGS)

claims: setup ## [CLAIM=omsd]: the papers' claims against the committed records and studies
	@$(CLI) claims $(CLAIM) $(ARGS)

readme: setup ## fill the README's tables and figures from the committed records
	@$(CLI) readme $(ARGS)

render: setup ## TASK= or RUN=CHECKPOINT|KEY|RECORD [POLICY="random expert"], or ALL=1: GIF and PNG
	@$(CLI) render $(TASK) $(if $(RUN),--run $(RUN)) $(if $(POLICY),--policy $(POLICY)) \
	  $(if $(ALL),--all) $(plugins) $(ARGS)

same: setup ## [ALGOS=]: show that a change left the bits of committed records as they are
	@$(CLI) same $(ALGOS)

respond: setup ## RUN=CHECKPOINT|KEY|RECORD: what one agent gains by leaving a trained policy
	$(call need,RUN,runs/records/....json)
	@$(CLI) respond $(RUN) $(plugins) $(ARGS)

perf: setup ## [FULL=1 DEVICE=cuda ARGS="--only loader --record"]: goals of speed and memory
	@$(BIN)/python -m $(if $(DEVICE),tests.perf.bench_device --device $(DEVICE),tests.perf $(if $(FULL),--full)) $(ARGS)

perf-tables: setup ## time tasks, datasets, loader, team algorithms, plans of populations [ARGS=--record]
	@for name in tasks datasets loader team plans hierarchy; do $(BIN)/python -m tests.perf.bench_$$name $(ARGS); done
	@for name in evaluate startup; do $(BIN)/python -m tests.perf.bench_$$name; done

soak: setup ## [MINUTES=30 ARGS=--record]: sweeps and trainings under kills, and mutants of files
	@$(BIN)/python -m tests.soak $(if $(MINUTES),--minutes $(MINUTES)) $(ARGS)

lint: setup ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

test: setup ## the tests, in minutes
	@$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not slow" $(ARGS)

test-slow: setup ## the slow tests: learning, kills, the README from a fresh clone
	@$(BIN)/python -m pytest -q -n 2 --dist worksteal -m slow $(ARGS)

clean: ## remove runs and made datasets (not .venv)
	@rm -rf runs data
