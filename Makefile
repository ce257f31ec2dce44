# Start here: `make demo` and `make test`. While writing code: `make quick` and `make check`.
PYTHON ?= python3
CYCLES ?= 1200
EXAMPLES ?= 2000
MINUTES ?= 120
JOBS_PER_MINUTE ?= 150
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# Under a minute: what needs no server and no model.
QUICK := tests/broker/dispatch tests/broker/journal tests/ranks/parallel/test_layout.py \
	tests/ranks/sampling/test_solver.py tests/http_front/docs

SAMPLED := $(BIN)/python -m pytest -m "not full and not accelerator and not browser and not ray"
MODEL_TESTS := tests/bench tests/npu tests/ranks tests/rehearsal
FRONT_TESTS := tests/docs tests/fuzz tests/http_front

.PHONY: install demo serve quick check test test-models test-front test-server test-all test-browser test-ray pictures chaos soak fuzz long audit format clean \
	rehearse-cuda rehearse-npu rehearse-quick

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; found $$($(PYTHON) --version). Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install
	$(BIN)/python -m launcher.demo

serve: install
	$(BIN)/python launch.py --demo --nproc 8 --state-dir demo-state

quick: install
	$(BIN)/python -m pytest $(QUICK) --ignore tests/broker/journal/test_disk_faults.py

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Three parts side by side: the models' tests compute, those of the server mostly wait. Each part shows
# its output when it ends.
test: install
	@echo "about half an hour on 2 cores; 'make test-front', for example, runs a part alone"
	@$(MAKE) --jobs=3 --keep-going --output-sync=target --no-print-directory test-models test-front test-server

test-models: install
	nice $(SAMPLED) $(MODEL_TESTS)

test-front: install
	$(SAMPLED) $(FRONT_TESTS)

test-server: install
	$(SAMPLED) tests $(addprefix --ignore=,$(MODEL_TESTS) $(FRONT_TESTS))

test-all: install
	$(BIN)/python -m pytest -m "not accelerator and not browser and not ray"

test-ray: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[ray]'
	$(BIN)/python -m pytest -m ray tests/ray_engine

test-browser: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[browser]'
	@command -v chromium >/dev/null \
		|| echo "chromium is not on the PATH, so these tests are skipped. On Debian and Ubuntu: sudo apt-get install chromium"
	$(BIN)/python -m pytest -m browser tests/browser

# The pictures of README and documents, from the running demo.
pictures: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[browser]'
	$(BIN)/python -m tests.browser.pictures

fuzz: install
	$(BIN)/python -m pytest tests/fuzz --examples $(EXAMPLES)

# The real builds of torch over stubs of the vendors' libraries; see tests/rehearsal/README.md.
rehearse-cuda: install
	$(BIN)/python -m tests.rehearsal cuda

rehearse-npu: install
	$(BIN)/python -m tests.rehearsal npu

rehearse-quick: install
	$(BIN)/python -m tests.rehearsal cuda --parts fork,join
	$(BIN)/python -m tests.rehearsal npu --parts fork,join

# pip-audit is no dependency of the project, so it gets a virtual environment of its own.
audit:
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install --quiet pip-audit==2.10.1
	$(VENV)-audit/bin/python tests/audit.py

chaos: install
	$(BIN)/python -m pytest tests/chaos --cycles $(CYCLES)

soak: install
	$(BIN)/python -m tests.soak --minutes $(MINUTES) --rate $(JOBS_PER_MINUTE)

# What takes too long for each change, one after the other: an afternoon.
long:
	$(MAKE) test-all
	$(MAKE) chaos
	$(MAKE) fuzz EXAMPLES=1000
	$(MAKE) soak MINUTES=10
	$(MAKE) rehearse-cuda rehearse-npu

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(VENV)-audit build *.egg-info .mypy_cache .ruff_cache .pytest_cache demo-state
