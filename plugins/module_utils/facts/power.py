# Copyright (c) 2026, The ainode.cpu authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""How the kernel runs the CPU's frequency and idle states.

Sources: https://docs.kernel.org/admin-guide/pm/cpufreq.html, intel_pstate.html, amd-pstate.html and cpuidle.html,
Documentation/ABI/testing/sysfs-devices-system-cpu.
"""

from __future__ import annotations

import re

_CPU = "/sys/devices/system/cpu"


def policies(root, online):
    """Return the directories of the cpufreq policies in force: those of cpufreq/policyN, or cpuN/cpufreq where a kernel has no others."""
    found = [f"{_CPU}/cpufreq/policy{number}" for number in root.numbered(_CPU + "/cpufreq", "policy")]
    return found or [f"{_CPU}/cpu{cpu}/cpufreq" for cpu in online if root.is_dir(f"{_CPU}/cpu{cpu}/cpufreq")]


def read(root, info, topology, hypervisor):
    """Return facts.power: driver, reason, hwp, governors, governor, epp, epb, turbo, min_khz, max_khz, base_khz, idle.

    The lists hold each value that is in force on some CPU, sorted. min_khz is the lowest and max_khz, base_khz are the highest of any CPU.
    Without cpufreq the driver is null and reason says why; a fact that is not told is null or [].
    """
    found = policies(root, topology.online)
    # The threads of a core have the same limits: one policy a core tells them.
    first = {f"policy{cpus[0]}" for cpus in topology.groups}
    limits = [policy for policy in found if policy.rpartition("/")[2] in first] or found
    khz = {name: {root.read_int(policy + "/" + name) for policy in limits} - {None} for name in ("cpuinfo_min_freq", "cpuinfo_max_freq", "base_frequency")}
    driver = root.read(found[0] + "/scaling_driver") if found else None
    available = {governor for policy in found[:1] for governor in (root.read(policy + "/scaling_available_governors") or "").split()}
    return {
        "driver": driver or None,
        "reason": None if driver else _why_no_cpufreq(root, found, hypervisor),
        "hwp": _hwp(root, info, found, driver),
        "governors": sorted(available),
        "governor": _distinct(root, found, "scaling_governor"),
        "epp": _distinct(root, found, "energy_performance_preference"),
        "epb": sorted({value for value in (root.read_int(f"{_CPU}/cpu{cpu}/power/energy_perf_bias") for cpu in topology.online) if value is not None}),
        "turbo": turbo(root, info, found),
        "min_khz": min(khz["cpuinfo_min_freq"], default=None),
        "max_khz": max(khz["cpuinfo_max_freq"], default=None),
        "base_khz": max(khz["base_frequency"], default=None),
        "idle": idle(root, topology),
    }


def turbo(root, info, found):
    """Return {available, enabled}: whether the CPU can run above its base frequency, and whether it may now. Null when not told.

    The CPU flag (ida, AMD's cpb) goes away when the firmware locks turbo off, so available is false then.
    """
    switch = root.read(_CPU + "/intel_pstate/no_turbo")
    allowed = {"0": True, "1": False}.get(switch)
    if allowed is None:
        boost = {root.read(_CPU + "/cpufreq/boost")} - {None, ""} or {root.read(policy + "/" + name) for policy in found[:1] for name in ("boost", "cpb")}
        allowed = {"0": False, "1": True}.get(next(iter(boost - {None, ""}), None))
    if "flags" not in info.first:
        return {"available": None if allowed is None else True, "enabled": allowed}
    available = bool(info.flags & {"ida", "cpb"})
    if "hypervisor" in info.flags and not available:
        return {"available": None, "enabled": None}
    return {"available": available, "enabled": allowed if available else False}


def idle(root, topology):
    """Return {driver, states}: states is [{name, latency_us, residency_us, disabled}], by latency.

    It is the union over all CPUs: core types of a hybrid have other states, or the same name with other numbers, of which the largest is
    given (a limit by latency must hold on each CPU). disabled is all, none or some of the CPUs that have the state; null when not told.
    """
    driver = root.read(_CPU + "/cpuidle/current_driver")
    states, numbers = {}, {}
    for cpus in topology.groups:
        # The threads of a core share its states, and the cores of a kind their numbers: reading those once is what makes a large machine fast.
        base = f"{_CPU}/cpu{cpus[0]}/cpuidle/state"
        for index in root.numbered(f"{_CPU}/cpu{cpus[0]}/cpuidle", "state"):
            name = root.read(f"{base}{index}/name")
            if not name:
                continue
            key = (topology.kinds.get(cpus[0]), index, name)
            if key not in numbers:
                numbers[key] = (root.read_int(f"{base}{index}/latency"), root.read_int(f"{base}{index}/residency"))
            states.setdefault(name, set()).update(root.read(f"{_CPU}/cpu{cpu}/cpuidle/state{index}/disable") for cpu in cpus)
    found = [
        {
            "name": name,
            "latency_us": _largest(latency for (_kind, _index, other), (latency, _residency) in numbers.items() if other == name),
            "residency_us": _largest(residency for (_kind, _index, other), (_latency, residency) in numbers.items() if other == name),
            "disabled": _disabled(values),
        }
        for name, values in states.items()
    ]
    # A stable sort: states of the same latency stay in the kernel's order, POLL before C1.
    found.sort(key=lambda state: (state["latency_us"] or 0, state["residency_us"] or 0))
    return {"driver": None if driver in (None, "", "none") else driver, "states": found}


def _disabled(values):
    """Return all, none or some for the texts of the files `disable`; the kernel writes 0, or 1 or another number for who disabled it."""
    told = {value != "0" for value in values if value and value.isdigit()}
    if not told:
        return None
    return "some" if len(told) == 2 else "all" if True in told else "none"


def _largest(values):
    return max((value for value in values if value is not None), default=None)


def _distinct(root, found, name):
    return sorted({text for text in (root.read(policy + "/" + name) for policy in found) if text})


def _hwp(root, info, found, driver):
    """Return whether the CPU chooses its own P-states (Intel's HWP): the CPU has it and intel_pstate uses it. Null when not told."""
    if "flags" not in info.first:
        return None
    if "hwp" not in info.flags:
        return False
    if driver is None:
        return None
    # Both modes of intel_pstate offer an energy-performance preference under HWP alone.
    return driver in ("intel_pstate", "intel_cpufreq") and any(root.exists(policy + "/energy_performance_preference") for policy in found[:1])


def _why_no_cpufreq(root, found, hypervisor):
    if found:
        return "the cpufreq policies name no driver"
    if hypervisor:
        return "no cpufreq: the hypervisor owns the CPU frequency"
    if not root.is_dir(_CPU):
        return f"no cpufreq: {_CPU} is not there"
    status = root.read(_CPU + "/intel_pstate/status")
    if status == "off":
        return "no cpufreq: intel_pstate is off and no other driver took its place"
    if re.search(r"\bcpufreq\.off=1\b", root.read("/proc/cmdline") or ""):
        return "no cpufreq: the boot parameter cpufreq.off=1 switches it off"
    return "no cpufreq: no driver is bound to the CPUs (the firmware keeps P-states for itself, or the kernel has no driver loaded)"
