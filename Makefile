# `make` lists the targets. Everything runs from .venv; two stamps say what is installed in it.
# The dev set contains the embedded one in the same versions, so installing it over is additive.
PYTHON ?= python3
SEEDS  ?= 1000
CLOUD  ?= cloud
CLOUD_SEEDS ?= 100
VENV   := .venv
EMULATORS := .venv-tasks/.ready .venv-bigquery/.ready
STORES := .venv-moto/.ready .azurite/.ready
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup demo dev test test-cloud emulators check check-terraform focus-validator format chaos fuzz bench lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: $(VENV)/.dev  ## make .venv with everything that tests and checks need

demo: $(VENV)/.embedded  ## a month of AWS costs, end to end, on this machine
	$(BIN)/pipelines demo

dev: $(VENV)/.embedded  ## serve all functions on port 8001, in one process
	$(BIN)/pipelines dev

test: $(VENV)/.dev  ## the whole test suite, but for what needs an emulator
	$(BIN)/pytest -n auto

test-cloud: $(VENV)/.dev $(EMULATORS) $(STORES)  ## the same promises on emulators: java, Google Cloud SDK, Python 3.13, node
	$(BIN)/pytest -n 2 -m "$(CLOUD)"

emulators: $(VENV)/.dev $(EMULATORS)  ## the whole system in the cloud mode, on emulators, with its API on port 8001
	GRPC_ENABLE_FORK_SUPPORT=0 $(BIN)/python -m tests.support.emulate

check: $(VENV)/.dev  ## lint, format, types, dependency rule, configs and their schema, pages of the API
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/pipelines validate configs
	$(BIN)/pipelines schema --check configs/schema.json
	$(BIN)/pipelines schema --of providers --check configs/system/providers.schema.json
	$(BIN)/python -m functions.api.reference --check

check-terraform: .venv-checkov/.ready  ## what terraform/ leaves open; each exception is named there with its reason
	.venv-checkov/bin/checkov --directory terraform --skip-download --compact --quiet

focus-validator: $(VENV)/.dev .venv-focus/.ready  ## a second opinion on our FOCUS rows: the FinOps Foundation's validator (Python 3.12)
	$(BIN)/pytest -m "cloud and slow" tests/integration/test_official_validator.py

format: $(VENV)/.dev  ## let ruff fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

chaos: $(VENV)/.dev $(EMULATORS)  ## kill processes at every point of a run, here and on emulators, for hours: SEEDS=20 CLOUD_SEEDS=5 for less
	$(BIN)/pytest tests/chaos --seeds $(SEEDS)
	$(BIN)/pytest tests/chaos -m cloud --seeds $(CLOUD_SEEDS)

fuzz: $(VENV)/.dev  ## every property test with 10,000 examples: an hour or so
	$(BIN)/pytest -n auto -m hypothesis --hypothesis-profile fuzz --timeout 7200

bench: $(VENV)/.dev  ## measure what docs and changelog claim
	@set -e; for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python $$script; done

lock:  ## pin requirements*.txt anew from requirements/*.in: UPGRADE=1 takes newer versions
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip --disable-pip-version-check install --quiet uv==0.13.9
	$(COMPILE) requirements/dev.in -o requirements-dev.txt
	$(COMPILE) -c requirements-dev.txt requirements/cloud.in -o requirements.txt
	$(COMPILE) -c requirements-dev.txt requirements/embedded.in -o requirements-embedded.txt
	$(COMPILE) requirements/emulators/tasks.in -o requirements/emulators/tasks.txt
	$(COMPILE) requirements/emulators/moto.in -o requirements/emulators/moto.txt
	$(call COMPILE,3.13) requirements/emulators/bigquery.in -o requirements/emulators/bigquery.txt
	$(COMPILE) requirements/checkov.in -o requirements/checkov.txt
	$(call COMPILE,3.12) requirements/focus-validator.in -o requirements/focus-validator.txt

