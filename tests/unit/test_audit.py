# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import copy
import itertools
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import hypothesis
import machines
import pytest
import state
import yaml
from ansible_collections.ainode.cpu.plugins.module_utils.audit.evidence import collect
from ansible_collections.ainode.cpu.plugins.module_utils.audit.rows import RECOMMENDATIONS, RECOMMENDED, VERDICTS, audit, expectations, summary, table
from ansible_collections.ainode.cpu.plugins.module_utils.facts.gather import gather
from ansible_collections.ainode.cpu.plugins.module_utils.host.host import Host
from ansible_collections.ainode.cpu.plugins.module_utils.state import cpu_power, node_plan, runtime_env
from hypothesis import given, strategies

KEYS = ["id", "section", "what", "expected", "live", "after_reboot", "reason", "verdict", "remedy"]
GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "audit.md").read_text(encoding="utf-8")


def audited(root, ignore=(), **expected):
    """Return {id: row} of the audit of a system root."""
    return audited_host(Host(str(root)), ignore, **expected)


def audited_host(host, ignore=(), **expected):
    node = gather(host)
    expected = expectations(node, expected, ignore)
    return {row["id"]: row for row in audit(node, collect(host, node, expected), expected)}


def copied(root, target):
    subprocess.run(["cp", "-a", root, target], check=True)
    return target


def verdicts(rows, *names):
    return [rows[name]["verdict"] for name in names]


def write_all(root, name, text, base="/sys/devices/system/cpu"):
    """Write `text` to every file `name` (a path with * in place of numbers) below `base` of a root."""
    found = list(Path(f"{root}{base}").glob(name))
    assert found
    for path in found:
        path.write_text(text)


# The guide's own machine, two Xeon Platinum 8380, and the same with 10 cores a socket in place of 40, for the tests that write to it.
BIG = machines.MACHINES["xeon-8380-2s"]
SMALL = {**BIG, "cpus": machines.grid(2, 10, 2)}


@pytest.fixture(scope="session")
def store(machine_store):
    """Return the path of a new directory in memory at each call."""
    (machine_store / "audit").mkdir()
    numbers = itertools.count()
    return lambda: machine_store / "audit" / str(next(numbers))


@pytest.fixture(scope="session")
def guide_machine(store):
    return machines.write(store(), **BIG)


@pytest.fixture(scope="session")
def small_tuned(store):
    """A machine after the state modules have set all that they can; to copy."""
    root = machines.write(store(), **SMALL)
    for module, options in SETTINGS.items():
        assert "failed" not in state.run(module, root, **options)
    return root


@pytest.fixture
def xeon(store):
    return machines.write(store(), **SMALL)


@pytest.fixture
def tuned(store, small_tuned):
    return copied(small_tuned, str(store()))


SETTINGS = {
    "cpu_power": {"governor": "performance", "turbo": True, "epb": "performance", "min_frequency_khz": 2300000, "max_exit_latency_us": 2},
    "hugepages": {"pages": [{"size": "2M", "total": 7}, {"size": "1G", "nodes": {1: 2}}]},
    "memory_policy": {
        "transparent_hugepage": "always", "thp_defrag": "never", "numa_balancing": 0, "zone_reclaim_mode": 1, "swappiness": 11,
    },
}  # fmt: skip
EXPECTED = {**SETTINGS["cpu_power"], **SETTINGS["memory_policy"], "hugepages": SETTINGS["hugepages"]["pages"]}
# The rows that these settings decide.
SET_ROWS = [
    "power.governor", "power.idle_states", "power.epb", "power.turbo", "power.min_frequency", "memory.hugepages", "memory.transparent_hugepage",
    "memory.thp_defrag", "memory.numa_balancing", "memory.zone_reclaim_mode", "memory.swappiness",
]  # fmt: skip


def check_form(rows):
    for row in rows.values():
        assert sorted(row) == sorted(KEYS)
        assert row["verdict"] in VERDICTS
        assert all(row[key] is None or (isinstance(row[key], str) and row[key]) for key in ("expected", "live", "after_reboot"))
        assert all(isinstance(row[key], str) and row[key] for key in ("id", "section", "what"))
        assert row["verdict"] == "pass" or row["reason"], row
        assert bool(row["remedy"]) == (row["verdict"] != "pass"), row
    assert "rows:" in table(list(rows.values()))
    assert sum(summary(list(rows.values())).values()) == len(rows)


def test_every_described_machine_gets_every_row(machine):
    rows = audited(machine, **EXPECTED)
    check_form(rows)
    assert set(rows) >= {identity for identity, *_rest in RECOMMENDATIONS} - {"power.epp", "power.max_frequency"}


def test_every_recorded_machine_gets_every_row(recorded_machine):
    check_form(audited(recorded_machine))


def test_what_the_state_modules_set_or_cannot_set_never_fails(machine, store):
    root = copied(machine, str(store()))
    os.makedirs(f"{root}/run/systemd/system", exist_ok=True)
    pages = [{"size": "2M", "total": 7}]
    power = {key: value for key, value in SETTINGS["cpu_power"].items() if key != "min_frequency_khz"}
    for module, options in {"cpu_power": power, "hugepages": {"pages": pages}, "memory_policy": SETTINGS["memory_policy"]}.items():
        assert "failed" not in state.run(module, root, **options)
    rows = audited(root, **power, **SETTINGS["memory_policy"], hugepages=pages)
    assert {identity: row["reason"] for identity, row in rows.items() if row["verdict"] == "fail"} == {}


