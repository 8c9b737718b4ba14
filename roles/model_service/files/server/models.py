# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""OpenVINO models behind kserve's data plane: loaded, checked and warmed, asked by asynchronous requests, so that the event loop never waits for one.

A model that cannot be served rightly is unavailable with its reason, and takes no other down.
"""

from __future__ import annotations

import asyncio
import collections
import json
import logging
import math
import os
import time

import integers
import numpy as np
import openvino as ov
from kserve import Model, ModelRepository
from kserve.errors import ModelNotFound
from kserve.metrics import PREDICT_HIST_TIME, get_labels
from kserve.protocol.dataplane import DataPlane
from tensors import NUMPY, Invalid, at

DATATYPES = {
    "boolean": "BOOL", "u8": "UINT8", "u16": "UINT16", "u32": "UINT32", "u64": "UINT64", "i8": "INT8", "i16": "INT16", "i32": "INT32", "i64": "INT64",
    "f16": "FP16", "bf16": "BF16", "f32": "FP32", "f64": "FP64", "string": "BYTES",
}  # fmt: skip
FP32 = np.finfo(np.float32)
# Seconds until a request is first looked at, whether it failed, is late or nobody waits for it any more; then after twice as many, up to the last.
FIRST_LOOK, LAST_LOOK = 0.01, 0.08


class Unavailable(Exception):
    """A model is not served, or the service is not ready; the text says why."""


class Busy(Exception):
    """There is no room for another request; `seconds` later there may be."""

    def __init__(self, text, seconds=1):
        super().__init__(text)
        self.seconds = max(1, math.ceil(seconds))


class TooLong(Exception):
    """A request was not through by its deadline, and was stopped."""


class Gone(Exception):
    """The client hung up, and its request was stopped."""


Port = collections.namedtuple("Port", "number name datatype shape bounds limits")


def last_line(error):
    """Return what an error of OpenVINO's says, without the places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("Exception from ")]
    return lines[-1][:300] if lines else type(error).__name__


def dimensions(shape):
    """Return a shape as the protocol writes it: -1 for what is free, [-1] where even the number of dimensions is."""
    return [-1] if shape.rank.is_dynamic else [size.get_length() if size.is_static else -1 for size in shape]


