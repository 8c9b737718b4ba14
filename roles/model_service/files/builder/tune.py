# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Let Neural Compressor 2.6 tune an ONNX model to INT8; quantize.py runs this in the environment `neural_compressor_classic`.

    tune.py '{"source": "model.onnx", "calibration": "….npz", "validation": "….npz", "metric": …, "strategy": "bayesian", "result": "int8.onnx", …}'

Strategies: basic, bayesian, mse, mse_v2, exhaustive, random. Ends with status 1 when no candidate keeps the accuracy.
"""

from __future__ import annotations

import json
import logging
import sys

import numpy as np
import onnx
import onnxruntime
import quantize
from neural_compressor import PostTrainingQuantConfig, quantization
from neural_compressor.config import AccuracyCriterion, TuningCriterion


class Rows:
    """Calibration data a sample at a time, in the shape that Neural Compressor reads."""

    batch_size = 1

    def __init__(self, arrays, count):
        self.arrays, self.count = arrays, count

    def __iter__(self):
        for batch in quantize.batches({name: array[: self.count] for name, array in self.arrays.items()}, 1):
            yield (batch if len(batch) > 1 else batch.popitem()[1]), 0


def outputs(model, arrays):
    """Return the model's outputs over all samples, computed by ONNX Runtime."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    parts = [session.run(None, batch) for batch in quantize.batches(arrays, 1)]
    return [np.concatenate(column) for column in zip(*parts)]


def main():
    want = json.loads(sys.argv[1])
    logging.disable(logging.INFO)
    model = onnx.load(want["source"])
    constants = {it.name for it in model.graph.initializer}
    names = [it.name for it in model.graph.input if it.name not in constants]
    validation, labels = quantize.samples(want["validation"], names)
    calibration, _labels = quantize.samples(want["calibration"], names)
    metric = quantize.metric_of(want["metric"], labels)
    reference = outputs(model, validation)

    def measure(candidate):
        value = float(np.mean(metric(outputs(candidate, validation), reference, labels)))
        quantize.say(f"  a candidate of strategy {want['strategy']} has {want['metric']} {value:.4f}")
        return value

    config = PostTrainingQuantConfig(
        # Without quant_level=1 the strategy is not looked at.
        quant_level=1,
        quant_format="QDQ",
        calibration_sampling_size=[want["samples"]],
        tuning_criterion=TuningCriterion(strategy=want["strategy"], max_trials=want["max_trials"]),
        accuracy_criterion=AccuracyCriterion(criterion="absolute", tolerable_loss=want["max_drop"]),
    )
    tuned = quantization.fit(model, config, calib_dataloader=Rows(calibration, want["samples"]), eval_func=measure)
    if tuned is None:
        sys.exit(f"no candidate of strategy {want['strategy']} keeps {want['metric']} within {want['max_drop']}")
    onnx.save(tuned.model, want["result"])


if __name__ == "__main__":
    main()
