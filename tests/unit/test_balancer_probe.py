# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The balancer's audit row about its servers: a check that was missed for a moment is no fault, an instance that stays away is."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


def row(name, status, proxy="models-rest", kind="2"):
    return {"type": kind, "pxname": proxy, "svname": name, "status": status, "addr": "127.0.0.1:8600", "last_chk": "L7TOUT" if status == "DOWN" else ""}


@pytest.fixture
def probe(monkeypatch):
    """The probe, patient for a fifth of a second; `probe.seen` are the answers of HAProxy in turn, the last one for ever."""
    monkeypatch.syspath_prepend(str(CHECKOUT / "plugins/module_utils/programs"))
    specification = importlib.util.spec_from_file_location("balancer_probe", CHECKOUT / "roles/load_balancer/files/probe.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    monkeypatch.setattr(module, "PATIENCE_S", 0.2)
    monkeypatch.setattr(module.time, "sleep", lambda _seconds: None)
    module.seen = []
    monkeypatch.setattr(module, "statistics", lambda: module.seen.pop(0) if len(module.seen) > 1 else module.seen[0])
    yield module
    sys.modules.pop("unit_probe", None)


@pytest.mark.parametrize("missed", [0, 1, 5])
def test_a_server_that_missed_some_checks_answers(probe, missed):
    probe.seen = [[row("models-0", "UP"), row("models-1", "DOWN")]] * missed + [[row("models-0", "UP"), row("models-1", "UP 1/2")]]
    assert probe.servers() == ("pass", "2 of 2 instances answer", "")


def test_a_server_that_stays_away_is_named(probe):
    probe.seen = [[row("models-0", "UP"), row("models-1", "DOWN"), row("models-0", "DOWN", "models-grpc"), row("BACKEND", "UP", kind="1")]]
    with pytest.raises(probe.Failed, match=r"^1 of 2 instances do not answer: models-1 at 127.0.0.1:8600 \(L7TOUT\)$"):
        probe.servers()
