# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Proof of TensorFlow: an INT8 convolution on oneDNN, and its exact result. It holds for tensorflow-cpu and for intel-tensorflow."""

from __future__ import annotations

import os

import ainode_proof as proof


def measure(int8):
    """Return the seconds of one convolution on one thread, and whether the INT8 result is right."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import numpy as np
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    random = np.random.default_rng(0)
    weights = random.integers(-127, 128, (3, 3, 128, 128), dtype=np.int8)
    image = tf.constant(random.integers(0, 256, (1, 28, 28, 128), dtype=np.uint8))
    image_f32, weights_f32 = tf.cast(image, tf.float32), tf.cast(weights, tf.float32)

    @tf.function
    def convolve_f32():
        return tf.nn.conv2d(image_f32, weights_f32, 1, "SAME")

    @tf.function
    def convolve_int8():
        # The filter must be a constant of the graph for oneDNN's kernel to take it.
        product, _low, _high = tf.raw_ops.QuantizedConv2DPerChannel(
            input=tf.bitcast(image, tf.quint8),
            filter=tf.constant(weights.view(tf.qint8.as_numpy_dtype), tf.qint8),
            min_input=0.0,
            max_input=255.0,
            min_filter=tf.fill([128], -127.0),
            max_filter=tf.fill([128], 127.0),
            strides=[1, 1, 1, 1],
            padding="SAME",
            out_type=tf.qint32,
        )
        return tf.bitcast(product, tf.int32)

    if not int8:
        return {"seconds": proof.best_seconds(convolve_f32)}
    exact = tf.nn.conv2d(tf.cast(image, tf.float64), tf.cast(weights, tf.float64), 1, "SAME").numpy()
    return {"seconds": proof.best_seconds(convolve_int8), "exact": bool((convolve_int8().numpy() == exact).all())}


if __name__ == "__main__":
    proof.main(lambda: proof.run(measure, proof.ONEDNN_NAMES, verbose=True))
