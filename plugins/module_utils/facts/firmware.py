# Copyright (c) 2026, The ainode.cpu authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The guide's five BIOS rows, as far as the operating system can see them.

Intel, Deep Learning with Intel AVX-512 and Intel DL Boost, "BIOS Settings": Hyper-Threading enable, SNC disable, boot performance mode
max performance, turbo mode enable, hardware P-states native mode. No kernel interface reads the settings themselves: each value is what the
setting left behind, and null with the reason where it leaves nothing.
"""

from __future__ import annotations

from . import microarchitecture

# Generations with hardware P-states (Intel's HWP): a CPU of these that shows none has them switched off in the firmware.
_WITH_HWP = frozenset(
    (
        "Skylake",
        "Kaby Lake",
        "Coffee Lake",
        "Whiskey Lake",
        "Comet Lake",
        "Cascade Lake",
        "Cooper Lake",
        "Cannon Lake",
        "Ice Lake",
        "Tiger Lake",
        "Rocket Lake",
        "Alder Lake",
        "Raptor Lake",
        "Meteor Lake",
        "Arrow Lake",
        "Lunar Lake",
        "Panther Lake",
        "Sapphire Rapids",
        "Emerald Rapids",
        "Granite Rapids",
        "Sierra Forest",
        "Clearwater Forest",
    )
)


def read(cpu, numa, power, flags):
    """Return {hyper_threading, sub_numa, boot_performance_mode, turbo, hardware_pstates}, each {value, reason}; reason says what it was seen by.

    Values: enabled or disabled; native or disabled for hardware_pstates; null where the OS cannot tell. `flags` are the CPU's flags.
    """
    if cpu["hypervisor"]:
        rows = ("hyper_threading", "sub_numa", "boot_performance_mode", "turbo", "hardware_pstates")
        return dict.fromkeys(rows, _row(None, "the hypervisor hides the firmware's settings from a virtual machine"))
    return {
        "hyper_threading": _hyper_threading(cpu),
        "sub_numa": _sub_numa(numa["sub_numa"]),
        "boot_performance_mode": _row(None, "the firmware applies it before the kernel starts and leaves no trace that an operating system can read"),
        "turbo": _turbo(cpu, power),
        "hardware_pstates": _hardware_pstates(cpu, power, flags),
    }


def _row(value, reason):
    return {"value": value, "reason": reason}


def _hyper_threading(cpu):
    if cpu["smt"]:
        return _row("enabled", f"a core has {cpu['threads_per_core']} online threads")
    if cpu["smt_control"] in ("off", "forceoff"):
        return _row("enabled", f"the kernel switched the sibling threads off itself (smt/control is {cpu['smt_control']})")
    if cpu["smt"] is None:
        return _row(None, "the machine does not tell its topology")
    if cpu["offline"]:
        return _row(None, f"no core has two online threads, but CPUs {cpu['offline']} are offline")
    if cpu["microarchitecture"] in microarchitecture.WITHOUT_SMT:
        return _row(None, f"a {cpu['microarchitecture']} core has one thread")
    name = cpu["model_name"] or ""
    if ("Xeon" in name and "Bronze" not in name) or "EPYC" in name:
        return _row("disabled", "every core has one thread, and this CPU model has two")
    return _row(None, "every core has one thread: switched off, or a CPU model without a second one")


def _sub_numa(sub_numa):
    if sub_numa["kind"] is None and sub_numa["enabled"] is False:
        return _row(None, f"this CPU has no such setting: {sub_numa['reason']}")
    return _row({True: "enabled", False: "disabled", None: None}[sub_numa["enabled"]], sub_numa["reason"])


def _turbo(cpu, power):
    available = power["turbo"]["available"]
    if available:
        return _row("enabled", "the CPU reports turbo (flag ida, AMD's cpb)")
    if available is None or cpu["vendor"] not in ("GenuineIntel", "AuthenticAMD", "HygonGenuine"):
        return _row(None, "the machine does not tell whether its CPU has turbo")
    if cpu["microarchitecture"] in microarchitecture.WITHOUT_TURBO:
        return _row(None, f"{cpu['microarchitecture']} has no turbo")
    return _row("disabled", "the CPU reports no turbo: the firmware has it off, or this CPU model has none")


def _hardware_pstates(cpu, power, flags):
    if cpu["vendor"] != "GenuineIntel":
        return _row(None, "a setting of Intel's firmware")
    if power["hwp"]:
        return _row("native", "intel_pstate runs the CPU's hardware P-states (HWP)")
    if "hwp" in flags and power["driver"]:
        return _row("native", f"the CPU offers hardware P-states (flag hwp), which the driver in force, {power['driver']}, does not use")
    if "hwp" in flags:
        return _row(None, "the CPU has hardware P-states and no cpufreq driver is bound: the firmware may run them out of band, or the kernel has no driver")
    if cpu["microarchitecture"] in _WITH_HWP and flags:
        return _row("disabled", f"{cpu['microarchitecture']} has hardware P-states, and this CPU shows none (no flag hwp): legacy P-states alone")
    if cpu["microarchitecture"] is None or not flags:
        return _row(None, "the machine does not tell whether its CPU has hardware P-states")
    return _row(None, f"{cpu['microarchitecture']} has no hardware P-states")
