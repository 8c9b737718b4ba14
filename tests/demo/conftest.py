# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""pytest tests/demo    the ranker and the corpus by themselves; the demo on a container with systemd, its page in headless Chromium

The builder is this machine: what it makes is kept below build, so that a second run takes a fraction of the first.
"""

from __future__ import annotations

import json
import re
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
LAB = CHECKOUT / "tests/lab/container"
BUILDER = CHECKOUT / "build/demo/builder"
# No byte code beside the role's programs.
sys.dont_write_bytecode = True
sys.path[:0] = [str(CHECKOUT / "tests/lab"), str(CHECKOUT / "roles/demo/files/builder"), str(CHECKOUT / "roles/demo/files/page")]

# The engine is that of the other tests, and so is the environment that quantizes.
VARIABLES = {
    "demo_builder_directory": str(BUILDER),
    "model_service_builder_directory": str(CHECKOUT / "build/models/builder"),
    "vector_search_builder_directory": str(CHECKOUT / "build/vector-search"),
}


class Node:
    """A Debian 12 container with the demo."""

    def __init__(self):
        done = subprocess.run([LAB, "up", "--inventory", "demo", "demo"], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.fail(f"no container here: {done.stderr.strip()[-300:]}")
        self.inventory = done.stdout.split()[-1]

    def down(self):
        subprocess.run([LAB, "down", "--inventory", "demo", "demo"], check=True, capture_output=True)

    def play(self, *options, **variables):
        """Run playbooks/demo.yml; return (exit status, number of changed tasks, all that was printed)."""
        command = [Path(sys.executable).with_name("ansible-playbook"), "-i", self.inventory, *options]
        command += ["-e", json.dumps({**VARIABLES, **variables}), CHECKOUT / "playbooks/demo.yml"]
        done = subprocess.run([str(it) for it in command], capture_output=True, text=True, check=False, cwd=CHECKOUT, timeout=1500)
        changed = re.search(r"changed=(\d+)", done.stdout)
        return done.returncode, int(changed.group(1)) if changed else None, " ".join((done.stdout + done.stderr).split())

    def run(self, script, given=""):
        """Run a shell script on the node with `given` as its standard input; return what it prints."""
        done = subprocess.run([LAB, "exec", "demo", "--", "sh", "-euc", script], input=given, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def ask(self, query, *options):
        """Return (status, headers in lower case, JSON) of the page's answer."""
        script = f"curl -s -i -G {' '.join(options)} --data-urlencode {shlex.quote('q=' + query)} http://127.0.0.1:8080/api/search"
        head, _blank, body = self.run(script).replace("\r\n", "\n").partition("\n\n")
        return int(head.split()[1]), head.lower(), json.loads(body)

    def tunnel(self):
        """Return (the ssh process, the port here) of a way to the page, which listens on the node's loopback alone."""
        told = json.loads(Path(self.inventory).read_text())["ainode"]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        words = shlex.split(told["vars"]["ansible_ssh_common_args"])
        host = told["hosts"]["demo"]
        process = subprocess.Popen(
            ["ssh", *words, "-N", "-L", f"{port}:127.0.0.1:8080", "-p", str(host["ansible_port"]), f"root@{host['ansible_host']}"], stdin=subprocess.DEVNULL
        )
        for _attempt in range(50):
            with socket.socket() as there:
                if there.connect_ex(("127.0.0.1", port)) == 0:
                    return process, port
            time.sleep(0.2)
        process.terminate()
        pytest.fail("no ssh tunnel to the container")


@pytest.fixture(scope="module")
def node():
    there = Node()
    there.run("apt-get -qq update && apt-get -qq install -y --no-install-recommends curl >/dev/null")
    yield there
    there.down()


@pytest.fixture(scope="module")
def browser(node, tmp_path_factory):
    """Headless Chromium at the page."""
    import lab
    from selenium import webdriver

    lab.need("chromium", "chromedriver")
    tunnel, port = node.tunnel()
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update disable-sync"
    for flag in [*flags.split(), f"user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument("--" + flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    driver.base = f"http://127.0.0.1:{port}/"
    yield driver
    driver.quit()
    tunnel.terminate()
    tunnel.wait()
