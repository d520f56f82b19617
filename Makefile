# Everything a newcomer needs: `make demo` and `make test`. Both do all the set-up first.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.llamaleon-ready

.PHONY: help setup demo test lint format bench bench-train nano clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 21

setup: $(READY)  ## a virtual environment with everything, versions pinned by constraints.txt

# pip keeps the wheel that it compiles of llama-cpp-python in its cache: other clones need not do it again. For
# a GPU: CMAKE_ARGS=-DGGML_CUDA=on make setup. With RPC the tests have a device where there is no GPU.
export CMAKE_ARGS ?= -DGGML_RPC=on
INSTALL := $(BIN)/python -m pip install --quiet --progress-bar off -c constraints.txt
$(READY): pyproject.toml constraints.txt
	@echo "== setting up $(VENV)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "== 1 of 3: torch"
	$(INSTALL) torch
	@echo "== 2 of 3: llama.cpp, compiled the first time (3 to 5 minutes on 2 cores)"
	$(INSTALL) llama-cpp-python
	@echo "== 3 of 3: everything else"
	$(INSTALL) -e '.[engine,train,search,demo,dev]'
	$(BIN)/python -c 'import llama_cpp, torch, llamaleon_server'
	touch $(READY)

# Other people's clients want other versions than ours: they live in an environment of their own.
$(VENV)/clients/.ready: tests/clients/requirements.txt $(READY)
	@echo "== setting up the clients that the tests drive"
	$(PYTHON) -m venv $(VENV)/clients
	$(VENV)/clients/bin/python -m pip install --quiet --progress-bar off --no-deps -r tests/clients/requirements.txt
	touch $@
$(VENV)/node/.ready: tests/clients/node/package-lock.json $(READY)
	mkdir -p $(VENV)/node
	cp tests/clients/node/package*.json $(VENV)/node
	if command -v npm > /dev/null; then npm ci --silent --prefix $(VENV)/node; else echo "no npm: without Node's client"; fi
	touch $@

demo: setup  ## train an adapter on the model that ships and chat with it, offline
	$(BIN)/llamaleon demo

test: setup $(VENV)/clients/.ready $(VENV)/node/.ready  ## the whole test suite
	$(BIN)/python -m pytest -q --durations=15

lint: setup  ## style, types and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup  ## rewrite in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup  ## the figures in docs/benchmarks.md, measured here; LLAMA_SERVER=PATH to compare with it
	$(INSTALL) -e '.[bench]'
	$(BIN)/python -m tests.bench --write $(if $(LLAMA_SERVER),--llama-server $(LLAMA_SERVER))

bench-train: setup  ## the figures of training alone, beside TRL's SFTTrainer
	$(INSTALL) -e '.[bench]'
	$(BIN)/python -m tests.bench --write train estimates convert

nano: setup  ## train the model that ships again, from nothing (hours on a CPU)
	$(BIN)/python -m llamaleon_trainer.nano

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
