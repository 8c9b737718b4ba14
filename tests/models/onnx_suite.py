# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ONNX backend suite through the builder's conversion and the server: python tests/models/onnx_suite.py [--every N] [--named TEXT] [--keep DIRECTORY]

Each case is converted, served, and asked by REST with JSON, by REST with binary data and by gRPC. Prints how many are equal to the suite's outputs within
its tolerance (a quantized integer may be one off), refused (with the reason), and wrong: answered with other numbers. Ends with status 1 when one
is wrong, or refused by a fault of the server's.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import numpy as np
from conftest import CHECKOUT, ROLE, environment, installed
from tritonclient.grpc import service_pb2, service_pb2_grpc

PROTOCOLS = ("JSON", "binary", "gRPC")
# Models a server holds at a time.
BATCH = 250
QUANTIZING = {"QuantizeLinear", "DynamicQuantizeLinear"}


class Refused(Exception):
    """The server refused; the text is its own."""


class Fault(Exception):
    """The server failed."""


def packages():
    """Return the directory with the package onnx, beside the builder's environment."""
    return installed("onnx", lambda directory: (environment("quantize"), ["--target", directory]))


def convert(directory, *options):
    """Convert the suite's cases into `directory`; return {case: what became of it}."""
    command = [environment("quantize"), CHECKOUT / "tests/models/onnx_convert.py", directory, *options]
    subprocess.run([str(it) for it in command], check=True, env={**os.environ, "PYTHONPATH": str(packages())}, stderr=subprocess.DEVNULL)
    return json.loads((directory / "cases.json").read_text())


def raw(datatype, array):
    """Return an array as the protocol's binary data."""
    if datatype == "BYTES":
        return b"".join(len(it.encode()).to_bytes(4, "little") + it.encode() for it in array.flat)
    if datatype == "BF16":
        return (np.ascontiguousarray(array, np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
    return np.ascontiguousarray(array).tobytes()


def parsed(datatype, shape, data):
    """Return the array of binary data."""
    if datatype == "BYTES":
        items, place = [], 0
        while place < len(data):
            size = int.from_bytes(data[place : place + 4], "little")
            items.append(data[place + 4 : place + 4 + size].decode())
            place += 4 + size
        return np.array(items, np.str_).reshape(shape)
    if datatype == "BF16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
    return np.frombuffer(data, numpy_type(datatype)).reshape(shape)


def numpy_type(datatype):
    return {"BOOL": "?", "BYTES": "U", "BF16": "f4"}.get(datatype) or datatype.lower().replace("fp", "float")


class Client:
    def __init__(self, port, grpc_port):
        self.base = f"http://127.0.0.1:{port}"
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(f"127.0.0.1:{grpc_port}", [("grpc.max_receive_message_length", -1)]))

    def post(self, path, body, headers):
        try:
            with urllib.request.urlopen(urllib.request.Request(self.base + path, body, headers), timeout=120) as answer:
                return answer.read(), answer.headers
        except urllib.error.HTTPError as error:
            said = error.read().decode()
            raise (Fault if error.code not in (400, 503) else Refused)(said) from None

    def ask(self, how, model, inputs):
        """Return {output: (datatype, array)} for [(name, datatype, array)]."""
        return getattr(self, "ask_" + how)(model, inputs)

    def ask_JSON(self, model, inputs):
        entries = [
            {
                "name": name,
                "datatype": datatype,
                "shape": array.shape,
                "data": [float(it) if array.dtype.kind == "f" else it.item() for it in array.reshape(-1)],
            }
            for name, datatype, array in inputs
        ]
        try:
            body = json.dumps({"inputs": entries}, allow_nan=False).encode()
        except ValueError:
            raise Refused("JSON has no word for this input's NaN or infinity") from None
        answer = json.loads(self.post(f"/v2/models/{model}/infer", body, {})[0])
        return {it["name"]: (it["datatype"], np.array(it["data"], numpy_type(it["datatype"])).reshape(it["shape"])) for it in answer["outputs"]}

    def ask_binary(self, model, inputs):
        tensors = [raw(datatype, array) for _name, datatype, array in inputs]
        entries = [
            {"name": name, "datatype": datatype, "shape": array.shape, "parameters": {"binary_data_size": len(data)}}
            for (name, datatype, array), data in zip(inputs, tensors)
        ]
        head = json.dumps({"inputs": entries, "parameters": {"binary_data_output": True}}).encode()
        body, headers = self.post(f"/v2/models/{model}/infer", b"".join((head, *tensors)), {"Inference-Header-Content-Length": str(len(head))})
        length = int(headers["inference-header-content-length"])
        answer, rest, found = json.loads(body[:length]), body[length:], {}
        for it in answer["outputs"]:
            size = it["parameters"]["binary_data_size"]
            found[it["name"]] = it["datatype"], parsed(it["datatype"], it["shape"], rest[:size])
            rest = rest[size:]
        assert not rest
        return found

    def ask_gRPC(self, model, inputs):
        request = service_pb2.ModelInferRequest(model_name=model)
        for name, datatype, array in inputs:
            request.inputs.add(name=name, datatype=datatype, shape=array.shape)
            request.raw_input_contents.append(raw(datatype, array))
        try:
            answer = self.stub.ModelInfer(request, timeout=120)
        except grpc.RpcError as error:
            known = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAVAILABLE)
            raise (Refused if error.code() in known else Fault)(error.details()) from None
        return {it.name: (it.datatype, parsed(it.datatype, list(it.shape), data)) for it, data in zip(answer.outputs, answer.raw_output_contents)}


