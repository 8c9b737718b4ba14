# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module venv on this machine with real pip, out of wheels of one line each: all that can go wrong, and what is in service afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
PROOF = "import json, thing; print(json.dumps({'verdict': thing.VERDICT, 'live': str(thing.VERSION), 'reason': 'thing says so'}))"
# The module as a node runs it: a process of its own that reads its arguments from the command line and prints JSON.
RUN = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from ansible_collections.ainode.cpu.plugins.module_utils.deploy import environments
from ansible_collections.ainode.cpu.plugins.modules import venv
environments._UNITS = sys.argv.pop(1)
venv.main()
"""


@pytest.fixture(scope="session")
def wheels(tmp_path_factory):
    """A directory with thing 1, 2 (of 2 MiB) and 3 (whose proof fails) as wheels and {version: lock}."""
    directory, locks = tmp_path_factory.mktemp("wheels"), {}
    for version in (1, 2, 3):
        name = f"thing-{version}-py3-none-any.whl"
        module = f"VERSION = {version}\nVERDICT = '{'fail' if version == 3 else 'pass'}'\n"
        files = {
            "thing.py": module,
            f"thing-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: thing\nVersion: {version}\n",
            f"thing-{version}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        if version == 2:
            files["thing_padding"] = "-" * 2**21
        record = f"thing-{version}.dist-info/RECORD"
        with zipfile.ZipFile(directory / name, "w") as wheel:
            for path, text in files.items():
                wheel.writestr(path, text)
            wheel.writestr(record, "".join(f"{path},,{len(text)}\n" for path, text in files.items()) + f"{record},,\n")
        locks[version] = f"thing=={version} --hash=sha256:{hashlib.sha256((directory / name).read_bytes()).hexdigest()}\n"
    return directory, locks


class Node:
    """One node's directories, and the module run on them."""

    def __init__(self, top, wheels):
        self.top, (self.wheels, self.locks) = top, wheels
        self.home = top / "venvs/thing"

    def run(self, lock=1, check=False, caller=None, **options):
        """Run the module for the lock of version `lock` (or the text given), for a caller with the variables `caller`; return its result,
        {"failed": True, "msg"} when it fails."""
        text = self.locks.get(lock, lock)
        arguments = {
            "name": "thing", "directory": str(self.top / "venvs"), "audit_directory": str(self.top / "audit.d"), "python": sys.executable,
            "locks": {PYTHON: text}, "files": {"proof.py": PROOF}, "proof": "proof.py", "wheelhouse": str(self.wheels),
            "audit": {"section": "s", "what": "w", "expected": "e", "remedy": "r"}, "_ansible_check_mode": check, "_ansible_remote_tmp": str(self.top),
            **options,
        }  # fmt: skip
        arguments = {name: value for name, value in arguments.items() if value is not None}
        done = subprocess.run(
            [sys.executable, "-c", RUN, str(CHECKOUT / "collections"), str(self.top / "units/*.service")],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}), capture_output=True, text=True, check=False, timeout=300,
            env={**{name: value for name, value in os.environ.items() if not name.startswith("PIP_")}, **(caller or {})},
        )  # fmt: skip
        assert done.stdout.startswith("\n{") or done.stdout.startswith("{"), done.stderr
        return json.loads(done.stdout)

    def version(self):
        """Return the version in service, by asking it."""
        done = subprocess.run([str(self.home / "current/bin/python"), "-c", "import thing; print(thing.VERSION)"], capture_output=True, text=True, check=False)
        return int(done.stdout) if done.returncode == 0 else None

    def environments(self):
        """Return the names of the environments on the disk."""
        return sorted(path.name for path in self.home.iterdir() if path.is_dir() and not path.is_symlink())

    def files(self):
        """Return every file below the node's directory with its time of change: what must not change when nothing is to change."""
        return {str(path): path.lstat().st_mtime_ns for path in self.top.rglob("*") if "__pycache__" not in str(path)}


@pytest.fixture
def node(tmp_path, wheels):
    return Node(tmp_path, wheels)


@pytest.fixture(scope="session")
def _installed(tmp_path_factory, wheels):
    node = Node(tmp_path_factory.mktemp("installed"), wheels)
    assert node.run()["changed"]
    return node


@pytest.fixture
def installed(_installed, tmp_path, wheels):
    """A node that has version 1 in service. Making environments takes seconds, so it is a copy that is told its new place."""
    shutil.copytree(_installed.top, tmp_path / "node", symlinks=True)
    return Node(tmp_path / "node", wheels)


