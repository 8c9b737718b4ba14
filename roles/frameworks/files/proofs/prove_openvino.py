# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Proof of OpenVINO: four INT8 convolutions, the kernel's name from the runtime graph (ONEDNN_VERBOSE breaks OpenVINO's INT8 inference)."""

from __future__ import annotations

import ainode_proof as proof


def convolutions(int8):
    """Return a model of four 3x3 convolutions over 128 channels of 28x28, with the FakeQuantize operations of a quantized one or without."""
    import numpy as np
    import openvino as ov
    from openvino import opset13 as op

    def constant(value):
        return op.constant(np.float32(value))

    image = op.parameter([1, 128, 28, 28], np.float32)
    node = image
    random = np.random.default_rng(0)
    for _layer in range(4):
        weights = np.clip(np.rint(random.standard_normal((128, 128, 3, 3)) * 32), -127, 127).astype(np.int8)
        if int8:
            node = op.fake_quantize(node, constant(0), constant(6), constant(0), constant(6), 256)
            kernel = op.multiply(op.convert(op.constant(weights), np.float32), constant(0.2 / 127))
        else:
            kernel = op.constant(weights.astype(np.float32) * np.float32(0.2 / 127))
        node = op.clamp(op.convolution(node, kernel, [1, 1], [1, 1], [1, 1], [1, 1]), 0.0, 6.0)
    return ov.Model([op.result(node)], [image])


def measure(int8):
    """Return the convolution kernels' names and the seconds of one inference on one thread."""
    import numpy as np
    import openvino as ov

    # Where the processor has bf16, OpenVINO computes "FP32" models in it unless told not to.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
    compiled = ov.Core().compile_model(convolutions(int8), "CPU", settings)
    request = compiled.create_infer_request()
    image = np.random.default_rng(1).random((1, 128, 28, 28), np.float32)
    seconds = proof.best_seconds(lambda: request.infer([image]))
    kernels = {
        str(node.get_rt_info()["primitiveType"].value)
        for node in compiled.get_runtime_model().get_ops()
        if str(node.get_rt_info()["layerType"].value) == "Convolution"
    }
    return {"kernels": sorted(kernels), "seconds": seconds}


if __name__ == "__main__":
    proof.main(lambda: proof.run(measure, {"amx_int8": "amx", "avx512_vnni": "avx512", "avx_vnni": "avx2"}))
