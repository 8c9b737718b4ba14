# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judge one thing about the vector search on this node: probe.py ROW, a row of the audit (int8, numa_bound, query_per_core, whole_dataset, restart).

Prints {"verdict", "live", "reason"} as JSON. Reads the units, /proc and the service itself. Where systemd does not run, the first instance is started for
the queries of whole_dataset and stopped again; the rows about a service that keeps running do not apply there.
"""

import contextlib
import glob
import json
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
QUERIES = 16


class Failed(Exception):
    """The row's verdict is fail; the text says why."""


class Instance:
    """One instance, as its unit describes it."""

    def __init__(self, path):
        self.unit = os.path.basename(path)
        with open(path, encoding="utf-8") as file:
            settings = dict(line.strip().split("=", 1) for line in file if "=" in line)
        credentials = settings.get("LoadCredential", "").partition(":")[2]
        self.command = [word.replace("$$", "$").replace("%d", os.path.dirname(credentials)).replace("%%", "%") for word in shlex.split(settings["ExecStart"])]
        self.cpus = expand(settings["CPUAffinity"])
        self.memory_nodes = expand(settings.get("NUMAMask", ""))
        self.key_file = credentials
        options = dict(word[2:].split("=", 1) for word in self.command if word.startswith("--"))
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


def whole_dataset(instances):
    """Each instance holds the whole index, and finds rows of it by their own vectors."""
    lines = []
    for instance in instances:
        sample = subprocess.run([instance.command[0], "info", instance.index, "--sample", str(QUERIES)], capture_output=True, text=True, check=True)
        index = json.loads(sample.stdout)
        with running(instance):
            rows = int(instance.metric("index_rows"))
            if rows != index["live"]:
                raise Failed(f"{instance.unit} serves {rows} rows, its index has {index['live']}")
            dim, vectors = index["dim"], [row["vector"] for row in index["sample"]]
            body = {
                "inputs": [{"name": "queries", "shape": [len(vectors), dim], "datatype": "FP32", "data": [x for vector in vectors for x in vector]}],
                "parameters": {"k": min(10, rows)},
            }
            outputs = {output["name"]: output for output in json.loads(instance.get(f"/v2/models/{instance.name}/infer", body))["outputs"]}
        k = outputs["ids"]["shape"][1]
        ids = [outputs["ids"]["data"][n * k : n * k + k] for n in range(len(vectors))]
        distances = [outputs["distances"]["data"][n * k : n * k + k] for n in range(len(vectors))]
        if any(row != sorted(row) for row in distances):
            raise Failed(f"{instance.unit} does not return the nearest first")
        # By inner product a longer row may be nearer to a row than itself; equal rows may stand for each other.
        found = sum(
            row["id"] in near or (index["metric"] != "ip" and far[0] < 1e-3 * max(1.0, far[-1])) for row, near, far in zip(index["sample"], ids, distances)
        )
        if index["metric"] != "ip" and found < 0.9 * len(ids):
            raise Failed(f"{instance.unit} finds {found} of {len(ids)} rows by their own vectors")
        lines.append(f"{rows} rows of dimension {dim}, {found} of {len(ids)} sampled rows found by their own vectors")
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
