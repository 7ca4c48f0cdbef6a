# Every target first makes the environment .venv from the project's own files.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
MINUTES ?= 2.5
# One worker a core, with one thread; a file of tests stays with one worker, which makes what its tests share once.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: demo test quick services fuzz check lint types bench soak chaos web clean

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/.installed  ## draw images, train, evaluate, export, run; says where to look
	test -d data/pill || $(BIN)/vtad-data demo --category pill --data data
	$(BIN)/vtad-train --category pill --data data --minutes $(MINUTES)
	$(BIN)/vtad-eval --category pill
	$(BIN)/vtad-export --format onnx --category pill
	$(BIN)/vtad-run --folder data/pill/test --out results || test $$? -eq 1
	@echo
	@echo "Look at: results/ (newest folder: heatmaps/, results.csv), runs/pill/ (newest run: report.html, metrics.json)."
	@echo "Then:    $(BIN)/vtad-run --folder YOUR_PICTURES"

test: $(VENV)/.installed  ## every test that needs nothing beside it
	$(PYTEST) -m "not service"

services: $(VENV)/.installed  ## the tests that start a browser, a server or a cluster, put a run under load, take a model of full size, or run the docs
	$(PYTEST) -m service

quick: $(VENV)/.installed  ## the tests that take moments, for the inner loop: no training, no conversion
	$(PYTEST) -m "not slow and not service"

fuzz: $(VENV)/.installed  ## damaged files of every kind, for minutes; SEED=1 for others
	VTAD_FUZZ_ROUNDS=4000 VTAD_FUZZ_SEED=$(or $(SEED),0) $(PYTEST) tests/fuzz

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.installed
	$(BIN)/mypy

check: lint types test services  ## what CI runs

bench: $(VENV)/.installed  ## every ratio of the newest export as one table, also into docs/benchmarks.md; ARGS="--peers DIR"
	$(BIN)/python -m bench --write docs/benchmarks.md $(ARGS)

web:  ## onnxruntime-web for examples/web and its test; needs npm
	npm install --prefix examples/web --ignore-scripts --no-package-lock --no-audit --no-fund

soak: $(VENV)/.installed  ## the live runtime for 10,000 frames: memory, threads, queue age
	$(BIN)/python -m bench.soak $(ARGS)

chaos: $(VENV)/.installed  ## kill -9 and a full disk at random moments, and what was promised; ARGS="--minutes 2 --seed 1"
	$(BIN)/python -m bench.chaos $(ARGS)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
