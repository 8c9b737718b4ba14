# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Proof of Neural Compressor 3: it quantizes a convolution, close to FP32, and torch.compile makes an INT8 kernel of it.

A quantized PyTorch model runs in FP32 until torch.compile lowers it, which needs a C++ compiler and Python's headers on the node.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import sysconfig

import ainode_proof as proof


def quantize():
    """Print {"error": relative to FP32, "int8_over_fp32": speed once compiled, or null without a compiler}."""
    import torch
    from neural_compressor.torch.export import export
    from neural_compressor.torch.quantization import convert, get_default_static_config, prepare

    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(128, 128, 3, padding=1), torch.nn.ReLU()).eval()
    image = torch.rand(1, 128, 28, 28)
    with torch.no_grad():
        exact = model(image)
        prepared = prepare(export(model, example_inputs=(image,)), quant_config=get_default_static_config())
        prepared(image)
        quantized = convert(prepared)
        found = {"error": ((quantized(image) - exact).abs().max() / exact.abs().max()).item(), "int8_over_fp32": None}
        if shutil.which("g++") and os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
            from torch._inductor import config

            config.freezing = True
            fast = torch.compile(quantized)
            found["int8_over_fp32"] = proof.best_seconds(lambda: model(image)) / proof.best_seconds(lambda: fast(image))
    print("\n" + json.dumps(found), file=sys.stderr)


def main():
    if len(sys.argv) > 1:
        quantize()
        return
    found, said = proof.again("quantize", ONEDNN_VERBOSE="1", TORCHINDUCTOR_CACHE_DIR=os.getcwd())
    path = proof.int8_path()
    kernels = ", ".join(sorted(proof.onednn_kernels(said)))
    quality = f"quantized, {100 * found['error']:.1f} % off FP32"
    if found["error"] > 0.05:
        proof.say("fail", kernels or "no INT8 kernel", f"{quality} where 5 % is the most")
    if found["int8_over_fp32"] is None:
        proof.say("advice", "no INT8 kernel", f"{quality}; the model runs in FP32 until torch.compile has g++ and python3-dev on the node")
    speed = f"{quality}; compiled, INT8 {found['int8_over_fp32']:.1f} times as fast as FP32"
    if path == "none":
        proof.say("not_applicable", kernels or "no INT8 kernel", f"this processor has no INT8 instructions; {speed}: serve FP32 here")
    if proof.ONEDNN_NAMES[path] not in kernels:
        proof.say("fail", kernels or "no INT8 kernel", f"this processor has {path} and no kernel uses it; {speed}")
    proof.say("pass", kernels, speed)


if __name__ == "__main__":
    proof.main(main)
