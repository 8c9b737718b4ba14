# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Serve a directory of OpenVINO models by the Open Inference Protocol, with KServe's model server.

DIRECTORY/NAME/model.xml is the model NAME. REST with the binary tensor extension (/v2/models/NAME/infer), gRPC, metadata, load and unload
(/v2/repository/models/NAME/load), and Prometheus /metrics with latency histograms:
https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol

kserve's own endpoints, data plane, servicer and metrics do that. What is beside this file:
- tensors.py  values in JSON, binary data and gRPC's contents; what a datatype cannot hold is refused (400) with input, index and value;
- models.py   OpenVINO's models: asynchronous requests, deadlines, bounds, states that begin anew with every request;
- integers.py which integers OpenVINO's 32 bits hold in a model;
- app.py      REST, gRPC, readiness and errors.

A model that cannot be served rightly is unavailable: /v2/models/NAME/ready answers 503 with the reason, the others are served. /v2/health/ready says no before
the models are loaded and warm, while a request that was stopped has not ended, and for --drain seconds before the service stops, while it still
answers; with ?models=all it says no as well when any model is unavailable.
"""

from __future__ import annotations

import argparse
import logging


def positive(text):
    """Return a positive number of seconds."""
    if not float(text) > 0:
        raise argparse.ArgumentTypeError(f"{text} is not more than 0")
    return float(text)


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
    parser.add_argument("--max-memory", metavar="BYTES", type=int, help="what requests may hold together (default: 64 times the largest request)")
    parser.add_argument(
        "--max-free", metavar="SIZE", type=int, default=4096,
        help="largest size of a dimension that a model leaves free, where the report.json beside it has no `bounds` (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--queue", metavar="COUNT", type=int, default=256, help="requests that may wait for a model; more get 429 (default: %(default)s)")
    parser.add_argument("--timeout", metavar="SECONDS", type=positive, default=60, help="a request that takes longer is stopped, 504 (default: %(default)s)")
    parser.add_argument("--drain", metavar="SECONDS", type=float, default=3, help="not ready for so long before it stops (default: %(default)s)")
    parser.add_argument("--keep-alive", metavar="SECONDS", type=int, default=75, help="how long an idle connection is kept (default: %(default)s)")
    options = parser.parse_args()
    options.grpc_port = options.grpc_port or options.port + 100
    options.max_memory = options.max_memory or 64 * options.max_request
    options.settings = {"PERFORMANCE_HINT": options.hint.upper(), "INFERENCE_PRECISION_HINT": options.precision, "ENABLE_CPU_PINNING": False}
    if options.threads:
        options.settings["INFERENCE_NUM_THREADS"] = options.threads
    # Imported here: the process that reads large JSON imports this file too.
    import app
    import uvloop

    # kserve writes two lines a request.
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    logging.getLogger("kserve").setLevel(logging.ERROR)
    uvloop.run(app.serve(options))


if __name__ == "__main__":
    main()
