# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The corpus, the features and the ranker by themselves."""

from __future__ import annotations

import json
import subprocess
import sys

import corpus
import numpy as np
import pytest
import ranker
from conftest import CHECKOUT
from features import BUCKETS, NUMBERS, TAGS, WORDS, Features, stems

PROGRAM = CHECKOUT / "roles/demo/files/builder/corpus.py"


@pytest.fixture
def small():
    """Inputs of the ranker for 12 queries with 5 packages each, and which package is right."""
    random = np.random.default_rng(1)
    inputs = {
        "deep": random.standard_normal((12, 5, 4)), "section": random.integers(0, 3, (12, 5, 1)), "wide": random.integers(0, 20, (12, 5, 6)),
    }  # fmt: skip
    return inputs, random.integers(0, 5, 12)


def flat(inputs):
    return {name: array.reshape(-1, array.shape[2]) for name, array in inputs.items()}


def test_the_gradient_is_that_of_the_loss(small):
    inputs, right = small
    parameters = ranker.initial(4, 3, 20)
    random = np.random.default_rng(2)
    # Weights away from zero, so that every part has a say.
    parameters = {name: value + 0.3 * random.standard_normal(value.shape) for name, value in parameters.items()}
    parameters["wide"][0] = 0

    def value():
        return ranker.loss(ranker.forward(parameters, flat(inputs))[0].reshape(12, 5), right)[0]

    scores, between = ranker.forward(parameters, flat(inputs))
    gradients = ranker.backward(parameters, flat(inputs), between, ranker.loss(scores.reshape(12, 5), right)[1].ravel())
    assert set(gradients) == set(parameters)
    for name, array in parameters.items():
        for place in random.integers(0 if name != "wide" else 1, array.size, 15):
            kept, step = array.flat[place], 1e-6
            array.flat[place] = kept + step
            above = value()
            array.flat[place] = kept - step
            below = value()
            array.flat[place] = kept
            assert gradients[name].flat[place] == pytest.approx((above - below) / (2 * step), abs=2e-6), name
    assert gradients["wide"][0] == 0


def test_both_parts_are_trained_together_and_always_the_same(small):
    inputs, right = small
    first, again = (ranker.train(inputs, right, 3, 20, epochs=30, batch=4, rate=1e-2) for _time in range(2))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    before = ranker.initial(4, 3, 20)
    assert all(not np.array_equal(first[name], before[name]) for name in first)
    value = ranker.loss(ranker.forward(first, flat(inputs))[0].reshape(12, 5), right)[0]
    assert value < 0.5 * np.log(5)


PACKAGES = [
    {"name": "editor", "synopsis": "edits photos", "text": "Colours and layers.", "section": "graphics", "size": 100, "users": 3, "tags": ["use::editing"]},
    {"name": "player", "synopsis": "plays music", "text": "Sound and photo covers.", "section": "sound", "size": 50, "users": 0, "tags": []},
    {"name": "chess", "synopsis": "a game", "text": "Kings and queens.", "section": "games", "size": 10, "users": 0, "tags": [f"game::{n}" for n in range(20)]},
]


def test_features_say_what_both_share():
    got = Features(PACKAGES).of("Photographs, and nothing known otherwise", np.array([1, 0, 2]), np.array([0.9, 0.5, 0.1]))
    numbers = dict(zip(NUMBERS, (got["deep"] / list(NUMBERS.values())).T))
    assert got["deep"].shape == (3, len(NUMBERS)) and got["deep"].dtype == np.float32
    assert numbers["cosine gap"] == pytest.approx([0, -0.4, -0.8], abs=1e-5)
    assert numbers["synopsis"][1] > 0 and numbers["synopsis"][0] == 0 and numbers["text"][0] > 0
    # "and" is in all three, and says nothing.
    assert (numbers["bm25"] > 0).tolist() == [True, True, False]
    assert got["section"].ravel().tolist() == [2, 1, 0]
    assert got["wide"].shape == (3, WORDS * (1 + TAGS)) and got["wide"].min() >= 0 and got["wide"].max() < BUCKETS
    nothing = Features(PACKAGES).of("qqqq", np.array([0, 1, 2]), np.array([0.3, 0.2, 0.1]))
    assert not nothing["wide"].any()


def test_words_are_cut_to_stems():
    assert stems("Photos, photographs; C and a 3D-game") == ["photo", "photo", "and", "3d", "game"]


def lists(directory, count):
    """Write package lists of `count` programs, a library and a documentation package."""
    packages, descriptions = [], []
    for number in range(count):
        name = f"tool{number}"
        packages.append(
            f"Package: {name}\nSection: utils\nInstalled-Size: {number}\nDepends: libtool1 (>= 2), tool0 | none\n"
            f"Description-md5: {number}\nTag: use::a,\n b::c\n"
        )
        descriptions.append(
            f"Package: {name}\nDescription-md5: {number}\nDescription-en: does thing number {number}\n The first sentence is about {number}.\n"
            f" With {name} people who need number {number} can do that much faster. It is the same sentence for all of them, everywhere.\n"
            " .\n * a list. Of things.\n"
        )
    packages.append("Package: libtool1\nSource: tool0\nSection: libs\nDescription-md5: l\n")
    packages.append("Package: tool0-doc\nSource: tool0\nSection: utils\nDescription-md5: d\n")
    (directory / "x_Packages").write_text("\n".join(packages))
    (directory / "x_Translation-en").write_text("\n".join(descriptions))


def test_a_corpus_of_package_lists(tmp_path):
    lists(tmp_path, 150)
    done = subprocess.run([sys.executable, PROGRAM, "--packages", "140", tmp_path, tmp_path / "corpus.json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "corpus.json").read_text())
    assert len(made["packages"]) == 140 and {package["section"] for package in made["packages"]} == {"utils"}
    for query in made["queries"]:
        package = made["packages"][query["package"]]
        assert package["name"] not in query["text"] and query["text"].startswith("With people who need")
        assert query["text"] not in package["text"] and "much faster" not in package["text"]
        assert package["tags"] == ["b::c", "use::a"] and "list" not in package["text"]
    held_out = sum(query["held_out"] for query in made["queries"])
    assert 0.1 * len(made["queries"]) < held_out < 0.35 * len(made["queries"])
    assert next(package["users"] for package in corpus.corpus(tmp_path, 200)["packages"] if package["name"] == "tool0") == 150


def test_too_few_packages_are_refused(tmp_path):
    lists(tmp_path, 5)
    done = subprocess.run([sys.executable, PROGRAM, tmp_path, tmp_path / "corpus.json"], capture_output=True, text=True, check=False)
    assert done.returncode and "at least 100 are needed" in done.stderr and not (tmp_path / "corpus.json").exists()
