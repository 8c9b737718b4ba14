# Copyright (c) 2026, The ainode.cpu authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A wheelhouse: a directory with the wheels of a lock, for nodes that reach no index."""

from __future__ import annotations

import json
import os
import shutil

from . import pip, venv

# What wheels for Debian 12 and later may be tagged as (PEP 600; pip asks for exactly what it is told, not for what is compatible with it).
_GLIBC = ("2_36", "2_35", "2_34", "2_31", "2_28", "2_27", "2_26", "2_24", "2_17", "2_12", "2_5")
_PLATFORMS = [f"manylinux_{glibc}_x86_64" for glibc in _GLIBC] + ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64", "any"]


def collect(want, check_mode):
    """Have the wheels of a lock, and nothing else, in want["wheelhouse"]; return the module's result. `want` are the options of the module venv."""
    if not want["wheelhouse"]:
        raise pip.Failed("state 'collected' needs the directory to collect wheels in: set wheelhouse")
    python = pip.about(want["python"])
    version = want["python_version"] or python["version"]
    lock = pip.choose_lock(want, version)
    noted = os.path.join(want["wheelhouse"], f".{want['name']}-{version}-{venv.digest(lock, {}, version)}")
    wheels = json.loads(pip.read(noted) or "null")
    complete = wheels is not None and all(os.path.isfile(os.path.join(want["wheelhouse"], wheel)) for wheel in wheels)
    result = {"changed": not complete, "digest": None, "previous": None, "wheels": wheels or []}
    if complete or check_mode:
        return result
    for name in os.listdir(want["wheelhouse"]) if os.path.isdir(want["wheelhouse"]) else []:
        if name.endswith(".whl"):
            os.unlink(os.path.join(want["wheelhouse"], name))
    scratch = os.path.join(want["wheelhouse"], f".collecting-{want['name']}-{version}")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        os.makedirs(scratch)
        # Locks name no Python and no platform (they are made for one each), so another Python than the nodes' can download for them.
        target = ["--dest", scratch, "--python-version", version, "--implementation", "cp"]
        for abi in (f"cp{version.replace('.', '')}", "abi3", "none"):
            target += ["--abi", abi]
        for platform in _PLATFORMS:
            target += ["--platform", platform]
        pip.call("download", want["python"], dict(python, version=version), lock, scratch, dict(want, wheelhouse=None), target)
        result["wheels"] = sorted(name for name in os.listdir(scratch) if name.endswith(".whl"))
        for name in result["wheels"]:
            os.replace(os.path.join(scratch, name), os.path.join(want["wheelhouse"], name))
        pip.write(noted, json.dumps(result["wheels"]))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return result
