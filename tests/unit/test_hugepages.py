# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""hugepages on machines with few, many, uneven and no nodes, and on kernels that give fewer pages than were asked for."""

from __future__ import annotations

import os
import shutil

import machines
import pytest
import state
from ansible_collections.ainode.cpu.plugins.module_utils.host.host import Host
from ansible_collections.ainode.cpu.plugins.module_utils.state import converge, hugepages

NODES = hugepages.NODES


def build(directory, cpus=None, memory=None):
    """Return the root of a machine with two nodes of 64 GiB, or with other CPUs and memory."""
    return machines.write(directory / "machine", cpus or machines.grid(2, 1), machines.XEON_8380, memory or {0: 64, 1: 64})


@pytest.fixture
def two_nodes(tmp_path):
    return build(tmp_path)


@pytest.fixture
def kernel(monkeypatch):
    """Let the module run on a kernel that counts free pages, and gives what `room` has for each node."""

    class Here(state.Kernel):
        def __init__(self, path):
            super().__init__(path)
            # Free pages are counted here, as on a live host.
            self.is_live = True

    monkeypatch.setattr(converge, "Host", Here)
    monkeypatch.setattr(Here, "has_systemd", lambda self: False)
    return Here


def run(root, *pages, check=False, **options):
    return state.run("hugepages", root, check=check, pages=list(pages), **options)


def count(root, node, size=2048, name="nr_hugepages"):
    folder = f"{NODES}/node{node}/hugepages" if node is not None else hugepages.HOST_SIZES
    return int(state.read(root, f"{folder}/hugepages-{size}kB/{name}"))


def put(root, node, value, name="nr_hugepages"):
    state.write(root, f"{NODES}/node{node}/hugepages/hugepages-2048kB/{name}", f"{value}\n")


def fails(root, *pages, words=(), **options):
    """Assert that these pages are refused with one message that holds `words`, in a check run too, and change nothing."""
    before = state.tree(root)
    for check in (True, False):
        result = run(root, *pages, check=check, **options)
        assert result.get("failed"), result
        assert all(word in result["msg"] for word in words), result["msg"]
        assert state.tree(root) == before


# Bad values -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pages, words",
    [
        ([{"size": "5M", "total": 3}], ("5M", "2M, 1G")),
        ([{"size": "5MiB", "total": 3}], ("5M", "2M, 1G")),
        ([{"size": "big", "total": 3}], ("'big'", "2M or 1G")),
        ([{"size": "0M", "total": 3}], ("'0M'",)),
        ([{"size": "2", "total": 3}], ("'2'",)),
        ([{"size": "2M", "nodes": {9: 3}}], ("node 9", "0-1")),
        ([{"size": "2M", "nodes": {"left": 3}}], ("node 'left'",)),
        ([{"size": "2M", "nodes": {0: -3}}], ("'-3'", "node 0")),
        ([{"size": "2M", "nodes": {0: "many"}}], ("'many'", "node 0")),
        ([{"size": "2M", "total": -1}], ("'-1'",)),
        ([{"size": "2M"}], ("2M", "nodes", "total")),
        ([{"size": "2M", "total": 1, "nodes": {0: 1}}], ("2M", "either")),
        ([{"size": "2M", "total": 1}, {"size": "2048kB", "total": 2}], ("2M", "twice")),
        ([{"size": "1G", "nodes": {1: 65}}], ("65", "node 1", "65536 MiB", "keep 4096 MiB")),
        ([{"size": "2M", "total": 4}, {"size": "1G", "total": 200}], ("100", "node 0")),
    ],
)
def test_a_bad_value_is_one_clear_error_and_changes_nothing(two_nodes, pages, words):
    fails(two_nodes, *pages, words=words)


@pytest.mark.parametrize("text, kilobytes", [("2M", 2048), ("2MB", 2048), ("2 MiB", 2048), ("2048kB", 2048), ("1G", 1048576), ("1GiB", 1048576), ("64k", 64)])
def test_sizes(text, kilobytes):
    assert hugepages.parse_size(text) == kilobytes
    assert hugepages.parse_size(hugepages.shown_size(kilobytes)) == kilobytes


# Where pages go -------------------------------------------------------------------------------------------------------------------


