# Dual Sampling. `make demo` and `make test` need git, make and Python 3.11 to 3.13: each sets `.venv` up once.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test test-all check format lock clean

# The first interpreter of these that fits; the pyenv kind of name that only says "not installed" does not.
fits = import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
ifndef PYTHON
PYTHON := $(shell for name in python3 python3.13 python3.12 python3.11; do \
    "$$name" -c '$(fits)' >/dev/null 2>&1 && echo "$$name" && break; done)
endif
# An NVIDIA GPU that this machine (or container: a GPU's device file must be there) can reach makes it gpu.
ifndef EXTRA
EXTRA := $(shell (nvidia-smi -L || ls /dev/nvidia[0-9]* /proc/driver/nvidia/version) >/dev/null 2>&1 \
    && echo gpu || echo cpu)
endif
ifeq ($(filter cpu gpu,$(EXTRA)),)
$(error EXTRA=$(EXTRA) is not known: say EXTRA=cpu or EXTRA=gpu)
endif

# Nothing phones home, from the tools either.
export DO_NOT_TRACK := 1

READY := .venv/.ready-$(EXTRA)

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*##/\1\t/p' Makefile | expand -t 10

setup: $(READY)  ## make .venv (once; again when the lock file or pyproject.toml changes)

$(READY): requirements-$(EXTRA).lock pyproject.toml .setup/install.py .setup/indexes.py
	@"$(or $(PYTHON),no-python)" -c '$(fits)' >/dev/null 2>&1 || { echo "No Python 3.11, 3.12 or 3.13 with" \
	    "its venv module found ($(or $(PYTHON),python3 and the like)). Install one (Debian: python3 python3-venv)," \
	    "or name it: make setup PYTHON=/path/to/python3.12" >&2; exit 1; }
	@"$(PYTHON)" .setup/install.py "$(EXTRA)"
	@rm -f .venv/.ready-* && touch $@

demo: $(READY)  ## sample 64 problems from the two tiny models that come along; print what dual sampling gains
	.venv/bin/dual-sampling demo

# One worker a core; a file's tests stay together (tests/conftest.py).
PYTEST := .venv/bin/pytest -n auto --dist loadfile --durations=10

test: $(READY)  ## run the fast tests, under ten minutes on two cores (ARGS='-k mixture': some of them)
	$(PYTEST) -m "not slow" $(ARGS)

test-all: $(READY)  ## run every test: those with servers, workers, object stores, browsers, compilers, too
	$(PYTEST) $(ARGS)

check: $(READY)  ## check format, lint and types
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

format: $(READY)  ## format the code, repair what lint can
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

lock: $(READY)  ## write the lock files anew (ARGS=--upgrade: with the newest versions)
	.venv/bin/python .setup/lock.py $(ARGS)

clean:  ## remove .venv and caches
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
