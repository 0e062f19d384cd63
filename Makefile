# Needs Python 3.11+ with venv, git and make; everything else is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
export UV_PROJECT_ENVIRONMENT := .venv

# The clients and documents that services publish, of the locked versions; elsewhere to keep it between clean clones.
CONFORMANCE ?= .conformance
LOCKED := $(addprefix tests/conformance/,package.json package-lock.json requirements.txt services.py vendor.py)

.PHONY: install demo stop test acceptance chaos conformance check bench clean

install: .venv/installed

.venv/installed: pyproject.toml uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name it with PYTHON=")'
	@test -x $(BIN)/uv || { $(PYTHON) -m venv .venv && $(BIN)/python -m pip install --quiet "uv>=0.9,<1"; }
	@$(BIN)/uv sync --quiet --locked --inexact --compile-bytecode --python $(BIN)/python
	@touch $@

demo: install
	@$(BIN)/python -u -m deployments.demo $(if $(KEEP),--keep) $(if $(HOST),--host=$(HOST))

stop: install
	@$(BIN)/python -m deployments.demo --stop

test: install
	@$(BIN)/pytest $(ARGS)

acceptance: install
	@$(BIN)/pytest tests/acceptance --numprocesses=1 -m acceptance $(ARGS)

chaos: install
	@$(BIN)/pytest tests --numprocesses=1 -m chaos $(ARGS)

# Not `npm ci`, which asks for the Vercel CLI's optional packages for other platforms also where no registry has them.
conformance: install
	@sum="$$(cat $(LOCKED) | sha256sum)" && mkdir -p "$(CONFORMANCE)" && \
	  { test "$$sum" = "$$(cat "$(CONFORMANCE)/installed" 2>/dev/null)" || { \
	    cp tests/conformance/package.json tests/conformance/package-lock.json "$(CONFORMANCE)" && \
	    npm --prefix "$(CONFORMANCE)" install --ignore-scripts --no-audit --no-fund --loglevel=error && \
	    $(BIN)/uv venv --quiet --clear --python $(BIN)/python "$(CONFORMANCE)/venv" && \
	    $(BIN)/uv pip sync --quiet --python "$(CONFORMANCE)/venv/bin/python" tests/conformance/requirements.txt && \
	    CONFORMANCE="$(CONFORMANCE)" $(BIN)/python -m tests.conformance.vendor slack && \
	    echo "$$sum" > "$(CONFORMANCE)/installed"; }; }
	@CONFORMANCE="$(CONFORMANCE)" EXCHANGES="$(EXCHANGES)" $(BIN)/pytest tests/conformance -m conformance --numprocesses=2 $(ARGS)

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
	@rm -rf .venv .runbook .conformance
