# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The play on ten hosts at once, as on one: converged, unchanged the second time, and back."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
FLEET = CHECKOUT / "tests/lab/fleet"
HOSTS = 10


@pytest.fixture(scope="module")
def inventory():
    up = subprocess.run([FLEET, "up", str(HOSTS)], check=True, stdout=subprocess.PIPE, text=True)
    yield up.stdout.strip()
    subprocess.run([FLEET, "down"], check=True)


def play(inventory, name):
    """Run a playbook on the fleet; returns {host: {counter: value}} of its recap."""
    # Tuning and audit alone: the hosts share this machine's CPUs and memory, ten search services would only fight for them.
    command = [Path(sys.executable).with_name("ansible-playbook"), "-f", "5", "-i", inventory, "-e", '{"ainode_services": []}', f"playbooks/{name}"]
    done = subprocess.run(command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    lines = re.findall(r"^(node-\d+) +: (.*)$", done.stdout, re.MULTILINE)
    return {host: {name: int(value) for name, value in (field.split("=") for field in counters.split())} for host, counters in lines}


def test_fleet(inventory):
    first = play(inventory, "ai-node.yml")
    assert len(first) == HOSTS
    assert all(counters["changed"] for counters in first.values())

    second = play(inventory, "ai-node.yml")
    assert len(second) == HOSTS
    assert [host for host, counters in second.items() if counters["changed"]] == []

    back = play(inventory, "rollback.yml")
    assert len(back) == HOSTS
    assert all(counters["changed"] for counters in back.values())
