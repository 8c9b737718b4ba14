# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Governor, idle states, huge pages and memory policies: in force now, and set again at boot."""

from __future__ import annotations

import re

import pytest

CPU = "/sys/devices/system/cpu"
THP = "/sys/kernel/mm/transparent_hugepage"
TUNERS = ["tuned", "power-profiles-daemon", "tlp", "cpufrequtils", "auto-cpufreq"]
SYSCTLS = {
    "vm.swappiness": "hugepages_swappiness",
    "vm.zone_reclaim_mode": "hugepages_zone_reclaim_mode",
    "kernel.numa_balancing": "hugepages_numa_balancing",
}
KB = {"k": 1, "m": 1 << 10, "g": 1 << 20}


def power_at_boot(node, name, value):
    """Assert that the boot unit is enabled and sets `name` to `value`."""
    node.boots()
    assert node.host.check_output("systemctl is-enabled ainode-cpu-power.service") == "enabled"
    lines = node.host.file("/etc/ainode/cpu-power.conf").content_string.splitlines()
    assert f"{name}={value}" in lines


def governors(node):
    found = node.find(r"cpu/cpu\d+/cpufreq/scaling_governor")
    if not found:
        pytest.skip("this node has no cpufreq: a hypervisor owns the frequency")
    node.owns(f"{CPU}/cpu0/cpufreq/scaling_governor")
    return found


def test_governor(node):
    wanted = node.wants("cpu_power_governor")
    assert set(governors(node).values()) == {wanted}


def test_governor_after_a_reboot(node):
    wanted = node.wants("cpu_power_governor")
    governors(node)
    power_at_boot(node, "governor", wanted)


def test_turbo(node):
    wanted = node.wants("cpu_power_turbo")
    if "cpu/intel_pstate/no_turbo" in node.files:
        node.owns(f"{CPU}/intel_pstate/no_turbo")
        flags = re.search(r"^flags\s*:(.*)$", node.text("/proc/cpuinfo"), re.MULTILINE)
        if wanted and flags and " ida " not in flags.group(1) + " ":
            pytest.skip("the firmware has turbo disabled: the CPU shows no flag ida")
        assert node.files["cpu/intel_pstate/no_turbo"] == ("0" if wanted else "1")
    elif "cpu/cpufreq/boost" in node.files:
        node.owns(f"{CPU}/cpufreq/boost")
        assert node.files["cpu/cpufreq/boost"] == ("1" if wanted else "0")
    else:
        pytest.skip("this node offers no control over turbo")


def idle_states(node):
    """Return [(cpu and state, name, latency in µs, disabled)], the names and the latency that are expected; skip where there is nothing to expect."""
    names, cap = node.expected.get("cpu_power_idle_states_disabled") or [], node.expected.get("cpu_power_max_exit_latency_us")
    # Without a battery, a node that names no states has the latency's default; a laptop keeps its idle states.
    if isinstance(cap, str) or (cap == 10 and (names or any(text == "Battery" for text in node.find(r"[^/]+/type").values()))):
        cap = None
    if cap is None and not names:
        pytest.skip("nothing is asked of the idle states")
    states = [
        (path[: -len("/disable")], node.files[path.replace("/disable", "/name")], int(node.files[path.replace("/disable", "/latency")]), text != "0")
        for path, text in node.find(r"cpu/cpu\d+/cpuidle/state\d+/disable").items()
    ]
    if not states:
        pytest.skip("this node has no idle states that can be disabled")
    node.owns(f"{CPU}/cpu0/cpuidle/state0/disable")
    return states, names, cap


def test_idle_states(node):
    states, names, cap = idle_states(node)
    slow = [f"{path} ({name}, {latency} µs)" for path, name, latency, off in states if not off and (name in names or (cap is not None and latency > cap))]
    assert slow == []


def test_idle_states_after_a_reboot(node):
    _states, names, cap = idle_states(node)
    power_at_boot(node, *(("idle_states_disabled", " ".join(names)) if names else ("max_exit_latency_us", cap)))


def pages(node):
    """Return {(kB, node): count}, the expected huge pages; a total is under the node None."""
    wanted = {}
    for request in node.wants("hugepages_pages"):
        number, unit = re.match(r"(\d+)\s*([kmg])", request["size"].lower()).groups()
        size = int(number) * KB[unit]
        if request.get("nodes"):
            wanted.update({(size, int(number)): int(count) for number, count in request["nodes"].items()})
        else:
            wanted[size, None] = int(request["total"])
    return wanted


