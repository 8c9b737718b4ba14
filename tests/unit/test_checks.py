# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import os
import re
import sys
import time

import pytest
from ansible_collections.ainode.cpu.plugins.module_utils.audit import checks
from ansible_collections.ainode.cpu.plugins.module_utils.host.root import Root

GOOD = {"id": "framework.demo", "section": "A section", "what": "It works", "expected": "42", "remedy": "make it work", "timeout_s": 20}


@pytest.fixture
def node(tmp_path, monkeypatch):
    """A root whose checks may be run, though it lies in a temporary directory of whoever runs the tests."""
    (tmp_path / "proc").mkdir()
    directory = tmp_path / checks.DIRECTORY.lstrip("/")
    directory.mkdir(parents=True)
    directory.chmod(0o755)
    monkeypatch.setattr(checks, "_OWNER", os.getuid())
    root = Root(str(tmp_path))
    root.is_live = True
    return root


def put(root, check, name="demo", mode=0o644):
    path = root.path(f"{checks.DIRECTORY}/{name}.json")
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(check if isinstance(check, str) else json.dumps(check))
    os.chmod(path, mode)
    return path


def program(text):
    return [sys.executable, "-c", text]


def answer(**fields):
    return program(f"import json; print(json.dumps({fields!r}))")


def only_row(root):
    (row,) = checks.rows(root)
    return row


@pytest.mark.parametrize("verdict", checks.VERDICTS)
def test_the_commands_answer_is_the_row(node, verdict):
    put(node, {**GOOD, "command": answer(verdict=verdict, live="41", reason="off by one")})
    assert only_row(node) == {
        "id": "framework.demo",
        "section": "A section",
        "what": "It works",
        "expected": "42",
        "live": "41",
        "after_reboot": None,
        "verdict": verdict,
        "reason": "off by one",
        "remedy": "make it work",
    }


def test_an_answer_without_a_reason_has_none(node):
    put(node, {**GOOD, "command": answer(verdict="pass", live="42")})
    assert only_row(node)["reason"] == ""


def test_a_hyphen_in_the_id_counts_as_a_dot(node):
    put(node, {**GOOD, "id": "framework-demo", "command": answer(verdict="pass", live="42")})
    assert only_row(node)["id"] == "framework.demo"


def test_rows_come_in_the_order_of_their_files_and_one_bad_file_spoils_no_other(node):
    put(node, {**GOOD, "id": "a.b", "command": answer(verdict="pass", live="1")}, "z")
    put(node, "{", "m")
    put(node, {**GOOD, "id": "a.a", "command": answer(verdict="pass", live="2")}, "a")
    assert [(row["id"], row["verdict"]) for row in checks.rows(node)] == [("a.a", "pass"), ("audit_d.m", "fail"), ("a.b", "pass")]


def test_a_file_may_hold_several_checks_and_a_bad_one_spoils_no_other(node):
    first = {**GOOD, "command": answer(verdict="pass", live="1")}
    put(node, [first, {**first, "id": "no id"}, {**first, "id": "framework.other"}, "none"])
    assert [(row["id"], row["verdict"]) for row in checks.rows(node)] == [
        ("framework.demo", "pass"),
        ("audit_d.demo.2", "fail"),
        ("framework.other", "pass"),
        ("audit_d.demo.4", "fail"),
    ]


def test_nothing_passes_through_a_shell_and_the_environment_is_clean(node, monkeypatch):
    monkeypatch.setenv("SECRET", "1")
    code = "import json, os, sys; print(json.dumps({'verdict': 'pass', 'live': json.dumps([sys.argv[1:], os.getcwd(), 'SECRET' in os.environ])}))"
    put(node, {**GOOD, "command": [*program(code), "$(id)", "a b; c", "*"]})
    assert json.loads(only_row(node)["live"]) == [["$(id)", "a b; c", "*"], "/", False]


def test_a_check_that_is_no_object_says_so(node):
    put(node, [{**GOOD, "command": answer(verdict="pass", live="1")}, "none"])
    assert "is not a JSON object" in checks.rows(node)[1]["reason"]


def test_a_check_may_take_an_hour_and_no_more(node):
    put(node, {**GOOD, "timeout_s": 3600, "command": answer(verdict="pass", live="1")})
    assert only_row(node)["verdict"] == "pass"
    put(node, {**GOOD, "timeout_s": 3600.5, "command": answer(verdict="pass", live="1")})
    assert "its timeout_s is 3600.5" in only_row(node)["reason"]


