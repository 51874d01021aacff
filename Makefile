# All commands of the project. PYTHON is the interpreter for the environment (3.10 to 3.13).
PYTHON ?= python3
COLAB_PYTHON ?= python3.13
DATA ?= ../shared/nih
FUZZ_SECONDS ?= 60
NOTEBOOKS := $(sort $(wildcard notebooks/0*.ipynb))
BIN := .venv/bin
INSTALLED := .venv/installed
BROWSER := .venv/installed-browser
CHROMIUM ?= $(firstword $(shell command -v chromium chromium-browser google-chrome google-chrome-stable))
COLAB := build/colab/environment
# An uploaded image is one message. Jupyter's limit is 10 MiB, and DICOM files are larger.
LARGE_UPLOADS := --ServerApp.tornado_settings="{'websocket_max_message_size': 268435456}"
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

.PHONY: help environment demo real lab test test-slow test-browser test-colab fuzz pair clean

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

environment: $(INSTALLED)  ## Make .venv with all requirements

$(INSTALLED): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "cxr-seam needs Python 3.10 or later; name one: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv .venv || \
		{ echo "$(PYTHON) cannot make environments; install its venv package (Debian, Ubuntu: python3-venv)"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# Execute the notebooks in order. $(1) is the output folder; executed copies are written beside the results.
define execute
	@for notebook in $(NOTEBOOKS); do \
		echo "== $$notebook"; \
		started=$$SECONDS; \
		CXR_SEAM_OUTPUT=$(CURDIR)/$(1) $(BIN)/jupyter nbconvert --log-level ERROR --to notebook --execute \
			--ExecutePreprocessor.timeout=-1 --output-dir $(1)/notebooks $$notebook \
			2> >(grep -v 'Kernel is running over TCP' >&2) || exit 1; \
		echo "   $$((SECONDS - started)) s"; \
	done
	@echo
	@echo "executed notebooks: $(1)/notebooks    figures: $(1)/figures    numbers: $(1)/results.json"
	@echo
	@$(BIN)/python -c 'from cxr_seam.evaluation.results import load_results; from cxr_seam.evaluation.tables import summary; \
		print(summary(load_results("$(1)/results.json")).to_string(na_rep=""))'
endef

demo: export CXR_SEAM_DATA = demo
demo: export CXR_SEAM_PRESET = demo
demo: environment  ## Run the five notebooks on synthetic images, on the CPU, into runs/demo
	$(call execute,runs/demo)

real: export CXR_SEAM_DATA = $(abspath $(DATA))
real: export CXR_SEAM_PRESET = small
real: environment  ## Run them on a folder with NIH data: make real DATA=../shared/nih
	$(call execute,runs/real)

lab: $(BROWSER)  ## Open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks $(LARGE_UPLOADS)

test: environment  ## Lint, run the quick tests in two processes, then the five notebooks on tiny data
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" --ignore=tests/browser tests
	@output=$$(mktemp -d); trap 'rm -rf "$$output"' EXIT; \
		CXR_SEAM_DATA=tiny CXR_SEAM_PRESET=tiny CXR_SEAM_OUTPUT=$$output \
		$(BIN)/python -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=600 $(NOTEBOOKS)

test-slow: environment  ## Run the slow tests too; .ci/run does this for every change
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m slow --ignore=tests/browser tests

test-browser: $(BROWSER)  ## Use notebook 05 in a headless Chromium; screenshots in build/browser
	@command -v "$(CHROMIUM)" > /dev/null || { echo "no Chromium here; install one (Debian, Ubuntu: apt-get install" \
		"chromium) or name one: make test-browser CHROMIUM=/path/to/chrome"; exit 1; }
	CHROMIUM="$(CHROMIUM)" $(BIN)/python -m pytest tests/browser

$(BROWSER): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,browser]'
	@touch $@

test-colab: $(COLAB)/installed  ## Run the notebooks in Colab's versions (6 GB), see docs/colab.md
	$(COLAB)/bin/python tests/colab/run.py

$(COLAB)/installed: tests/colab/preinstalled.txt
	@$(COLAB_PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 13))' || \
		{ echo "Colab has Python 3.13; name one: make test-colab COLAB_PYTHON=/path/to/python3.13"; exit 1; }
	rm -rf $(COLAB)
	@$(COLAB_PYTHON) -m venv $(COLAB) || \
		{ echo "$(COLAB_PYTHON) cannot make environments; install its venv package"; exit 1; }
	$(COLAB)/bin/python -m pip install --quiet --disable-pip-version-check -r tests/colab/preinstalled.txt
	@touch $@

fuzz: environment  ## Damage small files at random and read them: make fuzz FUZZ_SECONDS=60, for each of two readers
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,fuzz]'
	$(BIN)/python tests/robustness/fuzz.py tables --seconds $(FUZZ_SECONDS)
	$(BIN)/python tests/robustness/fuzz.py images --seconds $(FUZZ_SECONDS)

pair: environment  ## Write the script of each notebook after an edit in Jupyter
	$(BIN)/jupytext --quiet --to py:percent $(NOTEBOOKS)

clean:  ## Remove the environment and all outputs
	rm -rf .venv build runs *.egg-info .pytest_cache .ruff_cache
