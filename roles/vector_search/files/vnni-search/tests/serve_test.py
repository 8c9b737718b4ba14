# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""`vnni-search serve` from outside: the protocol, its limits, load, swaps and the end of the process.

Runs the binary that $VNNI_SEARCH names (default: build/vnni-search beside this folder) on indexes it builds itself.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest

BINARY = os.environ.get("VNNI_SEARCH", str(Path(__file__).parent.parent / "build" / "vnni-search"))
DIM = 24
ITEMS = 9000  # enough for the graph to be walked
INFER = "/v2/models/search/infer"


# ---- helpers


def build_index(folder: Path, name: str, rows: int, seed: int) -> tuple[Path, np.ndarray]:
    """An L2 index of random rows, and the rows."""
    vectors = np.random.Generator(np.random.PCG64(seed)).standard_normal((rows, DIM)).astype(np.float32)
    np.save(folder / f"{name}.npy", vectors)
    out = folder / f"{name}.vnni"
    command = [BINARY, "build", "--input", str(folder / f"{name}.npy"), "--output", str(out), "--metric", "l2", "--threads", "2"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=900)
    return out, vectors


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=20)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Server:
    """A running server; `log` holds what it wrote so far."""

    def __init__(
        self, index: Path, *options: str, env: dict[str, str] | None = None, ready: bool = True, wrapper: tuple[str, ...] = (), root: Path | None = None
    ) -> None:
        """`wrapper`: a command that runs the program; `root`: the folder that is its root directory, with vnni-search in it."""
        self.admin_path = str(index.parent / f"admin-{time.monotonic_ns()}.sock")
        program, index, admin = (
            f"/{Path(path).relative_to(root)}" if root else path for path in (root / "vnni-search" if root else BINARY, index, self.admin_path)
        )
        command = [*wrapper, *(["chroot", root] if root else []), program, "serve", "--index", index]
        command += ["--listen", "127.0.0.1:0", "--admin", f"unix:{admin}", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})})
        self.log: list[dict] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        self.port = int(self.wait_log("listening")["address"].rsplit(":", 1)[1])
        if ready:
            self.wait_log("serving")

    def _read(self) -> None:
        for line in self.process.stderr:
            self.log.append(json.loads(line) if line.startswith("{") else {"message": line})  # a sanitizer's report

    def wait_log(self, message: str, after: int = 0) -> dict:
        for _dummy in range(2000):
            for line in self.log[after:]:
                if line["message"] == message:
                    return line
            if self.process.poll() is not None and not self.reader.is_alive():
                break
            time.sleep(0.01)
        raise AssertionError(f"no {message!r} in {self.log}")

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)

    def ask(self, method: str, path: str, body: bytes | dict | None = None, headers: dict | None = None, connection: http.client.HTTPConnection | None = None):
        """(status, parsed or raw body, headers)"""
        own = connection or self.connection()
        own.request(method, path, json.dumps(body) if isinstance(body, dict) else body, headers or {})
        response = own.getresponse()
        data = response.read()
        if connection is None:
            own.close()
        if data and response.headers.get_content_type() == "application/json":
            data = json.loads(data)
        return response.status, data, response.headers

    def admin(self, method: str, path: str, body: bytes | dict | None = None):
        return self.ask(method, path, body, connection=UnixConnection(self.admin_path))

    def metric(self, name: str) -> float:
        for line in self.ask("GET", "/metrics")[1].decode().splitlines():
            if line.rsplit(" ", 1)[0] == f"vnni_search_{name}":
                return float(line.rsplit(" ", 1)[1])
        raise AssertionError(f"no metric {name}")

    def raw(self, data: bytes, half_close: bool = False) -> bytes:
        """What the server answers to `data` until it closes the connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as s:
            s.sendall(data)
            if half_close:
                s.shutdown(socket.SHUT_WR)
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                while chunk := s.recv(65536):
                    answer += chunk
            return answer

    def stop(self, expect: int = 0) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(20) == expect, self.log
        self.reader.join(5)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind, *_dummy) -> None:
        if kind is None:
            self.stop() if self.process.returncode is None else self.reader.join(5)
            assert not any("Sanitizer" in str(line) for line in self.log), self.log  # of a server that was killed soon after, too
        else:
            self.process.kill()
            self.process.wait()


def as_json(queries: np.ndarray, **parameters) -> dict:
    return {"inputs": [{"name": "queries", "datatype": "FP32", "shape": list(queries.shape), "data": queries.tolist()}], "parameters": parameters}


def as_binary(queries: np.ndarray, **parameters) -> tuple[bytes, dict]:
    """The body and headers of a request with a binary tensor that asks for binary tensors."""
    tensor = {"name": "queries", "datatype": "FP32", "shape": list(queries.shape), "parameters": {"binary_data_size": queries.nbytes}}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True, **parameters}}).encode()
    return header + queries.tobytes(), {"Inference-Header-Content-Length": str(len(header))}


def from_json(body: dict) -> tuple[np.ndarray, np.ndarray]:
    ids, distances = body["outputs"]
    assert (ids["name"], ids["datatype"], distances["name"], distances["datatype"]) == ("ids", "INT64", "distances", "FP32")
    return np.array(ids["data"], np.int64).reshape(ids["shape"]), np.array(distances["data"], np.float32).reshape(distances["shape"])


def from_binary(body: bytes, headers) -> tuple[np.ndarray, np.ndarray]:
    length = int(headers["Inference-Header-Content-Length"])
    ids, distances = json.loads(body[:length])["outputs"]
    split = length + ids["parameters"]["binary_data_size"]
    assert len(body) == split + distances["parameters"]["binary_data_size"]
    return np.frombuffer(body[length:split], np.int64).reshape(ids["shape"]), np.frombuffer(body[split:], np.float32).reshape(distances["shape"])


def nearest(rows: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    distances = ((queries[:, None, :] - rows[None]) ** 2).sum(2)
    ids = np.argsort(distances, 1, kind="stable")[:, :k]
    return ids, np.take_along_axis(distances, ids, 1)


def right(ids: np.ndarray, distances: np.ndarray, rows: np.ndarray, queries: np.ndarray) -> bool:
    """Nearly all of the exact nearest, with their distances."""
    want, want_distances = nearest(rows, queries, ids.shape[1])
    recall = np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(ids, want)])
    return recall > 0.97 and np.allclose(np.sort(distances, 1), distances) and np.median(np.abs(distances - want_distances) / want_distances) < 1e-2


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="module")
def items(folder):
    return build_index(folder, "items", ITEMS, 1)


@pytest.fixture(scope="module")
def others(folder):
    return build_index(folder, "others", ITEMS - 1000, 2)


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    return np.random.Generator(np.random.PCG64(3)).standard_normal((70, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def shared(items):
    with Server(items[0], "--request-timeout", "1", "--idle-timeout", "3", "--max-body", "200000") as server:
        yield server


# ---- the protocol


def test_descriptions(shared):
    assert shared.ask("GET", "/v2")[:2] == (200, {"name": "vnni-search", "version": "0.1.0", "extensions": ["binary_tensor_data"]})
    assert shared.ask("GET", "/v2/health/live")[:2] == (200, {"live": True})
    assert shared.ask("GET", "/v2/health/ready?verbose=1")[:2] == (200, {"ready": True})
    status, model, _dummy = shared.ask("GET", "/v2/models/search")
    assert status == 200 and model["inputs"] == [{"name": "queries", "datatype": "FP32", "shape": [-1, DIM]}]
    assert [o["name"] for o in model["outputs"]] == ["ids", "distances"]
    (version,) = model["versions"]
    assert shared.ask("GET", f"/v2/models/search/versions/{version}")[1] == model
    assert shared.ask("GET", f"/v2/models/search/versions/{version}/ready")[:2] == (200, {"name": "search", "ready": True})
    assert shared.ask("GET", "/v2/models/search/ready")[0] == 200


def test_paths_and_methods(shared):
    model = "/v2/models/search"
    unknown = ("/", "/v2/", "/v3", "/v2/models", "/v2/models/", "/v2/models/other", f"{model}/", f"{model}ing", f"{model}/versions/0", f"{model}/x")
    for path in (*unknown, "/admin/status"):
        status, body, _dummy = shared.ask("GET", path)
        assert status == 404 and body["error"], path
    assert shared.ask("POST", "/v2/models/search/versions/0/infer", {})[0] == 404
    for method, path, allow in (("GET", INFER, "POST"), ("POST", "/v2", "GET"), ("DELETE", "/metrics", "GET"), ("PUT", INFER, "POST")):
        status, body, headers = shared.ask(method, path)
        assert status == 405 and headers["Allow"] == allow and body["error"]


def test_json_and_binary_find_the_nearest(shared, items, queries):
    status, body, _dummy = shared.ask("POST", INFER, as_json(queries, k=7, ef=400))
    assert status == 200 and body["model_name"] == "search"
    ids, distances = from_json(body)
    assert ids.shape == (70, 7) and right(ids, distances, items[1], queries)
    status, raw, headers = shared.ask("POST", INFER, *as_binary(queries, k=7, ef=400))
    assert status == 200
    binary_ids, binary_distances = from_binary(raw, headers)
    assert (binary_ids == ids).all() and (binary_distances == distances).all()
    version = body["model_version"]
    status, again, _dummy = shared.ask("POST", f"/v2/models/search/versions/{version}/infer", {**as_json(queries[:1], recall_target=0.99), "id": "seven"})
    assert status == 200 and again["id"] == "seven" and from_json(again)[0].shape == (1, 10)


def test_a_row_with_fewer_results_is_padded(folder):
    index, rows = build_index(folder, "few", 4, 5)
    with Server(index) as server:
        ids, distances = from_json(server.ask("POST", INFER, as_json(rows, k=6))[1])
        assert sorted(ids[0, :4]) == [0, 1, 2, 3] and (ids[:, 4:] == -1).all() and (distances[:, 4:] == np.finfo(np.float32).max).all()
        raw, headers = server.ask("POST", INFER, *as_binary(rows, k=6))[1:]
        assert (from_binary(raw, headers)[0] == ids).all() and (from_binary(raw, headers)[1] == distances).all()


def test_triton_client(shared, items, queries):
    triton = pytest.importorskip("tritonclient.http")
    client = triton.InferenceServerClient(f"127.0.0.1:{shared.port}")
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("search")
    assert client.get_server_metadata()["name"] == "vnni-search"
    version = client.get_model_metadata("search")["versions"][0]
    assert client.is_model_ready("search", version)
    want = from_json(shared.ask("POST", INFER, as_json(queries, k=5, ef=300))[1])
    for binary_in in (True, False):
        for outputs in (None, [triton.InferRequestedOutput("distances", binary_data=False), triton.InferRequestedOutput("ids", binary_data=True)]):
            tensor = triton.InferInput("queries", list(queries.shape), "FP32")
            tensor.set_data_from_numpy(queries, binary_data=binary_in)
            result = client.infer("search", [tensor], model_version=version, outputs=outputs, request_id="r1", parameters={"k": 5, "ef": 300})
            assert (result.as_numpy("ids") == want[0]).all() and (result.as_numpy("distances") == want[1]).all()
            assert result.get_response()["id"] == "r1"
    tensor = triton.InferInput("queries", list(queries.shape), "FP32")
    tensor.set_data_from_numpy(queries)
    common = {"timeout": 1_000_000, "priority": 1, "sequence_id": 7, "sequence_start": True, "response_compression_algorithm": "gzip"}
    result = client.infer("search", [tensor], parameters={"k": 5, "ef": 300, "other": "x"}, **common)
    assert (result.as_numpy("ids") == want[0]).all() and (result.as_numpy("distances") == want[1]).all()
    with pytest.raises(triton.InferenceServerException, match="Content-Encoding gzip is not supported"):
        client.infer("search", [tensor], request_compression_algorithm="gzip")
    with pytest.raises(triton.InferenceServerException, match="classification"):
        client.infer("search", [tensor], outputs=[triton.InferRequestedOutput("ids", class_count=2)])
    with pytest.raises(triton.InferenceServerException, match="24 dimensions"):
        tensor = triton.InferInput("queries", [1, 3], "FP32")
        tensor.set_data_from_numpy(np.zeros((1, 3), np.float32))
        client.infer("search", [tensor])


@pytest.mark.parametrize("client", ["kserve", "mlserver"])
def test_clients_of_others(shared, queries, client):
    python = Path(__file__).resolve().parents[5] / "build" / "clients" / "bin" / "python"
    if not python.exists():
        pytest.skip("there are no clients of KServe and MLServer: requirements/setup.sh clients")
    saved = io.BytesIO()
    np.save(saved, queries)
    command = [python, Path(__file__).parent / "serve_clients.py", client, str(shared.port)]
    done = subprocess.run(command, input=saved.getvalue(), capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    want = from_json(shared.ask("POST", INFER, as_json(queries, k=5, ef=300))[1])[0]
    assert len(found) == 4
    for way, ids in found.items():
        assert (np.array(ids) == want).all(), way


def test_curl(shared, tmp_path, queries):
    if not shutil.which("curl"):
        pytest.skip("there is no curl")
    url = f"http://127.0.0.1:{shared.port}"
    body = tmp_path / "body"
    body.write_text(json.dumps(as_json(queries, k=3)))
    infer = ["--data-binary", f"@{body}", f"{url}{INFER}"]
    for arguments in (
        infer,
        ["--http1.0", *infer],
        ["-H", "Transfer-Encoding: chunked", *infer],
        ["-H", "Expect: 100-continue", *infer],
        ["-H", "Accept-Encoding: gzip", "-H", "Content-Type: text/plain; charset=x", *infer],
        ["--http2", *infer],  # asks for an upgrade, which need not be granted
        ["--head", f"{url}/v2/health/ready"],
        ["--head", f"{url}/v2/health/live"],
        ["--head", f"{url}/metrics"],
        [f"{url}/v2/health/live", "--next", *infer],  # over one connection
    ):
        done = subprocess.run(["curl", "--silent", "--show-error", "--fail", "--max-time", "20", *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, (arguments, done.stderr)
        assert done.stdout.count('"ids"') == (f"{url}{INFER}" in arguments)


def test_unix_socket(folder, items, queries):
    path = str(folder / "data.sock")
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(path)
    stale.close()  # a process that was killed left it behind
    with Server(items[0], "--listen", f"unix:{path}") as server:
        ids, distances = from_json(server.ask("POST", INFER, as_json(queries, ef=400), connection=UnixConnection(path))[1])
        assert right(ids, distances, items[1], queries)
        second = subprocess.run(
            [BINARY, "serve", "--index", str(items[0]), "--listen", f"unix:{path}"], capture_output=True, text=True, timeout=20, check=False
        )
        assert second.returncode == 1 and path in second.stderr  # the socket of a living server is not taken from it
        assert server.ask("GET", "/v2", connection=UnixConnection(path))[0] == 200
    assert not os.path.exists(path) and not os.path.exists(server.admin_path)


def test_keep_alive_and_pipelining(shared, queries):
    connection = shared.connection()
    for _dummy in range(20):
        assert shared.ask("POST", INFER, as_json(queries[:1]), connection=connection)[0] == 200
    connection.close()
    body = json.dumps(as_json(queries[:1])).encode()
    post = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (INFER.encode(), len(body), body)
    answer = shared.raw(post * 3 + b"GET /v2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200") == 4 and answer.count(b'"ids"') == 3
    chunked = b"POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (INFER.encode(), len(body), body)
    assert shared.raw(chunked).startswith(b"HTTP/1.1 200")
    expect = b"POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % (INFER.encode(), len(body))
    with socket.create_connection(("127.0.0.1", shared.port), timeout=20) as s:
        s.sendall(expect)
        assert s.recv(1000).startswith(b"HTTP/1.1 100")
        s.sendall(body)
        assert s.recv(1000).startswith(b"HTTP/1.1 200")
    assert shared.raw(b"GET /v2/health/live HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200")
    status, body, headers = shared.ask("HEAD", "/v2")
    assert status == 200 and headers["Content-Length"] != "0" and headers["Date"].endswith("GMT")


# ---- what a client does wrong


def test_malformed_requests(shared, queries):
    good, headers = as_binary(queries[:2])
    length = int(headers["Inference-Header-Content-Length"])
    nan = queries[:2].copy()
    nan[1, 5] = np.nan
    tensor = {"name": "queries", "datatype": "FP32", "shape": [1, DIM], "data": [0.0] * DIM}
    corpus: list[tuple[bytes | dict, dict]] = [
        (b"", {}),
        (b"{", {}),
        (b"\xff" * 100, {}),
        (b"[" * 100_000, {}),
        (b'{"a":' * 20_000, {}),
        (b'{"inputs":[],"inputs":[]}', {}),
        (b'{"inputs":[{"name":"queries","datatype":"FP32","shape":[1,24],"data":[1e999]}]}', {}),
        ({"inputs": [{**tensor, "shape": [2, DIM]}]}, {}),
        ({"inputs": [{**tensor, "shape": [1, DIM - 1]}]}, {}),
        ({"inputs": [{**tensor, "shape": [2**31 - 1, 2**31 - 1]}]}, {}),
        ({"inputs": [{**tensor, "shape": [-1, DIM]}]}, {}),
        ({"inputs": [{**tensor, "shape": "1,24"}]}, {}),
        ({"inputs": [{**tensor, "datatype": "FP64"}]}, {}),
        ({"inputs": [{**tensor, "data": [[[0.0] * DIM]]}]}, {}),
        ({"inputs": [{**tensor, "data": ["x"] * DIM}]}, {}),
        ({"inputs": [{**tensor, "data": [1e39] * DIM}]}, {}),
        ({"inputs": [tensor, tensor]}, {}),
        ({"inputs": [tensor], "parameters": {"k": 0}}, {}),
        ({"inputs": [tensor], "parameters": {"k": 10**30}}, {}),
        ({"inputs": [tensor], "parameters": {"recall_target": 2}}, {}),
        ({"inputs": [tensor], "parameters": {"filter": "{"}}, {}),
        ({"inputs": [tensor], "outputs": [{"name": "vectors"}]}, {}),
        (good, {}),
        (good[:-1], headers),
        (good + b"\0", headers),
        (good, {"Inference-Header-Content-Length": str(length + 1)}),
        (good, {"Inference-Header-Content-Length": "-1"}),
        (good, {"Inference-Header-Content-Length": "999999999999"}),
        (good[:length] + nan.tobytes(), headers),
    ]
    connection = shared.connection()
    for body, extra in corpus:
        status, answer, _dummy = shared.ask("POST", INFER, body, extra, connection)  # one connection: none of them may end it
        assert 400 <= status < 500 and list(answer) == ["error"] and answer["error"], (body[:80] if isinstance(body, bytes) else body, answer)
    assert shared.ask("POST", INFER, good, headers, connection)[0] == 200
    status, answer, told = shared.ask("POST", INFER, good, {**headers, "Content-Encoding": "gzip"})
    assert status == 415 and "gzip" in answer["error"] and told["Accept-Encoding"] == "identity"


def test_malformed_http(shared):
    def status(data: bytes, half_close: bool = False) -> int:
        answer = shared.raw(data, half_close)
        assert b'{"error":' in answer, answer
        return int(answer.split()[1])

    post = b"POST %s HTTP/1.1\r\nHost: x\r\n" % INFER.encode()
    assert status(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 TLS\r\n\r\n") == 400
    assert status(b"GET /v2 HTTP/9.9\r\n\r\n") == 400
    assert status(b"GET /v2 HTTP/1.1\r\nno colon\r\n\r\n") == 400
    assert status(b"GET /v2 HTTP/1.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n") == 431
    assert status(post + b"Content-Length: 200001\r\n\r\n") == 413
    assert status(post + b"Content-Length: 18446744073709551615\r\n\r\n") == 413
    assert status(post + b"Content-Length: 18446744073709551616\r\n\r\n") == 400
    assert status(post + b"Content-Length: -1\r\n\r\n") == 400
    assert status(post + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello") == 400
    assert status(post + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n") == 400
    assert status(post + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n") == 400
    assert status(post + b"Transfer-Encoding: chunked\r\n\r\n" + b"ffff\r\n" + b"a" * 65535 + b"\r\n" + (b"ffff\r\n" + b"a" * 65535 + b"\r\n") * 3) == 413
    assert status(post + b"Content-Length: 100\r\n\r\n{}", half_close=True) == 400
    assert shared.ask("GET", "/v2/health/ready")[0] == 200


def test_slow_clients_are_let_go(shared):
    started = time.monotonic()
    slow = []
    for data in (b"POST /v2/models/search/inf", b"POST %s HTTP/1.1\r\nContent-Length: 1000\r\n\r\n{" % INFER.encode(), b""):
        s = socket.create_connection(("127.0.0.1", shared.port), timeout=10)
        s.sendall(data)
        slow.append(s)
    for s, limit in zip(slow, (1, 1, 3)):
        for _dummy in range(int(limit / 0.3) + 4 if limit == 1 else 0):  # a byte now and then does not extend the deadline
            try:
                s.sendall(b"x")
            except OSError:
                break
            time.sleep(0.3)
        with contextlib.suppress(ConnectionResetError):
            assert s.recv(100) == b""
        assert time.monotonic() - started < 6
        s.close()


def test_connections_are_limited(items):
    with Server(items[0], "--max-connections", "4") as server:
        held = [server.connection() for _dummy in range(4)]
        for connection in held:
            assert server.ask("GET", "/v2", connection=connection)[0] == 200
        status, body, headers = server.ask("GET", "/v2")
        assert status == 503 and headers["Retry-After"] and body["error"]
        assert server.admin("GET", "/admin/status")[0] == 200  # the administrator's listener has its own
        for connection in held:
            connection.close()
        time.sleep(0.2)
        assert server.ask("GET", "/v2")[0] == 200


def post(length: int | None, path: str = INFER, headers: str = "") -> bytes:
    """The header of a POST whose body has so many bytes; None: comes in chunks."""
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{size}\r\n{headers}\r\n".encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def connect(server: Server, data: bytes = b"", source: str = "127.0.0.1") -> socket.socket:
    """A connection on which `data` was sent."""
    s = socket.create_connection(("127.0.0.1", server.port), timeout=20, source_address=(source, 0))
    s.sendall(data)
    return s


def until(condition) -> bool:
    """Whether it becomes so within a generous time."""
    return any(condition() or time.sleep(0.02) for _dummy in range(3000))


def status_of(s: socket.socket) -> int:
    """The status that the server answers with, of which only the first bytes are read."""
    return int(s.recv(12).split()[1])


def held(server: Server, of: str) -> float:
    return server.metric(f'held_bytes{{of="{of}"}}')


@pytest.mark.parametrize("length", [None, 16 << 20], ids=["chunked", "announced"])
def test_slow_senders_cost_their_connections_alone(items, queries, length):
    part = b'{"inputs": [' + b" " * 1000
    with Server(items[0], "--max-pending", "1000000") as server, contextlib.ExitStack() as slow:
        for _dummy in range(40):
            slow.enter_context(connect(server, post(length) + (chunk(part) if length is None else part)))
        assert until(lambda: server.metric("connections") > 40)
        for path in ("/v2/health/ready", "/v2/health/live", "/metrics", "/v2/models/search"):
            assert server.ask("GET", path)[0] == 200
        whole, headers = as_binary(queries[:1])
        assert server.ask("POST", INFER, whole, headers)[0] == 200
        assert server.ask("POST", INFER, as_json(queries[:1]))[0] == 200
        body = json.dumps(as_json(queries[:1])).encode()
        with connect(server, post(None) + chunk(body) + b"0\r\n\r\n") as s:
            assert status_of(s) == 200
        assert held(server, "bodies") == 0


def test_bodies_are_held_as_they_arrive_and_no_peer_has_all(items, queries):
    large = np.repeat(queries, 40, 0)  # 268,800 bytes
    whole, headers = as_binary(large, k=1)
    with Server(items[0], "--max-pending", "600000") as server:
        with connect(server, post(len(whole))) as s:
            assert until(lambda: server.metric("connections") > 1) and held(server, "bodies") == 0
            s.sendall(whole[:-1])
            assert until(lambda: held(server, "bodies") > 200_000)
            status, body, answered = server.ask("POST", INFER, whole, headers)  # half of the memory is the most of one peer
            assert status == 503 and answered["Retry-After"] == "1" and body["error"]
            assert server.metric('rejected_total{reason="bodies"}') == 1
            other = post(len(whole), headers=f"Inference-Header-Content-Length: {headers['Inference-Header-Content-Length']}\r\n")
            with connect(server, other + whole, "127.0.0.2") as o:
                assert status_of(o) == 200
            assert server.ask("POST", INFER, *as_binary(queries))[0] == 200  # a small one goes on
        assert until(lambda: held(server, "bodies") == 0)
        assert server.ask("POST", INFER, whole, headers)[0] == 200
    with Server(items[0], "--max-pending", "600000", "--peer-share", "100") as server, connect(server, post(len(whole)) + whole[:-1]):
        assert until(lambda: held(server, "bodies") > 200_000)
        assert server.ask("POST", INFER, whole, headers)[0] == 200


def test_strangers_are_answered_on_the_header(folder, items, queries):
    """Nobody waits for a body that is not wanted, nor makes room for it."""
    key = folder / "door-key"
    key.write_text("0123456789abcdef\n")
    key.chmod(0o600)
    with Server(items[0], "--api-key-file", str(key), "--max-pending", "1000000") as server, contextlib.ExitStack() as open_:
        allowed = "Authorization: bearer 0123456789abcdef\r\n"
        for path, headers, status in (
            ("/nowhere", "", 401),
            (INFER, "", 401),
            (INFER, "Authorization: Bearer 0123456789abcdeX\r\n", 401),
            (INFER, "Expect: 100-continue\r\n", 401),
            ("/nowhere", allowed, 404),
            ("/admin/upsert", allowed, 404),
            ("/v2/models/other/infer", allowed + "Expect: 100-continue\r\n", 404),
            ("/v2", allowed, 405),
            ("/v2/health/ready", "", 405),
            (INFER, allowed + "Content-Encoding: gzip\r\n", 415),
            (INFER, allowed + "Expect: 200-ok\r\n", 417),
        ):
            for length in (16 << 20, None):
                assert status_of(open_.enter_context(connect(server, post(length, path, headers)))) == status, (path, headers)
        assert server.ask("POST", INFER, *(as_binary(queries)[0], {**as_binary(queries)[1], "Authorization": "BEARER 0123456789abcdef"}))[0] == 200


def test_results_have_a_bound_that_slow_readers_cannot_use_up(items, queries):
    large, headers = as_binary(np.repeat(queries, 10, 0), k=300)  # 210,000 results: 2.5 MB, and as much again when encoded
    request = post(len(large), headers=f"Inference-Header-Content-Length: {headers['Inference-Header-Content-Length']}\r\n") + large
    with Server(items[0], "--max-results", "12000000", "--request-timeout", "60", "--workers", "1") as server:
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", server.port))
            for _dummy in range(6):  # six answers one after the other, none of which is read
                slow.sendall(request)
            assert until(lambda: held(server, "results") > 2_000_000)
            status, body, answered = server.ask("POST", INFER, large, headers)
            assert status == 429 and answered["Retry-After"] == "1" and "results" in body["error"]
            assert server.metric('rejected_total{reason="results"}') == 1
            with connect(server, request, "127.0.0.2") as other:
                assert status_of(other) == 200
            assert server.ask("POST", INFER, *as_binary(queries))[0] == 200  # a small one goes on
            assert server.ask("GET", "/v2/health/ready")[0] == 200
        assert until(lambda: held(server, "results") == 0)
        assert server.ask("POST", INFER, large, headers)[0] == 200
        status, body, _dummy = server.ask("POST", INFER, as_json(np.repeat(queries, 10, 0), k=300))  # longer as JSON, and never to be had
        assert status == 413 and "--max-results" in body["error"] and "6000000" in body["error"]


def test_a_request_has_a_price(items, queries):
    with Server(items[0], "--max-cost", str(10 * 400 * DIM), "--workers", "1") as server:
        assert server.ask("POST", INFER, as_json(queries[:10], ef=400))[0] == 200
        assert server.ask("POST", INFER, as_json(queries[:1], ef=4000))[0] == 200
        for more in (as_json(queries[:11], ef=400), as_json(queries[:10], ef=401), as_json(queries[:10], ef=400, filter={"none": ["x"]})):
            status, body, _dummy = server.ask("POST", INFER, more)
            assert status == 413 and "--max-cost" in body["error"] and str(10 * 400 * DIM) in body["error"], body
    with Server(items[0], "--max-cost", str(ITEMS * DIM)) as server:  # no search costs more than to compare all rows
        assert server.ask("POST", INFER, as_json(queries[:1], ef=100_000))[0] == 200
        assert server.ask("POST", INFER, as_json(queries[:1], ef=100_000, filter={"none": ["x"]}))[0] == 200
        assert server.ask("POST", INFER, as_json(queries[:2], ef=100_000))[0] == 413


def test_the_work_of_a_client_that_is_gone_is_dropped(items, queries):
    n = 16_000
    whole, headers = as_binary(np.resize(queries, (n, DIM)), k=10, ef=5000)  # minutes
    request = post(len(whole), headers=f"Inference-Header-Content-Length: {headers['Inference-Header-Content-Length']}\r\n") + whole
    with Server(items[0], "--workers", "1", "--queue", "100000") as server:
        with connect(server, request):
            assert until(lambda: server.metric("queries_total") > 0)
            of_one = held(server, "results")
        assert until(lambda: server.metric("abandoned_total") == 1)
        assert server.metric("queries_total") < n and held(server, "results") == held(server, "bodies") == 0
        before = server.metric("queries_total")
        assert server.ask("POST", INFER, *as_binary(queries))[0] == 200 and server.metric("queries_total") == before + len(queries)
        with connect(server, request) as reset:  # two that take turns, one of which ends with a reset
            reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with connect(server, request):
                assert until(lambda: held(server, "results") == 2 * of_one > 0)
        assert until(lambda: server.metric("abandoned_total") == 3)
        # A client that has only finished asking gets its answer, or is told why it does not.
        assert server.raw(post(len(small := json.dumps(as_json(queries[:1])).encode())) + small, half_close=True).startswith(b"HTTP/1.1 200")
        assert b"sending side" in server.raw(request, half_close=True)


def test_silent_connections_give_way(items, queries):
    with Server(items[0], "--max-connections", "8") as server, contextlib.ExitStack() as silent:
        first = silent.enter_context(connect(server))
        for data in (b"", b"GET /v2/health/live HT", b"POST ", b"", b"GET ", b"", b""):
            silent.enter_context(connect(server, data))
        time.sleep(1.5)
        for _dummy in range(20):  # each new client finds its place, whoever holds the others
            assert server.ask("GET", "/v2/health/ready")[0] == 200
        assert first.recv(1) == b""  # the one that was silent for longest
        assert server.ask("POST", INFER, as_json(queries[:1]))[0] == 200
        assert server.metric("silent_connections_closed_total") >= 1


def test_a_long_batch_does_not_look_like_a_hang(items, queries):
    """A worker gives a sign of life with each query, not with each share of a batch, which are 32 of them."""
    body = json.dumps(as_json(np.resize(queries, (256, DIM)), k=1000, ef=100_000)).encode()
    with Server(items[0], "--workers", "1") as server:
        ages = []
        started = time.monotonic()
        with connect(server, post(len(body)) + body) as s:
            s.setblocking(False)
            while True:
                with contextlib.suppress(BlockingIOError):
                    assert s.recv(12) == b"HTTP/1.1 200"
                    break
                ages.append(server.metric("worker_silence_seconds"))
        share = (time.monotonic() - started) / (256 / 32)
        assert np.median(ages) < share / 6


def test_keys(folder, items, queries):
    key, admin_key = folder / "key", folder / "admin-key"
    key.write_text("0123456789abcdef\n")
    admin_key.write_text("fedcba9876543210")
    command = [BINARY, "serve", "--index", str(items[0]), "--listen", "127.0.0.1:0", "--api-key-file"]
    for path in (key, folder / "absent"):
        os.path.exists(path) and path.chmod(0o644)
        refused = subprocess.run([*command, str(path)], capture_output=True, text=True, timeout=20, check=False)
        assert refused.returncode == 2 and str(path) in refused.stderr
    for path in (key, admin_key):
        path.chmod(0o600)
    with Server(items[0], "--api-key-file", str(key), "--admin-key-file", str(admin_key)) as server:
        body, headers = as_binary(queries[:1])
        for wrong in ({}, {"Authorization": "0123456789abcdef"}, {"Authorization": "Bearer 0123456789abcdeF"}, {"Authorization": "Bearer fedcba9876543210"}):
            assert server.ask("POST", INFER, body, {**headers, **wrong})[0] == 401
        assert server.ask("POST", INFER, body, {**headers, "Authorization": "Bearer 0123456789abcdef"})[0] == 200
        assert server.ask("GET", "/metrics")[0] == 401 and server.ask("GET", "/v2/health/ready")[0] == 200
        assert server.admin("GET", "/admin/status")[0] == 401
        status, _dummy, _dummy = server.ask("GET", "/admin/status", None, {"Authorization": "Bearer fedcba9876543210"}, UnixConnection(server.admin_path))
        assert status == 200


# ---- load, swaps, the end


class Load:
    """Clients that ask without pause; what was answered other than 200 is in `failures`."""

    def __init__(self, server: Server, queries: np.ndarray, clients: int = 4, **parameters) -> None:
        self.server, self.failures, self.answers, self.versions = server, [], 0, []
        self.body, self.headers = as_binary(queries, **parameters)
        self.ending = threading.Event()
        self.threads = [threading.Thread(target=self._run) for _dummy in range(clients)]
        for thread in self.threads:
            thread.start()

    def _run(self) -> None:
        connection = self.server.connection()
        while not self.ending.is_set():
            try:
                status, body, headers = self.server.ask("POST", INFER, self.body, self.headers, connection)
            except OSError as e:
                if not (self.server.draining and isinstance(e, ConnectionRefusedError)):
                    self.failures.append(repr(e))
                return
            except http.client.HTTPException as e:
                self.failures.append(repr(e))
                return
            if status != 200:
                self.failures.append((status, headers["Retry-After"]))
                continue
            self.answers += 1
            version = json.loads(body[: int(headers["Inference-Header-Content-Length"])])["model_version"]
            if not self.versions or self.versions[-1] != version:
                self.versions.append(version)

    def until(self, condition) -> None:
        """Wait until it is so, for half a minute; whoever asks for it asserts it."""
        for _dummy in range(3000):
            if condition():
                return
            time.sleep(0.01)

    def end(self) -> None:
        self.ending.set()
        for thread in self.threads:
            thread.join(20)


Server.draining = False


def test_a_full_queue_is_answered_with_429(items, queries):
    with Server(items[0], "--workers", "1", "--queue", "100") as server:
        load = Load(server, queries, clients=8, k=500, ef=2000)
        load.until(lambda: load.failures and load.answers)
        assert server.ask("GET", "/v2/health/ready")[0] == 200  # under load, too
        load.end()
        assert load.answers and load.failures and set(load.failures) == {(429, "1")}
        rejected = server.metric('rejected_total{reason="queue"}')
        assert rejected == len(load.failures) == server.metric('http_responses_total{code="429"}')
        assert server.metric("queue_depth") == 0


def test_swap_under_load_fails_no_request(folder, items, others, queries):
    served = folder / "served.vnni"
    os.link(items[0], folder / "next") if not served.exists() else None
    os.replace(folder / "next", served)
    with Server(served) as server:
        load = Load(server, queries[:16])
        for turn in range(10):
            source = (others, items)[turn % 2][0]
            if turn % 3 == 2:  # another file takes the name, and SIGHUP says so
                os.link(source, folder / "next")
                os.replace(folder / "next", served)
                seen = len(server.log)
                server.admin("POST", "/admin/swap", {"path": str(served)}) if turn == 2 else server.process.send_signal(signal.SIGHUP)
                server.wait_log("serving", seen)
            else:
                status, body, _dummy = server.admin("POST", "/admin/swap", {"path": str(served if turn % 2 == 3 else source)})
                assert status == 200 and body["index"]["path"] == str(source)
            time.sleep(0.1)
        broken = folder / "broken.vnni"
        content = bytearray(items[0].read_bytes())
        content[len(content) // 2] ^= 0x10
        broken.write_bytes(content[: len(content) - 5])
        before = server.admin("GET", "/admin/status")[1]
        for path in (broken, folder / "absent.vnni", folder):
            status, body, _dummy = server.admin("POST", "/admin/swap", {"path": str(path)})
            assert status == 422 and str(path) in body["error"]
        after = server.admin("GET", "/admin/status")[1]
        assert after["index"] == before["index"] and after["failed_swaps"] == 3 and after["ready"]
        load.end()
        assert not load.failures and load.answers > 100
        assert server.metric("index_swaps_total") == 11 and server.metric("index_swap_failures_total") == 3
        ids, distances = from_json(server.ask("POST", INFER, as_json(queries, ef=400))[1])
        current = items if after["index"]["rows"] == ITEMS else others
        assert right(ids, distances, current[1], queries)


def test_a_corrupt_index_is_never_ready_until_swapped(folder, items, queries):
    broken = folder / "start.vnni"
    broken.write_bytes(items[0].read_bytes()[:-1000])
    with Server(broken, ready=False) as server:
        server.wait_log("the index was refused")
        status, body, _dummy = server.ask("GET", "/v2/health/ready")
        assert status == 503 and not body["ready"] and str(broken) in body["error"]
        assert server.ask("GET", "/v2/health/live")[0] == 200
        assert server.ask("GET", "/v2/models/search/ready")[0] == 503
        assert server.ask("POST", INFER, as_json(queries))[0] == 503
        assert server.metric("ready") == 0
        assert server.admin("POST", "/admin/swap", {"path": str(items[0])})[0] == 200
        assert server.ask("GET", "/v2/health/ready")[0] == 200
        assert server.ask("POST", INFER, as_json(queries))[0] == 200


def test_sigterm_drains(items, queries):
    with Server(items[0], "--drain-delay", "0.5") as server:
        idle = server.connection()
        assert server.ask("GET", "/v2", connection=idle)[0] == 200
        load = Load(server, queries, clients=6, k=100, ef=500)
        load.until(lambda: load.answers > 10)  # it is well under way
        before = load.answers
        server.draining = True
        server.process.send_signal(signal.SIGTERM)
        server.wait_log("draining")
        status, body, headers = server.ask("GET", "/v2/health/ready")
        assert status == 503 and "draining" in body["error"] and headers["Connection"] == "close"
        assert server.process.wait(20) == 0
        load.end()
        assert not load.failures and load.answers > before > 10
        assert server.wait_log("drained")


def test_drain_waits_no_longer_than_told(items):
    with Server(items[0], "--drain-timeout", "0.5", "--request-timeout", "30") as server:
        with socket.create_connection(("127.0.0.1", server.port)) as s:
            s.sendall(b"POST %s HTTP/1.1\r\nContent-Length: 1000\r\n\r\n" % INFER.encode())
            time.sleep(0.2)
            started = time.monotonic()
            server.stop()
            assert time.monotonic() - started < 5
        assert server.wait_log("ended with requests under way")


def test_systemd_is_told(folder, items):
    path = str(folder / "notify.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(path)
        notify.settimeout(10)
        env = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "600000"}

        def expect(word: str) -> str:
            for _dummy in range(100):
                if word in (said := notify.recv(4096).decode()):
                    return said
            raise AssertionError(word)

        with Server(items[0], env=env) as server:
            expect("READY=1")
            expect("WATCHDOG=1")
            expect("WATCHDOG=1")
            server.process.send_signal(signal.SIGHUP)
            assert "MONOTONIC_USEC=" in expect("RELOADING=1")
            expect("READY=1")
            server.process.send_signal(signal.SIGTERM)
            expect("STOPPING=1")


def test_metrics_add_up(items, queries):
    with Server(items[0]) as server:
        for _dummy in range(3):
            assert server.ask("POST", INFER, *as_binary(queries))[0] == 200
        server.ask("POST", INFER, b"{")
        assert server.metric("queries_total") == 210
        assert server.metric("request_duration_seconds_count") == 3 == server.metric('request_duration_seconds_bucket{le="+Inf"}')
        assert server.metric("distance_computations_total") > 210 and server.metric("hops_total") >= 210
        assert server.metric('http_responses_total{code="400"}') == 1
        assert server.metric("index_rows") == ITEMS and server.metric("ready") == 1
        text = server.ask("GET", "/metrics")[1].decode()
        assert "\nvnni_search_index_info{" in text and 'dim="24"' in text
        described = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                family = line.split("{")[0].split()[0]
                assert family in described or family.rsplit("_", 1)[0] in described, line
                float(line.rsplit(" ", 1)[1])


# ---- writes


def upsert(server: Server, ids: list[int], rows: np.ndarray, tags: list[list[str]] | None = None):
    inputs = [
        {"name": "ids", "datatype": "INT64", "shape": [len(ids)], "data": ids},
        {"name": "vectors", "datatype": "FP32", "shape": list(rows.shape), "data": rows.tolist()},
    ]
    return server.admin("POST", "/admin/upsert", {"inputs": inputs, "parameters": {"tags": tags}} if tags else {"inputs": inputs})


def delete(server: Server, ids: list[int]):
    return server.admin("POST", "/admin/delete", {"inputs": [{"name": "ids", "datatype": "INT64", "shape": [len(ids)], "data": ids}]})


def found(server: Server, queries: np.ndarray, **parameters) -> list[int]:
    """The id of each query's nearest row."""
    return from_json(server.ask("POST", INFER, as_json(queries, k=1, ef=300, **parameters))[1])[0][:, 0].tolist()


