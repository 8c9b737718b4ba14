# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the ranker sees of a query and a package. The builder trains with it and the page serves with it, so that both see the same."""

from __future__ import annotations

import collections
import itertools
import re

import numpy as np

WORD = re.compile(r"[a-z0-9]+")
STEM = 5  # letters: "photo" stands for photos and photographs
WORDS = 8  # of a query, the rarest ones, are crossed
TAGS = 8  # of a package, at most
BUCKETS = 1 << 14  # of crossed features
FIELDS = ("name", "synopsis", "text")
# The deep part's numbers, each times what brings it into the range of about 0 to 3. A gap is the distance to the best candidate.
NUMBERS = {
    "cosine": 10, "cosine gap": 10, "name": 4, "synopsis": 4, "text": 4, "synopsis gap": 4, "best field gap": 4, "bm25": 0.1, "bm25 gap": 0.1,
    "recalled": 2, "users": 0.2, "size": 0.1,
}  # fmt: skip


def stems(text):
    """Return the list of stems of the words of a text."""
    return [word[:STEM] for word in WORD.findall(text.lower()) if len(word) > 1]


def passage(package):
    """Return the text of a package that is embedded."""
    return f"{package['name']}: {package['synopsis']}. {package['text']}"


class Features:
    """The features of pairs of a query and a package of the corpus, whose list `packages` is."""

    def __init__(self, packages):
        self.sections = sorted({package["section"] for package in packages})
        self.section = np.array([self.sections.index(package["section"]) for package in packages])
        said = [[stems(package[field]) for field in FIELDS] for package in packages]
        known = collections.Counter(stem for fields in said for stem in set().union(*fields))
        self.number = {stem: number for number, stem in enumerate(sorted(known))}
        self.rarity = {stem: float(np.log((len(packages) + 0.5) / (count + 0.5))) for stem, count in known.items()}
        # Inverted lists: in which packages a stem is, by field, and what BM25 (k1 = 1.2, b = 0.75) gives for it over all fields.
        self.fields = [collections.defaultdict(list) for _field in FIELDS]
        weights = collections.defaultdict(list)
        usual = np.mean([sum(map(len, fields)) for fields in said])
        for place, fields in enumerate(said):
            for postings, found in zip(self.fields, fields):
                for stem in sorted(set(found)):
                    postings[stem].append(place)
            length = 0.25 + 0.75 * sum(map(len, fields)) / usual
            for stem, count in sorted(collections.Counter(itertools.chain(*fields)).items()):
                weights[stem].append((place, self.rarity[stem] * count * 2.2 / (count + 1.2 * length)))
        self.weights = {stem: (np.array([place for place, _weight in it]), np.array([weight for _place, weight in it])) for stem, it in weights.items()}
        # What a query's words are crossed with: the section and the first tags; 0 is none.
        tags = {tag: number for number, tag in enumerate(sorted({tag for package in packages for tag in package["tags"]}), 1 + len(self.sections))}
        self.crossed = np.zeros((len(packages), 1 + TAGS), np.int64)
        for place, package in enumerate(packages):
            kinds = [1 + self.section[place], *(tags[tag] for tag in package["tags"])][: 1 + TAGS]
            self.crossed[place, : len(kinds)] = kinds
        self.users = np.log1p([package["users"] for package in packages])
        self.size = np.log1p([package["size"] for package in packages])

    def of(self, text, places, cosines):
        """Return the ranker's inputs for a query's text and the packages that were recalled for it, nearest first: their places [n] and cosines [n].

        deep      FP32 [n, len(NUMBERS)]
        section   INT64 [n, 1]
        wide      INT64 [n, WORDS * (1 + TAGS)]: the buckets of word x section and word x tag; 0 is none
        """
        # In a fixed order: a sum of floats depends on it.
        asked = sorted(set(stems(text)) & self.number.keys(), key=lambda stem: (-self.rarity[stem], stem))
        total = sum(self.rarity[stem] for stem in asked) or 1.0
        shared, bm25 = np.zeros((len(FIELDS), len(self.section))), np.zeros(len(self.section))
        for stem in asked:
            for row, postings in zip(shared, self.fields):
                if stem in postings:
                    row[postings[stem]] += self.rarity[stem] / total
            found, weights = self.weights[stem]
            bm25[found] += weights
        shared, bm25 = shared[:, places], bm25[places]
        best = shared.max(0)
        numbers = {
            "cosine": cosines, "cosine gap": cosines - cosines.max(initial=-1), **dict(zip(FIELDS, shared)),
            "synopsis gap": shared[1] - shared[1].max(initial=0), "best field gap": best - best.max(initial=0),
            "bm25": bm25, "bm25 gap": bm25 - bm25.max(initial=0), "recalled": 1 / np.arange(1, len(places) + 1),
            "users": self.users[places], "size": self.size[places],
        }  # fmt: skip
        words = np.array([self.number[stem] for stem in asked[:WORDS]], np.int64)
        kinds = self.crossed[places]
        # Knuth's multiplicative hash; what is not there stays 0.
        hashed = 1 + ((words[:, None] * 4096 + kinds[:, None, :]) * 2654435761 % (1 << 32) >> 16) % (BUCKETS - 1)
        wide = np.zeros((len(places), WORDS, 1 + TAGS), np.int64)
        wide[:, : len(words)] = np.where(kinds[:, None, :] > 0, hashed, 0)
        return {
            "deep": np.stack([numbers[name] * scale for name, scale in NUMBERS.items()], 1).astype(np.float32),
            "section": self.section[places, None].astype(np.int64),
            "wide": wide.reshape(len(places), -1),
        }
