# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""pinned_service on a running systemd: what the units really do, step by step on one host."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
LAB = REPOSITORY / "tests/lab/container"
HOST = "pinned-service"
INVENTORY = REPOSITORY / "build/lab" / f"{HOST}.yml"


def run(*command, **options):
    return subprocess.run([str(word) for word in command], cwd=REPOSITORY, capture_output=True, text=True, check=False, **options)


def on_host(script):
    """Run a shell script on the host and return what it prints."""
    done = run(LAB, "exec", HOST, "--", "sh", "-euc", script)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module", autouse=True)
def host():
    up = run(LAB, "up", "--inventory", HOST, HOST)
    assert up.returncode == 0, up.stderr
    server = (REPOSITORY / "tests/integration/demo_server.py").read_text()
    on_host(f"useradd --system ainode; mkdir /opt/demo; printf one >/opt/demo/data; cat >/opt/demo/server.py <<'END'\n{server}\nEND")
    yield
    run(LAB, "down", "--inventory", HOST, HOST)


def pinned_service(*, check=False, instances=2, ready="ready", port=9100, **options):
    """Run the module on the host; returns its result, with `failed` where it failed."""
    arguments = {"name": "demo", **options}
    if options.get("state") != "absent":
        arguments.update(
            instances=[
                {"name": f"demo-{n}", "cpus": str(n), "threads": 1, "memory_node": None, "memory_policy": None, "env": {"OMP_NUM_THREADS": "1"}}
                for n in range(instances)
            ],
            command=["/usr/bin/python3", "/opt/demo/server.py", "{port}", "/opt/demo/data", ready],
            port=port,
            notify=True,
            ready_url="http://127.0.0.1:{port}/ready",
            serves_url="http://127.0.0.1:{port}/",
            timeout=8,
        )
    done = run(
        REPOSITORY / ".venv/bin/ansible", HOST, "-i", INVENTORY, "-m", "ainode.cpu.pinned_service", "-a", json.dumps(arguments),
        *(["--check"] if check else []), env={**os.environ, "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.minimal", "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"},
    )  # fmt: skip
    assert "=> {" in done.stdout, done.stdout + done.stderr
    return {"failed": "FAILED! =>" in done.stdout, **json.loads(done.stdout[done.stdout.index("=> {") + 3 :])}


def actions(result):
    return [unit["action"] for unit in result["units"]]


def pids():
    return on_host("systemctl show --property=MainPID --value ainode-demo-0 ainode-demo-1").split()


def answer(port):
    return on_host(f"python3 -c 'import urllib.request; print(urllib.request.urlopen(\"http://127.0.0.1:{port}\").read().decode())'")


def test_first_run_starts_pinned_sandboxed_instances():
    predicted = pinned_service(check=True, data="one")
    assert actions(predicted) == ["start", "start"]
    assert on_host("ls /etc/systemd/system | grep -c ainode || true") == "0"
    result = pinned_service(data="one")
    assert result["changed"] and result["running"]
    assert actions(result) == actions(predicted)
    assert [on_host(f"taskset -pc {pid}").rpartition(" ")[2] for pid in pids()] == ["0", "1"]
    assert answer(9100) == answer(9101) == "one"
    assert float(on_host("systemd-analyze security ainode-demo-0 | tail -n 1").partition(": ")[2].split()[0]) <= 2.0
    assert on_host("systemctl is-enabled ainode-demo-0 ainode-demo-1").split() == ["enabled", "enabled"]


def test_second_run_changes_nothing():
    before = pids()
    result = pinned_service(data="one")
    assert not result["changed"] and actions(result) == [None, None]
    assert pids() == before


def test_new_data_is_reloaded_without_a_restart():
    before = pids()
    on_host("printf two >/opt/demo/data")
    assert actions(pinned_service(data="two")) == ["reload", "reload"]
    assert pids() == before
    assert answer(9100) == answer(9101) == "two"


def test_data_that_is_not_served_fails_and_the_old_stays():
    result = pinned_service(data="three")
    assert result["failed"] and "does not yet answer with 'three'" in result["msg"]
    assert answer(9100) == answer(9101) == "two"
    assert "X-AinodeData=two" in on_host("cat /etc/systemd/system/ainode-demo-0.service")


def test_a_version_that_never_gets_ready_is_taken_back():
    before = pids()
    result = pinned_service(data="two", ready="broken")
    assert result["failed"] and "answers 503" in result["msg"]
    assert answer(9100) == answer(9101) == "two"
    assert pids()[1] == before[1], "the second instance was touched although the first failed"
    assert not pinned_service(data="two")["changed"]


def test_a_link_is_switched_before_the_reload():
    on_host("cd /opt/demo; printf four >four; printf 'not for 9101' >refused; mv data two; ln -s two data")
    link = {"/opt/demo/data": "/opt/demo/four"}
    predicted = pinned_service(check=True, data="four", links=link)
    assert predicted["changed"] and on_host("readlink /opt/demo/data") == "two"
    before = pids()
    result = pinned_service(data="four", links=link)
    assert actions(result) == actions(predicted) == ["reload", "reload"] and result["links"] == predicted["links"]
    assert result["links"] == [{"path": "/opt/demo/data", "before": "two", "after": "/opt/demo/four", "changed": True}]
    assert answer(9100) == answer(9101) == "four" and pids() == before
    assert not pinned_service(data="four", links=link)["changed"]


def test_data_that_the_second_instance_refuses_leaves_the_first_where_it_was():
    before = pids()
    result = pinned_service(data="refused", serves="not for", links={"/opt/demo/data": "/opt/demo/refused"})
    assert result["failed"] and "ainode-demo-1.service" in result["msg"] and "back and ready" in result["msg"]
    assert on_host("readlink /opt/demo/data") == "/opt/demo/four"
    assert answer(9100) == answer(9101) == "four" and pids() == before
    assert not pinned_service(data="four", links={"/opt/demo/data": "/opt/demo/four"})["changed"]


def test_a_link_is_switched_back_with_a_version_that_never_gets_ready():
    result = pinned_service(data="two", ready="broken", links={"/opt/demo/data": "/opt/demo/two"})
    assert result["failed"] and "back and ready" in result["msg"]
    assert on_host("readlink /opt/demo/data") == "/opt/demo/four"
    assert answer(9100) == answer(9101) == "four"


def test_a_file_in_a_links_place_is_refused():
    result = pinned_service(data="two", links={"/opt/demo/two": "/opt/demo/four"})
    assert result["failed"] and "/opt/demo/two is there and no symbolic link" in result["msg"]
    assert on_host("cat /opt/demo/two") == "two"


def test_a_stopped_instance_is_started_again():
    on_host("systemctl stop ainode-demo-1")
    assert actions(pinned_service(data="four")) == [None, "start"]


def test_an_instance_less_is_removed():
    result = pinned_service(data="four", instances=1)
    assert actions(result) == [None, "remove"]
    assert on_host("ls /etc/systemd/system | grep ainode-demo") == "ainode-demo-0.service"


def test_bad_options_change_nothing():
    result = pinned_service(data="four", port=70000)
    assert result["failed"] and "port 70000" in result["msg"]
    assert answer(9100) == "four"


def test_absent_leaves_nothing():
    assert pinned_service(state="absent")["changed"]
    assert on_host("find /etc/systemd -name '*ainode*'") == ""
    assert on_host("systemctl list-units --all --no-legend 'ainode-*'") == ""
    assert not pinned_service(state="absent")["changed"]
