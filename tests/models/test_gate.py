# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate judges by what it measured alone: data, labels and metrics that tell nothing are refused by one sentence, before anything is quantized."""

from __future__ import annotations

import json
import subprocess
import zipfile

import numpy as np
import pytest
from conftest import ROLE, Quantizer

BUILDER = ROLE / "files/builder"


@pytest.fixture(scope="module")
def validation(digits):
    with np.load(digits() / "validation.npz") as file:
        return file["image"], file["labels"]


@pytest.fixture
def judge(quantize, digits, tmp_path):
    """judge(arrays of the validation data, **options) returns (status, report, what was said)."""

    def run(arrays, **options):
        np.savez(tmp_path / "v.npz", **arrays)
        return quantize.model(digits(), **{"validation": str(tmp_path / "v.npz"), **options})

    return run


MEANINGLESS = {
    "labels from 1": (lambda x, y: {"image": x, "labels": y + 1}, {}, "labels go from 1 to 10, and the model has 10 classes"),
    "labels from 1, none too large": (lambda x, y: {"image": x[y < 9], "labels": y[y < 9] + 1}, {}, "The labels count from 1: does the model from 0?"),
    "labels as text": (lambda x, y: {"image": x, "labels": y.astype(str)}, {}, "takes labels that are integers, not <U21"),
    "labels shuffled": (lambda x, y: {"image": x, "labels": np.random.default_rng(0).permutation(y)}, {}, "it knows no more than chance"),
    "labels as a column": (lambda x, y: {"image": x, "labels": y[:, None]}, {}, "first output is [540, 10] and labels are [540, 1]"),
    "labels one-hot": (lambda x, y: {"image": x, "labels": np.eye(10)[y]}, {}, "first output is [540, 10] and labels are [540, 10]"),
    "inputs of another scale": (lambda x, y: {"image": x * 16 + 1000, "labels": y}, {}, "no more than chance"),
    "inputs NaN": (lambda x, y: {"image": np.full_like(x, np.nan), "labels": y}, {}, "holds NaN or infinity in 540 of 540 samples, first in sample 0"),
    "one NaN": (
        lambda x, y: {"image": np.where(np.arange(540)[:, None, None, None] == 77, np.nan, x).astype("f"), "labels": y},
        {},
        "1 of 540 samples, first in sample 77",
    ),
    "inputs zero": (lambda x, y: {"image": x * 0, "labels": y}, {}, "are all zero: the data tell nothing"),
    "one sample repeated": (lambda x, _y: {"image": np.repeat(x[:1], 540, 0)}, {"metric": "agreement"}, "holds 1 different samples (540 with repetitions)"),
    "one sample": (lambda x, y: {"image": x[:1], "labels": y[:1]}, {}, "at least 20 are needed"),
    "one class": (lambda x, y: {"image": x[y == 3], "labels": y[y == 3]}, {}, "no more than chance"),
    "a wrong shape": (lambda x, y: {"image": x[:, :, :7], "labels": y}, {}, "is [540, 1, 7, 8], and the model takes"),
    "auc of ten classes": (lambda x, y: {"image": x, "labels": y % 2}, {"metric": "auc"}, "metric auc takes outputs [n], [n, 1] or [n, 2]"),
    "mse of labels in another shape": (lambda x, y: {"image": x, "labels": y}, {"metric": "mse"}, "takes labels of the output's own shape"),
}


@pytest.mark.parametrize("name", MEANINGLESS)
def test_data_that_tell_nothing_are_refused(judge, validation, name):
    make, options, sentence = MEANINGLESS[name]
    status, _report, said = judge(make(*validation), **options)
    assert status == 2 and sentence in said.splitlines()[-1], said
    assert "Traceback" not in said


def test_a_gate_that_refuses_nothing(quantize, digits):
    assert quantize.model(digits())[1]["refused"] is None
    assert "such a gate refuses nothing" in quantize.model(digits(), max_drop=1.0)[1]["refused"]
    status, _report, said = quantize.model(digits(), max_drop=1.0, samples=299)
    assert status == 2 and "does not see a ruined model" in said.splitlines()[-1], said


def test_calibrated_on_what_it_is_judged_by(quantize, digits):
    status, _report, said = quantize.model(digits(), validation=str(digits() / "calibration.npz"), metric="agreement")
    assert status == 2 and "all validation samples are among the calibration samples" in said


def test_a_model_calibrated_on_zeros_is_refused(quantize, digits, tmp_path):
    np.savez(tmp_path / "zero.npz", image=np.zeros((300, 1, 8, 8), np.float32))
    status, report, said = quantize.model(digits(), calibration=str(tmp_path / "zero.npz"))
    assert status == 0, said
    assert report["refused"] and any("is all zero" in note for note in report["notes"])


