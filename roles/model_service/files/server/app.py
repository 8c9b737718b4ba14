# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The protocol over REST and gRPC: kserve's endpoints, with inference, readiness and errors of ours before its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import multiprocessing
import os
import signal
import traceback

import grpc
import tensors
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from grpc_interceptor import AsyncExceptionToStatusInterceptor
from kserve.errors import InvalidInput, ModelNotFound, ModelNotReady, ServerNotReady
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.server import metrics_handler
from kserve.protocol.rest.v2_endpoints import register_v2_endpoints
from models import Busy, Gone, Plane, Repository, TooLong, Unavailable

# What each error is over REST and over gRPC; any other is a fault of ours.
ERRORS = {
    tensors.Invalid: (400, grpc.StatusCode.INVALID_ARGUMENT),
    InvalidInput: (400, grpc.StatusCode.INVALID_ARGUMENT),
    ModelNotFound: (404, grpc.StatusCode.NOT_FOUND),
    NotImplementedError: (404, grpc.StatusCode.UNIMPLEMENTED),
    tensors.TooLarge: (413, grpc.StatusCode.RESOURCE_EXHAUSTED),
    Busy: (429, grpc.StatusCode.RESOURCE_EXHAUSTED),
    # What nobody reads any more; the number is nginx's.
    Gone: (499, grpc.StatusCode.CANCELLED),
    Unavailable: (503, grpc.StatusCode.UNAVAILABLE),
    ModelNotReady: (503, grpc.StatusCode.UNAVAILABLE),
    ServerNotReady: (503, grpc.StatusCode.UNAVAILABLE),
    TooLong: (504, grpc.StatusCode.DEADLINE_EXCEEDED),
}
# JSON of more bytes is read by another process: orjson and numpy keep this one's event loop from running meanwhile, 15 ms a megabyte.
LARGE_JSON = 128 << 10
# What a byte of JSON may take while it is read: a list of one-digit numbers.
JSON_FACTOR = 24


def fault(error):
    """Note a fault of ours in one line: with a traceback for each, requests could fill the journal."""
    place = traceback.extract_tb(error.__traceback__)[-1:]
    where = f" ({os.path.basename(place[0].filename)}:{place[0].lineno})" if place else ""
    logging.error("a request failed%s: %s: %s", where, type(error).__name__, str(error)[:300])


class Budget:
    """The bytes that requests may hold together."""

    def __init__(self, limit):
        self.limit, self.used = limit, 0

    @contextlib.contextmanager
    def share(self):
        """Within, `take(bytes)` takes more of it, and raises Busy when there is not so much; what was taken is given back at the end."""
        taken = 0

        def take(count):
            nonlocal taken
            if self.used + count > self.limit:
                raise Busy(f"the requests under way hold {self.used} of {self.limit} bytes already")
            self.used += count
            taken += count

        try:
            yield take
        finally:
            self.used -= taken


class Reader:
    """Decodes REST bodies, large ones in a process of its own, which is started with the first."""

    def __init__(self):
        self.pool = None

    async def decode(self, body, json_length):
        if min(len(body), int(json_length) if (json_length or "").isdecimal() else len(body)) <= LARGE_JSON:
            return tensors.decode(body, json_length)
        if self.pool is None:
            self.pool = concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        try:
            parts = await asyncio.get_running_loop().run_in_executor(self.pool, decoded, body, json_length)
        except concurrent.futures.BrokenExecutor:
            self.pool = None
            raise Busy("the process that reads large JSON has ended") from None
        return tensors.Request(*parts)

    def stop(self):
        if self.pool is not None:
            self.pool.shutdown(wait=False, cancel_futures=True)


def decoded(body, json_length):
    request = tensors.decode(body, json_length)
    return request.id, request.inputs, request.outputs, request.binary


# --- REST -------------------------------------------------------------------------------------------------------------


async def body_of(request, limit, take):
    """Return a request's body; TooLarge as soon as it is more than `limit` bytes."""
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced[:19]) > limit:
        raise tensors.TooLarge(f"the request is larger than {limit} bytes")
    chunks, total = [], 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > limit:
            raise tensors.TooLarge(f"the request is larger than {limit} bytes")
        take(len(chunk))
        chunks.append(chunk)
    return b"".join(chunks) if len(chunks) != 1 else chunks[0]


