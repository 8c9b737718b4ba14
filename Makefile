# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
#
#   make node    turn this machine into a tuned, audited AI inference node   (ARGS="--check --diff" shows what it would do)
#   make test    the whole test suite, on a Debian 12 or 13 machine as root; about forty minutes on two cores
#   make check   the quick part of it: lint, unit tests, the search engine's own tests; a few minutes
#   make soak    the engine under sanitizer, fuzzer, kills and random sequences; an hour and a half
#   make search  only the search engine, as build/vnni-search
#   make setup   only the environment in .venv: afterwards .venv/bin/ansible -m ainode.cpu.node_facts localhost

.DEFAULT_GOAL := help
.PHONY: help setup node check lint unit hostile search service sanity integration molecule molecule-vm hosts benchmark frameworks models model-hosts demo test soak tsan fuzz crash model bench-search bench-models bench-tasks

# What the caller has set for programs of their own must not change what these do: of all variables of Python, pip and Ansible those stay that say how
# packages are reached, where secrets are and how output looks.
KEEP := PYTHON PYTHONUNBUFFERED ANSIBLE_BECOME% ANSIBLE_VAULT% ANSIBLE_NOCOLOR ANSIBLE_FORCE_COLOR ANSIBLE_LOG_PATH $(addprefix PIP_,CACHE_DIR CERT \
	CLIENT_CERT CONFIG_FILE DEFAULT_TIMEOUT EXTRA_INDEX_URL FIND_LINKS INDEX_URL KEYRING_PROVIDER NO_CACHE_DIR NO_INDEX PROXY RETRIES TIMEOUT TRUSTED_HOST)
unexport CDPATH $(filter-out $(KEEP),$(filter ANSIBLE_% PIP_% PYTHON%,$(.VARIABLES)))

# Ansible refuses to start without a UTF-8 locale; a bare container has none set, and LC_ALL comes before LANG.
export LC_ALL := $(if $(filter %UTF-8 %utf8,$(or $(LC_ALL),$(LANG))),$(LC_ALL),C.UTF-8)

BIN := .venv/bin
ENGINE := roles/vector_search/files/vnni-search
# molecule and ansible-lint start ansible-config and ansible-playbook by name.
export PATH := $(CURDIR)/$(BIN):$(PATH)

help:
	@sed -n 's/^#   make/  make/p' Makefile

setup:
	@requirements/setup.sh node

node: setup
	@$(BIN)/ansible-playbook playbooks/ai-node.yml $(ARGS)

.PHONY: setup-test
setup-test:
	@requirements/setup.sh test

lint: setup-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/yamllint --strict .
	$(BIN)/ansible-lint --profile production --strict
	$(BIN)/antsibull-changelog lint

unit: setup-test
	$(BIN)/pytest -q -n 2 tests/unit

# The same for a caller with settings of their own for everything: Python's, pip's, Ansible's, locale, umask, a /tmp where nothing can be executed.
hostile: setup-test
	MAKEFLAGS= tests/lab/hostile make --no-print-directory lint unit

# The engine's own tests run before the binary is put in place.
search: build/vnni-search

# In tests the role builds the engine out of what was compiled for this one.
test molecule molecule-vm demo build/vnni-search: export VNNI_SEARCH_BUILD := $(CURDIR)/build/vnni-search.d

build/vnni-search: $(wildcard $(addprefix $(ENGINE)/,src/* tests/*.cpp CMakeLists.txt build.sh))
	@$(ENGINE)/build.sh $@
	@$@ --help | head -n 1

check: setup-test
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint unit search

# The server as its clients see it, one of them not ours, and on CPUs without VNNI (qemu-user).
service: search setup-test
	@requirements/setup.sh clients
	@[ "$$(id -u)" != 0 ] || PYTHONPATH=tests/lab $(BIN)/python -c 'import lab; lab.need("curl", "qemu-x86_64")'
	VNNI_SEARCH=$(CURDIR)/build/vnni-search $(BIN)/pytest -q -rs $(ENGINE)/tests/serve_test.py

sanity: setup-test
	tests/integration/sanity

# A stranger's first minutes in a bare container, and pinned services on a running systemd.
integration: setup-test
	$(BIN)/pytest -q tests/integration/test_pinned_service.py "tests/integration/test_make_node.py::test_make_node[bare]"

# The play in containers, then the search service alone: updates under load, an engine without VNNI, writes.
molecule: setup-test
	$(BIN)/molecule test --scenario-name container
	$(BIN)/molecule test --scenario-name search

# A VM with two NUMA nodes, real governors and a service of each kind, that is rebooted in the middle.
molecule-vm: setup-test
	$(BIN)/molecule test --scenario-name vm

# More hosts: Debian 13 with the newest ansible-core, a privileged container with systemd, a fleet of ten.
hosts: setup-test
	$(BIN)/pytest -q tests/integration/test_fleet.py tests/integration/test_make_node.py --deselect "tests/integration/test_make_node.py::test_make_node[bare]"

# The guide's workloads for ten seconds each, twice, and on a node whose processor has no INT8 instructions.
benchmark: setup-test
	$(BIN)/pytest -q -rs tests/integration/test_benchmark.py

# OpenVINO, and every way in which an installation can fail. ALL=1 installs and proves every framework: 7 GB of packages.
frameworks: setup-test
	$(BIN)/pytest -q -rs tests/frameworks $(if $(ALL),--all-frameworks)

# From a trained model to its INT8 service, and the manifests for a KServe cluster; then pinned, behind a balancer, on nodes of several kinds.
MODEL_HOSTS := tests/models/test_roles.py tests/models/test_hosts.py
models: setup-test
	$(BIN)/pytest -q -rs tests/models $(addprefix --ignore=,$(MODEL_HOSTS)) $(if $(ALL),--all-models)

model-hosts: setup-test
	$(BIN)/pytest -q -rs $(MODEL_HOSTS)

# The recommendation pipeline with its page in Chromium.
demo: setup-test
	$(BIN)/pytest -q -rs tests/demo

# Three groups at a time, the longest first; the end says how long each took, and why one failed.
test: search setup-test
	@python3 tests/run_groups.py molecule-vm model-hosts integration molecule demo models benchmark hosts frameworks hostile sanity service bench-tasks

# The engine under a thread sanitizer, under a fuzzer for millions of runs, and killed at 200 random moments: an hour, so not part of make test.
soak: tsan fuzz crash model
tsan: setup-test
	$(ENGINE)/tests/tsan.sh build/tsan $(CURDIR)/$(BIN)/python
fuzz:
	$(ENGINE)/tests/fuzz.sh build/fuzz
crash: search setup-test
	VNNI_SEARCH=$(CURDIR)/build/vnni-search VNNI_SEARCH_KILLS=200 $(BIN)/pytest -q -s $(ENGINE)/tests/serve_test.py -k kill_at

# Random sequences of writes, crashes and restarts beside a map of the rows; from another seed each day.
model: search
	build/vnni-search.d/model_test 10000 $$(date +%Y%m%d0000)

bench-search: search
	tests/bench_search/run.sh

bench-models: setup-test
	$(BIN)/python tests/bench_models/bench_models.py

ROUNDS := 1
bench-tasks: setup-test
	tests/bench_tasks/bench --rounds $(ROUNDS)
