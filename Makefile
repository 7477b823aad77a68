# `make book` and `make test` do all the set-up. See README.md.
PYTHON ?= python3
VENV ?= .venv
PROFILE ?= smol
CORES ?= 2
EXAMPLES ?= 20000
# Files of zu, with commas between, and so many mutants of each: for `make mutants`.
ONLY ?=
SAMPLE ?=
# Seconds, on two cores, for kept records that a build earns again, or all; the chapters whose records `make evidence` makes.
VERIFY ?= 240
ONLY_KEPT = $(if $(ONLY),$(subst $(comma), ,$(ONLY)),$(KEPT))
KEPT := $(patsubst book/%.md,%,$(shell grep -l 'evidence="results/' book/*.md))
comma := ,
# A folder of profiles/ that says where the work is done (slurm, gpu); hours of a piece of a grid, where grids should be
# cut into pieces, and the rate in TFLOP/s of the machines that do it, by which they are sized.
WHERE ?=
SHARD_HOURS ?=
RATE ?= 40

# VENV= (empty) uses the environment that is already active, conda's for example, and installs nothing.
ifeq ($(strip $(VENV)),)
PY := python
BIN :=
READY :=
else
PY := $(VENV)/bin/python
BIN := $(VENV)/bin/
READY := $(VENV)/.ready
endif
# Snakemake looks anew for jobs each second, and once more for each job that has ended, unless the timespan is longer.
# It runs once in this folder, and where make is ended, so is it. Its own messages go to build/logs/snakemake.log. What failed
# in a chapter or a page is said by its rule; any other end is shown, without the places in Snakemake's files.
# Of 19,000 modules that are installed less than a third is imported by a book: the first import compiles them, and keeps that.
unexport PYTHONDONTWRITEBYTECODE
SNAKEMAKE = $(PY) tools/one_at_a_time.py --cores $(CORES) --config profile=$(PROFILE) shard_hours=$(SHARD_HOURS) rate=$(RATE) verify=$(VERIFY) \
	where=$(WHERE) \
	$(if $(WHERE),--workflow-profile profiles/$(WHERE)) \
	--max-jobs-per-timespan 1000/4s --quiet host progress reason rules --nolock --rerun-incomplete --keep-going --scheduler greedy

# What only some checks need is installed when they are asked for.
EXTRA = $(PY) -c 'import $(1)' 2> /dev/null || \
	$(if $(READY),$(PY) -m pip install -qq --disable-pip-version-check -c constraints.txt \
	--config-settings editable_mode=compat -e ".[$(2)]",{ echo 'pip install -e ".[$(2)]"'; exit 1; })

.PHONY: help book pdf sphinx notebooks evidence plan test test-all coverage fuzz mutants check bench lab clean
help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

book: $(READY)  ## everything, to build/html/index.html (PROFILE=smol CORES=2 WHERE= SHARD_HOURS=)
	@$(if $(WHERE)$(SHARD_HOURS),$(PY) tools/plan.py $(PROFILE) --rate $(RATE))
	@$(SNAKEMAKE)
	@echo build/html/index.html

pdf: $(READY)  ## the whole book as build/book.pdf (needs Chrome or Chromium)
	@$(SNAKEMAKE) pdf
	@echo build/book.pdf

# Of what `make book` has executed and put together; plain Sphinx and MyST-NB, without jupyter-book.
sphinx: $(READY)  ## the book that was made, by plain Sphinx without jupyter-book, to build/sphinx/html/index.html
	@$(PY) tools/plain_sphinx.py build/site build/sphinx

notebooks: $(READY)  ## the chapters as build/notebooks/*.ipynb, not executed
	@$(SNAKEMAKE) notebooks
	@echo build/notebooks

evidence: $(READY)  ## the records in results/, those that lack (ONLY=few_shot WHERE=gpu); it goes on where it stopped
	@$(SNAKEMAKE) $(patsubst %,build/evidence/%.ipynb,$(ONLY_KEPT)); done=$$?; \
	$(PY) tools/evidence.py $(ONLY_KEPT) && exit $$done

plan: $(READY)  ## what a profile would download, run and cost, before it starts (PROFILE=paper)
	@$(PY) tools/plan.py $(PROFILE)

test: $(READY)  ## ruff, mypy, the floors of the imports, and pytest; what builds a whole book is left to test-all
	@$(PY) -m ruff check .
	@$(PY) -m mypy --no-error-summary
	@$(BIN)lint-imports --no-logo
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n $(CORES) -m "not whole"

test-all: $(READY)  ## all tests: builds, kills and an installation elsewhere too
	@$(PY) -m ruff check .
	@$(PY) -m mypy --no-error-summary
	@$(BIN)lint-imports --no-logo
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n $(CORES)

coverage: $(READY)  ## the same, and which lines of zu no test reaches; less than 95% of them reached is a failure
	@$(call EXTRA,coverage,check)
	@$(PY) -m coverage run -m pytest
	@$(PY) -m coverage report

fuzz: $(READY)  ## every reader and parser on many random inputs (EXAMPLES=20000 for each of the seven)
	@ZU_EXAMPLES=$(EXAMPLES) $(PY) -m pytest tests/test_fuzz.py

mutants: $(READY)  ## which small faults in zu no test notices (ONLY=zu/solve.py SAMPLE=50; all: some hours)
	@$(call EXTRA,mutmut,check)
	@$(PY) tools/mutants.py $(if $(ONLY),--only $(ONLY)) $(if $(SAMPLE),--sample $(SAMPLE))

check: $(READY)  ## axe-core on the rendered pages, and links to other sites (needs Chrome or Chromium, and the network)
	@$(call EXTRA,axe_playwright_python,check)
	@$(PY) tools/check_pages.py build/html
	@$(BIN)jupyter-book build build/site --path-output build/linkcheck --builder linkcheck > build/logs/linkcheck.log 2>&1 || \
	{ grep -E '\(.*\) (broken|timeout)' build/logs/linkcheck.log || tail -n 20 build/logs/linkcheck.log; exit 1; }

bench: $(READY)  ## the solves at the size of a 3B model; targets and moments against the plain loop; edits after others
	@$(PY) bench/solve.py
	@$(PY) bench/targets.py
	@$(PY) bench/edit.py
	@$(PY) bench/later.py

# A kernel starts in its notebook's folder, but chapters are run from the repository's root: so this one is too.
lab: $(READY)  ## JupyterLab with the chapters as paired notebooks
	@$(call EXTRA,jupyterlab,lab)
	@$(PY) -c 'import json, os, pathlib as p, sys; d = p.Path("build/jupyter/kernels/python3"); \
	d.mkdir(parents=True, exist_ok=True); (d / "kernel.json").write_text(json.dumps({ \
	"display_name": "Python 3 (zu)", "language": "python", "argv": [sys.executable, "-m", "ipykernel_launcher", \
	"-f", "{connection_file}", f"--IPKernelApp.exec_lines=import os; os.chdir({os.getcwd()!r})"]}))'
	@JUPYTER_PATH=build/jupyter $(PY) -m jupyterlab

clean:  ## remove build/ (the environment and the model cache stay)
	rm -rf build

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 14); \
	ok or sys.exit("zu needs Python 3.11, 3.12 or 3.13; $(PYTHON) is " + sys.version.split()[0] + \
	". Name another: make book PYTHON=python3.12")'
	@echo "Installing into $(VENV): about 2.2 GB, some minutes, once."
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install -qq --disable-pip-version-check --no-compile -c constraints.txt \
	--config-settings editable_mode=compat -e ".[book]"
	@touch $@
