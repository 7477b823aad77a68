# `make book` and `make test` do all the set-up. See README.md.
PYTHON ?= python3
VENV ?= .venv
PROFILE ?= smol
CORES ?= 2
EXAMPLES ?= 20000
# For `make mutants`: files of zu, separated by commas, and the number of mutants of each.
ONLY ?=
SAMPLE ?=
# Seconds, on two cores, for running kept records again in a build, or all. Then the chapters whose records `make evidence` makes.
VERIFY ?= 240
ONLY_KEPT = $(if $(ONLY),$(subst $(comma), ,$(ONLY)),$(KEPT))
KEPT := $(patsubst book/%.md,%,$(shell grep -l 'evidence="results/' book/*.md))
comma := ,
# WHERE: a folder of profiles/ that says where the work is done (slurm, gpu). SHARD_HOURS: the hours of a piece, if grids should be
# cut into pieces. RATE: the rate of the machines in TFLOP/s, from which the size of a piece follows.
WHERE ?=
SHARD_HOURS ?=
RATE ?= 40

# VENV= (empty) uses the active environment, for example conda's, and installs nothing.
ifeq ($(strip $(VENV)),)
PY := python
BIN :=
READY :=
else
PY := $(VENV)/bin/python
BIN := $(VENV)/bin/
READY := $(VENV)/.ready
endif
# Snakemake looks for new jobs every second, and once more for each job that has ended, unless the timespan is longer.
# Only one Snakemake runs in this folder, and it ends with make. Its own messages go to build/logs/snakemake.log. A rule reports
# what failed in its chapter or page; any other failure is shown without the places in Snakemake's files.
# A book imports less than a third of the 19,000 installed modules, so they are compiled only at their first import.
unexport PYTHONDONTWRITEBYTECODE
SNAKEMAKE = $(PY) tools/one_at_a_time.py --cores $(CORES) --config profile=$(PROFILE) shard_hours=$(SHARD_HOURS) rate=$(RATE) verify=$(VERIFY) \
	where=$(WHERE) \
	$(if $(WHERE),--workflow-profile profiles/$(WHERE)) \
	--max-jobs-per-timespan 1000/4s --quiet host progress reason rules --nolock --rerun-incomplete --keep-going --scheduler greedy

# Packages that only some checks need are installed with the first such check.
EXTRA = $(PY) -c 'import $(1)' 2> /dev/null || \
	$(if $(READY),$(PY) -m pip install -qq --disable-pip-version-check -c constraints.txt \
	--config-settings editable_mode=compat -e ".[$(2)]",{ echo 'pip install -e ".[$(2)]"'; exit 1; })

.PHONY: help book pdf sphinx notebooks evidence plan test test-all coverage fuzz mutants check bench lab clean
help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

book: $(READY)  ## build everything into build/html/index.html (PROFILE=smol CORES=2 WHERE= SHARD_HOURS=)
	@$(if $(WHERE)$(SHARD_HOURS),$(PY) tools/plan.py $(PROFILE) --rate $(RATE))
	@$(SNAKEMAKE)
	@echo build/html/index.html

pdf: $(READY)  ## the whole book as build/book.pdf (needs Chrome or Chromium)
	@$(SNAKEMAKE) pdf
	@echo build/book.pdf

# Renders what `make book` has executed, with plain Sphinx and MyST-NB, without jupyter-book.
sphinx: $(READY)  ## render the finished book with plain Sphinx, to build/sphinx/html/index.html
	@$(PY) tools/plain_sphinx.py build/site build/sphinx

notebooks: $(READY)  ## the chapters as build/notebooks/*.ipynb, not executed
	@$(SNAKEMAKE) notebooks
	@echo build/notebooks

evidence: $(READY)  ## make the records that results/ lacks (ONLY=few_shot WHERE=gpu); continues where it stopped
	@$(SNAKEMAKE) $(patsubst %,build/evidence/%.ipynb,$(ONLY_KEPT)); done=$$?; \
	$(PY) tools/evidence.py $(ONLY_KEPT) && exit $$done

plan: $(READY)  ## what a profile would download, run and cost, before it starts (PROFILE=paper)
	@$(PY) tools/plan.py $(PROFILE)

test: $(READY)  ## ruff, mypy, the order of imports, and pytest, without tests that build a whole book
	@$(PY) -m ruff check .
	@$(PY) -m mypy --no-error-summary
	@$(BIN)lint-imports --no-logo
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n $(CORES) -m "not whole"

test-all: $(READY)  ## all tests, including whole builds, interrupted builds and an installation elsewhere
	@$(PY) -m ruff check .
	@$(PY) -m mypy --no-error-summary
	@$(BIN)lint-imports --no-logo
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n $(CORES)

coverage: $(READY)  ## all tests, and which lines of zu no test reaches; fails below 95%
	@$(call EXTRA,coverage,check)
	@$(PY) -m coverage run -m pytest
	@$(PY) -m coverage report

fuzz: $(READY)  ## run every reader and parser on many random inputs (EXAMPLES=20000 for each of the seven)
	@ZU_EXAMPLES=$(EXAMPLES) $(PY) -m pytest tests/test_fuzz.py

mutants: $(READY)  ## which small faults in zu no test notices (ONLY=zu/solve.py SAMPLE=50; all take some hours)
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

# A kernel starts in its notebook's folder, but chapters run from the repository's root, so this kernel changes there.
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
