# Needs Python 3.11+ with venv, git and make; everything else is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
export UV_PROJECT_ENVIRONMENT := .venv

.PHONY: install demo stop test chaos check bench clean

install: .venv/installed

.venv/installed: pyproject.toml uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name it with PYTHON=")'
	@test -x $(BIN)/uv || { $(PYTHON) -m venv .venv && $(BIN)/python -m pip install --quiet "uv>=0.9,<1"; }
	@$(BIN)/uv sync --quiet --locked --inexact --compile-bytecode --python $(BIN)/python
	@touch $@

demo: install
	@$(BIN)/python -m deployments.demo $(if $(KEEP),--keep) $(if $(HOST),--host=$(HOST))

stop: install
	@$(BIN)/python -m deployments.demo --stop

test: install
	@$(BIN)/pytest $(ARGS)

chaos: install
	@$(BIN)/pytest tests --numprocesses=1 -m chaos $(ARGS)

check: install
	@$(BIN)/uv lock --check --quiet
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/basedpyright
	@$(BIN)/lint-imports
	@$(BIN)/codespell runbook blocks tasks flows deployments tests docs *.md

bench: install
	@$(BIN)/python -m benchmarks

clean:
	@test ! -x $(BIN)/python || $(BIN)/python -m deployments.demo --stop
	@rm -rf .venv .runbook
