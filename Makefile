# make help lists the targets. The first one that needs it makes .venv from the hashed locks; no other tool than Python 3.11+ is wanted.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# For .venv, the first time; where none is named, the first of these that was built with optimisation.
PYTHON ?=
PYTHONS := python3 /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=
CODE := command_api query_api processors events schemas infra ops tests bench

.PHONY: help up down status logs demo test check bench market soak fmt lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: $(READY) ## Start the whole system on this machine
	@$(BIN)/cnop up $(ARGS)

down: $(READY) ## Stop it; data stay under .local
	@$(BIN)/cnop down $(ARGS)

status: $(READY) ## Show each process
	@$(BIN)/cnop status $(ARGS) || test $$? = 3

logs: $(READY) ## Show the merged logs (ARGS=-f follows)
	@$(BIN)/cnop logs $(ARGS)

demo: $(READY) ## Drive the running system and prove that its books add up
	@$(BIN)/cnop demo $(ARGS)

# Side by side: most tests wait most of the time. JOBS=0 runs them in one process, for a debugger or `-s`.
JOBS ?= 2
test: $(READY) ## Run all tests (ARGS="-k name" for some)
	$(BIN)/pytest -n $(JOBS) --dist loadscope --no-loadscope-reorder $(ARGS)

check: $(READY) ## Lint, format, types, import rules
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY) ## Measure throughput and latency
	$(BIN)/python -m bench $(ARGS)

market: $(READY) ## Draw the made-up market and print its statistics
	$(BIN)/python -m bench.market $(ARGS)

MINUTES ?= 15
soak: $(READY) ## Kill, pause and cut everything under load, then audit the books (MINUTES=15)
	$(BIN)/python -m tests.soak --minutes $(MINUTES) $(ARGS)

fmt: $(READY) ## Format the code
	$(BIN)/ruff check --fix-only --exit-zero $(CODE)
	$(BIN)/ruff format $(CODE)

# A lock that exists keeps its versions: remove it first to move all of them. `cd` and `-`: no lock names the folder it was made in.
COMPILE := $(CURDIR)/$(VENV)/uv/bin/uv pip compile --quiet --generate-hashes --universal --python-version 3.11
lock: $(READY) ## Bring the lock files up to date with pyproject.toml
	$(COMPILE) --all-extras pyproject.toml -o requirements.lock
	cp requirements.lock infra/deploy/requirements-runtime.lock
	$(COMPILE) --extra telemetry --no-annotate pyproject.toml -o infra/deploy/requirements-runtime.lock
	echo "matplotlib>=3.10" | $(COMPILE) - -o bench/plot.lock

clean: ## Stop the system; remove .venv, .local and what tools cached here
	@if [ -x $(BIN)/cnop ]; then $(BIN)/cnop down; $(BIN)/cnop down --home .local; fi
	rm -rf $(VENV) .local .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Redone only when a lock changes. Under a lock of its own: two makes at once do not trip over each other. uv has an environment of its own,
# since `uv pip sync` removes from .venv whatever is not locked.
$(READY): requirements.lock bootstrap.lock pyproject.toml
	@python="$(PYTHON)"; \
	if [ -z "$$python" ] && $(BIN)/python -c "" 2>/dev/null; then python=$(BIN)/python; fi; \
	if [ -z "$$python" ]; then python="$$(sh infra/local/python.sh $(PYTHONS))"; python="$${python:-python3}"; fi; \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "Python 3.11 or newer is needed; '$$python' is not. Choose one with: make PYTHON=python3.12 ..." >&2; exit 1; }; \
	mkdir -p $(VENV); \
	"$$python" -c "$$BOOTSTRAP" $(VENV)

define BOOTSTRAP
import fcntl, hashlib, os, pathlib, subprocess, sys, time, venv
folder = pathlib.Path(sys.argv[1]).absolute()
ready, python, uv = folder / ".ready", folder / "bin" / "python", folder / "uv" / "bin" / "uv"
sources = [pathlib.Path(name) for name in ("requirements.lock", "bootstrap.lock", "pyproject.toml")]
begun = time.time()
wanted = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
def run(*command):
    if subprocess.run([*map(str, command)]).returncode:
        sys.exit("The environment could not be made: " + " ".join(map(str, command)) + f"\nIf its Python is gone, remove {folder} and try again.")
def environment(where):
    try:
        venv.create(where, symlinks=True, with_pip=True)
    except (Exception, SystemExit) as error:
        sys.exit(f"Python cannot make an environment here ({error}). On Debian or Ubuntu: apt install python3-venv")
with (folder / ".making").open("w") as lock:  # ".lock" is uv's own
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not ready.exists() or ready.read_text() != wanted:
        print("Making .venv from the locked packages ...", flush=True)
        if not python.exists():
            environment(folder)
        if not uv.exists():
            environment(folder / "uv")
        run(folder / "uv" / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r", "bootstrap.lock")
        run(uv, "pip", "sync", "--quiet", "--compile-bytecode", "--python", python, "--require-hashes", "requirements.lock")
        run(uv, "pip", "install", "--quiet", "--python", python, "--no-deps", "--no-build-isolation", "-e", ".")
        ready.write_text(wanted)
    os.utime(ready, (begun, begun))  # a lock that changes from now on is newer
endef
export BOOTSTRAP
