# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""ResNet50 v1.5, Wide & Deep and a digit classifier in OpenVINO, as FP32 and INT8 models.

    openvino_models.py prepare DIRECTORY
    openvino_models.py infer DIRECTORY MODEL fp32|bf16|int8 online|batch SECONDS

The two large ones have random weights of the right scale: speed does not depend on their values, and nothing is downloaded. The digit classifier
is trained here on the 1797 handwritten digits that scikit-learn carries, so that INT8's accuracy is one on real data.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import openvino as ov
import workload
from openvino import opset13 as op

# A batch of the guide's "batch inference"; online inference has one item.
BATCH = {"resnet50": 16, "wide_and_deep": 512}


def constant(value):
    return op.constant(np.asarray(value, np.float32))


def resnet50():
    """Return ResNet50 v1.5 (the stride in each bottleneck's 3x3 convolution), batch norms folded, weights random."""
    random = np.random.default_rng(0)

    def convolution(node, channels_in, channels, size, stride):
        weights = random.standard_normal((channels, channels_in, size, size), np.float32) * np.float32((2 / (channels_in * size * size)) ** 0.5)
        bias = random.standard_normal((1, channels, 1, 1), np.float32) * np.float32(0.01)
        pad = [size // 2] * 2
        return op.add(op.convolution(node, op.constant(weights), [stride] * 2, pad, pad, [1, 1]), op.constant(bias))

    image = op.parameter([1, 3, 224, 224], np.float32, name="image")
    node = op.relu(convolution(image, 3, 64, 7, 2))
    node = op.max_pool(node, [2, 2], [1, 1], [1, 1], [1, 1], [3, 3], "floor", "explicit").output(0)
    channels = 64
    for width, blocks, first_stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            stride = first_stride if block == 0 else 1
            inner = op.relu(convolution(node, channels, width, 1, 1))
            inner = op.relu(convolution(inner, width, width, 3, stride))
            inner = convolution(inner, width, 4 * width, 1, 1)
            shortcut = node if block else convolution(node, channels, 4 * width, 1, stride)
            # Without batch norms the sum grows with each block; a factor in the weights keeps it, as a trained network's would.
            node, channels = op.relu(op.add(op.multiply(inner, constant(0.3)), shortcut)), 4 * width
    node = op.reduce_mean(node, op.constant(np.array([2, 3])), False)
    node = op.matmul(node, op.constant(random.standard_normal((2048, 1000), np.float32) * np.float32(0.02)), False, False)
    return ov.Model([op.result(node)], [image], "resnet50")


def wide_and_deep():
    """Return Wide & Deep: 26 categories of 10000 values, 13 numbers, 32 dimensions each, a perceptron 1024-512-256."""
    random = np.random.default_rng(0)
    categories = op.parameter([1, 26], np.int32, name="categories")
    numbers = op.parameter([1, 13], np.float32, name="numbers")
    rows = op.add(categories, op.constant(np.arange(26, dtype=np.int32) * 10000))
    axis = op.constant(np.int32(0))
    embedded = op.gather(op.constant(random.standard_normal((260000, 32), np.float32) * np.float32(0.05)), rows, axis)
    node = op.concat([op.reshape(embedded, op.constant([0, 26 * 32]), True), numbers], 1)
    width = 26 * 32 + 13
    for next_width in (1024, 512, 256, 1):
        weights = random.standard_normal((width, next_width), np.float32) * np.float32((2 / width) ** 0.5)
        node, width = op.matmul(node, op.constant(weights), False, False), next_width
        node = op.relu(node) if next_width > 1 else node
    wide = op.reduce_sum(op.gather(op.constant(random.standard_normal(260000, np.float32) * np.float32(0.05)), rows, axis), op.constant([1]), True)
    return ov.Model([op.result(op.sigmoid(op.add(node, wide)))], [categories, numbers], "wide_and_deep")


def digits():
    """Return (classifier of 8x8 digits, its training images, its test images, the test labels)."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from sklearn.neural_network import MLPClassifier

    data = load_digits()
    train, test, train_labels, test_labels = train_test_split(data.data.astype(np.float32) / 16, data.target, test_size=0.3, random_state=0)
    network = MLPClassifier((128, 64), random_state=0, max_iter=100).fit(train, train_labels)
    image = op.parameter([-1, 64], np.float32, name="image")
    node = image
    for weights, bias in zip(network.coefs_, network.intercepts_):
        node = op.add(op.matmul(node, constant(weights), False, False), constant(bias))
        node = op.relu(node) if bias is not network.intercepts_[-1] else node
    return ov.Model([op.result(node)], [image], "digits"), train, test, test_labels


def sample(model, batch, seed=0):
    """Return random inputs of the model `model`."""
    random = np.random.default_rng(seed)
    if model == "resnet50":
        return {"image": random.random((batch, 3, 224, 224), np.float32)}
    return {"categories": random.integers(0, 10000, (batch, 26), dtype=np.int32), "numbers": random.random((batch, 13), np.float32)}


def prepare(directory):
    """Write all models; the INT8 ones are quantized after training by NNCF, calibrated on inputs like those that are measured."""
    import nncf

    target, directory = directory, directory.with_name(directory.name + ".new")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    # Correcting biases for accuracy is of no use to random weights and takes most of the time.
    fast = nncf.AdvancedQuantizationParameters(disable_bias_correction=True)
    for model in (resnet50(), wide_and_deep()):
        name = model.get_friendly_name()
        inputs = [sample(name, 1, seed) for seed in range(8)]
        ov.save_model(nncf.quantize(model, nncf.Dataset(inputs), subset_size=8, advanced_parameters=fast), directory / f"{name}-int8.xml")
        ov.save_model(model, directory / f"{name}-fp32.xml", compress_to_fp16=False)
    model, train, test, labels = digits()
    ov.save_model(nncf.quantize(model, nncf.Dataset([row[None] for row in train[:300]])), directory / "digits-int8.xml")
    ov.save_model(model, directory / "digits-fp32.xml", compress_to_fp16=False)
    np.savez(directory / "digits.npz", images=test, labels=labels)
    directory.rename(target)


def infer(directory, model, precision, mode, seconds):
    """Measure one instance: the latency of single requests, or batches with as many requests at a time as OpenVINO asks for."""
    network = ov.Core().read_model(directory / f"{model}-{'int8' if precision == 'int8' else 'fp32'}.xml")
    if model == "digits":
        compiled = ov.Core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        data = np.load(directory / "digits.npz")
        accuracy = float((compiled([data["images"]])[0].argmax(1) == data["labels"]).mean())
        workload.measure(lambda: compiled([data["images"]]), seconds, len(data["labels"]), accuracy=round(accuracy, 4))
        return
    batch = 1 if mode == "online" else BATCH[model]
    network.reshape({port.any_name: [batch, *list(port.partial_shape)[1:]] for port in network.inputs})
    # Left to itself OpenVINO computes an FP32 model in bf16 where the processor has it.
    settings = {"INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32", "PERFORMANCE_HINT": "LATENCY" if mode == "online" else "THROUGHPUT"}
    compiled = ov.Core().compile_model(network, "CPU", settings)
    kernels = sorted(
        {
            str(node.get_rt_info()["primitiveType"].value)
            for node in compiled.get_runtime_model().get_ops()
            if str(node.get_rt_info()["layerType"].value) in ("Convolution", "FullyConnected")
        }
    )
    inputs = sample(model, batch)
    if mode == "online":
        request = compiled.create_infer_request()
        workload.measure(lambda: request.infer(inputs), seconds, kernels=kernels)
        return
    queue = ov.AsyncInferQueue(compiled)

    def fill():
        for _request in range(len(queue)):
            queue.start_async(inputs)
        queue.wait_all()

    workload.measure(fill, seconds, batch * len(queue), kernels=kernels, requests=len(queue), batch=batch)


if __name__ == "__main__":
    if sys.argv[1] == "prepare":
        prepare(Path(sys.argv[2]))
    else:
        infer(Path(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5], float(sys.argv[6]))
