# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judge one thing about the vector search on this node: probe.py ROW, a row of the audit (int8, numa_bound, query_per_core, whole_dataset, restart).

Prints {"verdict", "live", "reason"} as JSON. Reads the units, /proc and the service itself. Where systemd does not run, the first instance is started for
the queries of whole_dataset and stopped again; the rows about a service that keeps running do not apply there.
"""

import contextlib
import glob
import json
import math
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request

UNITS = "/etc/systemd/system/ainode-vector-search-*.service"
VNNI_FLAGS = {"avx512_vnni", "avx_vnni", "asimddp"}
VNNI_KERNELS = {"avx512_vnni", "avx_vnni", "neon_dotprod"}
QUERIES, NEAREST = 16, 10
MOST_RESULTS = 1000  # of the service


class Failed(Exception):
    """The row's verdict is fail; the text says why."""


class Instance:
    """One instance, as its unit describes it."""

    def __init__(self, path):
        self.unit = os.path.basename(path)
        with open(path, encoding="utf-8") as file:
            lines = [line.strip().partition("=") for line in file if "=" in line]
        settings = {key: value for key, _dummy, value in lines}
        credentials = dict(value.split(":", 1) for key, _dummy, value in lines if key == "LoadCredential")
        words = [word.replace("$$", "$").replace("%%", "%") for word in shlex.split(settings["ExecStart"])]
        for name, path in credentials.items():
            words = [word.replace("%d/" + name, path) for word in words]
        options = dict(word[2:].split("=", 1) for word in words if word.startswith("--"))
        self.writes = "writes" in options
        # Started for a moment here, it needs no administrator.
        self.command = [word for word in words if not word.startswith(("--admin", "--writes", "--capacity"))]
        self.cpus = expand(settings["CPUAffinity"])
        self.memory_nodes = expand(settings.get("NUMAMask", ""))
        self.key_file = credentials.get("api-key")
        self.index, self.name, self.mode, self.base = (
            options["index"],
            options["name"],
            options["mode"],
            "http://" + options["listen"].replace("0.0.0.0", "127.0.0.1"),
        )

    def get(self, path, body=None):
        """Return the text that the service answers."""
        headers = {"Content-Type": "application/json"}
        if self.key_file:
            with open(self.key_file, encoding="utf-8") as file:
                headers["Authorization"] = "Bearer " + file.read().strip()
        request = urllib.request.Request(self.base + path, data=body and json.dumps(body).encode(), headers=headers)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
            return answer.read().decode()

    def metric(self, name):
        """Return a number, or the labels of an info metric, from /metrics."""
        line = re.search(rf"^vnni_search_{name}(?:{{(.*)}})? (\S+)$", self.get("/metrics"), re.MULTILINE)
        if not line:
            raise Failed(f"{self.unit}: /metrics has no vnni_search_{name}")
        return dict(re.findall(r'(\w+)="([^"]*)"', line.group(1))) if line.group(1) else float(line.group(2))

    def pid(self):
        """Return the main process of the running unit."""
        pid = int(show(self.unit, "MainPID"))
        if not pid:
            raise Failed(f"{self.unit} does not run ({show(self.unit, 'ActiveState')})")
        return pid


def expand(cpulist):
    """Return the set of ids in a kernel cpulist."""
    ranges = [part.split("-") for part in cpulist.split(",") if part]
    return {number for ends in ranges for number in range(int(ends[0]), int(ends[-1]) + 1)}


def show(unit, name):
    """Return a property of a unit."""
    return subprocess.run(["systemctl", "show", "--value", f"--property={name}", unit], capture_output=True, text=True, check=True).stdout.strip()


def read(path):
    """Return the text of a file."""
    with open(path, encoding="utf-8") as file:
        return file.read()