# The guide's own machine -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("identity", "verdict", "live"),
    [
        ("cpu.int8_path", "pass", "avx512_vnni"),
        ("bios.hyper_threading", "pass", "enabled"),
        ("bios.sub_numa", "pass", "disabled"),
        ("bios.boot_performance_mode", "not_applicable", None),
        ("bios.turbo", "pass", "enabled"),
        ("bios.hardware_pstates", "pass", "native"),
        ("memory.channels", "pass", "16 of 16"),
        ("cpu.fma_units", "pass", "2"),
        ("network.speed", "pass", "ens1f0: 100 Gbit/s"),
        ("storage.ssd", "pass", "nvme0n1, nvme1n1"),
        ("power.governor", "fail", "powersave"),
        ("power.idle_states", "fail", "enabled: POLL (0 µs), C1 (1 µs), C1E (4 µs), C6 (170 µs)"),
        ("tuners.conflicting", "pass", "none"),
        ("numa.binding", "not_applicable", None),
        ("framework.openvino", "not_applicable", None),
        ("memory.swappiness", "fail", "60"),
    ],
)
def test_the_guides_machine_as_delivered(guide_machine, identity, verdict, live):
    row = audited(guide_machine)[identity]
    assert (row["verdict"], row["live"]) == (verdict, live)


def test_the_guides_machine_tuned(tuned):
    rows = audited(tuned, **EXPECTED)
    assert {name: (rows[name]["verdict"], rows[name]["reason"]) for name in SET_ROWS} == dict.fromkeys(SET_ROWS, ("pass", ""))
    assert all(rows[name]["after_reboot"] for name in SET_ROWS)
    assert rows["memory.hugepages"]["live"] == "2M pages: 4 on node 0, 3 on node 1; 1G pages: 2 on node 1"


# Drift, now and after a reboot -----------------------------------------------------------------------------------------------------------

DRIFTS = {
    "power.governor": ("cpufreq/policy7/scaling_governor", "powersave", "performance, powersave"),
    "power.idle_states": ("cpu9/cpuidle/state3/disable", "0", "enabled: POLL (0 µs), C1 (1 µs), C6 (170 µs)"),
    "power.epb": ("cpu3/power/energy_perf_bias", "6", "0, 6"),
    "power.turbo": ("intel_pstate/no_turbo", "1", "off"),
    "power.min_frequency": ("cpufreq/policy7/scaling_min_freq", "800000", "800000 kHz, 2300000 kHz"),
    "memory.hugepages": ("../node/node1/hugepages/hugepages-2048kB/nr_hugepages", "2", "2M pages: 4 on node 0, 2 on node 1; 1G pages: 2 on node 1"),
    "memory.transparent_hugepage": ("../../../kernel/mm/transparent_hugepage/enabled", "always [madvise] never", "madvise"),
    "memory.thp_defrag": ("../../../kernel/mm/transparent_hugepage/defrag", "always defer defer+madvise [madvise] never", "madvise"),
    "memory.numa_balancing": ("../../../../proc/sys/kernel/numa_balancing", "1", "1"),
    "memory.zone_reclaim_mode": ("../../../../proc/sys/vm/zone_reclaim_mode", "0", "0"),
    "memory.swappiness": ("../../../../proc/sys/vm/swappiness", "60", "60"),
}


@pytest.mark.parametrize("identity", DRIFTS)
def test_one_drifted_value_fails_its_row_and_no_other(tuned, identity):
    name, text, live = DRIFTS[identity]
    path = Path(f"{tuned}/sys/devices/system/cpu/{name}")
    assert path.exists()
    path.write_text(text + "\n")
    rows = audited(tuned, **EXPECTED)
    assert [name for name in SET_ROWS if rows[name]["verdict"] != "pass"] == [identity]
    assert rows[identity]["live"] == live
    assert rows[identity]["reason"].startswith("drifted: the next boot sets it right (/etc/")
    assert rows[identity]["after_reboot"] is not None


def test_every_drift_has_a_row():
    assert sorted(DRIFTS) == sorted(SET_ROWS)


