# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the example's network as ONNX, in two environments since no one of them has both packages.

digits_onnx.py weights digits.xml WEIGHTS.npz     with openvino: its constants
digits_onnx.py model WEIGHTS.npz digits.onnx      with onnx: the network around them
"""

import sys

import numpy as np

kind, source, target = sys.argv[1:]
if kind == "weights":
    import openvino as ov

    constants = [node.data for node in ov.Core().read_model(source).get_ordered_ops() if node.get_type_name() == "Constant"]
    kernels = [it for it in constants if it.ndim == 4]
    matrix = next(it for it in constants if it.ndim == 2 and it.shape[1] == 10 and it.shape[0] > 10)
    bias = next(it for it in constants if it.size == 10)
    np.savez(target, first=min(kernels, key=np.size), second=max(kernels, key=np.size), matrix=matrix, bias=bias.reshape(10))
else:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    with np.load(source) as file:
        constants = [numpy_helper.from_array(file[name].astype(np.float32), name) for name in file.files]
    nodes = [
        helper.make_node("Conv", ["image", "first"], ["a"], "first_layer", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], "first_relu"),
        helper.make_node("Conv", ["b", "second"], ["c"], "second_layer", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["d"], "second_relu"),
        helper.make_node("Flatten", ["d"], ["e"], "flatten"),
        helper.make_node("Gemm", ["e", "matrix", "bias"], ["scores"], "last_layer"),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, 8, 8])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 10])
    graph = helper.make_graph(nodes, "digits", [image], [scores], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), target)
