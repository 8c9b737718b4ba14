# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests and answers of the Open Inference Protocol as numpy arrays: what a value is in JSON, in binary data and in gRPC's contents.

A value that its datatype cannot hold is refused with the input, the index and the value; nothing is rounded to another integer, cut off or wrapped. A
floating-point number is rounded to the nearest of its datatype, and refused beyond that datatype's range.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import itertools
import math
import zlib

import numpy as np
import orjson

# BF16 is an array of float32, which holds each of its values; BYTES an array of objects of the type bytes.
NUMPY = {
    "BOOL": np.bool_, "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "UINT8": np.uint8, "UINT16": np.uint16,
    "UINT32": np.uint32, "UINT64": np.uint64, "FP16": np.float16, "BF16": np.float32, "FP32": np.float32, "FP64": np.float64, "BYTES": np.object_,
}  # fmt: skip
# Where a tensor's values are in gRPC's contents; FP16 and BF16 come as raw bytes alone.
CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents", "INT64": "int64_contents", "UINT8": "uint_contents",
    "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}  # fmt: skip
LARGEST_BF16 = 3.3895313892515355e38
JSON_LENGTH = "inference-header-content-length"
# What a client relies on when it sends one of these, and what is not here: without it the answer would be another one than it takes it for.
NOT_HERE = {
    "sequence_id": "no sequence is kept: every request starts from the model's initial state",
    "sequence_start": "no sequence is kept: every request starts from the model's initial state",
    "sequence_end": "no sequence is kept: every request starts from the model's initial state",
    "shared_memory_region": "there is no shared memory: send the data with the request",
    "shared_memory_byte_size": "there is no shared memory: send the data with the request",
    "classification": "outputs are not classified: ask for the scores",
}


class Invalid(Exception):
    """One sentence about a request that is not as the protocol or the model wants it."""


class TooLarge(Exception):
    """A request's body is larger than the service takes."""


class Request:
    """An inference request: `inputs` [(name, datatype, array)], `outputs` {name: whether in binary} or None for all, which are then in binary or not as
    `binary` says."""

    __slots__ = ("binary", "id", "inputs", "outputs")

    def __init__(self, identity, inputs, outputs, binary):
        self.id, self.inputs, self.outputs, self.binary = identity, inputs, outputs, binary

    def is_binary(self, name):
        """Whether an output is sent in binary."""
        return self.binary if self.outputs is None else self.outputs[name]


# --- arrays -----------------------------------------------------------------------------------------------------------


def sizes(name, datatype, shape):
    """Return how many elements a tensor of this shape has; Invalid when its datatype or shape is none."""
    if datatype not in NUMPY:
        raise Invalid(f"input {name} has the datatype {datatype!r}; the protocol has {', '.join(NUMPY)}")
    if not isinstance(shape, list) or not all(type(size) is int and 0 <= size < 1 << 40 for size in shape):
        raise Invalid(f"input {name} has the shape {str(shape)[:100]}: a list of sizes is expected")
    return math.prod(shape)


def at(shape, index):
    """Return where an element is, as a list of indices."""
    return [int(it) for it in np.unravel_index(index, shape)] if shape else []


def refuse(name, datatype, shape, index, value, why):
    raise Invalid(f"input {name} has {str(value)[:40]!s} at {at(shape, index)}: {why.format(datatype=datatype)}")


def flat(name, shape, count, data):
    """Return the elements of a tensor's JSON data, which is one list or lists in lists as the shape says."""
    if not isinstance(data, list):
        raise Invalid(f"input {name} has as its data {str(data)[:40]}: a list is expected")
    if list not in set(map(type, data)):
        if len(data) != count:
            raise Invalid(f"input {name} has {len(data)} elements; the shape {shape} has {count}")
        return data
    level = [data]
    for depth, size in enumerate(shape):
        for part in level:
            if type(part) is not list or len(part) != size:
                raise Invalid(f"the lists of input {name} are not nested as its shape {shape}: in dimension {depth} {size} elements are expected")
        level = list(itertools.chain.from_iterable(level))
    return level


