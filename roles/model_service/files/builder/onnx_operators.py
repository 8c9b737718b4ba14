# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Operators of ONNX that OpenVINO 2026.4.1 converts without a word and then computes otherwise than ONNX says: refused by name.

What is here answered with other numbers in the ONNX backend suite (tests/models/onnx_suite.py --without-list shows whether it still does). Reads a ModelProto
by its fields alone, and needs no package.
"""

from __future__ import annotations


def attributes(node):
    """Return {name: integer, float or text} of a node's attributes that are one value."""
    return {it.name: it.s.decode() if it.s else it.i or it.f for it in node.attribute}


def has_input(node, place):
    """Whether an optional input is given."""
    return len(node.input) > place and bool(node.input[place])


RANDOM = "its numbers are others than those of its seed"
ALWAYS = {
    **dict.fromkeys(("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"), RANDOM),
    "Attention": "windows, masks and caches are computed otherwise",
    "BitShift": "negative numbers and large shifts come out otherwise",
    "DFT": "lengths and axes come out otherwise",
    "NonMaxSuppression": "another choice of boxes is made",
}
POOLS = ("AveragePool", "MaxPool", "LpPool")
RECURRENT = ("RNN", "GRU", "LSTM")


def why(node):
    """Return why a node would be computed otherwise, or ""."""
    kind, given = node.op_type, attributes(node)
    if node.domain not in ("", "ai.onnx"):
        return ""
    if kind in ALWAYS:
        return ALWAYS[kind]
    if kind in POOLS and given.get("ceil_mode"):
        return "its ceil_mode counts other windows"
    if kind in RECURRENT and given.get("layout"):
        return "its layout 1 is read as 0"
    if kind == "LSTM" and has_input(node, 7):
        return "its peepholes are left out"
    if kind == "SpaceToDepth" and given.get("mode") == "CRD":
        return "its mode CRD is read as DCR"
    if kind == "RoiAlign" and given.get("mode") == "max":
        return "its mode max takes other points"
    if kind == "Resize":
        if given.get("coordinate_transformation_mode") == "align_corners" and has_input(node, 2):
            return "its align_corners with scales takes other points"
        for name in ("antialias", "exclude_outside"):
            if given.get(name):
                return f"its {name} is left out"
        if given.get("keep_aspect_ratio_policy", "stretch") != "stretch":
            return "its keep_aspect_ratio_policy is left out"
    return ""


def nodes(graph):
    """Yield the nodes of a graph and of the graphs within."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from nodes(inner)


def refusals(model):
    """Return a sentence for each node of an ONNX model that OpenVINO would compute otherwise; an empty list when there is none."""
    found = []
    for part in (model.graph, *model.functions):
        inputs = {it if isinstance(it, str) else it.name for it in part.input} - {it.name for it in getattr(part, "initializer", ())}
        for node in nodes(part):
            reason = why(node)
            if node.op_type == "Tile" and node.input[1] in inputs:
                reason = "repeats that a client sends are not followed"
            if reason:
                found.append(f"the operator {node.op_type}{f' ({node.name})' if node.name else ''} is not served: in OpenVINO {reason}")
    return found