def test_it_installs_proves_announces_its_proof_and_is_done(node):
    predicted = node.run(check=True)
    assert predicted["changed"]
    assert not node.files()
    first = node.run()
    assert first["changed"]
    assert first["proof"] == {"verdict": "pass", "live": "1", "reason": "thing says so"}
    assert {key: first[key] for key in ("digest", "packages", "diff", "todo")} == {key: predicted[key] for key in ("digest", "packages", "diff", "todo")}
    row = json.loads((node.top / "audit.d/framework-thing.json").read_text())
    assert row["id"] == "framework-thing"
    assert json.loads(subprocess.run(row["command"], capture_output=True, check=True).stdout)["verdict"] == "pass"
    before = node.files()
    assert node.run()["changed"] is False
    assert node.files() == before


def test_its_interpreter_sets_what_the_packages_need_unless_the_caller_did(node, monkeypatch):
    node.run(environment={"THING": "it's 1", "OTHER": "2"})
    monkeypatch.setenv("OTHER", "3")
    program = "import os; print(os.environ['THING'], os.environ['OTHER'])"
    done = subprocess.run([str(node.home / "current/bin/python"), "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "it's 1 3\n"


def test_the_version_before_is_kept_and_comes_back(installed):
    installed.run(2)
    assert (installed.version(), len(installed.environments())) == (2, 2)
    back = installed.run(state="previous")
    assert back["changed"]
    assert installed.version() == 1
    # The lock of version 2 finds it where it was kept, with no index to ask.
    assert installed.run(2, wheelhouse="/nonexistent")["changed"]
    assert installed.version() == 2


def test_only_one_version_is_kept(installed, wheels):
    installed.run(2)
    installed.run("# the same packages, another proof\n" + wheels[1][1], files={"proof.py": PROOF + "\n"})
    assert len(installed.environments()) == 2


def test_what_a_unit_starts_from_is_kept(installed, wheels):
    """A service whose new version did not become ready runs by the unit before, however many versions are tried after that."""
    unit = installed.top / "units/ainode-thing-0.service"
    unit.parent.mkdir()
    served = os.path.realpath(installed.home / "current")
    unit.write_text(f"[Service]\nExecStart={served}/bin/python -m thing\n")
    installed.run(2)
    installed.run("# the same packages, another proof\n" + wheels[1][1], files={"proof.py": PROOF + "\n"})
    assert len(installed.environments()) == 3 and os.path.basename(served) in installed.environments()
    unit.unlink()
    installed.run(2)
    assert len(installed.environments()) == 2


def test_without_a_version_before_there_is_none_to_go_back_to(installed):
    found = installed.run(state="previous")
    assert found["failed"]
    assert "there is no version before this one" in found["msg"]
    assert installed.version() == 1


def refused(node, said, lock=2, **options):
    """Assert that the module refuses with `said` in one line, with version 1 in service and nothing left behind."""
    before = node.files()
    found = node.run(lock, **options)
    assert found["failed"], found
    assert said in found["msg"]
    assert "\n" not in found["msg"]
    assert found["msg"].endswith(f"the version in service is still {node.environments()[0]}")
    assert (node.version(), len(node.environments())) == (1, 1)
    assert set(node.files()) == set(before)


def test_a_wrong_hash(installed, wheels):
    refused(installed, "thing==2 has the SHA-256", wheels[1][2][:-10] + "0123456789"[:9] + "\n")


def test_a_lock_without_a_hash(installed):
    refused(installed, "the lock is incomplete", "thing==2\n")


def test_a_python_without_a_lock(installed, wheels):
    refused(installed, f"there is no lock for Python {PYTHON}: its wheels exist for Python 3.5", locks={"3.5": wheels[1][2]})


def test_a_package_without_a_wheel(installed):
    refused(installed, f"has no wheel of thing==9 for Python {PYTHON}", "thing==9 --hash=sha256:" + "0" * 64 + "\n")


def test_an_index_that_cannot_be_reached(installed, monkeypatch):
    # What this machine's own pip is told must not help out.
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    refused(installed, "http://127.0.0.1:9/ cannot be reached (Failed to establish a new connection", wheelhouse=None, index_url="http://127.0.0.1:9/")


def test_a_proof_that_fails(installed):
    refused(installed, "its proof failed: thing says so (found: 3)", 3)


@pytest.mark.parametrize(
    ("proof", "said"),
    [
        ("raise SystemExit('no such library')", "its proof ended with status 1: it printed no verdict but ''; its last word on stderr was: no such library"),
        ("import time; time.sleep(60)", "its proof took longer than 2 s"),
    ],
)
def test_a_proof_that_says_nothing(installed, proof, said):
    refused(installed, said, files={"proof.py": proof}, proof_timeout=2)


def test_an_interpreter_that_is_none(installed):
    refused(installed, "'/bin/false' is no Python interpreter", python="/bin/false")


def test_too_little_room_is_seen_before_anything_is_begun(installed):
    refused(installed, "MiB free where 99999999 MiB are needed", size_mb=99999999)


def test_a_disk_that_fills_up_on_the_way(_installed, tmp_path, wheels):
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(tmp_path)], check=False, capture_output=True).returncode:
        pytest.skip("mounting a small file system takes root")
    try:
        # Version 1 is in service there, and version 2 does not fit beside it.
        shutil.copytree(_installed.top, tmp_path / "node", symlinks=True)
        refused(Node(tmp_path / "node", wheels), "the disk is full")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def lose_a_module(current):
    next(current.glob("lib/python3*/site-packages/thing.py")).unlink()