class Head:
    """Answers HEAD as GET, without the body, which uvicorn leaves out."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self.app(scope, receive, send)


def application(plane, extension, options, budget, reader):
    """Return the REST application: kserve's, with endpoints of ours before its own."""
    app = FastAPI(title="ainode model service", docs_url=None, redoc_url=None, openapi_url=None)

    async def infer(request: Request) -> Response:
        name, version = request.path_params["model_name"], request.path_params.get("model_version", "")
        model = plane.available(name)
        if version not in ("", model.version):
            raise ModelNotFound(f"{name} in version {version}")

        async def gone():
            while (await request.receive())["type"] != "http.disconnect":
                pass

        with budget.share() as take:
            try:
                async with asyncio.timeout(options.timeout):
                    body = await body_of(request, options.max_request, take)
            except TimeoutError:
                raise TooLong(f"the request was not sent within {options.timeout:g} s") from None
            encoding, json_length = request.headers.get("content-encoding"), request.headers.get(tensors.JSON_LENGTH)
            if encoding:
                body = tensors.unpacked(body, encoding.strip().lower(), options.max_request)
                take(len(body))
            length = len(body) if json_length is None or not json_length.isdecimal() else min(int(json_length[:19]), len(body))
            take(length * JSON_FACTOR)
            asked = await reader.decode(body, json_length)
            outputs = await model.infer(asked, gone)
            content, json_length = tensors.encode(asked, name, model.version, outputs)
        if json_length is None:
            return Response(content, media_type="application/json")
        return Response(content, media_type="application/octet-stream", headers={tensors.JSON_LENGTH: str(json_length)})

    async def ready(request: Request) -> Response:
        # A deployment asks for every model: one that cannot be served is no reason to take the others from their clients.
        reason = plane.why_not_ready(request.query_params.get("models") == "all")
        return JSONResponse({"ready": True}) if reason is None else JSONResponse({"ready": False, "error": reason}, 503)

    async def model_ready(request: Request) -> Response:
        model = plane.get_model_from_registry(request.path_params["model_name"])
        if request.path_params.get("model_version", model.version) != model.version:
            raise ModelNotFound(f"{model.name} in version {request.path_params['model_version']}")
        if model.ready:
            return JSONResponse({"name": model.name, "ready": True})
        return JSONResponse({"name": model.name, "ready": False, "error": f"model {model.name} is unavailable: {model.reason}"}, 503)

    async def refuse(_request, error):
        status = next((status for kind, (status, _code) in ERRORS.items() if isinstance(error, kind)), 500)
        if status == 500:
            fault(error)
        headers = {"Retry-After": str(getattr(error, "seconds", 1))} if status in (429, 503) else None
        return JSONResponse({"error": str(error)}, status, headers)

    for path in ("/v2/models/{model_name}", "/v2/models/{model_name}/versions/{model_version}"):
        app.add_route(path + "/infer", infer, methods=["POST"])
        app.add_route(path + "/ready", model_ready, methods=["GET"])
    app.add_route("/v2/health/ready", ready, methods=["GET"])
    app.add_api_route("/metrics", metrics_handler, methods=["GET"])
    register_v2_endpoints(app, plane, extension)
    for kind in (*ERRORS, Exception):
        app.add_exception_handler(kind, refuse)
    return Head(app)


# --- gRPC -------------------------------------------------------------------------------------------------------------


class Servicer(InferenceServicer):
    """kserve's, with an inference of ours."""

    def __init__(self, plane, extension, budget):
        super().__init__(plane, extension)
        self.plane, self.budget = plane, budget

    async def ModelInfer(self, request, context):
        model = self.plane.available(request.model_name)
        if request.model_version not in ("", model.version):
            raise ModelNotFound(f"{request.model_name} in version {request.model_version}")
        with self.budget.share() as take:
            take(request.ByteSize())
            asked = tensors.from_grpc(request)
            # A client that hangs up cancels this coroutine.
            outputs = await model.infer(asked)
            answer = messages.ModelInferResponse(model_name=model.name, model_version=model.version, id=request.id)
            for name, datatype, array in outputs:
                answer.outputs.add(name=name, datatype=datatype, shape=array.shape)
                answer.raw_output_contents.append(tensors.to_bytes(datatype, array))
        return answer


class Refuse(AsyncExceptionToStatusInterceptor):
    """Turn errors into the protocol's status codes."""

    async def handle_exception(self, ex, request_or_iterator, context, method_name):
        code = next((code for kind, (_status, code) in ERRORS.items() if isinstance(ex, kind)), grpc.StatusCode.INTERNAL)
        if code is grpc.StatusCode.INTERNAL:
            fault(ex)
        await context.abort(code, str(ex))


def grpc_server(plane, extension, options, budget):
    server = grpc.aio.server(
        interceptors=[Refuse()],
        options=[("grpc.max_receive_message_length", options.max_request), ("grpc.max_send_message_length", -1)],
        maximum_concurrent_rpcs=options.queue + 64,
    )
    grpc_predict_v2_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Servicer(plane, extension, budget), server)
    host = f"[{options.address}]" if ":" in options.address else options.address
    server.add_insecure_port(f"{host}:{options.grpc_port}")
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
    """Load the models and serve them until a signal says to stop."""
    repository = Repository(options.repository, options)
    plane, extension = Plane(repository), ModelRepositoryExtension(repository)
    for name in sorted(os.listdir(options.repository)):
        # The error is noted, and stands in the model's own readiness.
        with contextlib.suppress(Unavailable):
            await repository.load(name)
    budget, reader = Budget(options.max_memory), Reader()
    rpc = grpc_server(plane, extension, options, budget)
    await rpc.start()
    config = uvicorn.Config(
        application(plane, extension, options, budget, reader), host=options.address, port=options.port, log_config=None, access_log=False,
        timeout_keep_alive=options.keep_alive, timeout_graceful_shutdown=30, lifespan="off",
    )  # fmt: skip
    served = [name for name, model in repository.get_models().items() if model.ready]
    logging.warning("serving %s on %s, REST %d, gRPC %d", ", ".join(served) or "no model", options.address, options.port, options.grpc_port)
    await Server(config, plane, options.drain).serve()
    await rpc.stop(30)
    reader.stop()
