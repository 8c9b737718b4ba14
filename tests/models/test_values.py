# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""serve.py never answers with other numbers: values of every datatype by JSON, binary data and gRPC, states, integers of 64 bits, models that cannot be
served, and requests that take too long."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import subprocess
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from test_serve import Service, free_port

grpc = pytest.importorskip("grpc", reason="needs tritonclient[grpc]")
from conftest import ROLE
from onnx_suite import Client, Fault, Refused

SERVE = ROLE / "files/server/serve.py"
ALL = ("JSON", "binary", "gRPC")


@pytest.fixture(scope="module")
def repository(python, tmp_path_factory):
    directory = tmp_path_factory.mktemp("small")
    subprocess.run([python("server"), Path(__file__).with_name("small_models.py"), directory], check=True)
    return directory


@pytest.fixture(scope="module")
def service(python, repository, tmp_path_factory):
    running = Service(python("server"), SERVE, repository, tmp_path_factory.mktemp("log") / "serve.log", "--timeout", 4, "--queue", 2, "--max-free", 100000)
    yield running
    running.process.kill()
    running.process.wait()


@pytest.fixture
def client(service):
    return Client(service.port, service.grpc_port)


def json_of(service, model, *inputs, **more):
    """Return (status, answer) of a request with JSON."""
    status, text = service.get(f"/v2/models/{model}/infer", json.dumps({"inputs": list(inputs), **more}).encode())
    return status, json.loads(text)


def x(datatype, data, **more):
    return {"name": "x", "shape": [len(data)], "datatype": datatype, "data": data, **more}


# --- values -----------------------------------------------------------------------------------------------------------

HELD = {
    "f16": ("FP16", [0.5, -65504.0, 6.103515625e-05, 3]), "bf16": ("BF16", [1.0, -2.5, 3.3895313892515355e38]), "f32": ("FP32", [0.1, -3.4e38, 7, 1 << 63]),
    "f64": ("FP64", [0.5, -(2.0**100), 3]), "i8": ("INT8", [-128, 127, 3.0]), "i16": ("INT16", [-32768, 32767]), "i32": ("INT32", [-(1 << 31), (1 << 31) - 1]),
    "i64": ("INT64", [-(1 << 31), (1 << 31) - 1, 5.0]), "u8": ("UINT8", [0, 255]), "u16": ("UINT16", [0, 65535]), "u32": ("UINT32", [0, (1 << 31) - 1]),
    "u64": ("UINT64", [0, (1 << 31) - 1]), "boolean": ("BOOL", [True, False]), "string": ("BYTES", ["", "a", "Größe", " "]),
}  # fmt: skip


@pytest.mark.parametrize("kind", HELD)
def test_what_a_datatype_holds_comes_back(service, client, kind):
    datatype, values = HELD[kind]
    status, answer = json_of(service, f"echo_{kind}", x(datatype, values))
    assert status == 200, answer
    got = answer["outputs"][0]
    assert got["datatype"] == datatype and got["shape"] == [len(values)]
    array = np.array(values, np.str_ if datatype == "BYTES" else np.float32 if datatype == "BF16" else got_type(datatype))
    assert np.array_equal(np.array(got["data"], array.dtype), array)
    for how in ALL:
        kind_back, back = client.ask(how, f"echo_{kind}", [("x", datatype, array)])["y"]
        assert kind_back == datatype and np.array_equal(back, array), how


def got_type(datatype):
    return {"BOOL": "?"}.get(datatype) or datatype.lower().replace("fp", "float")


@pytest.mark.parametrize("kind", HELD)
def test_no_elements_come_back_as_an_empty_list(service, client, kind):
    status, answer = json_of(service, f"echo_{kind}", x(HELD[kind][0], []))
    assert status == 200 and answer["outputs"][0]["data"] == [] and answer["outputs"][0]["shape"] == [0]
    assert client.ask("gRPC", f"echo_{kind}", [("x", HELD[kind][0], np.zeros(0, np.float32))])["y"][1].shape == (0,)