def test_writes_are_searched_at_once_and_survive_kill(folder, items):
    index = folder / "live.vnni"
    index.write_bytes(items[0].read_bytes())
    link = folder / "current.vnni"
    link.symlink_to(index)
    new = np.random.Generator(np.random.PCG64(9)).standard_normal((6, DIM)).astype(np.float32) * 3
    ids = [2**40, 2**40 + 1, 2**62, 7_000_000, 8_000_000, 3]
    with Server(link, "--writes", "always", "--capacity", "1000000") as server:
        assert upsert(server, ids, new, [["red"], ["red", "big"], [], ["blue"], [], ["red"]])[:2] == (200, {"upserted": 6, "rows": ITEMS + 5})
        assert found(server, new) == ids
        assert found(server, new[3:4], filter={"any": ["red"], "none": ["big"]})[0] in (ids[0], ids[5])
        assert delete(server, [ids[4], 123_456_789])[:2] == (200, {"deleted": 1, "rows": ITEMS + 4})
        assert ids[4] not in found(server, new)
        for body, says in (({"inputs": []}, "inputs"), (b"{", "JSON")):
            status, answer, _dummy = server.admin("POST", "/admin/upsert", body)
            assert status == 400 and says in answer["error"]
        status, answer, _dummy = upsert(server, [1], new[:1], [[""]])
        assert status == 400 and answer["error"]
        status, answer, _dummy = upsert(server, [1], new[:1, :5])
        assert status == 400 and "24 dimensions" in answer["error"]
        assert server.metric("upserted_total") == 6 and server.metric("deleted_total") == 1
        server.process.kill()
        server.process.wait()
    with Server(link, "--writes", "always", "--capacity", "1000000") as server:  # what was acknowledged is there
        assert server.metric("index_rows") == ITEMS + 4
        want = ids[:4] + ids[5:]
        rows = np.delete(new, 4, 0)
        assert found(server, rows) == want
        assert server.admin("POST", "/admin/snapshot")[:2] == (200, {"path": str(index), "rows": ITEMS + 4})
        assert server.admin("POST", "/admin/consolidate")[0] == 200
        assert found(server, rows) == want and link.is_symlink()
        status, answer, _dummy = server.admin("POST", "/admin/swap")
        assert status == 422 and "being written to" in answer["error"]
        status, answer, _dummy = server.admin("POST", "/admin/swap", {"path": str(items[0])})
        assert status == 200, answer
        assert server.metric("index_rows") == ITEMS
        assert server.admin("POST", "/admin/swap", {"path": str(link)})[0] == 200
        assert found(server, rows) == want
        assert server.admin("POST", "/admin/unknown")[0] == 404
    with Server(link) as server:  # a reader of the snapshot
        assert found(server, rows) == want
        status, answer, _dummy = delete(server, [1])
        assert status == 409 and "--writes" in answer["error"]


