# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import machines
import pytest
from ansible_collections.ainode.cpu.plugins.module_utils.facts.gather import gather
from ansible_collections.ainode.cpu.plugins.module_utils.host.root import Root
from machines import grid


def rows(path):
    return gather(Root(str(path)), ["firmware"])["firmware"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("xeon-8380-2s", {"hyper_threading": "enabled", "sub_numa": "disabled", "turbo": "enabled", "hardware_pstates": "native"}),
        ("xeon-icelake-snc2", {"hyper_threading": "enabled", "sub_numa": "enabled", "turbo": "enabled", "hardware_pstates": "native"}),
        ("epyc-nps4", {"hyper_threading": "enabled", "sub_numa": "enabled", "turbo": "enabled", "hardware_pstates": None}),
        ("hybrid-laptop", {"hyper_threading": "enabled", "sub_numa": None, "turbo": "enabled", "hardware_pstates": "native"}),
        ("vm-without-cpufreq", {"hyper_threading": None, "sub_numa": None, "turbo": None, "hardware_pstates": None}),
        ("arm-neoverse", {"hyper_threading": None, "sub_numa": None, "turbo": None, "hardware_pstates": None}),
        ("s390x-books", {"hyper_threading": "enabled", "sub_numa": None, "turbo": None, "hardware_pstates": None}),
    ],
)
def test_described_machines(described, name, expected):
    found = rows(described(name))
    assert {row: told["value"] for row, told in found.items()} == {**expected, "boot_performance_mode": None}
    assert all(told["reason"] for told in found.values())


def test_a_virtual_machine_sees_no_firmware(described):
    assert {row["reason"] for row in rows(described("vm-without-cpufreq")).values()} == {"the hypervisor hides the firmware's settings from a virtual machine"}


def xeon(flags, model=106, name="Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz"):
    return machines.x86("GenuineIntel", 6, model, 6, name, f"lm {flags}")


@pytest.mark.parametrize(
    ("who", "threads", "more", "value", "says"),
    [
        (xeon(""), 2, {}, "enabled", "2 online threads"),
        (xeon(""), 1, {}, "disabled", "this CPU model has two"),
        (xeon("", 85, "Intel(R) Xeon(R) Bronze 3104 CPU @ 1.70GHz"), 1, {}, None, "without a second one"),
        (xeon("", 175, "Intel(R) Xeon(R) 6780E"), 1, {}, None, "Sierra Forest core has one thread"),
        (xeon("", 151, "12th Gen Intel(R) Core(TM) i5-12400"), 1, {}, None, "without a second one"),
        (xeon(""), 1, {"files": {"/sys/devices/system/cpu/smt/control": "off"}}, "enabled", "smt/control is off"),
        (xeon(""), 1, {"files": {"/sys/devices/system/cpu/smt/control": "notsupported"}}, "disabled", "this CPU model has two"),
        (xeon(""), 2, {"offline": [2, 3]}, None, "CPUs 2-3 are offline"),
    ],
)
def test_hyper_threading(tmp_path, who, threads, more, value, says):
    told = rows(machines.write(tmp_path / "m", grid(1, 2, threads), who, {0: 8}, **more))["hyper_threading"]
    assert told["value"] == value
    assert says in told["reason"]


@pytest.mark.parametrize(
    ("who", "value", "says"),
    [
        (xeon("ida"), "enabled", "ida"),
        (xeon(""), "disabled", "the firmware has it off"),
        (machines.x86("GenuineIntel", 6, 23, 6, "Intel(R) Core(TM)2 Duo CPU E8400", "lm"), None, "Penryn has no turbo"),
        (machines.x86("AuthenticAMD", 25, 1, 1, "AMD EPYC 7543", "lm cpb"), "enabled", "cpb"),
        (machines.x86("CentaurHauls", 7, 91, 0, "VIA", "lm"), None, "does not tell"),
    ],
)
def test_turbo(tmp_path, who, value, says):
    told = rows(machines.write(tmp_path / "m", grid(1, 2), who, {0: 8}))["turbo"]
    assert told["value"] == value
    assert says in told["reason"]


PSTATE = machines.intel_pstate(800000, 3400000, 2300000)


@pytest.mark.parametrize(
    ("who", "cpufreq", "value", "says"),
    [
        (xeon("hwp"), PSTATE, "native", "intel_pstate runs"),
        (xeon("hwp"), machines.acpi_cpufreq([800000]), "native", "acpi-cpufreq, does not use"),
        (xeon("hwp"), None, None, "out of band"),
        (xeon(""), PSTATE, "disabled", "legacy P-states alone"),
        (xeon("", 63, "Intel(R) Xeon(R) CPU E5-2697 v3 @ 2.60GHz"), machines.acpi_cpufreq([800000]), None, "Haswell has no hardware P-states"),
        (xeon("", 999), PSTATE, None, "does not tell"),
        (machines.EPYC_9354, machines.acpi_cpufreq([800000]), None, "a setting of Intel's firmware"),
    ],
)
def test_hardware_pstates(tmp_path, who, cpufreq, value, says):
    told = rows(machines.write(tmp_path / "m", grid(1, 2), who, {0: 8}, cpufreq=cpufreq))["hardware_pstates"]
    assert told["value"] == value
    assert says in told["reason"]