@pytest.mark.parametrize(
    ("identity", "spoil", "after"),
    [
        # Somebody's file with a later name wins over ours.
        ("memory.swappiness", lambda root: state.write(root, "/etc/sysctl.d/99-other.conf", "vm.swappiness = 30\n"), "30"),
        ("memory.transparent_hugepage", lambda root: os.unlink(f"{root}/etc/tmpfiles.d/ainode-memory.conf"), None),
        ("memory.zone_reclaim_mode", lambda root: os.unlink(f"{root}/etc/sysctl.d/90-ainode.conf"), "0"),
        (
            "memory.hugepages",
            lambda root: os.unlink(f"{root}/etc/tmpfiles.d/ainode-hugepages.conf"),
            "2M pages: 0 on node 0, 0 on node 1; 1G pages: 0 on node 1",
        ),
        ("power.governor", lambda root: os.unlink(f"{root}/etc/systemd/system/multi-user.target.wants/{cpu_power.UNIT}"), None),
        ("power.idle_states", lambda root: state.write(root, cpu_power.CONF, "governor=performance\n"), "enabled: POLL, C1, C1E, C6"),
        ("power.idle_states", lambda root: state.write(root, cpu_power.CONF, "max_exit_latency_us=10\n"), "enabled: POLL, C1, C1E"),
        ("power.turbo", lambda root: state.write(root, cpu_power.CONF, "turbo=0\n"), "off"),
    ],
)
def test_right_now_but_not_after_a_reboot_is_a_failure(tuned, identity, spoil, after):
    spoil(tuned)
    row = audited(tuned, **EXPECTED)[identity]
    assert row["verdict"] == "fail"
    assert row["reason"].startswith("right now, but ")
    assert row["after_reboot"] == after


@pytest.mark.parametrize(
    ("cmdline", "counts"),
    [
        ("hugepages=6", "3 on node 0, 3 on node 1"),
        ("hugepages=0:5,1:1", "5 on node 0, 1 on node 1"),
        ("default_hugepagesz=1G hugepages=6", "0 on node 0, 0 on node 1"),
        ("hugepagesz=1G hugepages=4 hugepagesz=2M hugepages=7", "4 on node 0, 3 on node 1"),
        ("hugepagesz=nonsense hugepages=x", "0 on node 0, 0 on node 1"),
    ],
)
def test_huge_pages_of_the_command_line(xeon, cmdline, counts):
    state.write(xeon, "/proc/cmdline", cmdline + "\n")
    row = audited(xeon, hugepages=[{"size": "2M", "total": 6}])["memory.hugepages"]
    assert row["after_reboot"] == f"2M pages: {counts}"


def test_what_the_kernel_starts_with_is_read_from_its_build(xeon):
    state.write(
        xeon, "/boot/config-6.8.0-45-generic",
        "CONFIG_CPU_FREQ_DEFAULT_GOV_SCHEDUTIL=y\nCONFIG_TRANSPARENT_HUGEPAGE_MADVISE=y\nCONFIG_NUMA_BALANCING_DEFAULT_ENABLED=y\n",
    )  # fmt: skip
    rows = audited(xeon, transparent_hugepage="madvise", numa_balancing=0, governor="powersave")
    # intel_pstate in active mode has no schedutil: its own dynamic governor is powersave.
    assert verdicts(rows, "power.governor", "memory.transparent_hugepage", "memory.numa_balancing") == ["pass", "pass", "fail"]
    assert rows["memory.numa_balancing"]["after_reboot"] == "1"
    # On one node there is nothing to balance, and the kernel leaves it off.
    state.write(xeon, "/sys/devices/system/node/node1/meminfo", "Node 1 MemTotal: 0 kB\n")
    assert audited(xeon, numa_balancing=0)["memory.numa_balancing"]["after_reboot"] == "0"
    shutil.rmtree(f"{xeon}/sys/devices/system/node/node1")
    assert audited(xeon, numa_balancing=0)["memory.numa_balancing"]["after_reboot"] == "0"
    state.write(xeon, "/proc/cmdline", "numa_balancing=enable\n")
    assert audited(xeon, numa_balancing=1)["memory.numa_balancing"]["after_reboot"] == "1"
    state.write(xeon, "/proc/cmdline", "numa_balancing=disable transparent_hugepage=never\n")
    rows = audited(xeon, transparent_hugepage="never", numa_balancing=0)
    assert [rows[name]["after_reboot"] for name in ("memory.transparent_hugepage", "memory.numa_balancing")] == ["never", "0"]


# What is not the host's, and what is not met by hardware ----------------------------------------------------------------------------------


def test_a_virtual_machine(tmp_path):
    rows = audited(
        machines.build("vm-without-cpufreq", tmp_path), ignore=["transparent_hugepage", "numa_balancing", "swappiness", "zone_reclaim_mode", "thp_defrag"]
    )
    assert set(verdicts(rows, "power.governor", "power.idle_states", *(f"bios.{name}" for name in BIOS))) == {"not_applicable"}
    assert "hypervisor" in rows["power.governor"]["reason"]
    assert (rows["storage.ssd"]["verdict"], rows["storage.ssd"]["live"]) == ("advice", "rotating: vda")
    assert not [row for row in rows.values() if row["verdict"] == "fail"]


BIOS = ["hyper_threading", "sub_numa", "boot_performance_mode", "turbo", "hardware_pstates"]


def test_a_container(tmp_path):
    rows = audited(machines.build("container-cpuset-v1", tmp_path), **EXPECTED)
    assert set(verdicts(rows, *(set(SET_ROWS) - {"memory.hugepages"}))) == {"not_applicable"}
    assert "container" in rows["power.governor"]["reason"]


def test_what_a_live_host_may_not_write_is_not_its_own(tuned, monkeypatch):
    monkeypatch.setattr(Host, "locked_because", lambda self, path: "it is mounted read-only" if path.startswith("/sys") else None)
    host = Host(tuned)
    host.is_live = True
    rows = audited_host(host, **EXPECTED)
    assert (rows["power.governor"]["verdict"], rows["power.governor"]["reason"]) == ("not_applicable", "it is mounted read-only")
    assert rows["memory.hugepages"]["verdict"] == "not_applicable"
    assert rows["memory.swappiness"]["verdict"] == "pass"


