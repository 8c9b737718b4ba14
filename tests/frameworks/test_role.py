# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role frameworks on containers of Debian 12 and 13: each framework installs, proves itself, is found as it should be, and is removed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
LAB = CHECKOUT / "tests/lab/container"
CATALOGUE = yaml.safe_load((CHECKOUT / "roles/frameworks/vars/main.yml").read_text())["frameworks_catalogue"]


# With its settings asked for, an OpenMP that reads KMP_* prints them when it starts.
IGNORES_KMP = """import os, subprocess, sys
program = "import {0} as f; f.linalg.matmul(f.ones([999, 999]), f.ones([999, 999]))"
said = subprocess.run([sys.executable, "-c", program], env=dict(os.environ, KMP_SETTINGS="1"), capture_output=True, text=True)
assert said.returncode == 0 and "KMP_AFFINITY" not in said.stdout + said.stderr, said"""

# What docs/frameworks.md says of the guide's commands: each program fails when that is not so.
CLAIMS = {
    "openvino": [
        """import importlib.util as u, openvino, nncf
assert not u.find_spec("openvino.tools.mo") and not u.find_spec("openvino.tools.pot")
openvino.convert_model, nncf.quantize, nncf.quantize_with_accuracy_control""",
        """from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
assert any(__cpu_features__[name] for name in __cpu_dispatch__), __cpu_dispatch__""",
    ],
    "pytorch": ["import torch, torchao; assert torch.version.cuda is None", IGNORES_KMP.format("torch")],
    "tensorflow": [
        IGNORES_KMP.format("tensorflow"),
        "import tensorflow as tf; assert not hasattr(tf, 'Session') and not hasattr(tf, 'ConfigProto'); tf.config.threading",
    ],
    "neural_compressor": [
        """import importlib.util as u, neural_compressor
assert not any(u.find_spec(f"neural_compressor.{gone}") for gone in ("strategy", "adaptor", "mxnet", "onnxrt"))"""
    ],
    "neural_compressor_classic": [
        """from neural_compressor.strategy import STRATEGIES
assert {"basic", "bayesian", "mse", "mse_v2", "exhaustive", "random"} <= set(STRATEGIES), STRATEGIES"""
    ],
    "sklearnex": [
        """import subprocess, sys
codes = [subprocess.run([sys.executable, "-m", name, "--help"], capture_output=True).returncode for name in ("sklearnex", "daal4py")]
assert codes[0] == 0 and codes[1] != 0, codes""",
        """from sklearnex import patch_sklearn; patch_sklearn(["sklearn.cluster.KMeans"])
from sklearn.cluster import KMeans; from sklearn.svm import SVC
assert KMeans.__module__.startswith("sklearnex") and SVC.__module__.startswith("sklearn."), (KMeans, SVC)""",
    ],
}


def play(directory, role):
    """Write a play of the role `role` into `directory`; return its path."""
    path = directory / "play.yml"
    path.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": [{"name": "Frameworks", "ansible.builtin.import_role": {"name": role}}]}]))
    return path


class Container:
    """A Debian container as a node of the role."""

    def __init__(self, image, top):
        self.name, self.play = f"frameworks-{image}", play(top, "ainode.cpu.frameworks")
        done = subprocess.run([LAB, "up", "--image", image, "--inventory", self.name, self.name], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.fail(f"no container here: {done.stderr.strip()[-300:]}")
        self.inventory = done.stdout.split()[-1]

    def down(self):
        subprocess.run([LAB, "down", "--inventory", self.name, self.name], check=True, capture_output=True)

    def apply(self, *options, role=None, **variables):
        """Run the role, or the play `role`; return (exit status, number of changed tasks, all that was printed, its white space single)."""
        command = [Path(sys.executable).with_name("ansible-playbook"), "-i", self.inventory, *options, "-e", json.dumps(variables), role or self.play]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=CHECKOUT, timeout=3600)
        changed = re.search(r"changed=(\d+)", done.stdout)
        return done.returncode, int(changed.group(1)) if changed else None, " ".join((done.stdout + done.stderr).split())

    def run(self, *command):
        return subprocess.run([LAB, "exec", self.name, "--", *command], capture_output=True, text=True, check=False)

    def paths(self):
        """Return all paths on the node outside the distribution's own directories."""
        prune = [word for path in ("/usr", "/var/lib", "/var/cache", "/var/log", "/root/.ansible") for word in ("-path", path, "-prune", "-o")]
        return set(self.run("find", "/", "-xdev", *prune, "-print").stdout.splitlines())


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


