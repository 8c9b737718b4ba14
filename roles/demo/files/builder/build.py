# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Embed a corpus, train a ranker on what is recalled from it, and write both: build.py MINILM.xml DIRECTORY

MINILM.xml is the embedding model as it will be served, an OpenVINO IR; DIRECTORY has corpus.json and tokenizer.json.
Written there, always the same for the same input:

vectors.npy             FP32 [packages, 384], the packages' embeddings, of length 1
ranker.xml, ranker.bin  the ranker, OpenVINO IR: `deep` FP32, `section` INT64 and `wide` INT64 [100, ...] as page/features.py says, to `score` FP32 [100, 1]
calibration.npz, validation.npz     pairs of queries and packages; of the held out queries those of the validation, with labels
trained.json            what ranking brings on the held out queries, in FP32
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset13 as op
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "page"))
import ranker
from features import BUCKETS, TAGS, WORDS, Features, passage

RECALLED, LONGEST_TEXT = 100, 64
# A query's right package and so many others that were recalled for it are learned from.
CANDIDATES = 50
BATCH = 16


def say(text):
    print(text, file=sys.stderr, flush=True)


def embed(model, tokenizer, texts):
    """Return the embeddings FP32 [texts, 384]. Texts of about the same length go together, so that little is padding."""
    tokenizer.enable_truncation(LONGEST_TEXT)
    tokenizer.no_padding()
    tokens = [encoded.ids for encoded in tokenizer.encode_batch(texts)]
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "THROUGHPUT"})
    vectors = np.empty((len(texts), compiled.outputs[0].partial_shape[1].get_length()), np.float32)
    queue = ov.AsyncInferQueue(compiled)
    queue.set_callback(lambda request, rows: vectors.__setitem__(rows, request.get_output_tensor(0).data))
    order = sorted(range(len(texts)), key=lambda row: (len(tokens[row]), row))
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        ids = np.zeros((len(rows), len(tokens[rows[-1]])), np.int64)
        mask = np.zeros_like(ids)
        for line, row in enumerate(rows):
            ids[line, : len(tokens[row])] = tokens[row]
            mask[line, : len(tokens[row])] = 1
        queue.start_async({"input_ids": ids, "attention_mask": mask}, rows)
        if start // BATCH % 100 == 0:
            say(f"embedded {start} of {len(order)} texts")
    queue.wait_all()
    return vectors


def graph(parameters):
    """Return the ranker as an OpenVINO model for as many packages as are recalled.

    Not for any number: quantization then calibrates with one package at a time, averages their ranges, and clips most of them.
    """

    def constant(value, dtype=np.float32):
        return op.constant(np.asarray(value, dtype))

    def dense(node, number):
        return op.add(op.matmul(node, constant(parameters[f"w{number}"]), False, False), constant(parameters[f"b{number}"]))

    axis = constant(0, np.int64)
    deep = op.parameter(ov.PartialShape([RECALLED, len(parameters["w1"]) - ranker.SECTION_WIDTH]), np.float32, name="deep")
    section = op.parameter(ov.PartialShape([RECALLED, 1]), np.int64, name="section")
    wide = op.parameter(ov.PartialShape([RECALLED, WORDS * (1 + TAGS)]), np.int64, name="wide")
    kind = op.squeeze(op.gather(constant(parameters["sections"]), section, axis), constant([1], np.int64))
    node = op.concat([deep, kind], 1)
    for number in (1, 2):
        node = op.relu(dense(node, number))
    remembered = op.reduce_sum(op.gather(constant(parameters["wide"]), wide, axis), constant([1], np.int64), True)
    score = op.add(op.matmul(node, constant(parameters["w3"]), False, False), remembered)
    inputs = {"deep": deep, "section": section, "wide": wide}
    model = ov.Model([op.result(score)], list(inputs.values()), "ranker")
    for port, name in zip(model.inputs, inputs):
        port.set_names({name})
    model.outputs[0].set_names({"score"})
    return model


def order_of(scores, right):
    """Return (mean reciprocal rank, share among the first ten) of the candidates `right` [queries, n] by their scores [queries, n]."""
    found = np.take_along_axis(right, np.argsort(-scores, axis=1, kind="stable"), 1)
    rank = np.where(found.any(1), found.argmax(1) + 1, np.inf)
    return {"mrr": round(float(np.mean(1 / rank)), 4), "hit10": round(float(np.mean(rank <= 10)), 4)}


def main(minilm, directory):
    directory = Path(directory)
    made = json.loads((directory / "corpus.json").read_text(encoding="utf-8"))
    packages, queries = made["packages"], made["queries"]
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    vectors = embed(minilm, tokenizer, [passage(package) for package in packages] + [query["text"] for query in queries])
    vectors, asked = vectors[: len(packages)], vectors[len(packages) :]
    np.save(directory / "vectors.npy", vectors)

    # Every package is compared here; the service's recall is measured with the page.
    near = asked @ vectors.T
    places = np.argsort(-near, axis=1, kind="stable")[:, :RECALLED]
    near = np.take_along_axis(near, places, 1)
    right = places == np.array([query["package"] for query in queries])[:, None]
    held_out = np.array([query["held_out"] for query in queries])
    features = Features(packages)
    random = np.random.default_rng(0)

    def inputs(rows, chosen):
        """Return {input: [rows, candidates, ...]} for the chosen candidates [candidates] of each row."""
        parts = [
            {name: array[picked] for name, array in features.of(queries[row]["text"], places[row], near[row]).items()} for row, picked in zip(rows, chosen)
        ]
        return {name: np.stack([part[name] for part in parts]) for name in ranker.PARTS}

    learned = np.flatnonzero(~held_out & right.any(1))
    others = [random.permutation(np.flatnonzero(~right[row]))[: min(CANDIDATES, places.shape[1]) - 1] for row in learned]
    chosen = [np.concatenate([[right[row].argmax()], picked]) for row, picked in zip(learned, others)]
    training = inputs(learned, chosen)
    say(f"training on {len(learned)} queries with {training['deep'].shape[1]} packages each")
    parameters = ranker.train(training, np.zeros(len(learned), np.int64), len(features.sections), BUCKETS, log=say)

    judged = np.flatnonzero(held_out)
    unseen = inputs(judged, [np.arange(places.shape[1])] * len(judged))
    flat = {name: array.reshape(-1, array.shape[2]) for name, array in unseen.items()}
    scores = ranker.forward(parameters, flat)[0].reshape(len(judged), -1)
    result = {
        "packages": len(packages), "learned": len(learned), "held_out": len(judged), "recalled": round(float(right[judged].any(1).mean()), 4),
        "recall": order_of(near[judged], right[judged]), "ranked": order_of(scores, right[judged]),
    }  # fmt: skip
    pairs = random.permutation(training["deep"].shape[0] * training["deep"].shape[1])[: 10 * RECALLED]
    np.savez(directory / "calibration.npz", **{name: array.reshape(-1, array.shape[2])[pairs] for name, array in training.items()})
    # All that is right, and one in fifty of the rest.
    kept = np.flatnonzero(right[judged].ravel() | (random.random(right[judged].size) < 0.02))
    np.savez(directory / "validation.npz", **{name: array[kept] for name, array in flat.items()}, labels=right[judged].ravel()[kept].astype(np.int64))
    (directory / "trained.json").write_text(json.dumps(result))
    # The model last: who finds it finds the rest too.
    ov.save_model(graph(parameters), directory / "ranker.xml", compress_to_fp16=False)
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