def test_searches_under_writes_fail_never(folder, items, queries):
    index = folder / "busy.vnni"
    index.write_bytes(items[0].read_bytes())
    with Server(index, "--writes", "never", "--capacity", "1000000") as server:
        load = Load(server, queries[:16], clients=3)
        for turn in range(30):
            ids = list(range(turn * 20, turn * 20 + 20))
            assert upsert(server, [i + 10_000_000 for i in ids], items[1][ids] + 0.01)[0] == 200
            assert delete(server, ids)[1]["deleted"] == 20
            if turn % 10 == 9:
                assert server.admin("POST", "/admin/snapshot")[0] == 200
        load.end()
        assert not load.failures and load.answers > 20
        assert server.metric("index_rows") == ITEMS


class Writers:
    """Clients that write without pause until the server is killed. `rows`: what was acknowledged. `unsure`: for the ids of a write that was not
    answered, the row before it and after it (None: no row).
    """

    def __init__(self, rows: dict[int, np.ndarray]) -> None:
        self.rows, self.unsure, self.writes, self.snapshots = rows, {}, 0, 0

    def write(self, server: Server, which: int, seed: int) -> None:
        random = np.random.Generator(np.random.PCG64([seed, which]))
        with contextlib.suppress(OSError, http.client.HTTPException):
            while True:
                ids = [int(i) for i in which * 1000 + random.choice(250, random.integers(1, 9), replace=False)]
                rows = random.standard_normal((len(ids), DIM)).astype(np.float32)
                insert = random.random() < 0.6
                self.unsure.update((i, (self.rows.get(i), row if insert else None)) for i, row in zip(ids, rows))
                assert (upsert(server, ids, rows) if insert else delete(server, ids))[0] == 200
                for i in ids:
                    _before, after = self.unsure.pop(i)
                    self.rows.pop(i, None) if after is None else self.rows.update({i: after})
                self.writes += 1

    def keep_up(self, server: Server, seed: int) -> None:
        random = np.random.Generator(np.random.PCG64([seed, 2]))
        with contextlib.suppress(OSError, http.client.HTTPException):
            while True:
                assert server.admin("POST", "/admin/consolidate" if random.random() < 0.2 else "/admin/snapshot")[0] == 200
                self.snapshots += 1
                time.sleep(random.random() * 0.03)

    def compare(self, server: Server, queries: np.ndarray) -> None:
        """All that is served is what was acknowledged, and what was not answered happened or did not."""
        there: dict[int, list[float]] = {}  # of all rows: those that pass a filter are so few that they are compared whole
        for query in queries:
            ids, distances = from_json(server.ask("POST", INFER, as_json(query[None], k=1000, filter={"none": ["-"]}))[1])
            for i, distance in zip(ids[0].tolist(), distances[0]):
                there.setdefault(i, []).append(distance)
        there.pop(-1, None)
        for i in {*there, *self.rows, *self.unsure}:
            possible = self.unsure.get(i, (self.rows.get(i),))
            kept = [
                row for row in possible if (row is None) == (i not in there) and (row is None or np.allclose(((queries - row) ** 2).sum(1), there[i], 5e-3))
            ]
            assert kept, f"id {i}: distances {there.get(i)}, acknowledged or open: {possible}"
            self.rows.pop(i, None) if kept[0] is None else self.rows.update({i: kept[0]})
        self.unsure.clear()