def test_a_container_without_an_init_is_judged_by_what_it_has_now(tuned):
    """One that may write the kernel's settings, as a privileged one may; without a boot there is nothing to say about after it."""
    os.rmdir(f"{tuned}/run/systemd/system")
    os.unlink(f"{tuned}/etc/tmpfiles.d/ainode-memory.conf")
    state.write(tuned, "/.dockerenv", "")
    Path(f"{tuned}/proc/sys/vm/swappiness").write_text("60\n")
    host = Host(tuned)
    host.is_live = True
    host.locked_because = lambda path: None
    rows = audited_host(host, **EXPECTED)
    assert [(rows[name]["verdict"], rows[name]["after_reboot"]) for name in ("memory.transparent_hugepage", "power.governor", "memory.swappiness")] == [
        ("pass", None),
        ("pass", None),
        ("fail", None),
    ]


def test_an_epyc_with_four_nodes_a_socket(tmp_path):
    rows = audited(machines.build("epyc-nps4", tmp_path))
    assert (rows["bios.sub_numa"]["verdict"], rows["bios.sub_numa"]["live"]) == ("advice", "enabled")
    assert (rows["cpu.fma_units"]["verdict"], rows["cpu.fma_units"]["live"]) == ("advice", "1")
    assert verdicts(rows, "cpu.int8_path", "cpu.avx512", "bios.hardware_pstates") == ["pass", "pass", "not_applicable"]


def test_a_laptop_and_other_architectures(tmp_path):
    laptop = audited(machines.build("hybrid-laptop", tmp_path))
    assert (laptop["cpu.int8_path"]["live"], laptop["cpu.avx512"]["verdict"], laptop["cpu.fma_units"]["verdict"]) == ("avx_vnni", "advice", "not_applicable")
    arm = audited(machines.build("arm-neoverse", tmp_path))
    assert (arm["cpu.int8_path"]["live"], arm["cpu.avx512"]["verdict"]) == ("asimddp", "not_applicable")
    old = audited(machines.build("sparse-nodes", tmp_path))
    assert (old["cpu.int8_path"]["verdict"], old["cpu.int8_path"]["live"]) == ("advice", "none")


def test_devices_that_are_too_slow(xeon):
    host = Host(xeon)
    node, evidence = gather(host), collect(host, {}, {})
    node["devices"] = {"nics": [{"name": "b", "speed_mbps": 10000}, {"name": "a", "speed_mbps": 1000}], "disks": [{"name": "sda", "rotational": True}]}
    node["memory"]["channels"] = {"populated": 12, "available": 16, "reason": None}
    rows = {row["id"]: row for row in audit(node, evidence, {})}
    assert [(rows[name]["verdict"], rows[name]["live"]) for name in ("network.speed", "storage.ssd", "memory.channels")] == [
        ("advice", "b: 10 Gbit/s"),
        ("advice", "rotating: sda"),
        ("advice", "12 of 16"),
    ]


def test_another_tuner(xeon):
    state.write(xeon, "/run/systemd/units/invocation:tuned.service", "")
    row = audited(xeon)["tuners.conflicting"]
    assert (row["verdict"], row["live"]) == ("fail", "tuned")


# What is expected -------------------------------------------------------------------------------------------------------------------------


def test_the_recommendation_is_expected_where_nothing_else_is():
    plain, laptop = {"platform": {"battery": False}}, {"platform": {"battery": True}}
    assert expectations({}, {}) == RECOMMENDED == expectations(plain, {"governor": None})
    assert "max_exit_latency_us" not in expectations(plain, {"idle_states_disabled": ["C6"]})
    assert expectations(plain, {"idle_states_disabled": ["C6"], "max_exit_latency_us": 5})["max_exit_latency_us"] == 5
    assert "max_exit_latency_us" not in expectations(laptop, {})
    assert expectations(laptop, {"max_exit_latency_us": 0})["max_exit_latency_us"] == 0
    assert "turbo" not in expectations(plain, {"turbo": True}, ["turbo"])


def test_what_is_recommended_is_what_the_roles_set_by_default():
    roles = Path(__file__).resolve().parents[2] / "roles"
    defaults = {}
    for role in ("cpu_power", "hugepages"):
        given = yaml.safe_load((roles / role / "defaults" / "main.yml").read_text(encoding="utf-8"))
        defaults.update({name[len(role) + 1 :]: value for name, value in given.items()})
    latency = re.search(r"else (\d+) }}", defaults.pop("max_exit_latency_us"))
    asked = {name: value for name, value in defaults.items() if name not in ("state", "conflicting_tuners", "shortfall") and value not in (None, [])}
    assert {**asked, "max_exit_latency_us": int(latency.group(1))} == RECOMMENDED


def test_nothing_is_asked_of_what_is_ignored(xeon):
    rows = audited(xeon, ignore=RECOMMENDED)
    assert set(verdicts(rows, "power.governor", "power.idle_states", "memory.swappiness", "memory.thp_defrag")) == {"not_applicable"}
    assert "power.turbo" not in rows
    assert (rows["power.governor"]["live"], rows["power.governor"]["reason"]) == ("powersave", "no governor is asked for")


