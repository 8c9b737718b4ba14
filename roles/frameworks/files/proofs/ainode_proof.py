# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the proofs share: the node's INT8 path, a timer that other load disturbs little, and the verdict on stdout.

A proof answers on this machine, now: does the framework compute INT8 with the instructions that the processor has for it? It names the kernel
that ran, and runs the same operation once more with ONEDNN_MAX_CPU_ISA=AVX512_CORE, where oneDNN leaves VNNI alone, for VNNI's share of the speed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

# Kernel flag names (/proc/cpuinfo), the best first.
PATHS = ("amx_int8", "avx512_vnni", "avx_vnni", "asimddp")
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


def best_seconds(operation, seconds=0.6):
    """Return the shortest time that one call of `operation` took in about `seconds`: other load on the node only ever makes a call longer."""
    operation()
    best, end = float("inf"), time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        operation()
        now = time.perf_counter()
        best = min(best, now - start)
        if now >= end:
            return best


def again(argument, **environment):
    """Run this proof once more with `argument` in another environment; return the JSON object that it prints last, stdout and stderr as text."""
    done = subprocess.run([sys.executable, sys.argv[0], argument], env=dict(os.environ, **environment), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{argument} with {environment} ended with status {done.returncode}: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1]), done.stdout + done.stderr


def say(verdict, live, reason):
    """Print the verdict as node_audit reads it, and end."""
    print(json.dumps({"verdict": verdict, "live": live, "reason": reason}))
    raise SystemExit(0)


def judge(path, kernel, is_int8, uses_path, int8_over_fp32, share):
    """Give the verdict on `kernel`.

    `path` is the node's INT8 path; `is_int8` and `uses_path` tell whether the kernel computes in INT8 and names the path's instructions;
    `int8_over_fp32` is how many times as fast INT8 is as FP32, `share` how many times as fast it is as without the path (None: not measured).
    """
    speed = f"INT8 {int8_over_fp32:.1f} times as fast as FP32"
    if share is not None:
        speed += f", {share:.1f} times as fast as without {path}"
    if not is_int8:
        say("fail", kernel, f"the operation ran in another type than INT8; {speed}")
    if path == "none":
        say("not_applicable", kernel, f"this processor has no INT8 instructions; {speed}: serve FP32 here")
    if not uses_path or (share is not None and share < LEAST_SHARE):
        say("fail", kernel, f"this processor has {path} and the kernel does not use it; {speed}")
    say("pass", kernel, speed)
