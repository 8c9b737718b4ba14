# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Quantize one trained model to INT8, once, and say whether it kept its accuracy.

    quantize.py [--look] [--log FILE] [--keep COUNT] --artefacts DIRECTORY SPECIFICATION.json

The specification is one entry of the role's `model_service_models`, as JSON. What is made lies in DIRECTORY/DIGEST: `fp32/` and `int8/` with
model.xml and model.bin (OpenVINO IR), and report.json. The digest names everything that the artefact depends on: the model, the calibration and
the validation data, the options, the versions of the tools and of this recipe. What is there is not made again, a refusal included.

Of the artefacts that were made for a model of the same name, the last used are kept (--keep), the others are removed.

Prints the report as one JSON object on stdout, with `directory`, `built` (whether it was made now) and `refused` (null, or the sentence that says why
the model must not be deployed); progress goes to stderr. --look only looks: `built` then says that it would have to be made. Ends with
status 2 and one sentence on stderr when the specification or a file is not usable.

Data are .npz files with one array an input, by name (a model with one input takes any name), samples along the first axis. The
validation file may hold `labels`. Metrics, the higher the better:

    accuracy    share of samples whose largest output is the label
    agreement   share of samples whose largest output is that of the FP32 model
    cosine      mean cosine similarity between the outputs of the FP32 model and of this one (embeddings)
    auc         area under the ROC curve of a single output against labels 0 and 1 (rankers)
    FILE.py     its function metric(outputs, reference, labels): lists of arrays [samples, …] and the labels or None; returns a value a sample, or one
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np

# To be raised with every change here after which the same inputs make another artefact.
RECIPE = 1
# What to try when a method loses too much.
NEXT = {
    "nncf": "nncf_accuracy_control, which finds the layers that cost most and leaves them in FP32",
    "nncf_accuracy_control": "weights, which quantizes no activations",
    "neural_compressor": "another strategy (mse_v2, bayesian), or nncf_accuracy_control",
    "weights": "none, which serves FP32",
    "trained": "none, which serves FP32, or train it for longer",
}
METHODS = ("none", *NEXT)
OPTIONS = {
    "name": str, "source": str, "calibration": str, "validation": str, "metric": str, "max_drop": (int, float), "method": str, "samples": int,
    "preset": str, "model_type": str, "ignored": list, "strategy": str, "max_trials": int, "trained": str,
}  # fmt: skip
DEFAULTS = {
    "calibration": "", "validation": "", "metric": "accuracy", "max_drop": 0.01, "method": "nncf", "samples": 300,
    "preset": "mixed", "model_type": "", "ignored": [], "strategy": "basic", "max_trials": 100, "trained": "",
}  # fmt: skip


class Unusable(Exception):
    """One sentence about an input that is not usable."""


def say(text):
    """Tell who waits, on stderr and in the file of --log."""
    line = f"{time.strftime('%H:%M:%S')} {text}"
    print(line, file=sys.stderr, flush=True)
    if "AINODE_QUANTIZE_LOG" in os.environ:
        with open(os.environ["AINODE_QUANTIZE_LOG"], "a", encoding="utf-8") as log:
            log.write(line + "\n")


# --- the specification ------------------------------------------------------------------------------------------------


