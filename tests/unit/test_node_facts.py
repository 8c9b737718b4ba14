# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""node_facts as Ansible runs it: the arguments, the errors, and gather_facts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import shape
from ansible_collections.ainode.cpu.plugins.module_utils.facts.gather import gather
from ansible_collections.ainode.cpu.plugins.module_utils.host.root import Root

CHECKOUT = Path(__file__).resolve().parents[2]


def run(**arguments):
    """Return the module's result, run by itself as a node's Python runs it."""
    done = subprocess.run(
        [sys.executable, CHECKOUT / "plugins/modules/node_facts.py"],
        check=False,
        capture_output=True,
        text=True,
        input=json.dumps({"ANSIBLE_MODULE_ARGS": {"_ansible_remote_tmp": "/tmp", **arguments}}),
        env={**os.environ, "PYTHONPATH": str(CHECKOUT / "collections")},
    )
    assert not done.stderr
    return json.loads(done.stdout)


def test_every_fact(described):
    root = described("offline-cpus")
    result = run(root=root)
    assert result["changed"] is False
    assert result["ansible_facts"] == {"ainode": gather(Root(root))}


def test_this_machine_in_check_mode():
    result = run(_ansible_check_mode=True)
    shape.check(result["ansible_facts"]["ainode"])


def test_a_subset(described):
    assert set(run(root=described("hybrid-laptop"), gather_subset=["!firmware", "cpu", "numa"])["ansible_facts"]["ainode"]) == {"cpu", "numa"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"root": "/proc/version"}, "root '/proc/version' is not a directory: give '/' for this machine or the directory of a recorded one"),
        ({"root": "/nowhere"}, "root '/nowhere' is not a directory: give '/' for this machine or the directory of a recorded one"),
        ({"root": "/etc"}, "root '/etc' is not a system root: it holds neither proc/ nor sys/"),
        (
            {"gather_subset": ["cpu", "gpu"]},
            "gather_subset has 'gpu', which is no subset: give all, cpu, devices, firmware, memory, numa, platform, power, or one of them with ! before it",
        ),
    ],
)
def test_bad_arguments(arguments, message):
    result = run(**arguments)
    assert result["failed"]
    assert result["msg"] == message


@pytest.mark.parametrize("modules", ["ainode.cpu.node_facts", ["ansible.builtin.setup", "ainode.cpu.node_facts"]])
def test_gather_facts_brings_them(tmp_path, modules):
    """With what a play passes to every facts module (fact_path) and what it keeps for setup (gather_subset, gather_timeout)."""
    play = [
        {
            "hosts": "localhost",
            "connection": "local",
            "gather_facts": True,
            "gather_subset": ["min"],
            "gather_timeout": 300,
            "fact_path": str(tmp_path),
            "vars": {"ansible_facts_modules": modules, "ansible_python_interpreter": sys.executable},
            "tasks": [
                {
                    "ansible.builtin.assert": {
                        "that": ["ansible_facts.ainode.cpu.logical_cpus >= 1", f"(ansible_facts.distribution is defined) == {isinstance(modules, list)}"]
                    }
                }
            ],
        }
    ]
    (tmp_path / "play.json").write_text(json.dumps(play))
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", "localhost,", tmp_path / "play.json"],
        check=False,
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
