# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A plugin for pytest that runs the witness (tests/testinfra) on directories instead of hosts, in place of testinfra's own.

    AINODE_FAKE_HOSTS=directory PYTHONPATH=tests/unit pytest -p no:pytest11.testinfra -p fake_host tests/testinfra

Each directory in $AINODE_FAKE_HOSTS is a host: its files, and in fake.json the `variables` of its inventory and what a directory cannot tell:
`locked` (files that root may not write), `active` and `enabled` (tuners), `services` ({unit: [CPUAffinity, PID]}), `said` (an answer of ainode-run
instead of the right one), `blind` (grep finds nothing), `deaf` (no connection).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest


class Host:
    def __init__(self, root):
        self.root, self.fake = root, json.loads((root / "fake.json").read_text())
        self.ansible = SimpleNamespace(get_variables=lambda: self.fake["variables"])
        self.backend = SimpleNamespace(get_connection_type=lambda: "ansible")

    def user(self):
        return SimpleNamespace(name="root")

    def file(self, name):
        path = self.root / name.lstrip("/")
        assert not self.fake.get("deaf"), "connection refused"
        return SimpleNamespace(
            exists=path.exists(),
            is_directory=path.is_dir(),
            mode=path.stat().st_mode & 0o7777 if path.exists() else None,
            content_string=path.read_text() if path.is_file() else None,
        )

    def run(self, command, *arguments):
        command = command % tuple(map(shlex.quote, arguments)) if arguments else command
        code, out, err = (255, "", "connection refused") if self.fake.get("deaf") else self.answer(command, shlex.split(command))
        return SimpleNamespace(rc=code, stdout=out, stderr=err, succeeded=code == 0)

    def run_test(self, command, *arguments):
        return self.run_expect([0, 1], command, *arguments)

    def run_expect(self, codes, command, *arguments):
        done = self.run(command, *arguments)
        assert done.rc in codes, done
        return done

    def check_output(self, command, *arguments):
        return self.run_expect([0], command, *arguments).stdout.rstrip("\n")

    def answer(self, command, words):
        """Return (exit code, output, errors) of a command."""
        if words[:2] == ["test", "-w"]:
            there = (self.root / words[2].lstrip("/")).exists()
            return int(not there or words[2] in self.fake.get("locked", [])), "", ""
        if words[0] in ("systemd-tmpfiles", "systemd-analyze"):
            folder = "tmpfiles.d" if words[0] == "systemd-tmpfiles" else "sysctl.d"
            return 0, "".join(path.read_text() for path in sorted((self.root / "etc" / folder).glob("*.conf"))), ""
        if words[0] == "systemctl":
            return self.systemctl(*words[1:])
        if words[0] == "ainode-run":
            return self.ainode_run(words[words.index("--workload") + 1], int(words[words.index("--instance") + 1]))
        if self.fake.get("blind") and "grep" in command:
            return 2, "", "grep: not found"
        # A shell that sees the directory as /, except for its own programs.
        shell = ["sh", "-c", re.sub(r"(?<![\w.])/(proc|sys|etc)/", rf"{self.root}/\1/", command)]
        done = subprocess.run(shell, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout.replace(str(self.root), ""), done.stderr

    def systemctl(self, verb, unit, *_rest):
        name, services = unit.removesuffix(".service"), self.fake.get("services", {})
        if verb == "is-active":
            active = name in self.fake.get("active", [])
            return (0, "active\n", "") if active else (3, "inactive\n", "")
        if verb == "is-enabled":
            enabled = name in self.fake.get("enabled", []) or (self.root / f"etc/systemd/system/multi-user.target.wants/{unit}").is_symlink()
            return (0, "enabled\n", "") if enabled else (1, "", f"Failed to get unit file state for {unit}: No such file or directory\n")
        if verb == "list-units":
            return 0, "".join(f"{service} loaded active running A service\n" for service in services), ""
        affinity, pid = services[unit]
        return 0, f"CPUAffinity={affinity}\nMainPID={pid}\n", ""

    def ainode_run(self, workload, number):
        instances = json.loads((self.root / "etc/ainode/placement.json").read_text())["workloads"][workload]
        if number >= len(instances):
            return self.fake.get("said") or (125, "", f"ainode-run: {workload} has no instance {number}\n")
        one = instances[number]
        policy = f"policy {one['memory_policy']}:{one['memory_node']}\n" if one["memory_policy"] else ""
        return self.fake.get("said") or (0, f"Cpus_allowed_list:\t{one['cpus']}\nomp {one['env']['OMP_NUM_THREADS']}\n{policy}", "")


def pytest_generate_tests(metafunc):
    if "host" in metafunc.fixturenames:
        hosts = sorted(path.name for path in Path(os.environ["AINODE_FAKE_HOSTS"]).iterdir())
        metafunc.parametrize("host", hosts, indirect=True, scope="module")


@pytest.fixture(scope="module")
def host(request):
    return Host(Path(os.environ["AINODE_FAKE_HOSTS"]) / request.param)


def pytest_runtest_logreport(report):
    """Print an outcome a line: host, test, outcome."""
    if report.when == "call" or report.outcome != "passed":
        test, _bracket, parameters = report.nodeid.rpartition("::")[2].rstrip("]").partition("[")
        host_name, _dash, rest = parameters.partition("-")
        print(f"\n{host_name} {test}{f'[{rest}]' if rest else ''} {report.outcome}")
