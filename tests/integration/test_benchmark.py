# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""playbooks/benchmark.yml on a container with systemd: each ratio that it promises is a number or names its reason, and the node is left as it was.

How fast is not asked: other programs run here.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
LAB = CHECKOUT / "tests/lab/container"
HOST = "benchmark"
SECONDS = 10
KEPT = "/var/lib/ainode/benchmark"

# What playbooks/benchmark.yml promises with OpenVINO alone, and whose instructions it takes.
BY_OPENVINO = {
    "ResNet50 latency, INT8 : FP32": None,
    "ResNet50 latency, BF16 : FP32": "bf16",
    "ResNet50 latency, VNNI : no VNNI": "vnni",
    "ResNet50 online, bound to cores and memory : unbound": None,
    "ResNet50 online, tuned : untuned": None,
    "ResNet50 throughput, INT8 : FP32": None,
    "ResNet50 throughput, BF16 : FP32": "bf16",
    "ResNet50 throughput, VNNI : no VNNI": "vnni",
    "Wide & Deep throughput, INT8 : FP32": None,
    "Wide & Deep latency, INT8 : FP32": None,
    "Digits accuracy, INT8 : FP32": None,
}
INSTRUCTIONS = {"vnni": r"\b(avx512_vnni|avx_vnni|amx_int8)\b", "bf16": r"\b(avx512_bf16|amx_bf16)\b"}
LACKING = {"vnni": "the processor has no INT8 dot product instructions to compare with", "bf16": "the processor has no BF16 instructions"}

# The same node as one whose processor has neither, as far as the plan is told.
OLD_PROCESSOR = [
    {
        "hosts": "all",
        "gather_facts": False,
        "tasks": [
            {"ainode.cpu.node_facts": {}},
            {
                "ansible.builtin.set_fact": {
                    "ainode": "{{ ansible_facts.ainode | combine({'cpu': {'int8_path': 'none', 'isa': ['avx2', 'fma']}}, recursive=true) }}",
                    "cacheable": True,
                }
            },
        ],
    },
    {"ansible.builtin.import_playbook": str(CHECKOUT / "playbooks/benchmark.yml")},
]


def run(*command):
    return subprocess.run([str(word) for word in command], cwd=CHECKOUT, capture_output=True, text=True, check=False)


