# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The environment files as shells and systemd read them, and the module on a system root."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import time
from pathlib import Path

import machines
import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.ainode.cpu.plugins.filter import placement as filter_plugin
from ansible_collections.ainode.cpu.plugins.module_utils.plan import placement
from ansible_collections.ainode.cpu.plugins.module_utils.state import runtime_env
from ansible_collections.ainode.cpu.plugins.modules import runtime_env as module
from hypothesis import given, settings
from hypothesis import strategies as st
from test_placement import GIB, LAPTOP, UNEQUAL, XEON_8380, facts

ROLE = Path(__file__).parents[2] / "roles" / "runtime_env"
ALL = [{"name": name} for name in placement.WORKLOADS]


# The files --------------------------------------------------------------------------------------------------------------------


def read_as_systemd(text):
    """Return {name: value} of an EnvironmentFile= by the rules of systemd.exec(5) and systemd's src/basic/env-file.c."""
    values = {}
    for line in text.split("\n"):
        if not line or line[0] in "#;":
            continue
        name, _dummy, rest = line.partition("=")
        value, quoted, position = "", None, 0
        while position < len(rest):
            character = rest[position]
            if quoted == '"' and character == "\\":
                position += 1
                value += rest[position] if rest[position] in '"\\`$' else "\\" + rest[position]
            elif quoted:
                quoted, value = (None, value) if character == quoted else (quoted, value + character)
            elif character in "'\"" and not value:
                quoted = character
            elif character == "\\":
                position += 1
                value += rest[position]
            else:
                value += character
            position += 1
        assert quoted is None
        values[name] = value
    return values


def read_as_shell(*paths):
    """Return the environment that a POSIX shell exports after reading the files, in the C locale."""
    script = "set -a; " + "".join(f". {shlex.quote(str(path))}; " for path in paths) + "exec env -0"
    output = subprocess.run(["env", "-i", "/bin/sh", "-c", script], stdout=subprocess.PIPE, check=True).stdout.decode()
    return {
        name: value for name, _dummy, value in (entry.partition("=") for entry in output.split("\0") if entry) if name not in ("PWD", "OLDPWD", "SHLVL", "_")
    }


one_line = st.text(st.characters(blacklist_categories=("Cc", "Cs")), max_size=30)


@settings(max_examples=15, deadline=None)
@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9]{1,8}_", fullmatch=True), one_line, min_size=1, max_size=40))
def test_shell_and_systemd_read_every_value_alike(tmp_path_factory, env):
    placed = runtime_env.plan(facts(LAPTOP), [{"name": "online", "env": env}])
    text = runtime_env.files(placed)["/etc/ainode/env.d/online.env"]["content"]
    path = tmp_path_factory.mktemp("env") / "online.env"
    path.write_text(text)
    assert read_as_shell(path) == read_as_systemd(text) == placed["online"][0]["env"]
    assert env.items() <= placed["online"][0]["env"].items()


def test_instances_of_unequal_nodes_have_files_of_their_own(tmp_path):
    placed = runtime_env.plan(facts(UNEQUAL), [{"name": "online"}])
    wanted = runtime_env.files(placed)
    assert sorted(wanted) == [
        "/etc/ainode/env.d/online-0.env",
        "/etc/ainode/env.d/online-1.env",
        "/etc/ainode/env.d/online.env",
        "/etc/ainode/placement.json",
        "/usr/local/bin/ainode-run",
    ]
    for path, state in wanted.items():
        (tmp_path / Path(path).name).write_text(state["content"])
    # Too few threads cost less than too many: who reads the workload's file alone gets the smallest instance's.
    assert read_as_shell(tmp_path / "online.env") == placed["online"][2]["env"]
    assert read_as_shell(tmp_path / "online.env", tmp_path / "online-0.env") == placed["online"][0]["env"]
    assert json.loads(wanted["/etc/ainode/placement.json"]["content"])["workloads"] == placed


def test_every_variable_says_who_reads_it():
    placed = runtime_env.plan(facts(LAPTOP), [{"name": "online", "omp_proc_bind": "close", "env": {"MINE": 1}}])
    text = runtime_env.files(placed)["/etc/ainode/env.d/online.env"]["content"]
    assert "EnvironmentFile=/etc/ainode/env.d/online.env" in text and "The environment of online-0." in text
    blocks = [block.splitlines() for block in text.strip().split("\n\n")[1:]]
    readers = {line.split("=")[0]: block[0] for block in blocks for line in block if not line.startswith("# ")}
    assert "OpenMP" in readers["OMP_PLACES"] and "Intel's and LLVM's OpenMP alone" in readers["KMP_AFFINITY"] and "play" in readers["MINE"]
    assert set(readers) == {*placement.environment(1, omp_proc_bind="close"), "MINE"}


