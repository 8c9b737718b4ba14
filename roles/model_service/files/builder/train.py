# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Quantization-aware training of the role's example, to copy from: train.py [--epochs 30] DIRECTORY

DIRECTORY is what example.py wrote. NNCF puts fake quantization into the same network in PyTorch, which is then trained on with it; DIRECTORY/trained.xml is
the INT8 model. The gate judges that as any other, by an entry of model_service_models such as

    {name: digits, method: trained, source: DIRECTORY/digits.xml, trained: DIRECTORY/trained.xml, validation: DIRECTORY/validation.npz}

Needs the environment of model_service_torch, and a C++ compiler, with which NNCF makes its kernels once.
https://docs.openvino.ai/2026/openvino-workflow/model-optimization-guide/compressing-models-during-training/quantization-aware-training.html
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nncf
import openvino as ov
import torch
from example import digits
from torch import nn


class Network(nn.Module):
    """The example's two convolutions and its classifier, with the weights of the OpenVINO model in `path`."""

    def __init__(self, path):
        super().__init__()
        arrays = [node.data for node in ov.Core().read_model(path).get_ordered_ops() if node.get_type_name() == "Constant"]
        first, second = sorted((it for it in arrays if it.ndim == 4), key=len)
        matrix = next(it for it in arrays if it.ndim == 2 and len(it) > it.shape[1] > 1)
        bias = next(it for it in arrays if it.size == matrix.shape[1])
        self.first = nn.Conv2d(1, len(first), 3, padding=1, bias=False)
        self.second = nn.Conv2d(len(first), len(second), 3, stride=2, padding=1, bias=False)
        self.last = nn.Linear(*matrix.shape)
        with torch.no_grad():
            for parameter, array in zip(self.parameters(), (first, second, matrix.T, bias.reshape(-1))):
                parameter.copy_(torch.from_numpy(array.copy()))

    def forward(self, image):
        return self.last(torch.relu(self.second(torch.relu(self.first(image)))).flatten(1))


def train(network, images, labels, epochs):
    """Train with Adam, slower and slower."""
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for epoch in range(epochs):
        network.train()
        for rows in torch.randperm(len(images)).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimizer.step()
        schedule.step()
        network.eval()
        with torch.no_grad():
            print(f"epoch {epoch + 1} of {epochs}: {(network(images).argmax(1) == labels).float().mean():.4f} of the training data", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("directory", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    # The layers are too small to share among threads.
    torch.set_num_threads(1)
    (images, labels), _validation = ((torch.from_numpy(it) for it in part) for part in digits())
    network = Network(options.directory / "digits.xml").eval()
    quantized = nncf.quantize(network, nncf.Dataset(list(images[:300].split(1))), preset=nncf.QuantizationPreset.MIXED)
    train(quantized, images, labels, options.epochs)
    model = ov.convert_model(quantized, example_input=images[:1], input=("image", [-1, 1, 8, 8]))
    ov.save_model(model, options.directory / "trained.xml", compress_to_fp16=False)


if __name__ == "__main__":
    main()
