# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""ainode-run, started for real: what the child is allowed to run on, what it is told, how it ends."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.ainode.cpu.plugins.module_utils.host import cpulist
from ansible_collections.ainode.cpu.plugins.module_utils.plan.placement import environment
from ansible_collections.ainode.cpu.plugins.module_utils.programs import ainode_run
from ansible_collections.ainode.cpu.plugins.module_utils.state import runtime_env

ALLOWED = sorted(os.sched_getaffinity(0))
CHILD = "import json, os, sys; print(json.dumps([sorted(os.sched_getaffinity(0)), dict(os.environ), sys.argv[1:], open('/proc/self/numa_maps').read()]))"
HAS_NUMA = Path("/proc/self/numa_maps").exists() and platform.machine() in ("x86_64", "aarch64")


def instance(number, cpus, policy=None, **env):
    return {
        "name": f"online-{number}",
        "numa_node": 0 if policy else None,
        "cpus": cpulist.render(cpus),
        "threads": len(cpus),
        "memory_node": "0" if policy else None,
        "memory_policy": policy,
        "env": {**environment(len(cpus)), **env},
    }


@pytest.fixture
def node(programs):
    """A directory that stands for the node: ainode-run, a placement on the CPUs of this process, and a bin/ for PATH."""
    (programs / "bin").mkdir()
    (programs / "ainode-run").write_text(runtime_env.files({})[runtime_env.AINODE_RUN]["content"])
    for name in ("sh", "sleep", "true"):
        (programs / "bin" / name).symlink_to(f"/bin/{name}")
    placement = {
        "online": [
            instance(0, ALLOWED[:1]),
            instance(1, ALLOWED[-1:], "bind"),
            instance(2, ALLOWED, "interleave"),
            instance(3, [*ALLOWED, 65000]),
            instance(4, [65000]),
        ],
        "search": [instance(0, ALLOWED[:1])],
    }
    (programs / "placement.json").write_text(json.dumps({"version": 1, "workloads": placement}))
    return programs


def command(node, *arguments):
    return [sys.executable, node / "ainode-run", "--placement", str(node / "placement.json"), *map(str, arguments)]


def run(node, *arguments, **env):
    env = {"PATH": str(node / "bin"), "LANG": "C.UTF-8", **env}
    return subprocess.run(command(node, *arguments), capture_output=True, text=True, env=env, check=False)


def child(node, *arguments, **env):
    """Return (CPUs, environment, arguments, numa_maps) as a Python child sees them."""
    done = run(node, *arguments, "--", sys.executable, "-c", CHILD, "--workload", "its own", **env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def numactl(node, script):
    """Install a numactl that notes its arguments."""
    path = node / "bin" / "numactl"
    path.write_text(f'#!/bin/sh\necho "$*" >>{node}/calls\n{script}\n')
    path.chmod(0o755)


# What the command gets --------------------------------------------------------------------------------------------------------


def test_the_command_runs_on_the_instance_s_cpus_with_its_environment(node):
    cpus, env, arguments, _maps = child(node, "--workload", "online", "--instance", 2, OMP_NUM_THREADS="99", MINE="kept")
    assert cpus == ALLOWED
    assert env["OMP_NUM_THREADS"] == str(len(ALLOWED)) and env["TF_ENABLE_ONEDNN_OPTS"] == "1" and env["MINE"] == "kept"
    assert arguments == ["--workload", "its own"]
    assert child(node, "--workload", "online", "--instance", 0)[0] == ALLOWED[:1]


def test_the_caller_s_own_affinity_does_not_limit_it(node):
    done = subprocess.run(
        command(node, "--workload", "online", "--instance", 2, "--", sys.executable, "-c", CHILD),
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, ALLOWED[:1]),
        check=True,
    )
    assert json.loads(done.stdout)[0] == ALLOWED


@pytest.mark.skipif(not HAS_NUMA, reason="this kernel has no NUMA, or the architecture's system call is not known")
@pytest.mark.parametrize(("number", "policy"), [(1, "bind:0"), (2, "interleave:0")])
def test_memory_policy_without_numactl(node, number, policy):
    done = run(node, "--workload", "online", "--instance", number, "--", sys.executable, "-c", CHILD)
    if "Operation not permitted" in done.stderr:
        pytest.skip("this container refuses memory policies")
    assert done.stderr == ""
    assert f" {policy} " in json.loads(done.stdout)[3]


def test_numactl_does_it_where_it_is_installed(node):
    numactl(node, 'shift 2; exec "$@"')
    cpus, _env, _arguments, _maps = child(node, "--workload", "online", "--instance", 1)
    assert cpus == ALLOWED[-1:]
    probe, real = (node / "calls").read_text().splitlines()
    assert probe == f"--physcpubind={ALLOWED[-1]} --membind=0 true"
    assert real.startswith(f"--physcpubind={ALLOWED[-1]} --membind=0 {sys.executable} -c ")
    child(node, "--workload", "online", "--instance", 2)
    assert "--interleave=0 " in (node / "calls").read_text().splitlines()[-1]


