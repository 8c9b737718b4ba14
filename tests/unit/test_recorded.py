# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The facts of each recorded machine, and of five of our own, against an independent reading of it.

Two witnesses: the table of expected.py, which other programs and the makers' data sheets tell; and plain readings written here, which take
other files than the collection where there are others (/proc/cpuinfo and the CPU masks where it reads the topology lists) and the shortest
code where there are none. Nothing here imports the collection's parsers.
"""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path

import expected
import pytest
from ansible_collections.ainode.cpu.plugins.module_utils.facts.gather import gather
from ansible_collections.ainode.cpu.plugins.module_utils.host.root import Root

EXPECTED = {**expected.OURS, **expected.RECORDED}


@pytest.fixture(scope="module")
def read(known_machine):
    """(path of the root, its facts), gathered once a machine."""
    return known_machine, gather(Root(known_machine))


def text(*path):
    try:
        with open(os.path.join(*path), encoding="utf-8", errors="replace") as stream:
            return stream.read().strip().strip("\0")
    except OSError:
        return None


def ids(cpulist):
    found = []
    for part in filter(None, (cpulist or "").split(",")):
        first, _dash, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def files(root, pattern):
    return sorted(filter(None, (text(name) for name in glob.glob(os.path.join(glob.escape(root), pattern), recursive=True))))


def cpuinfo(root):
    """[{field: value}], a paragraph of /proc/cpuinfo each."""
    paragraphs = re.split(r"\n\n+", text(root, "proc/cpuinfo"))
    return [dict(re.split(r"\s*:\s*", line, maxsplit=1) for line in paragraph.splitlines() if ":" in line) for paragraph in paragraphs]


def test_expected(read):
    root, ainode = read
    name = os.path.basename(root)
    if name not in EXPECTED:
        pytest.skip(f"nobody has looked {name} up; the readings below hold of it too")
    cpu, numa, power = ainode["cpu"], ainode["numa"], ainode["power"]
    nodes = [node["kind"] for node in numa["nodes"]]
    assert (
        cpu["sockets"],
        cpu["physical_cores"],
        cpu["logical_cpus"],
        cpu["threads_per_core"],
        f"{nodes.count('cpu')}+{nodes.count('memory')}",
        numa["nodes_per_socket"],
        numa["sub_numa"]["enabled"],
        cpu["microarchitecture"],
        cpu["int8_path"],
        cpu["fma_units_512"]["value"],
        cpu["isa_level"],
        power["driver"],
        power["hwp"],
        " ".join(state["name"] for state in power["idle"]["states"]),
    ) == EXPECTED[name]


def test_identity(read):
    root, ainode = read
    first, cpu = cpuinfo(root)[0], ainode["cpu"]
    assert cpu["vendor"] == first["vendor_id"]
    assert cpu["model_name"] == first["model name"].strip()
    assert (cpu["family"], cpu["model"]) == (int(first["cpu family"]), int(first["model"]))
    assert cpu["stepping"] == int(first["stepping"])
    assert cpu["microcode"] == (first.get("microcode") or text(root, "sys/devices/system/cpu/cpu0/microcode/version"))
    assert cpu["architecture"] == "x86_64"
    assert cpu["smt"] == (cpu["threads_per_core"] > 1)


def test_instruction_sets(read):
    root, ainode = read
    cpu = ainode["cpu"]
    raw = text(root, "proc/cpuinfo")
    for flag in ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "sse4_2"):
        there = len(re.findall(rf"^flags.*\s{flag}(?:\s|$)", raw, re.M))
        assert (flag in cpu["isa"]) == (there == len(re.findall(r"^flags", raw, re.M))), flag


def test_cores_by_cpuinfo(read):
    """Sockets and cores by the numbers in /proc/cpuinfo, where the collection reads topology/. Dies may repeat core ids; the masks tell those."""
    root, ainode = read
    cpu = ainode["cpu"]
    # hwloc took some CPUs offline in its recordings by hand; their paragraphs stayed.
    processors = [part for part in cpuinfo(root) if int(part.get("processor", -1)) in ids(cpu["online"])]
    assert sorted(int(part["processor"]) for part in processors) == ids(cpu["online"])
    if all("physical id" in part for part in processors):
        assert len({part["physical id"] for part in processors}) == cpu["sockets"]
        places = {(part["physical id"], part["core id"]) for part in processors}
        if cpu["vendor"] == "GenuineIntel":
            assert len(places) == cpu["physical_cores"]
            by_core = {(core["socket"], core["core"]): ids(core["cpus"]) for core in cpu["cores"]}
            for place in places:
                assert by_core[tuple(map(int, place))] == [int(part["processor"]) for part in processors if (part["physical id"], part["core id"]) == place]


def test_cores_by_masks(read):
    """Cores by the masks topology/thread_siblings, where the collection reads the lists."""
    root, ainode = read
    masks = set(files(root, "sys/devices/system/cpu/cpu[0-9]*/topology/thread_siblings"))
    if not masks:
        pytest.skip("this machine has no masks")
    expected = []
    for mask in masks:
        number = int(mask.replace(",", ""), 16)
        expected.append([bit for bit in range(4096) if number >> bit & 1])
    assert sorted(ids(core["cpus"]) for core in ainode["cpu"]["cores"]) == sorted(expected)


def test_offline(read):
    root, ainode = read
    present, online = text(root, "sys/devices/system/cpu/present"), text(root, "sys/devices/system/cpu/online")
    if present is None or online is None:
        pytest.skip("this recording does not tell which CPUs are present")
    assert ids(ainode["cpu"]["online"]) == ids(online)
    assert ids(ainode["cpu"]["offline"]) == [number for number in ids(present) if number not in ids(online)]


def test_caches(read):
    """Who shares a cache by asking each CPU, where the collection reads each shared cache once; our own machines have no masks, but lists."""
    root, ainode = read
    online = set(ids(ainode["cpu"]["online"]))
    expected = {}
    for index in glob.glob(os.path.join(glob.escape(root), "sys/devices/system/cpu/cpu[0-9]*/cache/index*")):
        if int(re.search(r"/cpu(\d+)/", index).group(1)) in online and text(index, "level"):
            mask = int((text(index, "shared_cpu_map") or "0").replace(",", ""), 16) or sum(1 << number for number in ids(text(index, "shared_cpu_list")))
            kind = (int(text(index, "level")), text(index, "type"), int(text(index, "size").rstrip("K")) * 1024)
            expected.setdefault(kind, set()).add(mask & sum(1 << number for number in online))
    found = {
        (cache["level"], cache["type"], cache["size_bytes"]): {sum(1 << number for number in ids(sharers)) for sharers in cache["shared_by"]}
        for cache in ainode["cpu"]["caches"]
    }
    assert found == expected


def test_nodes(read):
    root, ainode = read
    online = set(ids(ainode["cpu"]["online"]))
    there = sorted(int(re.search(r"(\d+)$", name).group(1)) for name in glob.glob(os.path.join(glob.escape(root), "sys/devices/system/node/node[0-9]*")))
    nodes = {node["id"]: node for node in ainode["numa"]["nodes"]}
    assert list(nodes) == there
    for number, node in nodes.items():
        base = os.path.join(root, f"sys/devices/system/node/node{number}")
        if text(base, "cpumap"):
            mask = int(text(base, "cpumap").replace(",", ""), 16)
            assert ids(node["cpus"]) == [cpu for cpu in sorted(online) if mask >> cpu & 1]
        else:
            assert ids(node["cpus"]) == [cpu for cpu in ids(text(base, "cpulist")) if cpu in online]
        memory = re.search(r"MemTotal: *(\d+)", text(base, "meminfo") or "")
        assert node["memory_bytes"] == (int(memory.group(1)) << 10 if memory else None)
        distances = [int(word) for word in (text(base, "distance") or "").split()]
        assert list(node["distances"].values()) == distances
        # offline-cpu0-node0 lost its node 0 by hand, and kept the distance to it.
        others = there if len(there) == len(distances) else ids(text(root, "sys/devices/system/node/possible"))
        assert list(node["distances"]) == ([str(other) for other in others] if distances else [])
        for size, counts in node["hugepages"].items():
            assert counts == {
                "total": int(text(base, f"hugepages/hugepages-{size}kB/nr_hugepages")),
                "free": int(text(base, f"hugepages/hugepages-{size}kB/free_hugepages")),
            }
        assert len(node["hugepages"]) == len(glob.glob(os.path.join(glob.escape(base), "hugepages/*")))
    for core in ainode["cpu"]["cores"]:
        owner = [number for number, node in nodes.items() if set(ids(core["cpus"])) <= set(ids(node["cpus"]))]
        assert [core["node"]] == (owner or [None])


def test_power(read):
    root, ainode = read
    power = ainode["power"]

    def everywhere(name):
        # Recordings lay the policies as the kernel does, or as directories of the CPUs.
        return files(root, f"sys/devices/system/cpu/cpufreq/policy*/{name}") + files(root, f"sys/devices/system/cpu/cpu[0-9]*/cpufreq/{name}")

    assert power["governor"] == sorted(set(everywhere("scaling_governor")))
    assert power["governors"] == sorted(set(" ".join(everywhere("scaling_available_governors")).split()))
    assert power["epp"] == sorted(set(everywhere("energy_performance_preference")))
    assert [str(value) for value in power["epb"]] == sorted(set(files(root, "sys/devices/system/cpu/cpu[0-9]*/power/energy_perf_bias")))
    assert {power["driver"]} == (set(everywhere("scaling_driver")) or {None})
    assert power["min_khz"] == min(map(int, everywhere("cpuinfo_min_freq")), default=None)
    assert power["max_khz"] == max(map(int, everywhere("cpuinfo_max_freq")), default=None)
    assert power["base_khz"] == max(map(int, everywhere("base_frequency")), default=None)
    no_turbo, boost = text(root, "sys/devices/system/cpu/intel_pstate/no_turbo"), text(root, "sys/devices/system/cpu/cpufreq/boost")
    if power["turbo"]["available"] and (no_turbo or boost):
        assert power["turbo"]["enabled"] == (no_turbo == "0" if no_turbo else boost == "1")


def test_idle_states(read):
    root, ainode = read
    expected = {}
    for state in glob.glob(os.path.join(glob.escape(root), "sys/devices/system/cpu/cpu[0-9]*/cpuidle/state*")):
        if text(state, "name"):
            values = expected.setdefault(text(state, "name"), ([], [], []))
            for value, name in zip(values, ("latency", "residency", "disable")):
                value.append(text(state, name))
    found = {state["name"]: state for state in ainode["power"]["idle"]["states"]}
    assert set(found) == set(expected)
    for name, (latencies, residencies, disabled) in expected.items():
        assert found[name]["latency_us"] == max(map(int, latencies))
        assert found[name]["residency_us"] == max(map(int, filter(None, residencies)), default=None)
        of = {frozenset("0"): "none", frozenset("1"): "all", frozenset("01"): "some", frozenset([None]): None}
        assert found[name]["disabled"] == of[frozenset(disabled)]


def test_memory(read):
    root, ainode = read
    total = re.search(r"MemTotal: *(\d+)", text(root, "proc/meminfo") or "")
    assert ainode["memory"]["total_bytes"] == (int(total.group(1)) << 10 if total else None)
    sizes = [re.search(r"(\d+)kB$", name).group(1) for name in glob.glob(os.path.join(glob.escape(root), "sys/kernel/mm/hugepages/*"))]
    assert ainode["memory"]["hugepage_sizes"] == sorted(int(size) << 10 for size in sizes)
    # A type 17 structure has the size in MiB at 0x0C, or at 0x1C where 0x7FFF is there, and its first string, the slot, right after the formatted part.
    raw = [Path(name).read_bytes() for name in glob.glob(os.path.join(glob.escape(root), "sys/firmware/dmi/entries/17-*/raw"))]
    for table in glob.glob(os.path.join(glob.escape(root), "sys/firmware/dmi/tables/DMI")):
        rest = Path(table).read_bytes()
        while rest:
            end = rest.index(b"\0\0", rest[1]) + 2
            raw, rest = [*raw, *([rest[:end]] if rest[0] == 17 else [])], rest[end:]
    sizes = [int.from_bytes(entry[28:32] if entry[12:14] == b"\xff\x7f" else entry[12:14], "little") << 20 for entry in raw]
    dimms = sorted((entry[entry[1] :].split(b"\0")[0].decode().strip(), size) for entry, size in zip(raw, sizes) if size)
    assert sorted((dimm["slot"], dimm["size_bytes"]) for dimm in ainode["memory"]["dimms"]) == dimms


def test_devices(read):
    root, ainode = read
    for kind, found in (("net", ainode["devices"]["nics"]), ("block", ainode["devices"]["disks"])):
        links = glob.glob(os.path.join(glob.escape(root), f"sys/class/{kind}/*"))
        real = {os.path.basename(link): os.readlink(link) for link in links if "/virtual/" not in os.readlink(link)}
        real = {name: target for name, target in real.items() if not re.match(r"pmem|.*\d+p\d+$|sd[a-z]+\d+$", name)}
        assert [device["name"] for device in found] == sorted(real)
        for device in found:
            node = None
            path = os.path.normpath(os.path.join(root, f"sys/class/{kind}", real[device["name"]]))
            while node is None and "/sys/devices/" in path:
                node, path = text(path, "numa_node"), os.path.dirname(path)
                node = None if node == "-1" else node
            assert device["numa_node"] == (None if node is None else int(node))


def test_platform(read):
    root, ainode = read
    platform = ainode["platform"]
    assert platform["cmdline"] == text(root, "proc/cmdline")
    version = text(root, "proc/version")
    assert platform["kernel"] == (version.split()[2] if version else text(root, "proc/sys/kernel/osrelease"))
    # None of the recorded ones ran in a container or had another tuner; the virtual ones say so by their flag.
    assert platform["container"] == ("kubernetes" if "kubepods" in (text(root, "proc/self/cgroup") or "") else None)
    assert bool(platform["virtualization"]) == (" hypervisor" in text(root, "proc/cpuinfo"))
    assert platform["conflicting_tuners"] == []


def test_usable(read):
    root, ainode = read
    # No recording holds a quota or a cpuset narrower than its online CPUs (hwloc's own cpusets lie outside of proc/ and sys/).
    quotas = [int(line.split()[0]) // int(line.split()[1]) for line in files(root, "sys/fs/cgroup/**/cpu.max") if not line.startswith("max")]
    assert ainode["cpu"]["usable"] == {
        "cpus": ainode["cpu"]["online"],
        "count": min(quotas, default=ainode["cpu"]["logical_cpus"]),
        "limit": "quota" if quotas else None,
        "cpuset": None,
    }


def test_firmware_says_why(read):
    ainode = read[1]
    rows = ainode["firmware"]
    assert rows["boot_performance_mode"]["value"] is None
    assert all(row["reason"] for row in rows.values())
    if ainode["cpu"]["smt"] and not ainode["cpu"]["hypervisor"]:
        assert rows["hyper_threading"]["value"] == "enabled"
