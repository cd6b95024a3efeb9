# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
#
#   make demo       train and pick on simulated micrographs, and report precision and recall
#   make check      style, types and the fast tests (no training, no Scipion project): between commits, two minutes
#   make test       run all tests: up to 25 minutes on two cores
#   make test-long  the three following, three quarters of an hour:
#   make fuzz       the fuzz tests with many more examples
#   make mutation   check that the tests notice changes of picking, evaluation and coordinates
#   make versions   the other supported Pythons, the oldest and the newest supported versions of the requirements
#   make lint       check style and types
#   make docs       build the documentation in build/docs
#   make clean      remove everything made by these
#
# Each installs into the folder .venv what it needs: `make demo` the package and its requirements, the others the
# development tools as well. Needed beforehand: make, Python 3.10 to 3.12 with venv.

VENV := .venv
INSTALLED := $(VENV)/.installed
DEVELOPMENT := $(VENV)/.installed-development
PIP_INSTALL := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
# Programs used by some tests, as package=program; tests whose program is missing are skipped.
DEBIAN_TEST_PACKAGES := relion=relion_preprocess slurmctld=slurmctld slurmd=slurmd slurm-client=squeue munge=munged \
    xvfb=Xvfb chromium=chromium
# Percentage of the lines and branches of the method that the tests must run.
MIN_COVERAGE := 95
# Percentage of the mutants (changes of the code, made one at a time) that must make a test fail, and the mutants that
# are tried: a tenth, those whose number ends in a digit (all, more than an hour: make mutation MUTANTS=).
MIN_MUTATION_SCORE := 85
MUTANTS := '*7'

.PHONY: demo check test test-long fuzz mutation versions lint docs clean test-packages

demo: $(INSTALLED)
	$(VENV)/bin/python -m deepem_scipion.headless.demo

check: lint
	$(VENV)/bin/python -m pytest -n 2 --dist worksteal -m "not slow" tests

test: $(DEVELOPMENT) test-packages
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=term \
	    --cov-fail-under=$(MIN_COVERAGE)

test-long: fuzz mutation versions

fuzz: $(DEVELOPMENT)
	DEEPEM_FUZZ=long $(VENV)/bin/python -m pytest -rP --hypothesis-show-statistics tests/test_fuzz.py tests/test_guided.py

mutation: $(DEVELOPMENT)
	rm -rf mutants
	$(VENV)/bin/mutmut run $(MUTANTS)
	$(VENV)/bin/mutmut export-cicd-stats
	@$(VENV)/bin/python -c 'import json; \
	    found = json.load(open("mutants/mutmut-cicd-stats.json")); \
	    noticed = found["killed"] + found["timeout"]; \
	    tried = noticed + sum(found[name] for name in ("survived", "no_tests", "suspicious", "segfault")); \
	    score = 100 * noticed / tried; \
	    print("%.1f %% of %d mutants noticed, expected %s %%" % (score, tried, $(MIN_MUTATION_SCORE))); \
	    raise SystemExit(score < $(MIN_MUTATION_SCORE))'

versions: $(DEVELOPMENT)
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/nox -f .ci/noxfile.py

lint: $(DEVELOPMENT)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/vermin --quiet --no-tips --target=3.8- --violations deepem_scipion  # Scipion's own Python

docs: $(DEVELOPMENT)
	$(VENV)/bin/python -m sphinx -W -n docs build/docs

clean:
	rm -rf $(VENV) .ci/.nox build dist mutants demo-output *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): setup.py
	@set -eu; \
	for candidate in python3.12 python3.11 python3.10 python3; do \
	    $$candidate -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null || continue; \
	    if $$candidate -c 'import ensurepip, venv' 2>/dev/null; then python=$$candidate; break; fi; \
	    incomplete=$$candidate; \
	done; \
	if [ -z "$${python:-}" ] && [ -n "$${incomplete:-}" ]; then \
	    echo "$$incomplete cannot make environments. Install its venv module, on Debian with:" >&2; \
	    echo "    apt-get install python3-venv" >&2; exit 1; \
	fi; \
	if [ -z "$${python:-}" ]; then \
	    echo "No Python 3.10, 3.11 or 3.12 was found (tried python3.12, python3.11, python3.10, python3)." >&2; \
	    echo "Install one, on Debian with: apt-get install python3 python3-venv" >&2; exit 1; \
	fi; \
	if ! $(VENV)/bin/python -c '' 2>/dev/null; then \
	    echo "Creating $(VENV) with $$python"; $$python -m venv --clear $(VENV); \
	fi; \
	echo "Installing the package and its requirements into $(VENV) (some minutes the first time)"; \
	$(PIP_INSTALL) --editable '.[program]'
	@touch $@

$(DEVELOPMENT): $(INSTALLED)
	@echo "Installing the development tools into $(VENV)"
	@$(PIP_INSTALL) --editable '.[dev]'
	@touch $@

# Installs missing programs where that is possible, and reports the tests that are skipped otherwise.
test-packages:
	@set -eu; missing=; \
	for pair in $(DEBIAN_TEST_PACKAGES); do \
	    command -v "$${pair#*=}" >/dev/null 2>&1 || missing="$$missing $${pair%%=*}"; \
	done; \
	$(VENV)/bin/python -c 'import tkinter' 2>/dev/null || missing="$$missing python3-tk"; \
	if [ -n "$$missing" ]; then \
	    if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 \
	        && apt-get update -qq >/dev/null \
	        && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	    then echo "Installed:$$missing"; \
	    else echo "Not installed, tests that need them are skipped:$$missing"; fi; \
	fi