def test_numactl_is_left_out_where_there_is_no_numa(node):
    numactl(node, "exit 1")
    assert child(node, "--workload", "online", "--instance", 0)[0] == ALLOWED[:1]
    assert not (node / "calls").exists()


def test_a_refused_memory_policy_is_told_and_the_cpus_are_pinned_all_the_same(node):
    numactl(node, "echo 'set_mempolicy: Operation not permitted' >&2; exit 1")
    done = run(node, "--workload", "online", "--instance", 1, "--", sys.executable, "-c", CHILD)
    assert json.loads(done.stdout)[0] == ALLOWED[-1:]
    assert done.stderr.startswith("ainode-run: memory is not bound to node 0 (set_mempolicy: Operation not permitted): the CPUs are pinned")


def test_env_counts_most(node):
    _cpus, env, _arguments, _maps = child(node, "--workload", "search", "--env", "OMP_NUM_THREADS=3", "--env", "A=b=c d", "--env", "E=")
    assert (env["OMP_NUM_THREADS"], env["A"], env["E"]) == ("3", "b=c d", "")


@pytest.mark.skipif(len(ALLOWED) < 2, reason="one CPU confines nothing")
@pytest.mark.parametrize(("arguments", "expected"), [((), ALLOWED), (("--env", "OMP_PROC_BIND=close", "--env", "OMP_PLACES=threads"), ALLOWED[:1])])
def test_gnu_openmp_does_not_confine_the_process(node, arguments, expected):
    """Why OMP_PROC_BIND is false: with it, loading libgomp is enough to leave a process, and all it starts, one CPU."""
    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError:
        pytest.skip("libgomp is not installed")
    script = "import ctypes, os; ctypes.CDLL('libgomp.so.1'); print(sorted(os.sched_getaffinity(0)))"
    done = run(node, "--workload", "online", "--instance", 2, *arguments, "--", sys.executable, "-c", script)
    assert json.loads(done.stdout) == expected


# Preloading -------------------------------------------------------------------------------------------------------------------


def test_preload_finds_libraries_in_the_multiarch_folder(tmp_path):
    folder = tmp_path / f"usr/lib/{platform.machine()}-linux-gnu"
    folder.mkdir(parents=True)
    for name in ("libjemalloc.so.2", "libtcmalloc.so.4", "libomp.so.5"):
        (folder / name).touch()
    root = str(tmp_path)
    assert ainode_run.find_library("jemalloc", root) == f"/usr/lib/{platform.machine()}-linux-gnu/libjemalloc.so.2"
    assert ainode_run.find_library("tcmalloc", root).endswith("/libtcmalloc.so.4")
    (folder / "libtcmalloc_minimal.so.4").touch()
    assert ainode_run.find_library("tcmalloc", root).endswith("/libtcmalloc_minimal.so.4")
    with pytest.raises(ainode_run.RunError, match=r"libiomp5.so is in none of .*: install the package intel-openmp"):
        ainode_run.find_library("libiomp5", root)


def test_preload_looks_into_the_command_s_virtual_environment(node):
    (node / "lib").mkdir()
    (node / "lib" / "libiomp5.so").touch()
    done = run(node, "--workload", "search", "--preload", "libiomp5", "--dry-run", "--", "true")
    assert f"LD_PRELOAD={node}/lib/libiomp5.so" in done.stdout.split()


def test_preloading_another_openmp_takes_back_what_confines_it():
    bound = {**instance(0, [0]), "env": environment(1, omp_proc_bind="close")}
    env = ainode_run.environment(bound, ["/usr/lib/libomp.so.5"], {}, {"LD_PRELOAD": "/mine.so", "OMP_PLACES": "cores"})
    assert "OMP_PROC_BIND" not in env and "OMP_PLACES" not in env
    assert env["LD_PRELOAD"] == "/usr/lib/libomp.so.5:/mine.so"
    assert env["KMP_AFFINITY"] == "granularity=fine,compact,1,0"
    assert "MALLOC_CONF" not in env
    assert ainode_run.environment(bound, ["/usr/lib/libomp.so.5"], {"OMP_PROC_BIND": "close"}, {})["OMP_PROC_BIND"] == "close"


def test_preloading_jemalloc_sets_it_up():
    env = ainode_run.environment(instance(0, [0]), ["/usr/lib/libjemalloc.so.2"], {}, {})
    assert env["MALLOC_CONF"].startswith("oversize_threshold:1,")
    assert env["OMP_PROC_BIND"] == "false"


