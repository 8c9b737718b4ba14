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
    values = {name: _distinct(root, found, name) for name in ("scaling_governor", "energy_performance_preference")}
    khz = {name: [int(text) for text in _distinct(root, found, name) if text.isdigit()] for name in ("cpuinfo_min_freq", "cpuinfo_max_freq", "base_frequency")}
    driver = root.read(found[0] + "/scaling_driver") if found else None
    available = {governor for policy in found[:1] for governor in (root.read(policy + "/scaling_available_governors") or "").split()}
    return {
        "driver": driver or None,
        "reason": None if driver else _why_no_cpufreq(root, found, hypervisor),
        "hwp": _hwp(root, info, found, driver),
        "governors": sorted(available),
        "governor": values["scaling_governor"],
        "epp": values["energy_performance_preference"],
        "epb": sorted({value for value in (root.read_int(f"{_CPU}/cpu{cpu}/power/energy_perf_bias") for cpu in topology.online) if value is not None}),
        "turbo": turbo(root, info, found),
        "min_khz": min(khz["cpuinfo_min_freq"], default=None),
        "max_khz": max(khz["cpuinfo_max_freq"], default=None),
        "base_khz": max(khz["base_frequency"], default=None),
        "idle": idle(root, topology.online, topology.kinds),
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


def idle(root, online, kinds):
    """Return {driver, states}: states is [{name, latency_us, residency_us, disabled}], by latency.

    It is the union over all CPUs: core types of a hybrid have other states, or the same name with other numbers, of which the largest is
    given (a limit by latency must hold on each CPU). disabled is all, none or some of the CPUs that have the state.
    """
    driver = root.read(_CPU + "/cpuidle/current_driver")
    states = {}
    numbers = {}
    for cpu in online:
        for index in _state_indexes(root, cpu):
            base = f"{_CPU}/cpu{cpu}/cpuidle/state{index}"
            name = root.read(base + "/name")
            if not name:
                continue
            key = (kinds.get(cpu), index, name)
            if key not in numbers:
                # CPUs of one kind share their driver's table: reading its numbers once is what makes a large machine fast.
                numbers[key] = (root.read_int(base + "/latency"), root.read_int(base + "/residency"))
            latency, residency = numbers[key]
            state = states.setdefault(name, {"name": name, "latency_us": latency, "residency_us": residency, "disabled": set()})
            state["latency_us"] = _larger(state["latency_us"], latency)
            state["residency_us"] = _larger(state["residency_us"], residency)
            state["disabled"].add(root.read(base + "/disable"))
    for state in states.values():
        told = {value != "0" for value in state["disabled"] if value and value.isdigit()}
        state["disabled"] = None if not told else "some" if len(told) == 2 else "all" if True in told else "none"
    return {
        "driver": None if driver in (None, "", "none") else driver,
        "states": sorted(states.values(), key=lambda state: (state["latency_us"] or 0, state["residency_us"] or 0, state["name"])),
    }


def _state_indexes(root, cpu):
    return root.numbered(f"{_CPU}/cpu{cpu}/cpuidle", "state")


def _larger(one, other):
    return max((value for value in (one, other) if value is not None), default=None)


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