def from_json(name, datatype, shape, data):
    """Return the array of a tensor's JSON data; Invalid names the first value that is none of the datatype."""
    count = sizes(name, datatype, shape)
    items = flat(name, shape, count, data)
    kinds, dtype = set(map(type, items)), NUMPY[datatype]
    known = {"BOOL": {bool}, "BYTES": {str}}.get(datatype, {int, float})
    if not kinds <= known:
        index = next(index for index, item in enumerate(items) if type(item) not in known)
        value = items[index] if isinstance(items[index], list) else orjson.dumps(items[index]).decode()
        refuse(
            name, datatype, shape, index, value, {"BOOL": "a {datatype} is true or false", "BYTES": "BYTES are strings"}.get(datatype, "{datatype} is a number")
        )
    if datatype == "BYTES":
        array = np.empty(count, np.object_)
        array[:] = [item.encode() for item in items]
    elif datatype in ("FP16", "BF16", "FP32", "FP64"):
        with np.errstate(over="ignore"):
            array = np.array(items, np.float32 if datatype == "BF16" else dtype)
        array = rounded_to_bf16(array) if datatype == "BF16" else array
        bad = ~np.isfinite(array)
        if bad.any():
            index = int(bad.argmax())
            refuse(name, datatype, shape, index, items[index], "that is beyond the range of {datatype}")
    else:
        array = integers(name, datatype, shape, items, kinds, dtype)
    return array.reshape(shape)


def integers(name, datatype, shape, items, kinds, dtype):
    """Return the array of integers (or bools) of these numbers; Invalid names the first that the datatype does not hold."""
    low, high = (0, 1) if datatype == "BOOL" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if float in kinds:
        for index, item in enumerate(items):
            # Beyond 2^53 the JSON number may have been another one.
            if type(item) is float and not (item.is_integer() and abs(item) < 1 << 53):
                refuse(name, datatype, shape, index, item, "that is no {datatype}")
        items = list(map(int, items))
    try:
        array = np.array(items, np.uint64 if datatype == "UINT64" else np.int64)
        bad = (array < low) | (array > high)
        index = int(bad.argmax()) if bad.any() else None
    except OverflowError:
        index = next(index for index, item in enumerate(items) if not low <= item <= high)
    if index is not None:
        refuse(name, datatype, shape, index, items[index], f"{{datatype}} goes from {low} to {high}")
    return array.astype(dtype, copy=False)


def from_bytes(name, datatype, shape, raw):
    """Return the array of a tensor's binary data, of the same memory where that holds it; Invalid when length, datatype and shape do not agree."""
    count = sizes(name, datatype, shape)
    if datatype == "BYTES":
        return from_strings(name, shape, count, raw)
    width = 2 if datatype == "BF16" else np.dtype(NUMPY[datatype]).itemsize
    if len(raw) != count * width:
        raise Invalid(f"input {name} has {len(raw)} bytes of data; {shape} of {datatype} are {count * width}")
    if datatype == "BF16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
    if datatype == "BOOL":
        values = np.frombuffer(raw, np.uint8)
        if count and values.max() > 1:
            index = int((values > 1).argmax())
            refuse(name, datatype, shape, index, values[index], "a {datatype} is the byte 0 or 1")
    return np.frombuffer(raw, NUMPY[datatype]).reshape(shape)


def from_strings(name, shape, count, raw):
    """Return the array of binary BYTES: each string after its length, four bytes little-endian."""
    raw, strings, place = bytes(raw), [], 0
    while place < len(raw):
        length = int.from_bytes(raw[place : place + 4], "little")
        if place + 4 + length > len(raw):
            raise Invalid(f"the binary data of input {name} end within the string {len(strings)}")
        strings.append(raw[place + 4 : place + 4 + length])
        place += 4 + length
    if len(strings) != count:
        raise Invalid(f"input {name} has {len(strings)} strings; the shape {shape} has {count}")
    array = np.empty(count, np.object_)
    array[:] = strings
    return array.reshape(shape)


def from_contents(name, datatype, shape, contents):
    """Return the array of gRPC's contents; Invalid when they are in another field than the datatype's, or too many, or beyond it."""
    count = sizes(name, datatype, shape)
    field = CONTENTS.get(datatype)
    others = [descriptor.name for descriptor, _value in contents.ListFields() if descriptor.name != field]
    if others:
        raise Invalid(f"input {name} has its data in {others[0]}; {datatype} has them in {field or 'raw_input_contents'}")
    items = list(getattr(contents, field)) if field else []
    if len(items) != count:
        raise Invalid(f"input {name} has {len(items)} elements; the shape {shape} has {count}")
    if datatype == "BYTES":
        array = np.empty(count, np.object_)
        array[:] = items
    elif datatype in ("FP32", "FP64"):
        array = np.array(items, NUMPY[datatype])
    else:
        array = integers(name, datatype, shape, items, {int}, NUMPY[datatype])
    return array.reshape(shape)


