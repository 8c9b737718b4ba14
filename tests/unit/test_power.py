# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

import machines
import pytest
from ansible_collections.ainode.cpu.plugins.module_utils.facts import cpu, power, topology
from ansible_collections.ainode.cpu.plugins.module_utils.host.root import Root
from machines import Cpu, grid

CPU = "sys/devices/system/cpu"


def read(path):
    root = Root(str(path))
    info = cpu.CpuInfo(root)
    return power.read(root, info, topology.Topology(root, info), cpu.read(root, info)["hypervisor"])


@pytest.fixture
def host(tmp_path):
    """A function that writes a four-core Xeon with two threads a core, changed by `more`, and returns its path."""

    def write(**more):
        given = {"idle": machines._ICX_IDLE, "cpufreq": machines.intel_pstate(800000, 3400000, 2300000), "epb": 6, "files": machines._PSTATE, **more}
        return Path(machines.write(tmp_path / "m", grid(1, 4, 2), machines.XEON_8380, {0: 8}, **given))

    return write


def test_the_guides_own_machine(described):
    assert read(described("xeon-8380-2s")) == {
        "driver": "intel_pstate",
        "reason": None,
        "hwp": True,
        "governors": ["performance", "powersave"],
        "governor": ["powersave"],
        "epp": ["balance_performance"],
        "epb": [6],
        "turbo": {"available": True, "enabled": True},
        "min_khz": 800000,
        "max_khz": 3400000,
        "base_khz": 2300000,
        "idle": {
            "driver": "intel_idle",
            "states": [
                {"name": "POLL", "latency_us": 0, "residency_us": 0, "disabled": "none"},
                {"name": "C1", "latency_us": 1, "residency_us": 1, "disabled": "none"},
                {"name": "C1E", "latency_us": 4, "residency_us": 4, "disabled": "none"},
                {"name": "C6", "latency_us": 170, "residency_us": 600, "disabled": "none"},
            ],
        },
    }


@pytest.mark.parametrize(
    ("name", "driver", "hwp", "turbo", "idle"),
    [
        ("epyc-nps4", "acpi-cpufreq", False, (True, True), "acpi_idle"),
        ("hybrid-laptop", "intel_pstate", True, (True, True), "intel_idle"),
        ("sparse-nodes", "acpi-cpufreq", False, (True, None), "acpi_idle"),
        ("arm-neoverse", "cppc_cpufreq", None, (None, None), "psci_idle"),
        ("vm-without-cpufreq", None, False, (None, None), None),
        ("s390x-books", None, None, (None, None), None),
    ],
)
def test_described_machines(described, name, driver, hwp, turbo, idle):
    facts = read(described(name))
    assert (facts["driver"], facts["hwp"], facts["idle"]["driver"]) == (driver, hwp, idle)
    assert (facts["turbo"]["available"], facts["turbo"]["enabled"]) == turbo


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("vm-without-cpufreq", "no cpufreq: the hypervisor owns the CPU frequency"),
        ("s390x-books", "no cpufreq: no driver is bound to the CPUs (the firmware keeps P-states for itself, or the kernel has no driver loaded)"),
        ("sandbox-without-sys", "no cpufreq: the hypervisor owns the CPU frequency"),
    ],
)
def test_why_there_is_no_cpufreq(described, name, reason):
    assert read(described(name))["reason"] == reason


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"/sys/devices/system/cpu/intel_pstate/status": "off"}, "no cpufreq: intel_pstate is off and no other driver took its place"),
        ({"/proc/cmdline": "ro cpufreq.off=1"}, "no cpufreq: the boot parameter cpufreq.off=1 switches it off"),
    ],
)
def test_who_switched_cpufreq_off(host, files, reason):
    assert read(host(cpufreq=None, files=files))["reason"] == reason


def test_values_that_differ(host):
    path = host()
    policies = path / CPU / "cpufreq"
    (policies / "policy3/scaling_governor").write_text("performance\n")
    (policies / "policy5/energy_performance_preference").write_text("128\n")
    (policies / "policy2/cpuinfo_max_freq").write_text("3600000\n")
    (path / CPU / "cpu7/power/energy_perf_bias").write_text("0\n")
    facts = read(path)
    assert facts["governor"] == ["performance", "powersave"]
    assert facts["epp"] == ["128", "balance_performance"]
    assert facts["max_khz"] == 3600000
    assert facts["epb"] == [0, 6]


def test_cpufreq_below_the_cpus(host):
    """Kernels before 4.2 have no cpufreq/policyN."""
    path = host()
    for number in range(8):
        (path / CPU / f"cpu{number}/cpufreq").unlink()
        (path / CPU / f"cpufreq/policy{number}").rename(path / CPU / f"cpu{number}/cpufreq")
    (path / CPU / "cpu6/cpufreq/scaling_governor").write_text("performance\n")
    facts = read(path)
    assert (facts["driver"], facts["governor"], facts["max_khz"]) == ("intel_pstate", ["performance", "powersave"], 3400000)


