# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the proofs share: the node's INT8 path, a timer that other load disturbs little, and the verdict on stdout.

A proof answers on this machine, now: does the framework compute INT8 with the instructions that the processor has for it? It names the kernel
that ran, and runs the same operation once more with ONEDNN_MAX_CPU_ISA=AVX512_CORE, where oneDNN leaves VNNI alone, for VNNI's share of the speed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time

# Kernel flag names (/proc/cpuinfo), the best first.
PATHS = ("amx_int8", "avx512_vnni", "avx_vnni", "asimddp")
# The words in oneDNN's names of the implementations that use them; AMX kernels are "avx10_1_512_amx" or "avx512_core_amx".
ONEDNN_NAMES = {"amx_int8": "amx", "avx512_vnni": "vnni", "avx_vnni": "avx2_vnni", "asimddp": "acl"}
# What ONEDNN_MAX_CPU_ISA must say for oneDNN to do without each of them:
# https://uxlfoundation.github.io/oneDNN/dev_guide_cpu_dispatcher_control.html
WITHOUT = {"amx_int8": "AVX512_CORE", "avx512_vnni": "AVX512_CORE", "avx_vnni": "AVX2"}
# VNNI below this share of the speed does not show: the kernel may bear its name and still not use it.
LEAST_SHARE = 1.2


def int8_path():
    """Return which of PATHS this processor has, or "none"."""
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as stream:
        words = next((set(line.split()) for line in stream if line.startswith(("flags", "Features"))), set())
    return next((name for name in PATHS if name in words), "none")


def best_seconds(operation, seconds=0.5):
    """Return the least processor seconds that one call of `operation` took in about `seconds`.

    Processor time and the least of many: what else runs on the node makes calls longer, never shorter.
    """
    operation()
    best, end = float("inf"), time.perf_counter() + seconds
    while True:
        start = time.process_time()
        operation()
        best = min(best, time.process_time() - start)
        if time.perf_counter() >= end:
            return best


def main(function):
    """Call `function` with a current, home and temporary directory of its own: packages write to all of them (nc_workspace, .keras, __autograph*).

    A proof leaves nothing behind.
    """
    sys.argv[0] = os.path.abspath(sys.argv[0])
    with tempfile.TemporaryDirectory() as directory:
        os.environ.update(HOME=directory, TMPDIR=directory)
        tempfile.tempdir = directory
        os.chdir(directory)
        function()


def run(measure, names, verbose=False):
    """Be what a proof over oneDNN does: measure INT8, FP32 and INT8 without the node's INT8 path, and give the verdict.

    `measure(int8)` returns {"seconds": of one operation, "kernels": names of the implementations that ran, "exact": whether INT8 saturated nowhere
    (where the operation can tell)} and runs in a process of its own, since oneDNN reads its environment once. `names` is {path: word that the name
    of a kernel using it contains}. With `verbose` the names come from what oneDNN itself reports of its 8-bit convolutions and matrix products.
    """
    if len(sys.argv) > 1:
        # oneDNN writes its lines to stdout through a buffer of its own, so the result goes where nothing can come in between.
        print("\n" + json.dumps(measure(sys.argv[1] == "int8")), file=sys.stderr)
        return
    path = int8_path()
    report = {"ONEDNN_VERBOSE": "1"} if verbose else {}
    without = dict(report, ONEDNN_MAX_CPU_ISA=WITHOUT[path]) if path in WITHOUT else None
    best, kernels = {}, []
    for _round in range(3):
        for kind, argument, environment in (("int8", "int8", report), ("fp32", "fp32", report), ("without", "int8", without)):
            if environment is not None:
                found, said = again(argument, **environment)
                best[kind] = min(best.get(kind, found), found, key=lambda it: it["seconds"])
                if kind == "int8":
                    kernels = sorted(onednn_kernels(said)) if verbose else found["kernels"]
        share = best["without"]["seconds"] / best["int8"]["seconds"] if without else None
        # On a busy node one round can be all noise.
        if share is None or share >= LEAST_SHARE:
            break
    kernel = ", ".join(kernels) or "no INT8 kernel"
    is_int8 = bool(kernels) and (verbose or all(name.endswith("_I8") for name in kernels))
    speed = f"INT8 {best['fp32']['seconds'] / best['int8']['seconds']:.1f} times as fast as FP32"
    if share is not None:
        speed += f", {share:.1f} times as fast as without {path}"
        speed += "" if best["without"].get("exact", True) else " (where it saturates and gives wrong results)"
    if not is_int8:
        say("fail", kernel, f"the operation ran in another type than INT8; {speed}")
    if path == "none":
        wrong = "" if best["int8"].get("exact", True) else " and INT8 saturates and gives wrong results"
        say("not_applicable", kernel, f"this processor has no INT8 instructions{wrong}; {speed}: serve FP32 here")
    if not best["int8"].get("exact", True):
        say("fail", kernel, f"the INT8 result is wrong; {speed}")
    if names.get(path, "") not in kernel or (share is not None and share < LEAST_SHARE):
        say("fail", kernel, f"this processor has {path} and the kernel does not use it; {speed}")
    say("pass", kernel, speed)


def again(argument, **environment):
    """Run this proof once more with `argument` and `environment`; return the result that it printed on stderr, and all that it printed."""
    done = subprocess.run([sys.executable, sys.argv[0], argument], env=dict(os.environ, **environment), capture_output=True, text=True, check=False)
    results = [line for line in done.stderr.splitlines() if line.startswith("{")]
    if done.returncode or not results:
        raise SystemExit(f"{argument} with {environment} ended with status {done.returncode}: {done.stderr.strip()[-2000:]}")
    return json.loads(results[-1]), done.stdout + done.stderr


def onednn_kernels(said):
    """Return the implementations that oneDNN ran for convolutions and matrix products over 8-bit sources, out of its verbose lines.

    Their format: https://uxlfoundation.github.io/oneDNN/dev_guide_verbose.html
    """
    # From oneDNN 3.1 on, "v1,primitive" stands before "exec".
    rows = [line.split(",exec,", 1)[1].split(",") for line in said.splitlines() if line.startswith("onednn_verbose,") and ",exec," in line]
    operations = ("convolution", "matmul", "inner_product")
    return {row[2] for row in rows if row[1] in operations and re.match(r"src(?:_|:|0:)(u8|s8)", row[4])}


def say(verdict, live, reason):
    """Print the verdict as node_audit reads it, and end."""
    print(json.dumps({"verdict": verdict, "live": live, "reason": reason}))
    raise SystemExit(0)
