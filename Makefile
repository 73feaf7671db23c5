# Every target sets up what it needs first: it finds a Python, makes .venv, installs what requirements.txt pins
# (with hashes), and the project itself in place. A second call finds all that done.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
# Where it is set, as in many images, each process would compile all that it imports again: 10 s of Great Expectations.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
PYTHON_IN_VENV := $(VENV)/bin/python
# Holds the folder that was set up: a copied or moved one is set up again.
STAMP := $(VENV)/.set-up
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif
UV := uv==0.13.9

.PHONY: help run test test-kafka mutate chaos fuzz bench lint format lock clean

help: ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: $(STAMP) ## the demo: a broker, a cell, nodes and tasks, on this machine
	@$(VENV)/bin/aureon demo

# Most tests wait for something, so there is one process more than processors; each has a broker of its own.
PYTEST := -m pytest --numprocesses $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1) --maxprocesses 4 --dist worksteal

test: $(STAMP) ## all tests, on the embedded broker, and what they cover; ARGS="-k name" for some, and not that
ifdef ARGS
	@$(PYTHON_IN_VENV) $(PYTEST) $(ARGS)
else
	@rm -rf .coverage
	@$(PYTHON_IN_VENV) -m coverage run $(PYTEST)
	@$(PYTHON_IN_VENV) -m tests.uncovered
endif

test-kafka: $(STAMP) ## the tests that need a broker, on Apache Kafka (Java 17 and Maven)
	@AUREON_TEST_KAFKA=apache $(PYTHON_IN_VENV) $(PYTEST) -m kafka $(ARGS)

# For hours, on one processor, and only where nothing else wants it; what was killed is not judged again.
mutate: $(STAMP) ## change the code in one place at a time: does a test fail? ARGS="flows/lane.py" for some
	@nice -n 19 $(PYTHON_IN_VENV) -m tests.mutation $(ARGS)

chaos: $(STAMP) ## the loss audit: a cluster, half an hour of faults, and the books; ARGS="--help" for more
	@$(PYTHON_IN_VENV) -m tests.chaos $(ARGS)

fuzz: $(STAMP) ## what comes from outside, put to its decoders; ARGS="task --seconds 300" for one of them
	@$(PYTHON_IN_VENV) -m tests.fuzz $(ARGS)

bench: $(STAMP) ## measure it; ARGS="…" goes to tests.bench
	@$(PYTHON_IN_VENV) -m tests.bench $(ARGS)

lint: $(STAMP) ## ruff and mypy --strict
	@$(PYTHON_IN_VENV) -m ruff check
	@$(PYTHON_IN_VENV) -m ruff format --check
	@$(PYTHON_IN_VENV) -m mypy

format: $(STAMP) ## let ruff mend what it can
	@$(PYTHON_IN_VENV) -m ruff check --fix
	@$(PYTHON_IN_VENV) -m ruff format

IMAGE_LOCK := flows/deploy/requirements.txt
COMPILE := -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --custom-compile-command "make lock"

# pycosat has no wheel, and what is left out of reasoning-gym with it (zebra puzzles) is not in the demo. Of all that, the
# image has what a cell needs, and what builds the project itself.
lock: $(STAMP) ## write requirements.txt anew, and that of the image; ARGS=--upgrade for newer versions
	@$(PYTHON_IN_VENV) -m pip install --quiet $(UV)
	@$(PYTHON_IN_VENV) $(COMPILE) --output-file requirements.txt --all-extras --no-emit-package pycosat $(ARGS) \
		pyproject.toml
	@echo "setuptools" | $(PYTHON_IN_VENV) $(COMPILE) --output-file $(IMAGE_LOCK) --extra otel \
		--constraint requirements.txt pyproject.toml -

clean: ## remove .venv and all caches; .aureon, with its data, stays
	@rm -rf $(VENV) .kafka build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage* .mutation
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What `python` has to be. It prints nothing and returns 0 if it will do.
FIT := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 13))

$(STAMP): requirements.txt pyproject.toml
	@if ! $(PYTHON_IN_VENV) -c '$(FIT)' 2>/dev/null; then \
		for python in $${PYTHON:-} python3.11 python3.12 python3 python; do \
			if "$$python" -c '$(FIT)' 2>/dev/null; then found=$$python; break; fi; \
		done; \
		if [ -z "$${found:-}" ]; then \
			echo "Aureon needs Python 3.11 or 3.12 with its venv module, and found none." >&2; \
			echo "Install one (Debian, Ubuntu: apt-get install python3.11 python3.11-venv)," >&2; \
			echo "or name one: make PYTHON=/path/to/python3.12 …" >&2; \
			exit 1; \
		fi; \
		rm -rf $(VENV); \
		"$$found" -m venv $(VENV); \
	fi
	@echo "Installing what requirements.txt pins into $(VENV); 1.6 GB; the first time this takes a minute or more." >&2
	@# The lock is complete, so nothing is left to resolve; Python compiles what it imports when it does.
	@$(PYTHON_IN_VENV) -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --require-hashes \
		-r requirements.txt
	@# But for one of the demo's, whose compilation warns of `is "text"`: here, where nobody has to read it.
	@$(PYTHON_IN_VENV) -W ignore -m compileall -q $(VENV)/lib/python3.*/site-packages/cellpylib
	@$(PYTHON_IN_VENV) -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --no-build-isolation \
		--editable .
	@echo "$(CURDIR)" > $@
