# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role model_service on a fleet where it is least at home: unprivileged containers without systemd and with a read-only /sys, one of Debian 13 that
quantizes for both, and one of Debian 12 that shows the processor of a Xeon X7550, which has no INT8 instructions."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import BUILD, CHECKOUT, ROLE, int8_path

LAB = CHECKOUT / "tests/lab"
sys.path.insert(0, str(LAB))

import lab

# name: (image, described machine of tests/unit/machines.py or "" for this one)
HOSTS = {"builder": ("trixie", ""), "legacy": ("bookworm", "sparse-nodes")}


def container(*words, **options):
    return subprocess.run([LAB / "container", *words], check=True, capture_output=True, text=True, **options).stdout


class Fleet:
    """The containers, reached by an sshd that each connection starts for itself."""

    def __init__(self, top):
        self.top = top
        inventory = {}
        for name, (image, machine) in HOSTS.items():
            container("up", "--bare", "--image", image, f"models-{name}" + (f"={machine}" if machine else ""))
            for path, text in lab.guest_ssh_files().items():
                self.run(name, f"umask 77; mkdir -p /run/sshd {Path(path).parent}; cat >{path}", text)
            self.run(name, "apt-get -qq update && apt-get -qq install -y --no-install-recommends python3-venv >/dev/null")
            login = [str(LAB / "container"), "exec", f"models-{name}", "--", "/usr/sbin/sshd", "-i", "-o", "UsePAM=no"]
            options = [*lab.ssh_options(), "-o", f"ProxyCommand={shlex.join(login)}"]
            inventory[name] = {"ansible_user": "root", "ansible_ssh_common_args": shlex.join(options), "ansible_python_interpreter": "/usr/bin/python3"}
        self.run("legacy", "printf '[global]\nindex-url = http://127.0.0.1:9/\nretries = 0\n' >/etc/pip.conf")
        self.inventory = top / "inventory.json"
        self.inventory.write_text(json.dumps({"all": {"hosts": inventory}}))

    def apply(self, *options, **variables):
        """Run preflight and the role on both; return (exit status, {host: number of changed tasks}, all that was printed)."""
        play = self.top / "play.yml"
        tasks = [{"name": name, "ansible.builtin.import_role": {"name": f"ainode.cpu.{name}"}} for name in ("preflight", "model_service")]
        play.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
        # Packages come to legacy by the machine that runs the play alone.
        wheels = f"{{{{ '{self.top}/wheels' if inventory_hostname == 'legacy' else '' }}}}"
        given = {"model_service_builder": "builder", "model_service_instances": 1, "model_service_wheelhouse": wheels}
        given.update({f"model_service_{key}": value for key, value in variables.items()})
        command = [Path(sys.executable).with_name("ansible-playbook"), "-i", self.inventory, *options, "-e", json.dumps(given), play]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=CHECKOUT, timeout=1200)
        changed = {host: int(count) for host, count in re.findall(r"^(\S+) +: .*changed=(\d+)", done.stdout, re.MULTILINE)}
        return done.returncode, changed, " ".join((done.stdout + done.stderr).split())

    def run(self, host, script, given=""):
        """Run a shell script on a host with `given` as its standard input; return what it prints."""
        return container("exec", f"models-{host}", "--", "sh", "-euc", script, input=given).strip()

    def verdicts(self, host):
        """Return {row: (verdict, live or reason)} of the role's audit, as node_audit runs its rows."""
        said = {}
        for row in json.loads(self.run(host, "cat /etc/ainode/audit.d/model-service.json")):
            told = json.loads(self.run(host, shlex.join(row["command"])))
            said[row["id"].partition(".")[2]] = (told["verdict"], told["live"] or told["reason"])
        return said


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    there = Fleet(tmp_path_factory.mktemp("fleet"))
    yield there
    container("down", *(f"models-{name}" for name in HOSTS))


def test_it_is_served_where_systemd_does_not_run(fleet):
    status, _changed, said = fleet.apply()
    assert status == 0, said[-3000:]
    for host in HOSTS:
        assert fleet.run(host, "ls -d /run/systemd/system 2>/dev/null || echo none") == "none"
        verdicts = fleet.verdicts(host)
        # The service is started for the requests of `answers` and stopped again.
        assert verdicts["answers"] == ("pass", "digits on 1 of 1 instances"), verdicts
        assert {row for row, (verdict, _live) in verdicts.items() if verdict == "pass"} == {"accuracy", "int8", "answers"}
        assert {row for row, (verdict, _live) in verdicts.items() if verdict == "not_applicable"} == {"pinned", "huge_pages"}
        assert fleet.run(host, "grep -l serve[.]py /proc/[0-9]*/cmdline || true") == ""


