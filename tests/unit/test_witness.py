# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The witness on trial: each test of tests/testinfra passes on a node that is right, and fails on one that is wrong in just that.

The right nodes are made by the collection's modules, so that the witness and the modules agree on what is right. The wrong ones are the same with
one deed of somebody else. All are directories (fake_host.py).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import machines
import state
from ansible_collections.ainode.cpu.plugins.module_utils.facts.gather import gather
from ansible_collections.ainode.cpu.plugins.module_utils.host.root import Root

HERE = Path(__file__).resolve().parent
WITNESS = HERE.parent / "testinfra"
CPUFREQ, IDLE, NODES = "sys/devices/system/cpu/cpufreq", "sys/devices/system/cpu/cpu1/cpuidle", "sys/devices/system/node"
TMPFILES, POWER = "etc/tmpfiles.d", "etc/ainode/cpu-power.conf"

# The variables of the two right nodes.
VARIABLES = {
    "total": {"hugepages_pages": [{"size": "2M", "total": 7}], "cpu_power_turbo": False, "cpu_power_max_exit_latency_us": 2},
    "bynode": {"hugepages_pages": [{"size": "2M", "nodes": {"0": 24, "1": 0}}], "cpu_power_idle_states_disabled": ["C6", "C1", "C9"]},
}
# What a right node has nothing to show of.
SKIPPED = {
    "total": set(),
    "bynode": {"test_a_total_of_huge_pages_is_spread_over_the_nodes"},
}


def right(name, root):
    """Make the directory `root` a node that is as its variables ask."""
    machines.write(
        root,
        machines.grid(2, 2, 2),
        machines.XEON_8480,
        {0: 64, 1: 64},
        idle=[("POLL", 0, 0), ("C1", 1, 1), ("C6", 290, 800)],
        cpufreq=machines.intel_pstate(800000, 3800000, 2000000),
        files={
            "/sys/devices/system/cpu/intel_pstate/no_turbo": 0,
            "/proc/self/mountinfo": "25 1 0:21 / / rw - ext4 /dev/vda rw",
            "/proc/self/numa_maps": "",
            "/run/systemd/system/": None,
        },
    )
    asked = VARIABLES[name]
    names = asked.get("cpu_power_idle_states_disabled")
    idle = {"idle_states_disabled": names} if names else {"max_exit_latency_us": asked["cpu_power_max_exit_latency_us"]}
    done = [
        state.run("cpu_power", root, governor="performance", turbo=asked.get("cpu_power_turbo", True), **idle),
        state.run("hugepages", root, pages=asked["hugepages_pages"]),
        state.run("memory_policy", root, transparent_hugepage="madvise", thp_defrag="madvise", numa_balancing=0, zone_reclaim_mode=0, swappiness=10),
        state.run("runtime_env", root, facts=gather(Root(str(root))), workloads=[{"name": "online"}, {"name": "search"}, {"name": "batch"}]),
    ]
    assert not any("failed" in one for one in done), done
    (root / "proc/77").mkdir()
    (root / "proc/77/status").write_text("Name:\tserver\nCpus_allowed_list:\t0-1\n")
    fake = {"variables": asked, "services": {"ainode-search@0.service": ["0 1", 77], "ainode-balancer.service": ["", 78]}}
    (root / "fake.json").write_text(json.dumps(fake))


def put(name, text):
    """Return the deed that writes a file of a node."""
    return lambda root: (root / name).write_text(text)


def swap(name, old, new):
    """Return the deed that replaces every match of the pattern `old` in a file, which must have one."""

    def deed(root):
        text, count = re.subn(old, new, (root / name).read_text(), flags=re.MULTILINE)
        assert count, f"{name} has no {old}"
        (root / name).write_text(text)

    return deed


def fake(**changes):
    """Return the deed that changes what a directory cannot tell."""
    return lambda root: (root / "fake.json").write_text(json.dumps({**json.loads((root / "fake.json").read_text()), **changes}))


def second_service(root):
    """Let another service run on a core of the first."""
    (root / "proc/79").mkdir()
    (root / "proc/79/status").write_text("Name:\tother\nCpus_allowed_list:\t1-2\n")
    services = json.loads((root / "fake.json").read_text())["services"]
    fake(services={**services, "ainode-other-0.service": ["1 2", 79]})(root)


def placed(change):
    """Return the deed that changes the placement: `change` is called with its workloads."""

    def deed(root):
        path = root / "etc/ainode/placement.json"
        content = json.loads(path.read_text())
        change(content["workloads"])
        path.write_text(json.dumps(content))

    return deed


def unlink(name):
    return lambda root: (root / name).unlink()


def conf(root, folder, text):
    """Return the one file of a folder below etc/ that has `text` in it."""
    (found,) = [path for path in (root / "etc" / folder).glob("*.conf") if text in path.read_text()]
    return str(found.relative_to(root))


