# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The judgement of the vector search's probe: right answers pass for every metric, and what a broken service would say does not."""

from __future__ import annotations

import contextlib
import importlib.util
import random
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PROBE = CHECKOUT / "roles/vector_search/files/probe.py"
ROWS, DIM, K, QUERIES = 300, 8, 10, 16


@pytest.fixture(scope="module")
def probe():
    """The probe beside what it shares with others, as it is on a node."""
    sys.path.insert(0, str(CHECKOUT / "plugins/module_utils/programs"))
    spec = importlib.util.spec_from_file_location("probe", PROBE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=["l2", "ip", "cosine"])
def served(request, probe):
    """What `info --sample --nearest` says of an index with rows of different lengths, and a service's right answers; row 0 is zero."""
    numbers = random.Random(7)
    rows = [[length * numbers.gauss(0, 1) for _dummy in range(DIM)] for length in (0, *(numbers.uniform(0.1, 3) for _dummy in range(ROWS - 1)))]

    def nearest(query):
        return sorted((probe.distance(request.param, query, row), i) for i, row in enumerate(rows))[:K]

    sample = [
        {"id": i, "vector": rows[i], "nearest": [{"id": n, "vector": rows[n]} for _dummy, n in nearest(rows[i])]} for i in range(0, ROWS, ROWS // QUERIES)
    ]
    index = {"metric": request.param, "live": ROWS, "dim": DIM, "compared": ROWS, "sample": sample}
    return index, [[(n, far) for far, n in nearest(row["vector"])] for row in sample]


def test_right_answers_find_all(probe, served):
    index, answers = served
    found, expected = probe.judge(index, answers, K)
    assert found == expected >= 0.8 * K * len(index["sample"])


def test_rows_that_are_elsewhere(probe, served):
    index, answers = served
    with pytest.raises(probe.Failed, match="gives the distance of row"):
        probe.judge(index, [[(n, far + 50) for n, far in answer] for answer in answers], K)


def test_a_part_of_the_rows_is_not_enough(probe, served):
    """A service that holds the even rows alone."""
    index, _answers = served
    vectors = {row["id"]: row["vector"] for sampled in index["sample"] for row in sampled["nearest"]}
    halves = [
        sorted((far, n) for n, far in {n: probe.distance(index["metric"], row["vector"], vectors[n]) for n in vectors if n % 2 == 0}.items())[:K]
        for row in index["sample"]
    ]
    found, expected = probe.judge(index, [[(n, far) for far, n in half] for half in halves], K)
    assert found < 0.75 * expected


def test_an_order_that_is_none(probe, served):
    index, answers = served
    with pytest.raises(probe.Failed, match="nearest first"):
        probe.judge(index, [answer[::-1] for answer in answers], K)


def test_an_empty_answer_misses_all(probe, served):
    index, answers = served
    assert probe.judge(index, [[] for _dummy in answers], K) == (0, K * len(answers))


class FakeUnit:
    """An instance whose service names the kernel `kernel`, on a processor that executes `able`, and that was ready `seconds` after its start."""

    def __init__(self, directory, kernel="avx2", able=(), environment=None, seconds=1.0, mode="ram"):
        self.name, self.kernel, self.environment = "ainode-vector-search-0.service", kernel, environment or {}
        program, index = directory / "vnni-search", directory / "index.vnni"
        self.kernels = "\n".join([*able, "avx2", "scalar"]) + "\n"
        index.write_bytes(bytes(1 << 20))
        self.command, self.options = [str(program)], {"mode": mode, "index": str(index)}
        self.times = {"InactiveExitTimestampMonotonic": "5000000", "ActiveEnterTimestampMonotonic": str(int(5e6 + seconds * 1e6))}

    def pid(self):
        return 1

    def property(self, name):
        return self.times[name]

    def runs_with(self):
        return self.environment


@pytest.fixture
def node(probe, monkeypatch, tmp_path):
    """A function that puts one instance on the node; `shown` are the flags of /proc/cpuinfo."""

    @contextlib.contextmanager
    def answering(unit):
        yield lambda _path: f'vnni_search_build_info{{version="1",kernel="{unit.kernel}"}} 1'

    def put(shown="", **options):
        unit = FakeUnit(tmp_path, **options)
        monkeypatch.setattr(probe, "units", lambda _service: [unit])
        monkeypatch.setattr(probe, "answering", answering)
        told = {(*unit.command, "kernels"): unit.kernels}
        monkeypatch.setattr(probe.subprocess, "run", lambda command, **_options: probe.subprocess.CompletedProcess(command, 0, told[tuple(command)]))
        monkeypatch.setattr(probe, "read", lambda _path: f"processor : 0\nflags : fpu avx2 {shown}\n")

    return put


@pytest.mark.parametrize("kernel", ["avx512_vnni", "avx512_vnni_256", "avx_vnni", "neon_dotprod"])
def test_a_dot_product_instruction_in_use_passes(probe, node, kernel):
    node(kernel=kernel, able=[kernel])
    assert probe.int8() == ("pass", kernel, "")


def test_an_instruction_left_unused_fails(probe, node):
    node(able=["avx512_vnni", "avx_vnni"])
    with pytest.raises(probe.Failed, match="the kernel avx2 is in use although the processor executes avx512_vnni"):
        probe.int8()


def test_a_kernel_that_was_asked_for_is_advice(probe, node):
    node(able=["avx_vnni"], environment={"VNNI_SEARCH_KERNEL": "avx2"})
    verdict, live, reason = probe.int8()
    assert (verdict, live) == ("advice", "avx2") and "VNNI_SEARCH_KERNEL=avx2 asks for it, and the processor executes avx_vnni" in reason
    node(able=["avx_vnni"], environment={"VNNI_SEARCH_KERNEL": "scalar"})
    with pytest.raises(probe.Failed):
        probe.int8()


@pytest.mark.parametrize(("shown", "said"), [("", "instruction;"), ("avx512_vnni", "instruction, although /proc/cpuinfo shows avx512_vnni;")])
def test_what_the_processor_executes_counts_and_not_what_a_file_shows(probe, node, shown, said):
    node(shown=shown)
    verdict, live, reason = probe.int8()
    assert (verdict, live) == ("advice", "avx2") and said in reason


def test_what_one_instance_asks_for_excuses_no_other(probe, node, monkeypatch, tmp_path):
    node(able=["avx_vnni"])
    unasked, asked = FakeUnit(tmp_path, able=["avx_vnni"]), FakeUnit(tmp_path, able=["avx_vnni"], environment={"VNNI_SEARCH_KERNEL": "avx2"})
    monkeypatch.setattr(probe, "units", lambda _service: [unasked, asked])
    with pytest.raises(probe.Failed, match="the kernel avx2 is in use although"):
        probe.int8()


def test_a_slow_restart_fails(probe, node):
    node(seconds=2.5)
    assert probe.restart("2.6")[0] == "pass"
    with pytest.raises(probe.Failed, match=r"ready 2\.5 s after its start.* more than vector_search_restart_seconds, 2\.4"):
        probe.restart("2.4")
