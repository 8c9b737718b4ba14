# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Proof of Neural Compressor 2.6: a tuning strategy quantizes an ONNX model to INT8 operators that meet the accuracy asked for, and run faster."""

from __future__ import annotations

import logging

import ainode_proof as proof
import numpy as np
import onnxruntime
from neural_compressor import PostTrainingQuantConfig, quantization
from neural_compressor.config import AccuracyCriterion, TuningCriterion
from onnx import TensorProto, helper, numpy_helper

SHAPE = (64, 1024)


def product():
    """Return an ONNX model that multiplies 64 rows by two 1024x1024 matrices, with ReLU."""
    random = np.random.default_rng(0)
    weights = [numpy_helper.from_array(random.standard_normal((1024, 1024)).astype(np.float32) / 32, f"w{number}") for number in range(2)]
    nodes = [
        helper.make_node("MatMul", ["image", "w0"], ["h0"], "first"),
        helper.make_node("Relu", ["h0"], ["h1"], "relu"),
        helper.make_node("MatMul", ["h1", "w1"], ["out"], "second"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in ("image", "out")]
    return helper.make_model(helper.make_graph(nodes, "proof", values[:1], values[1:], weights), opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


class Rows:
    """A calibration loader of one batch, in the shape that Neural Compressor reads."""

    batch_size = SHAPE[0]

    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        yield self.rows, 0


def main():
    logging.disable(logging.WARNING)
    model = product()
    rows = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    exact = session(model).run(None, {"image": rows})[0]

    def accuracy(candidate):
        out = session(candidate).run(None, {"image": rows})[0]
        return 1 - float(np.linalg.norm(out - exact) / np.linalg.norm(exact))

    # Without quant_level=1 the strategy is not looked at.
    config = PostTrainingQuantConfig(
        quant_level=1,
        tuning_criterion=TuningCriterion(strategy="basic", max_trials=3),
        accuracy_criterion=AccuracyCriterion(criterion="absolute", tolerable_loss=0.05),
    )
    tuned = quantization.fit(model, config, calib_dataloader=Rows(rows), eval_func=accuracy)
    if tuned is None:
        proof.say("fail", "no model", "no candidate of the strategy 'basic' lost less than 5 % accuracy")
    live = ", ".join(sorted({node.op_type for node in tuned.model.graph.node if node.op_type.startswith(("QLinear", "Quantize"))}))
    fast, stock = session(tuned.model), session(model)
    seconds = [proof.best_seconds(lambda run=run: run.run(None, {"image": rows})) for run in (fast, stock)]
    times = seconds[1] / seconds[0]
    told = f"strategy 'basic' kept {100 * accuracy(tuned.model):.1f} % of the accuracy; INT8 {times:.1f} times as fast as FP32"
    if not live:
        proof.say("fail", "FP32 operators", f"the quantized model computes in FP32; {told}")
    path = proof.int8_path()
    if path == "none":
        proof.say("not_applicable", live, f"this processor has no INT8 instructions; {told}: serve FP32 here")
    if times < proof.LEAST_SHARE:
        proof.say("fail", live, f"this processor has {path} and INT8 gains nothing from it; {told}")
    proof.say("pass", live, told)


if __name__ == "__main__":
    proof.main(main)