class OpenVINOModel(Model):
    """One model, compiled for this processor, with as many requests under way as OpenVINO has a use for."""

    def __init__(self, name, path, options):
        super().__init__(name)
        self.path, self.options = path, options
        # Artefacts lie in a directory named by their digest and precision.
        self.version = os.path.basename(os.path.realpath(os.path.dirname(path)))
        self.reason = "it is being loaded"
        self.inputs, self.outputs = {}, []
        self.idle, self.waiting, self.usual = asyncio.LifoQueue(), 0, 0.0
        self.overdue = {}
        self.histogram = PREDICT_HIST_TIME.labels(**get_labels(name))

    # --- loading ---

    def load(self):
        """Compile and warm the model; Unavailable says why it cannot be served. Blocks for seconds."""
        try:
            self._load()
        except Unavailable as error:
            self.ready, self.reason = False, str(error)
            raise
        except Exception as error:
            self.ready, self.reason = False, f"OpenVINO cannot load it: {last_line(error)}"
            raise Unavailable(self.reason) from None
        self.ready, self.reason = True, ""
        return True

    def _load(self):
        model = ov.Core().read_model(self.path)
        inputs, outputs = self._ports(model.inputs, "input"), self._ports(model.outputs, "output")
        try:
            limits = integers.limits(model)
        except integers.Beyond as error:
            raise Unavailable(str(error)) from None
        divided = integers.division_by_input(model)
        if divided:
            raise Unavailable(f"its operation {divided} divides integers by what a client sends, and a zero there ends OpenVINO's process")
        check_constants(model)
        # numpy has no BF16: the model's edge takes and gives float32.
        if "BF16" in (datatype for _name, datatype, _shape in inputs + outputs):
            edge = ov.preprocess.PrePostProcessor(model)
            for number, (_name, datatype, _shape) in enumerate(inputs):
                if datatype == "BF16":
                    edge.input(number).tensor().set_element_type(ov.Type.f32)
            for number, (_name, datatype, _shape) in enumerate(outputs):
                if datatype == "BF16":
                    edge.output(number).tensor().set_element_type(ov.Type.f32)
            model = edge.build()
        bounds = self._bounds([name for name, *_rest in inputs])
        self.inputs = {name: Port(number, name, datatype, shape, bounds.get(name), limits.get(name)) for number, (name, datatype, shape) in enumerate(inputs)}
        self.outputs = [Port(number, name, datatype, shape, None, None) for number, (name, datatype, shape) in enumerate(outputs)]
        self.saturates = {port.name for port in self.outputs if port.datatype in ("INT64", "UINT64", "UINT32")} if casts_to_wide(model) else ()
        compiled = ov.Core().compile_model(model, "CPU", self.options.settings)
        # Outputs of another type than the model's would be other numbers.
        for port, kind in ((port, DATATYPES.get(port.get_element_type().to_string())) for port in compiled.outputs):
            if kind is None:
                raise Unavailable(f"OpenVINO gives its output {port.get_any_name()} as {port.get_element_type().to_string()}")
        self.compiled, self.idle = compiled, asyncio.LifoQueue()
        requests = [compiled.create_infer_request() for _request in range(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))]
        self.stateful = bool(requests[0].query_state())
        for request in requests:
            self._warm(request)
            request.set_callback(_wake, None)
            self.idle.put_nowait(request)

    def _ports(self, ports, what):
        """Return [(name, datatype, shape)]; Unavailable where the protocol has no word for one."""
        found = []
        for port in ports:
            name = port.get_any_name() if port.get_names() else port.get_node().get_friendly_name()
            kind = port.get_element_type().to_string()
            if kind not in DATATYPES:
                raise Unavailable(f"its {what} {name} is {kind}, which the protocol has no datatype for: convert it to another type in the model")
            if name in (it[0] for it in found):
                raise Unavailable(f"it has two {what}s named {name}")
            found.append((name, DATATYPES[kind], port.get_partial_shape()))
        return found

    def _bounds(self, names):
        """Return {input: the largest size of each dimension}: of the report beside the model, else None for an input."""
        path = os.path.join(os.path.dirname(self.path), "report.json")
        try:
            with open(path, encoding="utf-8") as file:
                given = json.load(file).get("bounds") or {}
            return {name: [int(size) for size in given[name]] for name in names if name in given}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise Unavailable(f"its report.json is not usable: {error}") from None

    def _warm(self, request):
        """Compute zeros: the first time OpenVINO makes its code and takes its memory. What a model of free sizes does not take so small is left cold."""
        try:
            request.infer({
                port.number: as_openvino(port.datatype, zeros(port.datatype, [max(size, 1) for size in dimensions(port.shape)]))
                for port in self.inputs.values()
            })  # fmt: skip
        except RuntimeError as error:
            logging.warning("model %s is not warm, it does not take zeros in the smallest sizes: %s", self.name, last_line(error))

    async def healthy(self):
        return self.ready

    def get_input_types(self):
        return [{"name": port.name, "datatype": port.datatype, "shape": dimensions(port.shape)} for port in self.inputs.values()]

    def get_output_types(self):
        return [{"name": port.name, "datatype": port.datatype, "shape": dimensions(port.shape)} for port in self.outputs]

    # --- requests ---

    def arrays(self, given):
        """Return {input's number: array} of [(name, datatype, array)]; Invalid says what does not fit the model."""
        arrays = {}
        for name, datatype, array in given:
            port = self.inputs.get(name)
            if port is None:
                raise Invalid(f"model {self.name} has no input '{name}'; its inputs are {', '.join(self.inputs)}")
            if datatype != port.datatype:
                raise Invalid(f"input {name} of model {self.name} is {port.datatype}, not {datatype}")
            if not port.shape.compatible(ov.PartialShape(list(array.shape))):
                raise Invalid(f"input {name} of model {self.name} has the shape {dimensions(port.shape)}, not {list(array.shape)}")
            self._check_bounds(port, array)
            if port.limits and array.size and (array.min() < port.limits[0] or array.max() > port.limits[1]):
                index = int(((array < port.limits[0]) | (array > port.limits[1])).argmax())
                raise Invalid(
                    f"input {name} of model {self.name} has {array.flat[index]} at {at(array.shape, index)}: "
                    f"this model computes rightly with {port.limits[0]} to {port.limits[1]}: OpenVINO has 32 bits for integers, and FP32 for some operations"
                )
            if datatype == "FP64":
                self._check_double(port, array)
            arrays[port.number] = as_openvino(datatype, array)
        if len(arrays) != len(self.inputs):
            missing = [name for name, port in self.inputs.items() if port.number not in arrays]
            raise Invalid(f"the request lacks the input {', '.join(missing)} of model {self.name}")
        return arrays

    def _check_bounds(self, port, array):
        for axis, size in enumerate(array.shape):
            most = port.bounds[axis] if port.bounds and axis < len(port.bounds) else self.options.max_free
            if size > most and not (port.shape.rank.is_static and port.shape[axis].is_static):
                raise Invalid(f"input {port.name} of model {self.name} has the size {size} in dimension {axis}: at most {most} are taken")

    def _check_double(self, port, array):
        """OpenVINO computes FP64 in FP32: beyond its range a number would be infinite or nothing."""
        magnitude = np.abs(array)
        # An infinity becomes FP32's largest number.
        bad = (magnitude > FP32.max) | ((magnitude < FP32.tiny) & (magnitude > 0))
        if bad.any():
            index = int(bad.argmax())
            raise Invalid(
                f"input {port.name} of model {self.name} has {array.flat[index]} at {at(array.shape, index)}: "
                f"OpenVINO computes FP64 in FP32, which goes from {FP32.tiny} to {FP32.max}"
            )

    async def infer(self, request, gone=None):
        """Return the outputs [(name, datatype, array)] of a request. `gone()` ends when the client hangs up."""
        if not self.ready:
            raise Unavailable(f"model {self.name} is unavailable: {self.reason}")
        arrays = self.arrays(request.inputs)
        wanted = request.outputs
        if wanted:
            unknown = [name for name in wanted if name not in {port.name for port in self.outputs}]
            if unknown:
                raise Invalid(f"model {self.name} has no output '{unknown[0]}'; its outputs are {', '.join(port.name for port in self.outputs)}")
        started = time.perf_counter()
        deadline = started + self.options.timeout
        openvino = await self._turn(deadline)
        done, running = asyncio.get_running_loop().create_future(), False
        try:
            if self.stateful:
                openvino.reset_state()
            openvino.start_async(arrays, done)
            running = True
            await self._through(openvino, done, deadline, gone)
            running = False
            openvino.wait()
            results = [
                (port.name, port.datatype, self._output(port, openvino.get_output_tensor(port.number)))
                for port in self.outputs
                if not wanted or port.name in wanted
            ]
        except (Gone, TooLong, asyncio.CancelledError):
            if running:
                openvino.cancel()
            raise
        except RuntimeError as error:
            running = False
            text = last_line(error)
            if "alloc" in text or "memory" in text:
                raise Busy(f"model {self.name} found no memory for this request: {text}") from None
            raise Invalid(f"model {self.name} cannot compute this request: {text}") from None
        finally:
            if running:
                # Until it has ended this instance is not ready.
                self.overdue[openvino] = asyncio.ensure_future(self._reap(openvino, done))
            else:
                self.idle.put_nowait(openvino)
        seconds = time.perf_counter() - started
        self.usual += 0.1 * (seconds - self.usual)
        self.histogram.observe(seconds)
        return results

    async def _turn(self, deadline):
        """Return an idle request of OpenVINO's; Busy when too many wait already, TooLong when the deadline comes first."""
        try:
            return self.idle.get_nowait()
        except asyncio.QueueEmpty:
            pass
        if self.waiting >= self.options.queue:
            raise Busy(f"{self.waiting} requests wait for model {self.name} already", self.waiting * self.usual)
        self.waiting += 1
        try:
            return await asyncio.wait_for(self.idle.get(), deadline - time.perf_counter())
        except TimeoutError:
            raise TooLong(f"the request waited {self.options.timeout:g} s for model {self.name}") from None
        finally:
            self.waiting -= 1

    async def _through(self, openvino, done, deadline, gone):
        """Wait until OpenVINO is through; Gone when the client is first, TooLong when the deadline is. Raises RuntimeError with what OpenVINO failed with."""
        step, hangup = FIRST_LOOK, None
        try:
            while True:
                left = deadline - time.perf_counter()
                await asyncio.wait((done, hangup) if hangup else (done,), timeout=min(step, left), return_when=asyncio.FIRST_COMPLETED)
                if done.done():
                    return
                # A request that fails wakes nobody: it is asked, and raises then.
                openvino.wait_for(0)
                if hangup is not None and hangup.done():
                    raise Gone("the client hung up")
                if time.perf_counter() >= deadline:
                    raise TooLong(f"model {self.name} did not answer within {self.options.timeout:g} s; the request was stopped")
                if hangup is None and gone is not None:
                    hangup = asyncio.ensure_future(gone())
                step = min(2 * step, LAST_LOOK)
        finally:
            if hangup is not None:
                hangup.cancel()

    async def _reap(self, openvino, done):
        """Wait until a request that was stopped has ended, which it does between two operations; until then its tensors are OpenVINO's."""
        try:
            while not done.done():
                openvino.wait_for(0)
                await asyncio.sleep(FIRST_LOOK)
        except RuntimeError:
            pass
        self.overdue.pop(openvino, None)
        self.idle.put_nowait(openvino)

    def _output(self, port, tensor):
        """Return a copy of an output's array; Invalid where OpenVINO's 32 bits did not hold it."""
        if port.datatype == "BYTES":
            array = np.empty(tuple(tensor.shape), np.object_)
            # OpenVINO ends the process when it is asked for the strings of an empty tensor.
            if array.size:
                array.reshape(-1)[:] = [bytes(item) for item in tensor.bytes_data.flat]
            return array
        array = tensor.data.copy()
        if port.datatype == "FP64" and (np.abs(array) == FP32.max).any():
            raise Invalid(f"output {port.name} of model {self.name} is beyond FP32's range, in which OpenVINO computes FP64")
        if port.name in self.saturates and array.size:
            bad = (array == integers.HIGH) | (array == integers.LOW)
            if bad.any():
                raise Invalid(
                    f"output {port.name} of model {self.name} reached {array.flat[int(bad.argmax())]}: the model makes integers of numbers that "
                    "OpenVINO's 32 bits do not hold"
                )
        return array


