# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stranger's first minutes: clone, `make node`, and once more, on machines that have git, make and python3. Then the way back.

What is cloned is HEAD: commit first. The machines are containers of tests/lab.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT / "tests/lab"))

from hostile import ENVIRONMENT

CONTAINER = CHECKOUT / "tests/lab/container"
FINGERPRINT = (CHECKOUT / "tests/lab/fingerprint.py").read_text()

# Compiling the engine takes its minutes: one machine does it, the service on a running systemd is the Molecule scenario container's.
NO_SERVICES = """-e '{"ainode_services": []}'"""
# Of a caller with settings for everything, what is no setting of Ansible itself; and a proxy that is not there, once nothing is fetched any more.
CALLERS = [f"{name}={value}" for name, value in ENVIRONMENT.items()] + ["TMPDIR=/root/with a space"]
PLAYS_CALLERS = [it for it in CALLERS if it.startswith(("PIP_", "TMPDIR", "PYTHONDONT", "PYTHONPATH", "PYTHONPY"))] + [
    f"{name}=http://127.0.0.1:9/" for name in ("http_proxy", "https_proxy", "ALL_PROXY")
]
# name: (options of `container up`, Python, ansible-core, arguments of the play)
MACHINES = {
    # Unprivileged, no systemd, /sys read-only.
    "bare": (["--bare"], "3.11", "2.19", ""),
    # systemd, and /sys and /proc/sys writable: they are this machine's own, and the way back is taken whatever happens.
    "systemd": (["--privileged"], "3.11", "2.19", NO_SERVICES),
    # Another distribution, with the newest Python and ansible-core; systemd is installed and does not run.
    "trixie": (["--bare", "--image", "trixie"], "3.13", "2.21", """-e '{"ainode_services": ["frameworks"]}'"""),
}


class Machine:
    def __init__(self, name):
        self.name = f"make-node-{name}"

    def run(self, *command, check=True, stdin=b""):
        """Run a command inside and return what it prints, both streams."""
        words = [CONTAINER, "exec", self.name, "--", *command]
        done = subprocess.run(words, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        text = done.stdout.decode()
        assert done.returncode == 0 or not check, f"{' '.join(command)} ended with {done.returncode}:\n{text}"
        return text

    def make(self, target, arguments="", environment=()):
        """Run make; with an `environment`, for a caller whose umask is 077."""
        words = ["make", "--no-print-directory", "-C", "/root/clone", target, f"ARGS={arguments}"]
        return self.run("env", *environment, "sh", "-c", f'umask 0{77 if environment else 22}; exec "$@"', "sh", *words)

    def playbook(self, name, environment=()):
        return self.run("env", "LC_ALL=C.UTF-8", *environment, "sh", "-c", f"cd /root/clone && .venv/bin/ansible-playbook playbooks/{name}")

    def fingerprint(self):
        return self.run("python3", "-", stdin=FINGERPRINT.encode()).splitlines()


@pytest.fixture(params=MACHINES)
def machine(request):
    """(machine with a clone and nothing else done, expected Python, expected ansible-core, arguments of the play)"""
    options, python, core, arguments = MACHINES[request.param]
    machine = Machine(request.param)
    subprocess.run([CONTAINER, "up", *options, "--inventory", machine.name, machine.name], check=True)
    try:
        bundle = subprocess.run(["git", "bundle", "create", "-q", "-", "HEAD"], cwd=CHECKOUT, check=True, stdout=subprocess.PIPE).stdout
        umask = "077" if request.param == "bare" else "022"
        machine.run("sh", "-c", f"umask {umask}; cat >/root/clone.bundle && git clone -q /root/clone.bundle /root/clone", stdin=bundle)
        yield machine, python, core, arguments
    finally:
        subprocess.run([CONTAINER, "down", "--inventory", machine.name, machine.name], check=True)


def recap(output):
    """{counter: value} of the one host in a play's recap."""
    (line,) = re.findall(r"^localhost +: (.*)$", output, re.MULTILINE)
    return {name: int(value) for name, value in (field.split("=") for field in line.split())}


def test_make_node(machine, request):
    machine, python, core, arguments = machine
    if "bare" in request.node.callspec.id:
        assert "Read-only file system" in machine.run("sh", "-c", "touch /sys/probe", check=False)
        assert machine.run("sh", "-c", "command -v systemctl", check=False) == ""

    # One of the machines has a caller from hell, and a /tmp where nothing can be executed.
    hell = CALLERS if "bare" in request.node.callspec.id else ()
    machine.run("mkdir", "-p", "/root/with a space")
    machine.make("setup", environment=hell)
    version = machine.run("sh", "-c", "LC_ALL=C.UTF-8 /root/clone/.venv/bin/ansible --version")
    assert f"[core {core}." in version
    assert f"python version = {python}." in version
    if not arguments:
        # Debian's packages that the engine is built with stay behind after a rollback: others may have come to use them.
        machine.run("/root/clone/roles/vector_search/files/vnni-search/build.sh", "--dependencies")
    before = machine.fingerprint()
    assert len(before) > 100
    try:
        first = machine.make("node", arguments, hell)
        assert re.search(r"\d+ rows: 0 fail, ", first), first
        assert recap(first)["failed"] == 0
        assert recap(first)["changed"] > 0
        if not arguments:
            # No systemd: the services are started for one request and stopped again.
            assert re.search(r"pass +vector_search.whole_dataset +50000 rows", first), first
            assert re.search(r"pass +model_service.answers +digits on", first), first
            assert re.search(r"(pass|advice) +framework.openvino ", first), first

        second = machine.make("node", arguments)
        assert re.search(r"\d+ rows: 0 fail, ", second), second
        assert recap(second)["changed"] == 0, second
        if hell:
            third = machine.playbook("ai-node.yml", PLAYS_CALLERS)
            assert recap(third)["changed"] == 0, third

        machine.playbook("verify.yml")
    finally:
        machine.playbook("rollback.yml")
    assert machine.fingerprint() == before
