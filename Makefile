# Two commands are enough to start: `make serve` and `make test`. `make help` lists the rest.
PYTHON ?= python3
PORT ?= 8000
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help serve test check soundness bench format clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

# The stamps make a second run start at once; a change of the pins installs again.
$(VENV)/.serve: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the pinned dependencies into $(VENV) (once) ..."
	@$(PIP) install -qq --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.serve
	@$(PIP) install -qq --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	@$(PIP) install -qq --constraint constraints.txt --editable '.[dev,bench]'
	@touch $@

serve: $(VENV)/.serve ## install and serve the shipped model on 127.0.0.1:8000 (PORT= changes it)
	@exec $(BIN)/pixeldp serve --port $(PORT)

test: $(VENV)/.dev ## install what the tests need and run them
	@$(BIN)/python -m pytest

check: $(VENV)/.dev ## lint, formatting and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

soundness: $(VENV)/.dev ## the long form of the soundness experiments (an hour on two cores)
	@PIXELDP_SOUNDNESS=long $(BIN)/python -m pytest tests/soundness -s --timeout 0

bench: $(VENV)/.bench ## certificates and serving beside their peers (DATA= holds MNIST/raw)
	@test -n "$(DATA)" || { echo "say where the data is: make bench DATA=folder-with-MNIST/raw"; exit 2; }
	@$(BIN)/python -m benchmarks.certificates --data $(DATA) --json benchmarks/certificates.json
	@$(BIN)/python -m benchmarks.serving --data $(DATA) --json benchmarks/serving.json

format: $(VENV)/.dev ## let ruff rewrite the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean: ## remove the virtual environment and the caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build *.egg-info
