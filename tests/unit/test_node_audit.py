# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import importlib
import json
import os
from pathlib import Path

import machines
import pytest
import state
import yaml
from ansible_collections.ainode.cpu.plugins.module_utils.audit import checks
from ansible_collections.ainode.cpu.plugins.module_utils.audit.rows import RECOMMENDED, summary, table

PLAYBOOKS = Path(__file__).resolve().parents[2] / "playbooks"


def test_result(machine):
    result = state.run("node_audit", machine)
    assert result["changed"] is False
    assert result["summary"] == summary(result["rows"])
    assert result["failed_rows"] == [row["id"] for row in result["rows"] if row["verdict"] == "fail"]
    assert result["table"] == table(result["rows"])
    assert json.loads(json.dumps(result)) == result


def test_nothing_changes(machine):
    before = state.tree(machine)
    assert state.run("node_audit", machine, check=True)["rows"] == state.run("node_audit", machine)["rows"]
    assert state.tree(machine) == before


def test_fail_fails_with_the_whole_result(tmp_path):
    root = machines.build("hybrid-laptop", tmp_path)
    result = state.run("node_audit", root, fail=True, ignore=["turbo"])
    assert result["failed"] is True
    assert result["msg"].startswith(f"{len(result['failed_rows'])} of {len(result['rows'])} rows fail: ")
    assert "power.governor" in result["failed_rows"]
    assert result["table"]
    fine = state.run("node_audit", root, fail=True, ignore=list(RECOMMENDED))
    assert ("failed" in fine, fine["failed_rows"]) == (False, [])


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"root": "/nonexistent"}, "root '/nonexistent' is not a directory"),
        ({"root": "etc"}, "is not a system root"),
        ({"ignore": ["governer"]}, "ignore has 'governer', which is no setting: give names out of"),
        ({"swappiness": "much"}, "swappiness"),
        ({"hugepages": [{"total": 3}]}, "missing required arguments: size"),
    ],
)
def test_bad_options_get_one_clear_error(tmp_path, options, complaint):
    root = machines.build("vm-without-cpufreq", tmp_path)
    if options.get("root") == "etc":
        options = {"root": f"{root}/etc"}
    result = state.run("node_audit", **{"root": root, **options})
    assert result["failed"] is True
    assert complaint in result["msg"]


def test_checks_of_roles_are_rows_of_the_result(tmp_path, monkeypatch):
    root = machines.build("vm-without-cpufreq", tmp_path)
    check = {"id": "framework.openvino", "section": "S", "what": "W", "expected": "E", "command": ["/bin/true"]}
    state.write(root, f"{checks.DIRECTORY}/openvino.json", json.dumps(check))
    os.chmod(f"{root}{checks.DIRECTORY}", 0o755)
    os.chmod(f"{root}{checks.DIRECTORY}/openvino.json", 0o644)
    monkeypatch.setattr(checks, "_OWNER", os.getuid())
    rows = {row["id"]: row for row in state.run("node_audit", root)["rows"]}
    assert rows["framework.openvino"]["reason"] == "on a recorded machine no command is run"


def test_the_playbooks_pass_every_setting():
    """A setting that tasks/audit.yml forgot would be judged by its default, whatever the node's variables ask for."""
    (task,) = yaml.safe_load((PLAYBOOKS / "tasks" / "audit.yml").read_text(encoding="utf-8"))
    options = task["ainode.cpu.node_audit"]
    module = importlib.import_module("ansible_collections.ainode.cpu.plugins.modules.node_audit")
    documented = yaml.safe_load(module.DOCUMENTATION)["options"]
    assert set(options) == set(documented) - {"fail"}
    assert all(f"'{name}'" in options["ignore"] for name in RECOMMENDED)
