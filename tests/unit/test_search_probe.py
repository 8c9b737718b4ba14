# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The judgement of the vector search's probe: right answers pass for every metric, and what a broken service would say does not."""

from __future__ import annotations

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
    sys.path.insert(0, str(CHECKOUT / "plugins/module_utils"))
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
