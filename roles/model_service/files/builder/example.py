# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the role's example, a small convolutional network that reads scikit-learn's handwritten digits: example.py [--scale 400] DIRECTORY

digits.xml, digits.bin  the network, OpenVINO IR: `image` FP32 [n, 1, 8, 8] to `scores` FP32 [n, 10]. Trained here in a second without a framework: two
                        convolutions with random kernels and a ridge classifier on what they give (0.99 of 540 digits)
calibration.npz         300 digits
validation.npz          540 others, with labels

With --scale every other channel between the convolutions is that many times as large, and the next kernels undo it: FP32 does not notice, and one INT8 scale
for all channels cannot hold them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset13 as op
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier

CHANNELS = (32, 64)


def network(kernels, scale, tail):
    """Return a model of two convolutions with ReLU over [n, 1, 8, 8], `scale` [channels] between them; `tail` makes its output of the flattened result."""
    image = op.parameter(ov.PartialShape([-1, 1, 8, 8]), np.float32, name="image")
    first, second = kernels
    node = op.relu(op.convolution(image, op.constant(first * scale[:, None, None, None]), [1, 1], [1, 1], [1, 1], [1, 1]))
    node = op.relu(op.convolution(node, op.constant(second / scale[None, :, None, None]), [2, 2], [1, 1], [1, 1], [1, 1]))
    model = ov.Model([op.result(tail(op.reshape(node, op.constant(np.int64([0, -1])), True)))], [image], "digits")
    model.inputs[0].set_names({"image"})
    model.outputs[0].set_names({"scores"})
    return model


def digits():
    """Return ((images [n, 1, 8, 8] from 0 to 1, labels [n]) to train with, the same to validate with)."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = (images / 16).reshape(-1, 1, 8, 8).astype(np.float32)[order], labels[order]
    return (images[:1257], labels[:1257]), (images[1257:], labels[1257:])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1, help="how much larger every other channel is")
    parser.add_argument("directory", type=Path)
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    (images, labels), (others, their_labels) = digits()
    random = np.random.default_rng(1)
    shapes = (CHANNELS[0], 1, 3, 3), (CHANNELS[1], CHANNELS[0], 3, 3)
    kernels = [(random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32) for shape in shapes]
    features = ov.Core().compile_model(network(kernels, np.ones(CHANNELS[0], np.float32), lambda node: node), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    classifier = RidgeClassifier(alpha=1.0).fit(features(images)[0], labels)
    weights, bias = classifier.coef_.T.astype(np.float32), classifier.intercept_.astype(np.float32)
    scale = np.where(np.arange(CHANNELS[0]) % 2, options.scale, 1).astype(np.float32)
    model = network(kernels, scale, lambda node: op.add(op.matmul(node, op.constant(weights), False, False), op.constant(bias)))
    np.savez(options.directory / "calibration.npz", image=images[:300])
    np.savez(options.directory / "validation.npz", image=others, labels=their_labels)
    # The model last: who finds it finds the data too.
    ov.save_model(model, options.directory / "digits.xml", compress_to_fp16=False)


if __name__ == "__main__":
    main()
