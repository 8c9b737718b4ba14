# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds of the facts of every machine, whole or broken."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import machines
import pytest
import shape
from ansible_collections.ainode.cpu.plugins.module_utils.facts.gather import SUBSETS, SubsetError, gather, select
from ansible_collections.ainode.cpu.plugins.module_utils.host import cpulist
from ansible_collections.ainode.cpu.plugins.module_utils.host.root import Root

GARBAGE = (
    b"",
    b"\n",
    b"-1\n",
    b"garbage\n",
    b"\x00\xff\xfe",
    b"99999999999999999999\n",
    b"0-\n",
    b"5-2\n",
    b"1,,2\n",
    b"0-70000\n",
    b"\xc2\xb2\n",
    b"[\n",
    b"<unknown>\n",
    b"0x\n",
    b"3.5\n",
    b"A" * 5000,
    b"7" * 6000,
)


def consistent(ainode):
    """Assert what must hold between the facts of any machine."""
    shape.check(ainode)
    cpu, numa = ainode["cpu"], ainode["numa"]
    online = cpulist.parse(cpu["online"] or "")
    core_cpus = [number for core in cpu["cores"] for number in cpulist.parse(core["cpus"])]
    assert len(core_cpus) == len(set(core_cpus)), "a CPU is in two cores"
    if cpu["cores"]:
        assert sorted(core_cpus) == online
        assert cpu["physical_cores"] == len(cpu["cores"])
        assert cpu["threads_per_core"] == max(len(cpulist.parse(core["cpus"])) for core in cpu["cores"])
        assert [core_cpus.index(cpulist.parse(core["cpus"])[0]) for core in cpu["cores"]] == sorted(
            core_cpus.index(cpulist.parse(core["cpus"])[0]) for core in cpu["cores"]
        )
    assert cpu["logical_cpus"] == (len(online) or None)
    node_cpus = [number for node in numa["nodes"] for number in cpulist.parse(node["cpus"])]
    assert len(node_cpus) == len(set(node_cpus)), "a CPU is in two nodes"
    assert set(node_cpus) <= set(online)
    assert [node["id"] for node in numa["nodes"]] == sorted(node["id"] for node in numa["nodes"])
    assert all((node["kind"] == "cpu") == bool(node["cpus"]) for node in numa["nodes"])
    for cache in cpu["caches"]:
        assert set(cpulist.parse(",".join(cache["shared_by"]))) <= set(online)
    if cpu["usable"]["count"] is not None:
        assert 1 <= cpu["usable"]["count"] <= len(cpulist.parse(cpu["usable"]["cpus"]))
        assert set(cpulist.parse(cpu["usable"]["cpus"])) <= set(online)
    for values in (cpu["isa"], ainode["power"]["governors"], ainode["power"]["governor"], ainode["power"]["epp"], ainode["power"]["epb"]):
        assert values == sorted(set(values))
    assert (ainode["power"]["driver"] is None) == (ainode["power"]["reason"] is not None)
    channels = ainode["memory"]["channels"]
    assert (channels["reason"] is None) == (channels["available"] is not None)


def test_described_machines(machine):
    consistent(gather(Root(machine)))


def test_recorded_machines(recorded_machine):
    consistent(gather(Root(recorded_machine)))


def test_this_machine():
    consistent(gather(Root("/")))


def test_a_root_with_nothing_in_it(tmp_path):
    (tmp_path / "proc").mkdir()
    ainode = gather(Root(str(tmp_path)))
    consistent(ainode)
    assert ainode["cpu"]["online"] is None
    assert ainode["cpu"]["int8_path"] is None
    assert ainode["cpu"]["cores"] == ainode["numa"]["nodes"] == ainode["memory"]["dimms"] == []


def broken(source, target, seed):
    """Copy the machine `source` to `target` with files deleted, garbled, cut or swapped for directories, the more the higher the seed's turn."""
    chance = random.Random(seed)
    shutil.copytree(source, target, symlinks=True)
    share = chance.choice((0.005, 0.05, 0.3, 0.7))
    for path in sorted(Path(target).rglob("*")):
        if path.is_symlink() or not path.is_file() or chance.random() > share:
            continue
        deed = chance.randrange(5)
        if deed == 0:
            path.unlink()
        elif deed == 1:
            path.write_bytes(chance.choice(GARBAGE))
        elif deed == 2:
            content = path.read_bytes()
            path.write_bytes(content[: chance.randrange(len(content) + 1)])
        elif deed == 3:
            content = bytearray(path.read_bytes() or b"\n")
            for _number in range(1 + len(content) // 20):
                content[chance.randrange(len(content))] = chance.randrange(256)
            path.write_bytes(bytes(content))
        else:
            path.unlink()
            path.mkdir()
    for path in sorted(Path(target).rglob("*"), reverse=True):
        # And whole directories: a CPU without topology, a node that is gone.
        if path.is_dir() and not path.is_symlink() and path.parent != Path(target) and chance.random() < share / 10:
            shutil.rmtree(path, ignore_errors=True)
    return target


# Each other described machine is one of these with more files of the same kind.
SMALL = ("vm-without-cpufreq", "hybrid-laptop", "container-quota-v2", "offline-cpus", "arm-neoverse", "s390x-books", "ppc64-gpu-nodes", "sandbox-without-sys")


@pytest.mark.parametrize("seed", range(40))
def test_a_broken_machine(described, machine_store, seed):
    target = machine_store / f"broken-{seed}"
    try:
        consistent(gather(Root(str(broken(described(SMALL[seed % len(SMALL)]), target, seed)))))
    finally:
        shutil.rmtree(target, ignore_errors=True)


def test_a_broken_recording(recorded_machine, machine_store):
    if sum(len(files) for _top, _directories, files in os.walk(recorded_machine)) > 2000:
        pytest.skip("only the small recordings are broken; a large one has no other files")
    for seed in range(2):
        target = machine_store / "broken"
        try:
            consistent(gather(Root(str(broken(recorded_machine, target, seed)))))
        finally:
            shutil.rmtree(target, ignore_errors=True)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["all"], set(SUBSETS)),
        ([], set(SUBSETS)),
        (["cpu", "numa"], {"cpu", "numa"}),
        (["!firmware"], set(SUBSETS) - {"firmware"}),
        (["all", "!power", "!memory"], set(SUBSETS) - {"power", "memory"}),
        (["!all", "cpu"], set()),
    ],
)
def test_select(words, expected):
    assert select(words) == expected


@pytest.mark.parametrize("word", ["turbo", "!nothing", "", "CPU", "!"])
def test_select_what_is_no_subset(word):
    with pytest.raises(SubsetError, match=f"gather_subset has '{word}'"):
        select(["cpu", word])


@pytest.mark.parametrize("name", SUBSETS)
def test_a_subset_alone_is_the_same_as_among_all(machine, name):
    root = Root(machine)
    assert gather(root, [name]) == {name: gather(root)[name]}


def test_a_read_changes_nothing(tmp_path):
    root = Path(machines.build("hybrid-laptop", tmp_path))
    before = {path: (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else None) for path in root.rglob("*")}
    gather(Root(str(root)))
    assert before == {path: (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else None) for path in root.rglob("*")}