def on_host(*command):
    done = run(LAB, "exec", HOST, "--", *command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def inventory():
    up = run(LAB, "up", "--inventory", HOST, HOST)
    assert up.returncode == 0, up.stderr
    yield up.stdout.split()[-1]
    run(LAB, "down", "--inventory", HOST, HOST)


def benchmark(inventory, playbook=CHECKOUT / "playbooks/benchmark.yml", **variables):
    """Run the playbook; return (number of changed tasks, all that was printed, its white space single)."""
    given = json.dumps({"benchmark_seconds": SECONDS, **variables})
    done = run(Path(sys.executable).with_name("ansible-playbook"), "-i", inventory, "-e", given, playbook)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    return int(re.search(r"changed=(\d+)", done.stdout)[1]), " ".join(done.stdout.split())


def left():
    """Return what of the host the collection could change, the results of the last run aside."""
    program = (CHECKOUT / "tests/lab/fingerprint.py").read_text()
    lines = on_host("python3", "-c", program).splitlines()
    return [line for line in lines if not line.startswith((f"{KEPT}/results.json ", f"{KEPT}/steps.jsonl "))]


@pytest.fixture(scope="module")
def first(inventory, tmp_path_factory):
    """(what the first run wrote here, what it printed)"""
    results = tmp_path_factory.mktemp("results")
    changed, printed = benchmark(inventory, benchmark_results=str(results))
    assert changed
    return json.loads((results / f"{HOST}.json").read_text()), printed


def flags():
    return re.search(r"^flags\s*:(.*)$", on_host("cat", "/proc/cpuinfo"), re.MULTILINE)[1]


def judge(found, printed, there):
    """Assert that each ratio is a number of figures that were measured, or names why it is none; `there` says which instructions the node has."""
    steps = {step["name"]: step for step in found["steps"]}
    told = {ratio["what"]: ratio for ratio in found["ratios"]}
    known = yaml.safe_load((CHECKOUT / "roles/benchmark/vars/main.yml").read_text())["benchmark_ratios"]
    assert [ratio["what"] for ratio in known] == list(told)
    assert set(BY_OPENVINO) <= set(told)
    for ratio in known:
        what, needed = ratio["what"], BY_OPENVINO.get(ratio["what"])
        if what not in BY_OPENVINO or (needed and not there[needed]):
            assert told[what]["ratio"] is None, told[what]
            if needed:
                assert told[what]["reason"] == LACKING[needed]
            else:
                # Training in BF16 takes both.
                assert told[what]["reason"].endswith(" is not installed (frameworks_install)") or told[what]["reason"] == LACKING["bf16"]
            assert f"{what}: not measured ({told[what]['reason']})" in printed
            continue
        assert told[what]["ratio"], told[what]
        above, below = (steps[ratio[side]][ratio["by"]] for side in ("of", "to"))
        assert above > 0 and below > 0
        assert told[what]["ratio"] == pytest.approx(below / above if ratio["by"].endswith("_ms") else above / below, abs=0.006), ratio
        assert told[what].get("cpu_ratio", 1) > 0
        assert f"{what}: {told[what]['ratio']}x" in printed
    for step in steps.values():
        if "skipped" not in step:
            assert min(step[key] for key in ("per_second", "p50_ms", "p99_ms", "cpu_ms", "calls")) > 0, step
            assert step["p50_ms"] <= step["p99_ms"]


def test_every_ratio_is_a_number_or_names_its_reason(first):
    found, printed = first
    there = {name: bool(re.search(pattern, flags())) for name, pattern in INSTRUCTIONS.items()}
    for name, reason in LACKING.items():
        if not there[name]:
            print(f"not measured here: {reason}")
    judge(found, printed, there)
    steps = {step["name"]: step for step in found["steps"]}
    # What is compared differs in what it is named for, and in nothing else.
    assert steps["ResNet50 INT8 online untuned"]["instances"] is None
    assert steps["ResNet50 INT8 online unbound"]["instances"] == steps["ResNet50 INT8 online"]["instances"] >= 1
    kernels = {name: " ".join(step["kernels"]).lower() for name, step in steps.items() if "kernels" in step}
    assert "i8" in kernels["ResNet50 INT8 batch"] and "i8" not in kernels["ResNet50 FP32 batch"]
    assert not there["bf16"] or "bf16" in kernels["ResNet50 BF16 batch"]
    assert "bf16" not in kernels["ResNet50 FP32 batch"]
    assert 0.9 < steps["Digits INT8"]["accuracy"] <= 1
    if there["vnni"]:
        # The names of kernels do not tell whether oneDNN was told to do without; processor time, which other programs hardly change, does.
        told = {ratio["what"]: ratio for ratio in found["ratios"]}
        assert told["ResNet50 throughput, VNNI : no VNNI"]["cpu_ratio"] > 1.2


def test_a_second_run_measures_again_and_leaves_the_node_as_it_was(inventory, first):
    before, old = left(), on_host("cat", f"{KEPT}/steps.jsonl")
    changed, _printed = benchmark(inventory)
    assert changed == 0
    assert left() == before
    new = on_host("cat", f"{KEPT}/steps.jsonl")
    names = [[json.loads(line)["name"] for line in text.splitlines()] for text in (old, new)]
    assert names[0] == names[1] and old != new
    assert not on_host("sh", "-c", "pgrep -fl '[m]easure.py|[o]penvino_models' || true")


def test_a_processor_without_the_instructions_says_so(inventory, first, tmp_path):
    play = tmp_path / "old.yml"
    play.write_text(json.dumps(OLD_PROCESSOR))
    _changed, printed = benchmark(inventory, play)
    judge(json.loads(on_host("cat", f"{KEPT}/results.json")), printed, {"vnni": False, "bf16": False})
