# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the checkout importable as ansible_collections.ainode.cpu, and brings the machines that tests run on.

    machine             the path of one of our own described machines (machines.py), one test a machine
    described           a function that returns the path of one of them by its name
    recorded_machine    the path of a recorded machine, one test a machine; no test at all where there are no recordings

Both are read by every test and must not be written: copy one, or build your own with machines.build(name, tmp_path).
Recordings are NAME.tar.gz or directories in $AINODE_MACHINES, else in ../shared/machines beside the checkout.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "collections"), str(HERE)]

import machines

RECORDINGS = Path(os.environ.get("AINODE_MACHINES") or HERE.parents[2] / "shared" / "machines")


def recordings():
    """Return {name: path of the archive or directory} of the recorded machines that are there."""
    found = {path.name[: -len(".tar.gz")]: path for path in RECORDINGS.glob("*.tar.gz")}
    found.update({path.name: path for path in RECORDINGS.glob("*") if (path / "sys").is_dir() or (path / "proc").is_dir()})
    return found


def pytest_generate_tests(metafunc):
    if "recorded_machine" in metafunc.fixturenames:
        metafunc.parametrize("recorded_machine", sorted(recordings()), indirect=True, scope="session")


@pytest.fixture(scope="session")
def machine_store():
    """A directory in memory for the session: a big machine is 20,000 small files. Each xdist worker has its own."""
    memory = Path("/dev/shm")
    store = tempfile.mkdtemp(prefix="ainode-machines-", dir=memory if os.access(memory, os.W_OK) else None)
    yield Path(store)
    shutil.rmtree(store, ignore_errors=True)


@pytest.fixture(scope="session")
def described(machine_store):
    """A function that returns the path of one of our own described machines by its name, built once a session."""

    def path(name):
        root = machine_store / "own" / name
        return str(root) if root.is_dir() else machines.build(name, root.parent)

    return path


@pytest.fixture(scope="session", params=machines.NAMES)
def machine(request, described):
    return described(request.param)


@pytest.fixture(scope="session")
def recorded_machine(request, machine_store):
    source, root = recordings()[request.param], machine_store / "recorded" / request.param
    if source.is_dir():
        return str(source)
    if not root.is_dir():
        root.mkdir(parents=True)
        subprocess.run(["tar", "-xzf", source, "-C", root, "--no-same-owner"], check=True)
    return str(root)
