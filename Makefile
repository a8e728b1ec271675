# make demo    the demo, on nothing but Python 3.11+, pip and make
# make test    all tests, in parallel, with branch coverage
# make soak    thousands of seeds and a kill at every write, and again at every write of the recovery
# make check   lint, format, types, import contracts
# make bench   every benchmark, one JSON object each
# ARGS="..." is passed on, for example: make demo ARGS="docs 'What is a run?'"

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
CORE   := $(VENV)/.core
DEV    := $(VENV)/.dev
PIP    := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check install -c constraints.txt
BENCH  := $(filter-out bench/_%,$(sort $(wildcard bench/*.py)))

.PHONY: demo env test soak check format bench clean

demo: $(CORE)
	@$(BIN)/perdure demo $(ARGS)

env: $(DEV)

test: $(DEV)
	$(BIN)/python -m pytest -n auto --cov --cov-report=term $(ARGS)

SEEDS ?= 5000
soak: $(DEV)
	SEEDS=$(SEEDS) SOAK=1 $(BIN)/python -m pytest -n auto --timeout 900 -m "soak or not soak" tests/sim tests/runtime tests/log tests/db $(ARGS)

check: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo
	$(BIN)/lint-imports --no-logo --config circles.toml
	$(if $(wildcard tests/typing/*.py),$(BIN)/mypy)

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DEV)
	@set -e; for file in $(BENCH); do echo "== $$file"; $(BIN)/python $$file --json $(ARGS); done

clean:
	rm -rf $(VENV)

# The stamps are older than what they were made from when the environment is stale.
$(CORE): pyproject.toml constraints.txt
	@$(call make_venv)
	@$(PIP) -e .
	@touch $@

$(DEV): pyproject.toml constraints.txt
	@$(call make_venv)
	@$(PIP) -e '.[all,dev]'
	@touch $(CORE) $@

define make_venv
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Perdure needs Python 3.11 or newer. Set it with: make PYTHON=python3.12")' && \
{ $(BIN)/python -c '' 2>/dev/null || { echo "Making the environment in $(VENV) (once, about a minute)"; $(PYTHON) -m venv --clear $(VENV); }; }
endef
