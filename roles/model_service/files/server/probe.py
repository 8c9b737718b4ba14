# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judge one thing about the model service on this node: probe.py ROW, a row of the audit (accuracy, int8, answers, pinned).

Prints {"verdict", "live", "reason"} as JSON. Reads the units, the reports beside the models, /proc and the service itself. Where systemd does not run,
an instance is started for the requests of `answers` and stopped again; the rows about a service that keeps running do not apply there.
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

UNITS = "/etc/systemd/system/ainode-model-service-*.service"
# As the kernel names them in /proc/cpuinfo.
INT8_FLAGS = ("amx_int8", "avx512_vnni", "avx_vnni", "asimddp")


class Failed(Exception):
    """The row's verdict is fail; the text says why."""


class Instance:
    """One instance, as its unit describes it."""

    def __init__(self, path):
        self.unit = os.path.basename(path)
        with open(path, encoding="utf-8") as file:
            settings = [line.strip().split("=", 1) for line in file if "=" in line]
        self.cpus = expand(dict(settings)["CPUAffinity"])
        self.environment = dict(shlex.split(value)[0].split("=", 1) for key, value in settings if key == "Environment")
        self.command = [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(dict(settings)["ExecStart"])]
        options = dict(word[2:].split("=", 1) for word in self.command if word.startswith("--"))
        self.repository = options["repository"]
        self.base = f"http://{options['address'].replace('0.0.0.0', '127.0.0.1')}:{options['port']}"

    def models(self):
        """Return {model's name: its report}."""
        return {name: json.loads(read(os.path.join(self.repository, name, "report.json"))) for name in sorted(os.listdir(self.repository))}

    def ask(self, path, body=None):
        """Return the JSON that the service answers."""
        request = urllib.request.Request(self.base + path, data=body and json.dumps(body).encode(), headers={"Content-Type": "application/json"})
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return json.load(answer)


def expand(cpulist):
    """Return the set of ids in a kernel cpulist."""
    ranges = [part.split("-") for part in cpulist.split(",") if part]
    return {number for ends in ranges for number in range(int(ends[0]), int(ends[-1]) + 1)}


def read(path):
    """Return the text of a file."""
    with open(path, encoding="utf-8") as file:
        return file.read()


def show(unit, name):
    """Return a property of a unit."""
    return subprocess.run(["systemctl", "show", "--value", f"--property={name}", unit], capture_output=True, text=True, check=True).stdout.strip()


@contextlib.contextmanager
def running(instance):
    """The instance answers in here: because systemd runs it, or because we start it for a moment."""
    if os.path.isdir("/run/systemd/system"):
        if show(instance.unit, "ActiveState") != "active":
            raise Failed(f"{instance.unit} does not run ({show(instance.unit, 'ActiveState')})")
        yield
        return
    environment = {**os.environ, **instance.environment}
    process = subprocess.Popen(
        instance.command, user="ainode", group="ainode", extra_groups=[], cwd="/", env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError):
                instance.ask("/v2/health/ready")
                break
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise Failed(f"started for a request, {instance.unit} was not ready: {process.communicate()[1].strip()[-300:]}")
            time.sleep(0.2)
        yield
    finally:
        process.kill()
        process.communicate()


def accuracy(instances):
    """What was measured when each model was quantized is within its gate."""
    lines = []
    for name, report in instances[0].models().items():
        if "drop" not in report:
            lines.append(f"{name}: not quantized")
            continue
        value, megabytes = report["value"], {kind: count / 1e6 for kind, count in report["size_bytes"].items()}
        calibration = report["made_of"]["files"]["calibration"]
        lines.append(
            f"{name}: {report['metric']} {value['int8']:.4f} INT8, {value['fp32']:.4f} FP32, {megabytes['int8']:.1f} of {megabytes['fp32']:.1f} MB, "
            f"{report['speedup']:.1f} times as fast; method {report['method']}, {len(report['layers_in_fp32'])} layers in FP32, "
            f"calibration {calibration[:12] if calibration else 'without data'}"
        )
        if report["drop"] > report["max_drop"]:
            raise Failed(f"{lines[-1]}; the drop of {report['drop']:.4f} is more than max_drop, {report['max_drop']}")
    return "pass", "; ".join(lines), ""