def test_a_battery_keeps_its_idle_states(tmp_path):
    laptop = machines.build("hybrid-laptop", tmp_path)
    assert audited(laptop)["power.idle_states"]["verdict"] == "not_applicable"
    assert audited(laptop, max_exit_latency_us=10)["power.idle_states"]["verdict"] == "fail"


def test_fewer_huge_pages_than_asked_for(tuned):
    Path(f"{tuned}/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages").write_text("2\n")
    assert audited(tuned, **EXPECTED)["memory.hugepages"]["verdict"] == "fail"
    assert audited(tuned, **EXPECTED, shortfall="warn")["memory.hugepages"]["verdict"] == "advice"


@pytest.mark.parametrize(("names", "left"), [(["C6"], "POLL, C1, C1E"), (["C6", "C1E"], "POLL, C1")])
def test_idle_states_by_name(xeon, names, left):
    options = {"idle_states_disabled": names}
    assert audited(xeon, **options)["power.idle_states"]["verdict"] == "fail"
    assert "failed" not in state.run("cpu_power", xeon, **options)
    row = audited(xeon, **options)["power.idle_states"]
    assert (row["verdict"], row["after_reboot"]) == ("pass", f"enabled: {left}")


@pytest.mark.parametrize(
    ("expected", "identity", "complaint"),
    [
        ({"governor": "turbo"}, "power.governor", "governor 'turbo' is not available: choose one of performance, powersave"),
        ({"hugepages": [{"size": "5M", "total": 3}]}, "memory.hugepages", "no huge pages of 5M"),
        ({"hugepages": [{"size": "2M", "nodes": {9: 3}}]}, "memory.hugepages", "no NUMA node 9"),
        ({"hugepages": [{"size": "big", "total": 3}]}, "memory.hugepages", "'big' is not the size"),
        ({"swappiness": 999}, "memory.swappiness", "swappiness 999 is not a number from 0 to 200"),
        ({"max_frequency_khz": 1}, "power.max_frequency", "max_frequency_khz 1 is not in this host's range"),
        ({"epb": "99"}, "power.epb", "epb '99'"),
    ],
)
def test_a_value_that_the_host_cannot_have_fails_its_row_alone(xeon, expected, identity, complaint):
    rows = audited(xeon, **expected)
    assert rows[identity]["verdict"] == "fail"
    assert complaint in rows[identity]["reason"]
    assert rows["bios.turbo"]["verdict"] == "pass"


def test_energy_preferences_by_name_and_number(tuned):
    assert audited(tuned, epb="0")["power.epb"]["verdict"] == audited(tuned, epb="performance")["power.epb"]["verdict"] == "pass"
    held = audited(tuned, epp="balance_power")["power.epp"]
    assert (held["verdict"], held["live"]) == ("not_applicable", "performance")
    # Nothing persists the EPP itself: it is what the governor implies.
    write_all(tuned, "cpufreq/policy*/scaling_governor", "powersave\n")
    write_all(tuned, "cpufreq/policy*/energy_performance_preference", "balance_performance\n")
    row = audited(tuned, epp="128")["power.epp"]
    assert (row["live"], row["reason"]) == ("balance_performance", "right now, but nothing that is known here sets it at boot")


# Workloads --------------------------------------------------------------------------------------------------------------------------------


def place(root, *workloads):
    placed = runtime_env.plan(gather(Host(str(root))), list(workloads))
    for path, content in runtime_env.files(placed).items():
        state.write(root, path, content["content"])
    return placed


WORKLOAD_ROWS = ["openmp.threads", "openmp.blocktime", "openmp.affinity", "cores.online", "cores.batch", "numa.binding"]


def test_placed_workloads_pass(store):
    xeon = machines.write(store(), **BIG)
    place(xeon, {"name": "online"}, {"name": "batch", "kmp_blocktime": 0}, {"name": "search"})
    rows = audited(xeon)
    assert verdicts(rows, *WORKLOAD_ROWS) == ["pass"] * 6
    assert rows["openmp.threads"]["live"] == "batch 40, online 8, search 40"
    assert rows["openmp.blocktime"]["live"] == "batch 0, online 1, search 1"
    assert rows["cores.online"]["live"] == "8 (10 instances)"
    assert rows["numa.binding"]["live"] == "14 of 14 on one node"


def test_every_machine_with_its_default_workloads_has_no_failed_row_of_them(machine, store):
    root = copied(machine, str(store()))
    place(root, *({"name": name} for name in ("online", "batch", "search", "training")))
    rows = audited(root)
    assert not [rows[name] for name in WORKLOAD_ROWS if rows[name]["verdict"] == "fail"]


def test_instances_of_other_sizes_are_advice(xeon):
    place(xeon, {"name": "online", "cores_per_instance": 4}, {"name": "batch", "cores_per_instance": 10, "kmp_blocktime": 200})
    rows = audited(xeon)
    assert verdicts(rows, *WORKLOAD_ROWS) == ["pass", "advice", "pass", "advice", "advice", "pass"]
    assert "the largest NUMA node has 10 cores" in rows["cores.online"]["reason"]