def specification(text):
    """Return the specification in the JSON `text` with all defaults filled in; Unusable says what is wrong with it."""
    try:
        given = json.loads(text)
    except ValueError as error:
        raise Unusable(f"the specification is no JSON: {error}") from None
    given = {key: value for key, value in given.items() if value is not None}
    for key, value in given.items():
        if key not in OPTIONS:
            raise Unusable(f"'{key}' is no option of a model; there are {', '.join(OPTIONS)}")
        if not isinstance(value, OPTIONS[key]) or isinstance(value, bool):
            raise Unusable(f"{key} is {value!r}: another type is expected, as in the role's documentation")
    want = {**DEFAULTS, **given}
    for key in ("name", "source"):
        if not want.get(key):
            raise Unusable(f"the model {want.get('name', '')!r} has no {key}")
    if want["method"] not in METHODS:
        raise Unusable(f"{want['name']}: method '{want['method']}' is none of {', '.join(METHODS)}")
    if want["method"] in ("nncf", "nncf_accuracy_control", "neural_compressor") and not want["calibration"]:
        raise Unusable(f"{want['name']}: method {want['method']} needs calibration data (an .npz file), or choose weights")
    if want["method"] != "none" and not want["validation"]:
        raise Unusable(f"{want['name']}: there are no validation data (an .npz file), so nobody would know what INT8 costs; give them, or choose method none")
    if (want["method"] == "trained") != bool(want["trained"]):
        raise Unusable(f"{want['name']}: method trained and the INT8 model `trained`, which quantization-aware training made, belong together")
    for key in ("source", "calibration", "validation", "trained"):
        if want[key] and not os.path.exists(want[key]):
            raise Unusable(f"{want['name']}: {key} {want[key]} does not exist")
    return want


def file_digest(path):
    """Return the SHA-256 of a file, or of all files of a directory and their names."""
    total = hashlib.sha256()
    names = [path]
    if os.path.isdir(path):
        names = sorted(os.path.join(top, name) for top, _directories, files in os.walk(path) for name in files)
    elif path.endswith(".xml"):
        names.append(path[:-4] + ".bin")
    for name in names:
        total.update(os.path.relpath(name, path).encode())
        if not os.path.exists(name):
            raise Unusable(f"{name} does not exist")
        with open(name, "rb") as stream:
            for block in iter(lambda: stream.read(1 << 20), b""):
                total.update(block)
    return total.hexdigest()


def inputs_of(want):
    """Return everything that the artefact depends on. `max_drop` is among it only where the method aims at it: the gate can be moved without new work."""
    keep = {
        "none": [],
        "weights": ["ignored"],
        "nncf": ["samples", "preset", "model_type", "ignored"],
        "nncf_accuracy_control": ["samples", "preset", "model_type", "ignored", "max_drop"],
        "neural_compressor": ["samples", "strategy", "max_trials", "max_drop"],
        "trained": [],
    }[want["method"]]
    trained = {"trained": file_digest(want["trained"])} if want["trained"] else {}
    custom = {"metric_file": file_digest(want["metric"])} if want["metric"].endswith(".py") else {}
    return {
        "recipe": RECIPE,
        "versions": {name: importlib.metadata.version(name) for name in ("openvino", "nncf", "numpy")},
        "files": {**{key: file_digest(want[key]) if want[key] else None for key in ("source", "calibration", "validation")}, **trained},
        "options": {key: want[key] for key in ["method", "metric", *keep]},
        **custom,
    }


# --- models and data --------------------------------------------------------------------------------------------------


def samples(path, names):
    """Return ({input name: array}, labels or None) of an .npz file for a model whose inputs have these names."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (ValueError, OSError) as error:
        raise Unusable(f"{path} is no .npz file of arrays: {error}") from None
    labels = arrays.pop("labels", None)
    if len(names) == len(arrays) == 1:
        arrays = {names[0]: next(iter(arrays.values()))}
    if sorted(arrays) != sorted(names):
        raise Unusable(f"{path} holds the arrays {', '.join(sorted(arrays)) or '(none)'}; the model's inputs are {', '.join(sorted(names))}")
    counts = {len(array) for array in (*arrays.values(), *([labels] if labels is not None else []))}
    if len(counts) != 1 or 0 in counts:
        raise Unusable(f"the arrays in {path} hold {sorted(counts)} samples: they must be as many each, and not none")
    return arrays, labels


def name_of(port):
    """Return the name of a model's input or output; one that the source left without a name has that of its node."""
    return port.get_any_name() if port.get_names() else port.get_node().get_friendly_name()