def test_kill_at_random_moments_loses_nothing_acknowledged(folder):
    """Under upserts, deletes, snapshots and consolidations; $VNNI_SEARCH_KILLS times."""
    index, rows = build_index(folder, "killed", 300, 11)
    writers = Writers(dict(enumerate(rows)))
    queries = np.random.Generator(np.random.PCG64(12)).standard_normal((3, DIM)).astype(np.float32)
    random = np.random.Generator(np.random.PCG64(13))
    kills = int(os.environ.get("VNNI_SEARCH_KILLS", "40"))
    for kill in range(kills):
        with Server(index, "--writes", "always", "--capacity", "100000", "--workers", "1") as server:
            writers.compare(server, queries)
            threads = [threading.Thread(target=writers.write, args=(server, which, kill)) for which in range(2)]
            threads.append(threading.Thread(target=writers.keep_up, args=(server, kill)))
            for thread in threads:
                thread.start()
            seen = writers.snapshots
            while kill % 4 == 0 and writers.snapshots == seen and threads[2].is_alive():  # on a slow disk, too, some are taken
                time.sleep(0.01)
            time.sleep(random.random() * 0.15)
            server.process.kill()
            server.process.wait()
            for thread in threads:
                thread.join(20)
    with Server(index, "--writes", "always", "--capacity", "100000") as server:
        writers.compare(server, queries)
    print(f"{kills} kills, {writers.writes} acknowledged writes, {writers.snapshots} snapshots and consolidations")
    assert writers.writes > kills and writers.snapshots >= kills // 4


