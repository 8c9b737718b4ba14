# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run without recordings, or with a stranger among them, still tests, and what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import expected
import machines

HERE = Path(__file__).resolve().parent


def pytest_run(recordings, *arguments):
    """Run test_recorded.py on a directory of recordings in a process of its own, and return what it printed."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *arguments, HERE / "test_recorded.py"]
    return subprocess.run(command, env={**os.environ, "AINODE_MACHINES": str(recordings)}, capture_output=True, text=True, check=False).stdout


def test_without_recordings_five_machines_are_tested_and_the_last_line_tells_it(tmp_path):
    said = pytest_run(tmp_path, "--collect-only")
    tests = set(re.findall(r"::(\w+)\[", said))
    assert len(tests) > 10
    assert len(expected.OURS) == 5
    assert set(re.findall(r"::(\w+\[.+\])$", said, re.MULTILINE)) == {f"{test}[{name}]" for test in tests for name in expected.OURS}
    assert f"Recorded machines: 0 tested, {len(expected.RECORDED)} not tested; looked for in {tmp_path} ($AINODE_MACHINES)." in said


def test_a_recording_that_nobody_has_looked_up_is_read_and_named(tmp_path):
    Path(machines.build("vm-without-cpufreq", tmp_path)).rename(tmp_path / "stranger")
    said = pytest_run(tmp_path, "-n", "1", "-k", "stranger and (expected or cores_by_cpuinfo)")
    assert "1 passed, 1 skipped" in said
    assert "nobody has looked stranger up" in said
    assert f"Recorded machines: 1 tested, {len(expected.RECORDED)} not tested; looked for in {tmp_path} ($AINODE_MACHINES)." in said
    assert "Not in the table of expected.py: stranger." in said
