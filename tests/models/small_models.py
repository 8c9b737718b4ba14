# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the small models that test_values.py asks: small_models.py DIRECTORY; in the server's environment."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset13 as op
from openvino.op.util import Variable, VariableInfo

ECHOES = ("f16", "bf16", "f32", "f64", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "boolean", "string", "u4", "i4")


def parameter(kind, shape=(-1,), name="x"):
    node = op.parameter(list(shape), kind, name=name)
    node.output(0).set_names({name})
    return node


def result(node, name="y"):
    end = op.result(node)
    end.output(0).set_names({name})
    return end


def echo(kind):
    x = parameter(getattr(ov.Type, kind))
    return ov.Model([result(op.reshape(x, op.constant(np.array([-1])), False))], [x], "echo")


def accumulator():
    """A model that adds its input to what it was given before."""
    x, info = parameter(np.float32, [1, 4]), VariableInfo()
    info.data_shape, info.data_type, info.variable_id = ov.PartialShape([1, 4]), ov.Type.f32, "memory"
    variable = Variable(info)
    total = op.add(ov.opset6.read_value(op.constant(np.zeros((1, 4), np.float32)), variable), x)
    return ov.Model([result(total)], [ov.opset6.assign(total, variable)], [x], "accumulator")


def hashed(factor):
    """A model that hashes ids: id * factor modulo 1000, and the ids themselves."""
    x = parameter(np.int64)
    bucket = op.floor_mod(op.multiply(x, op.constant(np.array([factor], np.int64))), op.constant(np.array([1000], np.int64)))
    return ov.Model([result(bucket, "bucket"), result(op.reshape(x, op.constant(np.array([-1])), False), "same")], [x], "hashed")


def cast():
    x = parameter(np.float32)
    return ov.Model([result(op.convert(x, "i64"))], [x], "cast")


def beyond():
    """A model whose constant alone is beyond 32 bits."""
    x = parameter(np.int64)
    return ov.Model([result(op.add(x, op.constant(np.array([1 << 40], np.int64))))], [x], "beyond")


def divided():
    """A model that divides integers by an input."""
    x, other = parameter(np.int32), parameter(np.int32, name="other")
    return ov.Model([result(op.divide(x, other))], [x, other], "divided")


def double():
    x = parameter(np.float64)
    return ov.Model([result(op.multiply(x, op.constant(np.array([1e300]))))], [x], "double")


def ranked():
    """A model whose output has as many dimensions as its second input has elements."""
    x, shape = parameter(np.float32), parameter(np.int64, name="shape")
    return ov.Model([result(op.reshape(x, shape, False))], [x, shape], "ranked")


def product():
    """A model that multiplies rows: pairs of other lengths cannot be computed."""
    x, other = parameter(np.float32, [-1, -1]), parameter(np.float32, [-1, -1], "other")
    return ov.Model([result(op.matmul(x, other, False, False))], [x, other], "product")


def slow(size=1200, layers=60):
    x = parameter(np.float32, [size, size])
    node = x
    for _layer in range(layers):
        node = op.matmul(node, x, False, False)
    return ov.Model([result(op.reduce_sum(node, op.constant(np.array([0, 1])), False))], [x], "slow")


MODELS = {
    **{f"echo_{kind}": (echo, kind) for kind in ECHOES}, "accumulator": (accumulator,), "hashed": (hashed, 1), "multiplied": (hashed, 1000003),
    "cast": (cast,), "beyond": (beyond,), "divided": (divided,), "double": (double,), "ranked": (ranked,), "product": (product,), "slow": (slow,),
}  # fmt: skip


def main(directory):
    for name, (make, *arguments) in MODELS.items():
        ov.save_model(make(*arguments), Path(directory) / name / "model.xml", compress_to_fp16=False)
    (Path(directory) / "damaged").mkdir()
    (Path(directory) / "damaged/model.xml").write_text("<net")
    (Path(directory) / "absent").mkdir()
    # What the builder may have written: at most 7 rows.
    (Path(directory) / "product/report.json").write_text('{"bounds": {"x": [7, 64]}}')


if __name__ == "__main__":
    main(sys.argv[1])