def test_one_index_has_one_writer(folder, items):
    index = folder / "two.vnni"
    index.write_bytes(items[0].read_bytes())
    with Server(index, "--writes", "always", "--capacity", "1000000"), Server(index, "--writes", "always", "--capacity", "1000000", ready=False) as second:
        assert "another process" in second.wait_log("the index was refused")["reason"]
        assert second.ask("GET", "/v2/health/ready")[0] == 503


# ---- other hosts


def test_a_cpu_without_vnni_gives_the_same_answers(folder, items, queries):
    """QEMU's user mode shows a CPU of its own to cpuid and executes no instruction that this one lacks: nothing is masked in the program."""
    qemu = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")
    if qemu is None:
        pytest.skip("there is no qemu-x86_64 (Debian: qemu-user)")
    with Server(items[0]) as server:
        want = from_json(server.ask("POST", INFER, as_json(queries, k=10, ef=200))[1])
    for cpu, kernel in (("Haswell", "avx2"), ("Nehalem", "scalar")):
        with Server(items[0], "--request-timeout", "60", env={"VNNI_SEARCH_KERNEL": ""}, wrapper=(qemu, "-cpu", cpu)) as server:
            ids, distances = from_json(server.ask("POST", INFER, as_json(queries, k=10, ef=200))[1])
            assert server.metric(f'build_info{{version="0.1.0",kernel="{kernel}"}}') == 1
            assert (ids == want[0]).mean() > 0.99 and np.allclose(distances, want[1], 1e-3)
        told = subprocess.run([qemu, "-cpu", cpu, BINARY, "kernels"], capture_output=True, text=True, timeout=60, check=True).stdout.split()
        assert told[0] == kernel and told[-1] == "scalar" and not [name for name in told if "vnni" in name]


