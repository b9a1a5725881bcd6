# Every target is one word; `make` alone lists them. All paths are relative, so a checkout may have spaces in its name.
SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON3 ?= $(shell command -v python3 || command -v python)
PY := .venv/bin/python
CLUSTER := $(PY) -m services.cluster
export PYTHONUNBUFFERED := 1

.PHONY: help setup up down status logs destroy test sim sim-million mutants scenarios chaos chaos-ha chaos-recovery check bench test-compose test-kvm lock prove test-slow

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' Makefile

setup: ## packages, QEMU and the tiny guest image; skips what is there
	@"$(PYTHON3)" infra/setup.py

up: setup ## set up, start the embedded three-node cluster, wait until it is healthy
	@$(CLUSTER) up

down: ## stop the cluster; its state stays, its VMs run on
	@$(CLUSTER) down

status: ## what runs
	@$(CLUSTER) status

logs: ## the newest lines of every process's log
	@$(CLUSTER) logs

destroy: ## kill the cluster's VMs and remove its state
	@$(CLUSTER) destroy --yes

test: setup ## models, simulated worlds, contracts, real guests
	@$(PY) -m tests.suites

test-slow: setup ## signs of life, fence devices, UEFI, backups, drills and the reclaim ladder on real guests and devices (minutes)
	@$(PY) -m tests.suites slow

sim: setup ## 5,000 fault schedules through the production code, in one process
	@$(PY) -m tests.sim

sim-million: setup ## a million of them on all cores; goes on where it was ended (.cache/sim-million.json; about an hour or two)
	@mkdir -p .cache && $(PY) -m tests.sim --schedules 1000000 --processes $$(nproc) --state .cache/sim-million.json

mutants: setup ## each guard of high availability taken away: searches for a schedule that misses it (minutes)
	@MUTANT_TREES=$(or $(TREES),60) $(PY) -m pytest tests/sim/test_ha_mutants.py -q -s

scenarios: setup ## writes tests/scenarios/*/expected.log anew, after a change that is meant
	@$(PY) -m libs.world.scenario write tests/scenarios/*/

prove: setup ## a million random lives of a memory ledger, every step held against its invariants (some minutes)
	@$(PY) -m tests.prove

chaos: setup ## 200 random changes of a real guest's hardware by a seed, agents killed among them (SEED=1 STEPS=200; minutes)
	@$(PY) -m tests.chaos.hardware --seed $(or $(SEED),1) --steps $(or $(STEPS),200)

chaos-recovery: setup ## a VM is destroyed and recovered, and all is killed in turn while its data comes home (SEED=1 FAULTS=20; minutes)
	@$(PY) -m tests.chaos.recovery --seed $(or $(SEED),1) --faults $(or $(FAULTS),20)

chaos-ha: setup ## nodes killed, held, cut off and slowed while guests write; their disks are audited (SEED=1 STEPS=50; half an hour)
	@$(PY) -m tests.chaos.ha --seed $(or $(SEED),1) --steps $(or $(STEPS),50)

check: setup ## style, types, walls between the rooms, message compatibility
	@$(PY) -m infra.check

bench: setup ## all benchmarks, quick
	@for b in eventlog pipeline start placement overcommit balance gateway_start hotplug balloon snapshots ha world replay whatif; do $(PY) -m tests.bench.$$b --quick --json || exit 1; done

test-compose: setup ## docker-compose.yml on a real engine
	@$(PY) -m pytest tests/compose

test-kvm: setup ## the guest suites with KVM, where a probe proves it usable
	@ASV_TEST_ACCEL=kvm $(PY) -m pytest -rs tests/e2e tests/contract/test_driver.py

lock: ## resolve pyproject.toml anew into requirements.lock
	@"$(PYTHON3)" infra/setup.py --lock
