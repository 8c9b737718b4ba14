# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import shutil
from pathlib import Path

import machines
import pytest
from ansible_collections.ainode.cpu.plugins.module_utils.facts import cpu, topology
from ansible_collections.ainode.cpu.plugins.module_utils.host.root import Root
from machines import Cpu, grid


def read(path):
    """Return (facts.cpu's counts, facts.numa) of the machine at `path`."""
    root = Root(str(path))
    info = cpu.CpuInfo(root)
    arranged = topology.Topology(root, info)
    return topology.read(root, info, arranged), topology.numa(root, arranged, cpu.read(root, info))


@pytest.fixture
def build(tmp_path):
    """A function that writes a machine of `cpus` and returns its path."""

    def write(cpus, cpuinfo=machines.XEON_8380, memory_gib=None, **more):
        nodes = {cpu.node for cpu in cpus} - {None}
        return Path(machines.write(tmp_path / "m", cpus, cpuinfo, memory_gib or (dict.fromkeys(nodes, 8) if nodes else 8), **more))

    return write


# sockets, cores, CPUs, threads a core; NUMA node ids with CPUs, without; nodes a socket; sub-NUMA enabled, kind
@pytest.mark.parametrize(
    ("name", "counts", "with_cpus", "without", "per_socket", "sub_numa"),
    [
        ("xeon-8380-2s", (2, 80, 160, 2), [0, 1], [], 1, (False, "SNC")),
        ("xeon-icelake-snc2", (2, 16, 32, 2), [0, 1, 2, 3], [], 2, (True, "SNC")),
        ("vm-without-cpufreq", (1, 2, 4, 2), [0], [], 1, (None, "SNC")),
        ("epyc-nps4", (2, 64, 128, 2), list(range(8)), [], 4, (True, "NPS")),
        ("hybrid-laptop", (1, 12, 16, 2), [], [], None, (None, None)),
        ("sparse-nodes", (3, 24, 48, 2), [0, 2, 8], [], 1, (False, None)),
        ("cxl-memory", (2, 16, 32, 2), [0, 1], [2], 1, (False, "SNC")),
        ("offline-cpus", (1, 4, 6, 2), [0], [1], 1, (False, "SNC")),
        ("twelve-nodes", (4, 48, 96, 2), list(range(12)), [], 3, (True, "SNC")),
        ("arm-neoverse", (1, 32, 32, 1), [0], [], 1, (False, None)),
        ("s390x-books", (2, 8, 16, 2), [], [], None, (None, None)),
        ("ppc64-gpu-nodes", (2, 8, 32, 4), [0, 8], [254, 255], 1, (False, None)),
        ("sandbox-without-sys", (1, 2, 2, 1), [], [], None, (None, "SNC")),
    ],
)
def test_described_machines(described, name, counts, with_cpus, without, per_socket, sub_numa):
    facts, numa = read(described(name))
    assert (facts["sockets"], facts["physical_cores"], facts["logical_cpus"], facts["threads_per_core"]) == counts
    assert [node["id"] for node in numa["nodes"] if node["kind"] == "cpu"] == with_cpus
    assert [node["id"] for node in numa["nodes"] if node["kind"] == "memory"] == without
    assert numa["nodes_per_socket"] == per_socket
    assert (numa["sub_numa"]["enabled"], numa["sub_numa"]["kind"]) == sub_numa
    assert numa["sub_numa"]["reason"]