def test_preloaded_libraries_are_found_on_the_node(tmp_path):
    folder = tmp_path / "usr/lib64"
    folder.mkdir(parents=True)
    (folder / "libomp.so.5").touch()
    (folder / "libjemalloc.so.2").touch()
    placed = runtime_env.plan(facts(LAPTOP), [{"name": "online", "omp_proc_bind": "close", "preload": ["jemalloc", "libomp"]}], str(tmp_path))
    env = placed["online"][0]["env"]
    assert env["LD_PRELOAD"] == "/usr/lib64/libjemalloc.so.2:/usr/lib64/libomp.so.5"
    assert "MALLOC_CONF" in env and "OMP_PROC_BIND" not in env and "OMP_PLACES" not in env
    with pytest.raises(ValueError, match=r"workload 'batch': preload: libtcmalloc_minimal.so.4 is in none of .*: install Debian's package"):
        runtime_env.plan(facts(LAPTOP), [{"name": "batch", "preload": ["tcmalloc"]}], str(tmp_path))


# The module -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def root(programs):
    for name in ("proc", "sys", "etc"):
        (programs / "root" / name).mkdir(parents=True)
    return programs / "root"


@pytest.fixture
def run(root, capsys):
    """Run the module on the root; return its result."""

    def call(check=False, **arguments):
        if arguments.get("state", "present") == "present":
            arguments = {"facts": facts(XEON_8380), "workloads": ALL, **arguments}
            arguments = {name: value for name, value in arguments.items() if value is not None}
        with patch_module_args({"root": str(root), "_ansible_check_mode": check, "_ansible_diff": True, **arguments}), pytest.raises(SystemExit):
            module.main()
        return json.loads(capsys.readouterr().out)

    return call


def tree(root):
    """Return {path: (mode, content)} of everything below root."""
    return {str(path.relative_to(root)): (path.lstat().st_mode, path.read_bytes() if path.is_file() else None) for path in root.rglob("*")}


def test_present_then_absent_leaves_the_tree_byte_for_byte(root, run):
    before = tree(root)
    first = run()
    assert first["changed"] and len(first["placement"]["online"]) == 10
    assert sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and "var/lib" not in str(path)) == [
        "etc/ainode/env.d/batch.env",
        "etc/ainode/env.d/online.env",
        "etc/ainode/env.d/search.env",
        "etc/ainode/env.d/training.env",
        "etc/ainode/placement.json",
        "usr/local/bin/ainode-run",
    ]
    converged = tree(root)
    assert not run()["changed"] and tree(root) == converged
    assert run(state="absent")["changed"]
    assert tree(root) == before
    assert not run(state="absent")["changed"]


def test_a_check_run_predicts_the_real_one_and_changes_nothing(root, run):
    for arguments in ({}, {"workloads": [{"name": "online"}]}, {"state": "absent"}):
        before = tree(root)
        check = run(check=True, **arguments)
        assert check["changed"] and tree(root) == before
        real = run(**arguments)
        assert {key: real[key] for key in ("changed", "files", "diff", "placement")} == {key: check[key] for key in ("changed", "files", "diff", "placement")}
        assert not run(check=True, **arguments)["changed"]


def test_what_was_there_before_comes_back(root, run):
    mine = root / "usr/local/bin/ainode-run"
    mine.parent.mkdir(parents=True)
    mine.write_text("#!/bin/sh\nmine\n")
    mine.chmod(0o700)
    (root / "etc/ainode/env.d").mkdir(parents=True)
    (root / "etc/ainode/env.d/other.env").write_text("A=1\n")
    before = tree(root)
    run()
    assert mine.stat().st_mode & 0o777 == 0o755 and "mine" not in mine.read_text().splitlines()
    run(state="absent")
    assert tree(root) == before


