PYTHON ?= python3.11
VENV ?= .venv
SAEBENCH := .venv-saebench
DOCS := .venv-docs
S3 := .venv-s3
BIN := $(VENV)/bin
RUN_ROOT ?= runs
INPUTS ?= inputs
# Two processes of pytest take half the time of one. Each has one thread: threads that wait for a busy core cost most.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal
export OMP_NUM_THREADS ?= $(shell nproc)

.DEFAULT_GOAL := help
.PHONY: help setup saebench demo study study-gpu test test-store test-fast check docs stability evaluate dashboard clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

setup: $(VENV)/.ready ## a virtual environment with the pinned packages

# torch goes first, alone: an installed torch that fits the pin is kept, so nothing else pulls a CUDA build over it.
$(VENV)/.ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$$(grep -E '^torch==' requirements.lock)"
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

saebench: $(SAEBENCH)/.ready ## an environment of its own for SAEBench's evaluations (2.3 GB, Python 3.11)

# Every package is in the lock: pip on its own would fall back to an older sae-bench where a pin does not fit, in silence.
$(SAEBENCH)/.ready: requirements-saebench.lock
	python3.11 -m venv $(SAEBENCH)
	$(SAEBENCH)/bin/python -m pip install --quiet "$$(grep -E '^torch==' requirements-saebench.lock)"
	$(SAEBENCH)/bin/python -m pip install --quiet --no-deps --requirement requirements-saebench.lock
	$(SAEBENCH)/bin/python saemd/quality/saebench/check.py
	@touch $@

demo: setup ## a small finished sweep on a real language model, with its stability report (5 to 15 minutes)
	$(BIN)/python -m saemd.train -m experiment=demo init=mirror,uniform_shared,uniform seed=24,42

study: setup ## the study of what makes features come back, in small (experiments/stability; within an hour on two cores)
	$(BIN)/python experiments/stability/study.py scale=small root=$(RUN_ROOT)/study

study-gpu: setup ## the same at large on one GPU; INPUTS is the folder that experiments/stability/pack.py wrote
	$(BIN)/python experiments/stability/study.py scale=gpu root=$(RUN_ROOT)/study-gpu inputs=$(INPUTS)

test: setup ## every test, the slow ones on the real language model included
	$(PYTEST)

test-store: $(S3)/.ready ## the tests of cache_root=s3://… against a server on the loopback (an environment of its own, 0.2 GB)
	$(S3)/bin/python -m pytest tests/remote/test_s3.py

# Its packages lie before those of $(VENV), which it borrows: botocore needs an earlier python-dateutil.
$(S3)/.ready: requirements-s3.lock $(VENV)/.ready
	$(PYTHON) -m venv $(S3)
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > $$($(S3)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/zz_saemd.pth
	$(S3)/bin/python -m pip install --quiet --no-deps --requirement requirements-s3.lock
	@touch $@

test-fast: setup ## the tests that need no download and little time (two to three minutes)
	$(PYTEST) -m "not slow"

check: setup ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

docs: $(DOCS)/.ready ## the documentation as a site in site/, with strict links (an environment of its own, 0.2 GB)
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --quiet
	@echo site/index.html

$(DOCS)/.ready: requirements-docs.lock
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --requirement requirements-docs.lock
	@touch $@

stability: setup ## compare the seeds of what RUN_ROOT holds (RUN_ROOT=runs)
	$(BIN)/python -m saemd.stability run_root=$(RUN_ROOT)

evaluate: setup ## measure the quality of the finished runs in RUN_ROOT
	$(BIN)/python -m saemd.evaluate run_root=$(RUN_ROOT)

dashboard: setup ## build the wandb workspace (needs an account: wandb login)
	$(BIN)/python -m saemd.logging.dashboard

clean: ## remove the virtual environments, the site and caches of tools, never runs or activations
	rm -rf $(VENV) $(DOCS) $(S3) site .pytest_cache .ruff_cache *.egg-info
