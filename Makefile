# `make help` lists the targets. PYTHON=… chooses the interpreter, VENV=… the directory of the environment.
# Written for GNU make 3.81 (macOS) and later.

VENV = .venv
PYTHON =
BIN = $(VENV)/bin
LOCK = $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header \
	--no-emit-index-url --no-emit-find-links --no-emit-package crossfeed

.DEFAULT_GOAL = help
.PHONY: help environment test lint check format demo bench chaos soak sdk-tests lock clean

help: ## what can be made
	@grep -E '^[a-z-]+: .*##' Makefile | sed -e 's/:.*##/	/' | sort

environment: ## the virtual environment, if it is not as it should be
	@.ci/environment "$(VENV)" "$(PYTHON)"

test: lint ## every check and every test, two files at a time
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not chaos"

lint: environment ## the checks that run nothing: style, types, arrows
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

check: lint ## lint, known vulnerabilities of what is locked, secrets in what is committed
	$(BIN)/python -m tests.security || [ $$? -eq 3 ]  # 3: no list of vulnerabilities could be asked, and it says so

format: environment ## rewrite the code as `lint` wants it
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

demo: environment ## both directions on this machine, with a verdict
	$(BIN)/crossfeed demo

bench: environment ## what the README says of speed, measured on this machine
	for name in cosmos capture drain sink latency peers mirror feed switch parity cache charges; do $(BIN)/python -m tests.bench $$name || exit 1; done

chaos: environment ## the tests that kill and cut for minutes, and examples by the thousand
	$(BIN)/python -m pytest -m "chaos and not soak"
	$(BIN)/python -m pytest -m "not chaos" --hypothesis-profile=thorough tests/unit tests/local_cosmos/test_partitioning.py

soak: environment ## constant load for CROSSFEED_SOAK_SECONDS (600): memory and tables stay flat
	$(BIN)/python -m pytest -s -m soak tests/soak

sdk-tests: environment ## the tests of azure-cosmos itself against the embedded Cosmos DB; fetches them once
	$(BIN)/python -m tests.sdk

lock: environment ## choose the newest versions again
	echo '.[functions,cache,http,local]' | \
	  $(LOCK) --python-version 3.11 --group dev --upgrade --output-file requirements.lock.new -
	{ echo '# Exact versions and hashes of everything in pyproject.toml, made by `make lock`.'; \
	  cat requirements.lock.new; } > requirements.lock
	printf '%s\n' '.[http,cache]' uvloop hatchling | \
	  $(LOCK) --python-version 3.13 --constraint requirements.lock --output-file requirements.lock.new -
	{ echo '# What the container holds: exact versions and hashes out of requirements.lock, made by `make lock`.'; \
	  cat requirements.lock.new; } > .ci/image.lock
	$(MAKE) requirements.txt
	rm requirements.lock.new

requirements.txt: requirements.lock # what Azure builds the Functions app from, out of requirements.lock
	echo '.[functions,cache]' | \
	  $(LOCK) --python-version 3.11 --constraint requirements.lock --output-file requirements.txt.new -
	{ echo '# What the Functions app holds: exact versions and hashes out of requirements.lock, made by `make lock`.'; \
	  cat requirements.txt.new; } > requirements.txt
	rm requirements.txt.new

clean: ## remove what was made, the environment too
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .sdk_tests_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
