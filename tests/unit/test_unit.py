# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Unit files of pinned services: what they say, and what a change of them needs."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from ansible_collections.ainode.cpu.plugins.module_utils.deploy.unit import Service, needed_action

INSTANCE = {"name": "search-1", "numa_node": 1, "cpus": "4-7,12", "threads": 5, "memory_node": "1", "memory_policy": "bind", "env": {"OMP_NUM_THREADS": "5"}}


def service(**options):
    return Service("demo", "A demo", options.pop("command", ["/bin/server", "--port={port}"]), **{"port": 8500, **options})


def setting(text, name):
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(name + "=")]


def test_an_instance_is_pinned_to_its_cpus_and_memory():
    text = service().unit(1, INSTANCE)
    assert setting(text, "CPUAffinity") == ["4-7,12"]
    assert setting(text, "NUMAPolicy") == ["bind"]
    assert setting(text, "NUMAMask") == ["1"]
    assert setting(text, "Environment") == ["OMP_NUM_THREADS=5"]
    assert setting(text, "ExecStart") == ["/bin/server --port=8501"]


def test_no_numa_policy_where_there_is_no_numa():
    text = service().unit(0, {**INSTANCE, "memory_node": None, "memory_policy": None})
    assert "NUMA" not in text


@pytest.mark.parametrize(
    ("argument", "written"),
    [
        ("plain", "plain"),
        ("two words", '"two words"'),
        ('say "hi"', '"say \\"hi\\""'),
        ("back\\slash", '"back\\\\slash"'),
        ("100%", "100%%"),
        ("$HOME", "$$HOME"),
        ("", '""'),
        ("{credentials}/key", "%d/key"),
        ("{name}:{index}:{cpus}:{threads}", "search-1:1:4-7,12:5"),
    ],
)
def test_arguments_reach_the_program_as_they_are(argument, written):
    assert setting(service(command=["/bin/server", argument]).unit(1, INSTANCE), "ExecStart") == ["/bin/server " + written]


def test_a_runtime_directory_is_made_when_an_argument_names_it():
    text = service(command=["/bin/server", "--admin=unix:{runtime}/admin.sock"]).unit(1, INSTANCE)
    assert setting(text, "ExecStart") == ["/bin/server --admin=unix:/run/ainode-demo-1/admin.sock"]
    assert setting(text, "RuntimeDirectory") == ["ainode-demo-1"] and setting(text, "RuntimeDirectoryMode") == ["0750"]
    assert "RuntimeDirectory" not in service().unit(1, INSTANCE)


def test_a_service_that_notifies_is_reloaded_and_watched():
    text = service(notify=True).unit(0, INSTANCE)
    assert setting(text, "Type") == ["notify"] and setting(text, "ExecReload") == ["/bin/kill -HUP $MAINPID"] and setting(text, "WatchdogSec") == ["30"]
    text = service().unit(0, INSTANCE)
    assert setting(text, "Type") == ["exec"] and setting(text, "ExecReload") == setting(text, "WatchdogSec") == []


def test_credentials_and_writable_directories_are_named():
    text = service(credentials={"b": "/etc/b", "a": "/etc/a"}, writable=["/var/lib/x", "/var/lib/y z"]).unit(0, INSTANCE)
    assert setting(text, "LoadCredential") == ["a:/etc/a", "b:/etc/b"]
    assert setting(text, "ReadWritePaths") == ['/var/lib/x "/var/lib/y z"']


def test_loopback_and_machine_code_are_closed_unless_asked_for():
    shut, opened = service().unit(0, INSTANCE), service(loopback=False, jit=True).unit(0, INSTANCE)
    assert setting(shut, "IPAddressDeny") == ["any"] and setting(shut, "IPAddressAllow") == ["localhost"]
    assert setting(shut, "MemoryDenyWriteExecute") == ["yes"] and setting(shut, "ProcSubset") == ["pid"]
    for name in ("IPAddressDeny", "IPAddressAllow", "MemoryDenyWriteExecute", "ProcSubset"):
        assert setting(opened, name) == []


