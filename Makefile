# torchstone: the kernel-style front door. `make help` lists the targets.
#
#   make                      install into .venv if needed, then the main job of .config (or the quickstart)
#   make defconfig-gpt-nano   write .config from a defconfig; then `make`
#   make V=1                  say more
#   make DRY_RUN=1 MAX_ITERS=20 TIME=600 EPOCHS=2      say what would happen; steps; seconds; epochs
#   make CONFIG_TRAIN_BATCH_SIZE=8   override any knob; `make help` and docs/config.md name them

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
TORCH_SPEC ?= torch==2.13.0
TORCH ?= auto
CONSTRAINTS ?= constraints/dev.txt
RUN_DIR ?= runs/$(if $(wildcard .config),config,quickstart)
PYTEST_ARGS ?=

BIN := $(VENV)/bin
# .config wins; without one the quickstart is the main job.
SETTINGS := $(if $(wildcard .config),--config .config,--defconfig quickstart)
VERBOSE := $(if $(V),-v)
# The study that is asked for (NAME=...) or that .config names.
CONFIGURED := $(filter-out none,$(shell sed -n 's/^CONFIG_STUDY_NAME="\(.*\)"$$/\1/p' .config 2>/dev/null))
STUDY := $(or $(NAME),$(if $(CONFIGURED),--config .config))

.DEFAULT_GOAL := run
.PHONY: run help install install-dev menuconfig nconfig list-defconfigs savedefconfig oldconfig lintconfig check estimate \
	test lint format types continue status test-matrix-dry-run \
	imports dependencies campaign bench constraints hooks wheel-test clean mrproper

run: $(VENV)/.quickstart ## install if needed; run the configured study (or NAME=...), else check and train
ifneq ($(STUDY),)
	@$(BIN)/torchstone study run $(STUDY) $(if $(JOBS),--jobs $(JOBS)) $(VERBOSE)
	@$(if $(DRY_RUN),true,$(BIN)/torchstone study report $(STUDY))
else
	@$(BIN)/torchstone check $(SETTINGS) $(VERBOSE)
	@$(BIN)/torchstone train $(SETTINGS) --run-dir $(RUN_DIR) --resume auto $(VERBOSE)
endif

continue: run ## go on with the configured study, or run, where it was stopped

status: $(VENV)/.quickstart ## how far the configured study (or NAME=...) is
	@$(BIN)/torchstone study status $(STUDY)

test-matrix-dry-run: $(VENV)/.quickstart ## list the cells of the configured study (or NAME=...)
	@$(BIN)/torchstone study show $(STUDY) --cells

help: ## list the targets
	@awk -F':.*## ' '/^[a-z% -]+:.*## /{sub(/%/, "NAME", $$1); printf "  make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Each stamp is remade when the packaging or the pins change. torch comes first and alone, so that nothing
# after it can choose another one; TORCH=skip keeps a torch that the machine brings (Colab, clusters).
$(BIN)/python:
	$(PYTHON) -m venv $(if $(filter skip,$(TORCH)),--system-site-packages) $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=26"

$(VENV)/.torch: | $(BIN)/python
	$(if $(filter skip,$(TORCH)),,$(BIN)/python -m pip install --quiet "$(TORCH_SPEC)")
	@touch $@

$(VENV)/.quickstart: pyproject.toml $(CONSTRAINTS) $(VENV)/.torch
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable ".[quickstart]"
	@touch $@

$(VENV)/.dev: pyproject.toml $(CONSTRAINTS) $(VENV)/.torch
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable ".[dev]"
	@touch $@ $(VENV)/.quickstart

install: $(VENV)/.quickstart ## install what the quickstart needs
install-dev: $(VENV)/.dev ## install what development and tests need

defconfig-%: $(VENV)/.quickstart ## write .config from defconfigs/NAME
	@$(BIN)/torchstone config defconfig $*

list-defconfigs: $(VENV)/.quickstart ## list the defconfigs
	@$(BIN)/torchstone config list

menuconfig nconfig: $(VENV)/.quickstart ## edit .config in a menu; / searches
	@$(BIN)/torchstone config menu

savedefconfig: $(VENV)/.quickstart ## write the differences from the defaults to ./defconfig
	@$(BIN)/torchstone config save

oldconfig: $(VENV)/.quickstart ## bring .config up to this version
	@$(BIN)/torchstone config oldconfig

lintconfig: $(VENV)/.quickstart ## find the lines of .config and defconfigs/ that do not do what they say
	@$(BIN)/torchstone config lint

check: $(VENV)/.quickstart ## prove every step of the configured study (or NAME=...), else the configured model
	@$(BIN)/torchstone $(if $(STUDY),study check $(STUDY),check $(SETTINGS)) $(VERBOSE)

estimate: $(VENV)/.quickstart ## what the configured study (or NAME=...) will cost
	@$(BIN)/torchstone study estimate $(STUDY)

test: $(VENV)/.dev ## run every test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)

campaign: $(VENV)/.dev ## the long runs behind a marker
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m campaign --timeout 0 $(PYTEST_ARGS)

lint: format-check types imports dependencies ## formatter, linter, types, import contract, dependencies

format: $(VENV)/.dev ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: format-check
format-check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy

imports: $(VENV)/.dev
	$(BIN)/lint-imports

dependencies: $(VENV)/.dev
	$(BIN)/deptry .

bench: $(VENV)/.dev ## measure; prints ratios, writes JSON to bench/results
	$(BIN)/python bench/startup.py
	$(BIN)/python bench/adapter.py
	$(BIN)/python bench/train.py
	$(BIN)/python bench/levers.py
	$(BIN)/python bench/loss_memory.py
	$(BIN)/python bench/checkpoint.py
	$(BIN)/python bench/data.py
	$(BIN)/python bench/publish.py
	$(BIN)/python bench/probes.py
	$(BIN)/python bench/drift.py
	$(BIN)/python bench/optim.py
	$(BIN)/python bench/attention.py
	$(BIN)/python bench/export.py

constraints: $(VENV)/.torch ## write the exact pins anew
	$(BIN)/python constraints/refresh.py

hooks: ## install the pre-commit hook that refuses secrets
	git config core.hooksPath .githooks

wheel-test: $(VENV)/.dev ## build the wheel, install it in an empty environment, run a check there
	rm -rf build/wheel-test
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir build/wheel-test .
	$(PYTHON) -m venv build/wheel-test/venv
	build/wheel-test/venv/bin/python -m pip install --quiet --upgrade "pip>=26"
	build/wheel-test/venv/bin/python -m pip install --quiet "$(TORCH_SPEC)"
	build/wheel-test/venv/bin/python -m pip install --quiet build/wheel-test/*.whl
	cd build/wheel-test && venv/bin/torchstone check zoo:gpt-nano --budget 10

clean: ## remove caches and build products; keeps runs/ and .config
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache bench/results

mrproper: clean ## clean, and remove .venv and .config; keeps runs/
	rm -rf $(VENV) .config .config.old
