# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run one measurement of the benchmark on this node, or sum up those of a run.

    measure.py step JSON          run it, print its result and append it to RUN/steps.jsonl
    measure.py summary RUN JSON   print {"steps": […], "ratios": {…}} and write it to RUN/results.json

A step is {"name", "program", "arguments", "framework", "environment", "lacking", "instances", "seconds", "timeout", "run", "venvs", "first"}, and
may be measured in several rounds.
"instances" are those of the placement filter ("cpus" and "memory_node" null: not bound); none means one process that nothing is set for.
A step whose framework is not installed is skipped with that reason, and so is one that is "lacking": what the processor cannot show.
Needs Python 3.8 and nothing else.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
# What of a step's result people are shown: key, digits, unit.
FIGURES = (("per_second", 1, "a second"), ("p50_ms", 1, "ms p50"), ("p99_ms", 1, "ms p99"), ("cpu_ms", 3, "ms of processor time each"))
# Which of two rounds' figures is taken.
BEST = {"per_second": max, "p50_ms": min, "p99_ms": min, "cpu_ms": min, "others_percent": max}
# From here on the table warns: the figures are not those of a quiet node.
MUCH_PERCENT = 10


class Stop(Exception):
    """A sentence for the user."""


def cpus(cpulist):
    """Return the set of ids in a kernel cpulist."""
    ranges = [part.split("-") for part in cpulist.split(",")]
    return {number for ends in ranges for number in range(int(ends[0]), int(ends[-1]) + 1)}


