# make demo   the main job, end to end, on a real API server, Prometheus and registry
# make test   every tier but `fleet`
# Both install what they need: Python packages from the hashed lock into .venv, Go-built parts into a cache.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
T ?=

.PHONY: help venv demo demo-down test lint fix bench bench-server bench-swap bench-agent bench-decisions nightly nightly-judge crds crash lock sim proto

help: ## Say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(STAMP): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Linnet needs Python 3.11 or newer; found %d.%d. Name one: make PYTHON=python3.12" % sys.version_info[:2])'
	@echo "==> installing Python packages into $(VENV) (from requirements/dev.txt, hashes checked)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

venv: $(STAMP) ## Install into .venv

demo: $(STAMP) ## The main job: seven acts on ten edge nodes, with a table at the end
	@$(BIN)/python -m linnet_testbed.demo

demo-down: $(STAMP) ## Take down what the demo started
	@$(BIN)/linnet-testbed down --name demo

test: $(STAMP) ## All tests; T=expr picks some
	@$(BIN)/python -m pytest $(if $(T),-k "$(T)")

lint: $(STAMP) ## Formats, types, contracts, quick pure tests, generated files
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@$(BIN)/python -m linnet_api.crdgen --check
	@$(BIN)/python -m pytest -q -m "not slow" tests/unit tests/planner tests/repo

fix: $(STAMP) ## Format and mend what can be mended
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .
	@$(BIN)/python -m linnet_api.crdgen

crds: $(STAMP) ## Write crds/ from the models
	@$(BIN)/python -m linnet_api.crdgen

bench: $(STAMP) ## Measure: server, memory, activation, planner
	@$(BIN)/python -m bench

bench-server: $(STAMP) ## Measure linnet-server beside Triton, MLServer, KServe and bare loops
	@$(BIN)/python -m bench.server
	@$(BIN)/python -m bench.options

bench-swap: $(STAMP) ## Measure swaps under load beside Triton and MLServer; SIZE=quick
	@$(BIN)/python -m bench.swap $(if $(SIZE),--size $(SIZE))

bench-agent: $(STAMP) ## Measure the agent beside model_signing and plain copying; SIZE=64M is quick
	@$(BIN)/python -m bench.agent $(if $(SIZE),--size $(SIZE))

bench-decisions: $(STAMP) ## Measure the judge and its rivals, an hour; SIZE=40 is quick, GATE=1 the limits
	@$(BIN)/python -m bench.decisions $(if $(GATE),--gate,$(if $(SIZE),--repetitions $(SIZE)))

nightly: nightly-judge ## Long proofs: ten rounds of whole rollouts on real parts, too
	@$(BIN)/python -m pytest -s tests/cluster/test_verdicts.py --rounds 10

nightly-judge: $(STAMP) ## A million small histories: nothing that is not whole ever passes
	@$(BIN)/python -m pytest -q --timeout 0 tests/unit/judge/test_never_pass.py --histories 1000000

sim: $(STAMP) ## The fleet simulator; SEED=n replays
	@$(BIN)/python -m pytest tests/sim $(if $(SEED),--sim-seed $(SEED))

crash: $(STAMP) ## Break the agent in every way we know, and print the kill table; ALL=1 tries each call
	@$(BIN)/python -m pytest -q tests/crash
	@$(BIN)/python tests/crash/table.py $(if $(ALL),--kill-seconds 0 --error-seconds 0)

lock: $(STAMP) ## Write requirements/*.txt again
	@for extra in operator agent keyless cli; do \
	  $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --extra $$extra pyproject.toml -o requirements/$$extra.txt; done
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --all-extras pyproject.toml -o requirements/dev.txt

proto: $(STAMP) ## Write the gRPC messages again from their .proto
	@$(BIN)/python -m grpc_tools.protoc -I agent/src --python_out=agent/src --pyi_out=agent/src linnet_server/inference.proto