def persisted(folder, old, new):
    """Return the deed that replaces a line in the file of etc/`folder` that has it."""
    return lambda root: swap(conf(root, folder, old), rf"^.*{re.escape(old)}.*\n", new)(root)


def at_boot(path, value):
    return f"w {path} - - - - {value}\n"


ALL_PAGES = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
PAGES = "/sys/devices/system/node/node{}/hugepages/hugepages-2048kB/nr_hugepages"
THP = "/sys/kernel/mm/transparent_hugepage"

# The tests that take no look at the node as a whole.
BY_FILES_AND_COMMANDS = {
    "test_environment_files_mean_the_same_to_a_shell",
    "test_the_guides_openmp_variables_are_there",
    "test_ainode_run_pins_what_it_starts",
    "test_ainode_run_binds_memory",
    "test_ainode_run_refuses_an_instance_that_is_not_there",
    "test_running_services_are_where_their_units_say",
}

# (right node, deed, the tests that must fail after it): all others must end as on the right node.
WRONG = [
    ("total", put(f"{CPUFREQ}/policy1/scaling_governor", "powersave\n"), ["test_governor"]),
    ("total", swap(POWER, "governor=performance", "governor=powersave"), ["test_governor_after_a_reboot"]),
    (
        "total",
        unlink("etc/systemd/system/multi-user.target.wants/ainode-cpu-power.service"),
        ["test_governor_after_a_reboot", "test_idle_states_after_a_reboot", "test_turbo_after_a_reboot"],
    ),
    ("total", put("sys/devices/system/cpu/intel_pstate/no_turbo", "0\n"), ["test_turbo"]),
    ("bynode", put("sys/devices/system/cpu/intel_pstate/no_turbo", "1\n"), ["test_turbo"]),
    ("total", swap(POWER, "turbo=0", "turbo=1"), ["test_turbo_after_a_reboot"]),
    ("bynode", swap(POWER, "turbo=1", "turbo=0"), ["test_turbo_after_a_reboot"]),
    ("total", put(f"{IDLE}/state2/disable", "0\n"), ["test_idle_states"]),
    ("total", swap(POWER, "max_exit_latency_us=2", "max_exit_latency_us=3"), ["test_idle_states_after_a_reboot"]),
    ("bynode", put(f"{IDLE}/state1/disable", "0\n"), ["test_idle_states"]),
    ("bynode", swap(POWER, "idle_states_disabled=C6,C1", "idle_states_disabled=C6"), ["test_idle_states_after_a_reboot"]),
    ("total", put(PAGES.format(1)[1:], "4\n"), ["test_hugepages", "test_a_total_of_huge_pages_is_spread_over_the_nodes"]),
    (
        "total",
        lambda root: [put(PAGES.format(node)[1:], f"{count}\n")(root) for node, count in ((0, 5), (1, 2))],
        ["test_a_total_of_huge_pages_is_spread_over_the_nodes"],
    ),
    ("total", persisted("tmpfiles.d", PAGES.format(1), at_boot(PAGES.format(1), 4)), ["test_hugepages_after_a_reboot"]),
    ("bynode", put(PAGES.format(1)[1:], "1\n"), ["test_hugepages"]),
    (
        "bynode",
        persisted("tmpfiles.d", PAGES.format(0), at_boot("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", 24)),
        ["test_hugepages_after_a_reboot"],
    ),
    ("bynode", persisted("tmpfiles.d", PAGES.format(1), ""), ["test_hugepages_after_a_reboot"]),
    ("bynode", put(f"{TMPFILES}/00-mine.conf", at_boot(PAGES.format(0), 3)), ["test_hugepages_after_a_reboot"]),
    ("total", put("proc/sys/vm/swappiness", "60\n"), ["test_sysctl[vm.swappiness]"]),
    ("total", put("proc/sys/vm/zone_reclaim_mode", "1\n"), ["test_sysctl[vm.zone_reclaim_mode]"]),
    ("total", put("proc/sys/kernel/numa_balancing", "1\n"), ["test_sysctl[kernel.numa_balancing]"]),
    ("total", persisted("sysctl.d", "vm.swappiness", "vm.swappiness = 60\n"), ["test_sysctl_after_a_reboot[vm.swappiness]"]),
    ("total", persisted("sysctl.d", "vm.zone_reclaim_mode", ""), ["test_sysctl_after_a_reboot[vm.zone_reclaim_mode]"]),
    ("total", put("etc/sysctl.d/zz-mine.conf", "kernel/numa_balancing=1\n"), ["test_sysctl_after_a_reboot[kernel.numa_balancing]"]),
    ("total", put(f"{THP[1:]}/enabled", "[always] madvise never\n"), ["test_transparent_hugepages[enabled-hugepages_transparent_hugepage]"]),
    ("total", put(f"{THP[1:]}/defrag", "always defer defer+madvise madvise [never]\n"), ["test_transparent_hugepages[defrag-hugepages_thp_defrag]"]),
    (
        "total",
        persisted("tmpfiles.d", f"{THP}/enabled", at_boot(f"{THP}/enabled", "always")),
        ["test_transparent_hugepages_after_a_reboot[enabled-hugepages_transparent_hugepage]"],
    ),
    ("total", persisted("tmpfiles.d", f"{THP}/defrag", ""), ["test_transparent_hugepages_after_a_reboot[defrag-hugepages_thp_defrag]"]),
    ("total", fake(active=["tuned"]), ["test_nobody_else_tunes"]),
    ("total", fake(enabled=["tlp"]), ["test_nobody_else_tunes_after_a_reboot"]),
    (
        "total",
        placed(lambda workloads: workloads["batch"][0].update(cpus="0,4")),
        ["test_each_thread_has_a_physical_core_of_its_own", "test_instances_of_a_workload_share_no_core"],
    ),
    (
        "total",
        placed(lambda workloads: workloads["search"].append(workloads["search"][0])),
        ["test_instances_of_a_workload_share_no_core"],
    ),
    ("total", placed(lambda workloads: workloads["online"][0].update(numa_node=1)), ["test_online_and_search_instances_stay_within_a_numa_node"]),
    ("total", lambda root: os.chmod(root / "etc/ainode/env.d/online.env", 0o600), ["test_environment_files_mean_the_same_to_a_shell"]),
    (
        "total",
        swap("etc/ainode/env.d/search.env", "^KMP_BLOCKTIME=.*", ""),
        ["test_environment_files_mean_the_same_to_a_shell", "test_the_guides_openmp_variables_are_there"],
    ),
    (
        "total",
        fake(said=[0, "Cpus_allowed_list:\t0-7\nomp 2\npolicy default:0\n", ""]),
        ["test_ainode_run_pins_what_it_starts", "test_ainode_run_binds_memory", "test_ainode_run_refuses_an_instance_that_is_not_there"],
    ),
    ("total", put("proc/77/status", "Cpus_allowed_list:\t0-7\n"), ["test_running_services_are_where_their_units_say"]),
    ("total", second_service, ["test_running_services_share_no_core"]),
]