def test_the_best_kernel_is_used_unless_another_is_asked_for(items, queries):
    told = subprocess.run([BINARY, "kernels"], capture_output=True, text=True, timeout=60, check=True).stdout.split()
    assert told[-1] == "scalar"
    answers = []
    for wanted in ("", *told):
        with Server(items[0], env={"VNNI_SEARCH_KERNEL": wanted}) as server:
            assert server.metric(f'build_info{{version="0.1.0",kernel="{wanted or told[0]}"}}') == 1
            answers.append(from_json(server.ask("POST", INFER, as_json(queries, k=10, ef=200))[1])[0])
    assert all((ids == answers[0]).mean() > 0.99 for ids in answers)
    lacking = "neon_dotprod" if "neon_dotprod" not in told else "avx2"
    command = [BINARY, "serve", "--index", items[0], "--listen", "127.0.0.1:0"]
    out = subprocess.run(command, env={**os.environ, "VNNI_SEARCH_KERNEL": lacking}, capture_output=True, text=True, timeout=60, check=False)
    assert out.returncode == 1 and f"VNNI_SEARCH_KERNEL={lacking}: this CPU cannot run it; it can run {', '.join(told)}" in out.stderr, out.stderr


def test_replicas_lie_on_the_nodes_of_the_workers(items, others, queries):
    with Server(items[0], "--replicas", "numa") as server:
        nodes = {int(p.name[4:]) for cpu in os.sched_getaffinity(0) for p in Path(f"/sys/devices/system/cpu/cpu{cpu}").glob("node[0-9]*")} or {0}
        assert server.metric("index_replicas") == len(nodes)
        policies = {int(node) for node in re.findall(r" bind:(\d+) ", Path(f"/proc/{server.process.pid}/numa_maps").read_text())}
        assert policies == nodes
        assert right(*from_json(server.ask("POST", INFER, as_json(queries, ef=400))[1]), items[1], queries)
        assert server.admin("POST", "/admin/swap", {"path": str(others[0])})[1]["index"]["replicas"] == len(nodes)
        assert right(*from_json(server.ask("POST", INFER, as_json(queries, ef=400))[1]), others[1], queries)


