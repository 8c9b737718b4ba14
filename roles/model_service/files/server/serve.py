# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Serve a directory of OpenVINO models by the Open Inference Protocol, with KServe's model server.

DIRECTORY/NAME/model.xml is the model NAME. REST with the binary tensor extension (/v2/models/NAME/infer), gRPC, metadata, load and unload
(/v2/repository/models/NAME/load), and Prometheus /metrics with latency histograms:
https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol

kserve's own endpoints, data plane, servicer and metrics do that. What is here:
- inference by asynchronous requests of OpenVINO, so that the event loop never waits for a model;
- the REST inference endpoint: kserve 0.21 turns each element of a binary tensor into a Python object and back, and reads bodies of any size;
- every input is checked against the model before it is used: a malformed request is answered by an error of the protocol with a status of 4xx;
- /v2/health/ready says no before the models are loaded, and again for --drain seconds before the service stops, while it still answers.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import os
import signal

import grpc
import numpy as np
import openvino as ov
import orjson
import uvicorn
import uvloop
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from grpc_interceptor import AsyncExceptionToStatusInterceptor
from kserve import InferInput, InferOutput, InferRequest, InferResponse, Model, ModelRepository
from kserve.errors import InvalidInput, ModelNotFound, ModelNotReady, ServerNotReady
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.infer_type import RequestedOutput
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.server import metrics_handler
from kserve.protocol.rest.v2_endpoints import register_v2_endpoints
from kserve.utils.numpy_codec import to_np_dtype

DATATYPES = {
    "boolean": "BOOL", "u8": "UINT8", "u16": "UINT16", "u32": "UINT32", "u64": "UINT64", "i8": "INT8", "i16": "INT16", "i32": "INT32", "i64": "INT64",
    "f16": "FP16", "f32": "FP32", "f64": "FP64",
}  # fmt: skip
JSON_LENGTH = "inference-header-content-length"


class TooLarge(Exception):
    """A request's body is larger than the service takes."""


# What each error is over REST and over gRPC; any other is a fault of ours.
ERRORS = {
    InvalidInput: (400, grpc.StatusCode.INVALID_ARGUMENT),
    ModelNotFound: (404, grpc.StatusCode.NOT_FOUND),
    TooLarge: (413, grpc.StatusCode.RESOURCE_EXHAUSTED),
    NotImplementedError: (404, grpc.StatusCode.UNIMPLEMENTED),
    ModelNotReady: (503, grpc.StatusCode.UNAVAILABLE),
    ServerNotReady: (503, grpc.StatusCode.UNAVAILABLE),
}


# --- models -----------------------------------------------------------------------------------------------------------


