# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""serve.py as its clients see it, one of them NVIDIA's tritonclient: the protocol over REST and gRPC, and what it does with malformed requests."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
import tritonclient.http as http_client

grpc_client = pytest.importorskip("tritonclient.grpc", reason="needs tritonclient[grpc]")

LIMIT = 1 << 20


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Service:
    def __init__(self, interpreter, program, repository, log):
        self.port, self.grpc_port = free_port(), free_port()
        arguments = ["--repository", repository, "--port", self.port, "--grpc-port", self.grpc_port, "--threads", 1, "--max-request", LIMIT, "--drain", 1]
        self.log = log.open("w")
        self.process = subprocess.Popen([str(it) for it in (interpreter, program, *arguments)], stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + 120
        while self.get("/v2/health/ready")[0] != 200:
            assert self.process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)

    def get(self, path, body=None, **headers):
        """Return (status, text) of a plain request; status 0 when nobody answers."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=body, headers={it.replace("_", "-"): headers[it] for it in headers})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode("utf-8", "replace")
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode("utf-8", "replace")
        except OSError:
            return 0, ""


@pytest.fixture(scope="module")
def service(python, quantize, digits, tmp_path_factory):
    from conftest import ROLE

    repository = tmp_path_factory.mktemp("repository")
    artefact = quantize.artefacts / quantize.model(digits())[1]["digest"]
    (repository / "digits").symlink_to(artefact / "int8")
    (repository / "reference").symlink_to(artefact / "fp32")
    running = Service(python("server"), ROLE / "files/server/serve.py", repository, tmp_path_factory.mktemp("log") / "serve.log")
    yield running
    if running.process.poll() is None:
        running.process.kill()
    running.process.wait()


@pytest.fixture(scope="module")
def images(digits):
    with np.load(digits() / "validation.npz") as file:
        return file["image"], file["labels"]


@pytest.fixture
def http(service):
    return http_client.InferenceServerClient(f"127.0.0.1:{service.port}")


@pytest.fixture
def rpc(service):
    return grpc_client.InferenceServerClient(f"127.0.0.1:{service.grpc_port}")


def test_metadata(service, http, rpc):
    assert http.is_server_live() and http.is_server_ready() and http.is_model_ready("digits")
    assert rpc.is_server_live() and rpc.is_server_ready() and rpc.is_model_ready("digits")
    told = http.get_model_metadata("digits")
    assert told["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 1, 8, 8]}]
    assert told["outputs"] == [{"name": "scores", "datatype": "FP32", "shape": [-1, 10]}]
    assert told["platform"] == "openvino"
    told = rpc.get_model_metadata("digits")
    assert [it.name for it in told.inputs] == ["image"] and list(told.outputs[0].shape) == [-1, 10]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("count", [1, 540])
def test_rest(http, images, binary, count):
    given = http_client.InferInput("image", [count, 1, 8, 8], "FP32")
    given.set_data_from_numpy(images[0][:count], binary_data=binary)
    wanted = http_client.InferRequestedOutput("scores", binary_data=binary)
    scores = http.infer("digits", [given], outputs=[wanted]).as_numpy("scores")
    assert scores.shape == (count, 10)
    assert np.mean(scores.argmax(1) == images[1][:count]) > 0.97


def test_grpc(rpc, images):
    given = grpc_client.InferInput("image", [540, 1, 8, 8], "FP32")
    given.set_data_from_numpy(images[0])
    assert np.mean(rpc.infer("digits", [given]).as_numpy("scores").argmax(1) == images[1]) > 0.97


def test_rest_and_grpc_agree_to_the_bit(http, rpc, images):
    answers = []
    for client, module in ((http, http_client), (rpc, grpc_client)):
        given = module.InferInput("image", [7, 1, 8, 8], "FP32")
        given.set_data_from_numpy(images[0][:7])
        answers.append(client.infer("digits", [given], request_id="seven"))
    assert np.array_equal(answers[0].as_numpy("scores"), answers[1].as_numpy("scores"))
    assert answers[0].get_response()["id"] == answers[1].get_response().id == "seven"


def test_many_clients_at_a_time(service, images):
    client = http_client.InferenceServerClient(f"127.0.0.1:{service.port}", concurrency=16)
    waiting = []
    for number in range(200):
        given = http_client.InferInput("image", [1, 1, 8, 8], "FP32")
        given.set_data_from_numpy(images[0][number : number + 1])
        waiting.append(client.async_infer("digits", [given]))
    got = [int(it.get_result().as_numpy("scores").argmax()) for it in waiting]
    assert np.mean(np.array(got) == images[1][:200]) > 0.97


def test_unload_and_load(http, images):
    http.unload_model("reference")
    assert not http.is_model_ready("reference") and http.is_server_ready()
    http.load_model("reference")
    assert http.is_model_ready("reference")


def test_metrics(service, http, images):
    test_rest(http, images, True, 1)
    text = service.get("/metrics")[1]
    assert 'request_predict_seconds_bucket{le="0.005",model_name="digits"}' in text


BODY = {"inputs": [{"name": "image", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": [0.5] * 64}]}


def body(**change):
    return json.dumps({"inputs": [{**BODY["inputs"][0], **change}]}).encode()


def binary(announced, sent):
    """Return (content, headers) of a request that announces so many bytes of binary data and sends so many."""
    head = body(data=None, parameters={"binary_data_size": announced})
    return head + b"\0" * sent, {"Inference-Header-Content-Length": str(len(head))}


MALFORMED = {
    "bad JSON": (b'{"inputs": [', {}, 400),
    "no JSON at all": (b"\xff\x00\x80", {}, 400),
    "a JSON list": (b"[1, 2]", {}, 400),
    "empty": (b"", {}, 400),
    "deep JSON": (b"[" * 100000, {}, 400),
    "no inputs": (b"{}", {}, 400),
    "inputs that are none": (b'{"inputs": [7]}', {}, 400),
    "no input at all": (b'{"inputs": []}', {}, 400),
    "another input": (body(name="picture"), {}, 400),
    "another type": (body(datatype="INT64", data=[1] * 64), {}, 400),
    "an unknown type": (body(datatype="FP8"), {}, 400),
    "strings": (body(datatype="BYTES", data=["a"] * 64), {}, 400),
    "words for numbers": (body(data=["a"] * 64), {}, 400),
    "another shape": (body(shape=[1, 1, 4, 16]), {}, 400),
    "too few elements": (body(data=[0.5] * 63), {}, 400),
    "ragged": (body(data=[[1, 2], [3]]), {}, 400),
    "a negative size": (body(shape=[-1, 1, 8, 8]), {}, 400),
    "an endless shape": (body(shape=[10**12, 10**12, 8, 8]), {}, 400),
    "a shape of words": (body(shape=["1", 1, 8, 8]), {}, 400),
    "an unknown output": (json.dumps({**BODY, "outputs": [{"name": "logits"}]}).encode(), {}, 400),
    "a JSON length past the end": (body(), {"Inference-Header-Content-Length": "100000"}, 400),
    "a JSON length of words": (body(), {"Inference-Header-Content-Length": "ten"}, 400),
    "truncated binary": (*binary(256, 100), 400),
    "binary of another length than the shape": (*binary(100, 100), 400),
    "binary that nothing announces": (*binary(256, 300), 400),
    "a binary length below zero": (*binary(-1, 256), 400),
    "100 times too large": (b"\0" * (100 * LIMIT), {}, 413),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_rest_is_refused(service, name):
    content, headers, status = MALFORMED[name]
    got, said = service.get("/v2/models/digits/infer", content, **headers)
    # A client that is still sending when it is refused may see its connection closed instead of the answer.
    assert got == status or (status == 413 and got == 0), said
    if got:
        assert set(json.loads(said)) == {"error"}
    assert service.get("/v2/models/digits/infer", body())[0] == 200, "the service is gone"


def test_unknown_models(service):
    for path in ("/v2/models/nobody/infer", "/v2/models/..%2f..%2fetc/infer", "/v2/models/digits/versions/17/infer"):
        status, said = service.get(path, body())
        assert status == 404 and set(json.loads(said)) & {"error", "detail"}
    assert service.get("/v2/models/nobody")[0] == 404
    assert service.get("/v2/repository/models/nobody/load", b"")[0] in (404, 503)


def test_malformed_grpc_is_refused(rpc, images):
    def refused(name, array, datatype, model="digits", code="INVALID_ARGUMENT"):
        given = grpc_client.InferInput(name, list(array.shape), datatype)
        given.set_data_from_numpy(array)
        with pytest.raises(grpc_client.InferenceServerException) as error:
            rpc.infer(model, [given])
        assert code in str(error.value.status())

    refused("picture", images[0][:1], "FP32")
    refused("image", images[0][:1].astype(np.int64), "INT64")
    refused("image", images[0][:1].reshape(1, 1, 4, 16), "FP32")
    refused("image", images[0][:1], "FP32", model="nobody", code="NOT_FOUND")
    refused("image", np.zeros((100 * LIMIT // 256, 1, 8, 8), np.float32), "FP32", code="RESOURCE_EXHAUSTED")
    with pytest.raises(grpc_client.InferenceServerException, match="lacks the input image") as error:
        rpc.infer("digits", [])
    assert "INVALID_ARGUMENT" in str(error.value.status())
    given = grpc_client.InferInput("image", [2, 1, 8, 8], "FP32")
    given.set_data_from_numpy(np.zeros((2, 1, 8, 8), np.float32))
    given._raw_content = given._raw_content[:300]
    with pytest.raises(grpc_client.InferenceServerException, match="300 bytes"):
        rpc.infer("digits", [given])
    assert rpc.is_server_ready()


@pytest.mark.parametrize("sent", [b"\0" * 4096, b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: node\r\nContent-Length: 1000\r\n\r\n{"], ids=["noise", "half"])
def test_connections_that_break_off_take_nothing_down(service, rpc, sent):
    for port in (service.port, service.grpc_port):
        for _connection in range(20):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                connection.sendall(sent)
    assert service.get("/v2/models/digits/infer", body())[0] == 200
    assert rpc.is_server_ready()


def test_it_is_not_ready_for_a_while_and_answers_before_it_stops(service):
    service.process.terminate()
    deadline, seen = time.monotonic() + 0.8, set()
    while time.monotonic() < deadline:
        seen.add((service.get("/v2/health/ready")[0], service.get("/v2/models/digits/infer", body())[0]))
    assert (503, 200) in seen
    assert seen <= {(200, 200), (503, 200)}
    assert service.process.wait(timeout=40) == 0
