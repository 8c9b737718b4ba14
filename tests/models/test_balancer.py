# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role load_balancer's configuration in Debian's HAProxy, a plain process, before small servers that are slow, busy or dead. Nothing is deployed."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import http.client
import http.server
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from concurrent import futures
from pathlib import Path

import pytest
from conftest import CHECKOUT

sys.path.insert(0, str(CHECKOUT / "tests/lab"))
import lab

ROLE = CHECKOUT / "roles/load_balancer"
KEYS = ["plainkey-0123456789", "with,comma-0123456789"]
PLAY = """
- hosts: balancer
  connection: local
  gather_facts: false
  tasks:
    - ainode.cpu.node_facts:
    - ansible.builtin.import_role: {name: ainode.cpu.load_balancer}
      check_mode: true
    - ansible.builtin.template: {src: ROLE/templates/haproxy.cfg.j2, dest: "{{ out }}", mode: "0600"}
    - ansible.builtin.copy: {content: "{{ load_balancer_digest }}", dest: "{{ out }}.digest", mode: "0600"}
      vars: {load_balancer_text: "{{ lookup('ansible.builtin.template', 'ROLE/templates/haproxy.cfg.j2') }}"}
""".replace("ROLE", str(ROLE))
INVENTORY = {
    "all": {
        "hosts": {
            "balancer": {"ansible_python_interpreter": "/usr/bin/python3"}, "v4": {"ansible_host": "10.0.0.4"}, "v6": {"ansible_host": "fd00::5"},
            "bracketed": {"ansible_host": "[fd00::6]"},
        }
    }
}  # fmt: skip

# A small instance as a process of its own, so that it can be killed: COUNT_FILE gets a line when it begins a request, another when the client left.
INSTANCE = """
import http.server, select, socket, sys, time
port, seconds, record, family = int(sys.argv[1]), float(sys.argv[2]), open(sys.argv[3], "a", buffering=1), sys.argv[4]
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *words): pass
    def handle(self):
        try: super().handle()
        except OSError: pass
    def answer(self):
        self.send_response(200); self.send_header("Content-Length", "2"); self.end_headers(); self.wfile.write(b"{}")
    def do_GET(self): self.answer()
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        name = self.headers.get("X-Request", "?")
        record.write("begun " + name + "\\n")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if select.select([self.connection], [], [], max(0, min(0.05, end - time.monotonic())))[0]:
                try: there = self.connection.recv(1, socket.MSG_PEEK)
                except OSError: there = b""
                if not there:
                    record.write("left " + name + "\\n"); self.close_connection = True
                    return
        self.answer()
class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True; request_queue_size = 1024; address_family = socket.AF_INET6 if family == "6" else socket.AF_INET
Server(("::1" if family == "6" else "127.0.0.1", port), Handler).serve_forever()
"""


def free_port():
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