def test_the_report_tells_how_sure_it_is(judge, quantize, digits, validation):
    report = quantize.model(digits())[1]
    low, high = report["drop_interval"]
    assert low <= report["drop"] <= high and report["ruined"] < 0.5 and report["chance"] < 0.2
    assert report["arithmetic"] in ("amx_int8", "avx512_vnni", "avx_vnni", "none")
    images, labels = validation
    status, few, said = judge({"image": images[:60], "labels": labels[:60]}, calibration="", method="weights", max_drop=0.0005)
    assert status == 0, said
    assert few["refused"] or any("too few for max_drop 0.0005" in note for note in few["notes"])


def test_the_number_of_samples_that_are_needed(python):
    program = """
import sys; sys.path.insert(0, sys.argv[1])
import gate
report = {"drop": 0.005, "drop_interval": [-0.015, 0.025], "samples": {"validation": 100}}
want = {"max_drop": 0.01}
assert gate.needed(report, 0.01) == 1600, gate.needed(report, 0.01)
assert gate.needed(report, 0.03) is None
assert gate.needed({**report, "drop": 0.0, "drop_interval": [0.0, 0.0]}, 0.01) == 300
assert gate.needed({**report, "drop": 0.0, "drop_interval": [0.0, 0.0]}, 0.05) is None
assert "about 1600 samples are needed" in gate.unsure(report, want)[-1]
"""
    subprocess.run([python("quantize"), "-c", program, BUILDER], check=True)


def test_metrics_agree_with_their_definitions(python):
    """Each against a hand-computed value, and each sees outputs that belong to other samples."""
    program = """
import sys; sys.path.insert(0, sys.argv[1])
import numpy as np
from metrics import Unusable, metric_of
first = [np.array([[.1, .7, .2], [.5, .3, .2], [.2, .3, .5], [.6, .3, .1]])]
labels = np.array([1, 1, 2, 0])
def value(name, outputs, labels, reference=None):
    return float(metric_of(name, labels)(outputs, reference or outputs, labels).mean())
near = lambda one, other: abs(one - other) < 1e-12 or sys.exit(f"{one} is not {other}")
near(value("accuracy", first, labels), .75)
near(value("top_2", first, labels), 1)
near(value("f1", first, labels), (2 / 3 + 2 / 3 + 1) / 3)
near(value("mrr", first, labels), (1 + .5 + 1 + 1) / 4)
near(value("mrr", first, np.eye(3, dtype=int)[labels]), (1 + .5 + 1 + 1) / 4)
near(value("recall_1", first, np.array([[0, 1, 1], [0, 1, 0], [0, 0, 1], [1, 0, 0]])), 3 / 4)
near(value("auc", [np.array([[.1], [.4], [.35], [.8]])], np.array([0, 0, 1, 1])), .75)
near(value("mae", [np.array([1., 2.])], np.array([2., 4.])), -1.5)
near(value("mse", [np.array([1., 2.])], np.array([2., 4.])), -2.5)
near(value("r2", [np.array([1., 2., 4.])], np.array([1., 2., 3.])), .5)
near(value("agreement", first, None, [first[0][::-1]]), 0)
near(value("cosine", [np.array([[1., 0.], [0., 1.]])], None, [np.array([[1., 0.], [1., 0.]])]), .5)
near(value("accuracy", [np.zeros((4, 3))], labels), 0)  # equal outputs gain nothing
for name, outputs, labels in (
    ("accuracy", np.zeros((4, 1)), np.zeros(4, int)), ("top_3", first[0], labels), ("mse", np.zeros((4, 1)), np.zeros(4)),
    ("auc", np.zeros(4), np.array([0, 1, 2, 0])), ("recall_1", first[0], np.zeros((4, 3), int)), ("f1", first[0], np.zeros((4, 1), int)),
):
    try:
        sys.exit(f"{name} gave {value(name, [outputs], labels)}")
    except Unusable:
        pass
"""
    subprocess.run([python("quantize"), "-c", program, BUILDER], check=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def metric(outputs, reference, labels):\n    return outputs[7]\n", "failed with IndexError"),
        ("import nowhere\n", "failed with ModuleNotFoundError"),
        ("def other():\n    pass\n", "has no function metric"),
        ("def metric(outputs, reference, labels):\n    return outputs[0]\n", "returned [540, 10] for 540 samples"),
        ("def metric(outputs, reference, labels):\n    return float('nan')\n", "gives no finite number"),
        ("def metric(outputs, reference, labels):\n    return 0.9\n", "it knows no more than chance"),
    ],
)
def test_errors_of_ones_own_metric_are_one_sentence(quantize, digits, tmp_path, text, said):
    (tmp_path / "metric.py").write_text(text)
    status, _report, printed = quantize.model(digits(), metric=str(tmp_path / "metric.py"))
    assert status == 2 and said in printed.splitlines()[-1] and "Traceback" not in printed, printed