REFUSED = {
    "tensorflo": "there is no such framework; known are intel_tensorflow, jupyter, neural_compressor",
    "ipex": "Intel Extension for PyTorch is archived",
    "lpot": "LPOT is the old name of Intel Neural Compressor",
    "daal4py": "daal4py is part of Intel Extension for Scikit-learn now",
    "pot": "The Post-training Optimization Tool is gone",
    "model_optimizer": "The Model Optimizer is gone",
}


def test_refused_by_name(debian_12):
    status, _changed, printed = debian_12.apply(frameworks_install=["openvino", *REFUSED])
    assert status != 0
    for name, said in REFUSED.items():
        assert f"{name}: {said}" in printed
    assert debian_12.run("ls", "/opt/ainode").returncode != 0


def lives(node, name):
    """Install `name` on `node`, find it proven, as large as said, all that the docs claim of it true, and unchanged by a second run."""
    begin = time.monotonic()
    status, changed, said = node.apply(frameworks_install=[name])
    assert status == 0, said[-3000:]
    assert changed
    row = json.loads(node.run("cat", f"/etc/ainode/audit.d/framework-{name}.json").stdout)
    seconds, before = time.monotonic() - begin, node.paths()
    done = node.run(*row["command"])
    verdict = json.loads(done.stdout.splitlines()[-1])
    mebibytes = int(node.run("du", "-sm", f"/opt/ainode/venvs/{name}").stdout.split()[0])
    print(f"{name}: {seconds:.0f} s, {mebibytes} MiB, {verdict}")
    path = re.search(r"avx512_vnni|avx_vnni|amx_int8", Path("/proc/cpuinfo").read_text())
    assert verdict["verdict"] in (("pass",) if path else ("pass", "not_applicable")), verdict
    assert node.paths() == before, "a proof leaves nothing behind"
    assert mebibytes <= CATALOGUE[name]["size_mb"]
    for program in CLAIMS.get(name, []):
        # Importing them writes to the home directory (.keras), which the proofs take care of and these do not.
        script = 'home=$(mktemp -d); HOME=$home TMPDIR=$home "$@"; code=$?; rm -r "$home"; exit $code'
        done = node.run("sh", "-c", script, "sh", f"/opt/ainode/venvs/{name}/current/bin/python", "-W", "ignore", "-c", program)
        assert done.returncode == 0, done.stderr
    status, changed, said = node.apply(frameworks_install=[name])
    assert (status, changed) == (0, 0), said[-3000:]


def dies(node, name):
    """Remove `name` from `node` and find nothing left of it, its directories aside."""
    status, changed, said = node.apply(frameworks_install=[], frameworks_remove=[name])
    assert (status, changed) == (0, 1), said[-3000:]
    assert node.run("find", "/opt/ainode/venvs", "/etc/ainode/audit.d", "-name", f"*{name}*").stdout == ""


@pytest.fixture(scope="module")
def with_openvino(debian_12):
    lives(debian_12, "openvino")
    return debian_12


@pytest.fixture
def newer(tmp_path):
    """A copy of the role whose OpenVINO differs from the one in service, and its play."""
    role = shutil.copytree(CHECKOUT / "roles/frameworks", tmp_path / "newer")
    with (role / "files/proofs/prove_openvino.py").open("a") as proof:
        proof.write("# newer\n")
    return role, play(tmp_path, str(role))


def refused(node, said, newer, directory="/opt/ainode/venvs", **variables):
    """Assert that the role `newer` fails with `said`, with OpenVINO as it was in service below `directory`."""
    link = f"{directory}/openvino/current"
    before = node.run("readlink", link).stdout.strip()
    status, _changed, printed = node.apply(role=newer[1], frameworks_directory=directory, **variables)
    assert status != 0
    assert re.search(rf"openvino: [^\"]*{re.escape(said)}[^\"]*; the version in service is still {before}", printed), printed[-3000:]
    assert node.run("readlink", link).stdout.strip() == before
    assert node.run(f"{link}/bin/python", "-c", "import openvino").returncode == 0
    assert node.run("ls", f"{directory}/openvino").stdout.split() == [before, "current"]


