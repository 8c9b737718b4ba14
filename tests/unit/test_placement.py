# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Placement on described machines, and what holds on any machine at all."""

from __future__ import annotations

from math import inf
from pathlib import Path

import machines
import pytest
from ansible_collections.ainode.cpu.plugins.module_utils.facts.gather import gather
from ansible_collections.ainode.cpu.plugins.module_utils.host import cpulist
from ansible_collections.ainode.cpu.plugins.module_utils.host.root import Root
from ansible_collections.ainode.cpu.plugins.module_utils.plan import placement
from hypothesis import given, settings
from hypothesis import strategies as st

GIB = 2**30


def facts(cpus, memory=64 * GIB, usable=None, count=None, limit=None, isolated=(), memory_only=(), distances=None, **cpu):
    """Return the facts of a machine of machines.Cpus: `memory` in bytes a node ({id: bytes} or one number), `memory_only` node ids."""
    cores = {}
    for one in cpus:
        cores.setdefault((one.package, one.die, one.core), []).append(one)
    ids = sorted({one.node for one in cpus} - {None})
    online = [one.id for one in cpus]
    usable = online if usable is None else usable
    return {
        "cpu": {
            "online": cpulist.render(online),
            "isolated": cpulist.render(isolated),
            "cores": [
                {"socket": one[0].package, "core": one[0].core, "node": one[0].node, "cpus": cpulist.render(cpu.id for cpu in one), "kind": one[0].kind}
                for one in cores.values()
            ],
            "usable": {"cpus": cpulist.render(usable), "count": len(usable) if count is None else count, "limit": limit},
            **cpu,
        },
        "numa": {
            "nodes": [
                {
                    "id": node,
                    "cpus": cpulist.render(one.id for one in cpus if one.node == node),
                    "memory_bytes": memory.get(node) if isinstance(memory, dict) else memory,
                    "distances": (distances or {}).get(node, {str(other): 10 if other == node else 20 for other in [*ids, *memory_only]}),
                    "kind": "memory" if node in memory_only else "cpu",
                }
                for node in [*ids, *memory_only]
            ]
        },
        "memory": {"total_bytes": memory if isinstance(memory, int) else None},
    }