def test_workloads_and_instances_that_are_gone_take_their_files_along(root, run):
    run(facts=facts(UNEQUAL))
    assert (root / "etc/ainode/env.d/online-1.env").exists()
    result = run(facts=facts(UNEQUAL), workloads=[{"name": "online", "instances": 1}])
    assert sorted(path.name for path in (root / "etc/ainode/env.d").iterdir()) == ["online.env"]
    assert {"path": "/etc/ainode/env.d/batch.env", "change": "removed"} in result["files"]


def test_a_drifted_file_is_put_right(root, run):
    run()
    expected = tree(root)
    env = root / "etc/ainode/env.d/online.env"
    env.write_text(env.read_text().replace("OMP_NUM_THREADS=8", "OMP_NUM_THREADS=80"))
    (root / "usr/local/bin/ainode-run").chmod(0o644)
    result = run()
    assert result["changed"] and tree(root) == expected
    assert any("-OMP_NUM_THREADS=80" in f"-{line}" for entry in result["diff"] for line in entry["before"].splitlines())


def test_the_installed_program_runs_by_itself(root, run):
    machine = facts(LAPTOP)
    run(facts=machine)
    program = root / "usr/local/bin/ainode-run"
    listed = subprocess.run([program, "--placement", root / "etc/ainode/placement.json", "--list"], capture_output=True, text=True, check=True).stdout
    assert re.search(r"^online-0 +0 +0,2,4,6 +4 +bind 0$", listed, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"facts": {}}, "workload 'online': the facts have no 'cpu'"),
        ({"facts": None}, "state is present but all of the following are missing: facts"),
        ({"workloads": [{"name": "serving"}]}, "value of name must be one of: online, batch, search, training, got: serving found in workloads"),
        ({"workloads": [{"name": "online", "cores": 8}]}, "module: workloads.cores. Supported parameters include: allow_cross_node"),
        ({"workloads": [{"name": "online"}, {"name": "batch"}, {"name": "online"}]}, "workload 'online' is listed twice"),
        ({"workloads": [{"name": "batch", "cores_per_instance": 64}]}, "workload 'batch': cores_per_instance is 64, and the largest socket offers 40 cores"),
        ({"workloads": [{"name": "search", "memory_per_instance": 100 * GIB}]}, "memory_per_instance is 107374182400 bytes, and no NUMA node has as much"),
        ({"workloads": [{"name": "online", "env": {"a-b": 1}}]}, "workload 'online': 'a-b' is no name of an environment variable"),
        ({"workloads": [{"name": "online", "preload": ["mimalloc"]}]}, "workload 'online': preload: 'mimalloc' is unknown: give jemalloc"),
        ({"root": "/nowhere"}, "root '/nowhere' is not a directory"),
    ],
)
def test_bad_input_is_one_clear_error_and_changes_nothing(root, run, arguments, message):
    before = tree(root)
    result = run(**arguments)
    assert result["failed"] and message in result["msg"]
    assert tree(root) == before


def test_yaml_s_false_is_no_thread_binding(run):
    result = run(workloads=[{"name": "online", "omp_proc_bind": False}])
    assert result["placement"]["online"][0]["env"]["OMP_PROC_BIND"] == "false"


# One list of options ----------------------------------------------------------------------------------------------------------


def test_filter_module_and_role_have_the_same_options():
    documented = yaml.safe_load(filter_plugin.DOCUMENTATION)["options"]
    in_module = yaml.safe_load(module.DOCUMENTATION)["options"]["workloads"]["suboptions"]
    specs = yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    in_role = specs["runtime_env_workloads"]["options"]
    assert in_module.keys() == in_role.keys() == {*documented, "name", "preload"} - {"_input", "workload"}

    def kind(option):
        return {key: option.get(key) for key in ("type", "elements", "default", "choices", "required")}

    assert {name: kind(option) for name, option in in_module.items()} == {name: kind(option) for name, option in in_role.items()}
    shared = documented.keys() & in_module.keys()
    assert {name: kind(documented[name]) for name in shared} == {name: kind(in_module[name]) for name in shared}
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    assert defaults == {name: option["default"] for name, option in specs.items()}
    assert defaults["runtime_env_workloads"] == ALL


def test_the_largest_machine_is_planned_in_no_time():
    big = facts(machines.grid(sockets=8, cores=64, threads=2, nodes_per_socket=4))
    started = time.process_time()
    runtime_env.files(runtime_env.plan(big, ALL))
    assert time.process_time() - started < 0.2