NOT_HELD = [
    ("f32", "FP32", None), ("f32", "FP32", "1.5"), ("f32", "FP32", True), ("f32", "FP32", 1e39), ("f32", "FP32", {}), ("f32", "FP32", [1.0]),
    ("f16", "FP16", 65520.0), ("bf16", "BF16", 3.4e38), ("f64", "FP64", 1e300), ("f64", "FP64", 1e-300), ("i64", "INT64", 0.9), ("i64", "INT64", -0.5),
    ("i64", "INT64", 9007199254740993.0), ("i64", "INT64", "7"), ("i64", "INT64", True), ("i64", "INT64", None), ("i64", "INT64", 1 << 31),
    ("i64", "INT64", 1 << 64),
    ("i64", "INT64", -(1 << 31) - 1), ("u64", "UINT64", -1), ("u64", "UINT64", 1 << 31), ("u32", "UINT32", 1 << 31), ("u32", "UINT32", -1), ("i8", "INT8", 128),
    ("i16", "INT16", -32769), ("i32", "INT32", 1 << 31), ("u8", "UINT8", 300), ("u8", "UINT8", 300.0), ("u8", "UINT8", -1.0), ("u16", "UINT16", 65536),
    ("boolean", "BOOL", "false"), ("boolean", "BOOL", 0.3), ("boolean", "BOOL", 1), ("boolean", "BOOL", None), ("string", "BYTES", 7),
    ("string", "BYTES", None), ("string", "BYTES", "a\0"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "datatype", "value"), NOT_HELD, ids=lambda it: str(it))
def test_what_a_datatype_does_not_hold_is_refused_by_index(service, kind, datatype, value):
    good = HELD[kind][1][0]
    status, answer = json_of(service, f"echo_{kind}", x(datatype, [good, good, value]))
    assert status == 400 and "[2]" in answer["error"], answer
    assert "x" in answer["error"].split() or kind == "string"


