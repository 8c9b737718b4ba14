# Copyright (c) 2026, The ainode.cpu authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Placement: which cores and which memory each instance of a workload gets. A pure function of a node's facts.

The rules, and where they come from (docs/placement.md has the reasons):

==========  ============  ================================================  ==========================================
workload    instance per  cores of an instance                              guide section
==========  ============  ================================================  ==========================================
online      node          8; as many instances as fit                       Number of CPU cores (8-16), on-line inference
batch       socket        all                                               Number of CPU cores (>20), batch inference
search      node          all                                               Vector recall ("each physical CPU core ...")
training    socket        all                                               OpenMP Parameter Settings
==========  ============  ================================================  ==========================================

Always one logical CPU a physical core, and no more than the host lets us use.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ..host import cpulist


class _Rule(NamedTuple):
    unit: str  # what an instance stays within: "node" or "socket"
    cores: int | None  # cores of an instance where the caller does not say; None: all of the unit
    efficiency: bool  # whether the efficiency cores of a hybrid help: not where each step waits for its slowest thread


_RULES = {
    "online": _Rule("node", 8, False),
    "batch": _Rule("socket", None, True),
    "search": _Rule("node", None, False),
    "training": _Rule("socket", None, False),
}
WORKLOADS = tuple(_RULES)

# The upper end of the guide's range for online services: up to here a size is "at most", and a smaller node gets one smaller instance.
_MOST_ONLINE_CORES = 16

OMP_PROC_BIND = ("false", "close", "spread")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


class _Core(NamedTuple):
    """A physical core, and the one CPU of it that we use."""

    node: int | None
    cpu: int
    socket: int | None
    kind: str | None
    number: int  # its place in the facts: the same core for every workload, whichever of its CPUs that may use


def place(
    facts,
    workload,
    cores_per_instance=None,
    instances=None,
    reserved_cores=0,
    memory_per_instance=None,
    allow_cross_node=False,
    use_isolated=False,
    kmp_blocktime=1,
    omp_proc_bind="false",
    env=None,
    within=None,
):
    """Return the instances of `workload` on the node that `facts` (ansible_facts.ainode; its cpu, numa and memory) describe.

    Each is {name: "online-0", numa_node: 0, cpus: "0-7", threads: 8, memory_node: "0", memory_policy: "bind", env: {...}}. `numa_node` is
    None for an instance over several nodes; `memory_node` (a list of nodes as numactl and systemd's NUMAMask= write it) and
    `memory_policy` ("bind", or "interleave" over several nodes) are None on a node without NUMA. They are sorted by NUMA node, socket and CPU.

    cores_per_instance   physical cores of an instance. Up to 16, a NUMA node with fewer gets one instance with all it has.
    instances            exactly so many, spread over the nodes; None: as many as fit.
    reserved_cores       physical cores left to the system: the first ones of the first node, where the kernel's own work goes.
    memory_per_instance  bytes that an instance needs on its memory node(s): no more instances than that memory holds.
    allow_cross_node     instances may span nodes and sockets: cores left over in several nodes are put together.
    use_isolated         give out isolated CPUs (isolcpus=, nohz_full=) too.
    kmp_blocktime, omp_proc_bind, env   see environment(); `env` adds variables, and takes one out whose value is None.
    within               the CPUs to choose from, each the one of its core that usable_cores() gives; None: all of those.

    Raises ValueError that names the value, what was expected and what to do.
    """
    rule = _rule(workload)
    size = None if cores_per_instance is None else whole("cores_per_instance", cores_per_instance, 1)
    wanted = None if instances is None else whole("instances", instances, 1)
    reserved = whole("reserved_cores", reserved_cores, 0)
    memory = 0 if memory_per_instance is None else whole("memory_per_instance", memory_per_instance, 1)
    cpu, nodes = _sections(facts)

    cores = _within_limits(facts, workload, use_isolated, reserved, within)
    groups = _groups(cores, "machine" if allow_cross_node else rule.unit)
    largest = max(sum(map(len, group)) for group in groups)
    if size and size > max(largest, _MOST_ONLINE_CORES):
        unit = "machine" if allow_cross_node else rule.unit
        raise ValueError(
            f"cores_per_instance is {size}, and the largest {unit} offers {largest} cores to {workload}: "
            + ("give fewer" if allow_cross_node else "give fewer, or allow_cross_node")
        )
    chunks = [chunk for group in groups for chunk in _cut(group, size or rule.cores)]
    if not cpu.get("cores"):
        chunks = chunks[:1]
    homes = {core.node: _home(core.node, nodes) for core in cores}
    capacity = {number: node.get("memory_bytes") for number, node in nodes.items()}
    capacity.setdefault(None, (facts.get("memory") or {}).get("total_bytes"))
    chosen = _choose(chunks, homes, capacity, memory, wanted)
    return [instance(facts, f"{workload}-{number}", chunk, kmp_blocktime, omp_proc_bind, env) for number, chunk in enumerate(chosen)]


