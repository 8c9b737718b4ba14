# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the checkout importable as ansible_collections.ainode.cpu, and brings the machines that tests run on.

    machine             the path of one of our own described machines (machines.py), one test a machine
    described           a function that returns the path of one of them by its name
    recorded_machine    the path of a recorded machine, one test a machine; a skipped test where there are no recordings
    known_machine       the path of a machine of expected.py's table: the five of our own, and each recorded machine

All are read by every test and must not be written: copy one, or build your own with machines.build(name, tmp_path).
Recordings are NAME.tar.gz or directories in $AINODE_MACHINES, else in ../shared/machines beside the checkout; the last line of a run
says how many of them were tested.
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

import expected
import machines

RECORDINGS = Path(os.environ.get("AINODE_MACHINES") or HERE.parents[2] / "shared" / "machines")


def recordings():
    """Return {name: path of the archive or directory} of the recorded machines that are there."""
    found = {path.name[: -len(".tar.gz")]: path for path in RECORDINGS.glob("*.tar.gz")}
    found.update({path.name: path for path in RECORDINGS.glob("*") if (path / "sys").is_dir() or (path / "proc").is_dir()})
    return found


def pytest_generate_tests(metafunc):
    recorded = sorted(recordings())
    if "recorded_machine" in metafunc.fixturenames:
        none = pytest.param(None, id="none", marks=pytest.mark.skip(reason=f"there are no recorded machines in {RECORDINGS}"))
        metafunc.parametrize("recorded_machine", recorded or [none], indirect=True, scope="session")
    if "known_machine" in metafunc.fixturenames:
        metafunc.parametrize("known_machine", [*expected.OURS, *recorded], indirect=True, scope="session")


def pytest_terminal_summary(terminalreporter):
    """Say how many recorded machines were tested: without them a run is shorter, and just as green."""
    there, known = set(recordings()), set(expected.RECORDED)
    ran = {report.nodeid.partition("[")[2][:-1] for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, [])}
    line = f"Recorded machines: {len(there & ran)} tested, {len((there | known) - ran)} not tested; looked for in {RECORDINGS} ($AINODE_MACHINES)."
    if there - known:
        line += f" Not in the table of expected.py: {', '.join(sorted(there - known))}."
    terminalreporter.write_line(line)


@pytest.fixture
def programs():
    """A directory for programs that a test starts: in the checkout, since where temporary files are nothing may be executable."""
    build = HERE.parents[1] / "build"
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=build) as directory:
        yield Path(directory)


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
def recorded(machine_store):
    """A function that returns the path of a recorded machine by its name, unpacked once a session."""

    def path(name):
        source, root = recordings()[name], machine_store / "recorded" / name
        if source.is_dir():
            return str(source)
        if not root.is_dir():
            root.mkdir(parents=True)
            subprocess.run(["tar", "-xzf", source, "-C", root, "--no-same-owner"], check=True)
        return str(root)

    return path


@pytest.fixture(scope="session")
def recorded_machine(request, recorded):
    return recorded(request.param)


@pytest.fixture(scope="session")
def known_machine(request, described, recorded):
    return described(request.param) if request.param in expected.OURS else recorded(request.param)
