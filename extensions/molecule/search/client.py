# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A client of the vector search with nothing but the standard library: runs on the test host and knows the vectors.

client.py write FILE forward|backward   write the vectors as .fbin; backward: the last first, so that the same vector has another id
client.py load STOP                     ask all the time until the file STOP is there; prints {"answers", "failures", "orders"} as JSON
client.py damage FILE OUT               copy an index with one bit turned
client.py find FIRST                    the ids of the rows nearest to the vectors FIRST, FIRST + 1, ... FIRST + 7
client.py upsert SOCKET FIRST           insert the vectors FIRST ... FIRST + 7, each with its number as id, at the administrator's socket
client.py snapshot SOCKET               have the index written anew

VECTORS_URL is where the vectors are asked for (http://127.0.0.1:8500), VECTORS_KEY the key to show, VECTORS_CA the certificate to trust.
"""

import array
import http.client
import json
import os
import random
import socket
import ssl
import struct
import sys
import threading
import time
from urllib.parse import urlsplit

ROWS, DIM, BATCH = 4000, 24, 8  # so few are compared whole: each answer is known
URL = urlsplit(os.environ.get("VECTORS_URL", "http://127.0.0.1:8500"))


def vector(number):
    """Return the vector with this number."""
    numbers = random.Random(number)
    return array.array("f", [numbers.gauss(0, 1) for _dummy in range(DIM)])


def connect():
    """Return a connection to where VECTORS_URL says."""
    if URL.scheme == "https":
        return http.client.HTTPSConnection(URL.netloc, timeout=20, context=ssl.create_default_context(cafile=os.environ.get("VECTORS_CA")))
    return http.client.HTTPConnection(URL.netloc, timeout=20)


def infer(connection, numbers):
    """Return (ids of the nearest row to each vector, version), or raise what went wrong."""
    data = b"".join(vector(number).tobytes() for number in numbers)
    header = {
        "inputs": [{"name": "queries", "datatype": "FP32", "shape": [len(numbers), DIM], "parameters": {"binary_data_size": len(data)}}],
        "parameters": {"k": 1},
    }
    text = json.dumps(header).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))}
    if "VECTORS_KEY" in os.environ:
        headers["Authorization"] = "Bearer " + os.environ["VECTORS_KEY"]
    connection.request("POST", "/v2/models/vectors/infer", text + data, headers)
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise http.client.HTTPException(f"{response.status} {body[:200]!r}")
    answer = json.loads(body)
    return answer["outputs"][0]["data"], answer["model_version"]


def load(stop):
    """Ask from two connections at a time; every answer must be of one of the two orders, whole, and of one order a version."""
    if os.path.exists(stop):
        os.unlink(stop)
    orders, failures, answers = {}, [], [0, 0]

    def client(which):
        connection = connect()
        numbers = random.Random(which)
        while not os.path.exists(stop):
            asked = [numbers.randrange(ROWS) for _dummy in range(BATCH)]
            try:
                ids, version = infer(connection, asked)
            except (OSError, http.client.HTTPException) as error:
                failures.append(repr(error))
                connection.close()
                continue
            order = "forward" if ids == asked else "backward" if ids == [ROWS - 1 - number for number in asked] else f"{asked} {ids}"
            if orders.setdefault(version, order) != order:
                failures.append(f"version {version} answered {ids} to {asked}, it was {orders[version]}")
            answers[which] += 1
            time.sleep(0.03)  # the host's CPUs are for what is done to it

    threads = [threading.Thread(target=client, args=(which,)) for which in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"answers": sum(answers), "failures": failures[:5], "orders": list(orders.values())}))


def administer(path, operation, body=None):
    """Ask the administrator's listener for something."""
    connection = http.client.HTTPConnection("localhost", timeout=20)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(path)
    connection.request("POST", f"/admin/{operation}", body and json.dumps(body))
    response = connection.getresponse()
    print(response.status, response.read().decode())
    sys.exit(response.status != 200)


def upsert(path, first):
    """Insert eight vectors."""
    inputs = [
        {"name": "ids", "datatype": "INT64", "shape": [BATCH], "data": list(range(first, first + BATCH))},
        {"name": "vectors", "datatype": "FP32", "shape": [BATCH, DIM], "data": [x for n in range(first, first + BATCH) for x in vector(n)]},
    ]
    administer(path, "upsert", {"inputs": inputs})


def main():
    action, *words = sys.argv[1:]
    if action == "write":
        with open(words[0], "wb") as file:
            file.write(struct.pack("<II", ROWS, DIM))
            for row in range(ROWS):
                file.write(vector(row if words[1] == "forward" else ROWS - 1 - row).tobytes())
    elif action == "load":
        load(words[0])
    elif action == "damage":
        with open(words[0], "rb") as file:
            content = bytearray(file.read())
        content[2 << 20] ^= 1  # of the first section
        with open(words[1], "wb") as file:
            file.write(content)
    elif action == "find":
        print(json.dumps(infer(connect(), range(int(words[0]), int(words[0]) + BATCH))[0]))
    elif action == "upsert":
        upsert(words[0], int(words[1]))
    elif action == "snapshot":
        administer(words[0], action)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