def truncated(source, target):
    target.write_bytes(source.read_bytes()[:-2000])


def flipped(source, target):
    raw = bytearray(source.read_bytes())
    raw[5000] ^= 1
    target.write_bytes(raw)


def array_alone(source, target):
    with np.load(source) as file, open(target, "wb") as stream:
        np.save(stream, file["image"])


@pytest.mark.parametrize("damage", [truncated, flipped, array_alone])
def test_damaged_data_are_one_sentence(quantize, digits, tmp_path, damage):
    damage(digits() / "validation.npz", tmp_path / "v.npz")
    status, _report, said = quantize.model(digits(), validation=str(tmp_path / "v.npz"))
    assert status == 2 and "is no .npz file of arrays: " in said.splitlines()[-1] and "Traceback" not in said, said


@pytest.mark.parametrize(
    "options", [{"samples": 0}, {"max_drop": -1}, {"preset": "fast"}, {"model_type": "cnn"}, {"ignored": ["no such layer"]}, {"ignored": [7]}]
)
def test_options_out_of_range_are_one_sentence(quantize, digits, options):
    status, _report, said = quantize.model(digits(), **options)
    assert status == 2 and "Traceback" not in said, said


def test_compressed_data_are_the_same_data(quantize, digits, tmp_path, python):
    with np.load(digits() / "validation.npz") as file:
        np.savez_compressed(tmp_path / "v.npz", image=np.asfortranarray(file["image"]), labels=file["labels"])
    assert all(it.compress_type for it in zipfile.ZipFile(tmp_path / "v.npz").infolist())
    program = """
import sys; sys.path.insert(0, sys.argv[1])
import numpy as np
from data import mapped
for one, other in zip(mapped(sys.argv[2]).items(), mapped(sys.argv[3]).items()):
    assert one[0] == other[0] and isinstance(one[1], np.memmap) and (one[1] == other[1]).all() and (one[1] == np.load(sys.argv[2])[one[0]]).all()
"""
    subprocess.run([python("quantize"), "-c", program, BUILDER, tmp_path / "v.npz", digits() / "validation.npz"], check=True)


def varint(number):
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


def kinds(digits, directory):
    """Make the files of each kind of source, and yield (what is digested, one of the files that it reads)."""
    for name in ("model.xml", "model.bin", "model.tflite", "model.pt2", "weights.data", "data.npz", "metric.py"):
        (directory / name).write_bytes(b"0123456789")
    name = b"weights.data"
    (directory / "model.onnx").write_bytes(b"\x08\x09\x0a\x08location\x12" + varint(len(name)) + name + b"\x0a\x06offset\x12\x010")
    tree = directory / "saved/variables"
    tree.mkdir(parents=True)
    (directory / "saved/saved_model.pb").write_bytes(b"0123456789")
    (tree / "variables.data-00000-of-00001").write_bytes(b"0123456789")
    for source, file in (
        ("model.xml", "model.xml"), ("model.xml", "model.bin"), ("model.onnx", "model.onnx"), ("model.onnx", "weights.data"),
        ("model.tflite", "model.tflite"), ("model.pt2", "model.pt2"), ("saved", "saved/saved_model.pb"),
        ("saved", "saved/variables/variables.data-00000-of-00001"), ("data.npz", "data.npz"), ("metric.py", "metric.py"),
    ):  # fmt: skip
        yield directory / source, directory / file


def test_one_byte_of_any_file_is_another_artefact(python, digits, tmp_path):
    program = "import sys; sys.path.insert(0, sys.argv[1]); from sources import file_digest; print(file_digest(sys.argv[2]))"

    def digest(source):
        return subprocess.run([python("quantize"), "-c", program, BUILDER, source], check=True, capture_output=True, text=True).stdout

    for source, file in kinds(digits, tmp_path):
        before, raw = digest(source), bytearray(file.read_bytes())
        raw[0] ^= 1
        file.write_bytes(raw)
        assert digest(source) != before, f"{file} changed, and {source} has the same digest"
        raw[0] ^= 1
        file.write_bytes(raw)
        assert digest(source) == before


def test_the_code_that_makes_it_is_in_the_digest(python, digits, quantize):
    report = Quantizer(python("quantize"), quantize.artefacts).model(digits())[1]
    assert {"quantize.py", "gate.py", "metrics.py", "data.py", "sources.py", "tune.py"} <= set(report["made_of"]["code"])
    assert json.dumps(report["made_of"]["versions"])