def test_several_sizes_in_one_task(two_nodes):
    before = state.tree(two_nodes)
    pages = {"size": "2M", "nodes": {0: 512, 1: 256}}, {"size": "1G", "total": 3}
    done = run(two_nodes, *pages)
    assert [(row["setting"], row["ids"], row["before"], row["after"]) for row in done["settings"]] == [
        ("pages 2M", "0", "0", "512"),
        ("pages 2M", "1", "0", "256"),
        ("pages 1G", "0", "0", "2"),
        ("pages 1G", "1", "0", "1"),
    ]
    assert state.read(two_nodes, hugepages.TMPFILES).splitlines()[1:] == [
        f"w {NODES}/node0/hugepages/hugepages-2048kB/nr_hugepages - - - - 512",
        f"w {NODES}/node1/hugepages/hugepages-2048kB/nr_hugepages - - - - 256",
        f"w {NODES}/node0/hugepages/hugepages-1048576kB/nr_hugepages - - - - 2",
        f"w {NODES}/node1/hugepages/hugepages-1048576kB/nr_hugepages - - - - 1",
    ]
    assert run(two_nodes, *pages)["changed"] is False
    # A size that is left out goes back.
    run(two_nodes, pages[1])
    assert (count(two_nodes, 0), count(two_nodes, 0, 1048576)) == (0, 2)
    run(two_nodes, state="absent")
    assert state.tree(two_nodes) == before


def test_a_node_that_is_not_named_stays(two_nodes):
    put(two_nodes, 1, 33)
    run(two_nodes, {"size": "2M", "nodes": {"0": 4}})
    assert (count(two_nodes, 0), count(two_nodes, 1)) == (4, 33)


@pytest.mark.parametrize(
    "cpus, memory, total, expected",
    [
        # Memory alone (CXL): no share.
        (machines.grid(2, 1), {0: 64, 1: 64, 2: 128}, 9, {0: 5, 1: 4, 2: 0}),
        # CPUs alone, no memory: no share.
        (machines.grid(2, 1), {0: 64, 1: 0}, 9, {0: 9, 1: 0}),
        # Ids with gaps, and more than ten.
        (machines.grid(2, 1, nodes=[2, 11]), {2: 8, 11: 8}, 3, {2: 2, 11: 1}),
        (machines.grid(2, 1), {0: 64, 1: 64}, 0, {0: 0, 1: 0}),
    ],
)
def test_a_total_is_spread_over_nodes_with_memory_and_cpus(tmp_path, cpus, memory, total, expected):
    root = build(tmp_path, cpus, memory)
    run(root, {"size": "2M", "total": total})
    assert {node: count(root, node) for node in memory} == expected


def test_memory_only_nodes_get_pages_by_name(tmp_path):
    root = build(tmp_path, memory={0: 64, 1: 64, 2: 128})
    run(root, {"size": "2M", "nodes": {2: 7}})
    assert count(root, 2) == 7


def test_a_node_without_memory_cannot_have_pages(tmp_path):
    root = build(tmp_path, memory={0: 64, 1: 0})
    fails(root, {"size": "2M", "nodes": {1: 7}}, words=("node 1", "no memory"))
    assert "failed" not in run(root, {"size": "2M", "nodes": {0: 1, 1: 0}})


@pytest.mark.parametrize("request_", [{"total": 6}, {"nodes": {0: 6}}])
def test_a_kernel_without_numa(tmp_path, request_):
    root = machines.write(tmp_path / "machine", machines.grid(1, 2, nodes_per_socket=0), machines.XEON_8380, 8)
    before = state.tree(root)
    run(root, {"size": "2M", **request_})
    assert count(root, None) == 6
    assert f"w {hugepages.HOST_SIZES}/hugepages-2048kB/nr_hugepages - - - - 6" in state.read(root, hugepages.TMPFILES)
    run(root, state="absent")
    assert state.tree(root) == before
    fails(root, {"size": "2M", "nodes": {1: 6}}, words=("node 1",))
    fails(root, {"size": "1G", "total": 9}, words=("9", "this host", "8192 MiB"))


def test_a_kernel_without_huge_pages_has_nothing_to_set(two_nodes):
    shutil.rmtree(f"{two_nodes}{hugepages.HOST_SIZES}")
    done = run(two_nodes, {"size": "5M", "total": 3})
    assert done["changed"] is False and "no huge pages" in done["not_applicable"][0]["reason"]


def test_no_pages_asked_for_is_nothing_to_do(two_nodes):
    before = state.tree(two_nodes)
    assert run(two_nodes)["changed"] is False and state.tree(two_nodes) == before


def test_a_total_goes_to_memory_alone_where_no_node_has_cpus(two_nodes):
    for node in (0, 1):
        state.write(two_nodes, f"{NODES}/node{node}/cpulist", "\n")
    run(two_nodes, {"size": "2M", "total": 3})
    assert [count(two_nodes, node) for node in (0, 1)] == [2, 1]


def test_without_persist_no_file(two_nodes):
    run(two_nodes, {"size": "2M", "total": 2}, persist=False)
    assert not os.path.exists(f"{two_nodes}/etc/tmpfiles.d")


# Kernels that give less -----------------------------------------------------------------------------------------------------------