def rounded_to_bf16(array):
    """Return the float32 array with each value rounded to the nearest that BF16 has (ties to even); infinity beyond its range."""
    bits = array.view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)
    return np.where(np.isnan(array), array, rounded)


def to_bytes(datatype, array):
    """Return an output's array as binary data."""
    if datatype == "BYTES":
        return b"".join(len(item).to_bytes(4, "little") + item for item in array.flat)
    if datatype == "BF16":
        return (rounded_to_bf16(array).view(np.uint32) >> 16).astype("<u2").tobytes()
    return array.tobytes()


def for_json(name, datatype, array):
    """Return what orjson writes as an output's data; Invalid when JSON has no word for a value."""
    if datatype == "BYTES":
        try:
            return [item.decode() for item in array.flat]
        except UnicodeDecodeError:
            raise Invalid(f"output {name} holds bytes that are no UTF-8, which JSON cannot carry: ask for it in binary (binary_data)") from None
    array = np.ascontiguousarray(array).reshape(-1)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        index = int((~np.isfinite(array)).argmax())
        raise Invalid(f"output {name} holds {array[index]} at element {index}, which JSON cannot carry: ask for it in binary (binary_data)")
    return rounded_to_bf16(array) if datatype == "BF16" else array


# --- REST -------------------------------------------------------------------------------------------------------------


def unpacked(body, encoding, limit):
    """Return a body without its Content-Encoding; TooLarge as soon as it is more than `limit` bytes."""
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise Invalid(f"the Content-Encoding is {encoding[:40]}; gzip and deflate are known")
    try:
        inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)
        plain = inflate.decompress(body, limit + 1)
        whole = inflate.eof and not inflate.unused_data
    except zlib.error as error:
        raise Invalid(f"the body is no {encoding}: {error}") from None
    if len(plain) > limit:
        raise TooLarge(f"the request is larger than {limit} bytes")
    if not whole:
        raise Invalid(f"the body's {encoding} data do not end where the body does")
    return plain


def mapping(value, what):
    """Return a JSON object, {} for what is missing; Invalid when it is another thing."""
    if value is None:
        return {}
    if type(value) is not dict:
        raise Invalid(f"{what} is {str(value)[:40]}: an object is expected")
    return value


def listing(value, what):
    """Return a JSON list of objects; Invalid when it is another thing."""
    if type(value) is not list:
        raise Invalid(f"{what} is {str(value)[:40]}: a list is expected")
    return [mapping(item or 0, f"an entry of {what}") for item in value]


def text(value, what):
    """Return a string that is not empty; Invalid when it is another thing."""
    if type(value) is not str or not value:
        raise Invalid(f"{what} is {str(value)[:40]}: a string is expected")
    return value


def check_parameters(parameters, whose):
    """Raise Invalid when a client relies on what is not here."""
    for key in NOT_HERE.keys() & parameters.keys():
        if parameters[key]:
            raise Invalid(f"{whose} has the parameter {key}, and {NOT_HERE[key]}")


def no_twice(names, what):
    """Raise Invalid when a name is there twice."""
    twice = [name for index, name in enumerate(names) if name in names[:index]]
    if twice:
        raise Invalid(f"the request has the {what} {twice[0]} twice")


