# Everything that a target needs is set up on its first run: `make up` is enough on a new machine.
PYTHON ?= python3
ARGS ?=
PYTEST_ARGS ?= -n 3 --dist loadfile --no-loadscope-reorder

UV := .tools/bin/uv
READY := .venv/.ready
export UV_PYTHON_DOWNLOADS := never

.PHONY: help up check format test test-engine chaos recovery soak bench clean test-tools engine-tools
.DEFAULT_GOAL := help

help: ## show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

up: $(READY) ## set up and start (ARGS="--detach --bundle PATH"); Ctrl-C or `.venv/bin/kdcube down` stops
	@.venv/bin/kdcube up $(ARGS)

check: $(READY) ## lint, format, types, import law
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/basedpyright
	.venv/bin/lint-imports

format: $(READY) ## format the code
	.venv/bin/ruff check --fix-only
	.venv/bin/ruff format

test: $(READY) test-tools ## every test that needs no container engine (PYTEST_ARGS="-k name tests/unit")
	.venv/bin/pytest $(PYTEST_ARGS)

test-engine: $(READY) test-tools engine-tools ## tests on a container engine, the one that runs or one that is started
	.venv/bin/pytest tests/engine

chaos: $(READY) test-tools ## the tests of crashes SEEDS times, each time with other choices (5)
	@for run in $$(seq $(or $(SEEDS),5)); do \
	  KDCUBE_SEED=random .venv/bin/pytest $(PYTEST_ARGS) tests/chaos || exit 1; \
	done

recovery: $(READY) ## what each fault costs (ARGS="--rounds 5 --json FILE"), for docs/reliability.md
	.venv/bin/python -m bench.recovery $(ARGS)

soak: $(READY) ## load and crashes for MINUTES (30), and whether anything is left (RATE=messages/s SEED=N); in bench/results
	.venv/bin/python -m bench.soak --minutes $(or $(MINUTES),30) $(if $(RATE),--rate $(RATE)) \
	  $(if $(SEED),--seed $(SEED)) $(ARGS)

bench: $(READY) ## figures of this system, a report in bench/results (BENCH_ARGS="--quick --only streams", "--publish")
	.venv/bin/python -m bench $(BENCH_ARGS)

clean: ## remove what was set up (not the data in .kdcube)
	rm -rf .venv .tools

$(READY): requirements/dev.txt pyproject.toml $(UV)
	@$(UV) venv --quiet --allow-existing --python "$(PYTHON)" .venv
	@echo "installing locked dependencies into .venv"
	@$(UV) pip sync --quiet --require-hashes requirements/dev.txt
	@$(UV) pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(UV): requirements/bootstrap.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "kdcube needs Python 3.11 or later: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "this Python makes no virtual environments: apt-get install python3-venv" >&2; exit 1; }
	@echo "installing uv into .tools"
	@$(PYTHON) -m venv .tools
	@.tools/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	@touch $@

# The oldest server that is supported, which tests run against beside the embedded Valkey; certificates for TLS; the
# proxy; a browser; an OpenID provider; git with its servers; Prometheus with promtool, and its push gateway.
TOOLS := redis-server openssl nginx chromium git sshd prometheus prometheus-pushgateway
PACKAGES := $(subst sshd,openssh-client openssh-server,$(TOOLS))
test-tools: $(READY) tests/openid/node_modules/.ready
	@PATH="$$PATH:/usr/sbin"; command -v $(TOOLS) | wc -l | grep -qx $(words $(TOOLS)) || \
	  { [ "$$(id -u)" = 0 ] && apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(PACKAGES) >/dev/null; } || \
	  { echo "the tests need these packages: sudo apt-get install $(PACKAGES)" >&2; exit 1; }

# A container engine, and what makes a first image of it where none can be pulled.
ENGINE_TOOLS := dockerd iptables debootstrap mkfs.ext4 losetup
ENGINE_PACKAGES := docker.io iptables debootstrap e2fsprogs mount
engine-tools: $(READY)
	@PATH="$$PATH:/usr/sbin:/sbin"; command -v $(ENGINE_TOOLS) | wc -l | grep -qx $(words $(ENGINE_TOOLS)) || \
	  { [ "$$(id -u)" = 0 ] && apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(ENGINE_PACKAGES) >/dev/null; } || \
	  { echo "the tests on an engine need these packages: sudo apt-get install $(ENGINE_PACKAGES)" >&2; exit 1; }

tests/openid/node_modules/.ready: tests/openid/package-lock.json $(READY)
	@echo "installing the tests' OpenID provider"
	@cd tests/openid && PATH="$(CURDIR)/.venv/bin:$$PATH" npm ci --ignore-scripts --no-audit --no-fund --silent
	@touch $@
