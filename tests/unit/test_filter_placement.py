# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter: what a play gets, and how it fails."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import machines
import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.ainode.cpu.plugins.filter import placement as plugin
from ansible_collections.ainode.cpu.plugins.module_utils.plan.placement import OMP_PROC_BIND, WORKLOADS, place
from test_placement import facts

MACHINE = facts(machines.grid(sockets=2, cores=20, threads=2))


def test_filter_gives_what_place_gives():
    assert plugin.FilterModule().filters()["placement"](MACHINE, "online", cores_per_instance=10) == place(MACHINE, "online", cores_per_instance=10)


@pytest.mark.parametrize(
    ("given", "workload", "options", "message"),
    [
        (MACHINE, "inference", {}, "ainode.cpu.placement: workload is 'inference': give one of online"),
        ({"ainode": MACHINE}, "online", {}, "ainode.cpu.placement: the facts have no 'cpu': run ainode.cpu.node_facts"),
        (MACHINE, "online", {"cores": 8}, "ainode.cpu.placement: .*unexpected keyword argument 'cores'"),
    ],
)
def test_errors_are_the_filter_s(given, workload, options, message):
    with pytest.raises(AnsibleFilterError, match=message):
        plugin.placement(given, workload, **options)


def test_filter_in_a_play(tmp_path):
    (tmp_path / "vars.json").write_text(json.dumps({"facts": MACHINE}))
    expression = "{{ facts | ainode.cpu.placement('online', cores_per_instance=size) | map(attribute='cpus') | join(' ') }}"
    ansible = Path(sys.executable).parent / "ansible"
    done = subprocess.run(
        [ansible, "localhost", "-m", "ansible.builtin.debug", "-a", f'msg="{expression}"', "-e", f"@{tmp_path}/vars.json", "-e", "size=10"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert '"msg": "0-9 10-19 20-29 30-39"' in done.stdout, done.stdout + done.stderr


def test_documentation_names_every_option_and_its_default():
    options = yaml.safe_load(plugin.DOCUMENTATION)["options"]
    parameters = dict(inspect.signature(place).parameters)
    # The plan of all services says which CPUs each one has; the filter places one workload on the whole node.
    del parameters["within"]
    assert [name for name in options if name != "_input"] == [name for name in parameters if name != "facts"]
    for name, parameter in parameters.items():
        if name not in ("facts", "workload"):
            assert options[name].get("default") == ({} if name == "env" else parameter.default)
    assert tuple(options["workload"]["choices"]) == WORKLOADS
    assert tuple(options["omp_proc_bind"]["choices"]) == OMP_PROC_BIND
