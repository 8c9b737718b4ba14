# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How large the integers of a model's inputs may be, so that OpenVINO computes with them rightly.

OpenVINO's CPU plugin turns 64-bit integers (and unsigned 32-bit ones) into signed 32-bit ones, and what goes beyond wraps or saturates without a word. Many
operations compute even those in FP32, which holds integers up to 2^24: x % 1000, x / 3 and x == 16777217 among them. Here ranges are followed
from the inputs through the model's arithmetic: an input gets the largest power of two with which nothing leaves what an operation computes in.
"""

from __future__ import annotations

import math

WIDE = ("i64", "u64", "u32")
# An int32 that wraps does so in the model's source as well.
FOLLOWED = (*WIDE, "i32")
LOW, HIGH = -(1 << 31), (1 << 31) - 1
IN_FP32 = 1 << 24
# Elements that a sum is taken to have where the model does not tell.
MANY = 1 << 20
# What these make are sizes and places in tensors.
INDICES = ("ShapeOf", "NonZero", "TopK", "Unique", "NonMaxSuppression", "MulticlassNms", "MatrixNms", "SearchSorted", "Bucketize")
LARGEST_SIZE = 1 << 24
# What these give are numbers of their first input; the others say which.
SAME = ("Gather", "GatherND", "GatherElements", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Slice", "StridedSlice", "Tile", "Broadcast", "Split",
        "VariadicSplit", "Convert")  # fmt: skip
# What OpenVINO 2026.4.1 computes in 32-bit integers, as tests/models/test_values.py measures; all others count as FP32.
EXACT = {*SAME, *INDICES, "Parameter", "Result", "Constant", "Add", "Subtract", "Multiply", "Maximum", "Minimum", "Abs", "Negative", "Select", "CumSum",
         "SquaredDifference", "ReduceProd", "Concat", "Pad", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot", "BitwiseLeftShift", "BitwiseRightShift",
         "ScatterUpdate", "OneHot"}  # fmt: skip


class Beyond(Exception):
    """An operation leaves what it computes in however small the inputs are."""


def limits(model):
    """Return {name of an input: (least, largest)} for the inputs of an OpenVINO model that it computes with in 32 bits; Beyond when there is no such range."""
    bits = {parameter.get_friendly_name(): 31 for parameter in model.get_parameters() if parameter.get_output_element_type(0).to_string() in FOLLOWED}
    if not bits:
        return {}
    nodes = model.get_ordered_ops()
    while True:
        culprit = first_beyond(nodes, bits)
        if culprit is None:
            break
        name, sources = culprit
        if not any(bits[source] for source in sources):
            raise Beyond(f"its operation {name} makes larger integers than OpenVINO's CPU plugin computes there (32 bits, or 24 in FP32)")
        for source in sources:
            bits[source] = max(bits[source] - 1, 0)
    found = {}
    for port in model.inputs:
        node = port.get_node().get_friendly_name()
        if node in bits:
            kind = port.get_element_type().to_string()
            if kind == "i32" and bits[node] == 31:
                continue
            low = -(1 << bits[node]) if kind.startswith("i") else 0
            found[port.get_any_name()] = (low, (1 << bits[node]) - 1)
    return found


def division_by_input(model):
    """Return the name of an operation that divides integers by what comes from an input, or None: a zero there ends OpenVINO's process (SIGFPE)."""
    given = set()  # (node, output) of what is computed of an input's values
    for node in model.get_ordered_ops():
        kind, name = node.get_type_name(), node.get_friendly_name()
        if kind in ("Divide", "Mod", "FloorMod") and node.get_output_element_type(0).is_integral() and sources(node)[1] in given:
            return f"{name} ({kind})"
        if kind == "Parameter" or (kind != "ShapeOf" and any(it in given for it in sources(node))):
            given.update((name, output) for output in range(node.get_output_size()))
    return None