def read_model(path, calibration):
    """Return the OpenVINO model of `path`: ONNX, OpenVINO IR, TensorFlow SavedModel or TFLite, or PyTorch (torch.export, TorchScript)."""
    import openvino as ov

    try:
        if path.endswith(".xml"):
            return name_ports(ov.Core().read_model(path))
        if not path.endswith((".pt2", ".pt", ".pth", ".ts")):
            return name_ports(ov.convert_model(path))
        try:
            import torch
        except ImportError:
            raise Unusable(f"{path} is a PyTorch model, and this environment has no PyTorch: set model_service_torch") from None
        if path.endswith(".pt2"):
            return name_ports(ov.convert_model(torch.export.load(path)))
        if not calibration:
            raise Unusable(f"{path}: TorchScript does not tell its inputs' shapes; give calibration data, or export it with torch.export")
        with np.load(calibration) as file:
            example = [torch.from_numpy(file[key][:1]) for key in file.files]
        return name_ports(ov.convert_model(torch.jit.load(path, map_location="cpu"), example_input=tuple(example)))
    except Unusable:
        raise
    except Exception as error:
        raise Unusable(f"{path} cannot be read as a model: {str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__}") from None


def name_ports(model):
    """Give every input and output a name, which the protocol needs."""
    for ports in (model.inputs, model.outputs):
        for port in ports:
            if not port.get_names():
                port.set_names({name_of(port)})
    return model


def kept_ports(model, quantized, want):
    """Give the quantized model the names of the model's inputs and outputs; Unusable where it has others, which only a trained one can."""
    for before, after in ((model.inputs, quantized.inputs), (model.outputs, quantized.outputs)):
        shapes = [[str(port.get_partial_shape()) for port in ports] for ports in (before, after)]
        if want["trained"] and shapes[0] != shapes[1]:
            raise Unusable(
                f"{want['name']}: {want['trained']} has inputs or outputs of {', '.join(shapes[1])} where {want['source']} has {', '.join(shapes[0])}"
            )
        for old, new in zip(before, after):
            new.set_names(old.get_names())


def batch_of(model):
    """Return the model's batch size; 1 where it is free."""
    first = model.inputs[0].get_partial_shape()
    return first[0].get_length() if first.rank.is_static and len(first) and first[0].is_static else 1


def batches(arrays, size):
    """Yield {input name: [size, …]}; the last one is filled up with its last sample."""
    count = min(map(len, arrays.values()))
    for start in range(0, count, size):
        rows = np.minimum(np.arange(start, start + size), count - 1)
        yield {name: array[rows] for name, array in arrays.items()}


def compile_model(model, threads=None):
    """Compile for this processor, in FP32 where the model says nothing else: what is measured here is what is served."""
    import openvino as ov

    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    return ov.Core().compile_model(model, "CPU", settings if threads is None else {**settings, "INFERENCE_NUM_THREADS": threads})


def outputs(compiled, arrays):
    """Return the list of the model's outputs over all samples."""
    request, size, parts = compiled.create_infer_request(), batch_of(compiled), []
    for batch in batches(arrays, size):
        request.infer(batch)
        parts.append([request.get_output_tensor(number).data.copy() for number in range(len(compiled.outputs))])
    count = len(next(iter(arrays.values())))
    return [np.concatenate(column)[:count] for column in zip(*parts)]


# --- metrics ----------------------------------------------------------------------------------------------------------


def accuracy(got, _reference, labels):
    return got[0].reshape(len(labels), -1).argmax(1) == labels


def agreement(got, reference, _labels):
    count = len(got[0])
    return got[0].reshape(count, -1).argmax(1) == reference[0].reshape(count, -1).argmax(1)


def cosine(got, reference, _labels):
    one, other = (np.asarray(it[0], np.float64).reshape(len(it[0]), -1) for it in (got, reference))
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return np.sum(one * other, axis=1) / np.maximum(lengths, 1e-30)


def auc(got, _reference, labels):
    scores = got[0].reshape(len(labels), -1)[:, -1]
    _values, which, counts = np.unique(scores, return_inverse=True, return_counts=True)
    # Equal scores share the mean of their ranks (Mann-Whitney U).
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[which]
    positive = labels == 1
    wins = ranks[positive].sum() - positive.sum() * (positive.sum() + 1) / 2
    return float(wins / max(positive.sum() * (~positive).sum(), 1))


METRICS = {function.__name__: function for function in (accuracy, agreement, cosine, auc)}


