# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judge one thing about the vector search on this node: probe.py ROW, a row of the audit (int8, numa_bound, query_per_core, whole_dataset, restart).

Reads the units, /proc and the service itself. Where systemd does not run, an instance is started for the queries of whole_dataset and stopped again.
"""

import contextlib
import json
import math
import os
import re
import subprocess

from unit_probe import Failed, ask, expand, local_url, main, read, running, units

VNNI_FLAGS = {"avx512_vnni", "avx_vnni", "asimddp"}
VNNI_KERNELS = {"avx512_vnni", "avx512_vnni_256", "avx_vnni", "neon_dotprod"}
QUERIES, NEAREST = 16, 10
MOST_RESULTS = 1000  # of the service


@contextlib.contextmanager
def answering(unit):
    """Within, the instance answers; gives a function like unit_probe.ask of a path."""
    base, key_file = local_url(*unit.options["listen"].rsplit(":", 1)), unit.credentials.get("api-key")
    # Started for a moment, it needs no administrator.
    command = [word for word in unit.command if not word.startswith(("--admin", "--writes", "--capacity"))]
    with running(unit, base + "/v2/health/ready", command):
        yield lambda path, body=None: ask(base + path, body, key_file)


def metric(metrics, name):
    """Return a number, or the labels of an info metric, from the text of /metrics."""
    line = re.search(rf"^vnni_search_{name}(?:{{(.*)}})? (\S+)$", metrics, re.MULTILINE)
    if not line:
        raise Failed(f"/metrics has no vnni_search_{name}")
    return dict(re.findall(r'(\w+)="([^"]*)"', line.group(1))) if line.group(1) else float(line.group(2))


def distance(metric, query, row):
    """Return how far `row` is from `query`, computed here: squared L2, 1 - inner product, or 1 - cosine."""

    def product(left, right):
        return sum(x * y for x, y in zip(left, right))

    if metric == "l2":
        return sum((x - y) ** 2 for x, y in zip(query, row))
    length = math.sqrt(product(query, query) * product(row, row)) if metric == "cosine" else 1
    return 1 - (product(query, row) / length if length else 0)


def judge(index, answers, k):
    """Compare the service's answers, a list of up to k (id, distance) a query, with rows of the index file; return (found, expected), or raise Failed.

    Each sampled row comes with its nearest of the rows that the file's own reader compared. One of those that is nearer than the last of the
    answer must be in the answer, with its distance; whether it is nearer, and at what distance, is computed here from the vectors.
    """
    found = expected = 0
    for sampled, answer in zip(index["sample"], answers):
        distances = [far for _dummy, far in answer]
        if distances != sorted(distances):
            raise Failed("does not return the nearest first")
        said = dict(answer)
        for row in sampled["nearest"]:
            true = distance(index["metric"], sampled["vector"], row["vector"])
            tolerance = 0.005 * max(1.0, abs(true))
            if row["id"] in said and abs(said[row["id"]] - true) > tolerance:
                raise Failed(f"gives the distance of row {row['id']} as {said[row['id']]}, it is {true:.6g}")
            if row["id"] not in said and len(answer) == k and true > distances[-1] - tolerance:
                continue  # as near as the last, or farther: need not be there
            expected += 1
            found += row["id"] in said
    return found, expected


def whole_dataset():
    """Each instance holds the whole index, and finds what is nearest in it."""
    lines = []
    for unit in units("vector-search"):
        command = [unit.command[0], "info", unit.options["index"], "--sample", str(QUERIES), "--nearest", str(NEAREST)]
        index = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        dim, vectors = index["dim"], [row["vector"] for row in index["sample"]]
        # Of an index larger than what was compared more results are asked for, so that enough of the compared rows are among them.
        k = min(MOST_RESULTS, index["live"], math.ceil(NEAREST * index["live"] / max(1, index["compared"])))
        body = {
            "inputs": [{"name": "queries", "shape": [len(vectors), dim], "datatype": "FP32", "data": [x for vector in vectors for x in vector]}],
            "parameters": {"k": k},
        }
        with answering(unit) as service:
            rows = int(metric(service("/metrics"), "index_rows"))
            outputs = {output["name"]: output for output in json.loads(service(f"/v2/models/{unit.options['name']}/infer", body))["outputs"]}
        pairs = list(zip(outputs["ids"]["data"], outputs["distances"]["data"]))
        try:
            if rows != index["live"]:
                raise Failed(f"serves {rows} rows, its index has {index['live']}")
            found, expected = judge(index, [[pair for pair in pairs[n * k : n * k + k] if pair[0] >= 0] for n in range(len(vectors))], k)
            if found < 0.9 * expected or not expected:
                raise Failed(f"finds {found} of {expected} rows that are nearest to {len(vectors)} queries")
        except Failed as failure:
            if "writes" in unit.options:  # the file is its last snapshot
                return "advice", f"{rows} rows", f"{unit.name} {failure}: it takes writes, and was compared with its last snapshot; take a new one"
            raise Failed(f"{unit.name} {failure}") from None
        lines.append(f"{rows} rows of dimension {dim}, {found} of {expected} rows that are nearest to {len(vectors)} queries found")
    return "pass", "; ".join(sorted(set(lines))), ""


def int8():
    """Each instance computes with an integer dot product instruction, where the processor executes one: what cpuid says, not what a file shows."""
    used, reason = set(), ""
    for unit in units("vector-search"):
        with answering(unit) as service:
            kernel = metric(service("/metrics"), "build_info")["kernel"]
        used.add(kernel)
        if kernel in VNNI_KERNELS:
            continue
        lines = subprocess.run([unit.command[0], "kernels"], capture_output=True, text=True, check=True).stdout.split()
        able = next((name for name in lines if name in VNNI_KERNELS), None)
        if able and unit.runs_with().get("VNNI_SEARCH_KERNEL") != kernel:
            raise Failed(f"{unit.name}: the kernel {kernel} is in use although the processor executes {able}")
        if able:
            reason = f"VNNI_SEARCH_KERNEL={kernel} asks for it, and the processor executes {able}: leave vector_search_kernel empty"
        else:
            shown = VNNI_FLAGS & set(re.search(r"^(?:flags|Features)\s*:(.*)$", read("/proc/cpuinfo"), re.MULTILINE).group(1).split())
            although = f", although /proc/cpuinfo shows {', '.join(sorted(shown))}" if shown else ""
            reason = f"the processor executes no INT8 dot product instruction{although}; the results are the same, the speed is not"
    return "advice" if reason else "pass", ", ".join(sorted(used)), reason


def numa_bound():
    """Each instance runs on its own CPUs, and its memory is bound to its node."""
    instances = units("vector-search")
    for unit in instances:
        allowed = re.search(r"^Cpus_allowed_list:\s*(\S+)$", read(f"/proc/{unit.pid()}/status"), re.MULTILINE).group(1)
        if expand(allowed) != unit.cpus:
            raise Failed(f"{unit.name} may run on CPUs {allowed}, its unit says {sorted(unit.cpus)}")
        own = "\n".join(line for line in read(f"/proc/{unit.pid()}/numa_maps").splitlines() if " file=" not in line)
        away = sum(int(pages) for node, pages in re.findall(r" N(\d+)=(\d+)", own) if unit.memory_nodes and int(node) not in unit.memory_nodes)
        if away:
            raise Failed(f"{unit.name} has {away} pages outside memory node {sorted(unit.memory_nodes)}")
    return "pass", f"{len(instances)} of {len(instances)} instances on their own CPUs and memory nodes", ""


def query_per_core():
    """There is one worker for each physical core of the instance."""
    instances = units("vector-search")
    for unit in instances:
        cores = {read(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") for cpu in unit.cpus}
        with answering(unit) as service:
            workers = int(metric(service("/metrics"), "workers"))
        if workers != len(cores):
            raise Failed(f"{unit.name} has {workers} workers on {len(cores)} physical cores")
    return "pass", f"{len(instances)} instances, one worker a physical core", ""


def restart(most_seconds):
    """The last start of each instance made it ready within `most_seconds`, by whichever way its index comes into memory."""
    starts = []
    for unit in units("vector-search"):
        unit.pid()
        seconds = (int(unit.property("ActiveEnterTimestampMonotonic")) - int(unit.property("InactiveExitTimestampMonotonic"))) / 1e6
        starts.append((seconds, unit.name, unit.options["mode"], os.path.getsize(unit.options["index"]) / 2**30))
    seconds, name, mode, size = max(starts)
    live = f"{name} ready {seconds:.1f} s after its start; an index of {size:.2f} GiB, mode {mode}"
    if seconds > float(most_seconds):
        raise Failed(f"{live}: more than vector_search_restart_seconds, {most_seconds}")
    return "pass", live, ""


if __name__ == "__main__":
    main({row.__name__: row for row in (int8, numa_bound, query_per_core, whole_dataset, restart)}, lasting=("numa_bound", "restart"))