def wait(true, seconds=20):
    """Wait until true() is; fail otherwise."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def listens(port, host="127.0.0.1"):
    with contextlib.suppress(OSError):
        socket.create_connection((host, port), 1).close()
        return True
    return False


class Instance:
    """A process that answers each POST after so many seconds."""

    def __init__(self, directory, seconds, family="4"):
        self.port, self.seconds, self.family = free_port(), seconds, family
        self.record = directory / f"record-{self.port}"
        self.start()

    def start(self):
        self.process = subprocess.Popen([sys.executable, "-c", INSTANCE, str(self.port), str(self.seconds), str(self.record), self.family])
        wait(lambda: listens(self.port, "::1" if self.family == "6" else "127.0.0.1"))

    def lines(self, kind):
        """Return the names of the requests that it has begun, or whose client left."""
        text = self.record.read_text() if self.record.exists() else ""
        return [line.split()[1] for line in text.splitlines() if line.startswith(kind)]

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def begun(instances):
    """Return the names of all requests that instances have begun, once for each time."""
    return [name for it in instances for name in it.lines("begun")]


def play(directory, **variables):
    """Let the role check and render a configuration; return (exit status, text, what was printed)."""
    (directory / "play.yml").write_text(PLAY)
    (directory / "inventory.json").write_text(json.dumps(INVENTORY))
    out = directory / "haproxy.cfg"
    given = {**{f"load_balancer_{name}": value for name, value in variables.items()}, "out": str(out)}
    command = [Path(sys.executable).with_name("ansible-playbook"), "-i", directory / "inventory.json", "-e", json.dumps(given), directory / "play.yml"]
    done = subprocess.run([str(it) for it in command], capture_output=True, text=True, check=False, cwd=CHECKOUT, timeout=300)
    return done.returncode, out.read_text() if out.exists() else "", " ".join((done.stdout + done.stderr).split())


class Balancer:
    """HAProxy with the role's configuration."""

    def __init__(self, directory, servers, grpc=False, **variables):
        lab.need("haproxy")
        self.port, self.grpc_port = free_port(), free_port() if grpc else 0
        services = [{"name": "models", "port": self.port, "grpc_port": self.grpc_port, "servers": servers}]
        status, text, said = play(directory, services=services, **variables)
        assert status == 0, said[-3000:]
        keys = directory / "keys"
        keys.write_text("".join(f"Bearer {key}\n" for key in variables.get("api_keys", [])))
        lines = [f"{line.rpartition(' ')[0]} {keys}" if " -f /etc/" in line else line for line in text.splitlines()]
        self.socket = directory / "admin.sock"
        path = directory / "run.cfg"
        path.write_text("\n".join(lines).replace("/run/ainode-load-balancer/admin.sock", str(self.socket)) + "\n")
        self.process = subprocess.Popen(["/usr/sbin/haproxy", "-f", str(path)], stderr=subprocess.DEVNULL)
        wait(lambda: listens(self.port))
        time.sleep(1)

    def request(self, name="?", timeout=60, connection=None, **headers):
        """Send one inference; return (status, headers)."""
        mine = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        mine.request("POST", "/v2/models/m/infer", b"{}", {"X-Request": name, **headers})
        answer = mine.getresponse()
        answer.read()
        if connection is None:
            mine.close()
        return answer.status, answer.headers


@pytest.fixture
def run(tmp_path):
    """make(class, …): instances and balancers that end with the test."""
    made = []

    def make(kind, *arguments, **options):
        made.append(kind(tmp_path, *arguments, **options))
        return made[-1]

    yield make
    for it in made:
        it.process.kill()
        it.process.wait()


@pytest.fixture
def public():
    """A directory that the user haproxy may read too."""
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o755)
        yield Path(path)


def local(*instances):
    return [f"{'[::1]' if it.family == '6' else '127.0.0.1'}:{it.port}" for it in instances]


def test_a_request_without_an_answer_is_computed_once(run):
    """HAProxy's own time ends it; the same request is nowhere begun again."""
    instances = [run(Instance, 60), run(Instance, 60)]
    balancer = run(Balancer, local(*instances), request_timeout=1)
    assert balancer.request("slow")[0] == 504
    assert begun(instances) == ["slow"]


def test_an_instance_that_dies_under_a_request_is_told_and_nothing_is_repeated(run):
    instances = [run(Instance, 60), run(Instance, 60)]
    balancer = run(Balancer, local(*instances))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        answer = pool.submit(balancer.request, "mine")
        wait(lambda: any(it.lines("begun") for it in instances))
        next(it for it in instances if it.lines("begun")).kill()
        assert answer.result()[0] == 502
    assert begun(instances) == ["mine"]


def test_idle_clients_lose_nothing_to_a_dead_instance(run):
    """Connections were idle when their instance was killed; the next request on each is answered, and every request was begun at most once."""
    instances = [run(Instance, 0), run(Instance, 0)]
    balancer = run(Balancer, local(*instances))
    clients = [http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=30) for _ in range(40)]
    answers = collections.Counter()
    for turn in range(4):
        for number, client in enumerate(clients):
            answers[balancer.request(f"{turn}-{number}-a", connection=client)[0]] += 1
        victim = instances[turn % 2]
        victim.kill()
        for number, client in enumerate(clients):
            answers[balancer.request(f"{turn}-{number}-b", connection=client)[0]] += 1
        victim.start()
        time.sleep(1.5)
    assert answers == {200: 320}
    counts = collections.Counter(begun(instances))
    assert len(counts) == 320 and set(counts.values()) == {1}


