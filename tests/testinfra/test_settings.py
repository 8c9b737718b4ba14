# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Governor, idle states, huge pages and memory policies: in force now, and set again at boot."""

from __future__ import annotations

import re

import pytest

SYSTEM = "/sys/devices/system"
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
    node.owns(f"{SYSTEM}/{min(found)}")
    return found


def test_governor(node):
    wanted = node.wants("cpu_power_governor")
    assert set(governors(node).values()) == {wanted}


def test_governor_after_a_reboot(node):
    wanted = node.wants("cpu_power_governor")
    governors(node)
    power_at_boot(node, "governor", wanted)


def turbo(node):
    """Return (the file's text, the text that is expected, what is expected at boot) of the switch for turbo."""
    wanted = str(node.wants("cpu_power_turbo")).lower() in ("true", "yes", "on", "1")
    switches = {"cpu/intel_pstate/no_turbo": "10", "cpu/cpufreq/boost": "01"}
    path = next((path for path in switches if path in node.files), None)
    if path is None:
        pytest.skip("this node offers no control over turbo")
    node.owns(f"{SYSTEM}/{path}")
    flags = re.search(r"^flags\s*:(.*)$", node.text("/proc/cpuinfo"), re.MULTILINE)
    if path.endswith("no_turbo") and wanted and flags and "ida" not in flags.group(1).split():
        pytest.skip("the firmware has turbo disabled: the CPU shows no flag ida")
    return node.files[path], switches[path][wanted], int(wanted)


def test_turbo(node):
    text, expected, _at_boot = turbo(node)
    assert text == expected


def test_turbo_after_a_reboot(node):
    power_at_boot(node, "turbo", turbo(node)[2])


def idle_states(node):
    """Return [(cpu and state, name, latency in µs, disabled)], the names and the latency that are expected; skip where there is nothing to expect."""
    names, cap = node.expected.get("cpu_power_idle_states_disabled") or [], node.expected.get("cpu_power_max_exit_latency_us")
    # What a template makes of the limit is not known here. Without a battery, a node that names no states has the default; a laptop keeps its idle states.
    cap = int(cap) if str(cap).isdigit() else None
    if cap == 10 and (names or any(text == "Battery" for text in node.find(r"[^/]+/type").values())):
        cap = None
    if cap is None and not names:
        pytest.skip("nothing is asked of the idle states")
    states = [
        (path[: -len("/disable")], node.files[path.replace("/disable", "/name")], int(node.files[path.replace("/disable", "/latency")]), text != "0")
        for path, text in node.find(r"cpu/cpu\d+/cpuidle/state\d+/disable").items()
    ]
    if not states:
        pytest.skip("this node has no idle states that can be disabled")
    node.owns(f"{SYSTEM}/{states[0][0]}/disable")
    return states, names, cap


def test_idle_states(node):
    states, names, cap = idle_states(node)
    slow = [f"{path} ({name}, {latency} µs)" for path, name, latency, off in states if not off and (name in names or (cap is not None and latency > cap))]
    assert slow == []


def test_idle_states_after_a_reboot(node):
    states, names, cap = idle_states(node)
    here = {name for _path, name, _latency, _off in states}
    power_at_boot(node, *(("idle_states_disabled", ",".join(name for name in names if name in here)) if names else ("max_exit_latency_us", cap)))


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


def counts(node, size):
    """Return {node: (path below SYSTEM, huge pages of `size` kB)}; the one of a kernel without NUMA has the node None."""
    found = node.find(rf"node/node\d+/hugepages/hugepages-{size}kB/nr_hugepages")
    if not found and not node.find(r"node/node\d+/.*"):
        path = f"../../kernel/mm/hugepages/hugepages-{size}kB/nr_hugepages"
        return {None: (path, int(node.text(f"{SYSTEM}/{path}")))}
    return {int(re.search(r"\d+", path).group()): (path, int(text)) for path, text in found.items()}


def asked(node):
    """Yield (what is asked for, its count, {node: (path, count)} of the nodes it is asked of)."""
    for (size, number), count in pages(node).items():
        there = counts(node, size)
        if number is not None and None not in there:
            there = {number: there[number]}
        for path, _count in list(there.values())[:1]:
            node.owns(f"{SYSTEM}/{path}")
        yield f"{size} kB on node {'(all)' if number is None else number}", count, there


def test_hugepages(node):
    for what, count, there in asked(node):
        assert sum(have for _path, have in there.values()) == count, what


def test_a_total_of_huge_pages_is_spread_over_the_nodes(node):
    totals = [(size, count) for (size, number), count in pages(node).items() if number is None]
    near = [int(re.search(r"\d+", path).group()) for path in node.find(r"node/node\d+/cpulist")]
    if not totals or len(near) < 2:
        pytest.skip("this node has one NUMA node, or each node's huge pages are asked for by themselves")
    for size, count in totals:
        each = sorted(counts(node, size)[number][1] for number in near)
        assert each == sorted(count // len(near) + (index < count % len(near)) for index in range(len(near)))


def at_boot(node):
    """Return {path: value} of what systemd-tmpfiles writes at boot; of several lines for a path, the first counts."""
    written = {}
    for words in map(str.split, node.host.check_output("systemd-tmpfiles --cat-config").splitlines()):
        if len(words) == 7 and words[0].startswith("w"):
            written.setdefault(words[1], words[6])
    return written


def test_hugepages_after_a_reboot(node):
    node.boots()
    written = at_boot(node)
    for what, count, there in asked(node):
        paths = [f"{SYSTEM}/{path}".replace("/devices/system/../..", "") for path, _count in there.values()]
        assert any(path in written for path in paths), what
        assert sum(int(written.get(path, 0)) for path in paths) == count, what


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
    assert at_boot(node).get(f"{THP}/{file}") == wanted


def tuners(node, question):
    """Return {tuner: what systemctl answers}; each has an answer, also one that is not installed."""
    node.boots()
    if node.expected.get("cpu_power_conflicting_tuners") == "ignore":
        pytest.skip("cpu_power_conflicting_tuners: ignore lets other tuners run")
    said = {name: node.host.run(f"systemctl {question} {name}.service") for name in TUNERS}
    return {name: done.stdout.strip() or ("not-found" if "o such file" in done.stderr else f"{done.rc}: {done.stderr}") for name, done in said.items()}


def test_nobody_else_tunes(node):
    assert {name: state for name, state in tuners(node, "is-active").items() if state not in ("inactive", "failed", "unknown")} == {}


def test_nobody_else_tunes_after_a_reboot(node):
    off = ("disabled", "masked", "masked-runtime", "static", "indirect", "not-found")
    assert {name: state for name, state in tuners(node, "is-enabled").items() if state not in off} == {}
