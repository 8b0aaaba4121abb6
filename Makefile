# Development targets; `make help` lists them. Run inside the virtual environment that README.md sets up.

.PHONY: help check format lint types test bench-index bench-index-ci bench-transfer bench-transfer-ci bench-file bench-training

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-18s %s\n", $$1, $$2}'

check: lint types test  ## What CI runs: format, lint, types, tests

format:  ## Rewrite the code in its one format
	ruff format .
	ruff check --fix .

lint:  ## Check format and lint
	ruff format --check .
	ruff check .

types:  ## Check types, strictly
	mypy

test:  ## Run the tests
	pytest -n 4

bench-index:  ## Measure the index on a million files; its figures belong into docs/performance.md
	python benchmarks/index.py --files 1000000 --out build/bench-index.json

bench-index-ci:  ## The same on 100,000 files
	python benchmarks/index.py --files 100000 --out build/bench-index-ci.json

bench-transfer:  ## Measure what reading many files takes, beside other ways (extra bench); figures for docs/performance.md
	python benchmarks/transfer.py --out build/bench-transfer.json

bench-transfer-ci:  ## The same with few files, to see that everything works
	python benchmarks/transfer.py --scale trial --rounds 1 --out build/bench-transfer-ci.json

bench-file:  ## Measure GET /file beside nginx and a plain FastAPI hub; needs wrk
	python benchmarks/file_endpoint.py --out build/bench-file.json

bench-training:  ## Measure an epoch of training beside other loaders (extra bench); figures for docs/performance.md
	python benchmarks/training.py --out build/bench-training.json
