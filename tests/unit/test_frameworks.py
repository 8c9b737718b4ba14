# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Locked environments, the catalogue of frameworks, what the proofs share, and how the benchmark sums up."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from ansible_collections.ainode.cpu.plugins.module_utils.deploy import pip, venv

ROLES = Path(__file__).resolve().parents[2] / "roles"
FILES = ROLES / "frameworks" / "files"
CATALOGUE = yaml.safe_load((ROLES / "frameworks/vars/main.yml").read_text())
BENCHMARK = yaml.safe_load((ROLES / "benchmark/vars/main.yml").read_text())
LOCKS = sorted((FILES / "locks").glob("*-cp*.txt"))
LOCK = "numpy==2.4.6 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\nScikit_Learn[x]==1.9.1 --hash=sha256:cc\n"


def load(path):
    specification = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


proof = load(FILES / "proofs/ainode_proof.py")
measure = load(ROLES / "benchmark/files/measure.py")


# --- module_utils/venv.py ---------------------------------------------------------------------------------------------


def test_a_locks_packages_are_named_as_indexes_name_them():
    assert venv.packages(LOCK) == {"numpy": "2.4.6", "scikit-learn": "1.9.1"}


def test_comments_and_layout_do_not_change_the_digest():
    assert venv.digest("# made today\n" + LOCK.replace(" \\\n    ", "  "), {}, "3.11") == venv.digest(LOCK, {}, "3.11")


@pytest.mark.parametrize("changed", [(LOCK.replace("aa", "ab"), {}, "3.11"), (LOCK, {"proof.py": "x"}, "3.11"), (LOCK, {}, "3.13")])
def test_a_hash_a_proof_and_a_python_each_change_the_digest(changed):
    assert venv.digest(*changed) != venv.digest(LOCK, {}, "3.11")
    assert re.fullmatch("[0-9a-f]{16}", venv.digest(*changed))


def test_the_order_of_the_files_does_not_change_the_digest():
    assert venv.digest(LOCK, {"a": "1", "b": "2"}, "3.11") == venv.digest(LOCK, {"b": "2", "a": "1"}, "3.11")


@pytest.fixture
def environment(tmp_path):
    """An environment as pip leaves it: one package of one module, and a script in bin."""
    packages = tmp_path / "lib/python3.11/site-packages"
    (packages / "thing-1.0.dist-info").mkdir(parents=True)
    (packages / "thing.py").write_text("x = 1\n")
    (tmp_path / "bin").mkdir()
    os.symlink(sys.executable, tmp_path / "bin/python")
    (tmp_path / "bin/thing").write_text("#!")
    record = "thing.py,sha256=x,6\n__pycache__/thing.cpython-311.pyc,sha256=x,99\n../../../bin/thing,,2\nthing-1.0.dist-info/RECORD,,\n"
    (packages / "thing-1.0.dist-info/RECORD").write_text(record)
    (tmp_path / "share/ainode").mkdir(parents=True)
    (tmp_path / "share/ainode/proof.py").write_text("proof")
    return tmp_path


def test_a_whole_environment_has_no_damage(environment):
    assert venv.damage(str(environment), {"proof.py": "proof"}) is None


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda top: (top / "lib/python3.11/site-packages/thing.py").write_text(""), "thing.py has another size"),
        (lambda top: (top / "bin/thing").unlink(), "bin/thing is missing"),
        (lambda top: (top / "bin/python").unlink(), "leads to no program"),
        (lambda top: (top / "share/ainode/proof.py").write_text("evil"), "proof.py was changed"),
        (lambda top: (top / "share/ainode/proof.py").unlink(), "proof.py cannot be read"),
        (lambda top: (top / "lib/python3.11/site-packages/thing-1.0.dist-info/RECORD").write_text(""), "RECORD is empty"),
        (lambda top: (top / "lib/python3.11/site-packages/thing-1.0.dist-info/RECORD").unlink(), "holds no installed package"),
    ],
)
def test_damage_is_named(environment, break_it, said):
    break_it(environment)
    assert said in venv.damage(str(environment), {"proof.py": "proof"})


def test_pip_is_told_where_to_look():
    told = pip.arguments({"index_url": "https://i", "extra_index_urls": ["https://t"], "proxy": "http://p", "ca_bundle": "/c", "constraint": "/k"})
    assert " ".join(told).endswith("--no-cache-dir --index-url https://i --extra-index-url https://t --constraint /k --proxy http://p --cert /c")