class OpenVINOModel(Model):
    """One model, compiled for this processor, with as many requests under way as OpenVINO has a use for."""

    def __init__(self, name, path, settings):
        super().__init__(name)
        self.path, self.settings = path, settings
        # Artefacts lie in a directory named by their digest and precision.
        self.version = os.path.basename(os.path.realpath(os.path.dirname(path)))

    def load(self):
        compiled = ov.Core().compile_model(self.path, "CPU", self.settings)
        self.compiled = compiled
        self.inputs = {
            port.get_any_name(): (number, DATATYPES[port.element_type.to_string()], port.partial_shape) for number, port in enumerate(compiled.inputs)
        }
        self.outputs = [(port.get_any_name(), DATATYPES[port.element_type.to_string()], port.partial_shape) for port in compiled.outputs]
        self.idle = asyncio.LifoQueue()
        for _request in range(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")):
            request = compiled.create_infer_request()
            request.set_callback(_wake, None)
            self.idle.put_nowait(request)
        self.ready = True
        return True

    def get_input_types(self):
        return [{"name": name, "datatype": datatype, "shape": dimensions(shape)} for name, (_number, datatype, shape) in self.inputs.items()]

    def get_output_types(self):
        return [{"name": name, "datatype": datatype, "shape": dimensions(shape)} for name, datatype, shape in self.outputs]

    def tensors(self, given):
        """Return {input's number: array} of a request's inputs; InvalidInput says what does not fit the model."""
        arrays = {}
        for tensor in given:
            if tensor.name not in self.inputs:
                raise InvalidInput(f"model {self.name} has no input '{tensor.name}'; its inputs are {', '.join(self.inputs)}")
            number, datatype, shape = self.inputs[tensor.name]
            if tensor.datatype != datatype:
                raise InvalidInput(f"input {tensor.name} of model {self.name} is {datatype}, not {tensor.datatype}")
            array = as_array(tensor)
            if not shape.compatible(ov.PartialShape(list(array.shape))):
                raise InvalidInput(f"input {tensor.name} of model {self.name} has the shape {dimensions(shape)}, not {list(array.shape)}")
            arrays[number] = array
        missing = [name for name, (number, *_rest) in self.inputs.items() if number not in arrays]
        if missing:
            raise InvalidInput(f"the request lacks the input {', '.join(missing)} of model {self.name}")
        return arrays

    async def predict(self, payload, headers=None, response_headers=None):
        arrays = self.tensors(payload.inputs)
        wanted = {output.name for output in payload.request_outputs or ()}
        unknown = wanted - {name for name, *_rest in self.outputs}
        if unknown:
            raise InvalidInput(f"model {self.name} has no output '{min(unknown)}'; its outputs are {', '.join(name for name, *_rest in self.outputs)}")
        request = await self.idle.get()
        try:
            done = asyncio.get_running_loop().create_future()
            request.start_async(arrays, done)
            # The tensors are OpenVINO's until it is through, whatever becomes of the client.
            await asyncio.shield(done)
            request.wait()
            results = []
            for number, (name, datatype, _shape) in enumerate(self.outputs):
                if not wanted or name in wanted:
                    data = request.get_output_tensor(number).data
                    results.append(InferOutput(name, list(data.shape), datatype))
                    results[-1].set_data_from_numpy(data, binary_data=True)
        finally:
            if done.done():
                self.idle.put_nowait(request)
            else:
                done.add_done_callback(lambda _done: self.idle.put_nowait(request))
        return InferResponse(
            payload.id, self.name, results, self.version, from_grpc=payload.from_grpc,
            use_binary_outputs=payload.use_binary_outputs, requested_outputs=payload.request_outputs,
        )  # fmt: skip


def _wake(done):
    """Tell the event loop that OpenVINO is through; called in a thread of OpenVINO's."""
    done.get_loop().call_soon_threadsafe(lambda: done.done() or done.set_result(None))


def dimensions(shape):
    """Return a shape as the protocol writes it: -1 for what is free."""
    return [size.get_length() if size.is_static else -1 for size in shape]


def as_array(tensor):
    """Return the array of a tensor that came as bytes (as an array of its own memory's) or as a list; InvalidInput when it is none."""
    dtype, shape = to_np_dtype(tensor.datatype), tensor.shape
    if dtype is None or dtype is np.object_:
        raise InvalidInput(f"input {tensor.name} has the datatype {tensor.datatype}, which no model here takes")
    if not all(isinstance(size, int) and 0 <= size < 1 << 40 for size in shape):
        raise InvalidInput(f"input {tensor.name} has the shape {shape}: a list of sizes is expected")
    count, raw = math.prod(shape), tensor._raw_data
    if raw is not None:
        if len(raw) != count * np.dtype(dtype).itemsize:
            raise InvalidInput(f"input {tensor.name} has {len(raw)} bytes of data; {shape} of {tensor.datatype} are {count * np.dtype(dtype).itemsize}")
        return np.frombuffer(raw, dtype).reshape(shape)
    try:
        array = np.array(tensor.data, dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidInput(f"the data of input {tensor.name} are no {tensor.datatype}: {error}") from None
    if array.size != count:
        raise InvalidInput(f"input {tensor.name} has {array.size} elements; the shape {shape} has {count}")
    return array.reshape(shape)


class Repository(ModelRepository):
    """The models below a directory."""

    def __init__(self, directory, settings):
        super().__init__(directory)
        self.settings = settings

    async def load(self, name):
        """Load a model, in a thread: the others go on answering."""
        # Only what is in the directory: a name from outside is no path.
        if name not in os.listdir(self.models_dir):
            raise ModelNotFound(name)
        model = OpenVINOModel(name, os.path.join(self.models_dir, name, "model.xml"), self.settings)
        await asyncio.get_running_loop().run_in_executor(None, model.load)
        self.update(model)


class Plane(DataPlane):
    """kserve's data plane, which knows whether the service is ready and what OpenVINO's models are."""

    stopping = False

    async def ready(self):
        healthy = [await model.healthy() for model in self.model_registry.get_models().values()]
        return not self.stopping and all(healthy)

    async def model_metadata(self, model_name):
        metadata = await super().model_metadata(model_name)
        return {**metadata, "platform": "openvino", "versions": [self.get_model_from_registry(model_name).version]}


# --- REST -------------------------------------------------------------------------------------------------------------


async def body_of(request, limit):
    """Return a request's body; TooLarge as soon as it is more than `limit` bytes."""
    chunks, total = [], 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > limit:
            raise TooLarge(f"the request is larger than {limit} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def decode(body, json_length, model_name):
    """Return the InferRequest of a REST body, whose first `json_length` bytes (None: all) are JSON and the rest the inputs' binary data.

    https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
    """
    try:
        length = len(body) if json_length is None else int(json_length)
        if not 0 <= length <= len(body):
            raise InvalidInput(f"{JSON_LENGTH} is {json_length}, the body has {len(body)} bytes")
        given, rest, inputs = orjson.loads(body[:length]), memoryview(body)[length:], []
        for tensor in given["inputs"]:
            parameters = tensor.get("parameters") or {}
            size = parameters.get("binary_data_size")
            entry = InferInput(str(tensor["name"]), list(tensor["shape"]), str(tensor["datatype"]), tensor["data"] if size is None else None, parameters)
            if size is not None:
                if not isinstance(size, int) or not 0 <= size <= len(rest):
                    raise InvalidInput(f"input {entry.name} announces {size} bytes of binary data, and the body has {len(rest)} left")
                entry._raw_data, rest = rest[:size], rest[size:]
            inputs.append(entry)
        if rest:
            raise InvalidInput(f"the body has {len(rest)} bytes that no input announces")
        parameters = dict(given.get("parameters") or {})
        everything = bool(parameters.get("binary_data_output"))
        wanted = [
            RequestedOutput(str(output["name"]), {"binary_data": everything, **(output.get("parameters") or {})}) for output in given.get("outputs") or []
        ]
        return InferRequest(model_name, inputs, given.get("id"), parameters=parameters, request_outputs=wanted or None)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"no inference request: {type(error).__name__}: {error}") from None


def application(plane, extension, limit):
    """Return the REST application: kserve's, with an inference endpoint of ours before its own."""
    app = FastAPI(title="ainode model service", docs_url=None, redoc_url=None, openapi_url=None)

    async def infer(request: Request) -> Response:
        model_name, model_version = request.path_params["model_name"], request.path_params.get("model_version", "")
        model = plane.get_model_from_registry(model_name)
        if model_version not in ("", model.version):
            raise ModelNotFound(f"{model_name} in version {model_version}")
        body = await body_of(request, limit)
        response, _headers = await plane.infer(model_name, decode(body, request.headers.get(JSON_LENGTH), model_name), dict(request.headers))
        content, json_length = response.to_rest()
        if json_length is None:
            return Response(orjson.dumps(content), media_type="application/json")
        return Response(content, media_type="application/octet-stream", headers={JSON_LENGTH: str(json_length)})

    async def refuse(_request, error):
        status = next((status for kind, (status, _code) in ERRORS.items() if isinstance(error, kind)), 500)
        if status == 500:
            logging.exception("a request failed", exc_info=error)
        return JSONResponse({"error": str(error)}, status)

    for path in ("/v2/models/{model_name}/infer", "/v2/models/{model_name}/versions/{model_version}/infer"):
        app.add_route(path, infer, methods=["POST"])
    app.add_api_route("/metrics", metrics_handler, methods=["GET"])
    register_v2_endpoints(app, plane, extension)
    for kind in (*ERRORS, Exception):
        app.add_exception_handler(kind, refuse)
    return app


# --- gRPC -------------------------------------------------------------------------------------------------------------


class Refuse(AsyncExceptionToStatusInterceptor):
    """Turn errors into the protocol's status codes."""

    async def handle_exception(self, ex, request_or_iterator, context, method_name):
        code = next((code for kind, (_status, code) in ERRORS.items() if isinstance(ex, kind)), grpc.StatusCode.INTERNAL)
        if code is grpc.StatusCode.INTERNAL:
            logging.exception("a request failed", exc_info=ex)
        await context.abort(code, str(ex))


def grpc_server(plane, extension, address, limit):
    server = grpc.aio.server(interceptors=[Refuse()], options=[("grpc.max_receive_message_length", limit), ("grpc.max_send_message_length", -1)])
    grpc_predict_v2_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(InferenceServicer(plane, extension), server)
    server.add_insecure_port(address)
    return server


# --- the service ------------------------------------------------------------------------------------------------------


class Server(uvicorn.Server):
    """uvicorn, which says that it is not ready for a while before it stops."""

    def __init__(self, config, plane, drain):
        super().__init__(config)
        self.plane, self.drain = plane, drain

    async def serve(self, sockets=None):
        self.loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig, frame):
        # Twice is in earnest; and uvicorn would raise the signal again in the end, which is no clean exit.
        wait = 0 if self.plane.stopping or sig != signal.SIGTERM else self.drain
        self.plane.stopping = True
        self.loop.call_soon_threadsafe(self.loop.call_later, wait, setattr, self, "should_exit", True)


async def serve(options):
    settings = {"PERFORMANCE_HINT": options.hint.upper(), "INFERENCE_PRECISION_HINT": options.precision, "ENABLE_CPU_PINNING": False}
    if options.threads:
        settings["INFERENCE_NUM_THREADS"] = options.threads
    repository = Repository(options.repository, settings)
    plane, extension = Plane(repository), ModelRepositoryExtension(repository)
    for name in sorted(os.listdir(options.repository)):
        await repository.load(name)
    rpc = grpc_server(plane, extension, f"{options.address}:{options.grpc_port}", options.max_request)
    await rpc.start()
    config = uvicorn.Config(
        application(plane, extension, options.max_request), host=options.address, port=options.port, log_config=None, access_log=False,
        timeout_keep_alive=options.keep_alive, timeout_graceful_shutdown=30,
    )  # fmt: skip
    logging.warning("serving %s on %s, REST %d, gRPC %d", ", ".join(repository.get_models()), options.address, options.port, options.grpc_port)
    await Server(config, plane, options.drain).serve()
    await rpc.stop(30)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", metavar="DIRECTORY", required=True, help="the directory with a directory for each model")
    parser.add_argument("--address", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8600, help="for REST (default: %(default)s)")
    parser.add_argument("--grpc-port", type=int, help="for gRPC (default: 100 more than for REST)")
    parser.add_argument("--threads", type=int, help="threads for inference; default: what OpenVINO finds")
    parser.add_argument("--hint", choices=["latency", "throughput"], default="latency", help="all threads for one request, or several requests at a time")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32", help="of the layers that are not INT8 (default: %(default)s)")
    parser.add_argument("--max-request", metavar="BYTES", type=int, default=16 << 20, help="largest request (default: %(default)s)")
    parser.add_argument("--drain", metavar="SECONDS", type=float, default=3, help="not ready for so long before it stops (default: %(default)s)")
    parser.add_argument("--keep-alive", metavar="SECONDS", type=int, default=75, help="how long an idle connection is kept (default: %(default)s)")
    options = parser.parse_args()
    options.grpc_port = options.grpc_port or options.port + 100
    # kserve writes two lines a request.
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    logging.getLogger("kserve").setLevel(logging.ERROR)
    uvloop.run(serve(options))


if __name__ == "__main__":
    main()
