# make setup : a virtual environment with the reader (`reelstore`) and everything that the checkout runs
# make demo  : set up, then the whole system on a toy world that it films itself
# make test  : set up, then lint, types and every test
# make bench : set up, then every bench but those that take long (an hour); rewrites bench/RESULTS.md
# make notebooks : set up, then execute examples/notebooks and keep what they print (a minute)
# make docs  : set up, then the documentation site, in out/site
# make gpu   : set up, then the tests and the measurements that need a GPU (ten minutes)
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Two workers on two processors, each with one file at a time, those with slow tests first (tests/conftest.py). Threads
# that spin while they wait would take the other worker's processor.
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: setup demo demo-ray test quick lint bench notebooks docs gpu clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt -e '.[extract,parse,train,ray,dev]'
	touch $(STAMP)

demo: setup
	$(BIN)/python jobs/demo.py --out out/demo

demo-ray: setup
	PATH="$(abspath $(BIN)):$$PATH" bash examples/ray_job.sh out/demo-ray

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

quick: setup lint
	$(PYTEST) -m "not slow"

# Tests that start Ray mostly wait, and what they start works beside them: they run after all others.
test: setup lint
	$(PYTEST) -m "not ray"
	$(PYTEST) -m ray

bench: setup
	$(BIN)/python bench/all.py --out out/bench

notebooks: setup
	$(BIN)/python examples/notebooks/execute.py

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

gpu: setup
	$(BIN)/python -m pytest -q -m gpu tests/gpu
	$(BIN)/python bench/gpu.py --out out/gpu

clean:
	rm -rf out build dist *.egg-info .mypy_cache .ruff_cache .hypothesis