# How it ends ------------------------------------------------------------------------------------------------------------------


def test_the_command_s_exit_code_is_its_own(node):
    assert run(node, "--workload", "search", "--", "sh", "-c", "exit 42").returncode == 42


def test_signals_reach_the_command(node):
    # It becomes the command: same process, so that a service manager's signals arrive.
    script = "trap 'exit 7' TERM; echo $$; while :; do sleep 0.05; done"
    process = subprocess.Popen(command(node, "--workload", "search", "--", "sh", "-c", script), stdout=subprocess.PIPE)
    assert int(process.stdout.readline()) == process.pid
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 7
    process.stdout.close()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--workload", "search", "--", "no-such-command"], 127, "no-such-command is not there"),
        (["--workload", "search", "--", "/etc/passwd"], 126, "/etc/passwd cannot be executed"),
        (["--workload", "search"], 125, "no COMMAND was given (ainode-run --help)"),
        (["--workload", "inference", "--", "true"], 125, "--workload is inference: give one of online, search"),
        (["--", "true"], 125, "no --workload was given: give one of online, search"),
        (["--workload", "online", "--", "true"], 125, "no --instance was given: online has the instances 0 to 4 on this node (--list shows them)"),
        (["--workload", "online", "--instance", "5", "--", "true"], 125, "--instance is 5: online has the instances 0 to 4 on this node (--list shows them)"),
        (["--workload", "online", "--instance", "-1", "--", "true"], 125, "--instance is -1: online has the instances 0 to 4 on this node (--list shows them)"),
        (["--workload", "online", "--instance", "x", "--", "true"], 125, "argument --instance: invalid int value: 'x' (ainode-run --help)"),
        (["--workload", "search", "--env", "A", "--", "true"], 125, "--env is 'A': give KEY=VALUE"),
        (["--workload", "search", "--env", "=A", "--", "true"], 125, "--env is '=A': give KEY=VALUE"),
        (["--workload", "search", "--preload", "malloc", "true"], 125, "preload: 'malloc' is unknown: give jemalloc, libiomp5, libomp, tcmalloc or a path"),
        (["--workload", "search", "--preload", "/no.so", "--", "true"], 125, "preload: /no.so is not there"),
        (["--wrong"], 125, "unrecognized arguments: --wrong (ainode-run --help)"),
    ],
)
def test_what_cannot_be_started_is_one_line_and_a_code(node, arguments, code, message):
    done = run(node, *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", f"ainode-run: {message}\n")


def test_cpus_that_the_process_may_not_use_are_an_error_and_not_a_smaller_instance(node):
    done = run(node, "--workload", "online", "--instance", 3, "--", "true")
    assert done.returncode == 125
    assert "this process may not use 65000: they are offline, or outside the cpuset" in done.stderr
    done = run(node, "--workload", "online", "--instance", 4, "--", "true")
    assert done.returncode == 125
    assert "this process may use none of them" in done.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not there: apply the role ainode.cpu.runtime_env"),
        ("{", "cannot be read (Expecting"),
        ("[]", "cannot be read ("),
        ("{}", "cannot be read ('workloads')"),
    ],
)
def test_a_placement_that_is_none(node, content, message):
    path = node / "placement.json"
    path.unlink() if content is None else path.write_text(content)
    done = run(node, "--list")
    assert done.returncode == 125
    assert message in done.stderr and str(path) in done.stderr


# What it tells ----------------------------------------------------------------------------------------------------------------


def test_list_shows_every_instance(node):
    rows = run(node, "--list").stdout.splitlines()
    assert rows[0].split() == ["INSTANCE", "NODE", "CPUS", "THREADS", "MEMORY"]
    assert rows[2].split() == ["online-1", "0", str(ALLOWED[-1]), "1", "bind", "0"]
    assert rows[6].split() == ["online-0", "-", str(ALLOWED[0]), "1", "-"]


def test_dry_run_prints_a_command_that_does_the_same(node):
    numactl(node, 'shift 2; exec "$@"')
    done = run(node, "--workload", "online", "--instance", 1, "--env", "A=b c", "--dry-run", "--", "sh", "-c", 'echo "$A $OMP_NUM_THREADS"')
    assert f"{node}/bin/numactl --physcpubind={ALLOWED[-1]} --membind=0 sh -c " in done.stdout
    assert subprocess.run(["sh", "-c", done.stdout], capture_output=True, text=True, check=True).stdout == "b c 1\n"
    assert "taskset --cpu-list" in run(node, "--workload", "search", "--dry-run", "--", "true").stdout


def test_help_names_every_option(node):
    done = run(node, "--help")
    assert done.returncode == 0
    assert all(option in done.stdout for option in ("--workload", "--instance", "--env", "--preload", "--dry-run", "--list", "--placement", "125"))