def test_not_a_number_of_JSON_is_refused(service):
    for word in (b"NaN", b"Infinity", b"1e400"):
        body = b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[' + word + b"]}]}"
        assert service.get("/v2/models/echo_f32/infer", body)[0] == 400


def test_an_output_that_JSON_cannot_carry_is_refused_and_comes_in_binary(client):
    values = np.array([1, np.nan, np.inf, -np.inf], np.float32)
    for how in ("binary", "gRPC"):
        assert np.array_equal(client.ask(how, "echo_f32", [("x", "FP32", values)])["y"][1], values, equal_nan=True)
    head = json.dumps({"inputs": [{"name": "x", "shape": [4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}]}).encode()
    with pytest.raises(Refused, match="output y holds nan at element 1"):
        client.post("/v2/models/echo_f32/infer", head + values.tobytes(), {"Inference-Header-Content-Length": str(len(head))})


def test_nested_lists_are_as_the_shape_says(service):
    def asked(shape, data):
        return json_of(service, "product", {"name": "x", "shape": shape, "datatype": "FP32", "data": data},
                       {"name": "other", "shape": [2, 1], "datatype": "FP32", "data": [1, 10]})  # fmt: skip

    assert asked([2, 2], [[1, 2], [3, 4]])[1]["outputs"][0]["data"] == asked([2, 2], [1, 2, 3, 4])[1]["outputs"][0]["data"] == [21, 43]
    for data in ([[1, 2, 3], [4]], [[1, 2], 3, 4], [[[1, 2], [3, 4]]], [[1], [2], [3], [4]], [[1, 2, 3, 4]]):
        assert asked([2, 2], data)[0] == 400, data


@pytest.mark.parametrize(
    ("field", "values", "datatype", "kind"),
    [("int_contents", [300], "INT8", "i8"), ("int64_contents", [1], "FP32", "f32"), ("uint_contents", [256], "UINT8", "u8"),
     ("fp32_contents", [1.5], "FP64", "f64"), ("int_contents", [1], "INT64", "i64"), ("fp32_contents", [1.0], "FP16", "f16")],
)  # fmt: skip
def test_contents_of_gRPC_are_those_of_the_datatype(client, field, values, datatype, kind):
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name=f"echo_{kind}")
    tensor = request.inputs.add(name="x", datatype=datatype, shape=[1])
    getattr(tensor.contents, field).extend(values)
    with pytest.raises(grpc.RpcError) as error:
        client.stub.ModelInfer(request)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT and "input x" in error.value.details()


def test_a_bool_of_two_is_refused(client):
    for how in ("binary", "gRPC"):
        with pytest.raises(Refused, match=r"input x has 2 at \[1\]"):
            client.ask(how, "echo_boolean", [("x", "BOOL", np.array([1, 2], np.uint8))])


# --- what OpenVINO computes in 32 bits --------------------------------------------------------------------------------


def test_ids_beyond_32_bits_are_refused_and_others_right(client):
    ids = np.array([7, 16777215, 3, -5])
    for how in ALL:
        got = client.ask(how, "hashed", [("x", "INT64", ids)])
        assert got["bucket"][1].tolist() == (ids % 1000).tolist() and got["same"][1].tolist() == ids.tolist()
        # x % 1000 is computed in FP32: 2147483647 became 640.
        for large in (16777217, 2147483647, 2147483648, 3000000007, 9007199254740993, -2147483649):
            with pytest.raises(Refused, match=rf"input x of model hashed has {large} at \[1\]"):
                client.ask(how, "hashed", [("x", "INT64", np.array([7, large]))])


def test_arithmetic_that_would_leave_32_bits_narrows_its_input(client):
    ids = np.array([0, 1, 15, -16])
    assert client.ask("binary", "multiplied", [("x", "INT64", ids)])["bucket"][1].tolist() == (ids * 1000003 % 1000).tolist()
    with pytest.raises(Refused, match="input x of model multiplied has 1023"):
        client.ask("binary", "multiplied", [("x", "INT64", np.array([1023]))])


def test_an_infinity_in_FP64_is_refused(client):
    for how in ("binary", "gRPC"):
        with pytest.raises(Refused, match=r"input x of model echo_f64 has inf at \[1\]"):
            client.ask(how, "echo_f64", [("x", "FP64", np.array([1, np.inf]))])


def test_a_cast_that_saturates_is_refused(client):
    assert client.ask("binary", "cast", [("x", "FP32", np.array([2.7, -3.0], np.float32))])["y"][1].tolist() == [2, -3]
    with pytest.raises(Refused, match="output y of model cast reached -2147483648"):
        client.ask("binary", "cast", [("x", "FP32", np.array([5e9], np.float32))])


# --- states and sequences ---------------------------------------------------------------------------------------------


def test_no_state_goes_from_one_request_into_the_next(client):
    for how in ALL * 2:
        assert client.ask(how, "accumulator", [("x", "FP32", np.ones((1, 4), np.float32))])["y"][1].tolist() == [[1, 1, 1, 1]]


@pytest.mark.parametrize("parameter", ["sequence_id", "sequence_start", "sequence_end", "shared_memory_region", "classification"])
def test_what_is_not_here_is_refused_by_name(service, client, parameter):
    status, answer = json_of(service, "echo_f32", x("FP32", [1]), parameters={parameter: 1})
    assert status == 400 and parameter in answer["error"]
    assert json_of(service, "echo_f32", x("FP32", [1], parameters={parameter: 1}))[0] == 400
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name="accumulator")
    request.parameters[parameter].int64_param = 3
    with pytest.raises(grpc.RpcError, match=parameter):
        client.stub.ModelInfer(request)


# --- the protocol -----------------------------------------------------------------------------------------------------


def test_requests_that_are_not_of_the_protocol(service):
    one = x("FP32", [1])
    for inputs, more, said in (
        ([one, one], {}, "the input x twice"),
        ([one], {"outputs": [{"name": "y"}, {"name": "y"}]}, "the output y twice"),
        ([one], {"outputs": [{"name": "z"}]}, "no output 'z'"),
        ([one], {"outputs": [{"name": "y", "parameters": {"binary_data": "no"}}]}, "binary_data"),
        ([one], {"outputs": "y"}, "outputs"),
        ([one], {"parameters": [1]}, "parameters"),
        ([one], {"id": 7}, "id is 7"),
        ([], {}, "lacks the input x"),
        ([x("FP32", [1], parameters={"binary_data_size": 0})], {}, "both in JSON and in binary"),
    ):
        status, answer = json_of(service, "echo_f32", *inputs, **more)
        assert status == 400 and said in answer["error"], answer
    # What a server does not know is no reason to refuse.
    status, answer = json_of(service, "echo_f32", x("FP32", [1], parameters={"colour": "blue"}), id="seven", parameters={"priority": 3}, more=[1])
    assert (status, answer["id"], answer["outputs"][0]["data"]) == (200, "seven", [1.0])


def test_head_is_answered_as_get_without_a_body(service):
    for path, wanted in (("/v2/health/ready", 200), ("/v2/models/echo_f32", 200), ("/v2/models/nobody", 404), ("/metrics", 200)):
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=20)
        connection.request("HEAD", path)
        answer = connection.getresponse()
        assert answer.status == wanted and answer.read() == b""


