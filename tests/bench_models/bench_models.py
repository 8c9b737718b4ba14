# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the model service costs beside OpenVINO in process, and what INT8 brings through it.

    bench_models.py [--seconds 5] [--mlserver PYTHON] [--skip-resnet50]      prints a table, writes build/models/bench.json

1. A layer of 1x1024 -> 1x1000: processor time of the server for a request, and p50 and p99 as clients see them, at 1, 4 and 16 connections; by binary REST,
   JSON and gRPC, and in process. Then it is nearly all the server's own cost. `--mlserver` names the Python of an environment with mlserver, openvino
   and uvloop<0.22, which is measured the same way.
2. ResNet50 (random weights): requests a second through the service, INT8 against FP32, one thread, 2 connections of binary REST.

Clients run in a process of their own (tritonclient) and take processor time too: on a small machine latencies at 16 connections are mostly the clients'.
"""

from __future__ import annotations

import argparse
import atexit
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT / "tests/models"))
ROLE = CHECKOUT / "roles/model_service"
TICKS = os.sysconf("SC_CLK_TCK")

MODELS = """
import sys
import numpy as np, openvino as ov
from openvino import opset13 as op
directory, benchmark = sys.argv[1:3]
sys.path.insert(0, benchmark)
import openvino_models
row = op.parameter([1, 1024], np.float32, name="row")
layer = op.matmul(row, op.constant(np.random.default_rng(0).standard_normal((1024, 1000)).astype(np.float32) / 32), False, False)
model = ov.Model([op.result(layer)], [row], "layer")
model.inputs[0].set_names({"row"}); model.outputs[0].set_names({"out"})
ov.save_model(model, directory + "/layer/model.xml", compress_to_fp16=False)
model = openvino_models.resnet50()
ov.save_model(model, directory + "/resnet50.xml", compress_to_fp16=False)
np.savez(directory + "/images.npz", **openvino_models.sample("resnet50", 24))
"""

IN_PROCESS = """
import json, sys, time
import numpy as np, openvino as ov
directory, seconds = sys.argv[1], float(sys.argv[2])
settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
request = ov.Core().compile_model(directory + "/layer/model.xml", "CPU", settings).create_infer_request()
row, times, start, end = np.zeros((1, 1024), np.float32), [], time.process_time(), time.monotonic() + seconds
while time.monotonic() < end:
    before = time.perf_counter()
    request.infer([row])
    times.append(time.perf_counter() - before)
print(json.dumps({"cpu_ms": 1000 * (time.process_time() - start) / len(times), "p50_ms": 1000 * float(np.quantile(times, 0.5)),
                  "p99_ms": 1000 * float(np.quantile(times, 0.99)), "per_second": len(times) / seconds}))
"""

MLSERVER = """
import numpy as np, openvino as ov
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse

