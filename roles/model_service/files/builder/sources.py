# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sources of models: which files they are, and how they are read."""

from __future__ import annotations

import hashlib
import mmap
import os
import re

import numpy as np
from data import mapped
from metrics import Unusable


def external(path):
    """Return the files that an ONNX model keeps tensors in, beside it.

    They are found by their entry `location` in the protocol buffer (StringStringEntryProto of TensorProto.external_data):
    https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
    """
    found, folder = set(), os.path.dirname(os.path.abspath(path))
    with open(path, "rb") as stream:
        if not os.fstat(stream.fileno()).st_size:
            return []
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as raw:
            for match in re.finditer(rb"\x0a\x08location\x12([\x80-\xff]*[\x00-\x7f])", raw):
                length = sum((byte & 127) << 7 * place for place, byte in enumerate(match[1]))
                name = os.path.join(folder, os.fsdecode(raw[match.end() : match.end() + min(length, 4096)]))
                if "\0" not in name and os.path.isfile(name):
                    found.add(name)
    return sorted(found)


def files_of(path):
    """Return all files that are read where `path` is given: a directory's (a SavedModel), an IR's weights, an ONNX model's external data."""
    if os.path.isdir(path):
        return sorted(os.path.join(top, name) for top, _directories, files in os.walk(path, followlinks=True) for name in files)
    if path.endswith(".xml"):
        return [path, path[:-4] + ".bin"]
    if path.endswith(".onnx"):
        return [path, *external(path)]
    return [path]


def file_digest(path):
    """Return the SHA-256 of all files of `path`, with their names and sizes."""
    total = hashlib.sha256()
    for name in files_of(path):
        if not os.path.exists(name):
            raise Unusable(f"{name} does not exist")
        total.update(f"{os.path.relpath(name, path)}\0{os.path.getsize(name)}\0".encode())
        with open(name, "rb") as stream:
            for block in iter(lambda: stream.read(1 << 20), b""):
                total.update(block)
    return total.hexdigest()


def name_of(port):
    """Return the name of a model's input or output; one that the source left without a name has that of its node."""
    return port.get_any_name() if port.get_names() else port.get_node().get_friendly_name()


def read_model(path, calibration):
    """Return the OpenVINO model of `path`: ONNX, OpenVINO IR, TensorFlow SavedModel or TFLite, or PyTorch (torch.export, TorchScript)."""
    import openvino as ov

    try:
        if path.endswith(".xml"):
            return name_ports(ov.Core().read_model(path))
        if not path.endswith((".pt2", ".pt", ".pth", ".ts")):
            return name_ports(ov.convert_model(path))
        try:
            import torch
        except ImportError:
            raise Unusable(f"{path} is a PyTorch model, and this environment has no PyTorch: set model_service_torch") from None
        if path.endswith(".pt2"):
            return name_ports(ov.convert_model(torch.export.load(path)))
        if not calibration:
            raise Unusable(f"{path}: TorchScript does not tell its inputs' shapes; give calibration data, or export it with torch.export")
        example = [torch.from_numpy(np.array(array[:1])) for array in mapped(calibration).values()]
        return name_ports(ov.convert_model(torch.jit.load(path, map_location="cpu"), example_input=tuple(example)))
    except Unusable:
        raise
    except Exception as error:
        raise Unusable(f"{path} cannot be read as a model: {str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__}") from None


def name_ports(model):
    """Give every input and output a name, which the protocol needs."""
    for ports in (model.inputs, model.outputs):
        for port in ports:
            if not port.get_names():
                port.set_names({name_of(port)})
    return model