def test_the_guides_own_machine(described):
    facts, numa = read(described("xeon-8380-2s"))
    assert facts["cores"][0] == {"socket": 0, "core": 0, "node": 0, "cpus": "0,80", "kind": None}
    assert facts["cores"][79] == {"socket": 1, "core": 39, "node": 1, "cpus": "79,159", "kind": None}
    assert (facts["online"], facts["offline"], facts["isolated"], facts["smt"], facts["smt_control"]) == ("0-159", "", "", True, "on")
    assert [(cache["level"], cache["type"], cache["size_bytes"], len(cache["shared_by"])) for cache in facts["caches"]] == [
        (1, "Data", 49152, 80),
        (1, "Instruction", 32768, 80),
        (2, "Unified", 1310720, 80),
        (3, "Unified", 62914560, 2),
    ]
    assert facts["caches"][3]["shared_by"] == ["0-39,80-119", "40-79,120-159"]
    assert numa["nodes"][1] == {
        "id": 1,
        "cpus": "40-79,120-159",
        "memory_bytes": 512 << 30,
        "distances": {"0": 21, "1": 10},
        "kind": "cpu",
        "hugepages": {"2048": {"total": 0, "free": 0}, "1048576": {"total": 0, "free": 0}},
    }


def test_hybrid_cores_have_a_kind(described):
    facts, _numa = read(described("hybrid-laptop"))
    assert [core["kind"] for core in facts["cores"]] == ["performance"] * 4 + ["efficiency"] * 8
    assert {core["node"] for core in facts["cores"]} == {None}


def test_offline_cpus(described):
    facts, numa = read(described("offline-cpus"))
    assert (facts["online"], facts["offline"], facts["present"]) == ("1-3,8,10-11", "0,4-7,9,12-15", "0-15")
    assert [core["cpus"] for core in facts["cores"]] == ["1", "2,10", "3,11", "8"]
    assert [node["cpus"] for node in numa["nodes"]] == ["1-3,8,10-11", ""]


