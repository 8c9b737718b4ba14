# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Resolve locks/NAME.in anew into the hash-pinned locks/NAME-cpVERSION.txt, one for every Python that has the wheels.

    lock.py [NAME…]                           all of them without a name; needs uv (pip install uv)
    lock.py --directory roles/model_service/files/locks [NAME…]    those of another role

A framework that a Python has no wheels for gets no lock for it, and the role says so on such a node. What locks/excluded.txt names is left out of
every lock, and what locks/NAME-excluded.txt names out of NAME's; pip therefore installs a lock as it is, without asking after dependencies.
PyTorch's CPU build is not on PyPI, where "torch" is a CUDA build of gigabytes: its wheels are pinned by locks/torch-cpu.sha256 (names and hashes
as PyTorch's own CPU index lists them). To move to a newer torch, write the new names and hashes there and the new version into the .in files.
"""

from __future__ import annotations

import argparse
import pathlib
import re
import subprocess
import sys
import tempfile
import zipfile

LOCKS = pathlib.Path(__file__).resolve().parent / "locks"
PYTHONS = ("3.11", "3.12", "3.13")
# What every CPU wheel of torch 2.13 declares; a lock must be makeable without 190 MB a Python.
TORCH_REQUIRES = ("filelock", "typing-extensions>=4.10.0", "setuptools>=77.0.3", "sympy>=1.13.3", "networkx>=2.5.1", "jinja2", "fsspec>=0.8.5")


def torch_wheels():
    """Return {wheel's file name: sha256} of the CPU builds of torch."""
    return {name: sha256 for sha256, name in (line.split() for line in (LOCKS / "torch-cpu.sha256").read_text().splitlines())}


def write_stand_ins(directory):
    """Write an empty wheel of each of torch's names, with the metadata alone, for the resolver to read."""
    for name in torch_wheels():
        version = name.split("-")[1]
        metadata = ["Metadata-Version: 2.1", "Name: torch", f"Version: {version}", *(f"Requires-Dist: {it}" for it in TORCH_REQUIRES)]
        with zipfile.ZipFile(directory / name, "w") as wheel:
            wheel.writestr(f"torch-{version}.dist-info/METADATA", "\n".join(metadata) + "\n")
            wheel.writestr(f"torch-{version}.dist-info/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {'-'.join(name[:-4].split('-')[2:])}\n")
            wheel.writestr(f"torch-{version}.dist-info/RECORD", "")


def lock(directory, name, python, stand_ins):
    """Write NAME-cpXY.txt in `directory` and return None; where `python` lacks a wheel, remove it and return the resolver's last word."""
    tag = "cp" + python.replace(".", "")
    target = directory / f"{name}-{tag}.txt"
    excluded = [path for path in (LOCKS / "excluded.txt", directory / f"{name}-excluded.txt") if path.exists()]
    done = subprocess.run(
        [
            "uv",
            "pip",
            "compile",
            "--quiet",
            "--upgrade",
            "--generate-hashes",
            "--only-binary",
            ":all:",
            *(f"--excludes={path}" for path in excluded),
            "--no-header",
            "--no-annotate",
            "--no-emit-index-url",
            "--no-emit-find-links",
            "--find-links",
            str(stand_ins),
            "--python-version",
            python,
            "--python-platform",
            "x86_64-manylinux_2_28",
            str(directory / f"{name}.in"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        if "no wheels" not in done.stderr and "no usable wheels" not in done.stderr:
            sys.exit(f"lock.py: {name}, Python {python}: {done.stderr.strip()}")
        target.unlink(missing_ok=True)
        return re.search(r"[Bb]ecause (.*?)(?:,| and)", done.stderr).group(1)
    torch = " \\\n".join(f"    --hash=sha256:{sha256}" for wheel, sha256 in torch_wheels().items() if f"-{tag}-" in wheel)
    text = re.sub(r"^(torch==[^ \n]+\+cpu)(?: \\\n    --hash=\S+)*", lambda line: f"{line.group(1)} \\\n{torch}", done.stdout, flags=re.MULTILINE)
    target.write_text(text)
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=pathlib.Path, default=LOCKS, help="where the .in files lie and the locks go (default: this role's)")
    parser.add_argument("names", metavar="NAME", nargs="*", help="which of them (default: all)")
    options = parser.parse_args()
    known = sorted(path.stem for path in options.directory.glob("*.in"))
    for name in options.names:
        if name not in known:
            sys.exit(f"lock.py: there is no {options.directory / name}.in; known are {', '.join(known)}")
    with tempfile.TemporaryDirectory() as stand_ins:
        write_stand_ins(pathlib.Path(stand_ins))
        for name in options.names or known:
            for python in PYTHONS:
                refused = lock(options.directory, name, python, stand_ins)
                print(f"{name} {python}: {refused or 'locked'}", flush=True)


if __name__ == "__main__":
    main()