def test_openvino_tells_nobody_that_it_is_used(with_openvino):
    before = with_openvino.paths()
    convert = "import nncf, openvino as ov; ov.convert_model('/nonexistent.onnx')"
    assert "nonexistent.onnx" in with_openvino.run("/opt/ainode/venvs/openvino/current/bin/python", "-c", convert).stderr
    # openvino_telemetry would have made /root/intel.
    assert with_openvino.paths() == before


def test_a_wrong_hash(with_openvino, newer):
    lock = newer[0] / "files/locks/openvino-cp311.txt"
    lock.write_text(re.sub(r"(--hash=sha256:)\w{64}", r"\g<1>" + 64 * "0", lock.read_text()))
    refused(with_openvino, "has the SHA-256", newer)


def test_a_python_without_wheels(with_openvino, newer):
    (newer[0] / "files/locks/openvino-cp311.txt").unlink()
    refused(with_openvino, "there is no lock for Python 3.11: its wheels exist for Python 3.12, 3.13", newer)


def test_an_index_that_cannot_be_reached(with_openvino, newer):
    # What this machine lets its guests reach must not help out.
    with_openvino.run("mv", "/etc/pip.conf", "/etc/pip.conf.away")
    try:
        refused(with_openvino, "http://127.0.0.1:9/ cannot be reached", newer, frameworks_index_url="http://127.0.0.1:9/")
    finally:
        with_openvino.run("mv", "/etc/pip.conf.away", "/etc/pip.conf")


def test_a_disk_that_is_full(with_openvino, newer):
    # The environment in service, on a disk that has no room for another.
    script = "mkdir -p /mnt/small && mount -t tmpfs -o size=700m tmpfs /mnt/small && cp -a /opt/ainode/venvs/openvino /mnt/small/"
    if with_openvino.run("sh", "-c", script).returncode:
        pytest.skip("mounting a file system in a container takes CAP_SYS_ADMIN")
    try:
        refused(with_openvino, "MiB free where 560 MiB are needed", newer, directory="/mnt/small")
    finally:
        with_openvino.run("umount", "/mnt/small")


def test_a_damaged_environment_is_put_right(with_openvino):
    python = "/opt/ainode/venvs/openvino/current/bin/python"
    with_openvino.run("sh", "-c", "rm /opt/ainode/venvs/openvino/current/lib/python3.11/site-packages/openvino/__init__.py")
    assert with_openvino.run(python, "-c", "import openvino; openvino.Core").returncode != 0
    status, changed, said = with_openvino.apply()
    assert (status, changed) == (0, 1), said[-3000:]
    assert with_openvino.run(python, "-c", "import openvino; openvino.Core").returncode == 0


def test_openvino_goes(with_openvino):
    dies(with_openvino, "openvino")


@pytest.mark.parametrize("name", [name for name in CATALOGUE if name != "openvino"])
def test_every_other_framework_too(request, debian_12, name):
    if not request.config.getoption("--all-frameworks"):
        pytest.skip("gigabytes of packages: give --all-frameworks")
    if name == "neural_compressor":
        # torch.compile makes its INT8 kernels; without a compiler and Python's headers the proof's verdict is an advice.
        done = debian_12.run("sh", "-c", "apt-get -qq update && apt-get -qq install -y --no-install-recommends g++ python3-dev")
        assert done.returncode == 0, done.stderr
    before = debian_12.paths()
    lives(debian_12, name)
    dies(debian_12, name)
    assert not {path for path in debian_12.paths() - before if not path.startswith(("/etc/ainode", "/opt/ainode"))}


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
    assert "intel_tensorflow: there is no lock for Python 3.13: its wheels exist for Python 3.11" in said
    assert debian_13.run("/opt/ainode/venvs/openvino/current/bin/python", "-c", "import openvino").returncode == 0