def test_what_an_instance_may_use_up_is_limited():
    text = service().unit(0, INSTANCE)
    assert setting(text, "LimitCORE") == ["0"] and setting(text, "TasksMax") == ["4096"] and setting(text, "MemoryMax") == []
    text = service(limits={"MemoryMax": "24G", "TasksMax": 100, "LimitCORE": "infinity"}).unit(0, INSTANCE)
    assert setting(text, "LimitCORE") == ["infinity"] and setting(text, "TasksMax") == ["100"] and setting(text, "MemoryMax") == ["24G"]
    assert not list(service(limits={"MemoryMax": "80%"}).problems(1))
    assert "none of LimitCORE, MemoryHigh, MemoryMax, TasksMax" in "".join(service(limits={"ExecStartPre": "/bin/true"}).problems(1))
    assert "24 gigabytes" in "".join(service(limits={"MemoryMax": "24 gigabytes"}).problems(1))
    assert "neither a number" in "".join(service(limits={"MemoryMax": "1G\nExecStartPre=/bin/true"}).problems(1))


@pytest.mark.parametrize("instance", [{"memory_policy": "bind", "memory_node": ""}, {"memory_policy": None, "memory_node": "1"}])
def test_half_a_memory_policy_is_none(instance):
    assert "NUMA" not in service().unit(0, {**INSTANCE, **instance})


@pytest.mark.parametrize(("port", "count"), [(1, 1), (65535, 1), (65535, 0), (65534, 2)])
def test_the_whole_range_of_ports_is_usable(port, count):
    assert list(service(port=port).problems(count)) == []


def test_no_command_is_needed_for_no_instance():
    assert list(service(command=[]).problems(0)) == []
    assert list(service(command=[]).problems(1)) == ["command [] does not begin with an absolute path"]


@pytest.mark.parametrize("argument", ["{node}", "{", "{0}", "a\nb", "a\0b"])
def test_an_argument_that_cannot_be(argument):
    with pytest.raises(ValueError, match="the argument"):
        service(command=["/bin/server", argument]).unit(0, INSTANCE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"command": ["server"]}, "absolute path"),
        ({"port": 0}, "port 0"),
        ({"port": 65535}, "port 65535 with 2 instances"),
        ({"credentials": {"key": "relative"}}, "credential 'key: relative'"),
        ({"environment": {"A-B": "1"}}, "environment 'A-B'"),
        ({"data": "abc"}, "data is given without notify"),
    ],
)
def test_bad_options_are_named(options, message):
    assert [problem for problem in service(**options).problems(2) if message in problem]
    assert not list(service(credentials={"a.b-c_1": "/etc/key"}, environment={"_A1": "1"}, data="abc", notify=True).problems(2))


@pytest.mark.parametrize("name", ["Demo", "a b", "", "../x", "9a"])
def test_a_bad_name_is_refused(name):
    assert "is no service name" in next(Service(name, "", ["/bin/x"], port=1).problems(1))


def test_units_of_other_services_are_not_ours():
    mine = service()
    assert mine.owns("ainode-demo-0.service") and mine.owns("ainode-demo-12.service")
    assert not any(map(mine.owns, ["ainode-demo-two-0.service", "ainode-demo.service", "demo-0.service", "ainode-demo-0.service.bak"]))


def test_what_a_change_needs():
    old = service(notify=True, data="one").unit(0, INSTANCE)
    new_data = service(notify=True, data="two").unit(0, INSTANCE)
    new_port = service(notify=True, data="two", port=9000).unit(0, INSTANCE)
    assert needed_action(None, old, False) == "start"
    assert needed_action(old, old, False) == "start"
    assert needed_action(None, old, True) == "restart"
    assert needed_action(old, old, True) is None
    assert needed_action(old, new_data, True) == "reload"
    assert needed_action(old, new_port, True) == "restart"


@pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed; the container scenario checks the units on a running systemd"
)
@pytest.mark.parametrize("jit", [False, True])
def test_systemd_accepts_the_unit_and_its_exposure_is_at_most_2(tmp_path, jit):
    unit = tmp_path / "ainode-demo-0.service"
    unit.write_text(service(command=["/bin/true", "a b", "{credentials}"], notify=True, jit=jit, credentials={"key": "/etc/key"}).unit(0, INSTANCE))
    verified = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr.strip()) == (0, "")
    rated = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=20", str(unit)], capture_output=True, text=True, check=False)
    assert rated.returncode == 0, rated.stdout[-200:]
