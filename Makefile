# Development targets; `make help` lists them. Run inside the virtual environment that README.md sets up.

.PHONY: help check format lint types test

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-10s %s\n", $$1, $$2}'

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
	pytest