def metric_of(name, labels):
    """Return the metric's function; Unusable when there is none of that name or it lacks labels."""
    if name.endswith(".py"):
        described = importlib.util.spec_from_file_location("metric", name)
        module = importlib.util.module_from_spec(described)
        described.loader.exec_module(module)
        return module.metric
    if name not in METRICS:
        raise Unusable(f"metric '{name}' is none of {', '.join(METRICS)}, nor a .py file")
    if name in ("accuracy", "auc") and labels is None:
        raise Unusable(f"metric {name} needs an array 'labels' in the validation data; without labels take agreement or cosine")
    return METRICS[name]


# --- quantization -----------------------------------------------------------------------------------------------------


def quantize(model, want, calibration, validation, measure):
    """Return the INT8 model by the method that is wanted.

    `measure(compiled model, rows)` returns its metric (a value a row, or one) and its outputs on rows of the validation data.
    """
    import nncf

    if want["method"] == "weights":
        scope = {"ignored_scope": nncf.IgnoredScope(names=want["ignored"])} if want["ignored"] else {}
        return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM, **scope)
    if want["method"] == "neural_compressor":
        return neural_compressor(want)
    if want["method"] == "trained":
        return read_model(want["trained"], want["calibration"])
    rows = {name: array[: want["samples"]] for name, array in calibration.items()}
    options = {
        "preset": nncf.QuantizationPreset(want["preset"]),
        "subset_size": want["samples"],
        "model_type": nncf.ModelType(want["model_type"]) if want["model_type"] else None,
        "ignored_scope": nncf.IgnoredScope(names=want["ignored"]) if want["ignored"] else None,
    }
    data = nncf.Dataset(list(batches(rows, batch_of(model))))
    if want["method"] == "nncf":
        return nncf.quantize(model, data, **options)

    # NNCF asks for the metric of all samples, and of some to rank the layers, by the metric of each or else by its outputs. An item is the rows of a batch.
    count, size = len(next(iter(validation.values()))), batch_of(model)
    items = [np.arange(start, min(start + size, count)) for start in range(0, count, size)]

    def measured(compiled, given):
        given = list(given)
        rows = np.concatenate(given)
        values, got = measure(compiled, rows)
        if len(rows) == count:
            say(f"  a candidate has {want['metric']} {values.mean():.4f}")
        ends = np.cumsum([len(it) for it in given])[:-1]
        if values.ndim:
            return float(values.mean()), [float(it.mean()) for it in np.split(values, ends)]
        return float(values), [list(it) for it in zip(*(np.split(output, ends) for output in got))]

    data_of = nncf.Dataset(items, lambda rows: next(batches({name: array[rows] for name, array in validation.items()}, size)))
    return nncf.quantize_with_accuracy_control(model, data, data_of, measured, max_drop=want["max_drop"], drop_type=nncf.DropType.ABSOLUTE, **options)


def neural_compressor(want):
    """Return the model that Neural Compressor 2.6 tunes out of an ONNX file, in its own environment (AINODE_NEURAL_COMPRESSOR: its Python)."""
    python = os.environ.get("AINODE_NEURAL_COMPRESSOR")
    if not python:
        raise Unusable("method neural_compressor runs in an environment of its own: name its Python in AINODE_NEURAL_COMPRESSOR")
    if not want["source"].endswith(".onnx"):
        raise Unusable(f"{want['name']}: method neural_compressor takes ONNX, not {want['source']}")
    with tempfile.TemporaryDirectory() as directory:
        result = os.path.join(directory, "int8.onnx")
        program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tune.py")
        done = subprocess.run([python, program, json.dumps({**want, "result": result})], stdout=sys.stderr, check=False)
        if done.returncode:
            raise Unusable(f"{want['name']}: Neural Compressor ended with status {done.returncode}; its last words are above")
        return read_model(result, None)


