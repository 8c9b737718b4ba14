# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""playbooks/training.yml over two containers: they train one model together, and one goes on alone when the other is lost."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
LAB = CHECKOUT / "tests/lab/container"
NODES = ("training-0", "training-1")


@pytest.fixture(scope="module")
def inventory(request):
    if not request.config.getoption("--all-frameworks"):
        pytest.skip("PyTorch on two nodes, 2 GB: give --all-frameworks")
    done = subprocess.run([LAB, "up", "--inventory", "training", *NODES], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"no container here: {done.stderr.strip()[-300:]}")
    yield done.stdout.split()[-1]
    subprocess.run([LAB, "down", "--inventory", "training", *NODES], check=True, capture_output=True)


def start(inventory, *options, **variables):
    """Start the playbook; return the process, whose stdout is all that it prints."""
    command = [Path(sys.executable).with_name("ansible-playbook"), "-i", inventory, *options, "-e", json.dumps(variables), "playbooks/training.yml"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=CHECKOUT)


def on(node, *command):
    return subprocess.run([LAB, "exec", node, "--", *command], capture_output=True, text=True, check=False)


def figures(printed):
    """Return {name: number} of what the first node reported of the training."""
    return {name: float(value) for name, value in re.findall(r"^ +(\w+): ([\d.]+)$", printed, re.MULTILINE)}


def test_it_needs_as_many_forks_as_nodes(inventory):
    process = start(inventory, "--forks=1", frameworks_install=[])
    printed = process.communicate(timeout=600)[0]
    assert process.returncode != 0
    assert "2 nodes train together and must start at the same time, and Ansible works on 1 at a time: give --forks 2" in " ".join(printed.split())


def test_two_nodes_train_one_model(inventory):
    process = start(inventory, benchmark_train_seconds=20)
    printed = process.communicate(timeout=1800)[0]
    assert process.returncode == 0, printed[-3000:]
    found = figures(printed)
    print(found)
    assert found["processes"] == 2
    assert found["restarts"] == 0
    assert found["steps"] >= 2
    losses = [float(loss) for loss in re.findall(r"^ +- ([\d.]+)$", printed, re.MULTILINE)]
    assert len(losses) == 2
    assert losses[1] < losses[0], "it does not learn"


def test_one_goes_on_when_the_other_is_lost(inventory):
    for node in NODES:
        on(node, "rm", "-f", "/var/lib/ainode/benchmark/checkpoint.pt")
    process = start(inventory, benchmark_train_seconds=60, benchmark_train_least=1)
    deadline = time.monotonic() + 300
    while on(NODES[0], "test", "-e", "/var/lib/ainode/benchmark/checkpoint.pt").returncode:
        assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(1)
    subprocess.run([LAB, "down", "--inventory", "none", NODES[1]], check=True)
    printed = process.communicate(timeout=600)[0]
    # Ansible tells that a node was lost; the other has a result.
    assert re.search(r"training-1 +: .*unreachable=1", printed), printed[-3000:]
    found = figures(printed)
    print(found)
    assert found["processes"] == 1
    assert found["restarts"] >= 1
    assert found["steps"] > found["calls"], "it started from nothing instead of from the checkpoint"
