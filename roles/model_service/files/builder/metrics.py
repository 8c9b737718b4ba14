# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate's metrics: what each takes, checked, and its sums. All are the higher the better; all look at the model's first output.

    accuracy    share of samples whose largest output is the label             outputs [n, c], labels integers [n] from 0 to c - 1
    top_K       share of samples whose label is among the K largest            as accuracy
    f1          F1 of the classes, their mean (macro)                          as accuracy
    auc         area under the ROC curve                                       outputs [n], [n, 1] or [n, 2] (the last counts), labels 0 and 1 [n]
    mae, mse    mean absolute or squared error, negative                       outputs and labels of one shape [n, …]
    r2          coefficient of determination                                   outputs and labels of one shape [n, …]
    recall_K    share of the relevant that is among the K largest              outputs [n, c], labels 0 and 1 [n, c]
    mrr         reciprocal rank of the first that is relevant                  outputs [n, c], labels integers [n], or 0 and 1 [n, c]
    agreement   share of samples whose largest output is that of FP32          outputs [n, c], no labels
    cosine      cosine similarity with the outputs of FP32                     outputs [n, d …], no labels
    FILE.py     its function metric(outputs, reference, labels): lists of arrays [n, …] and the labels or None; returns a value a sample, or one

Axes of length 1 behind the classes do not count: [n, c, 1, 1] is [n, c].
"""

from __future__ import annotations

import importlib.util
import re

import numpy as np
from sklearn.metrics import f1_score, r2_score, roc_auc_score


class Unusable(Exception):
    """One sentence about an input that is not usable."""


def shapes(what, got, labels):
    """Return the sentence that refuses shapes."""
    return f"{what}; the model's first output is {list(got.shape)} and labels are {'missing' if labels is None else list(labels.shape)}"


def scores(name, got, labels=None):
    """Return the first output as [n, c]."""
    first = got[0]
    while first.ndim > 2 and first.shape[-1] == 1:
        first = first[..., 0]
    if first.ndim != 2 or first.shape[1] < 2:
        raise Unusable(shapes(f"metric {name} takes outputs [n, c] of at least two classes (for a single output take auc, mae, mse or r2)", got[0], labels))
    return first


def classes(name, got, labels):
    """Return (outputs [n, c], labels [n])."""
    first = scores(name, got, labels)
    if labels.shape != first.shape[:1]:
        raise Unusable(shapes(f"metric {name} takes labels [n], the class of each sample", got[0], labels))
    if labels.dtype.kind not in "iub":
        raise Unusable(f"metric {name} takes labels that are integers, not {labels.dtype} such as {labels.flat[0]!r}")
    if len(labels) and not 0 <= labels.min() <= labels.max() < first.shape[1]:
        raise Unusable(
            f"labels go from {labels.min()} to {labels.max()}, and the model has {first.shape[1]} classes: metric {name} takes 0 to {first.shape[1] - 1}"
        )
    return first, labels.astype(np.int64)


def relevant(name, got, labels):
    """Return (outputs [n, c], labels 0 and 1 [n, c])."""
    first = scores(name, got, labels)
    if labels.shape != first.shape:
        raise Unusable(shapes(f"metric {name} takes labels 0 and 1 [n, c], of the outputs' shape", got[0], labels))
    if labels.dtype.kind not in "iubf" or not np.isin(labels, (0, 1)).all() or not labels.any(axis=1).all():
        raise Unusable(f"metric {name} takes labels that are 0 or 1, with at least one 1 a sample")
    return first, labels.astype(bool)


def ahead(first, own):
    """Return how many outputs [n, c] of a sample are at least as large as its `own` [n], but for one: a tie is lost, so that equal outputs gain nothing."""
    return (first >= own[:, None]).sum(axis=1) - 1


def accuracy(got, _reference, labels):
    return top(1, "accuracy", got, labels)


def top(count, name, got, labels):
    first, labels = classes(name, got, labels)
    if count >= first.shape[1]:
        raise Unusable(f"metric {name} is always 1 where there are {first.shape[1]} classes")
    return ahead(first, first[np.arange(len(first)), labels]) < count


def f1(got, _reference, labels):
    first, labels = classes("f1", got, labels)
    return float(f1_score(labels, first.argmax(axis=1), average="macro", zero_division=0))


def auc(got, _reference, labels):
    first = got[0].reshape(len(got[0]), -1)
    if first.shape[1] not in (1, 2) or labels.shape != first.shape[:1]:
        raise Unusable(shapes("metric auc takes outputs [n], [n, 1] or [n, 2], and labels [n]", got[0], labels))
    if labels.dtype.kind not in "iubf" or set(np.unique(labels)) != {0, 1}:
        raise Unusable(f"metric auc takes labels 0 and 1, both of them; these are {', '.join(map(str, np.unique(labels)[:4]))}")
    return float(roc_auc_score(labels, first[:, -1]))


def regression(name, got, labels):
    """Return (outputs, labels), both [n, k]."""
    if labels.shape != got[0].shape:
        raise Unusable(shapes(f"metric {name} takes labels of the output's own shape", got[0], labels))
    if labels.dtype.kind not in "iuf" or not np.isfinite(labels).all():
        raise Unusable(f"metric {name} takes labels that are finite numbers; these are {labels.dtype}, or hold NaN or infinity")
    return got[0].reshape(len(labels), -1).astype(np.float64), labels.reshape(len(labels), -1).astype(np.float64)


def mae(got, _reference, labels):
    one, other = regression("mae", got, labels)
    return -np.abs(one - other).mean(axis=1)


def mse(got, _reference, labels):
    one, other = regression("mse", got, labels)
    return -np.square(one - other).mean(axis=1)


def r2(got, _reference, labels):
    one, other = regression("r2", got, labels)
    return float(r2_score(other, one))


def recall(count, name, got, labels):
    first, wanted = relevant(name, got, labels)
    if count >= first.shape[1]:
        raise Unusable(f"metric {name} is always 1 where there are {first.shape[1]} candidates")
    found = np.argsort(-first, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(wanted, found, axis=1).sum(axis=1) / np.minimum(wanted.sum(axis=1), count)


def mrr(got, _reference, labels):
    if labels.ndim == 1:
        first, which = classes("mrr", got, labels)
        own = first[np.arange(len(first)), which]
    else:
        first, wanted = relevant("mrr", got, labels)
        own = np.where(wanted, first, -np.inf).max(axis=1)
    return 1 / (ahead(first, own) + 1)


def agreement(got, reference, _labels):
    return scores("agreement", got).argmax(axis=1) == scores("agreement", reference).argmax(axis=1)


def cosine(got, reference, _labels):
    one, other = (np.asarray(it[0], np.float64).reshape(len(it[0]), -1) for it in (got, reference))
    if one.shape[1] < 2:
        raise Unusable(shapes("metric cosine takes outputs of at least two numbers a sample", got[0], None))
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return np.sum(one * other, axis=1) / np.maximum(lengths, 1e-30)


METRICS = {function.__name__: function for function in (accuracy, f1, auc, mae, mse, r2, mrr, agreement, cosine)}
NAMES = f"{', '.join(METRICS)}, top_K or recall_K (a number for K)"
WITHOUT_LABELS = ("agreement", "cosine")


def custom(path):
    """Return the function metric() of a Python file, whose errors are one sentence."""

    def guarded(function, *arguments):
        try:
            return function(*arguments)
        except (Exception, SystemExit) as error:
            raise Unusable(f"{path} failed with {type(error).__name__}: {' '.join(str(error).split()) or 'no message'}") from None

    described = importlib.util.spec_from_file_location("metric", path)
    module = importlib.util.module_from_spec(described)
    guarded(described.loader.exec_module, module)
    if not callable(getattr(module, "metric", None)):
        raise Unusable(f"{path} has no function metric(outputs, reference, labels)")

    def metric(got, reference, labels):
        value = guarded(lambda: np.asarray(module.metric(got, reference, labels), np.float64))
        if value.shape not in ((), (len(got[0]),)):
            raise Unusable(f"{path} returned {list(value.shape)} for {len(got[0])} samples: a value a sample is expected, or one")
        return value

    return metric


def metric_of(name, labels):
    """Return the function (outputs, reference, labels) → a value a sample, or one; Unusable when there is none of that name or it lacks labels."""
    if name.endswith(".py"):
        metric = custom(name)
    else:
        numbered = re.fullmatch("(top|recall)_([1-9][0-9]*)", name)
        if name not in METRICS and not numbered:
            raise Unusable(f"metric '{name}' is none of {NAMES}, nor a .py file")
        if name not in WITHOUT_LABELS and labels is None:
            raise Unusable(f"metric {name} needs an array 'labels' in the validation data; without labels take agreement or cosine")
        metric = METRICS.get(name)
        if numbered:
            kind, count = {"top": top, "recall": recall}[numbered[1]], int(numbered[2])

            def metric(got, _reference, labels):
                return kind(count, name, got, labels)

    def finite(got, reference, labels):
        for number, output in enumerate(got):
            if output.dtype.kind == "f" and not np.isfinite(output).all():
                raise Unusable(f"output {number} of the model holds NaN or infinity for {(~np.isfinite(output.reshape(len(output), -1)).all(1)).sum()} samples")
        value = np.asarray(metric(got, reference, labels), np.float64)
        if not np.isfinite(value).all():
            raise Unusable(f"metric {name} gives no finite number")
        return value

    return finite