def test_one_index_alone():
    assert " ".join(pip.arguments({"index_url": "https://i", "extra_index_urls": None})).endswith("--no-cache-dir --index-url https://i")


def test_a_wheelhouse_leaves_no_index():
    told = pip.arguments({"wheelhouse": "/w", "index_url": "https://i", "extra_index_urls": ["https://t"], "cache": "/cache"})
    assert " ".join(told).endswith("--cache-dir /cache --no-index --find-links /w")


HASHES = """ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. If you have updated the package versions, please update the hashes.
    six==1.17.0 from https://index/six-1.17.0-py2.py3-none-any.whl (from -r lock.txt (line 1)):
        Expected sha256 aaaa
             Got        bbbb
"""
REFUSED = """WARNING: Retrying after connection broken by 'NewConnectionError('Failed to establish a new connection: [Errno 111] Connection refused')'
ERROR: Could not find a version that satisfies the requirement six==1.17.0 (from versions: none)
ERROR: No matching distribution found for six==1.17.0
"""
NO_WHEEL = """ERROR: Could not find a version that satisfies the requirement torch==2.13.0+cpu (from versions: 2.1)
ERROR: No matching distribution found for torch==2.13.0+cpu
"""


@pytest.mark.parametrize(
    ("output", "index", "said"),
    [
        (HASHES, {}, "six==1.17.0 has the SHA-256 bbbb where the lock says aaaa"),
        (
            REFUSED,
            {"index_url": "https://index"},
            "https://index cannot be reached (Failed to establish a new connection: [Errno 111] Connection refused): set",
        ),
        (NO_WHEEL, {}, "the index has no wheel of torch==2.13.0+cpu for Python 3.13"),
        (NO_WHEEL, {"wheelhouse": "/w"}, "the wheelhouse /w has no wheel of torch==2.13.0+cpu"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n", {}, "the disk is full"),
        ("ERROR: Hashes are required in --require-hashes mode, but they are missing:\n    six==1.17.0 --hash=sha256:ab\n", {}, "six==1.17.0 has no hash"),
        ("ERROR: write failed: No space left on device\n", {}, "the disk is full"),
        ("ERROR: [Errno 28] ENOSPC\n", {}, "the disk is full"),
        ("ERROR: all requirements must have their versions pinned with ==:\n    six --hash=sha256:ab\n", {}, "six has no hash"),
        ("Traceback\nERROR: the moon is full\n", {}, "ERROR: the moon is full"),
        ("ERROR: the moon is full\nWARNING: a new pip is there\n", {}, "ERROR: the moon is full"),
        ("", {}, "it said nothing"),
    ],
)
def test_pips_failure_becomes_one_sentence(output, index, said):
    told = pip.explain(output, "3.13", index)
    assert said in told
    assert "\n" not in told


def test_an_environments_variables_reach_the_interpreter_in_one_order():
    text = venv.pth({"B": "2", "A": "it's"})
    assert text.index("'A'") < text.index("'B'") and "\n" not in text[:-1]
    environment = {"B": "kept"}
    exec(text, {"__builtins__": {"__import__": lambda *_arguments: SimpleNamespace(environ=environment)}})
    assert environment == {"A": "it's", "B": "kept"}


def test_a_verdict_is_the_last_line():
    assert venv.verdict('noise\n{"verdict": "pass", "live": "k", "reason": "r"}\n')["verdict"] == "pass"


@pytest.mark.parametrize("output", ["", "[]", "Traceback", '{"verdict": "good", "live": "", "reason": ""}', '{"verdict": "pass"}'])
def test_anything_else_is_no_verdict(output):
    with pytest.raises(ValueError, match="it printed no verdict"):
        venv.verdict(output)


# --- the catalogue ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CATALOGUE["frameworks_catalogue"])
def test_each_framework_is_whole(name):
    description = CATALOGUE["frameworks_catalogue"][name]
    assert (FILES / f"locks/{name}.in").exists()
    assert [lock for lock in LOCKS if lock.name.startswith(f"{name}-cp")]
    assert (FILES / f"proofs/prove_{description.get('proof', name)}.py").exists()
    assert {"size_mb", "section", "what", "expected"} <= set(description)


def test_no_framework_is_refused_as_well():
    assert not set(CATALOGUE["frameworks_catalogue"]) & set(CATALOGUE["frameworks_refused"])


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_each_lock_pins_what_is_asked_for_and_hashes_everything(lock):
    text = lock.read_text()
    pinned = venv.packages(text)
    entries = re.split(r"\n(?=\S)", text.strip())
    assert len(pinned) == len(entries)
    assert all("--hash=sha256:" in entry for entry in entries)
    asked = venv.packages((FILES / "locks" / f"{lock.stem.rpartition('-')[0]}.in").read_text())
    assert asked.items() <= pinned.items()


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_no_lock_brings_a_gpu_build_or_what_breaks_imports(lock):
    pinned = venv.packages(lock.read_text())
    assert not [name for name in pinned if name.startswith("nvidia") or name in ("daal4py", "intel-openmp", "triton")]
    assert pinned.get("torch", "+cpu").endswith("+cpu")
    assert not set(pinned) & set((FILES / "locks/excluded.txt").read_text().splitlines())


def test_debian_12_and_13_have_every_framework_that_their_python_has_wheels_for():
    names = {tag: {lock.stem.rpartition("-")[0] for lock in LOCKS if lock.stem.endswith(tag)} for tag in ("cp311", "cp313")}
    assert names["cp311"] == set(CATALOGUE["frameworks_catalogue"])
    assert names["cp311"] - names["cp313"] == {"intel_tensorflow", "neural_compressor_classic"}


# --- the proofs -------------------------------------------------------------------------------------------------------


def test_onednns_int8_kernels_are_read_from_both_of_its_formats():
    said = """onednn_verbose,v1,info,cpu,isa:Intel AVX-512 with Intel DL Boost
onednn_verbose,v1,primitive,exec,cpu,convolution,brg_conv_fwd:avx512_core_vnni,forward_inference,src:u8::blocked:acdb::f0 wei:s8:a:blocked:A::f0,,,0.4
onednn_verbose,v1,primitive,exec,cpu,convolution,jit:avx512_core,forward_training,src:f32::blocked:acdb::f0 wei:f32::blocked:A::f0,,,1.4
onednn_verbose,v1,primitive,exec,cpu,reorder,jit:uni,undef,src:s8::blocked:ab::f0 dst:s8::blocked:BA::f0,,,0.1
onednn_verbose,exec,cpu,matmul,brg:avx512_core_amx,undef,src_s8::blocked:ab:f0 wei_s8::blocked:ab:f0 dst_s32::blocked:ab:f0,,,0.2
"""
    assert proof.onednn_kernels(said) == {"brg_conv_fwd:avx512_core_vnni", "brg:avx512_core_amx"}


@pytest.mark.parametrize(
    ("path", "kernels", "int8", "without", "verdict"),
    [
        ("avx512_vnni", ["brgconv_avx512_I8"], {"seconds": 1}, {"seconds": 2}, "pass"),
        ("avx512_vnni", ["brgconv_avx512_f32"], {"seconds": 1}, {"seconds": 2}, "fail"),
        ("avx512_vnni", ["jit_avx2_I8"], {"seconds": 1}, {"seconds": 2}, "fail"),
        ("avx512_vnni", ["brgconv_avx512_I8"], {"seconds": 1}, {"seconds": 1.1}, "fail"),
        ("avx512_vnni", ["brgconv_avx512_I8"], {"seconds": 1, "exact": False}, {"seconds": 2}, "fail"),
        ("none", ["jit_avx2_I8"], {"seconds": 1}, None, "not_applicable"),
    ],
)
def test_a_proof_judges_by_kernel_and_speed(monkeypatch, capsys, path, kernels, int8, without, verdict):
    def again(argument, **environment):
        if argument == "fp32":
            return {"seconds": 3}, ""
        return (without if environment else {"kernels": kernels, **int8}), ""

    monkeypatch.setattr(proof, "int8_path", lambda: path)
    monkeypatch.setattr(proof, "again", again)
    monkeypatch.setattr(sys, "argv", ["proof.py"])
    with pytest.raises(SystemExit):
        proof.run(None, {"avx512_vnni": "avx512"})
    said = venv.verdict(capsys.readouterr().out)
    assert (said["verdict"], said["live"]) == (verdict, kernels[0])
    assert "INT8 3.0 times as fast as FP32" in said["reason"]


# --- the benchmark ----------------------------------------------------------------------------------------------------


def test_ratios_compare_steps_that_are_measured():
    names = [step["name"] for step in BENCHMARK["benchmark_steps"]]
    assert len(names) == len(set(names))
    assert {ratio[side] for ratio in BENCHMARK["benchmark_ratios"] for side in ("of", "to")} <= set(names)


def test_above_one_is_better_for_rates_and_for_times():
    steps = [
        {"name": "a", "per_second": 30, "p50_ms": 10, "cpu_ms": 10},
        {"name": "b", "per_second": 10, "p50_ms": 30, "cpu_ms": 40},
        {"name": "c", "skipped": "no torch"},
    ]
    wanted = [{"what": str(number), "of": "a", "to": to, "by": by} for number, (to, by) in enumerate([("b", "per_second"), ("b", "p50_ms"), ("c", "p50_ms")])]
    found = measure.ratios(steps, wanted)
    assert [one["ratio"] for one in found] == [3.0, 3.0, None]
    assert [one["cpu_ratio"] for one in found[:2]] == [4.0, 4.0]
    assert found[2]["reason"] == "no torch"


PROGRAM = """
import json, os, sys
print("ready", flush=True)
assert sys.stdin.readline() == "go\\n"
about = {"cpus": sorted(os.sched_getaffinity(0)), "argv": sys.argv[1:]}
print(json.dumps({"per_second": 10, "p50_ms": float(os.environ["LATENCY"]), "p99_ms": 9, "cpu_ms": 2, "calls": 5, **about}))
"""


@pytest.fixture
def step(tmp_path, monkeypatch):
    (tmp_path / "fake/current/bin").mkdir(parents=True)
    os.symlink(sys.executable, tmp_path / "fake/current/bin/python")
    (tmp_path / "program.py").write_text(PROGRAM)
    monkeypatch.setattr(measure, "HERE", tmp_path)
    first = min(os.sched_getaffinity(0))
    instance = {"cpus": str(first), "memory_node": None, "memory_policy": None, "env": {"LATENCY": "3"}}
    return {
        "name": "s",
        "framework": "fake",
        "program": "program.py",
        "arguments": ["x"],
        "environment": {},
        "seconds": 1,
        "timeout": 20,
        "instances": [instance, {**instance, "env": {"LATENCY": "7"}}],
        "run": str(tmp_path),
        "venvs": str(tmp_path),
        "first": True,
    }


def test_instances_run_side_by_side_on_their_cpus(step):
    found = measure.run(step)
    assert (found["instances"], found["per_second"], found["p50_ms"], found["cpu_ms"], found["calls"]) == (2, 20, 7, 2, 10)
    assert found["cpus"] == [min(os.sched_getaffinity(0))]
    assert found["argv"] == ["x", "1"]


def test_a_framework_that_is_not_there_is_skipped_with_the_reason(step):
    assert measure.run({**step, "framework": "torch"})["skipped"] == "torch is not installed (frameworks_install)"


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import sys; sys.exit('no such model')", "it ended before it was ready: no such model"),
        ("import time; time.sleep(60)", "it was not ready in time"),
        ("print('ready', flush=True); input(); raise SystemExit('out of memory')", "it ended with status 1: out of memory"),
        ("import time; print('ready', flush=True); time.sleep(60)", "it took longer than 5 s"),
    ],
)
def test_a_workload_that_fails_is_one_sentence(step, tmp_path, program, said):
    (tmp_path / "program.py").write_text(program)
    with pytest.raises(measure.Stop, match=re.escape(said)):
        measure.run({**step, "timeout": 5 if "sleep" in program else 20})