# What a node cannot show is skipped; a look at it that fails is not.
ODD = [
    ("total", fake(locked=[f"/{PAGES.format(0)[1:]}"]), "skipped", {"test_hugepages", "test_hugepages_after_a_reboot"}),
    ("total", fake(variables={**VARIABLES["total"], "cpu_power_governor": None}), "skipped", {"test_governor", "test_governor_after_a_reboot"}),
    ("total", fake(blind=True), "passed", BY_FILES_AND_COMMANDS),
    ("total", fake(deaf=True), "passed", set()),
]


def witness(hosts):
    """Return {host: {test: outcome}} of the witness on all directories of `hosts`, by one run of pytest."""
    without = ("no:cacheprovider", "no:pytest11.testinfra", "no:xdist")
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "fake_host", *(word for plugin in without for word in ("-p", plugin)), WITNESS]
    env = {**os.environ, "PYTHONPATH": str(HERE), "AINODE_FAKE_HOSTS": str(hosts)}
    said = subprocess.run(command, env=env, capture_output=True, text=True, check=False).stdout
    found = {}
    for host, test, outcome in re.findall(r"^(\w+) (test_\S+) (passed|failed|skipped)$", said, re.MULTILINE):
        found.setdefault(host, {})[test] = outcome
    assert set(found) == set(os.listdir(hosts)), said
    return found


def test_the_witness_passes_what_is_right_and_fails_what_is_wrong(programs):
    """One test, because one run of the witness tells it all. The hosts' directories have no space in their names, which stand in commands."""
    for name in VARIABLES:
        right(name, programs / name)
    for number, (name, deed, *_expected) in enumerate((*WRONG, *ODD)):
        shutil.copytree(programs / name, programs / str(number), symlinks=True)
        deed(programs / str(number))
    outcomes = witness(programs)
    assert len(outcomes["total"]) > 20
    for name, skipped in SKIPPED.items():
        assert outcomes[name] == {**dict.fromkeys(outcomes["total"], "passed"), **dict.fromkeys(skipped, "skipped")}, name
    for number, (name, _deed, tests) in enumerate(WRONG):
        assert outcomes[str(number)] == {**outcomes[name], **dict.fromkeys(tests, "failed")}, WRONG[number]
    for number, (_name, _deed, outcome, tests) in enumerate(ODD, len(WRONG)):
        assert {test for test, seen in outcomes[str(number)].items() if seen == outcome} == tests, ODD[number - len(WRONG)]
    assert {test for _name, _deed, tests in WRONG for test in tests} == set(outcomes["total"]), "each test of the witness has failed on some node"