@contextlib.contextmanager
def running(instance):
    """The instance answers in here: because systemd runs it, or because we start it for a moment."""
    if os.path.isdir("/run/systemd/system"):
        instance.pid()
        yield
        return
    process = subprocess.Popen(instance.command, user="ainode", group="ainode", extra_groups=[], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                instance.get("/v2/health/ready")
                break
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise Failed(f"started for a query, {instance.unit} was not ready: {process.communicate()[1].strip()[-300:]}")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.communicate()


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


def whole_dataset(instances):
    """Each instance holds the whole index, and finds what is nearest in it."""
    lines = []
    for instance in instances:
        command = [instance.command[0], "info", instance.index, "--sample", str(QUERIES), "--nearest", str(NEAREST)]
        index = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        dim, vectors = index["dim"], [row["vector"] for row in index["sample"]]
        # Of an index larger than what was compared more results are asked for, so that enough of the compared rows are among them.
        k = min(MOST_RESULTS, index["live"], math.ceil(NEAREST * index["live"] / max(1, index["compared"])))
        with running(instance):
            rows = int(instance.metric("index_rows"))
            body = {
                "inputs": [{"name": "queries", "shape": [len(vectors), dim], "datatype": "FP32", "data": [x for vector in vectors for x in vector]}],
                "parameters": {"k": k},
            }
            outputs = {output["name"]: output for output in json.loads(instance.get(f"/v2/models/{instance.name}/infer", body))["outputs"]}
        pairs = list(zip(outputs["ids"]["data"], outputs["distances"]["data"]))
        try:
            if rows != index["live"]:
                raise Failed(f"serves {rows} rows, its index has {index['live']}")
            found, expected = judge(index, [[pair for pair in pairs[n * k : n * k + k] if pair[0] >= 0] for n in range(len(vectors))], k)
            if found < 0.9 * expected or not expected:
                raise Failed(f"finds {found} of {expected} rows that are nearest to {len(vectors)} queries")
        except Failed as failure:
            if instance.writes:  # the file is its last snapshot
                return "advice", f"{rows} rows", f"{instance.unit} {failure}: it takes writes, and was compared with its last snapshot; take a new one"
            raise Failed(f"{instance.unit} {failure}") from None
        lines.append(f"{rows} rows of dimension {dim}, {found} of {expected} rows that are nearest to {len(vectors)} queries found")
    return "pass", "; ".join(sorted(set(lines))), ""


def int8(instances):
    """The integer kernel in use is the CPU's best."""
    instance = instances[0]
    with running(instance):
        kernel = instance.metric("build_info")["kernel"]
    able = VNNI_FLAGS & set(re.search(r"^(?:flags|Features)\s*:(.*)$", read("/proc/cpuinfo"), re.MULTILINE).group(1).split())
    if kernel in VNNI_KERNELS:
        return "pass", kernel, ""
    if able:
        raise Failed(f"the kernel {kernel} is in use although the CPU has {', '.join(sorted(able))}")
    return "advice", kernel, "the CPU has no INT8 dot product instruction; the results are the same, the speed is not"


def numa_bound(instances):
    """Each instance runs on its own CPUs, and its memory is bound to its node."""
    for instance in instances:
        allowed = re.search(r"^Cpus_allowed_list:\s*(\S+)$", read(f"/proc/{instance.pid()}/status"), re.MULTILINE).group(1)
        if expand(allowed) != instance.cpus:
            raise Failed(f"{instance.unit} may run on CPUs {allowed}, its unit says {sorted(instance.cpus)}")
        away = sum(
            int(pages)
            for node, pages in re.findall(
                r" N(\d+)=(\d+)", "\n".join(line for line in read(f"/proc/{instance.pid()}/numa_maps").splitlines() if " file=" not in line)
            )
            if instance.memory_nodes and int(node) not in instance.memory_nodes
        )
        if away:
            raise Failed(f"{instance.unit} has {away} pages outside memory node {sorted(instance.memory_nodes)}")
    return "pass", f"{len(instances)} of {len(instances)} instances on their own CPUs and memory nodes", ""


def query_per_core(instances):
    """There is one worker for each physical core of the instance."""
    for instance in instances:
        cores = {read(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") for cpu in instance.cpus}
        with running(instance):
            workers = int(instance.metric("workers"))
        if workers != len(cores):
            raise Failed(f"{instance.unit} has {workers} workers on {len(cores)} physical cores")
    return "pass", f"{sum(1 for _dummy in instances)} instances, one worker a physical core", ""


def restart(instances):
    """How long the last start took, and by which way the index came into memory."""
    seconds = []
    for instance in instances:
        instance.pid()
        seconds.append((int(show(instance.unit, "ActiveEnterTimestampMonotonic")) - int(show(instance.unit, "InactiveExitTimestampMonotonic"))) / 1e6)
    return "pass", f"mode {instances[0].mode}: ready {max(seconds):.1f} s after start", ""


ROWS = {function.__name__: function for function in (int8, numa_bound, query_per_core, whole_dataset, restart)}


def main():
    """Print the verdict of the row that is named on the command line."""
    if len(sys.argv) != 2 or sys.argv[1] not in ROWS:
        sys.exit(f"usage: probe.py {{{','.join(ROWS)}}}")
    row = sys.argv[1]
    instances = [Instance(path) for path in sorted(glob.glob(UNITS))]
    if not instances:
        verdict, live, reason = "fail", None, f"there is no unit {UNITS}"
    elif row in ("numa_bound", "restart") and not os.path.isdir("/run/systemd/system"):
        verdict, live, reason = "not_applicable", None, "systemd does not run here, so no service keeps running"
    else:
        try:
            verdict, live, reason = ROWS[row](instances)
        except (Failed, OSError, ValueError, KeyError, subprocess.CalledProcessError, urllib.error.URLError) as error:
            detail = getattr(error, "stderr", None) or (error.read().decode("utf-8", "replace")[:200] if isinstance(error, urllib.error.HTTPError) else "")
            verdict, live, reason = "fail", None, f"{error} {detail}".strip()
    print(json.dumps({"verdict": verdict, "live": live, "reason": reason}))


if __name__ == "__main__":
    main()
