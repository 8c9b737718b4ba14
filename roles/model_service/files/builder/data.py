# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Calibration and validation data: read by the slice, and looked at before anything is judged by them."""

from __future__ import annotations

import hashlib
import tempfile
import zipfile

import numpy as np
from metrics import Unusable

# Below this many different samples no share of them says anything.
LEAST = 20
SLICE = 1024


def mapped(path):
    """Return {name: array} of an .npz file, the arrays mapped rather than read; compressed ones by way of a nameless temporary file."""
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        broken = archive.testzip()
        if broken:
            raise ValueError(f"{broken} is damaged")
        for member in archive.infolist():
            with archive.open(member) as stream:
                version = np.lib.format.read_magic(stream)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, fortran, dtype = read(stream)
                if dtype.hasobject:
                    raise ValueError(f"{member.filename} holds Python objects")
                start = stream.tell()
                stored = member.compress_type == zipfile.ZIP_STORED
                if not stored:
                    file, start = tempfile.TemporaryFile(), 0  # noqa: SIM115  it lives as long as its array
                    while block := stream.read(1 << 20):
                        file.write(block)
                    file.flush()
            if stored:
                # The local header: 30 bytes, then a name and an extra field of the lengths it tells.
                with open(path, "rb") as raw:
                    raw.seek(member.header_offset + 26)
                    name, extra = (int.from_bytes(raw.read(2), "little") for _ in range(2))
                file, start = path, start + member.header_offset + 30 + name + extra
            order = "F" if fortran else "C"
            empty = not np.prod(shape, dtype=np.int64) or not dtype.itemsize
            key = member.filename.removesuffix(".npy")
            arrays[key] = np.empty(shape, dtype) if empty else np.memmap(file, dtype, "r", start, shape or (1,), order).reshape(shape)
    return arrays


def samples(path, names):
    """Return ({input name: array}, labels or None) of an .npz file for a model whose inputs have these names. Inputs are mapped, not read."""
    try:
        arrays = mapped(path)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise Unusable(f"{path} is no .npz file of arrays: {error}") from None
    labels = arrays.pop("labels", None)
    if len(names) == len(arrays) == 1:
        arrays = {names[0]: next(iter(arrays.values()))}
    if sorted(arrays) != sorted(names):
        raise Unusable(f"{path} holds the arrays {', '.join(sorted(arrays)) or '(none)'}; the model's inputs are {', '.join(sorted(names))}")
    for name, array in (*arrays.items(), *([("labels", labels)] if labels is not None else [])):
        if not array.ndim:
            raise Unusable(f"{name} in {path} is a single value: samples are expected along the first axis")
    counts = {len(array) for array in (*arrays.values(), *([labels] if labels is not None else []))}
    if len(counts) != 1 or 0 in counts:
        raise Unusable(f"the arrays in {path} hold {sorted(counts)} samples: they must be as many each, and not none")
    return arrays, labels if labels is None else np.array(labels)


def row_digests(arrays):
    """Return one digest a sample, over all of its inputs."""
    count = len(next(iter(arrays.values())))
    return [
        hashlib.blake2b(b"".join(np.ascontiguousarray(arrays[name][row]).tobytes() for name in sorted(arrays)), digest_size=16).digest() for row in range(count)
    ]


def looked_at(path, arrays):
    """Return sentences on what is strange about the data's values; Unusable where there are NaN or infinities, or all samples are zero."""
    notes = []
    for name, array in arrays.items():
        first = np.asarray(array[0])
        zero, same, bad = True, np.ones(first.shape, bool), []
        for start in range(0, len(array), SLICE):
            part = np.asarray(array[start : start + SLICE])
            zero = zero and part.dtype.kind in "iufb" and not part.any()
            same &= (part == first).all(axis=0)
            if part.dtype.kind == "f":
                bad += list(start + np.flatnonzero(~np.isfinite(part.reshape(len(part), -1)).all(axis=1)))
        if bad:
            raise Unusable(f"input {name} in {path} holds NaN or infinity in {len(bad)} of {len(array)} samples, first in sample {bad[0]}")
        if zero:
            notes.append(f"input {name} in {path} is all zero")
        elif len(array) > 1 and same.any():
            notes.append(f"input {name} in {path} has {same.sum()} of {same.size} columns with one and the same value in all samples")
    return notes


def enough(path, arrays, digests):
    """Return the number of different samples of validation data; Unusable where they are too few to tell anything."""
    different = len(set(digests))
    if all(not np.any(array[start : start + SLICE]) for array in arrays.values() for start in range(0, len(array), SLICE)):
        raise Unusable(f"the inputs in {path} are all zero: the data tell nothing")
    if different < LEAST:
        raise Unusable(f"{path} holds {different} different samples ({len(digests)} with repetitions): at least {LEAST} are needed to judge a model")
    return different
