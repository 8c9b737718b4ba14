# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Search with the clients of KServe and MLServer: serve_clients.py kserve|mlserver PORT < QUERIES.npy

Runs where requirements/clients.txt is installed (requirements/setup.sh clients). Prints, as JSON, the ids that each of the client's
ways gave. One client a process: their descriptions of the protocol cannot be loaded together.
"""

from __future__ import annotations

import asyncio
import io
import json
import sys
import urllib.request

import numpy as np

URL = f"http://127.0.0.1:{sys.argv[2]}"


async def kserve(queries: np.ndarray) -> dict[str, list]:
    from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    assert await client.is_server_live(URL) and await client.is_server_ready(URL) and await client.is_model_ready(URL, "search")
    found = {}
    for binary in (False, True):
        tensor = InferInput("queries", list(queries.shape), "FP32")
        tensor.set_data_from_numpy(queries, binary_data=binary)
        for request_id in (None, "one"):
            request = InferRequest("search", [tensor], request_id=request_id, parameters={"k": 5, "ef": 300, "binary_data_output": binary})
            answer = await client.infer(URL, request, model_name="search")
            ids = next(output for output in answer.outputs if output.name == "ids")
            found[f"kserve, binary {binary}, id {request_id}"] = ids.as_numpy().tolist()
    return found


def post(body: str) -> bytes:
    request = urllib.request.Request(f"{URL}/v2/models/search/infer", body.encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.read()


async def mlserver(queries: np.ndarray) -> dict[str, list]:
    from mlserver.codecs import NumpyCodec, NumpyRequestCodec
    from mlserver.types import InferenceRequest, InferenceResponse, Parameters, RequestOutput

    found = {}
    whole = NumpyRequestCodec.encode_request(queries)
    whole.inputs[0].name = "queries"
    parts = InferenceRequest(
        inputs=[NumpyCodec.encode_input("queries", queries)],
        outputs=[RequestOutput(name="ids", parameters=Parameters(content_type="np")), RequestOutput(name="distances")],
    )
    for name, request in (("request codec", whole), ("input codec", parts)):
        request.parameters = Parameters(**{**(request.parameters.model_dump() if request.parameters else {}), "k": 5, "ef": 300})
        for nulls in (True, False):
            answer = InferenceResponse.model_validate_json(post(request.model_dump_json(exclude_none=not nulls)))
            ids = next(output for output in answer.outputs if output.name == "ids")
            found[f"mlserver, {name}, nulls {nulls}"] = NumpyCodec.decode_output(ids).tolist()
    return found


rows = np.load(io.BytesIO(sys.stdin.buffer.read()))
print(json.dumps(asyncio.run({"kserve": kserve, "mlserver": mlserver}[sys.argv[1]](rows))))
