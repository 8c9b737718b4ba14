# Copyright (c) 2026, The ainode.cpu authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""pip as an environment's maker calls it: what it may know of its surroundings, and what its failure means.

Source: https://pip.pypa.io/en/stable/
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess

from ..host.host import Host, file

# How pip reaches an index: https://pip.pypa.io/en/stable/cli/pip/#general-options
_PIP_SETTINGS = {
    "cert", "client-cert", "default-timeout", "extra-index-url", "find-links", "index-url", "keyring-provider", "no-index", "proxy", "retries", "timeout",
    "trusted-host",
}  # fmt: skip
# What the interpreter says of itself; where its ensurepip keeps pip's wheel is the distribution's choice (Debian: WHEEL_PKG_DIR).
_ABOUT = """
import glob, json, os, sys, sysconfig
found = []
try:
    import ensurepip
    for directory in (sysconfig.get_config_var("WHEEL_PKG_DIR"), os.path.join(os.path.dirname(ensurepip.__file__), "_bundled")):
        found += sorted(glob.glob(os.path.join(directory, "pip-*.whl"))) if directory else []
except ImportError:
    pass
print(json.dumps({"version": "%d.%d" % sys.version_info[:2], "pip": found[-1] if found else None}))
"""
# pip runs out of its wheel, as ensurepip itself runs it: an environment that holds what is locked and nothing else needs no pip inside.
_PIP = "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); runpy.run_module('pip', run_name='__main__', alter_sys=True)"


class Failed(Exception):
    """One sentence for the user; the environment in service is still the old one."""


def clean(environment):
    """Return the variables of `environment` without those that make an interpreter or the linker load other files than it would by itself.

    An environment is made and proven as the services and the audit start it, whoever's session runs the play.
    """
    return {name: value for name, value in environment.items() if not name.startswith(("PYTHON", "LD_"))}


def environment(environment, configured):
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


def arguments(index):
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


def run(command, message):
    """Return what `command` printed. Raises Failed with `message` and the last line of that when it ends with another status than 0."""
    environment = clean(os.environ)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False, env=environment)
    output = done.stdout.decode("utf-8", "replace")
    if done.returncode:
        raise Failed(explain(output, "", {}) if "No space left" in output else message.format((output.strip().splitlines() or ["it said nothing"])[-1]))
    return output


def call(action, interpreter, python, lock, scratch, index, more=()):
    """Let pip "install" or "download" the text `lock` with `interpreter`; raises Failed that says why it could not.

    pip comes out of the wheel of `python`, as about() found it. Its temporary files, as large as the packages, go to the directory `scratch`.
    """
    if not python["pip"]:
        raise Failed("Python cannot make environments: install Debian's python3-venv, or whatever brings the ensurepip of the interpreter named")
    requirements = os.path.join(scratch, "lock.txt")
    write(requirements, lock)
    # The lock is whole: what it leaves out of a package's dependencies it leaves out on purpose.
    options = ["--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:", "-r", requirements]
    program = [interpreter, "-c", _PIP, python["pip"]]
    inherited = {**clean(os.environ), "TMPDIR": scratch, "LC_ALL": "C.UTF-8"}
    told = subprocess.run([*program, "config", "list"], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, check=False, cwd="/", env=inherited)
    done = subprocess.run(
        [*program, action, *options, *more, *arguments(index)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False, cwd="/",
        env=environment(inherited, told.stdout.decode("utf-8", "replace")),
    )  # fmt: skip
    if done.returncode:
        raise Failed(explain(done.stdout.decode("utf-8", "replace"), python["version"], index))


def about(python):
    """Return {"version": "3.11", "ensurepip": bool} of the interpreter `python`. Raises Failed when it is none."""
    try:
        return json.loads(run([python, "-c", _ABOUT], "{0}"))
    except (OSError, ValueError, Failed) as error:
        raise Failed(f"'{python}' is no Python interpreter ({error}): install python3 or name another one") from None


def write(path, text):
    """Write `text` to `path`; its directory is made when it is missing."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    Host("/").put(path, file(text))


def read(path):
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except OSError:
        return None


def choose_lock(want, version):
    if version not in want["locks"]:
        raise Failed(
            f"there is no lock for Python {version}: its wheels exist for Python {', '.join(sorted(want['locks'])) or '(none)'}; "
            "name such an interpreter, or make a lock"
        )
    return want["locks"][version]