def kept_in_fp32(compiled):
    """Return the layers (convolutions and matrix products) of a compiled model that do not compute in INT8, out of its runtime graph.

    https://docs.openvino.ai/2026/openvino-workflow/running-inference/inference-devices-and-modes/cpu-device.html
    """
    layers = []
    for node in compiled.get_runtime_model().get_ops():
        told = {key: str(node.get_rt_info()[key].value) for key in ("layerType", "runtimePrecision", "originalLayersNames") if key in node.get_rt_info()}
        if told.get("layerType") in ("Convolution", "Deconvolution", "FullyConnected", "MatMul") and told.get("runtimePrecision") not in ("i8", "u8"):
            layers.append(told.get("originalLayersNames", "").split(",")[0] or node.get_friendly_name())
    return layers


def least_seconds(models, arrays, seconds=1.0):
    """Return the least processor seconds that each of the `models` takes for its first batch, on one thread, in turns: other load makes calls longer only."""
    batch = next(batches(arrays, batch_of(models[0])))
    requests = [compile_model(model, 1).create_infer_request() for model in models]
    for request in requests:
        request.infer(batch)
    best, end = [float("inf")] * len(requests), time.perf_counter() + seconds * len(requests)
    while time.perf_counter() < end:
        for number, request in enumerate(requests):
            start = time.process_time()
            request.infer(batch)
            best[number] = min(best[number], time.process_time() - start)
    return best


def make(want, made_of, directory):
    """Make the artefact in `directory` and return its report."""
    import openvino as ov

    start = time.monotonic()
    say(f"{want['name']}: reading {want['source']}")
    model = read_model(want["source"], want["calibration"])
    names = [name_of(port) for port in model.inputs]
    ov.save_model(model, os.path.join(directory, "fp32", "model.xml"), compress_to_fp16=False)
    report = {"name": want["name"], "made_of": made_of, "method": want["method"], "metric": want["metric"], "size_bytes": {"fp32": size(directory, "fp32")}}
    if want["method"] == "none":
        return report
    validation, labels = samples(want["validation"], names)
    calibration = samples(want["calibration"], names)[0] if want["calibration"] else None
    metric = metric_of(want["metric"], labels)
    try:
        reference = outputs(compile_model(model), validation)
    except RuntimeError as error:
        raise Unusable(f"{want['name']} cannot compute the validation data: {str(error).strip().splitlines()[-1]}") from None

    def measure(compiled, rows):
        got = outputs(compiled, {name: array[rows] for name, array in validation.items()})
        return np.asarray(metric(got, [it[rows] for it in reference], labels if labels is None else labels[rows]), np.float64), got

    fp32 = float(np.mean(metric(reference, reference, labels)))
    say(f"{want['name']}: FP32 has {want['metric']} {fp32:.4f} on {len(reference[0])} samples; quantizing with method {want['method']}")
    quantized = name_ports(quantize(model, want, calibration, validation, measure))
    kept_ports(model, quantized, want)
    ov.save_model(quantized, os.path.join(directory, "int8", "model.xml"), compress_to_fp16=False)
    # What is judged is what will be served: the files.
    model, quantized = (ov.Core().read_model(os.path.join(directory, kind, "model.xml")) for kind in ("fp32", "int8"))
    compiled = compile_model(quantized)
    int8 = float(measure(compiled, np.arange(len(reference[0])))[0].mean())
    say(f"{want['name']}: INT8 has {want['metric']} {int8:.4f}; measuring its speed")
    seconds = least_seconds([model, quantized], validation)
    report["size_bytes"]["int8"] = size(directory, "int8")
    report.update(
        value={"fp32": fp32, "int8": int8},
        drop=fp32 - int8,
        samples={"calibration": min(want["samples"], len(next(iter(calibration.values())))) if calibration else 0, "validation": len(reference[0])},
        seconds_on_one_thread={"fp32": seconds[0], "int8": seconds[1]},
        speedup=seconds[0] / seconds[1],
        layers_in_fp32=kept_in_fp32(compiled),
        minutes=round((time.monotonic() - start) / 60, 2),
    )
    return report


def size(directory, kind):
    return sum(os.path.getsize(os.path.join(directory, kind, name)) for name in ("model.xml", "model.bin"))


