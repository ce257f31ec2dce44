# Two commands matter to a newcomer: `make demo` and `make test`.
PYTHON ?= python3
CYCLES ?= 1200
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install demo serve test test-all chaos check format clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; found $$($(PYTHON) --version). Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install
	$(BIN)/python -m tests.demo

serve: install
	$(BIN)/python launch.py --demo --nproc 8 --state-dir demo-state

test: install
	$(BIN)/python -m pytest -m "not full and not accelerator"

test-all: install
	$(BIN)/python -m pytest -m "not accelerator"

chaos: install
	$(BIN)/python -m pytest tests/chaos --cycles $(CYCLES)

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache demo-state
