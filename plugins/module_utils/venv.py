# Copyright (c) 2026, The ainode.cpu authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Locked virtual environments: what names one, what is wrong with one on the disk, and what pip's failure means.

A lock is the text of a requirements file with one pinned version and its SHA-256 sums for each package (pip's hash-checking mode:
https://pip.pypa.io/en/stable/topics/secure-installs/). Installed files are known from each package's RECORD
(https://packaging.python.org/en/latest/specifications/recording-installed-packages/).
"""

from __future__ import annotations

import ast
import csv
import glob
import hashlib
import json
import os
import re

# How pip reaches an index: https://pip.pypa.io/en/stable/cli/pip/#general-options
_PIP_SETTINGS = {
    "cert", "client-cert", "default-timeout", "extra-index-url", "find-links", "index-url", "keyring-provider", "no-index", "proxy", "retries", "timeout",
    "trusted-host",
}  # fmt: skip
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


def clean(environment):
    """Return the variables of `environment` without those that make an interpreter or the linker load other files than it would by itself.

    An environment is made and proven as the services and the audit start it, whoever's session runs the play.
    """
    return {name: value for name, value in environment.items() if not name.startswith(("PYTHON", "LD_"))}


def pip_environment(environment, configured):
    """Return the variables for a pip that knows the node's way to an index and nothing else of the node's or the caller's settings.

    `configured` is what `pip config list` printed: of its variables, files and commands. A node may say where packages come from; where they go to,
    and which, is for the lock and the command line to say (PIP_USER, PIP_TARGET, PIP_DRY_RUN or a constraint would put another environment into service).
    https://pip.pypa.io/en/stable/topics/configuration/
    """
    settings = {}
    # Of the same setting, a command's own counts more than the global one, and a variable most.
    ranks = {"global": 0, "site": 0, "user": 0, "install": 1, "download": 1, ":env:": 2}
    lines = [line.partition("=") for line in configured.splitlines() if "=" in line]
    for rank in (0, 1, 2):
        for key, _dummy, value in lines:
            section, _dummy, option = key.rpartition(".")
            if ranks.get(section) == rank and option in _PIP_SETTINGS:
                settings[f"PIP_{option.upper().replace('-', '_')}"] = ast.literal_eval(value).replace("\n", " ").strip()
    others = {name: value for name, value in environment.items() if not name.startswith("PIP_")}
    return {**others, "PIP_CONFIG_FILE": os.devnull, **settings}


def pip_arguments(index):
    """Return the arguments that tell pip where to look.

    `index` is a dict with index_url, extra_index_urls (list), wheelhouse (a directory: nothing else is asked), constraint (a file), proxy (URL),
    ca_bundle (a file) and cache (a directory; pip keeps no cache without it). What is None or empty is left to the node's own pip.conf.
    """
    arguments = ["--no-input", "--disable-pip-version-check", "--retries", "2", "--timeout", "30"]
    arguments += ["--cache-dir", index["cache"]] if index.get("cache") else ["--no-cache-dir"]
    if index.get("wheelhouse"):
        arguments += ["--no-index", "--find-links", index["wheelhouse"]]
    else:
        if index.get("index_url"):
            arguments += ["--index-url", index["index_url"]]
        for url in index.get("extra_index_urls") or []:
            arguments += ["--extra-index-url", url]
    for option, name in (("--constraint", "constraint"), ("--proxy", "proxy"), ("--cert", "ca_bundle")):
        if index.get(name):
            arguments += [option, index[name]]
    return arguments


def explain(output, python, index):
    """Return in one sentence why pip failed and what to do, from its `output` for Python `python` ("3.11") and the `index` given to it."""
    if "No space left on device" in output or "Errno 28" in output:
        return "the disk is full: make room there or set another directory"
    if "DO NOT MATCH THE HASHES" in output:
        package = re.search(r"DO NOT MATCH THE HASHES.*?\n\s+(\S+==\S+|\S+).*?Expected sha256 (\w+).*?Got\s+(\w+)", output, re.DOTALL)
        what = "a package has another SHA-256 than its lock says"
        if package:
            what = f"{package.group(1)} has the SHA-256 {package.group(3)} where the lock says {package.group(2)}"
        return f"{what}: the index or wheelhouse serves another file than the one that was locked; find out why before you make the lock anew"
    if "Hashes are required" in output or "must have their versions pinned" in output:
        package = re.search(r"^\s+(\S+==\S+|\S+).*--hash=", output, re.MULTILINE)
        return f"the lock is incomplete: {package.group(1) if package else 'a package'} has no hash in it; make the lock anew"
    missing = re.search(r"(?:No matching distribution found for|satisfies the requirement) (\S+)", output)
    # The most telling of what urllib3 says about one failed attempt, without the quotes and objects around it.
    unreachable = re.search(
        r"Failed to establish a new connection[^'\"\n]*|Failed to resolve [^\n]*?\)|CERTIFICATE_VERIFY_FAILED[^'\"\n]*|Cannot connect to proxy|"
        r"Connection to \S+ timed out|Read timed out|Max retries exceeded|Could not fetch URL \S+",
        output,
    )
    if unreachable:
        where = index.get("index_url") or "the index"
        return f"{where} cannot be reached ({unreachable.group(0).rstrip(')')}): set the index, the proxy or the CA bundle, or give a wheelhouse"
    if missing:
        where = f"the wheelhouse {index['wheelhouse']}" if index.get("wheelhouse") else "the index"
        return f"{where} has no wheel of {missing.group(1)} for Python {python} on this machine: use a Python that it has wheels for, or the right index"
    errors = [line for line in output.splitlines() if line.startswith("ERROR")] or output.strip().splitlines() or ["it said nothing"]
    return errors[-1][:400]


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