def test_a_client_that_hangs_up_frees_its_instance(run):
    instance = run(Instance, 60)
    balancer = run(Balancer, local(instance))
    client = socket.create_connection(("127.0.0.1", balancer.port))
    client.sendall(b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nX-Request: gone\r\nContent-Length: 2\r\n\r\n{}")
    wait(lambda: instance.lines("begun"))
    client.close()
    wait(lambda: instance.lines("left") == ["gone"])


def test_a_full_queue_is_told_at_once_and_a_busy_instance_stays_in_service(run):
    instance = run(Instance, 3)
    balancer = run(Balancer, local(instance), instance_requests=2, queue=2, queue_timeout=1)
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda number: balancer.request(str(number)), range(12)))
    told = collections.Counter(status for status, _headers in answers)
    assert set(told) == {200, 429, 503} and told[200] == 2, told
    assert all(int(headers["Retry-After"]) >= 1 for status, headers in answers if status != 200)
    assert len(instance.lines("begun")) == 2
    assert balancer.request("later")[0] == 200


def test_keys(run):
    balancer = run(Balancer, local(run(Instance, 0)), api_keys=KEYS)
    for value, status in (
        (f"Bearer {KEYS[0]}", 200), (f"bearer {KEYS[0]}", 200), (f"BEARER {KEYS[1]}", 200), (f"Bearer {KEYS[1]}", 200), ("Bearer with", 401),
        (f"Bearer {KEYS[0].upper()}", 401), (KEYS[0], 401), (f"Basic {KEYS[0]}", 401), (f"x, Bearer {KEYS[0]}", 401),
    ):  # fmt: skip
        assert balancer.request(Authorization=value)[0] == status, value
    assert balancer.request()[0] == 401


def test_ipv6(run, tmp_path):
    instance = run(Instance, 0, family="6")
    assert run(Balancer, local(instance)).request()[0] == 200
    services = [{"name": "m", "port": 8000, "grpc_port": 8001, "nodes": ["balancer", "v4", "v6", "bracketed"], "address": "::1"}]
    status, text, said = play(tmp_path, services=services, address="::")
    assert status == 0, said[-2000:]
    assert [line.split()[2] for line in text.splitlines() if line.startswith("    server")] == [
        f"{host}:{port}" for port in (8600, 8700) for host in ("[::1]", "10.0.0.4", "[fd00::5]", "[fd00::6]")
    ]
    assert "bind [::]:8000" in text
    (tmp_path / "check.cfg").write_text(text)
    subprocess.run(["/usr/sbin/haproxy", "-c", "-f", str(tmp_path / "check.cfg")], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"services": [{"name": "a", "port": 8000}, {"name": "b", "port": 8000}]}, "the ports 8000, 8000; expected are"),
        ({"services": [{"name": "a", "port": 8000, "grpc_port": 8001}, {"name": "b", "port": 8001}]}, "the ports 8000, 8001, 8001; expected are"),
        ({"services": [{"name": "a", "port": 8000, "grpc_port": 8000}]}, "the ports 8000, 8000; expected are"),
        ({"services": [{"name": "a", "port": 8000}, {"name": "a", "port": 8010}]}, "the names a, a and"),
        ({"services": [{"name": "my models", "port": 8000}]}, "the names my models and"),
        ({"services": [{"name": "a", "port": 8000, "servers": ["fd00::8:8600"]}]}, "the servers fd00::8:8600; expected is address:port"),
        ({"request_timeout": 0}, "load_balancer_request_timeout is 0"),
        ({"api_keys": ["two words"]}, "load_balancer_api_keys has a key"),
        ({"certificate": "/nowhere.pem"}, "load_balancer_certificate is /nowhere.pem, no file"),
    ],
)
def test_what_cannot_be_is_one_sentence(tmp_path, variables, said):
    status, text, printed = play(tmp_path, **variables)
    assert status and said in printed and not text, printed[-2000:]
    assert "two words" not in printed


