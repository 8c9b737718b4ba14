# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fixed share of the ONNX backend suite: equal or refused, never wrong. All of it: python tests/models/onnx_suite.py"""

from __future__ import annotations

import onnx_suite

EVERY = 20


def test_no_answer_is_another_than_the_suites(tmp_path):
    told = onnx_suite.run(tmp_path, "--every", EVERY)
    print(onnx_suite.table(told))
    bad = {name: case["why"] for name, case in told.items() if case["verdict"] in ("wrong", "fault")}
    assert not bad
    assert sum(case["verdict"] == "equal" for case in told.values()) > len(told) / 2
    assert all(case["why"] for case in told.values() if case["verdict"] == "refused")