def test_hugepages(node):
    wanted = pages(node)
    node.owns("/sys/devices/system/node/node0/hugepages" if node.find(r"node/node0/.*") else "/sys/kernel/mm/hugepages")
    for (size, number), count in wanted.items():
        each = node.find(rf"node/node{'[0-9]+' if number is None else number}/hugepages/hugepages-{size}kB/nr_hugepages")
        have = sum(map(int, each.values())) if each else int(node.text(f"/sys/kernel/mm/hugepages/hugepages-{size}kB/nr_hugepages"))
        assert have == count, f"{have} huge pages of {size} kB on node {'(all)' if number is None else number}, {count} are expected"


def test_a_total_of_huge_pages_is_spread_over_the_nodes(node):
    for (size, number), count in pages(node).items():
        if number is None:
            near = [path for path, text in node.find(r"node/node\d+/cpulist").items() if text]
            each = [int(node.files[path.replace("cpulist", f"hugepages/hugepages-{size}kB/nr_hugepages")]) for path in near]
            if len(each) < 2:
                pytest.skip("this node has one NUMA node")
            node.owns("/sys/devices/system/node/node0/hugepages")
            assert max(each) - min(each) <= (1 if count % len(each) else 0)


def test_hugepages_after_a_reboot(node):
    wanted = pages(node)
    node.owns("/sys/kernel/mm/hugepages")
    node.boots()
    lines = [line.split() for line in node.host.check_output("systemd-tmpfiles --cat-config").splitlines() if line.startswith("w")]
    for (size, number), count in wanted.items():
        where = "[0-9]+" if number is None else number
        pattern = rf"/sys/(devices/system/node/node{where}/|kernel/mm/)hugepages/hugepages-{size}kB/nr_hugepages"
        assert sum(int(words[6]) for words in lines if len(words) == 7 and re.fullmatch(pattern, words[1])) == count


@pytest.mark.parametrize("name", SYSCTLS)
def test_sysctl(node, name):
    path = "/proc/sys/" + name.replace(".", "/")
    wanted = node.wants(SYSCTLS[name])
    have = node.text(path)
    node.owns(path)
    assert have == str(wanted)


@pytest.mark.parametrize("name", SYSCTLS)
def test_sysctl_after_a_reboot(node, name):
    path = "/proc/sys/" + name.replace(".", "/")
    wanted = node.wants(SYSCTLS[name])
    node.text(path)
    node.owns(path)
    node.boots()
    text = node.host.check_output("systemd-analyze cat-config sysctl.d")
    settings = [line.split("=", 1)[1].strip() for line in text.splitlines() if re.match(rf"-?{re.escape(name)}\s*=", line.replace("/", "."))]
    assert settings[-1:] == [str(wanted)]


@pytest.mark.parametrize(("file", "name"), [("enabled", "hugepages_transparent_hugepage"), ("defrag", "hugepages_thp_defrag")])
def test_transparent_hugepages(node, file, name):
    wanted = node.wants(name)
    have = re.search(r"\[(.+?)\]", node.text(f"{THP}/{file}"))
    node.owns(f"{THP}/{file}")
    assert have.group(1) == wanted


@pytest.mark.parametrize(("file", "name"), [("enabled", "hugepages_transparent_hugepage"), ("defrag", "hugepages_thp_defrag")])
def test_transparent_hugepages_after_a_reboot(node, file, name):
    wanted = node.wants(name)
    node.text(f"{THP}/{file}")
    node.owns(f"{THP}/{file}")
    node.boots()
    lines = [line.split() for line in node.host.check_output("systemd-tmpfiles --cat-config").splitlines()]
    assert [words[6] for words in lines if len(words) == 7 and words[0].startswith("w") and words[1] == f"{THP}/{file}"][:1] == [wanted]


def test_nobody_else_tunes(node):
    node.boots()
    if node.expected.get("cpu_power_conflicting_tuners") == "ignore":
        pytest.skip("cpu_power_conflicting_tuners: ignore lets other tuners run")
    active = [name for name in TUNERS if node.host.run(f"systemctl is-active {name}.service").stdout.strip() == "active"]
    assert active == []