XEON_8380 = machines.grid(sockets=2, cores=40, threads=2)  # siblings N and N+80
LAPTOP = machines.grid(sockets=1, cores=4, threads=2, adjacent=True)
SNC2 = machines.grid(sockets=2, cores=32, threads=2, nodes_per_socket=2)
HYBRID = [machines.Cpu(n, core=n // 2, kind="performance") for n in range(8)] + [machines.Cpu(n, core=n, kind="efficiency") for n in range(8, 16)]
UNEQUAL = [machines.Cpu(n, package=0, core=n, node=0) for n in range(18)] + [machines.Cpu(18 + n, package=1, core=n, node=1) for n in range(6)]


def where(placed):
    return [(one["numa_node"], one["cpus"]) for one in placed]


# The guide's rules ------------------------------------------------------------------------------------------------------------


def test_online_fits_eight_cores_an_instance_into_each_node():
    placed = placement.place(facts(XEON_8380), "online")
    assert where(placed) == [(first // 40, f"{first}-{first + 7}") for first in range(0, 80, 8)]
    assert placed[7] == {
        "name": "online-7",
        "numa_node": 1,
        "cpus": "56-63",
        "threads": 8,
        "memory_node": "1",
        "memory_policy": "bind",
        "env": {
            "OMP_NUM_THREADS": "8",
            "OMP_PROC_BIND": "false",
            "KMP_AFFINITY": "granularity=fine,compact,1,0",
            "KMP_BLOCKTIME": "1",
            "KMP_SETTINGS": "0",
            "TF_NUM_INTRAOP_THREADS": "8",
            "TF_NUM_INTEROP_THREADS": "1",
            "TF_ENABLE_ONEDNN_OPTS": "1",
            "ONEDNN_VERBOSE": "0",
        },
    }


def test_what_is_left_over_in_a_node_stays_free():
    placed = placement.place(facts(XEON_8380), "online", cores_per_instance=12)
    assert where(placed) == [(0, "0-11"), (0, "12-23"), (0, "24-35"), (1, "40-51"), (1, "52-63"), (1, "64-75")]


def test_a_smaller_node_gets_one_online_instance_with_all_its_cores():
    assert where(placement.place(facts(UNEQUAL), "online")) == [(0, "0-7"), (0, "8-15"), (1, "18-23")]
    assert where(placement.place(facts(LAPTOP), "online", cores_per_instance=16)) == [(0, "0,2,4,6")]


def test_batch_is_one_instance_a_socket_with_all_its_physical_cores():
    assert where(placement.place(facts(XEON_8380), "batch")) == [(0, "0-39"), (1, "40-79")]


@pytest.mark.parametrize("workload", ["batch", "training"])
def test_a_socket_that_sub_numa_clustering_splits_is_one_instance_with_interleaved_memory(workload):
    placed = placement.place(facts(SNC2), workload)
    assert [(one["numa_node"], one["cpus"], one["memory_node"], one["memory_policy"]) for one in placed] == [
        (None, "0-31", "0-1", "interleave"),
        (None, "32-63", "2-3", "interleave"),
    ]


def test_smaller_batch_instances_stay_within_a_node_as_long_as_they_fit():
    placed = placement.place(facts(SNC2), "batch", cores_per_instance=12)
    # Twelve of each node's sixteen; the four left over in each are too few, even together.
    assert where(placed) == [(0, "0-11"), (1, "16-27"), (2, "32-43"), (3, "48-59")]
    placed = placement.place(facts(SNC2), "batch", cores_per_instance=20)
    assert [(one["numa_node"], one["cpus"], one["memory_policy"]) for one in placed] == [(None, "0-19", "interleave"), (None, "32-51", "interleave")]


def test_search_is_one_instance_a_node_and_one_thread_a_core():
    assert [(one["numa_node"], one["cpus"], one["threads"]) for one in placement.place(facts(SNC2), "search")] == [
        (0, "0-15", 16),
        (1, "16-31", 16),
        (2, "32-47", 16),
        (3, "48-63", 16),
    ]


# Where torch.backends.xeon.run_cpu goes wrong ---------------------------------------------------------------------------------


def test_four_cores_are_four_cores_where_siblings_are_numbered_side_by_side():
    # Taking CPUs 0 to 3 as four cores would put two threads on each of two cores.
    assert where(placement.place(facts(LAPTOP), "online", cores_per_instance=4)) == [(0, "0,2,4,6")]


def test_twelve_nodes_are_twelve():
    # Comparing node numbers by their first digit makes 10 and 11 one with 1.
    placed = placement.place(facts(machines.grid(sockets=2, cores=24, nodes_per_socket=6)), "search")
    assert [one["numa_node"] for one in placed] == list(range(12))
    assert where(placed)[9:] == [(9, "36-39"), (10, "40-43"), (11, "44-47")]


# What the host has and allows -------------------------------------------------------------------------------------------------


def test_sockets_that_firmware_shows_as_one_node_are_not_mixed():
    cpus = [machines.Cpu(n, package=n % 2, core=n, node=0) for n in range(16)]
    assert where(placement.place(facts(cpus), "online")) == [(0, "0,2,4,6,8,10,12,14"), (0, "1,3,5,7,9,11,13,15")]


def test_nodes_with_gaps_in_their_numbers():
    placed = placement.place(facts(machines.grid(2, 4, nodes=[0, 8])), "online")
    assert [(one["name"], one["numa_node"], one["memory_node"]) for one in placed] == [("online-0", 0, "0"), ("online-1", 8, "8")]


def test_a_cpuset_that_leaves_the_higher_sibling_alone():
    # CPU 80 is core 0, whose lower sibling is not ours; CPUs 1 and 81 are one core.
    assert where(placement.place(facts(XEON_8380, usable=[80, 1, 81, 2], limit="cpuset"), "online")) == [(0, "1-2,80")]


def test_a_quota_limits_the_threads_of_all_instances_together():
    assert where(placement.place(facts(XEON_8380, count=12, limit="quota"), "search")) == [(0, "0-11")]
    assert where(placement.place(facts(XEON_8380, count=20, limit="quota"), "online")) == [(0, "0-7"), (0, "8-15")]
    assert where(placement.place(facts(XEON_8380, count=45, limit="quota"), "batch")) == [(0, "0-39"), (1, "40-44")]
    assert where(placement.place(facts(XEON_8380, count=4, limit="quota"), "online", reserved_cores=1)) == [(0, "1-3")]


def test_isolated_cpus_are_given_out_when_asked_for():
    # isolcpus= takes them out of every process's affinity, so they are not usable as such.
    machine = facts(machines.grid(1, 8), usable=range(4), isolated=range(4, 8), limit="affinity")
    assert where(placement.place(machine, "search")) == [(0, "0-3")]
    assert where(placement.place(machine, "search", use_isolated=True)) == [(0, "0-7")]
    # A cpuset without them is a border that no process may cross, whatever else limits the host more.
    machine["cpu"]["usable"].update(cpuset="0-3", limit="quota", count=3)
    assert where(placement.place(machine, "search", use_isolated=True)) == [(0, "0-2")]
    machine["cpu"]["usable"].update(cpuset="0-5", limit="affinity", count=4)
    assert where(placement.place(machine, "search", use_isolated=True)) == [(0, "0-5")]


def test_cpus_without_a_tick_are_set_aside_as_isolated_ones_are():
    machine = facts(machines.grid(1, 8), nohz_full="2-7")
    assert where(placement.place(machine, "search")) == [(0, "0-1")]
    assert where(placement.place(machine, "search", use_isolated=True)) == [(0, "0-7")]


def test_all_cpus_isolated_is_an_error_that_names_the_remedy():
    machine = facts(machines.grid(1, 2), isolated=[0, 1])
    with pytest.raises(ValueError, match="isolated '0-1'; use_isolated gives"):
        placement.place(machine, "batch")


def test_a_memory_only_node_has_no_instances():
    placed = placement.place(facts(machines.grid(1, 4), memory_only=[1]), "search")
    assert [(one["numa_node"], one["memory_node"]) for one in placed] == [(0, "0")]


def test_a_node_without_memory_uses_the_nearest_memory():
    cpus = machines.grid(sockets=2, cores=4, nodes_per_socket=2)
    distances = {node: {str(other): 10 if node == other else 12 if node // 2 == other // 2 else 32 for other in range(4)} for node in range(4)}
    machine = facts(cpus, memory={0: 0, 1: 64 * GIB, 2: 64 * GIB, 3: 0}, distances=distances)
    assert [one["memory_node"] for one in placement.place(machine, "search")] == ["1", "1", "2", "2"]
    assert [(one["memory_node"], one["memory_policy"]) for one in placement.place(machine, "batch")] == [("1", "bind"), ("2", "bind")]


def test_memory_that_nobody_recorded_counts_as_there():
    placed = placement.place(facts(XEON_8380, memory={0: None, 1: None}), "batch", memory_per_instance=GIB)
    assert [one["memory_node"] for one in placed] == ["0", "1"]


def test_hybrid_efficiency_cores_serve_batch_alone():
    machine = facts(HYBRID)
    assert where(placement.place(machine, "online")) == [(0, "0,2,4,6")]
    assert where(placement.place(machine, "search")) == [(0, "0,2,4,6")]
    assert where(placement.place(machine, "batch")) == [(0, "0,2,4,6,8-15")]
    assert where(placement.place(facts(HYBRID, usable=range(10, 14), limit="affinity"), "search")) == [(0, "10-13")]


def test_a_kernel_without_numa():
    placed = placement.place(facts(machines.grid(1, 4, nodes_per_socket=0)), "online")
    assert [(one["numa_node"], one["memory_node"], one["memory_policy"], one["cpus"]) for one in placed] == [(None, None, None, "0-3")]


def test_unknown_topology_is_one_instance_on_usable_cpus():
    machine = {"cpu": {"online": "0-63", "cores": [], "usable": {"cpus": "0-63", "count": 64, "limit": None, "cpuset": None}}, "numa": {"nodes": []}}
    assert where(placement.place(machine, "online")) == [(None, "0-7")]
    assert where(placement.place(machine, "batch")) == [(None, "0-63")]
    del machine["cpu"]["usable"]
    assert where(placement.place(machine, "search")) == [(None, "0-63")]


# What the caller asks for -----------------------------------------------------------------------------------------------------


def test_training_leaves_efficiency_cores_alone():
    assert where(placement.place(facts(HYBRID), "training")) == [(0, "0,2,4,6")]


def test_up_to_sixteen_cores_an_online_instance_has_at_most_what_is_there():
    assert where(placement.place(facts(LAPTOP), "online", cores_per_instance=16)) == [(0, "0,2,4,6")]
    with pytest.raises(ValueError, match="cores_per_instance is 17"):
        placement.place(facts(LAPTOP), "online", cores_per_instance=17)


def test_an_isolated_cpu_that_is_offline_is_not_given_out():
    """Without a topology a CPU is known by its number alone."""
    machine = facts(LAPTOP, isolated=[6, 7, 8], online="0-6", usable=range(6), cores=None)
    assert where(placement.place(machine, "batch", use_isolated=True)) == [(None, "0-6")]


def test_reserved_cores_are_the_first_node_s_first():
    assert where(placement.place(facts(XEON_8380), "batch", reserved_cores=2)) == [(0, "2-39"), (1, "40-79")]
    # A core is kept with both its threads.
    assert where(placement.place(facts(LAPTOP), "search", reserved_cores=1)) == [(0, "2,4,6")]


def test_memory_per_instance_limits_the_instances_of_each_node():
    machine = facts(XEON_8380, memory={0: 64 * GIB, 1: 16 * GIB})
    assert where(placement.place(machine, "online", memory_per_instance=20 * GIB)) == [(0, "0-7"), (0, "8-15"), (0, "16-23")]


def test_interleaved_memory_comes_from_all_nodes_in_equal_parts():
    assert len(placement.place(facts(SNC2, memory=64 * GIB), "batch", memory_per_instance=128 * GIB)) == 2
    with pytest.raises(ValueError, match="no NUMA node has as much"):
        placement.place(facts(SNC2, memory=64 * GIB), "batch", memory_per_instance=129 * GIB)


def test_memory_per_instance_without_numa_is_the_machine_s():
    machine = facts(machines.grid(1, 32, nodes_per_socket=0), memory=64 * GIB)
    assert len(placement.place(machine, "online", memory_per_instance=30 * GIB)) == 2


def test_a_number_of_instances_is_spread_over_the_nodes():
    assert where(placement.place(facts(XEON_8380), "online", instances=3)) == [(0, "0-7"), (0, "8-15"), (1, "40-47")]


def test_instances_across_nodes_when_asked():
    machine = facts(machines.grid(sockets=2, cores=12))
    placed = placement.place(machine, "online", allow_cross_node=True)
    assert [(one["numa_node"], one["cpus"], one["memory_node"], one["memory_policy"]) for one in placed] == [
        (0, "0-7", "0", "bind"),
        (None, "8-11,20-23", "0-1", "interleave"),
        (1, "12-19", "1", "bind"),
    ]
    assert where(placement.place(machine, "batch", allow_cross_node=True)) == [(None, "0-23")]
    assert where(placement.place(machine, "batch", allow_cross_node=True, cores_per_instance=20)) == [(None, "0-19")]


def test_numbers_as_text_from_extra_vars():
    assert len(placement.place(facts(XEON_8380), "online", cores_per_instance="16", instances="2")) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workload": "onlin"}, "workload is 'onlin': give one of online, batch, search, training"),
        ({"workload": ["online"]}, "give one of online"),
        ({"cores_per_instance": 0}, "cores_per_instance is 0: give a whole number from 1 up"),
        ({"cores_per_instance": "eight"}, "cores_per_instance is 'eight': give a whole number"),
        ({"cores_per_instance": 8.5}, "cores_per_instance is 8.5"),
        ({"cores_per_instance": True}, "cores_per_instance is True"),
        ({"cores_per_instance": 41}, "cores_per_instance is 41, and the largest node offers 40 cores to online: give fewer, or allow_cross_node"),
        ({"cores_per_instance": 81, "allow_cross_node": True}, "the largest machine offers 80 cores to online: give fewer"),
        ({"workload": "batch", "cores_per_instance": 41}, "the largest socket offers 40 cores to batch"),
        ({"instances": 11}, "instances is 11, and 10 fit: give fewer or smaller ones"),
        ({"instances": 3, "memory_per_instance": 60 * GIB}, "instances is 3, and 2 fit with 64424509440 bytes of memory each"),
        ({"memory_per_instance": 65 * GIB}, "memory_per_instance is 69793218560 bytes, and no NUMA node has as much"),
        ({"memory_per_instance": -1}, "memory_per_instance is -1"),
        ({"reserved_cores": 80}, "reserved_cores is 80, and online can use 80 cores: leave at least one"),
        ({"reserved_cores": -1}, "reserved_cores is -1: give a whole number from 0 up"),
        ({"kmp_blocktime": "infinite"}, "kmp_blocktime is 'infinite'"),
        ({"omp_proc_bind": "compact"}, "omp_proc_bind is 'compact': give one of false, close, spread"),
        ({"env": {"A B": 1}}, "'A B' is no name of an environment variable"),
        ({"env": {"A": "1\n2"}}, "the environment variable A is '1\\\\n2': give one line"),
        ({"env": ["A=1"]}, "env is .*: give a mapping"),
    ],
)
def test_bad_input_is_one_clear_error(options, message):
    with pytest.raises(ValueError, match=message):
        placement.place(facts(XEON_8380), **{"workload": "online", **options})


def test_a_quota_is_named_when_it_is_what_limits():
    with pytest.raises(ValueError, match="reserved_cores is 4, and online can use 4 cores under a CPU quota of 4: leave at least one"):
        placement.place(facts(XEON_8380, count=4, limit="quota"), "online", reserved_cores=4)


@pytest.mark.parametrize("broken", [None, {}, {"cpu": None}, {"ainode": {}}, {"cpu": {"online": "0"}}])
def test_facts_that_are_none(broken):
    with pytest.raises(ValueError, match=r"the facts have no '(cpu|numa)': run ainode.cpu.node_facts"):
        placement.place(broken, "online")


def test_no_usable_cpu_at_all():
    with pytest.raises(ValueError, match="no usable CPU is left: usable are ''"):
        placement.place({"cpu": {"cores": [], "usable": {"cpus": "", "count": 0}}, "numa": {"nodes": []}}, "online")


def test_environment_by_the_caller():
    env = placement.environment(8, kmp_blocktime=0, omp_proc_bind="close", env={"MODEL": "a b", "KMP_SETTINGS": None, "ONEDNN_VERBOSE": 2})
    assert (env["KMP_BLOCKTIME"], env["OMP_PROC_BIND"], env["OMP_PLACES"], env["MODEL"], env["ONEDNN_VERBOSE"]) == ("0", "close", "threads", "a b", "2")
    assert "KMP_SETTINGS" not in env
    assert placement.environment(8, omp_proc_bind=False)["OMP_PROC_BIND"] == "false"


# Real machines ----------------------------------------------------------------------------------------------------------------


def ids(directory, *names):
    """Return the set of CPUs in the first file of `names` that is there, a mask or a list. Not by the collection's own code, which is on trial."""
    path = next((directory / name for name in names if (directory / name).exists()), None)
    if path is None:
        return None
    text = path.read_text().strip()
    if not path.name.endswith("list"):
        mask = int(text.replace(",", ""), 16)
        return frozenset(number for number in range(mask.bit_length()) if mask >> number & 1)
    ranges = [part.split("-") for part in text.split(",") if part]
    return frozenset(number for ends in ranges for number in range(int(ends[0]), int(ends[-1]) + 1))


def check_machine(root):
    machine = gather(Root(str(root)), ("cpu", "numa", "memory"))
    system = Path(root) / "sys/devices/system"
    nodes = {int(path.name[4:]): ids(path, "cpulist", "cpumap") for path in (system / "node").glob("node[0-9]*")}
    usable = machine["cpu"]["usable"]
    core = {
        cpu: ids(system / f"cpu/cpu{cpu}/topology", "core_cpus_list", "thread_siblings_list", "thread_siblings") or frozenset([cpu])
        for cpu in cpulist.parse(usable["cpus"])
    }
    for workload in placement.WORKLOADS:
        placed = placement.place(machine, workload)
        given_out = [cpu for one in placed for cpu in cpulist.parse(one["cpus"])]
        assert len({core[cpu] for cpu in given_out}) == len(given_out) == len(set(given_out))
        for one in placed:
            own = set(cpulist.parse(one["cpus"]))
            if one["numa_node"] is not None:
                assert own <= nodes[one["numa_node"]]
            elif workload in ("online", "search"):
                assert not any(own & cpus for cpus in nodes.values())
            if one["memory_node"]:
                assert own <= set().union(*(nodes[node] for node in cpulist.parse(one["memory_node"])))
        if workload == "batch":
            assert len(given_out) == min(len(set(core.values())), usable["count"])


def test_on_described_machines(machine):
    check_machine(machine)


def test_on_recorded_machines(recorded_machine):
    check_machine(recorded_machine)


# What holds on any machine ----------------------------------------------------------------------------------------------------


@st.composite
def any_machine(draw):
    """Machines nobody builds: any numbering, sockets and nodes of unequal size, limits of every kind."""
    cores, threads = draw(st.integers(1, 40)), draw(st.integers(1, 4))
    ids = draw(st.permutations(range(cores * threads)))
    numa = draw(st.booleans())
    cpus = []
    for core in range(cores):
        socket = draw(st.integers(0, 2))
        node = 3 * socket + draw(st.integers(0, 2)) if numa else None
        cpus += [machines.Cpu(ids[core * threads + thread], package=socket, core=core, node=node) for thread in range(threads)]
    usable = draw(st.lists(st.sampled_from(ids), min_size=1, unique=True))
    nodes = {one.node for one in cpus}
    return facts(
        sorted(cpus),
        memory={node: draw(st.sampled_from([None, 0, GIB, 7 * GIB])) for node in sorted(nodes - {None})},
        usable=usable,
        count=draw(st.sampled_from([len(usable), max(1, len(usable) // 3)])),
        limit=draw(st.sampled_from([None, "affinity", "cpuset", "quota"])),
        isolated=draw(st.lists(st.sampled_from(ids), max_size=3, unique=True)),
        memory_only=[99] if numa and draw(st.booleans()) else [],
    )


@settings(max_examples=300, deadline=None)
@given(
    machine=any_machine(),
    workload=st.sampled_from(placement.WORKLOADS),
    options=st.fixed_dictionaries(
        {},
        optional={
            "cores_per_instance": st.integers(1, 20),
            "instances": st.integers(1, 4),
            "reserved_cores": st.integers(0, 3),
            "memory_per_instance": st.integers(1, 8).map(lambda number: number * GIB),
            "allow_cross_node": st.booleans(),
            "use_isolated": st.booleans(),
        },
    ),
)
def test_on_any_machine(machine, workload, options):
    try:
        placed = placement.place(machine, workload, **options)
    except ValueError as error:
        assert str(error).split()[0] in {"cores_per_instance", "instances", "memory_per_instance", "reserved_cores", "no"}
        return
    cpu = machine["cpu"]
    core_of = {number: core for core in cpu["cores"] for number in cpulist.parse(core["cpus"])}
    sets = [cpulist.parse(one["cpus"]) for one in placed]
    given_out = [number for one in sets for number in one]

    assert placed
    assert len(given_out) == len(set(given_out)), "a CPU was given out twice"
    assert len({id(core_of[number]) for number in given_out}) == len(given_out), "two CPUs of one core were given out"
    isolated = set(cpulist.parse(cpu["isolated"]))
    allowed = set(cpulist.parse(cpu["usable"]["cpus"]))
    assert set(given_out) <= (allowed | isolated if options.get("use_isolated") else allowed - isolated)
    if cpu["usable"]["count"] < len(allowed):
        assert len(given_out) <= cpu["usable"]["count"] - options.get("reserved_cores", 0)
    if "instances" in options:
        assert len(placed) == options["instances"]

    free = {node["id"]: inf if node["memory_bytes"] is None else node["memory_bytes"] for node in machine["numa"]["nodes"]}
    for one, cpus in zip(placed, sets, strict=True):
        nodes = {core_of[number]["node"] for number in cpus}
        assert one["threads"] == len(cpus) == int(one["env"]["OMP_NUM_THREADS"]) == int(one["env"]["TF_NUM_INTRAOP_THREADS"])
        assert one["threads"] <= options.get("cores_per_instance", 8 if workload == "online" else inf)
        assert one["numa_node"] == (nodes.pop() if len(nodes) == 1 else None)
        if not options.get("allow_cross_node"):
            assert workload in ("batch", "training") or len({core_of[number]["node"] for number in cpus}) == 1
            assert workload not in ("batch", "training") or len({core_of[number]["socket"] for number in cpus}) == 1
        memory_nodes = cpulist.parse(one["memory_node"] or "")
        assert one["memory_policy"] == {0: None, 1: "bind"}.get(len(memory_nodes), "interleave")
        for node in memory_nodes:
            assert free[node] > 0 or not any(free.values())
            free[node] -= options.get("memory_per_instance", 0) / len(memory_nodes)
            assert free[node] >= 0
    assert [one["name"] for one in placed] == [f"{workload}-{number}" for number in range(len(placed))]
