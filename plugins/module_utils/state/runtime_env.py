# Copyright (c) 2026, The ainode.cpu authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The files that carry a node's placement to the programs that run on it.

/etc/ainode/placement.json        every instance of every workload, for ainode-run and other programs
/etc/ainode/env.d/online.env      the environment of a workload's instances, for systemd's EnvironmentFile= and for shells
/etc/ainode/env.d/online-3.env    what is different for one instance (on nodes of unequal size); read after online.env
/usr/local/bin/ainode-run         starts a command as one instance
"""

from __future__ import annotations

import json
import re

from ..host.host import file
from ..plan.placement import place
from ..programs import ainode_run

ENV_DIRECTORY = "/etc/ainode/env.d"
AINODE_RUN = "/usr/local/bin/ainode-run"

# These characters mean themselves to systemd, to every shell and to `docker --env-file`.
_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./-]+\Z")
# Within double quotes, systemd.exec(5) and POSIX (Shell Command Language, 2.2.3) agree that these, and only these, want a backslash.
_ESCAPED = re.compile(r'(["\\`$])')

# Who reads a variable: written into the files, above the first variable of each group.
_GROUPS = (
    (
        ("OMP_NUM_THREADS", "OMP_PROC_BIND", "OMP_PLACES"),
        "OpenMP, of whatever maker: PyTorch, NumPy, scikit-learn, Faiss. Stock TensorFlow, OpenVINO and ONNX Runtime have threads of their own.\n"
        "# Give ONNX Runtime this number as intra_op_num_threads: by default its threads leave the instance.",
    ),
    (
        ("KMP_AFFINITY", "KMP_BLOCKTIME", "KMP_SETTINGS"),
        "Intel's and LLVM's OpenMP alone: PyTorch with libiomp5 or libomp preloaded. Stock PyTorch, TensorFlow, OpenVINO and ONNX Runtime never.",
    ),
    (("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "TF_ENABLE_ONEDNN_OPTS"), "TensorFlow."),
    (("ONEDNN_VERBOSE",), "oneDNN within TensorFlow, PyTorch and OpenVINO. Its log breaks OpenVINO's INT8 models, so it is off."),
    (("LD_PRELOAD", "MALLOC_CONF"), "The dynamic linker and what it preloads."),
)


def plan(facts, workloads, root=""):
    """Return {workload: [instance]} for `workloads`, a list of {"name", "preload": [library], and options of placement.place()}.

    Libraries to preload are looked for below `root` ("" is this machine). Raises ValueError that names the workload and what is wrong.
    """
    placed = {}
    for options in workloads:
        options = {key: value for key, value in options.items() if value is not None}
        name, preload = options.pop("name"), options.pop("preload", [])
        if name in placed:
            raise ValueError(f"workload '{name}' is listed twice: give it one entry")
        try:
            libraries = ainode_run.preloading([ainode_run.find_library(library, root) for library in preload])
            placed[name] = place(facts, name, **{**options, "env": {**libraries, **options.get("env", {})}})
        except (ValueError, ainode_run.RunError) as error:
            raise ValueError(f"workload '{name}': {error}") from None
    return placed


def files(placed):
    """Return {path: state} (host.file) of all files for `placed` ({workload: [instance]})."""
    wanted = {
        ainode_run.PLACEMENT: file(json.dumps({"version": 1, "workloads": placed}, indent=2) + "\n"),
        # The installed program is the module itself: in the archive that Ansible sends, its loader has the text.
        AINODE_RUN: file("#!/usr/bin/env python3\n" + ainode_run.__loader__.get_source(ainode_run.__name__), 0o755),
    }
    for workload, instances in placed.items():
        # On a node of unequal NUMA nodes the workload's file has the smallest instance's numbers: too few threads cost less than too many.
        common = min(instances, key=lambda instance: instance["threads"])["env"]
        path = f"{ENV_DIRECTORY}/{workload}.env"
        names = instances[0]["name"] if len(instances) == 1 else f"{instances[0]['name']} to {instances[-1]['name']}"
        wanted[path] = file(_render(common, path, f"The environment of {names}."))
        for instance in instances:
            different = {name: value for name, value in instance["env"].items() if common.get(name) != value}
            if different:
                own = f"{ENV_DIRECTORY}/{instance['name']}.env"
                wanted[own] = file(_render(different, own, f"What is different for {instance['name']}: read it after {path}."))
    return wanted


def quote(value):
    """Return `value` (one line of text) as systemd's EnvironmentFile= and a POSIX shell read it alike."""
    return value if _PLAIN.match(value) else '"' + _ESCAPED.sub(r"\\\1", value) + '"'


def _render(env, path, title):
    """Return the text of an environment file."""
    lines = [
        f"# {title} Written by ainode.cpu.runtime_env: changes made here are lost.",
        "# It takes the whole node, beside other workloads and services: those that run together have cores of their own in /etc/ainode/plan.json.",
        f"# systemd: EnvironmentFile={path}",
        f"# shell:   set -a; . {path}; set +a",
    ]
    rest = dict(env)
    for names, readers in _GROUPS:
        group = [f"{name}={quote(rest.pop(name))}" for name in names if name in rest]
        lines += ["", f"# {readers}", *group] if group else []
    if rest:
        lines += ["", "# Asked for by the play.", *(f"{name}={quote(value)}" for name, value in rest.items())]
    return "\n".join(lines) + "\n"
