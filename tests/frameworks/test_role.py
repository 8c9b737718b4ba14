# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role frameworks on containers of Debian 12 and 13: each framework installs, proves itself, is found as it should be, and is removed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
LAB = CHECKOUT / "tests/lab/container"
CATALOGUE = yaml.safe_load((CHECKOUT / "roles/frameworks/vars/main.yml").read_text())["frameworks_catalogue"]
PLAY = [{"hosts": "all", "gather_facts": False, "tasks": [{"name": "Frameworks", "ansible.builtin.import_role": {"name": "ainode.cpu.frameworks"}}]}]


class Container:
    """A Debian container as a node of the role."""

    def __init__(self, image, top):
        self.name, self.play = f"frameworks-{image}", top / "play.yml"
        self.play.write_text(json.dumps(PLAY))
        done = subprocess.run([LAB, "up", "--image", image, "--inventory", self.name, self.name], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no container here: {done.stderr.strip()[-300:]}")
        self.inventory = done.stdout.split()[-1]

    def down(self):
        subprocess.run([LAB, "down", "--inventory", self.name, self.name], check=True, capture_output=True)

    def apply(self, *options, **variables):
        """Run the role; return (exit status, number of changed tasks, all that was printed)."""
        command = [Path(sys.executable).with_name("ansible-playbook"), "-i", self.inventory, *options, "-e", json.dumps(variables), self.play]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=CHECKOUT, timeout=3600)
        changed = re.search(r"changed=(\d+)", done.stdout)
        return done.returncode, int(changed.group(1)) if changed else None, done.stdout + done.stderr

    def run(self, *command):
        return subprocess.run([LAB, "exec", self.name, "--", *command], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def debian_12(tmp_path_factory):
    node = Container("bookworm", tmp_path_factory.mktemp("debian-12"))
    yield node
    node.down()


@pytest.fixture(scope="module")
def debian_13(tmp_path_factory):
    node = Container("trixie", tmp_path_factory.mktemp("debian-13"))
    yield node
    node.down()


def test_a_check_run_predicts_and_changes_nothing(debian_12):
    status, changed, said = debian_12.apply("--check")
    assert status == 0, said
    assert changed
    assert debian_12.run("ls", "/opt/ainode", "/etc/ainode").returncode != 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tensorflo", "tensorflo: there is no such framework; known are intel_tensorflow, jupyter, neural_compressor"),
        ("ipex", "ipex: Intel Extension for PyTorch is archived"),
        ("lpot", "lpot: LPOT is the old name of Intel Neural Compressor"),
        ("daal4py", "daal4py: daal4py is part of Intel Extension for Scikit-learn now"),
        ("pot", "pot: The Post-training Optimization Tool is gone"),
        ("model_optimizer", "model_optimizer: The Model Optimizer is gone"),
    ],
)
def test_refused_by_name(debian_12, name, said):
    status, _changed, printed = debian_12.apply(frameworks_install=["openvino", name])
    assert status != 0
    assert said in " ".join(printed.split())
    assert debian_12.run("ls", "/opt/ainode").returncode != 0


def lives(node, name):
    """Install `name` on `node`, find it proven and unchanged by a second run."""
    status, changed, said = node.apply(frameworks_install=[name])
    assert status == 0, said[-3000:]
    assert changed
    row = json.loads(node.run("cat", f"/etc/ainode/audit.d/framework-{name}.json").stdout)
    done = node.run(*row["command"])
    verdict = json.loads(done.stdout.splitlines()[-1])
    print(name, verdict)
    assert verdict["verdict"] != "fail", verdict
    status, changed, said = node.apply(frameworks_install=[name])
    assert (status, changed) == (0, 0), said[-3000:]


def dies(node, name):
    """Remove `name` from `node` and find nothing left of it."""
    status, changed, said = node.apply(frameworks_install=[], frameworks_remove=[name])
    assert (status, changed) == (0, 1), said[-3000:]
    assert node.run("find", "/opt/ainode/venvs", "/etc/ainode/audit.d", "-name", f"*{name}*").stdout == ""


def test_openvino_installs_proves_itself_and_goes(debian_12):
    lives(debian_12, "openvino")
    dies(debian_12, "openvino")


@pytest.mark.parametrize("name", [name for name in CATALOGUE if name != "openvino"])
def test_every_other_framework_too(request, debian_12, name):
    if not request.config.getoption("--all-frameworks"):
        pytest.skip("gigabytes of packages: give --all-frameworks")
    lives(debian_12, name)
    dies(debian_12, name)


def test_debian_13_takes_the_wheels_from_the_builder(request, debian_13, tmp_path):
    if not request.config.getoption("--all-frameworks"):
        pytest.skip("another base system and 200 MB of packages: give --all-frameworks")
    # Without this the node has no way to an index.
    debian_13.run("rm", "-f", "/etc/pip.conf")
    air_gapped = {"frameworks_wheelhouse": str(tmp_path / "wheels")}
    status, _changed, said = debian_13.apply(**air_gapped)
    assert status == 0, said[-3000:]
    assert list((tmp_path / "wheels/openvino-3.13").glob("openvino-*-cp313-*.whl"))
    assert debian_13.run("ls", "/var/cache/ainode/wheels").returncode != 0
    status, changed, said = debian_13.apply(**air_gapped)
    assert (status, changed) == (0, 0), said[-3000:]
    status, _changed, said = debian_13.apply(frameworks_install=["openvino", "intel_tensorflow"])
    assert status != 0
    assert "intel_tensorflow: there is no lock for Python 3.13: its wheels exist for Python 3.11" in " ".join(said.split())
    assert debian_13.run("/opt/ainode/venvs/openvino/current/bin/python", "-c", "import openvino").returncode == 0