def edit_placement(root, change):
    content = json.loads(state.read(root, "/etc/ainode/placement.json"))
    change(content["workloads"])
    state.write(root, "/etc/ainode/placement.json", json.dumps(content))


@pytest.mark.parametrize(
    ("change", "identity", "reason"),
    [
        (lambda found: found["online"][0]["env"].update(OMP_NUM_THREADS="9"), "openmp.threads", "online-0 has OMP_NUM_THREADS 9 on 8 physical cores"),
        (lambda found: found["online"][0]["env"].pop("OMP_NUM_THREADS"), "openmp.threads", "online-0 has OMP_NUM_THREADS unset on 8 physical cores"),
        (lambda found: found["online"][0].update(cpus="0-3,20-23"), "openmp.threads", "online-0 has OMP_NUM_THREADS 8 on 4 physical cores"),
        (lambda found: found["online"][0].update(cpus="0-6,500"), "openmp.threads", "online-0 is placed on CPUs that are not usable: 500"),
        (lambda found: found["online"][0].update(cpus="all"), "openmp.threads", "online-0 has OMP_NUM_THREADS 8 on 0 physical cores"),
        (lambda found: found["online"][1].update(cpus="6-13"), "numa.binding", "online-1 is on node 0, 1 with memory policy bind"),
        (lambda found: found["online"][1].update(memory_policy=None), "numa.binding", "online-1 is on node 1 with memory policy default"),
    ],
)
def test_a_placement_that_is_wrong(xeon, change, identity, reason):
    place(xeon, {"name": "online"})
    edit_placement(xeon, change)
    row = audited(xeon)[identity]
    assert row["verdict"] == "fail"
    assert reason in row["reason"]


def instance(**changes):
    return json.dumps({"workloads": {"online": [{"name": "online-0", "cpus": "0", "env": {}, **changes}]}})


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", '{"workloads": []}', '{"workloads": {"online": [{}]}}', '{"workloads": {"online": [1]}}', '{"workloads": {"online": 3}}',
        instance(name=1), instance(cpus=0), instance(env="OMP_NUM_THREADS=1"),
    ],
)  # fmt: skip
def test_a_damaged_placement_fails(xeon, text):
    state.write(xeon, "/etc/ainode/placement.json", text)
    rows = audited(xeon)
    check_form(rows)
    assert rows["openmp.threads"]["verdict"] == "fail"
    assert "placement.json" in rows["openmp.threads"]["reason"]


def service(root, name, cpus, policy="bind", mask="0", running=None):
    state.write(root, f"/etc/systemd/system/{name}", f"[Service]\nCPUAffinity={cpus}\nNUMAPolicy={policy}\nNUMAMask={mask}\n")
    if running:
        state.write(root, f"/sys/fs/cgroup/system.slice/{name}/cgroup.procs", "4242\n4243\n")
        state.write(root, "/proc/4242/status", f"Name:\tx\nCpus_allowed:\tff\nCpus_allowed_list:\t{running}\n")


@pytest.mark.parametrize(
    ("arguments", "verdict", "reason"),
    [
        ({"cpus": "0-7"}, "pass", ""),
        ({"cpus": "0-3 4-7", "running": "0-7"}, "pass", ""),
        ({"cpus": "0-7", "running": "0-39"}, "fail", "ainode-demo-0.service runs on the CPUs 0-39, not on 0-7"),
        ({"cpus": "0-7", "policy": "default"}, "fail", "ainode-demo-0.service is on node 0 with memory policy default"),
        ({"cpus": "8-11", "policy": "interleave", "mask": "0-1"}, "pass", "interleaved over the nodes of a socket: ainode-demo-0.service"),
        ({"cpus": "8-11"}, "fail", "ainode-demo-0.service is on node 0, 1 with memory policy bind"),
    ],
)
def test_services_are_bound(xeon, arguments, verdict, reason):
    service(xeon, "ainode-demo-0.service", **arguments)
    row = audited(xeon)["numa.binding"]
    assert (row["verdict"], row["reason"]) == (verdict, reason)


def planned(root, machine, services, deployed=None):
    """Write the plan of `services` on the machine that `machine` describes, and the units of it, or those of another plan."""
    plan = node_plan.workloads.plan(machine, services)
    for path, content in node_plan.files(plan).items():
        state.write(root, path, content["content"])
    for name, asked in (deployed or plan)["services"].items():
        for number, one in enumerate(asked["instances"]):
            service(root, f"ainode-{name}-{number}.service", one["cpus"], one["memory_policy"], one["memory_node"])
    return plan


SERVICES = [{"name": "search", "workload": "search"}, {"name": "models", "workload": "online"}]


def test_services_on_the_cores_of_the_plan_pass(xeon):
    planned(xeon, gather(Host(str(xeon))), SERVICES)
    rows = audited(xeon)
    assert verdicts(rows, "cores.shared", "numa.binding") == ["pass", "pass"]
    assert rows["cores.shared"]["live"] == "2 instances, none on cores that others have too"