class Layer(MLModel):
    async def load(self):
        settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        self.request = ov.Core().compile_model(self.settings.parameters.uri, "CPU", settings).create_infer_request()
        return True

    async def predict(self, payload):
        row = NumpyCodec.decode_input(payload.inputs[0])
        out = list(self.request.infer([row]).values())[0]
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("out", out)])
"""


def processor_seconds(pid):
    """Return the user and system time of a process and its descendants (Linux, proc(5))."""
    total = 0
    for process in [pid, *(int(it) for it in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / TICKS
        if process != pid:
            total += processor_seconds(process) - (int(fields[11]) + int(fields[12])) / TICKS
    return total


def clients(kind, port, model, tensor, connections, seconds, results):
    """Be the process of the clients: ask on so many connections for so long; send back each request's seconds."""
    import tritonclient.grpc
    import tritonclient.http

    times, end = [], time.monotonic() + seconds

    def ask():
        module = tritonclient.grpc if kind == "grpc" else tritonclient.http
        options = {"channel_args": [("grpc.use_local_subchannel_pool", 1)]} if kind == "grpc" else {}
        with module.InferenceServerClient(f"127.0.0.1:{port}", **options) as client:
            given = module.InferInput(tensor[0], list(tensor[1].shape), "FP32")
            more = {}
            if kind == "grpc":
                given.set_data_from_numpy(tensor[1])
            else:
                given.set_data_from_numpy(tensor[1], binary_data=kind == "binary")
                more = {} if kind == "binary" else {"outputs": [module.InferRequestedOutput("out", binary_data=False)]}
            while time.monotonic() < end:
                before = time.perf_counter()
                client.infer(model, [given], **more)
                times.append(time.perf_counter() - before)

    threads = [threading.Thread(target=ask) for _dummy in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.put(times)


def measure(server, kind, port, model, tensor, connections, seconds):
    """Return processor ms a request, p50 and p99 in ms, and requests a second."""
    results = multiprocessing.Queue()
    for warm in (True, False):
        before, start = processor_seconds(server), time.monotonic()
        process = multiprocessing.Process(target=clients, args=(kind, port, model, tensor, connections, 1 if warm else seconds, results))
        process.start()
        times = results.get(timeout=seconds + 60)
        process.join()
        spent, elapsed = processor_seconds(server) - before, time.monotonic() - start
    quantile = {f"p{which}_ms": 1000 * float(np.quantile(times, which / 100)) for which in (50, 99)}
    return {"cpu_ms": 1000 * spent / len(times), **quantile, "per_second": len(times) / min(elapsed, seconds)}


def serve(repository, port):
    from conftest import environment

    command = [environment("server"), ROLE / "files/server/serve.py", "--repository", repository, "--port", port, "--threads", 1, "--drain", 0]
    return wait(subprocess.Popen([str(it) for it in command]), port)


def wait(process, port):
    """Return the process when its service is ready."""
    import tritonclient.http

    atexit.register(process.kill)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with tritonclient.http.InferenceServerClient(f"127.0.0.1:{port}") as client:
                if client.is_server_ready():
                    return process
        except OSError:
            time.sleep(0.3)
    raise SystemExit("the server did not become ready")


def mlserver(python, directory, port):
    """Start mlserver with one model of the same layer."""
    home = directory / "mlserver"
    home.mkdir()
    (home / "layer.py").write_text(MLSERVER)
    settings = {"host": "127.0.0.1", "http_port": port, "grpc_port": port + 100, "metrics_port": port + 200, "parallel_workers": 0, "debug": False}
    (home / "settings.json").write_text(json.dumps(settings))
    model = {"name": "layer", "implementation": "layer.Layer", "parameters": {"uri": str(directory / "repository/layer/model.xml")}}
    (home / "model-settings.json").write_text(json.dumps(model))
    command = [Path(python).with_name("mlserver"), "start", "."]
    return wait(subprocess.Popen(command, cwd=home, env={**os.environ, "PYTHONPATH": str(home)}, stdout=subprocess.DEVNULL), port)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5, help="for each measurement (default: %(default)s)")
    parser.add_argument("--mlserver", metavar="PYTHON", help="the Python of an environment with mlserver and openvino")
    parser.add_argument("--skip-resnet50", action="store_true")
    options = parser.parse_args()
    from conftest import BUILD, environment

    rows = []

    def add(what, **row):
        rows.append({"what": what, **row})
        print(f"{what:44} {row['cpu_ms']:8.2f} ms CPU {row['p50_ms']:9.2f} p50 {row['p99_ms']:9.2f} p99 {row['per_second']:9.0f} /s", flush=True)

    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        repository = directory / "repository"
        repository.mkdir()
        quantizer = str(environment("quantize"))
        subprocess.run([quantizer, "-c", MODELS, repository, CHECKOUT / "roles/benchmark/files"], check=True)
        (repository / "resnet50.xml").rename(directory / "resnet50.xml")
        (repository / "resnet50.bin").rename(directory / "resnet50.bin")
        (repository / "images.npz").rename(directory / "images.npz")
        done = subprocess.run([quantizer, "-c", IN_PROCESS, repository, str(options.seconds)], check=True, capture_output=True, text=True)
        add("layer, in process", **json.loads(done.stdout))
        row = ("row", np.zeros((1, 1024), np.float32))
        # mlserver's REST takes no binary tensors.
        servers = [("", serve(repository, 9600), 9600, ("binary", "json", "grpc"))]
        servers += [("mlserver ", mlserver(options.mlserver, directory, 9900), 9900, ("json", "grpc"))] if options.mlserver else []
        for name, server, port, kinds in servers:
            for kind in kinds:
                for connections in (1, 4, 16):
                    result = measure(server.pid, kind, port + 100 * (kind == "grpc"), "layer", row, connections, options.seconds)
                    add(f"{name}layer, {kind}, {connections} connections", **result)
            server.terminate()
            server.wait()
        if not options.skip_resnet50:
            specification = {
                "name": "resnet50", "source": str(directory / "resnet50.xml"), "calibration": str(directory / "images.npz"),
                "validation": str(directory / "images.npz"), "metric": "cosine", "max_drop": 1,
            }  # fmt: skip
            command = [quantizer, ROLE / "files/builder/quantize.py", "--artefacts", BUILD / "bench-artefacts", json.dumps(specification)]
            report = json.loads(subprocess.run([str(it) for it in command], check=True, capture_output=True, text=True).stdout)
            served = directory / "resnet50"
            served.mkdir()
            for kind in ("fp32", "int8"):
                (served / kind).symlink_to(Path(report["directory"]) / kind)
            server = serve(served, 9600)
            with np.load(directory / "images.npz") as file:
                image = ("image", file["image"][:1])
            # In turns, so that other load meets both.
            best = {}
            for _round in range(3):
                for kind in ("fp32", "int8"):
                    result = measure(server.pid, "binary", 9600, kind, image, 2, options.seconds)
                    if kind not in best or result["per_second"] > best[kind]["per_second"]:
                        best[kind] = result
            for kind, result in best.items():
                add(f"ResNet50 {kind}, binary, 2 connections", **result)
            print(f"ResNet50 through the service, INT8 : FP32 = {best['int8']['per_second'] / best['fp32']['per_second']:.2f}")
            server.terminate()
            server.wait()
    (BUILD / "bench.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