def test_a_shortfall_is_a_failure_with_both_numbers_and_lasts_not(two_nodes, kernel):
    before = state.tree(two_nodes)
    kernel.room = {0: 512, 1: 300}
    result = run(two_nodes, {"size": "2M", "nodes": {0: 512, 1: 512}})
    assert "node1" in result["msg"] and "'512'" in result["msg"] and "'300'" in result["msg"] and "hugepagesz=" in result["msg"]
    assert not os.path.exists(f"{two_nodes}{hugepages.TMPFILES}")
    # The memory is there again: the next run finishes it.
    kernel.room = {0: 512, 1: 600}
    assert "failed" not in run(two_nodes, {"size": "2M", "nodes": {0: 512, 1: 512}}) and count(two_nodes, 1) == 512
    run(two_nodes, state="absent")
    assert state.tree(two_nodes) == before


def test_a_shortfall_may_be_a_warning_and_is_tried_again(two_nodes, kernel):
    kernel.room = {0: 512, 1: 300}
    pages = {"size": "2M", "nodes": {0: 512, 1: 512}}
    done = run(two_nodes, pages, shortfall="warn")
    assert {row["ids"]: (row["before"], row["after"]) for row in done["settings"]} == {"0": ("0", "512"), "1": ("0", "300")}
    assert len(done["warnings"]) == 1 and "wanted 512, the kernel gave 300" in done["warnings"][0]
    again = run(two_nodes, pages, shortfall="warn")
    assert again["changed"] is False and "gave 300" in again["warnings"][0]
    kernel.room = {0: 512, 1: 512}
    assert run(two_nodes, pages, shortfall="warn")["changed"] is True and count(two_nodes, 1) == 512


def test_more_than_a_nodes_memory_is_not_even_tried_with_warn(two_nodes, kernel):
    """It would be asked for again at each boot, when the kernel still has it to give."""
    kernel.room = {0: 5, 1: 5}
    fails(two_nodes, {"size": "1G", "total": 1000}, words=("500 huge pages of 1G", "65536 MiB", "4096 MiB"), shortfall="warn")


def test_pages_in_use_are_not_taken_away(two_nodes, kernel):
    put(two_nodes, 0, 600)
    put(two_nodes, 0, 100, "free_hugepages")
    fails(two_nodes, {"size": "2M", "nodes": {0: 499}}, words=("500 of 600", "in use", "499"))
    assert "failed" not in run(two_nodes, {"size": "2M", "nodes": {0: 500}}) and count(two_nodes, 0) == 500


def test_pages_that_came_into_use_are_not_taken_away_by_absent(two_nodes, kernel):
    before = state.tree(two_nodes)
    run(two_nodes, {"size": "2M", "total": 20})
    put(two_nodes, 1, 4, "free_hugepages")
    fails(two_nodes, words=("6 of 10", "in use"), state="absent")
    put(two_nodes, 1, 10, "free_hugepages")
    run(two_nodes, state="absent")
    assert state.tree(two_nodes) == before


def test_pages_in_use_on_a_recorded_machine(two_nodes):
    put(two_nodes, 0, 600)
    put(two_nodes, 0, 100, "free_hugepages")
    fails(two_nodes, {"size": "2M", "nodes": {0: 499}}, words=("500 of 600", "in use", "499"))


@pytest.mark.parametrize("promised", [0, 30, 100, 400])
def test_reserved_pages_are_not_free(two_nodes, kernel, promised):
    """A process may have mapped pages that it has not touched yet: the kernel would keep them as surplus, and a node's file does not count them."""
    put(two_nodes, 0, 600)
    put(two_nodes, 0, 100, "free_hugepages")
    state.write(two_nodes, "/sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages", f"{promised}\n")
    least = 500 + min(promised, 100)
    fails(two_nodes, {"size": "2M", "nodes": {0: least - 1}}, words=(f"{least} of 600", "reserved" if promised else "in use"))
    assert "failed" not in run(two_nodes, {"size": "2M", "nodes": {0: least}})


@pytest.mark.parametrize("shortfall", ["fail", "warn"])
def test_all_sizes_together_leave_a_node_what_it_needs(two_nodes, shortfall):
    memory = hugepages._memory_kb(Host(two_nodes), 0)
    sizes = [{"size": "1G", "nodes": {0: memory // 2 // (1 << 20)}}, {"size": "2M", "nodes": {0: memory // 2 // 2048}}]
    fails(two_nodes, *sizes, words=("NUMA node 0", "1G and", f"of its {memory // 1024} MiB", f"{memory // 16 // 1024} MiB"), shortfall=shortfall)
    assert "failed" not in run(two_nodes, dict(sizes[0], nodes={0: 1}), dict(sizes[1], nodes={0: 16}), shortfall=shortfall)
