# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Wide & Deep ranker (https://arxiv.org/abs/1606.07792; the guide's chapter on Wide & Deep), in numpy: small enough to need no framework.

The score of a query and a package is the sum of two parts that are trained together, by one loss:
wide    a weight for each crossed feature (query word x section, query word x tag): it remembers
deep    a network of two hidden layers over numbers (how near the embeddings are, which words both have) and a learned embedding of the section:
        it generalises
"""

from __future__ import annotations

import numpy as np

HIDDEN = (64, 32)
SECTION_WIDTH = 8
PARTS = ("deep", "section", "wide")


def initial(deep, sections, buckets, seed=0):
    """Return the parameters {name: array} for so many deep features, sections and buckets."""
    random = np.random.default_rng(seed)
    first, second = HIDDEN
    width = deep + SECTION_WIDTH

    def normal(*shape):
        return random.standard_normal(shape) * np.sqrt(2 / shape[0])

    return {
        "sections": random.standard_normal((sections, SECTION_WIDTH)) * 0.1,
        "w1": normal(width, first), "b1": np.zeros(first), "w2": normal(first, second), "b2": np.zeros(second), "w3": normal(second, 1) * 0.1,
        "wide": np.zeros(buckets),
    }  # fmt: skip


def forward(parameters, inputs):
    """Return the scores [n] for `inputs` (deep [n, d], section [n, 1], wide [n, slots]), and what backward() needs."""
    x = np.concatenate([inputs["deep"], parameters["sections"][inputs["section"][:, 0]]], 1)
    h1 = np.maximum(x @ parameters["w1"] + parameters["b1"], 0)
    h2 = np.maximum(h1 @ parameters["w2"] + parameters["b2"], 0)
    return (h2 @ parameters["w3"])[:, 0] + parameters["wide"][inputs["wide"]].sum(1), (x, h1, h2)


def backward(parameters, inputs, between, slope):
    """Return {name: gradient} for the loss's slope [n] at the scores."""
    x, h1, h2 = between
    g2 = slope[:, None] * parameters["w3"][:, 0] * (h2 > 0)
    g1 = (g2 @ parameters["w2"].T) * (h1 > 0)
    gx = g1 @ parameters["w1"].T
    sections = np.zeros_like(parameters["sections"])
    np.add.at(sections, inputs["section"][:, 0], gx[:, inputs["deep"].shape[1] :])
    wide = np.bincount(inputs["wide"].ravel(), np.repeat(slope, inputs["wide"].shape[1]), len(parameters["wide"]))
    wide[0] = 0  # no feature
    return {
        "sections": sections, "w1": x.T @ g1, "b1": g1.sum(0), "w2": h1.T @ g2, "b2": g2.sum(0), "w3": h2.T @ slope[:, None], "wide": wide,
    }  # fmt: skip


def loss(scores, right):
    """Return the cross entropy of softmax(scores [queries, candidates]) with the candidate `right` [queries], and its slope at the scores."""
    shares = np.exp(scores - scores.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    rows = np.arange(len(scores))
    value = -np.log(np.maximum(shares[rows, right], 1e-30)).mean()
    shares[rows, right] -= 1
    return value, shares / len(scores)


def train(inputs, right, sections, buckets, epochs=6, batch=64, rate=2e-3, decay=1e-4, seed=0, log=lambda _line: None):
    """Return the parameters learned from `inputs` {name: [queries, candidates, ...]} whose right candidates are `right` [queries].

    Adam for the deep part, AdaGrad for the wide one, as the paper has it but for the linear part's FTRL.
    """
    parameters = initial(inputs["deep"].shape[2], sections, buckets, seed)
    random = np.random.default_rng(seed)
    first = {name: np.zeros_like(value) for name, value in parameters.items()}
    second = {name: np.zeros_like(value) for name, value in parameters.items()}
    step = 0
    for epoch in range(epochs):
        total, order = 0.0, random.permutation(len(right))
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            part = {name: inputs[name][rows].reshape(-1, inputs[name].shape[2]) for name in PARTS}
            scores, between = forward(parameters, part)
            value, slope = loss(scores.reshape(len(rows), -1), right[rows])
            total += value * len(rows)
            step += 1
            for name, gradient in backward(parameters, part, between, slope.ravel()).items():
                if name == "wide":
                    second[name] += gradient**2
                    parameters[name] -= rate * gradient / (np.sqrt(second[name]) + 1e-8)
                    continue
                first[name] += 0.1 * (gradient - first[name])
                second[name] += 0.001 * (gradient**2 - second[name])
                grown = rate * (first[name] / (1 - 0.9**step)) / (np.sqrt(second[name] / (1 - 0.999**step)) + 1e-8)
                parameters[name] -= grown + rate * decay * parameters[name]
        log(f"epoch {epoch + 1} of {epochs}: loss {total / len(order):.4f}")
    return parameters
