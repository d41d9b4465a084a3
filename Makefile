# make demo : set up and run the main job on clips that it encodes itself
# make test : set up and pass every test
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo demo-ray test quick lint bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
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
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow"

# test_ray.py starts and stops clusters of its own, so nothing else may run beside it.
test: setup lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --ignore tests/pipeline/test_ray.py
	$(BIN)/python -m pytest -q tests/pipeline/test_ray.py

bench: setup
	$(BIN)/python bench/all.py --out out/bench

clean:
	rm -rf out build dist *.egg-info .mypy_cache .ruff_cache .hypothesis
