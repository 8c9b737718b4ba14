# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judge one thing about the model service on this node: probe.py ROW, a row of the audit (accuracy, int8, answers, pinned, huge_pages).

Reads the units, the reports beside the models, /proc and the service itself. Where systemd does not run, an instance is started for the requests of
`answers` and stopped again.
"""

import glob
import json
import math
import os
import re

from unit_probe import Failed, ask, expand, local_url, main, read, running, units

# As the kernel names them in /proc/cpuinfo.
INT8_FLAGS = ("amx_int8", "avx512_vnni", "avx_vnni", "asimddp")


def reports(unit):
    """Return {name of a model that the instance serves: its report}."""
    repository = unit.options["repository"]
    return {name: json.loads(read(os.path.join(repository, name, "report.json"))) for name in sorted(os.listdir(repository))}


def accuracy():
    """What was measured when each model was quantized is within its gate."""
    lines = []
    for name, report in reports(units("model-service")[0]).items():
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


def int8():
    """The precision that is served suits the processor."""
    unit = units("model-service")[0]
    models = reports(unit)
    flags = set(re.search(r"^(?:flags|Features)\s*:(.*)$", read("/proc/cpuinfo"), re.MULTILINE).group(1).split())
    path = next((name for name in INT8_FLAGS if name in flags), None)
    served = {name: os.path.realpath(os.path.join(unit.options["repository"], name)).rpartition("-")[2] for name in models}
    live = "; ".join(f"{name}: {kind}" for name, kind in served.items()) + f"; the processor has {path or 'no INT8 instructions'}"
    if not path and "int8" in served.values():
        raise Failed(f"{live}: without them INT8 is slower than FP32; leave model_service_precision at auto")
    slow = [name for name, report in models.items() if path and served[name] == "fp32" and "drop" in report]
    if slow:
        return "advice", live, f"{', '.join(slow)} could be served in INT8: leave model_service_precision at auto"
    return "pass", live, ""


def answers():
    """Each instance answers a request of zeros for each of its models with outputs as its metadata tell."""
    instances, names = units("model-service"), set()
    for unit in instances:
        base = local_url(unit.options["address"], unit.options["port"])
        with running(unit, base + "/v2/health/ready"):
            for name in reports(unit):
                told = json.loads(ask(f"{base}/v2/models/{name}"))
                # What is free is 1, but for what a model may not take so small: then its own error says so.
                shapes = {tensor["name"]: [max(size, 1) for size in tensor["shape"]] for tensor in told["inputs"]}
                inputs = [
                    {"name": it["name"], "shape": shapes[it["name"]], "datatype": it["datatype"], "data": [0] * math.prod(shapes[it["name"]])}
                    for it in told["inputs"]
                ]
                outputs = json.loads(ask(f"{base}/v2/models/{name}/infer", {"inputs": inputs}))["outputs"]
                got = {it["name"]: it["shape"] for it in outputs}
                for output in told["outputs"]:
                    shape = got.get(output["name"], [])
                    if len(shape) != len(output["shape"]) or any(want not in (-1, size) for want, size in zip(output["shape"], shape)):
                        raise Failed(f"{unit.name}: output {output['name']} of {name} has the shape {shape}, its metadata say {output['shape']}")
                names.add(name)
    return "pass", f"{', '.join(sorted(names))} on {len(instances)} of {len(instances)} instances", ""


def pinned():
    """Each instance may run on its own CPUs alone."""
    instances = units("model-service")
    for unit in instances:
        for status in glob.glob(f"/proc/{unit.pid()}/task/*/status"):
            allowed = re.search(r"^Cpus_allowed_list:\s*(\S+)$", read(status), re.MULTILINE).group(1)
            if not expand(allowed) <= unit.cpus:
                raise Failed(f"a thread of {unit.name} may run on CPUs {allowed}, its unit says {sorted(unit.cpus)}")
    return "pass", f"{len(instances)} of {len(instances)} instances, every thread on their own CPUs", ""


def huge_pages():
    """The memory of each instance lies in huge pages where the kernel gives them to programs that ask."""
    instances, enabled, lines = units("model-service"), "/sys/kernel/mm/transparent_hugepage/enabled", []
    for unit in instances:
        smaps = read(f"/proc/{unit.pid()}/smaps_rollup")
        huge, all_of_it = (int(re.search(rf"^{name}:\s+(\d+) kB$", smaps, re.MULTILINE).group(1)) // 1024 for name in ("AnonHugePages", "Anonymous"))
        lines.append((unit.name, huge, all_of_it))
    live = "; ".join(f"{name}: {huge} of {all_of_it} MiB" for name, huge, all_of_it in lines)
    if "GLIBC_TUNABLES" not in instances[0].environment:
        return "not_applicable", live, "the instances do not ask for them (model_service_huge_pages)"
    if not os.path.exists(enabled) or "[never]" in read(enabled):
        return "not_applicable", live, "this kernel gives none: transparent huge pages are off"
    without = [name for name, huge, _all in lines if not huge]
    if without:
        return "advice", live, f"{', '.join(without)} got none: memory is fragmented (/proc/buddyinfo), or scarce"
    return "pass", live, ""


if __name__ == "__main__":
    main({row.__name__: row for row in (accuracy, int8, answers, pinned, huge_pages)}, lasting=("pinned", "huge_pages"))
