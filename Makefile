# Everything that is done with this repository, one target each. `make` alone lists them.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := $(VENV)/.peers
SCRIPT := $(BIN)/python scripts/notebooks.py
FORMATTED := nbs scripts tests setup.py
export OMP_NUM_THREADS ?= 1

DEMO := compare --profile cpu --losses infonce,bidirectional_infonce,ranknet \
	--collection pydocs --steps 100 --temperatures 0.05,0.1 --output results/demo --resume

##@ Use
.PHONY: help install demo lab

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(READY) ## Make the virtual environment .venv with everything in it (PYTHON=python3.12)

$(READY): settings.ini setup.py pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("rankbench needs Python 3.11 or newer; $(PYTHON) is %d.%d. Try: make install PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	@touch $@

demo: install ## Train with three losses on a small collection and compare them
	unset OMP_NUM_THREADS; $(BIN)/rankbench $(DEMO)

lab: install ## Open the notebooks in JupyterLab
	$(BIN)/jupyter lab nbs

##@ Write
.PHONY: new export execute readme prepare

new: install ## Start a page for a new loss (family=pairwise name=my [page=my_page])
	@$(SCRIPT) new --family '$(family)' --name '$(name)' $(if $(page),--page '$(page)')

export: install ## Format and clean the notebooks and write rankbench/ from them
	$(BIN)/ruff format --quiet $(FORMATTED)
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean

execute: install ## Run notebooks in fresh processes and save their outputs (NB=nbs/losses/20_pairwise.ipynb)
	$(SCRIPT) execute $(NB)
	$(BIN)/nbdev_clean

readme: install ## Write README.md from nbs/index.ipynb
	$(SCRIPT) readme

prepare: export readme test ## Do before every commit: export, README, and all tests

##@ Check
.PHONY: test in-sync readme-check lint pytest notebooks docs-check

test: in-sync readme-check lint docs-check pytest notebooks ## Everything below, in minutes

in-sync: install ## Do the notebooks and the package say the same?
	$(SCRIPT) in-sync

readme-check: install ## Does README.md match nbs/index.ipynb?
	$(SCRIPT) readme --check

lint: install ## ruff, on code and notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check $(FORMATTED)

pytest: install ## The tests in tests/
	$(BIN)/python -m pytest -n 2

notebooks: install ## Run the notebooks with their assertions, saving nothing (NB=...)
	$(SCRIPT) test $(NB)

docs-check: install ## What can be checked of the site without Quarto: links, sizes, outputs
	$(SCRIPT) docs-check

##@ Measure
.PHONY: bench

# The losses of allRank and open_clip use nothing of what the packages ask for; hence --no-deps.
$(PEERS): $(READY)
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev,peers]' \
		|| echo "Some libraries could not be installed; the table names them as absent." >&2
	$(BIN)/python -m pip install -c constraints.txt --no-deps allRank open_clip_torch || true
	@touch $@

bench: $(PEERS) ## Measure the losses against other libraries, and their growth against their cards
	$(BIN)/rankbench bench --progress --output results/bench/losses.json
	$(BIN)/rankbench bench growth --progress --output results/bench/growth.json
	$(BIN)/rankbench bench batches --progress --output results/bench/batches.json
	$(BIN)/rankbench bench memory --losses bidirectional_infonce,infonce --output results/bench/batches.json
	mkdir -p data/results/bench && cp results/bench/*.json data/results/bench

##@ Site
.PHONY: docs preview quarto

quarto:
	@command -v quarto >/dev/null || { echo "This needs Quarto, https://quarto.org/docs/get-started; make docs-check works without it." >&2; exit 1; }

docs: quarto install ## Build the site into _docs/ (needs Quarto)
	$(BIN)/nbdev_proc_nbs
	cd _proc && quarto render --no-cache
	rm -rf _docs && mv _proc/_docs _docs

preview: quarto install ## Serve the site and follow edits (needs Quarto)
	$(BIN)/nbdev_preview
