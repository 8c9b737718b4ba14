# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the workloads share: they make ready, wait until all instances are, measure for a time, and print one JSON object."""

from __future__ import annotations

import json
import sys
import time

# Processor time is compared over so much of it: the kernel counts that of threads on other CPUs at its ticks of up to 10 ms.
WINDOW_S = 0.2


def measure(operation, seconds, units=1, **about):
    """Call `operation` for `seconds` and print what came out of it.

    A call counts as `units` (images, samples). Printed are {"per_second": units, "p50_ms", "p99_ms": of a call, "cpu_ms": processor time
    of one unit over all threads in the best stretch, "calls"} and `about`. What else runs on the node makes the first three worse; the fourth hardly.
    One line "ready" goes out first, and one line on stdin is waited for, so that instances that run side by side are measured at the same time.
    """
    operation()
    print("ready", flush=True)
    sys.stdin.readline()
    times, least, spent, calls = [], float("inf"), 0.0, 0
    begin = now = time.perf_counter()
    window = time.process_time()
    while now - begin < seconds or not times:
        operation()
        end = time.perf_counter()
        times.append(end - now)
        now, calls, spent = end, calls + 1, time.process_time() - window
        if spent >= WINDOW_S:
            least, window, spent, calls = min(least, spent / calls), window + spent, 0.0, 0
    if least == float("inf"):
        least = spent / calls
    report(times, now - begin, units, cpu_ms=1000 * least / units, **about)


def report(times, elapsed, units, **about):
    """Print the result of calls that took `times` seconds each and `elapsed` together."""
    times = sorted(times)
    found = {
        "per_second": len(times) * units / elapsed,
        "p50_ms": 1000 * times[len(times) // 2],
        "p99_ms": 1000 * times[min(len(times) - 1, len(times) * 99 // 100)],
        "calls": len(times),
    }
    print(json.dumps({**found, **about}), flush=True)
