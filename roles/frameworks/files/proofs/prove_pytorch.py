# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Proof of PyTorch: an INT8 convolution through the operator that torch.compile puts in for a quantized one, and its exact result."""

from __future__ import annotations

import ainode_proof as proof

SHAPE = (1, 128, 28, 28)


def measure(int8):
    """Return the seconds of one convolution on one thread, and whether the INT8 result is right."""
    import torch

    torch.set_num_threads(1)
    random = torch.Generator().manual_seed(0)
    weights = torch.randint(-127, 128, (128, 128, 3, 3), dtype=torch.int8, generator=random)
    image = torch.randint(0, 256, SHAPE, dtype=torch.uint8, generator=random).contiguous(memory_format=torch.channels_last)
    around = {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "groups": 1}
    if not int8:
        image, weights = image.float(), weights.float()
        return {"seconds": proof.best_seconds(lambda: torch.nn.functional.conv2d(image, weights, None, **around))}
    ones, zeros = torch.ones(128), torch.zeros(128, dtype=torch.int64)
    packed = torch.ops.onednn.qconv_prepack(weights, ones, 1.0, 0, *around.values(), list(SHAPE))

    def convolve():
        return torch.ops.onednn.qconv_pointwise(image, 1.0, 0, packed, ones, zeros, None, *around.values(), 1.0, 0, torch.float32, "none", [], "")

    # Products of 255 and 127 in pairs overflow 16 bits: where there is no VNNI, oneDNN's INT8 kernels saturate.
    exact = torch.nn.functional.conv2d(image.double(), weights.double(), None, **around)
    worst = (convolve().double() - exact).abs().max() / exact.abs().max()
    return {"seconds": proof.best_seconds(convolve), "exact": worst.item() < 1e-6}


if __name__ == "__main__":
    proof.main(lambda: proof.run(measure, proof.ONEDNN_NAMES, verbose=True))