def test_services_that_were_placed_each_on_the_whole_node_fail(xeon):
    machine = gather(Host(str(xeon)))
    alone = {name: node_plan.workloads.plan(machine, [one])["services"][name] for name, one in zip(("search", "models"), SERVICES, strict=True)}
    for name, one in alone.items():
        for number, placed in enumerate(one["instances"]):
            service(xeon, f"ainode-{name}-{number}.service", placed["cpus"], placed["memory_policy"], placed["memory_node"])
    row = audited(xeon)["cores.shared"]
    assert row["verdict"] == "fail"
    assert row["reason"].startswith("ainode-models-0.service and ainode-search-0.service share the CPUs 0-7; ")
    planned(xeon, machine, SERVICES, {"services": alone})
    row = audited(xeon)["cores.shared"]
    assert row["verdict"] == "fail"
    assert "ainode-models-0.service is on the CPUs 0-7, not on 10-17 as the plan says" in row["reason"]
    assert "ainode-models-1.service is not in the plan, which has fewer instances of its service" in row["reason"]


def test_cores_that_the_plan_shares_are_advice(xeon):
    machine = gather(Host(str(xeon)))
    before = node_plan.workloads.plan(machine, SERVICES[:1])
    shared = node_plan.workloads.plan(machine, SERVICES[1:], before)
    planned(xeon, machine, SERVICES, shared)
    state.write(xeon, node_plan.PLAN, json.dumps(shared))
    row = audited(xeon)["cores.shared"]
    assert (row["verdict"], row["reason"]) == ("advice", "models and search share the CPUs 0-7,10-17")


def test_the_other_thread_of_a_core_is_that_core(xeon):
    service(xeon, "ainode-a-0.service", "0-3")
    service(xeon, "ainode-b-0.service", "23-24")
    service(xeon, "ainode-page-0.service", "0-39", policy="interleave", mask="0-1")
    row = audited(xeon)["cores.shared"]
    assert (row["verdict"], row["reason"]) == ("fail", "ainode-a-0.service and ainode-b-0.service share the CPUs 3")


def test_memory_elsewhere_than_planned_fails(xeon):
    planned(xeon, gather(Host(str(xeon))), SERVICES)
    service(xeon, "ainode-search-0.service", "0-9", mask="1")
    row = audited(xeon)["numa.binding"]
    assert (row["verdict"], row["reason"]) == ("fail", "ainode-search-0.service has its memory on node 1, not on 0 as the plan says")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 2}', '{"version": 1, "services": {"a": {}}, "shared": []}', '{"version": 1, "services": {}}'])
def test_a_damaged_plan_fails(xeon, text):
    state.write(xeon, node_plan.PLAN, text)
    rows = audited(xeon)
    check_form(rows)
    assert rows["cores.shared"]["verdict"] == "fail"
    assert "/etc/ainode/plan.json is not what the role plan writes" in rows["cores.shared"]["reason"]


def test_a_service_whose_process_has_just_ended_is_not_running(xeon):
    service(xeon, "ainode-demo-0.service", "0-7", running="0-39")
    os.unlink(f"{xeon}/proc/4242/status")
    assert audited(xeon)["numa.binding"]["verdict"] == "pass"


def test_a_policy_that_does_not_answer_has_no_limits(xeon):
    os.unlink(f"{xeon}/sys/devices/system/cpu/cpufreq/policy1/scaling_min_freq")
    assert audited(xeon, min_frequency_khz=800000)["power.min_frequency"]["live"] == "800000 kHz"


def test_limits_between_two_frequencies_are_judged_by_what_the_kernel_makes_of_them(xeon):
    for number in range(80):
        policy = f"{xeon}/sys/devices/system/cpu/cpufreq/policy{number}"
        if os.path.isdir(policy):
            state.write(policy, "/scaling_available_frequencies", "2300000 1500000 800000\n")
            state.write(policy, "/scaling_max_freq", "1500000\n")
    row = audited(xeon, max_frequency_khz=2000000)["power.max_frequency"]
    assert (row["live"], row["expected"]) == ("1500000 kHz", "2000000 kHz") and row["reason"].startswith("right now, but")
    assert audited(xeon, max_frequency_khz=1400000)["power.max_frequency"]["reason"].startswith("not set")


@pytest.mark.parametrize(("live", "verdict"), [("balance_performance", "fail"), ("performance", "advice")])
def test_the_default_epp_has_another_name_when_it_is_read(xeon, live, verdict):
    for number in range(80):
        policy = f"{xeon}/sys/devices/system/cpu/cpufreq/policy{number}"
        if os.path.isdir(policy):
            state.write(policy, "/energy_performance_preference", f"{live}\n")
            state.write(policy, "/scaling_governor", "powersave\n")
    row = audited(xeon, epp="default")["power.epp"]
    # Right now, and no boot unit is there to set it again.
    assert row["verdict"] == verdict and ("right now" in row["reason"]) == (verdict == "fail")


def test_what_sets_the_kernel_at_boot_is_not_rated(tuned, monkeypatch):
    asked = []
    monkeypatch.setattr(Host, "rated_units", lambda self, names: asked.append(list(names)) or {})
    service(tuned, "ainode-demo-0.service", "0-7")
    audited(tuned)
    assert asked == [["ainode-demo-0.service"]]


