# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The independent witness: reads nodes with the system's own tools and files, and with no module or fact of this collection.

    pytest --hosts=ansible://all --ansible-inventory=inventory tests/testinfra
    pytest --hosts=podman://node --ainode-expect=expected.yml tests/testinfra

What is expected are the variables of the roles (cpu_power_governor, hugepages_swappiness …), from the YAML file of --ainode-expect, else from the JSON
in $AINODE_EXPECT (playbooks/verify.yml), else from the inventory; and the roles' defaults for those that are not there. null asks for nothing.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import yaml

# The roles' defaults, written down again: a default that changes in the role alone is found.
DEFAULTS = {
    "cpu_power_governor": "performance",
    "cpu_power_turbo": True,
    "cpu_power_max_exit_latency_us": 10,
    "cpu_power_idle_states_disabled": [],
    "hugepages_pages": [],
    "hugepages_transparent_hugepage": "madvise",
    "hugepages_thp_defrag": "madvise",
    "hugepages_numa_balancing": 0,
    "hugepages_zone_reclaim_mode": 0,
    "hugepages_swappiness": 10,
}

# One look at the node: each line is path:value. Offline CPUs and what a kernel does not have are simply not in it, the first line always is.
LOOK = r"""
grep -sHm1 . /proc/cpuinfo
cd /sys/devices/system || exit 0
grep -s . cpu/cpu[0-9]*/cpufreq/scaling_governor cpu/intel_pstate/no_turbo cpu/cpufreq/boost \
  cpu/cpu[0-9]*/cpuidle/state[0-9]*/name cpu/cpu[0-9]*/cpuidle/state[0-9]*/latency cpu/cpu[0-9]*/cpuidle/state[0-9]*/disable \
  cpu/cpu[0-9]*/topology/physical_package_id cpu/cpu[0-9]*/topology/die_id cpu/cpu[0-9]*/topology/core_id \
  node/node[0-9]*/hugepages/hugepages-*/nr_hugepages node/node[0-9]*/cpulist
cd /sys/class/power_supply 2>/dev/null && grep -s . */type
true
"""


def pytest_addoption(parser):
    parser.addoption("--ainode-expect", metavar="FILE", help="YAML file with the variables that the nodes are expected to agree with")


class Node:
    """A node as the witness sees it: `files` is {path below /sys/devices/system: text}, `expected` the roles' variables."""

    def __init__(self, host, expected):
        self.host = host
        self.expected = expected
        look = host.run(LOOK)
        self.files = dict(line.split(":", 1) for line in look.stdout.splitlines() if ":" in line)
        # A look that shows nothing would let every test skip what it did not see.
        if "/proc/cpuinfo" not in self.files:
            raise RuntimeError(f"the look at the node failed with {look.rc}: {look.stderr or look.stdout}")
        self.mounts = [line.split() for line in host.file("/proc/self/mountinfo").content_string.splitlines()]
        self.is_root = host.user().name == "root"

    def wants(self, name):
        """Return the expected value of a variable; skip the test where nothing is expected."""
        value = self.expected.get(name)
        if value is None or value in ("", []):
            pytest.skip(f"{name} asks for nothing")
        return value

    def owns(self, path):
        """Skip the test where nobody on this node may write the kernel file `path`: the setting is another machine's."""
        covering = [words for words in self.mounts if (path + "/").startswith(words[4].rstrip("/") + "/")]
        if covering and "ro" in max(covering, key=lambda words: len(words[4]))[5].split(","):
            pytest.skip(f"{path} is mounted read-only: a container, the setting is its host's")
        if self.is_root and not self.host.run_test("test -w %s", path).succeeded:
            pytest.skip(f"{path} cannot be written by root: a container without the right to it")

    def boots(self):
        """Skip the test where systemd does not run: there is nothing to look at that would set a value at boot."""
        if not self.host.file("/run/systemd/system").is_directory:
            pytest.skip("systemd does not run here: what a boot would set cannot be asked")

    def find(self, pattern):
        """Return {path: text} of the files of the look whose path matches the regular expression `pattern`."""
        return {path: text for path, text in self.files.items() if re.fullmatch(pattern, path)}

    def text(self, path):
        """Return a file of the node without white space around it; skip the test where there is none."""
        file = self.host.file(path)
        if not file.exists:
            pytest.skip(f"this node has no {path}")
        return file.content_string.strip()


@pytest.fixture(scope="module")
def node(host, request):
    return Node(host, {**DEFAULTS, **_expected(host, request.config.getoption("--ainode-expect"))})


@pytest.fixture(scope="module")
def placement(host):
    """Return {workload: [instance]} of the placement, a file that people may read."""
    file = host.file("/etc/ainode/placement.json")
    if not file.exists:
        pytest.skip("no workload is placed on this node (role runtime_env)")
    workloads = json.loads(file.content_string)["workloads"]
    if not workloads:
        pytest.skip("no workload is asked for on this node")
    assert all(workloads.values()), "a workload without instances"
    return workloads


@pytest.fixture(scope="module")
def topology(node):
    """Return {cpu: (core, NUMA node)} of the online CPUs; a core is what tells it from all others, the NUMA node None without NUMA."""
    cores = {}
    for path, text in sorted(node.find(r"cpu/cpu\d+/topology/\w+_id").items()):
        cores.setdefault(int(re.search(r"\d+", path).group()), []).append(text)
    if not cores:
        pytest.skip("this node does not tell its topology")
    nodes = {cpu: int(re.search(r"\d+", path).group()) for path, text in node.find(r"node/node\d+/cpulist").items() for cpu in expand(text)}
    return {cpu: (tuple(core), nodes.get(cpu)) for cpu, core in cores.items()}


def _expected(host, path):
    if path:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    if os.environ.get("AINODE_EXPECT"):
        return json.loads(os.environ["AINODE_EXPECT"])
    return host.ansible.get_variables() if host.backend.get_connection_type() == "ansible" else {}


def expand(cpulist):
    """Return the set of the ids in a cpulist such as 0-3,8."""
    ids = set()
    for part in filter(None, re.split(r"[,\s]+", cpulist.strip())):
        first, _dummy, last = part.partition("-")
        ids.update(range(int(first), int(last or first) + 1))
    return ids