@pytest.mark.parametrize(
    ("flags", "files", "expected"),
    [
        ("ida", {"intel_pstate/no_turbo": 0}, (True, True)),
        ("ida", {"intel_pstate/no_turbo": 1}, (True, False)),
        ("", {"intel_pstate/no_turbo": 1}, (False, False)),  # locked by the firmware: the kernel dropped the flag
        ("ida", {"cpufreq/boost": 1}, (True, True)),
        ("cpb", {"cpufreq/boost": 0}, (True, False)),
        ("cpb", {"cpufreq/policy0/boost": 1}, (True, True)),
        ("cpb", {"cpufreq/policy0/cpb": 0}, (True, False)),
        ("ida", {}, (True, None)),
        ("ida", {"intel_pstate/no_turbo": "maybe"}, (True, None)),
        ("hypervisor", {}, (None, None)),
    ],
)
def test_turbo(tmp_path, flags, files, expected):
    who = machines.x86("GenuineIntel", 6, 106, 6, "Xeon", f"lm {flags}")
    files = {f"/{CPU}/{name}": value for name, value in files.items()}
    path = machines.write(tmp_path / "m", grid(1, 2), who, {0: 8}, cpufreq=machines.acpi_cpufreq([800000]), files=files)
    turbo = read(path)["turbo"]
    assert (turbo["available"], turbo["enabled"]) == expected


@pytest.mark.parametrize(
    ("flags", "driver", "epp", "expected"),
    [
        ("hwp hwp_epp", "intel_pstate", True, True),
        ("hwp hwp_epp", "intel_cpufreq", True, True),
        ("hwp", "intel_pstate", False, False),  # intel_pstate=no_hwp
        ("hwp", "acpi-cpufreq", False, False),
        ("", "intel_pstate", False, False),
        ("hwp", None, False, None),
    ],
)
def test_hwp(tmp_path, flags, driver, epp, expected):
    cpufreq = {"scaling_driver": driver, "scaling_governor": "powersave"} if driver else None
    if epp:
        cpufreq["energy_performance_preference"] = "performance"
    who = machines.x86("GenuineIntel", 6, 106, 6, "Xeon", f"lm {flags}")
    assert read(machines.write(tmp_path / "m", grid(1, 2), who, {0: 8}, cpufreq=cpufreq))["hwp"] is expected


def test_disabled_states(host):
    path = host()
    for number in range(8):
        (path / CPU / f"cpu{number}/cpuidle/state3/disable").write_text("1\n")
    (path / CPU / "cpu5/cpuidle/state2/disable").write_text("1\n")
    (path / CPU / "cpu0/cpuidle/state1/disable").write_text("\n")
    assert {state["name"]: state["disabled"] for state in read(path)["idle"]["states"]} == {"POLL": "none", "C1": "none", "C1E": "some", "C6": "all"}


def test_disabled_states_that_are_not_told(host):
    path = host()
    for number in range(8):
        (path / CPU / f"cpu{number}/cpuidle/state0/disable").unlink()
    assert read(path)["idle"]["states"][0] == {"name": "POLL", "latency_us": 0, "residency_us": 0, "disabled": None}


def test_states_of_a_hybrid_are_the_union(tmp_path):
    cpus = [Cpu(0, core=0, kind="core"), Cpu(1, core=1, kind="atom"), Cpu(2, core=2, kind="atom")]
    path = Path(machines.write(tmp_path / "m", cpus, machines.CORE_1260P, {0: 8}, idle=[("POLL", 0, 0), ("C6", 220, 600)]))
    for number in (1, 2):
        base = path / CPU / f"cpu{number}/cpuidle/state1"
        (base / "latency").write_text("260\n")
        (base / "residency").write_text("500\n")
        (base.parent / "state2").mkdir()
        for name, value in (("name", "C6S"), ("latency", "300"), ("residency", "900"), ("disable", number - 1)):
            (base.parent / "state2" / name).write_text(f"{value}\n")
    assert read(path)["idle"]["states"] == [
        {"name": "POLL", "latency_us": 0, "residency_us": 0, "disabled": "none"},
        {"name": "C6", "latency_us": 260, "residency_us": 600, "disabled": "none"},
        {"name": "C6S", "latency_us": 300, "residency_us": 900, "disabled": "some"},
    ]


def test_no_idle_driver(host):
    path = host(idle=())
    (path / CPU / "cpuidle").mkdir()
    (path / CPU / "cpuidle/current_driver").write_text("none\n")
    assert read(path)["idle"] == {"driver": None, "states": []}