def instance(facts, name, cores, kmp_blocktime=1, omp_proc_bind="false", env=None):
    """Return the instance (see place()) called `name` that has the _Cores `cores`."""
    _cpu, nodes = _sections(facts)
    cores_nodes = {core.node for core in cores}
    memory_nodes = {_home(node, nodes) for node in cores_nodes} - {None}
    return {
        "name": name,
        "numa_node": cores_nodes.pop() if len(cores_nodes) == 1 else None,
        "cpus": cpulist.render(core.cpu for core in cores),
        "threads": len(cores),
        "memory_node": cpulist.render(memory_nodes) or None,
        "memory_policy": None if not memory_nodes else "bind" if len(memory_nodes) == 1 else "interleave",
        "env": environment(len(cores), kmp_blocktime, omp_proc_bind, env),
    }


def stays_within(workload, cores, allow_cross_node=False):
    """Return whether one instance of `workload` may have the _Cores `cores`: those of one node, or of one socket, by its rule."""
    return allow_cross_node or len({getattr(core, _rule(workload).unit) for core in cores}) == 1


def environment(threads, kmp_blocktime=1, omp_proc_bind="false", env=None):
    """Return the environment {name: text} of an instance with `threads` threads; docs/runtime-env.md says who reads which variable.

    `kmp_blocktime`: milliseconds for which an idle OpenMP thread spins: 0 or 1 in the guide, by model. `omp_proc_bind`: whether OpenMP binds
    each thread to one CPU: "false" by default, because the libraries bind the main thread too, and every thread or process that it
    starts afterwards (a data loader, a web server's workers, another library's pool) is then confined to the main thread's one CPU. The
    instance as a whole is pinned in any case. `env`: variables to add, or to leave out (None). Raises ValueError.
    """
    # YAML reads an unquoted false as a truth value.
    bind = {"False": "false", "True": "close"}.get(str(omp_proc_bind), omp_proc_bind)
    if bind not in OMP_PROC_BIND:
        raise ValueError(f"omp_proc_bind is '{omp_proc_bind}': give one of {', '.join(OMP_PROC_BIND)}")
    variables = {
        "OMP_NUM_THREADS": threads,
        "OMP_PROC_BIND": bind,
        # One place a CPU of the process's own mask. It names no CPU, and so it is right for every instance.
        "OMP_PLACES": "threads" if bind != "false" else None,
        "KMP_AFFINITY": "granularity=fine,compact,1,0",
        "KMP_BLOCKTIME": whole("kmp_blocktime", kmp_blocktime, 0),
        "KMP_SETTINGS": 0,
        "TF_NUM_INTRAOP_THREADS": threads,
        "TF_NUM_INTEROP_THREADS": 1,
        "TF_ENABLE_ONEDNN_OPTS": 1,
        "ONEDNN_VERBOSE": 0,
    }
    if not isinstance(env or {}, dict):
        raise ValueError(f"env is {env!r}: give a mapping of variables to values")
    variables.update(env or {})
    for name, value in variables.items():
        if not _VARIABLE.match(str(name)):
            raise ValueError(f"'{name}' is no name of an environment variable: give letters, digits and _")
        if isinstance(value, (dict, list)) or any(ord(character) < 32 or ord(character) == 127 for character in str(value)):
            raise ValueError(f"the environment variable {name} is {value!r}: give one line of text or a number")
    return {str(name): str(value) for name, value in variables.items() if value is not None}


def whole(name, value, least):
    """Return `value` as an int of at least `least`; text as the command line's extra variables give it counts too."""
    number = int(value) if isinstance(value, str) and value.strip().isdigit() and value.isascii() else value
    if isinstance(number, bool) or not isinstance(number, int) or number < least:
        raise ValueError(f"{name} is {value!r}: give a whole number from {least} up")
    return number


def _sections(facts):
    """Return (facts["cpu"], {node id: node}) after a look at whether they are what node_facts gives."""
    for name in ("cpu", "numa"):
        if not isinstance(facts, dict) or not isinstance(facts.get(name), dict):
            raise ValueError(f"the facts have no '{name}': run ainode.cpu.node_facts with its subsets cpu and numa, and give ansible_facts.ainode")
    return facts["cpu"], {node["id"]: node for node in facts["numa"].get("nodes") or []}


def _rule(workload):
    rule = _RULES.get(str(workload))
    if rule is None:
        raise ValueError(f"workload is '{workload}': give one of {', '.join(WORKLOADS)}")
    return rule


def quota(facts):
    """Return how many CPUs may run at a time where a CPU quota makes that fewer than may be used; None without one."""
    usable = _sections(facts)[0].get("usable") or {}
    count = usable.get("count")
    # A quota lets us run on every CPU, but not on all at a time.
    return max(count, 1) if count is not None and count < len(cpulist.parse(usable.get("cpus") or "")) else None