def start(step, python, instance):
    """Start one instance, on its CPUs and memory where it has any."""
    command = [python, str(HERE / step["program"]), *step["arguments"], str(step["seconds"])]
    environment = {**os.environ, **(instance or {}).get("env", {}), **step["environment"]}
    bind = None
    if instance:
        if instance["memory_node"] is not None and len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))) > 1:
            if not shutil.which("numactl"):
                raise Stop("this node has several NUMA nodes and no numactl to bind memory with: install Debian's numactl")
            option = "--interleave" if instance["memory_policy"] == "interleave" else "--membind"
            command = ["numactl", f"{option}={instance['memory_node']}", *command]
        if instance["cpus"]:
            wanted = cpus(instance["cpus"])

            def bind():
                os.sched_setaffinity(0, wanted)

    return subprocess.Popen(
        command, env=environment, cwd="/", preexec_fn=bind, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def first_lines(processes, deadline):
    """Wait until each process has printed a line, and return them; raises Stop after `deadline`."""
    waiting, lines = selectors.DefaultSelector(), {}
    for process in processes:
        waiting.register(process.stdout, selectors.EVENT_READ, process)
    while len(lines) < len(processes):
        left = deadline - time.monotonic()
        ready = waiting.select(max(left, 0))
        if not ready:
            raise Stop("it was not ready in time")
        for key, _events in ready:
            lines[key.data] = key.fileobj.readline()
            waiting.unregister(key.fileobj)
    return lines


def busy_seconds():
    """Return (processor seconds that this machine's programs have taken since it started, those that our ended children have)."""
    # proc_pid_stat(5)'s sibling /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal, in ticks.
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    ours = os.times()
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK"), ours.children_user + ours.children_system


def run(step):
    """Return the result of a step: the sum of its instances' rates, the worst of their times, and what share of the processors others took."""
    python = Path(step["venvs"]) / step["framework"] / "current" / "bin" / "python"
    result = {"name": step["name"], "framework": step["framework"], "instances": len(step["instances"]) or None}
    if step.get("lacking"):
        return {**result, "skipped": step["lacking"]}
    if not python.exists():
        return {**result, "skipped": f"{step['framework']} is not installed (frameworks_install)"}
    processes = []
    begin, (busy, ours) = time.monotonic(), busy_seconds()
    deadline = begin + step["timeout"]
    try:
        for instance in step["instances"] or [None]:
            processes.append(start(step, str(python), instance))
        for process, line in first_lines(processes, deadline).items():
            if line.strip() != "ready":
                raise Stop(f"it ended before it was ready: {(process.communicate()[1].strip() or line)[-1500:]}")
        found = []
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            out, err = process.communicate(timeout=max(deadline - time.monotonic(), 1))
            if process.returncode:
                raise Stop(f"it ended with status {process.returncode}: {err.strip()[-1500:]}")
            found.append(json.loads(out.strip().splitlines()[-1]))
    except subprocess.TimeoutExpired:
        raise Stop(f"it took longer than {step['timeout']} s") from None
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    together = {"per_second": sum, "calls": sum, "p50_ms": max, "p99_ms": max, "cpu_ms": min}
    summed = {key: together[key](one[key] for one in found) if key in together else value for key, value in found[0].items()}
    busy_now, ours_now = busy_seconds()
    others = (busy_now - busy - (ours_now - ours)) / ((time.monotonic() - begin) * os.cpu_count())
    return {**result, **summed, "others_percent": max(round(100 * others), 0)}


def best(steps):
    """Return one result a step of those of all rounds: each figure of the round that it was best in, since noise only makes it worse."""
    found = {}
    for step in steps:
        known = found.setdefault(step["name"], dict(step))
        if "skipped" not in step:
            known.update({key: pick(known[key], step[key]) for key, pick in BEST.items() if key in step})
    return list(found.values())


def ratios(steps, wanted):
    """Return [{"what", "ratio", "cpu_ratio"}] for `wanted`, a list of {"what", "of", "to", "by"}.

    "by" is the figure compared: a rate (per_second, the higher the better) or a time (p50_ms, where the ratio is turned over, so that above 1 is
    always better). "cpu_ratio" is that of the processor time of a unit, which other programs on the node hardly change, where "by" is a speed.
    A ratio of a step that was skipped has None and the reason.
    """
    known = {step["name"]: step for step in steps}
    found = []
    for one in wanted:
        pair = [known.get(one[side], {"skipped": "not measured"}) for side in ("of", "to")]
        reason = next((step["skipped"] for step in pair if "skipped" in step), None)
        if reason:
            found.append({"what": one["what"], "ratio": None, "reason": reason})
            continue
        above, below = (step[one["by"]] for step in pair)
        found.append({"what": one["what"], "ratio": round(below / above if one["by"].endswith("_ms") else above / below, 2)})
        if one["by"] in ("per_second", "p50_ms"):
            found[-1]["cpu_ratio"] = round(pair[1]["cpu_ms"] / pair[0]["cpu_ms"], 2)
    return found


def table(summary):
    """Return the summary in lines for people."""
    lines = []
    for step in summary["steps"]:
        figures = [f"{step[key]:.{digits}f} {unit}" for key, digits, unit in FIGURES if step.get(key) is not None]
        told = step.get("skipped") or "  ".join(figures)
        facts = [f"{key} {step[key]}" for key in ("accuracy", "kernels") if step.get(key)]
        lines.append(f"{step['name']}: {'  '.join([told, *facts])}")
    for one in summary["ratios"]:
        cpu = f" ({one['cpu_ratio']}x by processor time)" if "cpu_ratio" in one else ""
        lines.append(f"{one['what']}: {one['ratio']}x{cpu}" if one["ratio"] else f"{one['what']}: not measured ({one['reason']})")
    others = max((step["others_percent"] for step in summary["steps"] if "others_percent" in step), default=0)
    if others > MUCH_PERCENT:
        lines.append(f"Other programs took up to {others} % of the processors: rates and latencies are not those of a quiet node, processor times nearly are")
    return lines


def main(arguments):
    if arguments[:1] == ["step"]:
        step = json.loads(arguments[1])
        try:
            result = run(step)
        except (Stop, OSError, ValueError) as error:
            raise SystemExit(f"{step['name']}: {error}") from None
        with open(Path(step["run"]) / "steps.jsonl", "w" if step["first"] else "a", encoding="utf-8") as stream:
            stream.write(json.dumps(result) + "\n")
        print(json.dumps(result))
    else:
        directory = Path(arguments[1])
        steps = best(json.loads(line) for line in (directory / "steps.jsonl").read_text().splitlines())
        summary = {"steps": steps, "ratios": ratios(steps, json.loads(arguments[2]))}
        summary["table"] = table(summary)
        (directory / "results.json").write_text(json.dumps(summary, indent=1) + "\n")
        print(json.dumps(summary))


if __name__ == "__main__":
    main(sys.argv[1:])