@pytest.mark.parametrize(
    ("check", "complaint"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
        ({}, "its 'id' is None"),
        ({**GOOD, "what": 3}, "its 'what' is 3"),
        ({**GOOD, "id": "Über"}, "'Über' is no id"),
        ({**GOOD, "command": "rm -rf /"}, "its command is 'rm -rf /'"),
        ({**GOOD, "command": "/bin/ls"}, "its command is '/bin/ls'"),
        ({**GOOD, "command": []}, r"its command is \[\]"),
        ({**GOOD, "command": ["ls"]}, "absolute path"),
        ({**GOOD, "command": ["/bin/ls", 3]}, "a list of texts"),
        ({**GOOD, "command": ["/bin/ls"], "timeout_s": 0}, "its timeout_s is 0"),
        ({**GOOD, "command": ["/bin/ls"], "timeout_s": True}, "its timeout_s is True"),
        ({**GOOD, "command": ["/bin/ls"], "timeout_s": "9"}, "its timeout_s is '9'"),
        ({**GOOD, "command": ["/nonexistent/program"]}, "does not start"),
        ({**GOOD, "command": ["/bin/ls\0"]}, "does not start"),
        ({**GOOD, "command": program("print('hello')")}, "printed 'hello'"),
        ({**GOOD, "command": program("print('[]')")}, r"printed '\[\]'"),
        ({**GOOD, "command": answer(verdict="maybe", live="1")}, "expected is one JSON object"),
        ({**GOOD, "command": answer(verdict="pass", live=1)}, "a text 'live'"),
        ({**GOOD, "command": program("import sys; sys.exit('it broke')")}, "status 1: it broke"),
        ({**GOOD, "command": program("import os; os.abort()")}, "status -6"),
    ],
)
def test_what_is_wrong_is_a_failed_row_that_says_so(node, check, complaint):
    path = put(node, check)
    row = only_row(node)
    assert row["verdict"] == "fail"
    assert row["remedy"]
    assert path.endswith(row["reason"].split(":")[0])
    assert re.search(complaint, row["reason"])


def test_a_command_that_hangs_is_ended_with_what_it_started(node, tmp_path):
    mark = tmp_path / "mark"
    child = f"import time; time.sleep(2); open({str(mark)!r}, 'w')"
    put(node, {**GOOD, "timeout_s": 0.5, "command": program(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])")})
    started = time.monotonic()
    assert "not done after 0.5 s" in only_row(node)["reason"]
    assert time.monotonic() - started < 2
    time.sleep(2.2)
    assert not mark.exists()


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_may_write_is_not_run(node, tmp_path, mode):
    mark = tmp_path / "mark"
    put(node, {**GOOD, "command": ["/usr/bin/touch", str(mark)]}, mode=mode)
    row = only_row(node)
    assert row["verdict"] == "fail"
    assert f"mode {mode:04o}" in row["reason"]
    assert not mark.exists()


def test_a_directory_that_others_may_write_is_not_trusted(node):
    put(node, {**GOOD, "command": answer(verdict="pass", live="42")})
    os.chmod(node.path(checks.DIRECTORY), 0o777)
    assert "its directory can be written by others than root (mode 0777)" in only_row(node)["reason"]


def test_a_file_of_another_user_is_not_run(node, monkeypatch):
    put(node, {**GOOD, "command": answer(verdict="pass", live="42")})
    monkeypatch.setattr(checks, "_OWNER", os.getuid() + 1)
    assert f"belongs to uid {os.getuid()}, not to root" in only_row(node)["reason"]


def test_root_is_who_is_trusted():
    assert checks._OWNER == 0


def test_a_directory_in_place_of_a_file(node):
    os.mkdir(node.path(f"{checks.DIRECTORY}/demo.json"), 0o755)
    assert only_row(node)["verdict"] == "fail"


def test_a_recorded_machine_runs_nothing(node, tmp_path):
    mark = tmp_path / "mark"
    put(node, {**GOOD, "command": ["/usr/bin/touch", str(mark)]})
    node.is_live = False
    row = only_row(node)
    assert (row["id"], row["verdict"]) == ("framework.demo", "not_applicable")
    assert not mark.exists()


def test_no_directory_no_rows(tmp_path):
    (tmp_path / "sys").mkdir()
    assert checks.rows(Root(str(tmp_path))) == []
