# Copyright (c) 2026, The ainode.cpu authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What the audit's probes of our services share: the units as they stand, a program started for a moment, the verdict as JSON.

A role ships this beside its own probe.py, which says what is judged: `probe.py ROW` prints {"verdict", "live", "reason"}. Python's standard library alone.
"""

from __future__ import annotations

import contextlib
import glob
import inspect
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

UNITS = "/etc/systemd/system/ainode-{}-*.service"
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "[::]": "[::1]", "::1": "[::1]"}


class Failed(Exception):
    """The row's verdict is fail; the text says why."""


class Unit:
    """An instance, as its unit describes it: `command` (words), `options` {name: value of --name=value}, `environment`, `credentials` {name: path},
    `cpus` and `memory_nodes` (sets of ids)."""

    def __init__(self, path):
        self.name = os.path.basename(path)
        lines = [line.partition("=") for line in read(path).splitlines() if "=" in line]
        settings = {key: value for key, _dummy, value in lines}
        self.environment = dict(shlex.split(value)[0].split("=", 1) for key, _dummy, value in lines if key == "Environment")
        self.credentials = dict(value.split(":", 1) for key, _dummy, value in lines if key == "LoadCredential")
        self.command = [word.replace("$$", "$").replace("%%", "%") for word in shlex.split(settings["ExecStart"])]
        for name, file in self.credentials.items():
            self.command = [word.replace("%d/" + name, file) for word in self.command]
        self.options = dict(word[2:].partition("=")[::2] for word in self.command if word.startswith("--"))
        self.cpus, self.memory_nodes = expand(settings["CPUAffinity"]), expand(settings.get("NUMAMask", ""))

    def property(self, name):
        """Return what systemd says of the unit."""
        return subprocess.run(["systemctl", "show", "--value", f"--property={name}", self.name], capture_output=True, text=True, check=True).stdout.strip()

    def pid(self):
        """Return the main process of the running unit; Failed when there is none."""
        pid = int(self.property("MainPID"))
        if not pid:
            raise Failed(f"{self.name} does not run ({self.property('ActiveState')})")
        return pid

    def runs_with(self):
        """Return the environment that the unit's program has: of the running process, where systemd runs it."""
        if not has_systemd():
            return {**os.environ, **self.environment}
        return dict(entry.split("=", 1) for entry in read(f"/proc/{self.pid()}/environ").split("\0") if "=" in entry)


def units(service):
    """Return the units of a service, sorted; Failed when it has none."""
    paths = sorted(glob.glob(UNITS.format(service)))
    if not paths:
        raise Failed(f"there is no unit {UNITS.format(service)}")
    return [Unit(path) for path in paths]


def has_systemd():
    """Whether systemd runs here, and with it the services."""
    return os.path.isdir("/run/systemd/system")


def expand(cpulist):
    """Return the set of ids in a kernel cpulist."""
    ranges = [part.split("-") for part in cpulist.split(",") if part]
    return {number for ends in ranges for number in range(int(ends[0]), int(ends[-1]) + 1)}


def read(path):
    """Return the text of a file."""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def local_url(address, port):
    """Return the URL by which this machine reaches what listens on an address."""
    return f"http://{ANYWHERE.get(address, address)}:{port}"


def ask(url, body=None, key_file=None):
    """Return the text that is answered to GET, or to `body` as JSON; `key_file` holds a bearer token. Raises Failed with the text of an error, and OSError."""
    headers = {"Content-Type": "application/json"}
    if key_file:
        headers["Authorization"] = "Bearer " + read(key_file).strip()
    request = urllib.request.Request(url, data=body and json.dumps(body).encode(), headers=headers)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        raise Failed(f"{url} answers {error.code}: {error.read().decode('utf-8', 'replace')[:300]}") from None


@contextlib.contextmanager
def running(unit, ready_url, command=None, seconds=120):
    """Within, the instance answers: systemd runs it, or it is started as its unit says (with `command` instead of its own) and stopped again. Raises Failed."""
    if has_systemd():
        unit.pid()
        yield
        return
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command or unit.command,
            user="ainode",
            group="ainode",
            extra_groups=[],
            cwd="/",
            env={**os.environ, **unit.environment},
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        try:
            deadline = time.monotonic() + seconds
            while True:
                with contextlib.suppress(OSError, Failed):
                    ask(ready_url)
                    break
                if process.poll() is not None or time.monotonic() > deadline:
                    errors.seek(0)
                    raise Failed(f"started for a request, {unit.name} was not ready: {errors.read().decode('utf-8', 'replace').strip()[-300:]}")
                time.sleep(0.2)
            yield
        finally:
            process.kill()
            process.wait()


def main(rows, lasting=()):
    """Print the verdict of the row that the command line names. `rows`: {name: function that returns (verdict, live, reason) or raises}, called with
    the further words of the command line; `lasting` are those about a service that keeps running, which do not apply where systemd does not run."""
    name, arguments = (sys.argv[1:2] or [None])[0], sys.argv[2:]
    try:
        inspect.signature(rows[name]).bind(*arguments)
    except (KeyError, TypeError):
        raise SystemExit(f"usage: probe.py {{{','.join(rows)}}} [ARGUMENT...]") from None
    if name in lasting and not has_systemd():
        verdict, live, reason = "not_applicable", None, "systemd does not run here, so no service keeps running"
    else:
        try:
            verdict, live, reason = rows[name](*arguments)
        except (Failed, OSError, ValueError, KeyError, subprocess.CalledProcessError) as error:
            verdict, live, reason = "fail", None, f"{error} {getattr(error, 'stderr', None) or ''}".strip()
    sys.stdout.write(json.dumps({"verdict": verdict, "live": live, "reason": reason}) + "\n")