def test_compressed_bodies(service):
    plain = json.dumps({"inputs": [x("FP32", [0.5] * 1000)]}).encode()
    for encoding, packed in (("gzip", gzip.compress(plain)), ("deflate", zlib.compress(plain))):
        status, text = service.get("/v2/models/echo_f32/infer", packed, Content_Encoding=encoding)
        assert status == 200 and json.loads(text)["outputs"][0]["data"] == [0.5] * 1000
        assert service.get("/v2/models/echo_f32/infer", packed[:-3], Content_Encoding=encoding)[0] == 400
        assert service.get("/v2/models/echo_f32/infer", plain, Content_Encoding=encoding)[0] == 400
    assert service.get("/v2/models/echo_f32/infer", gzip.compress(b" " * (64 << 20)), Content_Encoding="gzip")[0] == 413
    assert service.get("/v2/models/echo_f32/infer", plain, Content_Encoding="br")[0] == 400


def test_large_JSON_is_read_beside_the_event_loop_and_rightly(service):
    values = [float(it) for it in range(90000)]
    status, answer = json_of(service, "echo_f32", x("FP32", values))
    assert status == 200 and answer["outputs"][0]["data"] == values
    status, answer = json_of(service, "echo_f32", x("FP32", [*values, None]))
    assert status == 400 and "[90000]" in answer["error"]


def test_what_the_model_cannot_compute_is_the_requests_fault(client):
    with pytest.raises(Refused, match="model product cannot compute this request"):
        client.ask("binary", "product", [(name, "FP32", np.ones((2, 3), np.float32)) for name in ("x", "other")])


def test_free_dimensions_have_bounds(client):
    other = ("other", "FP32", np.ones((2, 1), np.float32))
    assert client.ask("binary", "product", [("x", "FP32", np.ones((7, 2), np.float32)), other])["y"][1].shape == (7, 1)
    with pytest.raises(Refused, match="input x of model product has the size 8 in dimension 0: at most 7"):
        client.ask("binary", "product", [("x", "FP32", np.ones((8, 2), np.float32)), other])
    with pytest.raises(Refused, match="at most 100000"):
        client.ask("binary", "echo_u8", [("x", "UINT8", np.zeros(100001, np.uint8))])


# --- models that cannot be served -------------------------------------------------------------------------------------