# One file for Python 3.11 and later on every platform; no index is named in it.
COMPILE = .venv-lock/bin/uv pip compile --quiet --python-version $(or $(1),3.11) --universal --generate-hashes \
	--no-header --no-emit-index-url --no-emit-find-links --system-certs $(if $(UPGRADE),--upgrade)

clean:  ## remove environments, caches and the data of demo and dev
	rm -rf $(VENV) .venv-lock .venv-tasks .venv-bigquery .venv-moto .azurite .venv-focus .venv-checkov build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis \
		.import_linter_cache .pipelines
	find functions shared tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# --- environments ---------------------------------------------------------------------------------

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# editable_mode=compat is a plain path entry: no import hook to pay for at every start
INSTALL_SELF = $(PIP) install --quiet --no-deps --no-build-isolation --config-settings editable_mode=compat -e .

$(VENV)/.embedded: requirements-embedded.txt pyproject.toml | $(VENV)/bin/pip
	$(PIP) install --quiet --require-hashes -r requirements-embedded.txt
	$(INSTALL_SELF)
	@touch $@

$(VENV)/.dev: requirements-dev.txt pyproject.toml | $(VENV)/bin/pip
	$(PIP) install --quiet --require-hashes -r requirements-dev.txt
	$(INSTALL_SELF)
	@touch $(VENV)/.embedded $@

# --no-deps: the file has them all, and this pip takes a name with and without its extras for two
.venv-tasks/.ready .venv-moto/.ready: .venv-%/.ready: requirements/emulators/%.txt
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/pip --disable-pip-version-check install --quiet --no-deps --require-hashes -r $<
	@touch $@

.azurite/.ready: requirements/emulators/azurite/package-lock.json
	mkdir -p .azurite
	cp $(<D)/package.json $< .azurite/
	cd .azurite && npm ci --ignore-scripts --no-audit --no-fund --silent
	@touch $@

.venv-checkov/.ready: requirements/checkov.txt
	$(PYTHON) -m venv .venv-checkov
	.venv-checkov/bin/pip --disable-pip-version-check install --quiet --require-hashes -r $<
	@touch $@

# Its DuckDB looks for extensions in the home folder: it gets one of its own, with those of the wheels.
PYTHON_3_13 = $(or $(shell python3.13 -c 'import sys; print(sys.executable)' 2>/dev/null),$(addsuffix /bin/python,$(shell pyenv prefix 3.13.0 2>/dev/null)))

.venv-bigquery/.ready: requirements/emulators/bigquery.txt
	@test -n "$(PYTHON_3_13)" || { echo "Python 3.13 is needed, as python3.13 or of pyenv" >&2; exit 1; }
	$(PYTHON_3_13) -m venv .venv-bigquery
	.venv-bigquery/bin/pip --disable-pip-version-check install --quiet --no-deps --require-hashes -r $<
	mkdir -p .venv-bigquery/home
	for name in ducklake icu spatial; do \
		file=$$(echo .venv-bigquery/lib/python3.13/site-packages/duckdb_extension_$$name/extensions/v*/$$name.duckdb_extension) && \
		HOME=$(CURDIR)/.venv-bigquery/home .venv-bigquery/bin/python -c \
			"import duckdb; duckdb.connect().execute(\"INSTALL '$$file'\")" || exit 1; \
	done
	@touch $@

PYTHON_3_12 = $(or $(shell python3.12 -c 'import sys; print(sys.executable)' 2>/dev/null),$(addsuffix /bin/python,$(shell pyenv prefix 3.12.1 2>/dev/null)))

.venv-focus/.ready: requirements/focus-validator.txt
	@test -n "$(PYTHON_3_12)" || { echo "Python 3.12 is needed, as python3.12 or of pyenv" >&2; exit 1; }
	$(PYTHON_3_12) -m venv .venv-focus
	.venv-focus/bin/pip --disable-pip-version-check install --quiet --no-deps --require-hashes -r $<
	@touch $@