def _wake(done):
    """Tell the event loop that OpenVINO is through; called in a thread of OpenVINO's."""
    done.get_loop().call_soon_threadsafe(lambda: done.done() or done.set_result(None))


def zeros(datatype, shape):
    """Return an array of zeros, false or empty strings."""
    if datatype == "BYTES":
        return np.full(shape, b"", np.object_)
    return np.zeros(shape, NUMPY[datatype])


def as_openvino(datatype, array):
    """Return what OpenVINO takes for an array; Invalid for a string that it would cut off."""
    if datatype != "BYTES":
        return array
    for index, item in enumerate(array.flat):
        if b"\0" in item:
            raise Invalid(f"a string has a zero byte at {at(array.shape, index)}, which ends strings in OpenVINO")
    tensor = ov.Tensor(ov.Type.string, ov.Shape(list(array.shape)))
    if array.size:
        tensor.bytes_data = array.astype(np.bytes_)
    return tensor


def casts_to_wide(model):
    """Whether the model makes wide integers of floating-point numbers, which OpenVINO saturates at 32 bits."""
    return any(
        node.get_type_name() == "Convert" and node.get_output_element_type(0).to_string() in integers.WIDE and node.get_input_element_type(0).is_real()
        for node in model.get_ops()
    )


def check_constants(model):
    """Raise Unavailable for an FP64 constant beyond FP32's range, which OpenVINO would make infinite or zero."""
    for node in model.get_ops():
        if node.get_type_name() == "Constant" and node.get_output_element_type(0).to_string() == "f64":
            magnitude = np.abs(node.data)
            if ((magnitude > FP32.max) & np.isfinite(magnitude) | (magnitude < FP32.tiny) & (magnitude > 0)).any():
                raise Unavailable(f"its constant {node.get_friendly_name()} is FP64 beyond FP32's range, in which OpenVINO's CPU plugin computes")