def refusal(report, want):
    """Return why this model must not be deployed as INT8, or None."""
    if "drop" not in report or report["drop"] <= want["max_drop"]:
        return None
    return (
        f"{want['name']}: INT8 by method {want['method']} has {want['metric']} {report['value']['int8']:.4f} where FP32 has {report['value']['fp32']:.4f}: "
        f"a drop of {report['drop']:.4f}, and max_drop is {want['max_drop']}. Nothing is deployed. Try method {NEXT[want['method']]}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--look", action="store_true", help="make nothing, only say what is there")
    parser.add_argument("--artefacts", metavar="DIRECTORY", required=True, help="where artefacts lie")
    parser.add_argument("--log", metavar="FILE", help="write progress to a file too")
    parser.add_argument("--keep", metavar="COUNT", type=int, default=4, help="how many artefacts of a model to keep (default: %(default)s)")
    parser.add_argument("specification", metavar="SPECIFICATION.json", help="a file, or the JSON text itself")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    if options.log:
        # In the environment, for the programs that are started here.
        os.environ["AINODE_QUANTIZE_LOG"] = options.log
    try:
        text = options.specification
        if not text.lstrip().startswith("{"):
            with open(text, encoding="utf-8") as stream:
                text = stream.read()
        want = specification(text)
        made_of = inputs_of(want)
        digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]
        directory = os.path.join(options.artefacts, digest)
        built = not whole(directory)
        report = {}
        if built and not options.look:
            # NNCF draws its progress on stdout.
            with contextlib.redirect_stdout(sys.stderr):
                build(want, made_of, directory)
        if not (built and options.look):
            with open(os.path.join(directory, "report.json"), encoding="utf-8") as stream:
                report = json.load(stream)
        if not options.look:
            os.utime(directory)
            sweep(options.artefacts, want["name"], options.keep)
        told = {"name": want["name"], "method": want["method"], "max_drop": want["max_drop"], "digest": digest, "directory": directory, "built": built}
        print(json.dumps({**report, **told, "refused": refusal(report, want)}))
    except (Unusable, OSError) as error:
        print(f"quantize.py: {error}", file=sys.stderr)
        sys.exit(2)


def whole(directory):
    """Return whether an artefact is there, and all of its files are as they were when it was made."""
    try:
        with open(os.path.join(directory, "report.json"), encoding="utf-8") as stream:
            digests = json.load(stream)["sha256"]
        return all(file_digest(os.path.join(directory, name)) == digest for name, digest in digests.items())
    except (OSError, ValueError, KeyError, Unusable):
        return False


def sweep(artefacts, name, count):
    """Remove all but the `count` last used of the artefacts that were made for the model `name`, and what a killed run left a day ago."""
    used = []
    for entry in os.scandir(artefacts):
        if "." in entry.name:
            if entry.stat().st_mtime < time.time() - 86400:
                shutil.rmtree(entry.path)
            continue
        with contextlib.suppress(OSError, ValueError), open(os.path.join(entry.path, "report.json"), encoding="utf-8") as stream:
            if json.load(stream)["name"] == name:
                used.append((entry.stat().st_mtime_ns, entry.path))
    for _time, path in sorted(used, reverse=True)[count:]:
        shutil.rmtree(path)


def build(want, made_of, directory):
    """Make the artefact beside `directory` and give it its name when it is whole."""
    os.makedirs(os.path.dirname(directory), exist_ok=True)
    shutil.rmtree(directory, ignore_errors=True)
    scratch = tempfile.mkdtemp(prefix=os.path.basename(directory) + ".", dir=os.path.dirname(directory))
    try:
        report = make(want, made_of, scratch)
        kinds = sorted(report["size_bytes"])
        report["sha256"] = {f"{kind}/model.xml": file_digest(os.path.join(scratch, kind, "model.xml")) for kind in kinds}
        with open(os.path.join(scratch, "report.json"), "w", encoding="utf-8") as stream:
            json.dump(report, stream, indent=2)
        os.chmod(scratch, 0o755)
        os.sync()
        try:
            os.rename(scratch, directory)
        except OSError:
            if not whole(directory):  # else another run made the same meanwhile
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
