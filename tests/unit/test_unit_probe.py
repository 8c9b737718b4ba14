# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the audit's probes share: units are read as the collection writes them, answers as services give them, verdicts as the audit reads them."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
from ansible_collections.ainode.cpu.plugins.module_utils.deploy.unit import Service
from ansible_collections.ainode.cpu.plugins.module_utils.programs import unit_probe

INSTANCE = {"name": "search-1", "cpus": "4-6,12", "threads": 4, "memory_node": "1", "memory_policy": "bind", "env": {"OMP_NUM_THREADS": "4", "TEXT": "a b=c"}}


@pytest.fixture
def units(tmp_path, monkeypatch):
    """A directory for units, in the place of systemd's; systemd does not run."""
    monkeypatch.setattr(unit_probe, "UNITS", f"{tmp_path}/ainode-{{}}-*.service")
    monkeypatch.setattr(unit_probe, "has_systemd", lambda: False)
    return tmp_path


def put(units, number, *arguments, instance=None, **options):
    service = Service("demo", "A demo", ["/bin/server", *arguments], port=8500, **options)
    (units / service.unit_name(number)).write_text(service.unit(number, instance or INSTANCE))


def test_a_unit_is_read_as_it_is_written(units):
    put(units, 1, "--port={port}", "--key={credentials}/key", "two words", "100%", "$HOME", credentials={"key": "/etc/key", "other": "/etc/other"})
    (unit,) = unit_probe.units("demo")
    assert unit.name == "ainode-demo-1.service"
    assert unit.command == ["/bin/server", "--port=8501", "--key=/etc/key", "two words", "100%", "$HOME"]
    assert unit.options == {"port": "8501", "key": "/etc/key"}
    assert unit.environment == INSTANCE["env"]
    assert unit.credentials == {"key": "/etc/key", "other": "/etc/other"}
    assert (unit.cpus, unit.memory_nodes) == ({4, 5, 6, 12}, {1})


def test_a_unit_without_numa_and_units_in_their_order(units):
    for number in (1, 0):
        put(units, number, instance={**INSTANCE, "memory_policy": None, "memory_node": None})
    assert [(unit.name, unit.memory_nodes) for unit in unit_probe.units("demo")] == [("ainode-demo-0.service", set()), ("ainode-demo-1.service", set())]


def test_a_service_without_units(units):
    with pytest.raises(unit_probe.Failed, match="there is no unit"):
        unit_probe.units("demo")


@pytest.mark.parametrize(("shown", "pid"), [({"MainPID": "77"}, 77), ({"MainPID": "0", "ActiveState": "failed"}, None)])
def test_the_main_process_is_systemds_word(units, monkeypatch, shown, pid):
    put(units, 0)

    def systemctl(command, **_options):
        assert command[:3] == ["systemctl", "show", "--value"] and command[4] == "ainode-demo-0.service"
        return SimpleNamespace(stdout=shown[command[3].removeprefix("--property=")] + "\n")

    monkeypatch.setattr(subprocess, "run", systemctl)
    (unit,) = unit_probe.units("demo")
    if pid:
        assert unit.pid() == pid
    else:
        with pytest.raises(unit_probe.Failed, match=r"ainode-demo-0.service does not run \(failed\)"):
            unit.pid()


@pytest.mark.parametrize(
    ("address", "url"),
    [("127.0.0.1", "http://127.0.0.1:80"), ("0.0.0.0", "http://127.0.0.1:80"), ("::", "http://[::1]:80"), ("10.0.0.7", "http://10.0.0.7:80")],
)
def test_what_listens_everywhere_is_asked_on_this_machine(address, url):
    assert unit_probe.local_url(address, 80) == url


