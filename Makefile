# make help | install | demo | test | check | soak | clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help install demo test check soak clean

help:
	@echo "make install  environment in .venv (compiles llama.cpp once: about 3 minutes on 2 cores)"
	@echo "make demo     open the program with batches/demo_10.jsonl on the embedded model"
	@echo "make test     all tests"
	@echo "make check    lint, types, import rules"
	@echo "make soak     the kill -9 loop with 1000 rounds, a terminal that stalls for 60 s (long)"
	@echo "make clean    remove .venv and caches"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt tools/install/install.py tools/install/llama_cpp_slim.cmake
	@$(PYTHON) tools/install/install.py
	@touch $@

demo: $(STAMP)
	@if [ -t 0 ] && [ -t 1 ]; then $(BIN)/gptoss-tui --add batches/demo_10.jsonl; \
	else $(BIN)/gptoss-tui run batches/demo_10.jsonl --show-answers; fi

test: $(STAMP)
	$(BIN)/python -m pytest -m "not soak"

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright --project pyproject.toml

soak: $(STAMP)
	$(BIN)/python -m pytest -m soak

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