def difference(case, expected, got):
    """Return in which way an answer is not the suite's; "" when it is."""
    for (name, datatype), array in expected:
        if name not in got:
            return f"there is no output {name}"
        kind, found = got[name]
        if kind != datatype:
            return f"output {name} is {kind}, the suite's is {datatype}"
        if found.shape != array.shape:
            return f"output {name} has the shape {list(found.shape)}, the suite's is {list(array.shape)}"
        if datatype == "BYTES" or array.dtype.kind not in "f":
            # A quantized value may be the next one: x / scale is computed as x * (1 / scale), and a tie falls to the other side.
            step = 1 if QUANTIZING & set(case["operators"]) and datatype in ("INT8", "UINT8", "INT16", "UINT16") else 0
            same = np.array_equal(found, array) if not step else np.abs(found.astype(int) - array.astype(int)).max(initial=0) <= step
            if not same:
                return f"output {name} is {found.reshape(-1)[:6]!s}, the suite's is {array.reshape(-1)[:6]!s}"
        elif not np.allclose(found.astype(np.float64), array.astype(np.float64), case["rtol"], max(case["atol"], tolerance(datatype, array)), equal_nan=True):
            return f"output {name} is {found.reshape(-1)[:6]!s}, the suite's is {array.reshape(-1)[:6]!s}"
    return ""


def tolerance(datatype, array):
    """Return what the datatype's own steps allow: an eighth of a bit more than one step of the largest value, for FP16 and BF16 alone."""
    steps = {"FP16": 2**-10, "BF16": 2**-7}
    return 1.1 * steps[datatype] * float(np.abs(array[np.isfinite(array)]).max(initial=0)) if datatype in steps else 0


def judge(directory, names, told, service):
    """Ask a running service for each of the cases `names`; note in `told` what came of it for each protocol."""
    client = Client(service.port, service.grpc_port)
    for name in names:
        case = told[name]
        case["verdicts"] = {}
        with np.load(directory / "data" / f"{name}.npz") as file:
            arrays = {key: file[key] for key in file.files}
        for how in PROTOCOLS:
            verdict = "equal", ""
            for number in range(case["sets"]):
                given = [(it, datatype, arrays[f"input.{number}.{it}"]) for it, datatype in case["inputs"] if f"input.{number}.{it}" in arrays]
                expected = [(pair, arrays[f"output.{number}.{pair[0]}"]) for pair in case["outputs"]]
                try:
                    text = difference(case, expected, client.ask(how, name, given))
                    verdict = ("wrong", text) if text else verdict
                except Refused as error:
                    verdict = "refused", str(error)
                except Exception as error:
                    verdict = "fault", f"{type(error).__name__}: {error}"
                if verdict[0] != "equal":
                    break
            case["verdicts"][how] = verdict


def serve(repository, log):
    """Return a running service of the models in a directory."""
    from test_serve import Service

    return Service(environment("server"), ROLE / "files/server/serve.py", repository, log, limit=16 << 20)


def run(directory, *options):
    """Convert and judge; return {case: what became of it}, each with `verdict`: equal, refused, wrong or fault, and `why`."""
    told = convert(directory, *options)
    served = sorted(name for name, case in told.items() if not case["refused"] and "no_protocol" not in case)
    for start in range(0, len(served), BATCH):
        part = served[start : start + BATCH]
        repository = directory / f"repository-{start}"
        repository.mkdir()
        for name in part:
            (repository / name).symlink_to(directory / "models" / name)
        service = serve(repository, directory / f"serve-{start}.log")
        try:
            judge(directory, part, told, service)
        finally:
            service.process.kill()
            service.process.wait()
    for case in told.values():
        verdicts = case.get("verdicts") or {"convert": ("refused", case["refused"] or f"the protocol has no datatype: {case['no_protocol']}")}
        for kind in ("fault", "wrong", "equal", "refused"):
            found = [f"{how}: {text}" for how, (verdict, text) in verdicts.items() if verdict == kind]
            if found:
                case["verdict"], case["why"] = kind, found[0]
                break
    return told


def table(told):
    """Return the verdicts as text."""
    lines = [f"{'':10}{'equal':>8}{'refused':>9}{'wrong':>7}{'fault':>7}"]
    at_conversion = sum(1 for case in told.values() if "verdicts" not in case)
    for how in PROTOCOLS:
        counts = collections.Counter(case["verdicts"][how][0] if "verdicts" in case else "refused" for case in told.values())
        lines.append(f"{how:10}{counts['equal']:8}{counts['refused']:9}{counts['wrong']:7}{counts['fault']:7}")
    counts = collections.Counter(case["verdict"] for case in told.values())
    lines.append(
        f"{'cases':10}{counts['equal']:8}{counts['refused']:9}{counts['wrong']:7}{counts['fault']:7}   of {len(told)}; {at_conversion} refused at conversion"
    )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="take one case of so many")
    parser.add_argument("--named", default="", help="take the cases with this in their names")
    parser.add_argument("--without-list", action="store_true", help="convert what the list of operators refuses, too")
    parser.add_argument("--keep", type=Path, help="a directory for what is made; else it is removed")
    options = parser.parse_args()
    directory = options.keep or Path(tempfile.mkdtemp(prefix="onnx-suite-"))
    started = time.monotonic()
    told = run(directory, "--every", options.every, "--named", options.named, *(["--without-list"] if options.without_list else []))
    (directory / "verdicts.json").write_text(json.dumps(told, indent=1))
    bad = {name: case for name, case in told.items() if case["verdict"] in ("wrong", "fault")}
    for name, case in sorted(bad.items()):
        print(f"{case['verdict']}: {name} ({', '.join(case['operators'])}): {case['why'][:250]}")
    print(table(told))
    print(f"{time.monotonic() - started:.0f} s")
    if not options.keep:
        shutil.rmtree(directory)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
