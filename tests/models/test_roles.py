# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The roles model_service and load_balancer on a container with systemd, step by step: deployed, audited, under load through every kind of change."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import BUILD, CHECKOUT, int8_path

LAB = CHECKOUT / "tests/lab/container"
PORT = 8600
BALANCER, GRPC_BALANCER = 8000, 8001
# What a node with this CPU serves when nothing is asked for, and what it serves when the other precision is.
USUAL, OTHER, OTHER_PRECISION = ("int8", "fp32", "f32") if int8_path() else ("fp32", "int8", "int8")


class Load:
    """load.py on the node, while something is done to it."""

    def __init__(self, node, seconds=600):
        self.node = node
        node.run("rm -f /tmp/load-stop; cat >/tmp/load.py", (CHECKOUT / "tests/models/load.py").read_text())
        command = ["/opt/ainode/venvs/model_server/current/bin/python", "/tmp/load.py", seconds, BALANCER, GRPC_BALANCER]
        self.process = subprocess.Popen([str(it) for it in (LAB, "exec", node.name, "--", *command)], stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        time.sleep(10)
        return self

    def __exit__(self, *_error):
        time.sleep(3)
        self.node.run("touch /tmp/load-stop")
        self.told = json.loads(self.process.communicate(timeout=120)[0])
        print(self.told)


class Node:
    """A Debian 12 container as a node."""

    def __init__(self, top):
        self.name, self.top = "models", top
        done = subprocess.run([LAB, "up", "--inventory", self.name, self.name], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.fail(f"no container here: {done.stderr.strip()[-300:]}")
        self.inventory = done.stdout.split()[-1]

    def down(self):
        subprocess.run([LAB, "down", "--inventory", self.name, self.name], check=True, capture_output=True)

    def apply(self, role, *options, **variables):
        """Run a role after preflight; return (exit status, number of changed tasks, all that was printed)."""
        play = self.top / f"{role}.yml"
        tasks = [{"name": name, "ansible.builtin.import_role": {"name": f"ainode.cpu.{name}"}} for name in ("preflight", role)]
        play.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
        given = {"model_service_builder_directory": str(BUILD / "builder"), "model_service_cores_per_instance": 1}
        given.update({f"{role}_{key}": value for key, value in variables.items()})
        command = [Path(sys.executable).with_name("ansible-playbook"), "-i", self.inventory, *options, "-e", json.dumps(given), play]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=CHECKOUT, timeout=1200)
        changed = re.search(r"changed=(\d+)", done.stdout)
        return done.returncode, int(changed.group(1)) if changed else None, " ".join((done.stdout + done.stderr).split())

    def run(self, script, given=""):
        """Run a shell script on the node with `given` as its standard input; return what it prints."""
        done = subprocess.run([LAB, "exec", self.name, "--", "sh", "-euc", script], input=given, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def verdicts(self, name):
        """Return {row: (verdict, live or reason)} of an audit file, as node_audit runs its rows."""
        rows = json.loads(self.run(f"cat /etc/ainode/audit.d/{name}.json"))
        said = {row["id"]: json.loads(self.run(" ".join(row["command"]))) for row in rows}
        return {key: (row["verdict"], row["live"] or row["reason"]) for key, row in said.items()}

    def exposure(self, unit):
        """Return systemd's rating of a unit."""
        return float(self.run(f"systemd-analyze security {unit} | tail -n 1").partition(": ")[2].split()[0])

    def pids(self):
        return self.run("systemctl show --property=MainPID --value ainode-model-service-0 ainode-model-service-1").split()

    def digest(self):
        """Return the version that the first instance serves."""
        return json.loads(self.run(f"curl -sf http://127.0.0.1:{PORT}/v2/models/digits"))["versions"][0]


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    there = Node(tmp_path_factory.mktemp("play"))
    there.run("apt-get -qq update && apt-get -qq install -y --no-install-recommends curl python3-venv >/dev/null")
    # Models lie on a disk of their own, that a test can fill.
    there.run("mkdir -p /opt/ainode/models && mount -t tmpfs -o size=2m tmpfs /opt/ainode/models")
    yield there
    there.down()


def test_a_check_run_changes_nothing(node):
    status, _changed, said = node.apply("model_service", "--check")
    assert status == 0, said[-3000:]
    assert node.run("ls -d /opt/ainode/m*/* /opt/ainode/venvs /etc/ainode/audit.d /etc/systemd/system/ainode-* 2>/dev/null || true") == ""


def test_the_example_is_deployed_and_answers(node):
    status, changed, said = node.apply("model_service")
    assert status == 0, said[-3000:]
    assert changed
    verdicts = node.verdicts("model-service")
    print(verdicts)
    given = "[never]" not in node.run("cat /sys/kernel/mm/transparent_hugepage/enabled || echo '[never]'")
    assert verdicts.pop("model_service.huge_pages")[0] == ("pass" if given else "not_applicable")
    assert {verdict for verdict, _live in verdicts.values()} == {"pass"}
    assert node.exposure("ainode-model-service-0") <= 2.0


def test_a_second_run_changes_nothing(node):
    before = node.pids()
    status, changed, said = node.apply("model_service")
    assert (status, changed) == (0, 0), said[-3000:]
    assert node.pids() == before


def test_a_model_that_lost_its_accuracy_is_not_deployed(node, digits):
    before, pids = node.digest(), node.pids()
    files = {"source": "digits.xml", "calibration": "calibration.npz", "validation": "validation.npz"}
    model = {"name": "digits", **{key: str(digits(400) / value) for key, value in files.items()}}
    status, _changed, said = node.apply("model_service", models=[model])
    assert status != 0
    assert re.search(r"digits: INT8 by method nncf has accuracy 0\.\d+ where FP32 has 0\.9\d+: a drop of", said), said[-2000:]
    assert "Try method nncf_accuracy_control" in said
    assert (node.digest(), node.pids()) == (before, pids)
    status, _changed, said = node.apply("model_service", models=[{**model, "method": "nncf_accuracy_control"}])
    assert status == 0, said[-3000:]
    assert node.digest() != before
    assert node.verdicts("model-service")["model_service.accuracy"][0] == "pass"


def test_the_version_before_comes_back(node):
    rescued = node.digest()
    status, _changed, said = node.apply("model_service", state="previous")
    assert status == 0, said[-3000:]
    first = node.digest()
    assert first != rescued
    assert node.apply("model_service", state="previous")[0] == 0
    assert node.digest() == rescued
    assert node.apply("model_service")[0] == 0
    assert node.digest() == first


def test_the_balancer_is_one_address(node):
    status, _changed, said = node.apply("load_balancer", "--check")
    assert status == 0, said[-3000:]
    status, _changed, said = node.apply("load_balancer")
    assert status == 0, said[-3000:]
    assert node.apply("load_balancer")[:2] == (0, 0)
    assert node.run(f"curl -sf http://127.0.0.1:{BALANCER}/v2/health/ready") == '{"ready":true}'
    assert node.run(f"curl -s -o /dev/null -w '%{{http_code}}' -X POST http://127.0.0.1:{BALANCER}/v2/%72epository/models/digits/unload") == "403"
    assert "haproxy_backend_status" in node.run(f"curl -sf http://127.0.0.1:{BALANCER}/metrics")
    assert node.exposure("ainode-load-balancer") <= 2.0
    assert {verdict for verdict, _live in node.verdicts("load-balancer").values()} == {"pass"}


def test_no_request_fails_when_an_instance_is_killed(node):
    with Load(node) as load:
        for number in (0, 1, 0, 1):
            before = node.pids()
            node.run(f"kill -9 {before[number]}")
            node.run(f"for n in $(seq 60); do sleep 1; curl -sf http://127.0.0.1:{PORT + number}/v2/health/ready && break; done")
            assert node.pids()[number] != before[number]
            time.sleep(3)
    assert load.told["requests"] > 100 and load.told["failures"] == [], load.told


def test_no_request_fails_when_a_version_is_deployed(node):
    before = node.digest()
    with Load(node) as load:
        status, _changed, said = node.apply("model_service", models=[], precision=OTHER_PRECISION)
        assert status == 0, said[-3000:]
    assert node.digest() != before and node.digest().endswith(f"-{OTHER}")
    assert load.told["requests"] > 100 and load.told["failures"] == []
    assert load.told["versions"] == sorted([before, node.digest()])


def test_no_request_fails_when_a_version_does_not_start(node):
    before = node.digest()
    with Load(node) as load:
        status, _changed, said = node.apply("model_service", precision=OTHER_PRECISION, arguments=["--no-such-option"], start_timeout=45)
        assert status != 0 and "is not ready" in said and "way back failed" not in said, said[-3000:]
        node.run(f"for n in $(seq 60); do sleep 1; curl -sf http://127.0.0.1:{PORT}/v2/health/ready && break; done")
    assert node.digest() == before
    assert load.told["failures"] == []


def test_a_corrupt_model_is_refused_and_the_old_one_stays(node, digits, tmp_path):
    before, pids = node.digest(), node.pids()
    (tmp_path / "digits.xml").write_bytes((digits() / "digits.xml").read_bytes())
    (tmp_path / "digits.bin").write_bytes((digits() / "digits.bin").read_bytes()[:1000])
    files = {"calibration": str(digits() / "calibration.npz"), "validation": str(digits() / "validation.npz")}
    status, _changed, said = node.apply("model_service", models=[{"name": "digits", "source": str(tmp_path / "digits.xml"), **files}])
    assert status != 0 and "cannot be read as a model" in said, said[-2000:]
    assert (node.digest(), node.pids()) == (before, pids)


def test_a_full_disk_leaves_the_old_one_in_service(node):
    before, pids = node.digest(), node.pids()
    node.run(f"rm -r /opt/ainode/models/*-{USUAL}; head -c 100m /dev/zero >/opt/ainode/models/fill || true")
    status, _changed, said = node.apply("model_service")
    assert status != 0 and "No space left on device" in said, said[-2000:]
    assert (node.digest(), node.pids()) == (before, pids)
    node.run("rm /opt/ainode/models/fill")
    status, _changed, said = node.apply("model_service")
    assert status == 0, said[-2000:]
    assert node.digest().endswith(f"-{USUAL}")


def test_keys_are_asked_for_and_kept_secret(node):
    status, _changed, said = node.apply("load_balancer", api_keys=["let-me-in-4711"])
    assert status == 0 and "let-me-in-4711" not in said, said[-2000:]
    url = f"http://127.0.0.1:{BALANCER}/v2/health/ready"
    assert node.run(f"curl -s -o /dev/null -w '%{{http_code}}' {url}") == "401"
    assert node.run(f"curl -s -o /dev/null -w '%{{http_code}}' -H 'Authorization: Bearer let-me-in' {url}") == "401"
    assert node.run(f"curl -s -o /dev/null -w '%{{http_code}}' -H 'Authorization: Bearer let-me-in-4711' {url}") == "200"
    found = node.run("grep -rlF let-me-in-4711 /etc /run /var/log /opt/ainode --exclude-dir=venvs || true").splitlines()
    assert len(found) == 1
    assert node.run(f"stat -c '%U %G %a' {found[0]}") == "root haproxy 640"
    assert node.run("grep -al 'let-me-in-471[1]' /proc/[0-9]*/cmdline || true") == ""
    status, _changed, said = node.apply("load_balancer", state="previous")
    assert status == 0, said[-2000:]
    assert node.run(f"curl -s -o /dev/null -w '%{{http_code}}' {url}") == "200"


def test_a_run_that_was_cut_off_is_finished_by_the_next(node):
    directory = "/etc/ainode/load-balancer"
    # Switched to the configuration with the key, which HAProxy was not told.
    node.run(f"ln -sfn $(readlink {directory}/previous.cfg) {directory}/current.cfg")
    assert node.verdicts("load-balancer")["load_balancer.in_force"][0] == "fail"
    status, changed, said = node.apply("load_balancer", api_keys=["let-me-in-4711"])
    assert (status, changed) == (0, 1), said[-2000:]
    assert node.run(f"curl -s -o /dev/null -w '%{{http_code}}' http://127.0.0.1:{BALANCER}/v2/health/ready") == "401"
    assert node.apply("load_balancer")[0] == 0


def test_a_configuration_that_haproxy_refuses_changes_nothing(node):
    services = [{"name": "models", "port": BALANCER, "servers": ["127.0.0.1:99999"]}]
    assert node.apply("load_balancer", services=services)[0] != 0
    assert node.run(f"curl -sf http://127.0.0.1:{BALANCER}/v2/health/ready") == '{"ready":true}'


def test_nothing_is_left_of_them(node):
    node.run("umount /opt/ainode/models")
    for role in ("load_balancer", "model_service"):
        status, _changed, said = node.apply(role, state="absent")
        assert status == 0, said[-3000:]
        assert node.apply(role, state="absent")[:2] == (0, 0)
    assert node.run("find /opt/ainode /etc/ainode /etc/systemd/system -name '*model*' -o -name '*balancer*'") == ""
