# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module node_plan on a system root, and the roles that ask it for cores."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.ainode.cpu.plugins.module_utils.plan import workloads
from ansible_collections.ainode.cpu.plugins.modules import node_plan as module
from test_placement import facts
from test_plan import MODELS, SEARCH, XEON_6230, where
from test_runtime_env import tree

ROLES = Path(__file__).parents[2] / "roles"
PLAN = "etc/ainode/plan.json"


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "root"
    for name in ("proc", "sys", "etc"):
        (root / name).mkdir(parents=True)
    return root


@pytest.fixture
def run(root, capsys):
    def call(*services, check=False, **arguments):
        arguments = {"facts": facts(XEON_6230), "services": list(services), "root": str(root), **arguments}
        arguments = {name: value for name, value in arguments.items() if value is not None}
        with patch_module_args({"_ansible_check_mode": check, "_ansible_diff": True, **arguments}), pytest.raises(SystemExit):
            module.main()
        return json.loads(capsys.readouterr().out)

    return call


def test_the_plan_is_in_the_file_and_goes_without_a_trace(root, run):
    before = tree(root)
    first = run(SEARCH, MODELS)
    assert first["changed"] and first["files"] == [{"path": f"/{PLAN}", "change": "created"}]
    assert json.loads((root / PLAN).read_text()) == first["plan"] == workloads.plan(facts(XEON_6230), [SEARCH, MODELS])
    assert (root / PLAN).stat().st_mode & 0o777 == 0o644
    converged = tree(root)
    assert not run(SEARCH, MODELS)["changed"] and tree(root) == converged
    assert run(state="absent")["changed"]
    assert tree(root) == before
    assert not run(state="absent")["changed"]


def test_services_come_and_go_one_by_one(root, run):
    before = tree(root)
    alone = run({**MODELS, "instances": 2})
    both = run(SEARCH)
    assert where(both["plan"]) == {**where(alone["plan"]), "vector-search": [(0, "8-19"), (1, "28-39")]}
    assert run(facts=None)["plan"] == both["plan"], "the plan is read without facts"
    freed = run({"name": "model-service"}, state="absent", facts=None)
    assert list(freed["plan"]["services"]) == ["vector-search"]
    assert not run({"name": "model-service"}, state="absent")["changed"]
    run({"name": "vector-search"}, state="absent")
    assert tree(root) == before


def test_a_plan_that_nobody_wrote_is_read_as_empty(root, run):
    before = tree(root)
    assert run(facts=None) == {**run(facts=None), "changed": False, "plan": {"version": 1, "services": {}, "shared": []}}
    assert tree(root) == before


def test_a_check_run_predicts_the_real_one_and_changes_nothing(root, run):
    steps = [((SEARCH, MODELS), {}), (({**SEARCH, "share": 2}, MODELS), {"replan": True}), ((MODELS,), {"state": "absent"}), ((), {"state": "absent"})]
    for services, arguments in steps:
        before = tree(root)
        check = run(*services, check=True, **arguments)
        assert check["changed"] and tree(root) == before
        real = run(*services, **arguments)
        assert {key: real[key] for key in ("changed", "files", "diff", "plan")} == {key: check[key] for key in ("changed", "files", "diff", "plan")}
        assert not run(*services, check=True, **arguments)["changed"]


@pytest.mark.parametrize(
    ("services", "arguments", "message"),
    [
        ([SEARCH], {"facts": None}, "the facts have no 'cpu': run ainode.cpu.node_facts"),
        ([{**SEARCH, "workload": "vectors"}], {}, "value of workload must be one of: online, batch, search, training, got: vectors found in services"),
        ([{"name": "x"}], {}, "service 'x': workload is 'None': give one of online, batch, search, training"),
        ([{**MODELS, "instances": 5}], {}, "service 'model-service': instances is 5, and 4 fit"),
        ([SEARCH], {"reserved_cores": 40}, "reserved_cores is 40, and the services can use 40 cores"),
    ],
)
def test_bad_input_is_one_clear_error_and_changes_nothing(root, run, services, arguments, message):
    before = tree(root)
    result = run(*services, **arguments)
    assert result["failed"] and message in result["msg"]
    assert tree(root) == before


def test_a_damaged_file_is_refused_and_made_anew_when_asked_for(root, run):
    run(SEARCH, MODELS)
    (root / PLAN).write_text("{")
    for arguments in ({}, {"state": "absent"}):
        result = run(SEARCH, **arguments)
        assert result["failed"] and result["msg"].startswith(f"/{PLAN} is not what ainode.cpu.node_plan writes: put it right, or run with replan")
    assert where(run(SEARCH, replan=True)["plan"]) == {"vector-search": [(0, "0-19"), (1, "20-39")]}
    (root / PLAN).write_text("{")
    assert run(state="absent")["changed"] and not (root / PLAN).exists()


def test_a_request_is_the_same_in_module_and_function(run):
    documented = yaml.safe_load(module.DOCUMENTATION)["options"]["services"]["suboptions"]
    result = run({"name": "x", "workload": "batch"})
    asked = result["plan"]["services"]["x"]["asked"]
    assert {"name", *asked} == set(documented)
    assert asked == {**{name: option.get("default") for name, option in documented.items() if name != "name"}, "workload": "batch"}
    assert inspect.signature(workloads.plan).parameters["reserved_cores"].default == 0


def test_no_role_places_itself_on_the_whole_node():
    """What runs beside others asks the plan; the benchmark alone measures the whole node, one measurement after the other."""
    found = {path.relative_to(ROLES).parts[0] for path in ROLES.rglob("*.yml") if "ainode.cpu.placement(" in path.read_text()}
    assert found == {"benchmark"}
