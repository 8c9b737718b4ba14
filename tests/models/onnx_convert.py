# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Convert the cases of the ONNX backend suite as the builder converts a model: onnx_convert.py DIRECTORY [--every N] [--named TEXT]

DIRECTORY/models/CASE/model.xml is a model, DIRECTORY/data/CASE.npz its inputs and outputs, and DIRECTORY/cases.json what became of each case. Runs in the
builder's environment with the package onnx.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import openvino as ov
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "roles/model_service/files/builder"))
import onnx_operators
import quantize

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")
# What the protocol calls them.
DATATYPES = {
    "BOOL": "BOOL", "INT8": "INT8", "INT16": "INT16", "INT32": "INT32", "INT64": "INT64", "UINT8": "UINT8", "UINT16": "UINT16", "UINT32": "UINT32",
    "UINT64": "UINT64", "FLOAT16": "FP16", "BFLOAT16": "BF16", "FLOAT": "FP32", "DOUBLE": "FP64", "STRING": "BYTES",
}  # fmt: skip


class Type(Exception):
    """A case has a value that is no tensor of a type of the protocol's."""


def tensor(given, value):
    """Return (datatype, array) of a value of an input or output of the graph; Type where it is no tensor of the protocol's."""
    if not value.type.HasField("tensor_type"):
        raise Type(f"{value.name} is a {value.type.WhichOneof('value')}")
    kind = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
    if kind not in DATATYPES:
        raise Type(f"{value.name} is {kind}")
    array = np.asarray(numpy_helper.to_array(given) if isinstance(given, onnx.TensorProto) else given)
    if kind == "BFLOAT16":
        array = array.astype(np.float32)
    if kind == "STRING":
        array = np.array([it.decode() if isinstance(it, bytes) else str(it) for it in array.flat], np.str_).reshape(array.shape)
    return DATATYPES[kind], array


def data_sets(case):
    """Yield (inputs, outputs) of each data set: arrays or protobufs in the graph's order."""
    if case.data_sets is not None:
        yield from case.data_sets
        return
    for directory in sorted(Path(case.model_dir).glob("test_data_set_*")):
        yield tuple(
            [onnx.load_tensor(directory / f"{what}_{number}.pb") for number in range(len(list(directory.glob(f"{what}_*.pb"))))] for what in ("input", "output")
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--every", type=int, default=1, help="take one case of so many")
    parser.add_argument("--named", default="", help="take the cases with this in their names")
    parser.add_argument("--without-list", action="store_true", help="convert what the list of operators refuses, too: to see whether it still must")
    options = parser.parse_args()
    (options.directory / "data").mkdir(parents=True)
    (options.directory / "models").mkdir()
    told = {}
    cases = [case for kind in KINDS for case in load_model_tests(kind=kind)]
    source = options.directory / "model.onnx"
    for case in [case for case in cases if options.named in case.name][:: options.every]:
        entry = told[case.name] = {"rtol": case.rtol, "atol": case.atol, "refused": "", "inputs": [], "outputs": [], "sets": 0}
        model = case.model or onnx.load(Path(case.model_dir) / "model.onnx")
        onnx.save(model, source)
        entry["operators"] = sorted({node.op_type for node in model.graph.node})
        try:
            refusals = [] if options.without_list else onnx_operators.refusals(model)
            if refusals:
                raise quantize.Unusable(refusals[0])
            converted = quantize.read_model(str(source), "")
            ov.save_model(converted, options.directory / "models" / case.name / "model.xml", compress_to_fp16=False)
        except quantize.Unusable as error:
            entry["refused"] = str(error)
            continue
        except Exception as error:
            entry["refused"] = f"it cannot be saved: {error}"
            continue
        constants = {it.name for it in model.graph.initializer}
        wanted, arrays = [it for it in model.graph.input if it.name not in constants], {}
        try:
            for number, (given, expected) in enumerate(data_sets(case)):
                for values, data, what in ((wanted, given, "input"), (model.graph.output, expected, "output")):
                    for value, it in zip(values, data):
                        datatype, arrays[f"{what}.{number}.{value.name}"] = tensor(it, value)
                        if number == 0:
                            entry[what + "s"].append([value.name, datatype])
                entry["sets"] = number + 1
        except Type as error:
            entry["no_protocol"] = str(error)
            continue
        np.savez(options.directory / "data" / f"{case.name}.npz", **arrays)
    (options.directory / "cases.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