BAD = {
    "echo_u4": "its input x is u4", "echo_i4": "its input x is i4", "damaged": "OpenVINO cannot load it", "absent": "OpenVINO cannot load it",
    "ranked": "dynamic rank", "beyond": "larger integers than OpenVINO", "double": "FP64 beyond FP32's range",
    "divided": "divides integers by what a client sends",
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_model_is_unavailable_with_its_reason_and_takes_no_other_down(service, client, name):
    for path in (f"/v2/models/{name}/ready", f"/v2/models/{name}"):
        status, text = service.get(path)
        assert status == 503 and BAD[name] in json.loads(text)["error"]
    with pytest.raises(Refused, match="is unavailable"):
        client.ask("gRPC", name, [])
    assert service.get("/v2/health/ready")[0] == 200 and service.get("/v2/models/echo_f32/ready")[0] == 200
    status, text = service.get("/v2/health/ready?models=all")
    assert status == 503 and f"model {name} is unavailable: " in json.loads(text)["error"]


def test_a_load_that_fails_leaves_the_model_in_service(service, repository):
    good = (repository / "cast/model.xml").read_text()
    try:
        (repository / "cast/model.xml").write_text("<net")
        status, text = service.get("/v2/repository/models/cast/load", b"")
        assert status == 503 and "model cast is unavailable" in text
    finally:
        (repository / "cast/model.xml").write_text(good)
    assert json_of(service, "cast", x("FP32", [1.0]))[0] == 200


def test_without_a_model_that_can_be_served_it_is_not_ready(python, tmp_path):
    (tmp_path / "models/none").mkdir(parents=True)
    port = free_port()
    command = [python("server"), SERVE, "--repository", tmp_path / "models", "--port", port, "--grpc-port", free_port(), "--address", "::1", "--drain", 0]
    process = subprocess.Popen([str(it) for it in command], stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr:
            if "serving" in line:
                break
        for path, status in (("/v2/health/live", 200), ("/v2/health/ready", 503)):
            deadline = time.monotonic() + 60
            while True:
                connection = http.client.HTTPConnection("::1", port, timeout=20)
                try:
                    connection.request("GET", path)
                    break
                except ConnectionError:
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            answer = connection.getresponse()
            text = answer.read().decode()
            assert answer.status == status
        assert "model none is unavailable" in text
    finally:
        process.kill()
        process.wait()


# --- slow, busy, gone -------------------------------------------------------------------------------------------------

SLOW = np.zeros((1200, 1200), np.float32)


def slow_request():
    head = json.dumps({"inputs": [{"name": "x", "shape": [1200, 1200], "datatype": "FP32", "parameters": {"binary_data_size": SLOW.nbytes}}]}).encode()
    return head + SLOW.tobytes(), {"Inference-Header-Content-Length": str(len(head))}


def settled(service):
    """Wait until no stopped request is left in the service."""
    deadline = time.monotonic() + 60
    while service.get("/v2/health/ready")[0] != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture(scope="module")
def slow(python, repository, tmp_path_factory):
    """A service whose deadline is shorter than its model takes."""
    running = Service(python("server"), SERVE, repository, tmp_path_factory.mktemp("log") / "serve.log", "--timeout", 1, "--queue", 2, limit=8 << 20)
    yield running
    running.process.kill()
    running.process.wait()


def test_a_request_beyond_its_deadline_is_stopped(slow):
    content, headers = slow_request()
    status, text = slow.get("/v2/models/slow/infer", content, **headers)
    assert status == 504 and "did not answer within 1 s" in text
    settled(slow)
    assert json_of(slow, "echo_f32", x("FP32", [1]))[0] == 200
    with pytest.raises(Fault, match="within 1 s"):
        Client(slow.port, slow.grpc_port).ask("gRPC", "slow", [("x", "FP32", SLOW)])
    settled(slow)


def test_more_than_may_wait_are_told_when_to_come_again(slow):
    content, headers = slow_request()
    seen, ready = [], []

    def ask():
        connection = http.client.HTTPConnection("127.0.0.1", slow.port, timeout=60)
        connection.request("POST", "/v2/models/slow/infer", content, headers)
        answer = connection.getresponse()
        answer.read()
        seen.append((answer.status, answer.headers["Retry-After"]))

    threads = [threading.Thread(target=ask) for _client in range(12)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        ready.append(slow.get("/v2/health/live")[0])
    assert len(seen) == 12 and {status for status, _after in seen} <= {429, 504}
    assert any(status == 429 and int(after) >= 1 for status, after in seen) and any(status == 504 for status, _after in seen)
    assert set(ready) == {200}
    settled(slow)


def test_a_client_that_hangs_up_frees_its_instance(python, repository, tmp_path):
    service = Service(python("server"), SERVE, repository, tmp_path / "serve.log", "--timeout", 300, limit=8 << 20)
    try:
        content, headers = slow_request()
        head = "".join(f"{key}: {value}\r\n" for key, value in {**headers, "Host": "node", "Content-Length": len(content)}.items())
        before = time.monotonic()
        assert service.get("/v2/models/slow/infer", content, **headers)[0] == 200
        whole = time.monotonic() - before
        for _client in range(8):
            with socket.create_connection(("127.0.0.1", service.port)) as connection:
                connection.sendall(f"POST /v2/models/slow/infer HTTP/1.1\r\n{head}\r\n".encode() + content)
                time.sleep(0.2)
        before = time.monotonic()
        assert service.get("/v2/models/slow/infer", content, **headers)[0] == 200
        # Were the eight computed to their ends, this one would wait for all of them.
        assert time.monotonic() - before < 5 * whole
    finally:
        service.process.kill()
        service.process.wait()


def test_what_requests_hold_together_is_bounded(python, repository, tmp_path):
    service = Service(python("server"), SERVE, repository, tmp_path / "serve.log", "--max-memory", 100000)
    try:
        assert json_of(service, "echo_f32", x("FP32", [1.0] * 100))[0] == 200
        status, answer = json_of(service, "echo_f32", x("FP32", [1.0] * 4000))
        assert status == 429 and "of 100000 bytes" in answer["error"]
        assert json_of(service, "echo_f32", x("FP32", [1.0] * 100))[0] == 200
    finally:
        service.process.kill()
        service.process.wait()