def test_the_program_needs_nothing_of_its_host(tmp_path, items, queries):
    """In a root directory that holds the program and an index alone: no libc, of whatever age."""
    if os.geteuid():
        pytest.skip("only root can change the root directory")
    shutil.copy(BINARY, tmp_path / "vnni-search")
    shutil.copy(items[0], tmp_path / "items.vnni")
    with Server(tmp_path / "items.vnni", root=tmp_path) as server:
        assert right(*from_json(server.ask("POST", INFER, as_json(queries, ef=400))[1]), items[1], queries)


# ---- options


def run(*options: str) -> subprocess.CompletedProcess:
    return subprocess.run([BINARY, "serve", *options], capture_output=True, text=True, timeout=20, check=False)


def test_help_names_every_option():
    out = run("--help")
    assert out.returncode == 0
    options = "index listen admin cpus workers queue recall-target max-body api-key-file drain-timeout replicas max-cost max-results peer-share"
    for option in options.split():
        assert f"--{option} " in out.stdout


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "--index is missing"),
        (["--indx", "x"], "no option --indx"),
        (["--index"], "--index needs a value"),
        (["x"], 'unexpected argument "x"'),
        (["--index", "x", "--queue", "0"], '--queue: "0" is not a number from 1'),
        (["--index", "x", "--queue", "9x"], '"9x"'),
        (["--index", "x", "--recall-target", "nan"], '"nan"'),
        (["--index", "x", "--recall-target", "0.9", "--ef", "50"], "not both"),
        (["--index", "x", "--cpus", "3-1"], '"3-1"'),
        (["--index", "x", "--cpus", "4000"], "CPU 4000"),
        (["--index", "x", "--name", "a/b"], '"a/b"'),
        (["--index", "x", "--listen", "127.0.0.1:0", "--admin", "0.0.0.0:0"], "--admin-key-file"),
        (["--index", "x", "--writes", "sometimes", "--admin", "unix:/tmp/x"], "sometimes"),
        (["--index", "x", "--writes", "always"], "--admin"),
        (["--index", "x", "--replicas", "two"], '"two"'),
        (["--index", "x", "--replicas", "numa", "--mode", "mmap"], "--mode mmap"),
    ],
)
def test_wrong_options(options, says):
    out = run(*options)
    assert out.returncode == 2 and says in out.stderr, out.stderr


@pytest.mark.parametrize("address", ["localhost:80", "127.0.0.1", "127.0.0.1:", "127.0.0.1:99999", "unix:relative", "unix:/" + "x" * 200, "203.0.113.1:1"])
def test_wrong_addresses(address):
    out = run("--index", "x", "--listen", address)
    assert out.returncode == 1 and address in json.loads(out.stderr)["message"]