def test_a_boot_unit_without_its_settings_sets_nothing(tuned):
    os.unlink(f"{tuned}/etc/ainode/cpu-power.conf")
    row = audited(tuned, **EXPECTED)["power.governor"]
    assert (row["verdict"], row["after_reboot"]) == ("fail", None)


def test_a_host_without_systemd_boots_all_the_same(tuned):
    os.rmdir(f"{tuned}/run/systemd/system")
    os.unlink(f"{tuned}/etc/sysctl.d/{next(name for name in os.listdir(f'{tuned}/etc/sysctl.d') if 'ainode' in name)}")
    assert audited(tuned, **EXPECTED)["memory.swappiness"]["verdict"] == "fail"


@pytest.mark.parametrize(
    ("rated", "verdict", "text"),
    [
        ({"ainode-a-0.service": 1.1, "ainode-a-1.service": 1.3, "ainode-b.service": 1.0}, "pass", "a 1.3, b 1.0"),
        ({"ainode-a-0.service": 1.1, "ainode-b.service": 2.1}, "fail", "more is open to b than its role leaves it"),
        ({"ainode-a-0.service": 1.1, "ainode-b.service": None}, "fail", "systemd does not rate ainode-b.service"),
        ({"ainode-a-0.service": None}, "not_applicable", "systemd does not run here"),
        ({}, "not_applicable", "no service of ours is deployed"),
    ],
)
def test_services_are_shut_in(xeon, monkeypatch, rated, verdict, text):
    for unit in [*rated, cpu_power.UNIT]:
        state.write(xeon, f"/etc/systemd/system/{unit}", "[Service]\n")
    monkeypatch.setattr(Host, "rated_units", lambda _host, names: {name: rated[name] for name in names if rated[name] is not None})
    row = audited(xeon)["services.sandbox"]
    assert row["verdict"] == verdict
    assert text in (row["live"] if verdict == "pass" else row["reason"])


# The rows as such -------------------------------------------------------------------------------------------------------------------------


def check(identity, verdict="pass"):
    return {"id": identity, "section": "S", "what": "W", "expected": "E", "live": "L", "after_reboot": None, "verdict": verdict, "reason": "R", "remedy": "M"}


def test_a_check_takes_the_place_of_its_row_or_follows_at_the_end(xeon):
    host = Host(xeon)
    node = gather(host)
    expected = expectations(node, {})
    evidence = collect(host, node, expected)
    plain = audit(node, evidence, expected)
    rows = audit(node, evidence, expected, [check("other.thing", "fail"), check("framework.openvino")])
    assert [row["id"] for row in rows] == [row["id"] for row in plain] + ["other.thing"]
    by_id = {row["id"]: row for row in rows}
    assert (by_id["framework.openvino"]["live"], by_id["framework.openvino"]["remedy"], by_id["other.thing"]["remedy"]) == ("L", "", "M")


def test_ids_are_stable_slugs_and_documented():
    identities = [identity for identity, *_rest in RECOMMENDATIONS]
    assert len(set(identities)) == len(identities)
    assert all(re.fullmatch(r"[a-z]+[a-z0-9_]*\.[a-z0-9_]+", identity) for identity in identities)
    documented = re.findall(r"^\| `([a-z0-9_]+\.[a-z0-9_]+)` \|", GUIDE, re.MULTILINE)
    assert documented == identities


def test_the_table_shows_what_fails_first(tuned):
    Path(f"{tuned}/proc/sys/vm/swappiness").write_text("60\n")
    lines = table(list(audited(tuned, **EXPECTED).values())).splitlines()
    assert re.match(r"FAIL +memory\.swappiness +60; expected: 11$", lines[0])
    assert "remedy: run playbooks/ai-node.yml (role hugepages)" in lines[2]
    assert re.match(r"\d+ rows: 1 fail, 0 advice, \d+ pass, \d+ not applicable to this host", lines[-1])
    assert all(line == line.rstrip() for line in lines)
    assert any(line.startswith("n/a") and line.endswith(":") for line in lines)


def test_a_text_with_line_breaks_stays_on_its_line():
    assert len(table([{**check("a.b", "fail"), "live": "x\ny", "reason": "p\nq"}]).splitlines()) == 4


FACTS = None


@given(strategies.data())
@hypothesis.settings(deadline=None)
def test_facts_with_gaps_are_judged_all_the_same(store, data):
    """Whatever is missing from the facts (an unread subset, a value the host does not tell), no row raises."""
    global FACTS
    if FACTS is None:
        root = machines.write(store(), **SMALL)
        place(root, {"name": "online"}, {"name": "batch"})
        host = Host(root)
        node = gather(host)
        expected = expectations(node, EXPECTED)
        FACTS = node, collect(host, node, expected), expected
    node, evidence, expected = FACTS
    node = copy.deepcopy(node)
    for _dummy in range(data.draw(strategies.integers(1, 4))):
        target = data.draw(strategies.sampled_from(sorted(node)))
        if not isinstance(node[target], dict) or data.draw(strategies.booleans()):
            node[target] = None
        elif node[target]:
            node[target][data.draw(strategies.sampled_from(sorted(node[target])))] = None
    check_form({row["id"]: row for row in audit(node, evidence, expected)})
