# Copyright (c) 2026, The ainode.cpu authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Locked virtual environments: what names one, what is wrong with one on the disk, and what its proof says.

A lock is the text of a requirements file with one pinned version and its SHA-256 sums for each package (pip's hash-checking mode:
https://pip.pypa.io/en/stable/topics/secure-installs/). Installed files are known from each package's RECORD
(https://packaging.python.org/en/latest/specifications/recording-installed-packages/).
"""

from __future__ import annotations

import csv
import glob
import hashlib
import json
import os
import re

_PINNED = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==([^\s;\\]+)", re.MULTILINE)


def packages(lock):
    """Return {normalized package name: version} of the pinned requirements in the text `lock`."""
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in _PINNED.findall(lock)}


def digest(lock, files, python):
    """Return 16 hex digits that name the environment made of the text `lock`, of `files` ({name: text}) and for Python `python` ("3.11").

    Comments and white space in the lock do not count: the same packages under the same hashes are the same environment.
    """
    lines = sorted(line for line in (" ".join(line.split()) for line in lock.replace("\\\n", " ").splitlines()) if line and not line.startswith("#"))
    inputs = json.dumps({"lock": lines, "files": files, "python": python}, sort_keys=True)
    return hashlib.sha256(inputs.encode()).hexdigest()[:16]


def pth(environment):
    """Return the text of a .pth file that sets the variables `environment` ({name: value}) which the interpreter's caller did not."""
    return "import os; " + "; ".join(f"os.environ.setdefault({name!r}, {value!r})" for name, value in sorted(environment.items())) + "\n"


def damage(directory, files):
    """Return what is wrong with the finished environment in `directory` in one sentence, or None.

    A file that is missing or has another size than its package's RECORD says is damage (what a power cut or a full disk leaves), and so
    is one of `files` ({name below share/ainode: text}) with another text. Changes that keep a file's size are not looked for.
    """
    python = os.path.join(directory, "bin", "python")
    if not os.access(python, os.X_OK):
        return f"{python} is missing or leads to no program"
    for name, text in files.items():
        path = os.path.join(directory, "share", "ainode", name)
        try:
            with open(path, encoding="utf-8") as stream:
                if stream.read() != text:
                    return f"{path} was changed"
        except (OSError, UnicodeDecodeError):
            return f"{path} cannot be read"
    records = glob.glob(os.path.join(glob.escape(directory), "lib", "python3*", "site-packages", "*.dist-info", "RECORD"))
    if not records:
        return f"{directory} holds no installed package"
    for record in sorted(records):
        top = os.path.dirname(os.path.dirname(record))
        with open(record, encoding="utf-8", newline="") as stream:
            rows = list(csv.reader(stream))
        if not rows:
            return f"{record} is empty"
        for path, _hash, size in (row for row in rows if len(row) == 3 and row[2].isdigit()):
            if path.endswith(".pyc"):
                # Some wheels carry them (NumPy 1.26), and the interpreter writes its own in their place.
                continue
            found = os.path.normpath(os.path.join(top, path))
            try:
                if os.stat(found).st_size != int(size):
                    return f"{found} has another size than when it was installed"
            except OSError:
                return f"{found} is missing"
    return None


def verdict(output):
    """Return the audit verdict {"verdict", "live", "reason"} that a proof printed as the last line of `output`.

    Raises ValueError that says what it printed instead.
    """
    last = (output.strip().splitlines() or [""])[-1]
    try:
        row = json.loads(last)
    except ValueError:
        row = None
    if not isinstance(row, dict) or row.get("verdict") not in ("pass", "fail", "not_applicable", "advice") or not {"live", "reason"} <= set(row):
        raise ValueError(f"it printed no verdict but '{last[:400]}'")
    return row
