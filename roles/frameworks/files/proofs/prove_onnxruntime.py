# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Proof of ONNX Runtime: an INT8 matrix product on its own kernels (MLAS), which have no names to ask for and no switch that leaves VNNI out.

What tells is the result: MLAS's kernels for unsigned times signed bytes saturate at 16 bits where the processor has no VNNI
(https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html), so an exact sum of pairs of 255 times 127 comes from VNNI or AMX.
"""

from __future__ import annotations

import ainode_proof as proof
import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


def session(operation, image, weights):
    """Return an inference session on one thread for the matrix product `operation` of "image" (shaped and typed as `image`) and `weights`."""
    kind, out = (TensorProto.UINT8, TensorProto.INT32) if image.dtype == np.uint8 else (TensorProto.FLOAT, TensorProto.FLOAT)
    graph = helper.make_graph(
        [helper.make_node(operation, ["image", "weights"], ["out"])],
        "proof",
        [helper.make_tensor_value_info("image", kind, image.shape)],
        [helper.make_tensor_value_info("out", out, [image.shape[0], weights.shape[1]])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def main():
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (64, 1024), dtype=np.uint8)
    weights = random.integers(-127, 128, (1024, 1024), dtype=np.int8)
    image_f32, weights_f32 = image.astype(np.float32), weights.astype(np.float32)
    int8 = session("MatMulInteger", image, weights)
    fp32 = session("MatMul", image_f32, weights_f32)
    worst = np.abs(int8.run(None, {"image": image})[0] - image.astype(np.int64) @ weights).max()
    exact = worst == 0
    times = proof.best_seconds(lambda: fp32.run(None, {"image": image_f32})) / proof.best_seconds(lambda: int8.run(None, {"image": image}))

    path = proof.int8_path()
    live = "MatMulInteger on MLAS, " + ("exact" if exact else f"saturated (off by {worst})")
    speed = f"INT8 {times:.1f} times as fast as FP32"
    if path == "none":
        wrong = "" if exact else ", and unsigned times signed INT8 gives wrong results: quantize with reduce_range"
        proof.say("not_applicable", live, f"this processor has no INT8 instructions{wrong}; {speed}: serve FP32 here")
    if not exact:
        proof.say("fail", live, f"this processor has {path} and the kernel does not use it: the sums saturated; {speed}")
    if times < proof.LEAST_SHARE:
        proof.say("fail", live, f"this processor has {path} and INT8 gains nothing from it; {speed}")
    proof.say("pass", live, f"the sums do not saturate, so {path} computed them; {speed}")


if __name__ == "__main__":
    proof.main(main)
