# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Proof of Extension for Scikit-learn: a patched estimator really runs on oneDAL, with which instructions, and how much faster than stock."""

from __future__ import annotations

import io
import logging
import re
import sys

import ainode_proof as proof
import daal4py
import numpy as np
import sklearn.ensemble
import sklearnex.ensemble
from threadpoolctl import threadpool_limits


def fit(module, data):
    """Fit a forest of 20 trees of `module` to the rows `data`."""
    module.RandomForestClassifier(20, n_jobs=1, random_state=0).fit(data, data[:, 0] + data[:, 1] > 1)


def instructions():
    """Return what oneDAL says it was dispatched to ("AVX2", "AVX-512", …): it prints a banner at its first verbose call."""
    _result, said = proof.again("name", ONEDAL_VERBOSE="3")
    found = re.search(r"Processor optimization:\s*(.*)", said)
    name = found.group(1).strip() if found else "unknown instructions"
    return name.replace("Intel(R) ", "").replace("Advanced Vector Extensions ", "AVX").replace("AVX512", "AVX-512")


def main():
    data = np.random.default_rng(0).random((4000, 32))
    if len(sys.argv) > 1:
        fit(sklearnex.ensemble, data)
        print("{}", file=sys.stderr)
        return
    log = io.StringIO()
    logger = logging.getLogger("sklearnex")
    logger.handlers, logger.propagate = [logging.StreamHandler(log)], False
    logger.setLevel(logging.INFO)
    daal4py.daalinit(1)
    fit(sklearnex.ensemble, data)
    logger.setLevel(logging.WARNING)
    patched = proof.best_seconds(lambda: fit(sklearnex.ensemble, data))
    with threadpool_limits(1):
        stock = proof.best_seconds(lambda: fit(sklearn.ensemble, data))
    live = f"oneDAL with {instructions()}"
    speed = f"RandomForestClassifier {stock / patched:.1f} times as fast as stock scikit-learn on one core"
    if "running accelerated version on CPU" not in log.getvalue():
        proof.say("fail", "stock scikit-learn", f"sklearnex fell back to stock: {log.getvalue().strip() or 'it gave no reason'}")
    if stock < patched:
        proof.say("advice", live, f"{speed}: patch chosen estimators only")
    proof.say("pass", live, speed)


if __name__ == "__main__":
    proof.main(main)