def first_beyond(nodes, bits):
    """Return (name, inputs that it comes from) of the first operation that leaves what it computes in, with inputs of so many bits; None when none does."""
    ranges = {}  # (node, output): (least, largest, the inputs' names)
    for node in nodes:
        kind, name = node.get_type_name(), node.get_friendly_name()
        read = [ranges[it] for it in sources(node) if it in ranges]
        tainted = frozenset().union(*(it[2] for it in read))
        if tainted and kind not in EXACT and any(low < -IN_FP32 or high > IN_FP32 for low, high, _tainted in read):
            return f"{name} ({kind})", tainted
        for output in range(node.get_output_size()):
            of_type, key = node.get_output_element_type(output).to_string(), (name, output)
            if kind == "Parameter":
                if name in bits:
                    ranges[key] = (-(1 << bits[name]) if of_type.startswith("i") else 0, (1 << bits[name]) - 1, frozenset([name]))
            elif of_type == "boolean":
                # What it was made of counts no more.
                ranges[key] = (0, 1, tainted)
            elif of_type not in FOLLOWED:
                continue
            elif kind == "Constant":
                data = node.data
                ranges[key] = (int(data.min()), int(data.max()), frozenset()) if data.size else (0, 0, frozenset())
            elif kind in INDICES:
                ranges[key] = (0, LARGEST_SIZE, frozenset())
            else:
                given = [ranges.get(it, (LOW, HIGH, frozenset())) for it in sources(node)]
                least, largest = span(node, kind, given) if given else (LOW, HIGH)
                low, high = (LOW, HIGH) if kind in EXACT else (-IN_FP32, IN_FP32)
                if tainted and (least < low or largest > high) and (of_type in WIDE or kind not in EXACT):
                    return f"{name} ({kind})", tainted
                # What no input's integers reach is sizes and constants.
                ranges[key] = (max(least, LOW), min(largest, HIGH), tainted)
    return None


def sources(node):
    """Return the keys of what a node reads."""
    return [(value.get_node().get_friendly_name(), value.get_index()) for value in node.input_values()]


def span(node, kind, given):
    """Return the range of a node's integers out of those of its inputs."""
    low, high, _tainted = given[0]
    if kind == "Add":
        return low + given[1][0], high + given[1][1]
    if kind == "Subtract":
        return low - given[1][1], high - given[1][0]
    if kind in ("Minimum", "Maximum"):
        choose = min if kind == "Minimum" else max
        return choose(low, given[1][0]), choose(high, given[1][1])
    if kind in ("Multiply", "MatMul"):
        corners = [one * other for one in (low, high) for other in given[1][:2]]
        count = 1 if kind == "Multiply" else elements(node.input(0))
        return count * min(corners), count * max(corners)
    if kind == "SquaredDifference":
        return 0, max(abs(low - given[1][1]), abs(high - given[1][0])) ** 2
    if kind == "Power":
        return -(max(abs(low), abs(high), 2) ** min(max(given[1][1], 1), 64)), max(abs(low), abs(high), 2) ** min(max(given[1][1], 1), 64)
    if kind == "Negative":
        return -high, -low
    if kind == "Abs":
        return (low, high) if low >= 0 else (0, max(-low, high))
    if kind in ("ReduceSum", "ReduceL1", "CumSum"):
        largest = elements(node.input(0)) * max(abs(low), abs(high))
        return (-largest, largest) if low < 0 and kind != "ReduceL1" else (0, largest)
    if kind in ("ReduceProd", "ReduceL2", "ReduceSumSquare"):
        largest = max(abs(low), abs(high)) ** (min(elements(node.input(0)), 64) if kind == "ReduceProd" and max(abs(low), abs(high)) > 1 else 2)
        return -largest, largest
    if kind == "BitwiseLeftShift":
        return min(low, 0) << min(max(given[1][1], 0), 64), max(high, 0) << min(max(given[1][1], 0), 64)
    if kind == "FloorMod":
        return min(given[1][0] + 1, 0), max(given[1][1] - 1, 0)
    if kind == "Mod":
        most = max(abs(given[1][0]), abs(given[1][1]))
        return max(-most, min(low, 0)), min(most, max(high, 0))
    if kind in SAME:
        return low, high
    if kind == "OneHot":
        return min(given[2][0], given[3][0]), max(given[2][1], given[3][1])
    # No other makes a number larger than all that it reads.
    return min(it[0] for it in given), max(it[1] for it in given)


def elements(port):
    """Return how many elements an input of a node has, at most; MANY where that is free."""
    shape = port.get_partial_shape()
    if shape.is_dynamic:
        return MANY
    # Beyond this a power of two is beyond all that is looked for.
    return min(math.prod(shape.to_shape()), MANY)
