# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""quantize.py: what keeps its accuracy passes, what loses it is refused, and the accuracy-controlled method rescues it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest


def test_plain_quantization_keeps_the_accuracy(quantize, digits):
    status, report, said = quantize.model(digits())
    assert status == 0, said
    assert report["built"] and report["refused"] is None
    assert report["value"]["fp32"] > 0.97 and report["drop"] <= 0.01
    assert report["layers_in_fp32"] == []
    assert report["size_bytes"]["int8"] < 0.5 * report["size_bytes"]["fp32"]
    assert report["samples"] == {"calibration": 300, "validation": 540}
    assert {path.name for path in quantize.artefacts.glob(f"{report['digest']}/*/*")} == {"model.xml", "model.bin"}


def test_the_same_inputs_are_not_quantized_twice(quantize, digits):
    first, again = quantize.model(digits()), quantize.model(digits(), name="another-name", max_drop=0.5)
    assert not again[1]["built"] and again[1]["digest"] == first[1]["digest"]
    assert again[2] == "", "it said that it worked"


def test_other_data_or_options_are_another_artefact(quantize, digits, tmp_path):
    digest = quantize.model(digits())[1]["digest"]
    with np.load(digits() / "calibration.npz") as file:
        np.savez(tmp_path / "calibration.npz", image=file["image"][:299])
    assert quantize("--look", name="x", source=str(digits() / "digits.xml"), calibration=str(tmp_path / "calibration.npz"),
                    validation=str(digits() / "validation.npz"))[1]["digest"] != digest  # fmt: skip
    looked = quantize("--look", name="x", source=str(digits() / "digits.xml"), calibration=str(digits() / "calibration.npz"),
                      validation=str(digits() / "validation.npz"), preset="performance")[1]  # fmt: skip
    assert looked["built"] and looked["digest"] != digest
    assert not (quantize.artefacts / looked["digest"]).exists(), "--look made something"


def test_lost_accuracy_is_refused_with_both_figures_and_what_to_try(quantize, digits):
    status, report, said = quantize.model(digits(400), max_drop=0.02)
    assert status == 0, said
    assert report["drop"] > 0.2
    for text in (f"{report['value']['fp32']:.4f}", f"{report['value']['int8']:.4f}", "max_drop is 0.02", "Try method nncf_accuracy_control"):
        assert text in report["refused"]
    assert quantize.model(digits(400), max_drop=0.95)[1]["refused"] is None, "moving the gate needs no new quantization"


def test_accuracy_control_rescues_it(quantize, digits):
    status, report, said = quantize.model(digits(400), method="nncf_accuracy_control")
    assert status == 0, said
    assert report["refused"] is None and report["drop"] <= 0.01
    assert 1 <= len(report["layers_in_fp32"]) < 3, "some layer stays in FP32, not all of them"
    assert "a candidate has accuracy" in said


def test_weights_alone(quantize, digits):
    report = quantize.model(digits(), method="weights", calibration="")[1]
    assert report["refused"] is None and len(report["layers_in_fp32"]) == 2
    assert report["size_bytes"]["int8"] < 0.5 * report["size_bytes"]["fp32"]


def test_none_makes_fp32_alone(quantize, digits):
    report = quantize.model(digits(), method="none")[1]
    assert sorted(path.name for path in (quantize.artefacts / report["digest"]).iterdir()) == ["fp32", "report.json"]


def test_a_metric_of_ones_own(quantize, digits, tmp_path):
    (tmp_path / "metric.py").write_text("def metric(outputs, reference, labels):\n    return float((outputs[0].argmax(1) == labels).mean()) / 2\n")
    report = quantize.model(digits(), metric=str(tmp_path / "metric.py"))[1]
    assert 0.45 < report["value"]["int8"] <= 0.5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"methode": "nncf"}, "'methode' is no option of a model"),
        ({"method": "int4"}, "method 'int4' is none of none, nncf"),
        ({"max_drop": "1 %"}, "max_drop is '1 %'"),
        ({"source": "/nowhere.onnx"}, "source /nowhere.onnx does not exist"),
        ({"calibration": ""}, "method nncf needs calibration data"),
        ({"validation": ""}, "there are no validation data"),
        ({"metric": "f1"}, "metric 'f1' is none of accuracy"),
        ({"source": __file__}, "cannot be read as a model"),
        ({"validation": __file__}, "is no .npz file of arrays"),
    ],
)
def test_bad_input_is_one_sentence(quantize, digits, change, said):
    before = sorted(quantize.artefacts.iterdir())
    status, _report, printed = quantize.model(digits(), **change)
    assert status == 2
    assert said in printed.splitlines()[-1], printed
    assert "Traceback" not in printed
    assert sorted(quantize.artefacts.iterdir()) == before


def test_data_that_do_not_fit_the_model(quantize, digits, tmp_path):
    np.savez(tmp_path / "wrong.npz", pixels=np.zeros((3, 8, 8), np.float32), more=np.zeros(3))
    status, _report, said = quantize.model(digits(), validation=str(tmp_path / "wrong.npz"))
    assert status == 2 and "holds the arrays more, pixels; the model's inputs are image" in said


@pytest.mark.parametrize("strategy", ["basic", "bayesian", "mse", "mse_v2", "exhaustive", "random"])
def test_neural_compressor_tunes_with_a_strategy(request, quantize, digits, python, tmp_path, strategy):
    if not request.config.getoption("--all-models"):
        pytest.skip("0.8 GB of packages: give --all-models")
    program, weights, source = Path(__file__).with_name("digits_onnx.py"), tmp_path / "weights.npz", tmp_path / "digits.onnx"
    subprocess.run([python("quantize"), program, "weights", digits() / "digits.xml", weights], check=True)
    subprocess.run([python("neural_compressor"), program, "model", weights, source], check=True)
    status, report, said = quantize.model(
        digits(), source=str(source), method="neural_compressor", strategy=strategy, max_trials=5,
        env={**os.environ, "AINODE_NEURAL_COMPRESSOR": str(python("neural_compressor"))},
    )  # fmt: skip
    assert status == 0, said
    assert report["value"]["fp32"] > 0.97 and report["refused"] is None
    assert len(report["layers_in_fp32"]) < 3, "nothing computes in INT8"


def test_minilm_keeps_its_embeddings(request, quantize, python, tmp_path):
    if not request.config.getoption("--all-models"):
        pytest.skip("a model of 90 MB: give --all-models")
    interpreter = python("minilm")
    package = subprocess.run([interpreter, "-c", "import all_minilm_l6_v2 as m; print(m.get_model_zip_path())"], check=True, capture_output=True, text=True)
    texts = subprocess.run(["apt-cache", "search", "."], check=True, capture_output=True, text=True).stdout
    if texts.count("\n") < 500:
        pytest.skip("the texts are package descriptions, and apt has no lists here: run apt-get update")
    (tmp_path / "texts.txt").write_text(texts)
    subprocess.run([interpreter, Path(__file__).with_name("minilm.py"), package.stdout.strip(), tmp_path / "texts.txt", tmp_path], check=True)
    files = {"source": tmp_path / "minilm.xml", "calibration": tmp_path / "calibration.npz", "validation": tmp_path / "validation.npz"}
    options = {"metric": "cosine", "model_type": "transformer", "samples": 100, "max_drop": 0.02}
    status, report, said = quantize(name="minilm", **{key: str(value) for key, value in files.items()}, **options)
    assert status == 0, said
    assert report["refused"] is None
    assert report["speedup"] > 1.5 and report["size_bytes"]["int8"] < 0.4 * report["size_bytes"]["fp32"]
