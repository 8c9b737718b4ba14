# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of all services of a node: on described and recorded machines, and what holds on any machine at all."""

from __future__ import annotations

import json
from pathlib import Path

import machines
import pytest
from ansible_collections.ainode.cpu.plugins.module_utils.facts.gather import gather
from ansible_collections.ainode.cpu.plugins.module_utils.host import cpulist
from ansible_collections.ainode.cpu.plugins.module_utils.host.root import Root
from ansible_collections.ainode.cpu.plugins.module_utils.plan import placement, workloads
from hypothesis import given, settings
from hypothesis import strategies as st
from test_placement import GIB, HYBRID, LAPTOP, SNC2, UNEQUAL, any_machine, facts, ids

SEARCH = {"name": "vector-search", "workload": "search"}
MODELS = {"name": "model-service", "workload": "online"}
BATCH = {"name": "nightly", "workload": "batch"}
XEON_6230 = machines.grid(sockets=2, cores=20, threads=2)


def where(plan):
    """Return {service: [(NUMA node, CPUs)]}."""
    return {name: [(one["numa_node"], one["cpus"]) for one in service["instances"]] for name, service in plan["services"].items()}


def cpus(plan, name):
    return {cpu for one in plan["services"][name]["instances"] for cpu in cpulist.parse(one["cpus"])}


# How the cores are divided ------------------------------------------------------------------------------------------------------


def test_two_services_on_two_nodes_have_a_node_each():
    """Placed on their own, the search would have 0-19 and 20-39 and the models 0-7, 8-15, 20-27 and 28-35."""
    plan = workloads.plan(facts(XEON_6230), [SEARCH, MODELS])
    assert where(plan) == {"vector-search": [(0, "0-19")], "model-service": [(1, "20-27"), (1, "28-35")]}
    assert plan["shared"] == []
    assert plan["version"] == 1
    assert plan["services"]["model-service"]["asked"]["workload"] == "online"
    assert plan["services"]["model-service"]["instances"][0]["memory_node"] == "1"
    assert json.loads(json.dumps(plan)) == plan


def test_a_service_alone_has_what_place_gives():
    for workload in placement.WORKLOADS:
        for machine in (XEON_6230, LAPTOP, SNC2, UNEQUAL, HYBRID):
            plan = workloads.plan(facts(machine), [{"name": "one", "workload": workload}])
            assert plan["services"]["one"]["instances"] == placement.place(facts(machine), workload)


def test_shares_of_nodes_and_of_cores():
    machine = facts(SNC2)  # four nodes of 16
    assert where(workloads.plan(machine, [SEARCH, {**MODELS, "share": 3}]))["vector-search"] == [(0, "0-15")]
    assert [node for node, _cpus in where(workloads.plan(machine, [{**SEARCH, "share": 3}, MODELS]))["vector-search"]] == [0, 1, 2]
    one_node = facts(machines.grid(1, 20))
    assert where(workloads.plan(one_node, [SEARCH, MODELS])) == {"vector-search": [(0, "0-9")], "model-service": [(0, "10-17")]}
    assert where(workloads.plan(one_node, [SEARCH, {**MODELS, "share": 3}])) == {"vector-search": [(0, "0-4")], "model-service": [(0, "5-12")]}