def usable_cores(facts, workload, use_isolated=False):
    """Return the _Cores that `workload` may use on the node, by NUMA node, socket and CPU; a CPU quota is not looked at. ValueError for none."""
    cpu, _nodes = _sections(facts)
    usable = cpu.get("usable") or {}
    allowed = set(cpulist.parse(usable.get("cpus") or cpu.get("online") or ""))
    # What no scheduler balances over (isolcpus=), and what the tick leaves alone (nohz_full=): both are set aside for somebody.
    isolated = set(cpulist.parse(cpu.get("isolated") or "")) | set(cpulist.parse(cpu.get("nohz_full") or ""))
    if not use_isolated:
        allowed = allowed - isolated
    else:
        # The kernel takes isolated CPUs out of every process's affinity, but a process may ask for them; a cpuset it may not leave.
        allowed |= isolated & set(cpulist.parse(usable["cpuset"])) if usable.get("cpuset") else isolated
    if cpu.get("online"):
        allowed &= set(cpulist.parse(cpu["online"]))

    cores = []
    for number, core in enumerate(cpu.get("cores") or []):
        siblings = [sibling for sibling in cpulist.parse(core["cpus"]) if sibling in allowed]
        if siblings:
            cores.append(_Core(core.get("node"), siblings[0], core.get("socket"), core.get("kind"), number))
    if not cpu.get("cores"):
        cores = [_Core(None, number, None, None, number) for number in allowed]
    if not _rule(workload).efficiency:
        # A host that was given efficiency cores alone works with those.
        cores = [core for core in cores if core.kind == "performance"] or cores
    if not cores:
        raise ValueError(
            "no usable CPU is left: usable are "
            f"'{usable.get('cpus') or ''}', online '{cpu.get('online') or ''}', isolated '{cpulist.render(isolated)}'"
            + ("" if use_isolated or not isolated else "; use_isolated gives the isolated ones out")
        )
    return sorted(cores, key=_order)


def _within_limits(facts, workload, use_isolated, reserved, within):
    """Return the _Cores that the instances of `workload` may have, in order; at least one."""
    cores = [core for core in usable_cores(facts, workload, use_isolated) if within is None or core.cpu in within]
    limit = quota(facts)
    budget = len(cores) if limit is None else min(len(cores), limit)
    if reserved >= budget:
        quota_text = f" under a CPU quota of {limit}" if budget < len(cores) else ""
        raise ValueError(f"reserved_cores is {reserved}, and {workload} can use {budget} cores{quota_text}: leave at least one")
    return cores[reserved:budget]


def _order(core):
    # By socket within a node: where firmware shows several sockets as one node, they still have caches of their own.
    return (-1 if core.node is None else core.node, -1 if core.socket is None else core.socket, core.cpu)


def _groups(cores, unit):
    """Return the cores by the unit that an instance stays within: a list of units, each a list of NUMA nodes, each a list of cores."""
    groups = {}
    for core in cores:
        key = {"machine": None, "socket": core.socket, "node": core.node}[unit]
        groups.setdefault(key, {}).setdefault(core.node, []).append(core)
    return [list(group.values()) for group in groups.values()]


def _cut(group, size):
    """Return the instances of one unit, each a list of cores: within a node while they fit, then out of what its nodes have left over."""
    if size is None or sum(map(len, group)) < size:
        return [[core for node in group for core in node]]
    chunks, rest = [], []
    for node in group:
        fit = len(node) - len(node) % size
        chunks += [node[first : first + size] for first in range(0, fit, size)]
        rest += node[fit:]
    return chunks + [rest[first : first + size] for first in range(0, len(rest) - size + 1, size)]


def _home(number, nodes):
    """Return the NUMA node whose memory the cores of node `number` use: their own, or the nearest where it has none; None without NUMA."""
    if number not in nodes:
        return None
    distances = nodes[number].get("distances") or {}
    # Memory that was not recorded (None) is taken to be there.
    having = [other for other, node in nodes.items() if node.get("memory_bytes") != 0]
    return min(having or [number], key=lambda other: (other != number, distances.get(str(other), 255), other))


def _choose(chunks, homes, capacity, memory, wanted):
    """Return the chunks for which there is memory, `wanted` of them if that is a number: from each node one in turn."""
    turns, order = {}, []
    for index, chunk in enumerate(chunks):
        turn = turns[chunk[0].node] = turns.get(chunk[0].node, -1) + 1
        order.append((turn, index))
    free = {node: float("inf") if size is None else size for node, size in capacity.items()}
    chosen = []
    for _turn, index in sorted(order):
        shares = {homes[core.node] for core in chunks[index]}
        if len(chosen) != wanted and all(free[node] >= memory / len(shares) for node in shares):
            for node in shares:
                free[node] -= memory / len(shares)
            chosen.append(index)
    if not chosen or (wanted or 0) > len(chosen):
        limit = f" with {memory} bytes of memory each" if memory else ""
        raise ValueError(
            f"instances is {wanted}, and {len(chosen)} fit{limit}: give fewer or smaller ones"
            if wanted
            else f"memory_per_instance is {memory} bytes, and no NUMA node has as much: give less, or allow_cross_node"
        )
    return sorted((chunks[index] for index in chosen), key=lambda chunk: _order(chunk[0]))
