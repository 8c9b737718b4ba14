# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the example's network in another framework's format: digits_as.py FORMAT SOURCE TARGET, each in an environment that has the framework.

weights      SOURCE digits.xml; TARGET an .npz file with the network's constants, the SOURCE of all other formats
onnx         an .onnx file
savedmodel   a directory
tflite       a .tflite file
pt2          of torch.export
torchscript  a .pt file of torch.jit
"""

import sys

import numpy as np


def as_weights(source, target):
    import openvino as ov

    constants = [node.data for node in ov.Core().read_model(source).get_ordered_ops() if node.get_type_name() == "Constant"]
    kernels = sorted((it for it in constants if it.ndim == 4), key=np.size)
    matrix = next(it for it in constants if it.ndim == 2 and it.shape[1] == 10 and it.shape[0] > 10)
    bias = next(it for it in constants if it.size == 10)
    np.savez(target, first=kernels[0], second=kernels[1], matrix=matrix, bias=bias.reshape(10))


def as_onnx(weights, target):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    constants = [numpy_helper.from_array(array, name) for name, array in weights.items()]
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


def tensorflow_network(weights):
    """Return the network as a function of TensorFlow; its images are channels first as everywhere here, and its convolutions channels last."""
    import tensorflow as tf

    first, second = (tf.constant(weights[name].transpose(2, 3, 1, 0)) for name in ("first", "second"))

    @tf.function(input_signature=[tf.TensorSpec([None, 1, 8, 8], tf.float32, name="image")])
    def network(image):
        node = tf.transpose(image, [0, 2, 3, 1])
        node = tf.nn.relu(tf.nn.conv2d(node, first, 1, "SAME"))
        node = tf.nn.relu(tf.nn.conv2d(node, second, 2, [[0, 0], [1, 1], [1, 1], [0, 0]]))
        node = tf.reshape(tf.transpose(node, [0, 3, 1, 2]), [-1, len(weights["matrix"])])
        return {"scores": tf.matmul(node, weights["matrix"]) + weights["bias"]}

    return tf, network


def as_savedmodel(weights, target):
    tf, network = tensorflow_network(weights)
    module = tf.Module()
    module.network = network
    tf.saved_model.save(module, target, signatures=network)


def as_tflite(weights, target):
    tf, network = tensorflow_network(weights)
    converted = tf.lite.TFLiteConverter.from_concrete_functions([network.get_concrete_function()]).convert()
    with open(target, "wb") as file:
        file.write(converted)


def torch_network(weights):
    """Return (torch, the network as a module)."""
    import torch

    channels = [weights["first"].shape[0], weights["second"].shape[0]]
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(1, channels[0], 3, padding=1, bias=False), torch.nn.ReLU(),
        torch.nn.Conv2d(channels[0], channels[1], 3, 2, padding=1, bias=False), torch.nn.ReLU(),
        torch.nn.Flatten(), torch.nn.Linear(*weights["matrix"].shape),
    )  # fmt: skip
    state = {"0.weight": weights["first"], "2.weight": weights["second"], "5.weight": weights["matrix"].T.copy(), "5.bias": weights["bias"]}
    layers.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    return torch, layers.eval()


def as_pt2(weights, target):
    torch, network = torch_network(weights)
    shapes = ({0: torch.export.Dim("n")},)
    torch.export.save(torch.export.export(network, (torch.zeros(2, 1, 8, 8),), dynamic_shapes=shapes), target)


def as_torchscript(weights, target):
    torch, network = torch_network(weights)
    torch.jit.trace(network, torch.zeros(1, 1, 8, 8)).save(target)


def main(kind, source, target):
    if kind == "weights":
        as_weights(source, target)
        return
    with np.load(source) as file:
        weights = {name: file[name].astype(np.float32) for name in file.files}
    globals()[f"as_{kind}"](weights, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
