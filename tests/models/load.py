# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Send requests all the time and count those that fail: load.py SECONDS REST_PORT GRPC_PORT, on a node, with the model server's Python.

Six clients of REST (binary) and three of gRPC, each on a connection of its own that it opens anew when the server closed it; every third one pauses
long enough between requests for the connection to be idle when an instance dies. A client that never had an answer has failed, too. Stops early when the
file /tmp/load-stop is there.
Prints {"requests": n, "failures": [text, …], "versions": [of the models that answered]} as JSON.
"""

import http.client
import json
import os
import struct
import sys
import threading
import time

import grpc
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc

SECONDS, REST_PORT, GRPC_PORT = (int(word) for word in sys.argv[1:4])
IMAGE = struct.pack("64f", *[0.5] * 64)
HEAD = json.dumps({"inputs": [{"name": "image", "shape": [1, 1, 8, 8], "datatype": "FP32", "parameters": {"binary_data_size": len(IMAGE)}}]}).encode()
counts, failures, versions = [], [], set()


def rest():
    """One request after the other by REST; return the version that answered."""
    connection = http.client.HTTPConnection("127.0.0.1", REST_PORT, timeout=30)

    def ask():
        connection.request("POST", "/v2/models/digits/infer", HEAD + IMAGE, {"Inference-Header-Content-Length": str(len(HEAD))})
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise OSError(f"REST {answer.status}: {text[:200]!r}")
        return json.loads(text)["model_version"]

    return ask


def rpc():
    """The same by gRPC."""
    stub = grpc_predict_v2_pb2_grpc.GRPCInferenceServiceStub(
        grpc.insecure_channel(f"127.0.0.1:{GRPC_PORT}", options=[("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)])
    )
    tensor = pb.ModelInferRequest.InferInputTensor(name="image", shape=[1, 1, 8, 8], datatype="FP32")
    request = pb.ModelInferRequest(model_name="digits", inputs=[tensor], raw_input_contents=[IMAGE])
    return lambda: stub.ModelInfer(request, timeout=30).model_version


def client(make, pause):
    """Ask until the time is over, with a pause of so many seconds after each answer."""
    ask, count, end = make(), 0, time.monotonic() + SECONDS
    while time.monotonic() < end and not os.path.exists("/tmp/load-stop"):
        try:
            versions.add(ask())
            count += 1
        except Exception as error:
            failures.append(f"{time.strftime('%H:%M:%S')} {type(error).__name__}: {error}"[:300])
            ask = make()
            time.sleep(0.05)
        time.sleep(pause)
    if not count:
        failures.append(f"a client with a pause of {pause} s had no answer at all")
    counts.append(count)


threads = [threading.Thread(target=client, args=(make, pause)) for make in (rest, rest, rpc) for pause in (0.02, 0.04, 0.1)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps({"requests": sum(counts), "failures": failures[:10], "versions": sorted(versions)}))