def test_the_best_round_counts():
    rounds = [{"name": "a", "per_second": rate, "p50_ms": 9 - rate, "p99_ms": 9, "cpu_ms": rate, "others_percent": rate} for rate in (3, 5, 4)]
    assert measure.best([*rounds, {"name": "b", "skipped": "x"}, {"name": "b", "skipped": "x"}]) == [
        {"name": "a", "per_second": 5, "p50_ms": 4, "p99_ms": 9, "cpu_ms": 3, "others_percent": 5},
        {"name": "b", "skipped": "x"},
    ]


def test_a_busy_node_is_told():
    busy = {"steps": [{"name": "a", "per_second": 1, "others_percent": 70}], "ratios": []}
    assert "Other programs took up to 70 % of the processors" in measure.table(busy)[-1]


def test_results_of_a_run_replace_those_of_the_last(step, tmp_path, capsys):
    for first in (True, False, True):
        measure.main(["step", json.dumps({**step, "first": first})])
    assert len((tmp_path / "steps.jsonl").read_text().splitlines()) == 1
    measure.main(["summary", str(tmp_path), json.dumps([{"what": "s : t", "of": "s", "to": "t", "by": "p50_ms"}])])
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed["table"][:2] == ["s: 20.0 a second  7.0 ms p50  9.0 ms p99  2.000 ms of processor time each", "s : t: not measured (not measured)"]
    assert json.loads((tmp_path / "results.json").read_text()) == printed