def test_core_ids_repeat_on_every_die(build):
    cpus = [Cpu(number, package=0, die=number // 2, core=number % 2, node=0) for number in range(4)]
    path = build(cpus)
    facts, _numa = read(path)
    assert facts["physical_cores"] == 4
    for name in ("core_cpus_list", "thread_siblings_list"):
        for number in range(4):
            (path / f"sys/devices/system/cpu/cpu{number}/topology/{name}").unlink()
    facts, _numa = read(path)
    assert (facts["physical_cores"], facts["threads_per_core"], facts["sockets"]) == (4, 1, 1)


def test_masks_instead_of_lists(build):
    path = build(grid(2, 2, 2))
    masks = {"0,4": "00000000,00000011", "1,5": "22", "2,6": "44", "3,7": "88"}
    for number in range(8):
        base = path / f"sys/devices/system/cpu/cpu{number}/topology"
        (base / "core_cpus_list").unlink()
        (base / "thread_siblings").write_text(masks[(base / "thread_siblings_list").read_text().strip()] + "\n")
        (base / "thread_siblings_list").unlink()
    for node, mask in ((0, "33"), (1, "cc")):
        (path / f"sys/devices/system/node/node{node}/cpulist").unlink()
        (path / f"sys/devices/system/node/node{node}/cpumap").write_text(mask)
    facts, numa = read(path)
    assert [core["cpus"] for core in facts["cores"]] == ["0,4", "1,5", "2,6", "3,7"]
    assert [node["cpus"] for node in numa["nodes"]] == ["0-1,4-5", "2-3,6-7"]


def test_a_list_that_does_not_name_its_own_cpu(build):
    path = build(grid(1, 2, 2, adjacent=True))
    for name in ("core_cpus_list", "thread_siblings_list"):
        (path / f"sys/devices/system/cpu/cpu0/topology/{name}").write_text("2-3\n")
    assert [core["cpus"] for core in read(path)[0]["cores"]] == ["0-1", "2-3"]


def test_online_without_the_kernels_list(build):
    path = build(grid(1, 4), offline=[1])
    (path / "sys/devices/system/cpu/online").unlink()
    assert read(path)[0]["online"] == "0,2-3"


def test_topology_from_cpuinfo_alone(build):
    facts, numa = read(build(grid(2, 4, 2, nodes_per_socket=0), sandbox=True))
    assert (facts["sockets"], facts["physical_cores"], facts["logical_cpus"], facts["threads_per_core"]) == (2, 8, 16, 2)
    assert facts["cores"][0] == {"socket": 0, "core": 0, "node": None, "cpus": "0,8", "kind": None}
    assert numa["nodes"] == []


def test_topology_that_is_not_told(build):
    facts, _numa = read(build(grid(1, 4, nodes_per_socket=0), machines.NEOVERSE_V1, sandbox=True))
    assert (facts["online"], facts["logical_cpus"]) == ("0-3", 4)
    assert (facts["sockets"], facts["physical_cores"], facts["threads_per_core"], facts["smt"], facts["cores"]) == (None, None, None, None, [])


def test_sockets_without_ids(build):
    path = build(grid(2, 2))
    for number in range(4):
        (path / f"sys/devices/system/cpu/cpu{number}/topology/physical_package_id").write_text("-1\n")
    (path / "proc/cpuinfo").unlink()
    facts, numa = read(path)
    assert facts["sockets"] == 2
    assert {core["socket"] for core in facts["cores"]} == {None}
    assert numa["nodes_per_socket"] is None


def test_a_socket_counts_within_its_book(build):
    path = build(grid(2, 2), machines.S390X_INFO, bare_topology=True, books=True)
    for number in range(4):
        (path / f"sys/devices/system/cpu/cpu{number}/topology/physical_package_id").write_text("7\n")
    assert read(path)[0]["sockets"] == 2


def test_a_cpu_in_two_nodes_belongs_to_the_first(build):
    path = build(grid(2, 2))
    (path / "sys/devices/system/node/node1/cpulist").write_text("0-3\n")
    assert [(node["cpus"], node["kind"]) for node in read(path)[1]["nodes"]] == [("0-1", "cpu"), ("2-3", "cpu")]


def test_nodes_of_old_kernels_list_offline_cpus(build):
    path = build(grid(2, 2), offline=[3])
    (path / "sys/devices/system/node/node1/cpulist").write_text("2-3\n")
    assert read(path)[1]["nodes"][1]["cpus"] == "2"


def test_which_cpus_are_online_is_found_out_where_it_is_not_told(build):
    path = build(grid(1, 4))
    base = path / "sys/devices/system/cpu"
    (base / "online").unlink()
    (base / "cpu0/online").unlink()
    (base / "cpu2/online").write_text("0\n")
    shutil.rmtree(base / "cpu3/topology")
    assert read(path)[0]["online"] == "0-1"


def test_distances_of_more_nodes_than_are_told(build):
    path = build(grid(2, 2))
    (path / "sys/devices/system/node/node0/distance").write_text("10 20 30\n")
    (path / "sys/devices/system/node/possible").unlink()
    assert read(path)[1]["nodes"][0]["distances"] == {}


@pytest.mark.parametrize("told", ["", "10", "10 x", "10 20 30", "10,20"])
def test_distances_that_fit_no_node(build, told):
    path = build(grid(2, 2))
    (path / "sys/devices/system/node/node0/distance").write_text(told)
    assert read(path)[1]["nodes"][0]["distances"] == {}


@pytest.mark.parametrize(
    ("isolated", "cmdline", "expected"),
    [
        ("2-3\n", "quiet", "2-3"),
        ("\n", "isolcpus=1", ""),
        (None, "ro isolcpus=nohz,domain,managed_irq,2-3,5 quiet", "2-3,5"),
        (None, "ro isolcpus=1 quiet", "1"),
        (None, "ro quiet", ""),
        (None, "isolcpus=0-N", None),
        (None, None, None),
    ],
)
def test_isolated(build, isolated, cmdline, expected):
    path = build(grid(1, 8))
    for name, content in (("sys/devices/system/cpu/isolated", isolated), ("proc/cmdline", cmdline)):
        (path / name).unlink()
        if content is not None:
            (path / name).write_text(content)
    assert read(path)[0]["isolated"] == expected


@pytest.mark.parametrize(("text", "size"), [("48K", 48 << 10), ("3M", 3 << 20), ("1G", 1 << 30), ("512", 512), ("1T", None), ("K", None), ("", None)])
def test_a_caches_size_has_the_kernels_units(build, text, size):
    path = build(grid(1, 1), caches=[(1, "Data", 48, "core")])
    (path / "sys/devices/system/cpu/cpu0/cache/index0/size").write_text(text + "\n")
    assert [cache["size_bytes"] for cache in read(path)[0]["caches"]] == [size]


def test_a_core_without_an_id_has_cpuinfos(build):
    path = build(grid(1, 2, 2))
    for number in range(4):
        (path / f"sys/devices/system/cpu/cpu{number}/topology/core_id").unlink()
    assert [(core["socket"], core["core"], core["cpus"]) for core in read(path)[0]["cores"]] == [(0, 0, "0,2"), (0, 1, "1,3")]


def test_caches_with_gaps(build):
    """A recording may lack an index of one CPU, or its list; another sharer tells it."""
    path = build(grid(1, 2, 2), caches=machines._ICX_CACHES)
    caches = read(path)[0]["caches"]
    base = path / "sys/devices/system/cpu"
    (base / "cpu0/cache/index0/level").unlink()
    (base / "cpu0/cache/index3/shared_cpu_list").write_text("1-3\n")
    (base / "cpu1/cache/index1/size").write_text("unknown\n")
    found = read(path)[0]["caches"]
    assert found[0] == caches[0]
    assert found[-1] == caches[-1]
    assert {"level": 1, "type": "Instruction", "size_bytes": None, "shared_by": ["1,3"]} in found


def xeon(model, name="Intel(R) Xeon(R)", stepping=7):
    return machines.x86("GenuineIntel", 6, model, stepping, name, machines._V4)


def amd(family, model, name="AMD EPYC"):
    return machines.x86("AuthenticAMD", family, model, 1, name, machines._V3)


@pytest.mark.parametrize(
    ("who", "nodes_per_socket", "enabled", "kind"),
    [
        (xeon(85), 2, True, "SNC"),
        (xeon(85, "Intel(R) Xeon(R) Platinum 9282 CPU @ 2.60GHz"), 2, False, "SNC"),  # Cascade Lake-AP: two dies, each a node
        (xeon(85, "Intel(R) Xeon(R) Platinum 9282 CPU @ 2.60GHz"), 4, True, "SNC"),
        (xeon(63), 2, True, "SNC"),  # Cluster-on-Die
        (xeon(87), 4, True, "SNC"),  # Knights Landing, SNC-4
        (xeon(106), 1, False, "SNC"),
        (xeon(45), 1, False, None),
        (xeon(999), 2, None, None),
        (amd(23, 1, "AMD EPYC 7451 24-Core Processor"), 4, False, None),  # Naples: four dies
        (amd(23, 49), 1, False, "NPS"),
        (amd(23, 49), 4, True, "NPS"),
        (amd(25, 1), 2, True, "NPS"),
        (amd(25, 17), 8, True, "NPS"),  # L3 as NUMA
        (amd(21, 2, "AMD Opteron(tm) Processor 6328"), 2, False, None),
        (amd(25, 0x61, "AMD Ryzen 9 7950X 16-Core Processor"), 1, False, None),
        (machines.arm("0x48", "0xd01", "asimd"), 2, None, None),
    ],
)
def test_sub_numa(build, who, nodes_per_socket, enabled, kind):
    told = read(build(grid(2, 8, nodes_per_socket=nodes_per_socket), who))[1]
    assert told["nodes_per_socket"] == nodes_per_socket
    assert (told["sub_numa"]["enabled"], told["sub_numa"]["kind"]) == (enabled, kind)
    assert told["sub_numa"]["reason"]


def test_sub_numa_of_a_two_die_sample_without_a_name(build):
    cpus = [Cpu(number, number // 8, number // 4 % 2, number % 4, number // 4) for number in range(16)]
    assert read(build(cpus, xeon(85, "Genuine Intel(R) CPU 0000")))[1]["sub_numa"]["enabled"] is False
