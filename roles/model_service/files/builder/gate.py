# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate: what a metric says of a model, whether it would notice a ruined one, and how sure a drop is."""

from __future__ import annotations

import math

import numpy as np
from metrics import Unusable

# Paired bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993): resamples for values a sample, and for metrics that are one number.
RESAMPLES, RESAMPLES_OF_ONE = 1000, 200


def resampled(count, metric_values):
    """Yield what `metric_values(rows)` returns for samples drawn with repetition; a draw that the metric refuses (AUC of one class) is left out."""
    random = np.random.default_rng(0)
    for _number in range(RESAMPLES_OF_ONE):
        try:
            yield metric_values(random.integers(0, count, count))
        except Unusable:
            continue


def drops(metric, one, other, reference, labels):
    """Return the bootstrap's sample of metric(one) less metric(other), over the same rows in both."""
    before, after = metric(one, reference, labels), metric(other, reference, labels)
    count = len(reference[0])
    if before.ndim:
        random, lost = np.random.default_rng(0), before - after
        return np.array([lost[random.integers(0, count, count)].mean() for _number in range(RESAMPLES)])

    def lost_on(rows):
        picked = labels if labels is None else labels[rows]
        of = [it[rows] for it in reference]
        return float(metric([it[rows] for it in one], of, picked) - metric([it[rows] for it in other], of, picked))

    drawn = np.array(list(resampled(count, lost_on)))
    if len(drawn) < RESAMPLES_OF_ONE // 2:
        raise Unusable("the metric refuses most samples drawn from the validation data: there are too few of some kind")
    return drawn


def interval(drawn):
    """Return the interval that holds the drop at 95 % confidence."""
    return [float(it) for it in np.quantile(drawn, [0.025, 0.975])]


def dealt(outputs, seed):
    """Return the outputs, each given to another sample."""
    # Not a seed that others shuffle by: labels that were would come back into order.
    order = np.random.default_rng([seed, 20231]).permutation(len(outputs[0]))
    return [it[order] for it in outputs]


def worth(name, metric, reference, labels):
    """Return (the FP32 model's value, chance: the value of its outputs dealt to other samples); Unusable where the first is not clearly above the second.

    A model that has not learned, labels that are shuffled or count from 1, and outputs that are all the same fall to this.
    """
    fp32 = float(metric(reference, reference, labels).mean())
    if all((it == it[:1]).all() for it in reference):
        raise Unusable("the FP32 model's outputs are the same for all validation samples: the data tell nothing")
    values = [float(metric(dealt(reference, seed), reference, labels).mean()) for seed in range(5)]
    chance = float(np.mean(values))
    gain = interval(drops(metric, reference, dealt(reference, 0), reference, labels))[0]
    # Of what lies between chance and the best that the outputs can have, FP32 must have a tenth, and more than the data's noise.
    best = 0.0 if name in ("mae", "mse") else 1.0
    if gain <= 0 or (not name.endswith(".py") and fp32 - chance <= 0.1 * (best - chance)):
        hint = ""
        if labels is not None and labels.ndim == 1 and labels.dtype.kind in "iu" and name not in ("auc", "mae", "mse", "r2") and labels.min() == 1:
            hint = ". The labels count from 1: does the model from 0?"
        raise Unusable(
            f"the FP32 model has {name} {fp32:.4f}, and its outputs dealt to other samples have {chance:.4f}: by these validation data it knows "
            f"no more than chance, so they tell nothing of INT8 (do labels and inputs belong together, are inputs scaled as in training?){hint}"
        )
    return fp32, chance


def ruined(model):
    """Return a copy of an OpenVINO model with the values in each of its floating-point weights permuted, and how many were."""
    import openvino as ov

    copy, random, count = model.clone(), np.random.default_rng(0), 0
    for node in copy.get_ordered_ops():
        if node.get_type_name() != "Constant" or node.get_element_type() not in (ov.Type.f32, ov.Type.f16, ov.Type.f64, ov.Type.bf16, ov.Type.i8, ov.Type.u8):
            continue
        data = node.data
        if data.size < 16 or (data == data.flat[0]).all():
            continue
        new = ov.opset13.constant(random.permutation(data.reshape(-1)).reshape(data.shape), node.get_element_type())
        for target in node.output(0).get_target_inputs():
            target.replace_source_output(new.output(0))
        count += 1
    return copy, count


def noticed(name, metric, reference, spoilt, labels, max_drop):
    """Return the ruined copy's value; Unusable where the metric does not see that it is ruined."""
    fp32 = float(metric(reference, reference, labels).mean())
    try:
        value = float(metric(spoilt, reference, labels).mean())
    except Unusable:
        return None  # NaN and the like: seen
    low = interval(drops(metric, reference, spoilt, reference, labels))[0]
    if low <= 0 or fp32 - value <= max_drop:
        raise Unusable(
            f"a copy of the model with its weights permuted has {name} {value:.4f} where the model has {fp32:.4f}, a drop of {fp32 - value:.4f} "
            f"(max_drop {max_drop}): this metric on these data does not see a ruined model, so it cannot judge INT8. Take another metric or other data"
        )
    return value


def needed(report, max_drop):
    """Return how many samples would hold the drop within max_drop at 95 % confidence, were they like these; None where these do, or the drop is too large."""
    low, high = report["drop_interval"]
    room, count = max_drop - report["drop"], report["samples"]["validation"]
    if low == high == 0:
        # Resamples of no difference show none. What none of n samples shows may still befall up to 3 in n at 95 % confidence (the rule of three).
        return math.ceil(3 / max_drop) if 0 < max_drop < 3 / count else None
    if high <= max_drop or room <= 0:
        return None
    return math.ceil(count * ((high - low) / 2 / room) ** 2)


def refusal(report, want, after):
    """Return why this model must not be deployed as INT8, or None. `after` is what to try."""
    if "drop" not in report:
        return None
    if report["ruined"] is not None and report["value"]["fp32"] - report["ruined"] <= want["max_drop"]:
        return (
            f"{want['name']}: even a copy with its weights permuted loses only {report['value']['fp32'] - report['ruined']:.4f} of {want['metric']}, "
            f"and max_drop is {want['max_drop']}: such a gate refuses nothing. Nothing is deployed. Give a smaller max_drop"
        )
    if report["drop"] <= want["max_drop"]:
        return None
    return (
        f"{want['name']}: INT8 by method {want['method']} has {want['metric']} {report['value']['int8']:.4f} where FP32 has {report['value']['fp32']:.4f}: "
        f"a drop of {report['drop']:.4f}, and max_drop is {want['max_drop']}. Nothing is deployed. Try method {after}"
    )


def unsure(report, want):
    """Return the sentences on what the report's figures do not hold for."""
    notes = list(report.get("notes", []))
    if "drop_interval" in report:
        count = needed(report, want["max_drop"])
        if count:
            low, high = report["drop_interval"]
            high = high if (low, high) != (0, 0) else 3 / report["samples"]["validation"]
            notes.append(
                f"{report['samples']['validation']} validation samples are too few for max_drop {want['max_drop']} at 95 % confidence: the drop lies between "
                f"{low:.4f} and {high:.4f}; about {count} samples are needed"
            )
    return notes


def arithmetic():
    """Return the instructions with which this processor computes INT8, or "none"."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            shown = set(stream.read().split())
    except OSError:
        shown = set()
    return next((name for name in ("amx_int8", "avx512_vnni", "avx_vnni") if name in shown), "none")
