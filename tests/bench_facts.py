# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Print how long the facts of each machine take: `python tests/bench_facts.py [directory of unpacked machines]`, else our own and this host.

The time is that of gather alone, without Ansible and Python's start; the best of several runs, and the CPU time of that run.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS.parent / "collections"), str(TESTS / "unit")]

import machines
from ansible_collections.ainode.cpu.plugins.module_utils.facts.gather import gather
from ansible_collections.ainode.cpu.plugins.module_utils.host.root import Root


class Counting(Root):
    """A root that counts the files it was asked for."""

    reads = 0

    def read_bytes(self, name):
        self.reads += 1
        return super().read_bytes(name)


def measure(path, runs=5):
    """Return (milliseconds of the best run, milliseconds of CPU of the best run, files read)."""
    times = []
    for _run in range(runs):
        root, wall, cpu = Counting(path), time.perf_counter(), time.process_time()
        gather(root)
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    return min(wall for wall, _cpu in times) * 1000, min(cpu for _wall, cpu in times) * 1000, root.reads


def main():
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as store:
        if len(sys.argv) > 1:
            paths = sorted(str(path) for path in Path(sys.argv[1]).iterdir() if path.is_dir())
        else:
            paths = ["/", *(machines.build(name, store) for name in machines.NAMES)]
        print(f"{'machine':44} {'ms':>7} {'CPU ms':>7} {'reads':>7}")
        for path in paths:
            print("{:44} {:7.1f} {:7.1f} {:7d}".format(Path(path).name or "this host", *measure(path)))


if __name__ == "__main__":
    main()
