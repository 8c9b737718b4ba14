# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The placement, its environment files, ainode-run, and the services that are pinned: what a process really gets."""

from __future__ import annotations

import json
import re

import pytest
from conftest import expand

# What a process sees of its own binding; the policy of its first mapping is the process's own.
SHOW = "grep Cpus_allowed_list /proc/self/status; echo omp $OMP_NUM_THREADS; sed -n '1s/^[^ ]* /policy /p' /proc/self/numa_maps"


def instances(placement):
    return [(workload, number, instance) for workload in sorted(placement) for number, instance in enumerate(placement[workload])]


def test_each_thread_has_a_physical_core_of_its_own(placement, topology):
    for workload, _number, instance in instances(placement):
        cpus = expand(instance["cpus"])
        assert cpus <= set(topology), f"{instance['name']} is on CPUs that are not online"
        assert len({topology[cpu][0] for cpu in cpus}) == len(cpus) == int(instance["env"]["OMP_NUM_THREADS"]), workload


def test_instances_of_a_workload_share_no_core(placement, topology):
    for workload in placement:
        cores = [topology[cpu][0] for instance in placement[workload] for cpu in expand(instance["cpus"])]
        assert len(set(cores)) == len(cores), workload


def test_online_and_search_instances_stay_within_a_numa_node(placement, topology):
    within = [one for workload, _number, one in instances(placement) if workload in ("online", "search") and one["numa_node"] is not None]
    if not within:
        pytest.skip("no online or search instance is placed on a NUMA node")
    for instance in within:
        assert {topology[cpu][1] for cpu in expand(instance["cpus"])} == {instance["numa_node"]}, instance["name"]


def test_environment_files_mean_the_same_to_a_shell(host, placement):
    for workload in placement:
        path = f"/etc/ainode/env.d/{workload}.env"
        smallest = min(placement[workload], key=lambda instance: instance["threads"])["env"]
        assert host.file(path).mode == 0o644
        output = host.check_output("env -i sh -c 'set -a; . %s; set +a; env'", path)
        seen = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
        assert {name: seen.get(name) for name in smallest} == smallest


def test_the_guides_openmp_variables_are_there(host, placement):
    for workload in placement:
        text = host.file(f"/etc/ainode/env.d/{workload}.env").content_string
        variables = dict(re.findall(r'^([A-Z_]+)="?(.*?)"?$', text, re.MULTILINE))
        assert variables["OMP_NUM_THREADS"].isdigit()
        assert {"KMP_AFFINITY", "KMP_BLOCKTIME"} <= set(variables)


def test_ainode_run_pins_what_it_starts(host, placement):
    for workload in sorted(placement):
        number = len(placement[workload]) - 1
        instance = placement[workload][number]
        done = host.run("ainode-run --workload %s --instance %s -- sh -c %s", workload, str(number), SHOW)
        assert done.rc == 0, done.stderr
        allowed = re.search(r"Cpus_allowed_list:\s*(\S*)", done.stdout).group(1)
        assert expand(allowed) == expand(instance["cpus"])
        assert f"omp {instance['env']['OMP_NUM_THREADS']}\n" in done.stdout


def test_ainode_run_binds_memory(host, placement):
    bound = [(workload, number, instance) for workload, number, instance in instances(placement) if instance["memory_policy"]]
    if not bound:
        pytest.skip("this node has no NUMA")
    if not host.file("/proc/self/numa_maps").exists:
        pytest.skip("this kernel shows no memory policy (no /proc/self/numa_maps)")
    for workload, number, instance in bound[-1:]:
        done = host.run("ainode-run --workload %s --instance %s -- sh -c %s", workload, str(number), SHOW)
        if "memory is not bound" in done.stderr and re.search("not permitted|not implemented", done.stderr):
            pytest.skip(done.stderr.strip())
        policy = re.search(r"^policy (\w+)[^:]*:(\S+)", done.stdout, re.MULTILINE)
        assert (policy.group(1), expand(policy.group(2))) == (instance["memory_policy"], expand(instance["memory_node"]))


def test_ainode_run_refuses_an_instance_that_is_not_there(host, placement):
    workload = sorted(placement)[0]
    done = host.run("ainode-run --workload %s --instance 9999 -- true", workload)
    assert done.rc == 125
    assert "9999" in done.stderr


@pytest.fixture(scope="module")
def pinned(host):
    """Return {unit: (the CPUs its unit gives it, the CPUs its process may use)} of the pinned services that run."""
    if not host.file("/run/systemd/system").is_directory:
        pytest.skip("systemd does not run here")
    units = re.findall(
        r"^(ainode-\S+\.service)", host.check_output("systemctl list-units --no-legend --plain --state=running 'ainode-*.service'"), re.MULTILINE
    )
    found = {}
    for unit in units:
        shown = dict(line.split("=", 1) for line in host.check_output("systemctl show %s -p CPUAffinity -p MainPID", unit).splitlines())
        if shown.get("CPUAffinity") and shown["MainPID"] != "0":
            status = host.file(f"/proc/{shown['MainPID']}/status").content_string
            found[unit] = expand(shown["CPUAffinity"]), expand(re.search(r"Cpus_allowed_list:\s*(\S+)", status).group(1))
    if not found:
        pytest.skip("no pinned service of this collection runs here")
    return found


def test_running_services_are_where_their_units_say(pinned):
    for unit, (wanted, allowed) in pinned.items():
        assert allowed == wanted, unit


def test_running_services_share_no_core(host, pinned, topology):
    plan = host.file("/etc/ainode/plan.json")
    # A node that is too small says so.
    if plan.exists and json.loads(plan.content_string)["shared"]:
        pytest.skip("the plan of this node says that services share cores")
    owners = {}
    for unit, (_wanted, allowed) in pinned.items():
        # What may run on every CPU waits for the others, and has no core of its own.
        if allowed < set(topology):
            for core in {topology[cpu][0] for cpu in allowed}:
                assert owners.setdefault(core, unit) == unit, f"{unit} and {owners[core]} share core {core}"