def test_a_second_run_changes_nothing(fleet):
    status, changed, said = fleet.apply()
    assert (status, changed) == (0, dict.fromkeys(HOSTS, 0)), said[-3000:]


def test_int8_is_for_processors_that_have_instructions_for_it(fleet):
    served = {host: fleet.verdicts(host)["int8"][1] for host in HOSTS}
    path = int8_path()  # the builder shows this machine's
    assert served["builder"] == (f"digits: int8; the processor has {path}" if path else served["legacy"])
    assert served["legacy"] == "digits: fp32; the processor has no INT8 instructions"
    assert "--precision=f32" in fleet.run("legacy", "cat /etc/systemd/system/ainode-model-service-0.service")


def test_another_host_quantized(fleet):
    assert fleet.run("builder", "ls /var/cache/ainode/model-service") != ""
    assert fleet.run("legacy", "ls -d /var/cache/ainode/model-service /var/cache/ainode/wheels/* 2>/dev/null || echo none") == "none"
    digests = [json.loads(fleet.run(host, "cat /opt/ainode/model-service/current/digits/report.json"))["digest"] for host in HOSTS]
    assert digests[0] == digests[1]


def test_what_no_version_needs_is_removed(tmp_path):
    home, models, units = (tmp_path / name for name in ("model-service", "models", "units"))
    for version, model in (("a", "1-int8"), ("b", "2-int8"), ("c", "2-int8"), ("d", "3-int8")):
        for path in (home / version, models / model):
            path.mkdir(parents=True, exist_ok=True)
        (home / version / "digits").symlink_to(models / model)
    for name in ("server-1", "server-2", "server-10"):
        (home / name).mkdir()
    units.mkdir()
    (units / "ainode-model-service-0.service").write_text(f"ExecStart=/opt/python {home}/server-1/serve.py --repository={home}/c\n")
    (home / "current").symlink_to(home / "c")
    (home / "previous").symlink_to(home / "b")
    command = [sys.executable, ROLE / "files/sweep.py", home, models, units]
    removed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert removed == [str(path) for path in (home / "a", home / "d", home / "server-10", home / "server-2", models / "1-int8", models / "3-int8")]
    assert sorted(path.name for path in home.iterdir()) == ["b", "c", "current", "previous", "server-1"]
    assert [path.name for path in models.iterdir()] == ["2-int8"] and (home / "current/digits").is_dir()
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "", "nothing is left to remove"


def test_nothing_is_left_of_it(fleet):
    status, _changed, said = fleet.apply(state="absent")
    assert status == 0, said[-3000:]
    assert fleet.apply(state="absent")[:2] == (0, dict.fromkeys(HOSTS, 0))
    for host in HOSTS:
        assert fleet.run(host, "find /opt/ainode /etc/ainode /etc/systemd/system -name '*model*'") == ""


def test_a_model_by_url_is_one_with_a_checksum(tmp_path):
    """Of the role the builder's part alone, on this machine."""
    example = BUILD / "builder/example"
    tasks = [{"ansible.builtin.include_role": {"name": "ainode.cpu.model_service", "tasks_from": "{{ part }}"}}]
    (tmp_path / "play.yml").write_text(json.dumps([{"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}]))

    def apply(part, models):
        given = {"part": part, "model_service_builder_directory": str(BUILD / "builder"), "model_service_models": models}
        command = [Path(sys.executable).with_name("ansible-playbook"), tmp_path / "play.yml", "-e", json.dumps(given)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=CHECKOUT, timeout=1200)
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    status, said = apply("build", [])
    assert status == 0, said[-3000:]
    # A URL brings one file; the other half of an OpenVINO IR is there already.
    shutil.copy(example / "digits.bin", tmp_path / "fetched.bin")
    model = {"name": "fetched", "source": str(tmp_path / "fetched.xml"), "url": f"file://{example}/digits.xml", "method": "none"}
    status, said = apply("main", [model])
    assert status != 0 and "the model fetched has a URL, and no checksum of the form sha256:" in said, said[-2000:]
    status, said = apply("build", [{**model, "checksum": "sha256:" + "0" * 64}])
    assert status != 0 and "did not match 0000" in said and not Path(model["source"]).exists(), said[-2000:]
    digest = hashlib.sha256((example / "digits.xml").read_bytes()).hexdigest()
    status, said = apply("build", [{**model, "checksum": f"sha256:{digest}"}])
    assert status == 0 and Path(model["source"]).exists(), said[-3000:]
