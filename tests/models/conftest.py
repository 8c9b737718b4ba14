# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""pytest tests/models               quantization, the server and the balancer on this machine, the roles on a container with systemd; a few minutes
pytest tests/models --all-models  MiniLM and Neural Compressor's strategies as well; about ten minutes more, 1 GB of packages
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
ROLE = CHECKOUT / "roles/model_service"
BUILD = CHECKOUT / "build/models"
LOCKS = {
    "quantize": CHECKOUT / "roles/frameworks/files/locks/openvino-{tag}.txt",
    "server": ROLE / "files/locks/server-{tag}.txt",
    "minilm": CHECKOUT / "tests/models/locks/minilm-{tag}.txt",
    "neural_compressor": CHECKOUT / "roles/frameworks/files/locks/neural_compressor_classic-{tag}.txt",
}


def pytest_addoption(parser):
    parser.addoption("--all-models", action="store_true", help="the large models and methods too")


def environment(name):
    """Return the Python of an environment made of one of LOCKS, kept below build/models while the lock stays the same."""
    lock = Path(str(LOCKS[name]).format(tag="cp{}{}".format(*sys.version_info)))
    directory = BUILD / f"{name}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    if not (directory / "done").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", directory], check=True)
        install = [
            directory / "bin/python",
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-compile",
            "--disable-pip-version-check",
            "--no-deps",
            "--require-hashes",
            "--only-binary",
            ":all:",
        ]
        subprocess.run([*install, "-r", lock], check=True)
        (directory / "done").touch()
    return directory / "bin/python"


@pytest.fixture(scope="session")
def python():
    """environment(), as a fixture."""
    return environment


@pytest.fixture(scope="session")
def digits(python, tmp_path_factory):
    """The directory of the example's model and data, by the factor between its channels."""
    made = {}

    def make(scale=1):
        if scale not in made:
            made[scale] = tmp_path_factory.mktemp(f"digits-{scale}")
            subprocess.run([python("quantize"), ROLE / "files/builder/example.py", "--scale", str(scale), made[scale]], check=True)
        return made[scale]

    return make


class Quantizer:
    """quantize.py with a directory of artefacts."""

    def __init__(self, interpreter, artefacts):
        self.interpreter, self.artefacts = interpreter, artefacts

    def __call__(self, *options, env=None, **specification):
        """Return (exit status, the report or None, what was said)."""
        command = [self.interpreter, ROLE / "files/builder/quantize.py", *options, "--artefacts", self.artefacts, json.dumps(specification)]
        done = subprocess.run([str(it) for it in command], capture_output=True, text=True, check=False, env=env)
        return done.returncode, json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None, done.stderr

    def model(self, directory, **more):
        """quantize the example in `directory`."""
        files = {"source": "digits.xml", "calibration": "calibration.npz", "validation": "validation.npz"}
        return self(**{"name": "digits", **{key: str(directory / value) for key, value in files.items()}, **more})


@pytest.fixture(scope="session")
def quantize(python, tmp_path_factory):
    return Quantizer(python("quantize"), tmp_path_factory.mktemp("artefacts"))