@pytest.fixture
def server():
    """The URL of a server that answers with what it was asked, or with 404 for /none."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            self.send_response(404 if self.path == "/none" else 200)
            self.end_headers()
            self.wfile.write(json.dumps([self.command, self.headers.get("Authorization"), self.headers["Content-Type"], body]).encode())

        do_POST = do_GET

        def log_message(self, *_arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_question_has_its_body_and_its_token(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    (tmp_path / "key").write_text("secret\n")
    asked = [json.loads(unit_probe.ask(server)), json.loads(unit_probe.ask(server, {"k": 1}, str(tmp_path / "key")))]
    assert asked == [["GET", None, "application/json", ""], ["POST", "Bearer secret", "application/json", '{"k": 1}']]
    with pytest.raises(unit_probe.Failed, match=r"/none answers 404: \[\"GET\""):
        unit_probe.ask(server + "/none")


@pytest.fixture
def started(units, monkeypatch):
    """The units' directory; programs are started as the user of the tests instead of the user ainode, and noted in the list that comes with it."""
    processes, start = [], subprocess.Popen

    def popen(command, user, group, **options):
        assert (user, group) == ("ainode", "ainode")
        processes.append(start(command, **{key: value for key, value in options.items() if key != "extra_groups"}))
        return processes[-1]

    monkeypatch.setattr(subprocess, "Popen", popen)
    return units, processes


SERVE = (
    "import http.server, os; http.server.HTTPServer(('127.0.0.1', {port}), type('H', (http.server.BaseHTTPRequestHandler,), {{'do_GET': lambda self: "
    "[self.send_response(200), self.end_headers(), self.wfile.write(os.environ['TEXT'].encode())]}})).serve_forever()"
)


def test_an_instance_is_started_for_a_moment_where_systemd_does_not_run(started):
    units, processes = started
    put(units, 0)
    (unit,) = unit_probe.units("demo")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with unit_probe.running(unit, url, command=[sys.executable, "-c", SERVE.format(port=port)]):
        assert unit_probe.ask(url) == "a b=c"
        assert processes[0].poll() is None
    assert processes[0].poll() is not None


@pytest.mark.parametrize(
    ("program", "said"),
    [("import sys; sys.exit('no index here')", "was not ready: no index here"), ("import time; time.sleep(60)", "was not ready: ")],
)
def test_an_instance_that_is_not_ready_is_stopped_and_its_error_told(started, program, said):
    units, processes = started
    put(units, 0)
    (unit,) = unit_probe.units("demo")
    unit.command = [sys.executable, "-c", program]
    with pytest.raises(unit_probe.Failed, match=said), unit_probe.running(unit, "http://127.0.0.1:1", seconds=1):
        pass
    assert processes[0].poll() is not None


def test_an_instance_that_systemd_runs_is_not_started_again(started, monkeypatch):
    units, processes = started
    put(units, 0)
    (unit,) = unit_probe.units("demo")
    monkeypatch.setattr(unit_probe, "has_systemd", lambda: True)
    monkeypatch.setattr(unit_probe.Unit, "pid", lambda self: os.getpid())
    with unit_probe.running(unit, "http://127.0.0.1:1"):
        assert processes == []


def fails(error):
    def row():
        raise error

    return row


ROWS = {
    "good": lambda: ("pass", "42", ""),
    "bad": fails(unit_probe.Failed("it broke")),
    "worse": fails(subprocess.CalledProcessError(1, "x", stderr="no bus")),
}


@pytest.mark.parametrize(
    ("row", "systemd", "verdict", "live", "reason"),
    [
        ("good", True, "pass", "42", ""),
        ("bad", True, "fail", None, "it broke"),
        ("worse", True, "fail", None, "no bus"),
        ("bad", False, "not_applicable", None, "systemd does not run here"),
        ("good", False, "pass", "42", ""),
    ],
)
def test_a_row_prints_its_verdict(units, monkeypatch, capsys, row, systemd, verdict, live, reason):
    monkeypatch.setattr(unit_probe, "has_systemd", lambda: systemd)
    monkeypatch.setattr(sys, "argv", ["probe.py", row])
    unit_probe.main(ROWS, lasting=("bad",))
    printed = json.loads(capsys.readouterr().out)
    assert (printed["verdict"], printed["live"]) == (verdict, live)
    assert reason in printed["reason"]


@pytest.mark.parametrize("arguments", [[], ["other"], ["good", "bad"]])
def test_a_row_that_is_not_there(monkeypatch, arguments):
    monkeypatch.setattr(sys, "argv", ["probe.py", *arguments])
    with pytest.raises(SystemExit, match=r"usage: probe.py \{good,bad,worse\}"):
        unit_probe.main(ROWS)