class Repository(ModelRepository):
    """The models below a directory."""

    def __init__(self, directory, options):
        super().__init__(directory)
        self.options = options

    async def load(self, name):
        """Load a model, in a thread: the others go on answering. One that cannot be served is unavailable; one that was served before stays. Raises
        Unavailable."""
        # Only what is in the directory: a name from outside is no path.
        if name not in os.listdir(self.models_dir):
            raise ModelNotFound(name)
        model = OpenVINOModel(name, os.path.join(self.models_dir, name, "model.xml"), self.options)
        try:
            await asyncio.get_running_loop().run_in_executor(None, model.load)
        except Unavailable as error:
            before = self.get_model(name)
            if before is None or not before.ready:
                self.update(model)
            logging.error("model %s is unavailable: %s", name, error)
            raise Unavailable(f"model {name} is unavailable: {error}") from None
        self.update(model)

    async def is_model_ready(self, name):
        model = self.get_model(name)
        return model is not None and model.ready


class Plane(DataPlane):
    """kserve's data plane, which knows whether the service is ready and what OpenVINO's models are."""

    stopping = False

    def why_not_ready(self, every=False):
        """Return why the service is not ready, or None; with `every` it is so only when every model is."""
        models = self.model_registry.get_models().values()
        if self.stopping:
            return "the service is stopping"
        # What a deadline or a client stopped may go on for a while, on the cores that the next request needs.
        stuck = [model.name for model in models if model.overdue]
        if stuck:
            return f"model {stuck[0]} has not ended a request that was stopped"
        bad = [model for model in models if not model.ready]
        if bad and (every or len(bad) == len(models)):
            return "; ".join(f"model {model.name} is unavailable: {model.reason}" for model in bad)
        return None

    async def ready(self):
        return self.why_not_ready() is None

    def available(self, name):
        """Return a model that is served; ModelNotFound or Unavailable."""
        model = self.get_model_from_registry(name)
        if not model.ready:
            raise Unavailable(f"model {name} is unavailable: {model.reason}")
        return model

    async def model_metadata(self, model_name):
        model = self.available(model_name)
        metadata = await super().model_metadata(model_name)
        return {**metadata, "platform": "openvino", "versions": [model.version]}