def int8(instances):
    """The precision that is served suits the processor."""
    flags = set(re.search(r"^(?:flags|Features)\s*:(.*)$", read("/proc/cpuinfo"), re.MULTILINE).group(1).split())
    path = next((name for name in INT8_FLAGS if name in flags), None)
    served = {name: os.path.realpath(os.path.join(instances[0].repository, name)).rpartition("-")[2] for name in instances[0].models()}
    live = "; ".join(f"{name}: {kind}" for name, kind in served.items()) + f"; the processor has {path or 'no INT8 instructions'}"
    if not path and "int8" in served.values():
        raise Failed(f"{live}: without them INT8 is slower than FP32; leave model_service_precision at auto")
    slow = [name for name, report in instances[0].models().items() if path and served[name] == "fp32" and "drop" in report]
    if slow:
        return "advice", live, f"{', '.join(slow)} could be served in INT8: leave model_service_precision at auto"
    return "pass", live, ""


def answers(instances):
    """Each instance answers a request of zeros for each of its models with outputs as its metadata tell."""
    names = set()
    for instance in instances:
        with running(instance):
            for name in instance.models():
                told = instance.ask(f"/v2/models/{name}")
                # What is free is 1, but for what a model may not take so small: then its own error says so.
                shapes = {tensor["name"]: [max(size, 1) for size in tensor["shape"]] for tensor in told["inputs"]}
                counts = {}
                for key, shape in shapes.items():
                    counts[key] = 1
                    for size in shape:
                        counts[key] *= size
                inputs = [
                    {"name": it["name"], "shape": shapes[it["name"]], "datatype": it["datatype"], "data": [0] * counts[it["name"]]} for it in told["inputs"]
                ]
                got = {it["name"]: it["shape"] for it in instance.ask(f"/v2/models/{name}/infer", {"inputs": inputs})["outputs"]}
                for output in told["outputs"]:
                    shape = got.get(output["name"], [])
                    if len(shape) != len(output["shape"]) or any(want not in (-1, size) for want, size in zip(output["shape"], shape)):
                        raise Failed(f"{instance.unit}: output {output['name']} of {name} has the shape {shape}, its metadata say {output['shape']}")
                names.add(name)
    return "pass", f"{', '.join(sorted(names))} on {len(instances)} of {len(instances)} instances", ""


def pinned(instances):
    """Each instance may run on its own CPUs alone."""
    for instance in instances:
        pid = int(show(instance.unit, "MainPID"))
        if not pid:
            raise Failed(f"{instance.unit} does not run ({show(instance.unit, 'ActiveState')})")
        for status in glob.glob(f"/proc/{pid}/task/*/status"):
            allowed = re.search(r"^Cpus_allowed_list:\s*(\S+)$", read(status), re.MULTILINE).group(1)
            if not expand(allowed) <= instance.cpus:
                raise Failed(f"a thread of {instance.unit} may run on CPUs {allowed}, its unit says {sorted(instance.cpus)}")
    return "pass", f"{len(instances)} of {len(instances)} instances, every thread on their own CPUs", ""


ROWS = {function.__name__: function for function in (accuracy, int8, answers, pinned)}


def main():
    """Print the verdict of the row that is named on the command line."""
    if len(sys.argv) != 2 or sys.argv[1] not in ROWS:
        sys.exit(f"usage: probe.py {{{','.join(ROWS)}}}")
    row = sys.argv[1]
    instances = [Instance(path) for path in sorted(glob.glob(UNITS))]
    if not instances:
        verdict, live, reason = "fail", None, f"there is no unit {UNITS}"
    elif row == "pinned" and not os.path.isdir("/run/systemd/system"):
        verdict, live, reason = "not_applicable", None, "systemd does not run here, so no service keeps running"
    else:
        try:
            verdict, live, reason = ROWS[row](instances)
        except (Failed, OSError, ValueError, KeyError, subprocess.CalledProcessError) as error:
            detail = error.read().decode("utf-8", "replace")[:200] if isinstance(error, urllib.error.HTTPError) else ""
            verdict, live, reason = "fail", None, f"{error} {detail}".strip()
    print(json.dumps({"verdict": verdict, "live": live, "reason": reason}))


if __name__ == "__main__":
    main()