def make_certificate(path, name, days):
    """Write a certificate and its key, both new, as one PEM file."""
    parts = [path.with_suffix(".key"), path.with_suffix(".crt")]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", parts[0], "-out", parts[1],
         "-days", str(days), "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True,
    )  # fmt: skip
    path.write_text(parts[1].read_text() + parts[0].read_text())
    path.chmod(0o644)


def test_a_renewed_certificate_is_another_configuration_and_the_audit_sees_it(run, tmp_path, public):
    lab.need("haproxy")
    path = public / "tls.pem"
    make_certificate(path, "old", 3)
    instance = run(Instance, 0)
    balancer = run(Balancer, local(instance), certificate=str(path))
    before = (tmp_path / "haproxy.cfg.digest").read_text()

    def judged(days):
        program = f"import sys; sys.argv = ['', 'certificate', {str(path)!r}, '{days}']; import probe; probe.SOCKET = {str(balancer.socket)!r}\n"
        program += "try: print(*probe.certificate())\nexcept probe.Failed as error: print('fail', error)"
        where = os.pathsep.join(map(str, (ROLE / "files", CHECKOUT / "plugins/module_utils/programs")))
        done = subprocess.run([sys.executable, "-B", "-c", program], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": where})
        return done.stdout

    assert judged(1).startswith("pass ends ")
    assert "days from now; expected are more than 14" in judged(14)
    make_certificate(path, "new", 90)
    assert "another certificate than the one that HAProxy serves" in judged(1)
    services = [{"name": "models", "port": balancer.port, "servers": local(instance)}]
    status, _text, said = play(tmp_path, certificate=str(path), services=services)
    assert status == 0 and "PRIVATE" not in said, said[-2000:]
    assert (tmp_path / "haproxy.cfg.digest").read_text() != before


def test_grpc_over_tls_is_http2(run, public):
    """grpcio through the balancer, with TLS and a key; a client that gives up is seen by the instance."""
    grpc = pytest.importorskip("grpc")
    make_certificate(public / "tls.pem", "localhost", 3)
    instance = run(Instance, 0)
    left = threading.Event()

    def infer(request, context):
        if request == b"slow":
            context.add_callback(left.set)
            left.wait(60)
        return request

    server = grpc.server(futures.ThreadPoolExecutor(4))
    method = grpc.unary_unary_rpc_method_handler(infer)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": method})])
    # An instance has its port for gRPC 100 above the one for REST.
    assert server.add_insecure_port(f"127.0.0.1:{instance.port + 100}")
    server.start()
    balancer = run(Balancer, local(instance), grpc=True, certificate=str(public / "tls.pem"), api_keys=KEYS)
    credentials = grpc.ssl_channel_credentials((public / "tls.crt").read_bytes())
    with grpc.secure_channel(f"localhost:{balancer.grpc_port}", credentials) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        assert call(b"1", metadata=[("authorization", f"bearer {KEYS[1]}")], timeout=20) == b"1"
        with pytest.raises(grpc.RpcError) as error:
            call(b"1", timeout=20)
        assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(grpc.RpcError) as error:
            call(b"slow", metadata=[("authorization", f"Bearer {KEYS[0]}")], timeout=1)
        assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert left.wait(20)
    server.stop(None)
    context = ssl.create_default_context(cafile=str(public / "tls.crt"))
    context.set_alpn_protocols(["h2", "http/1.1"])
    for port in (balancer.port, balancer.grpc_port):
        with socket.create_connection(("127.0.0.1", port)) as plain, context.wrap_socket(plain, server_hostname="localhost") as secure:
            assert secure.selected_alpn_protocol() == "h2"