def test_nodes_of_unequal_size_are_chosen_by_their_cores():
    cores = [machines.Cpu(n, package=n // 10, core=n, node=0 if n < 20 else 1 if n < 24 else 2) for n in range(28)]
    assert where(workloads.plan(facts(cores), [SEARCH, MODELS])) == {"vector-search": [(0, "0-19")], "model-service": [(1, "20-23"), (2, "24-27")]}


def test_more_services_than_nodes_divide_cores_in_the_nodes_order():
    plan = workloads.plan(facts(XEON_6230), [SEARCH, MODELS, {**SEARCH, "name": "images"}])
    assert where(plan) == {"vector-search": [(0, "0-12")], "model-service": [(0, "13-19"), (1, "20-26")], "images": [(1, "27-39")]}


def test_a_number_of_instances_takes_exactly_what_it_needs_and_comes_first():
    plan = workloads.plan(facts(XEON_6230), [SEARCH, {**MODELS, "instances": 2}])
    assert where(plan) == {"model-service": [(0, "0-7"), (1, "20-27")], "vector-search": [(0, "8-19"), (1, "28-39")]}


def test_a_number_of_instances_leaves_others_their_share_where_it_would_leave_them_nothing():
    plan = workloads.plan(facts(machines.grid(1, 4)), [SEARCH, {**MODELS, "instances": 1}])
    assert where(plan) == {"model-service": [(0, "0-1")], "vector-search": [(0, "2-3")]}


def test_a_numa_node_is_given():
    assert where(workloads.plan(facts(XEON_6230), [SEARCH, {**MODELS, "numa_node": 0}])) == {
        "model-service": [(0, "0-7"), (0, "8-15")],
        "vector-search": [(1, "20-39")],
    }
    both = workloads.plan(facts(XEON_6230), [{**SEARCH, "numa_node": 1}, {**MODELS, "numa_node": 1}])
    assert where(both) == {"vector-search": [(1, "20-29")], "model-service": [(1, "30-37")]}
    only = workloads.plan(facts(machines.grid(1, 4)), [{**SEARCH, "numa_node": 0}, MODELS])
    assert where(only) == {"vector-search": [(0, "0-1")], "model-service": [(0, "2-3")]}


def test_reserved_cores_are_reserved_once():
    plan = workloads.plan(facts(XEON_6230), [SEARCH, MODELS], reserved_cores=2)
    assert where(plan) == {"vector-search": [(0, "2-19")], "model-service": [(1, "20-27"), (1, "28-35")]}


def test_a_host_too_small_says_that_it_is():
    plan = workloads.plan(facts(machines.grid(1, 1)), [SEARCH, MODELS])
    assert where(plan) == {"vector-search": [(0, "0")], "model-service": [(0, "0")]}
    assert plan["shared"] == ["model-service and vector-search share the CPUs 0"]


def test_efficiency_cores_go_to_batch_and_performance_cores_are_divided():
    plan = workloads.plan(facts(HYBRID), [BATCH, MODELS])
    assert where(plan) == {"model-service": [(0, "0,2")], "nightly": [(0, "4,6,8-15")]}


def test_a_quota_is_that_of_all_together():
    plan = workloads.plan(facts(XEON_6230, count=8, limit="quota"), [SEARCH, MODELS])
    assert where(plan) == {"vector-search": [(0, "0-3")], "model-service": [(0, "4-7")]}
    plan = workloads.plan(facts(XEON_6230, count=1, limit="quota"), [SEARCH, MODELS])
    assert plan["shared"][1:] == ["the instances have 2 threads together, and a CPU quota lets 1 run at a time"]


def test_memory_is_divided_too():
    machine = facts(machines.grid(1, 32), memory=64 * GIB)
    first, second = ({"name": name, "workload": "online", "memory_per_instance": 30 * GIB} for name in ("a", "b"))
    assert where(workloads.plan(machine, [first])) == {"a": [(0, "0-7"), (0, "8-15")]}
    with pytest.raises(ValueError, match="service 'b': memory_per_instance is 32212254720 bytes, and no NUMA node has as much"):
        workloads.plan(machine, [{**first, "instances": 2}, second])


# What was planned before --------------------------------------------------------------------------------------------------------


def test_a_service_that_comes_later_moves_nobody():
    before = workloads.plan(facts(XEON_6230), [{**MODELS, "instances": 2}])
    after = workloads.plan(facts(XEON_6230), [SEARCH], before)
    assert after["services"]["model-service"] == before["services"]["model-service"]
    assert where(after)["vector-search"] == [(0, "8-19"), (1, "28-39")]
    assert workloads.plan(facts(XEON_6230), [SEARCH, {**MODELS, "instances": 2}], after) == after


def test_a_service_that_was_alone_keeps_the_node_until_it_is_planned_anew():
    before = workloads.plan(facts(XEON_6230), [SEARCH])
    after = workloads.plan(facts(XEON_6230), [SEARCH, MODELS], before)
    assert after["services"]["vector-search"] == before["services"]["vector-search"]
    assert after["shared"] == ["model-service and vector-search share the CPUs 0-15,20-35"]
    anew = workloads.plan(facts(XEON_6230), [SEARCH, MODELS], after, replan=True)
    assert anew == workloads.plan(facts(XEON_6230), [SEARCH, MODELS])


def test_replan_leaves_the_services_of_another_play_alone():
    before = workloads.plan(facts(XEON_6230), [{**MODELS, "instances": 2}, SEARCH])
    after = workloads.plan(facts(XEON_6230), [{**SEARCH, "cores_per_instance": 4}], before, replan=True)
    assert after["services"]["model-service"] == before["services"]["model-service"]


def test_another_request_or_cores_that_are_gone_place_a_service_again():
    before = workloads.plan(facts(XEON_6230), [SEARCH, MODELS])
    other = workloads.plan(facts(XEON_6230), [SEARCH, {**MODELS, "cores_per_instance": 10}], before)
    assert where(other) == {"vector-search": [(0, "0-19")], "model-service": [(1, "20-29"), (1, "30-39")]}
    confined = facts(XEON_6230, usable=range(30), limit="cpuset")
    assert where(workloads.plan(confined, [SEARCH, MODELS], before)) == {"vector-search": [(0, "0-19")], "model-service": [(1, "20-27")]}
    assert where(workloads.plan(facts(XEON_6230), [SEARCH, MODELS], before, reserved_cores=1))["vector-search"] == [(0, "1-19"), (1, "36-39")]


def test_what_is_kept_is_described_as_the_node_is_now():
    before = workloads.plan(facts(XEON_6230), [SEARCH, MODELS])
    before["services"]["vector-search"]["instances"][0].update(memory_node=None, env={"OMP_NUM_THREADS": "1"})
    assert workloads.plan(facts(XEON_6230), [SEARCH, MODELS], before) == workloads.plan(facts(XEON_6230), [SEARCH, MODELS])


# Errors -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("services", "message"),
    [
        ([{"workload": "online"}], "name 'None' is no service name"),
        ([{**MODELS, "name": "a b"}], "name 'a b' is no service name"),
        ([MODELS, MODELS], "service 'model-service' is listed twice"),
        ([{**MODELS, "cores": 8}], "service 'model-service': 'cores' is no option: give some of workload, share"),
        ([{**MODELS, "workload": "serving"}], "service 'model-service': workload is 'serving': give one of online"),
        ([{"name": "x"}], "service 'x': workload is 'None': give one of online"),
        ([{**MODELS, "share": 0}], "service 'model-service': share is 0: give a whole number from 1 up"),
        ([{**MODELS, "numa_node": 2}], "service 'model-service': numa_node is 2, and the NUMA nodes with usable cores are 0, 1"),
        ([{**MODELS, "instances": 5}], "service 'model-service': instances is 5, and 4 fit: give fewer or smaller ones"),
        ([{**MODELS, "cores_per_instance": 21}], "service 'model-service': cores_per_instance is 21, and the largest node offers 20 cores"),
        (
            [{**MODELS, "instances": 3}, {**SEARCH, "instances": 2, "cores_per_instance": 18}],
            r"service 'vector-search': cores_per_instance is 18, and the largest node offers 12 cores to search: .* \(24 cores are other services'\)",
        ),
    ],
)
def test_bad_input_names_the_service_and_both_numbers(services, message):
    with pytest.raises(ValueError, match=message):
        workloads.plan(facts(XEON_6230), services)


def test_too_many_reserved_cores():
    with pytest.raises(ValueError, match="reserved_cores is 40, and the services can use 40 cores: leave at least one"):
        workloads.plan(facts(XEON_6230), [SEARCH], reserved_cores=40)
    with pytest.raises(ValueError, match="reserved_cores is 4, and the services can use 4 cores under a CPU quota of 4"):
        workloads.plan(facts(XEON_6230, count=4, limit="quota"), [SEARCH], reserved_cores=4)


# Real machines ------------------------------------------------------------------------------------------------------------------


def check_machine(root):
    machine = gather(Root(str(root)), ("cpu", "numa", "memory"))
    system = Path(root) / "sys/devices/system"
    usable = machine["cpu"]["usable"]
    core = {
        cpu: ids(system / f"cpu/cpu{cpu}/topology", "core_cpus_list", "thread_siblings_list", "thread_siblings") or frozenset([cpu])
        for cpu in cpulist.parse(usable["cpus"])
    }
    nodes = [ids(path, "cpulist", "cpumap") for path in (system / "node").glob("node[0-9]*")]
    before = workloads.plan(machine, [SEARCH, MODELS])
    after = workloads.plan(machine, [BATCH], before)
    assert workloads.plan(machine, [SEARCH, MODELS], after) == after
    assert {name: after["services"][name] for name in before["services"]} == before["services"]
    for name in ("vector-search", "model-service"):
        for one in before["services"][name]["instances"]:
            own = set(cpulist.parse(one["cpus"]))
            assert own <= core.keys()
            assert len({core[cpu] for cpu in own}) == len(own)
            assert sum(bool(own & cpus) for cpus in nodes) <= 1
    enough = min(len(set(core.values())), usable["count"]) >= 2 and not any(one["kind"] for one in machine["cpu"]["cores"])
    if enough:
        searching, serving = ({core[cpu] for cpu in cpus(before, name)} for name in ("vector-search", "model-service"))
        assert not searching & serving and not before["shared"]
        assert len(searching | serving) <= usable["count"]
    if enough and len([cpus for cpus in nodes if cpus & core.keys()]) == 2 and usable["limit"] is None:
        assert len([cpus_of for cpus_of in nodes if cpus_of & cpus(before, "vector-search")]) == 1


def test_on_described_machines(machine):
    check_machine(machine)


def test_on_recorded_machines(recorded_machine):
    check_machine(recorded_machine)


# What holds on any machine ------------------------------------------------------------------------------------------------------

any_request = st.fixed_dictionaries(
    {"workload": st.sampled_from(placement.WORKLOADS)},
    optional={
        "share": st.integers(1, 5),
        "instances": st.integers(1, 3),
        "cores_per_instance": st.integers(1, 12),
        "numa_node": st.integers(0, 8),
        "allow_cross_node": st.booleans(),
        "use_isolated": st.booleans(),
        "memory_per_instance": st.just(GIB),
    },
)
any_services = st.lists(any_request, min_size=1, max_size=5).map(lambda found: [{"name": f"service-{number}", **one} for number, one in enumerate(found)])


def check_plan(machine, plan, reserved):
    """Assert what no plan may break, and return the services that share nothing."""
    cpu = machine["cpu"]
    core_of = {number: index for index, core in enumerate(cpu["cores"]) for number in cpulist.parse(core["cpus"])}
    allowed, isolated = set(cpulist.parse(cpu["usable"]["cpus"])), set(cpulist.parse(cpu["isolated"]))
    held = {}
    for name, service in plan["services"].items():
        asked = service["asked"]
        assert service["instances"]
        given_out = [number for one in service["instances"] for number in cpulist.parse(one["cpus"])]
        assert len({core_of[number] for number in given_out}) == len(given_out), "a core was given out twice within a service"
        assert set(given_out) <= (allowed | isolated if asked["use_isolated"] else allowed - isolated)
        for one in service["instances"]:
            nodes = {cpu["cores"][core_of[number]]["node"] for number in cpulist.parse(one["cpus"])}
            if asked["workload"] in ("online", "search") and not asked["allow_cross_node"]:
                assert len(nodes) == 1
            assert asked["numa_node"] is None or nodes == {asked["numa_node"]}
        held[name] = {core_of[number] for number in given_out}
    sharing = {frozenset(sentence.split(" share ")[0].split(" and ")) for sentence in plan["shared"] if " share " in sentence}
    for first in held:
        for second in held:
            if first < second:
                assert bool(held[first] & held[second]) == (frozenset([first, second]) in sharing), "cores are shared, and the plan does not say so"
    limit = cpu["usable"]["count"] if cpu["usable"]["count"] < len(allowed) else None
    if limit is not None and not plan["shared"]:
        assert len(set().union(*held.values())) <= limit
    return held


@settings(max_examples=300, deadline=None)
@given(machine=any_machine(), services=any_services, reserved=st.integers(0, 2), split=st.integers(0, 5), replan=st.booleans())
def test_on_any_machine(machine, services, reserved, split, replan):
    try:
        plan = workloads.plan(machine, services, reserved_cores=reserved)
    except ValueError as error:
        assert str(error).startswith(("service 'service-", "reserved_cores", "no usable CPU"))
        return
    held = check_plan(machine, plan, reserved)
    assert list(plan["services"]) == [service["name"] for service in services]
    assert workloads.plan(machine, services, reserved_cores=reserved) == plan, "not deterministic"
    assert workloads.plan(machine, services, json.loads(json.dumps(plan)), reserved) == plan, "the same requests moved"

    # Whoever shares had no choice: not one core that it may use, by what it asked for, was left.
    quota = machine["cpu"]["usable"]["count"] < len(cpulist.parse(machine["cpu"]["usable"]["cpus"]))
    plain = not quota and not any(set(service) & {"instances", "numa_node", "use_isolated", "memory_per_instance"} for service in services)
    if plain and len({core.number for core in placement.usable_cores(machine, "search")}) - reserved >= len(services):
        assert plan["shared"] == []

    try:
        first = workloads.plan(machine, services[:split], reserved_cores=reserved)
        both = workloads.plan(machine, services[split:], first, reserved, replan)
    except ValueError:
        return
    check_plan(machine, both, reserved)
    assert {name: both["services"][name] for name in first["services"]} == first["services"], "a service that was there has moved"
    assert held.keys() == both["services"].keys()