def decode(body, json_length):
    """Return the Request of a REST body, whose first `json_length` bytes (None: all) are JSON and the rest the inputs' binary data."""
    if json_length is None:
        length = len(body)
    else:
        length = int(json_length) if json_length.isascii() and json_length.isdigit() and len(json_length) < 19 else -1
        if not 0 <= length <= len(body):
            raise Invalid(f"{JSON_LENGTH} is {json_length[:40]}, the body has {len(body)} bytes")
    try:
        given = orjson.loads(memoryview(body)[:length])
    except ValueError as error:
        raise Invalid(f"no inference request: the body is no JSON: {error}") from None
    if type(given) is not dict or "inputs" not in given:
        raise Invalid("no inference request: an object with a list of inputs is expected")
    rest, inputs = memoryview(body)[length:], []
    for tensor in listing(given["inputs"], "inputs"):
        name = text(tensor.get("name"), "an input's name")
        datatype, shape = text(tensor.get("datatype"), f"the datatype of input {name}"), tensor.get("shape")
        parameters = mapping(tensor.get("parameters"), f"parameters of input {name}")
        check_parameters(parameters, f"input {name}")
        size, data = parameters.get("binary_data_size"), tensor.get("data")
        if size is None:
            inputs.append((name, datatype, from_json(name, datatype, shape, data)))
            continue
        if data is not None:
            raise Invalid(f"input {name} has data both in JSON and in binary")
        if type(size) is not int or not 0 <= size <= len(rest):
            raise Invalid(f"input {name} announces {str(size)[:40]} bytes of binary data, and the body has {len(rest)} left")
        inputs.append((name, datatype, from_bytes(name, datatype, shape, rest[:size])))
        rest = rest[size:]
    if rest:
        raise Invalid(f"the body has {len(rest)} bytes that no input announces")
    parameters = mapping(given.get("parameters"), "parameters")
    check_parameters(parameters, "the request")
    everything = truth(parameters.get("binary_data_output", False), "binary_data_output")
    outputs = None
    # A list without an entry asks for all of them, as none does.
    if given.get("outputs"):
        outputs = {}
        for output in listing(given["outputs"], "outputs"):
            name = text(output.get("name"), "an output's name")
            if name in outputs:
                raise Invalid(f"the request has the output {name} twice")
            parameters = mapping(output.get("parameters"), f"parameters of output {name}")
            check_parameters(parameters, f"output {name}")
            outputs[name] = truth(parameters.get("binary_data", everything), f"binary_data of output {name}")
    identity = given.get("id")
    if identity is not None and type(identity) is not str:
        raise Invalid(f"id is {str(identity)[:40]}: a string is expected")
    no_twice([name for name, *_rest in inputs], "input")
    return Request(identity, inputs, outputs, everything)


def truth(value, what):
    """Return a bool; Invalid when it is another thing."""
    if type(value) is not bool:
        raise Invalid(f"{what} is {str(value)[:40]}: true or false is expected")
    return value


def encode(request, model, version, outputs):
    """Return (body, length of its JSON or None when it has nothing else) of the answer with these outputs, [(name, datatype, array)]."""
    written, binary = [], []
    for name, datatype, array in outputs:
        entry = {"name": name, "datatype": datatype, "shape": list(array.shape)}
        if request.is_binary(name):
            binary.append(to_bytes(datatype, array))
            entry["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            entry["data"] = for_json(name, datatype, array)
        written.append(entry)
    answer = {"model_name": model, "model_version": version, "outputs": written}
    if request.id is not None:
        answer["id"] = request.id
    head = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join((head, *binary)), len(head)) if binary else (head, None)


# --- gRPC -------------------------------------------------------------------------------------------------------------


def plain(parameters):
    """Return the values of a protobuf map of parameters."""
    return {key: getattr(value, value.WhichOneof("parameter_choice") or "", None) for key, value in parameters.items()}


def from_grpc(message):
    """Return the Request of a ModelInferRequest."""
    raw, inputs = message.raw_input_contents, []
    if raw and len(raw) != len(message.inputs):
        raise Invalid(f"the request has {len(message.inputs)} inputs and {len(raw)} raw_input_contents")
    check_parameters(plain(message.parameters), "the request")
    for number, tensor in enumerate(message.inputs):
        check_parameters(plain(tensor.parameters), f"input {tensor.name}")
        shape = list(tensor.shape)
        if raw:
            if tensor.HasField("contents"):
                raise Invalid(f"input {tensor.name} has both contents and raw_input_contents")
            array = from_bytes(tensor.name, tensor.datatype, shape, raw[number])
        else:
            array = from_contents(tensor.name, tensor.datatype, shape, tensor.contents)
        inputs.append((tensor.name, tensor.datatype, array))
    for output in message.outputs:
        check_parameters(plain(output.parameters), f"output {output.name}")
    no_twice([name for name, *_rest in inputs], "input")
    no_twice([output.name for output in message.outputs], "output")
    return Request(message.id, inputs, {output.name: True for output in message.outputs} or None, True)