def empty_a_module(current):
    next(current.glob("lib/python3*/site-packages/thing.py")).write_text("")


def lose_the_marker(current):
    (current / "ainode.json").unlink()


@pytest.mark.parametrize("harm", [lose_a_module, empty_a_module, lose_the_marker])
def test_a_damaged_environment_is_made_anew(installed, harm):
    harm((installed.home / "current").resolve())
    assert installed.run(check=True)["changed"]
    found = installed.run()
    assert found["changed"]
    assert found["repaired"]
    assert installed.version() == 1
    assert installed.run()["changed"] is False
    # The damaged one is not worth going back to.
    assert len(installed.environments()) == 1


def test_what_an_interrupted_run_left_is_removed(installed):
    (installed.home / "0123456789abcdef/bin").mkdir(parents=True)
    installed.run(2)
    assert "0123456789abcdef" not in installed.environments()
    assert installed.version() == 2


def test_absent_leaves_nothing(installed):
    before = installed.files()
    assert installed.run(state="absent", check=True)["changed"]
    assert installed.files() == before
    assert installed.run(state="absent")["changed"]
    assert not installed.home.exists()
    assert not list((installed.top / "audit.d").iterdir())
    assert installed.run(state="absent")["changed"] is False


def test_a_wheelhouse_holds_what_the_lock_names_and_installs_without_an_index(node, wheels, tmp_path):
    house = tmp_path / "house"
    # The index is the directory of wheels, told to pip as a node's pip.conf would.
    collect = {"state": "collected", "wheelhouse": str(house), "python_version": PYTHON, "caller": {"PIP_FIND_LINKS": str(wheels[0])}}
    assert node.run(2, **collect)["wheels"] == ["thing-2-py3-none-any.whl"]
    assert node.run(1, **collect)["wheels"] == ["thing-1-py3-none-any.whl"]
    assert node.run(1, **collect)["changed"] is False
    assert [path.name for path in house.glob("*.whl")] == ["thing-1-py3-none-any.whl"]
    assert node.run(1, wheelhouse=str(house))["changed"]
    assert node.version() == 1


@pytest.mark.parametrize("by", ["variables", "pip.conf"])
def test_settings_of_the_node_or_the_caller_put_nothing_else_into_service(node, by):
    elsewhere = node.top / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "thing.py").write_text("VERSION = 'another'\nVERDICT = 'pass'\n")
    (elsewhere / "constraint").write_text("thing==9\n")
    settings = {"constraint": elsewhere / "constraint", "dry-run": 1, "no-binary": ":all:", "require-virtualenv": 1, "root": elsewhere, "target": elsewhere}
    if by == "variables":
        caller = {f"PIP_{name.upper().replace('-', '_')}": str(value) for name, value in settings.items()}
        caller.update(PIP_USER="1", PYTHONPATH=str(elsewhere), PYTHONDONTWRITEBYTECODE="1", PYTHONSAFEPATH="1")
    else:
        (elsewhere / "pip.conf").write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()) + "[install]\nuser = 1\n")
        caller = {"PIP_CONFIG_FILE": str(elsewhere / "pip.conf")}
    result = node.run(1, caller=caller)
    assert result.get("proof", {}).get("live") == "1", result
    assert node.version() == 1
    assert sorted(path.name for path in elsewhere.iterdir() if path.name != "pip.conf") == ["constraint", "thing.py"]


def test_the_nodes_way_to_an_index_is_kept(node):
    (node.top / "pip.conf").write_text(f"[global]\nno-index = 1\n[install]\nfind-links =\n    {node.top}/nothing\n    {node.wheels}\n")
    result = node.run(1, wheelhouse=None, caller={"PIP_CONFIG_FILE": str(node.top / "pip.conf")})
    assert result.get("changed") and node.version() == 1, result
