# Copyright (c) 2026, The ainode.cpu authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""How the CPUs are arranged: threads in cores, cores in sockets, caches, NUMA nodes, and whether the firmware splits a socket into nodes.

Sources: https://docs.kernel.org/admin-guide/cputopology.html, Documentation/ABI/stable/sysfs-devices-node,
Documentation/ABI/testing/sysfs-devices-system-cpu.
"""

from __future__ import annotations

import re
from collections import defaultdict

from ..host import cpulist
from . import memory, microarchitecture

_CPU = "/sys/devices/system/cpu"
_NODE = "/sys/devices/system/node"
# The perf devices of a hybrid's core types; cpu_lowpower are the efficiency cores outside of the ring.
_KINDS = (("cpu_core", "performance"), ("cpu_atom", "efficiency"), ("cpu_lowpower", "efficiency"))


class Topology:
    """What cpu, numa, power and firmware share: read once from `root` and the CpuInfo `info`.

    online, present   sorted CPU ids ([] when not known)
    cores             [{"socket", "core", "node", "cpus" (sorted ids), "kind"}], sorted by the first CPU; [] when not known
    groups            the CPUs of each core; each CPU by itself when the cores are not known
    sockets           how many sockets there are, null when not known
    nodes             {node id: sorted online CPU ids}, {} without NUMA
    kinds             {CPU id: "performance" | "efficiency"}, {} unless hybrid
    """

    def __init__(self, root, info):
        directories = root.numbered(_CPU, "cpu")
        self.online = _online(root, info, directories)
        self.present = _cpus(root, _CPU + "/present") or sorted(set(directories) | set(self.online))
        self.nodes = _node_cpus(root, set(self.online))
        self.kinds = {cpu: kind for device, kind in _KINDS for cpu in _cpus(root, f"/sys/devices/{device}/cpus") or []}
        node_of = {cpu: node for node, cpus in self.nodes.items() for cpu in cpus}
        self.cores = [
            {"socket": socket, "core": core, "node": node_of.get(cpus[0]), "cpus": cpus, "kind": self.kinds.get(cpus[0])}
            for socket, core, cpus in _cores(root, info, self.online)
        ]
        self.groups = [core["cpus"] for core in self.cores] or [[cpu] for cpu in self.online]
        self.sockets = _sockets(root, self.cores)


def read(root, info, topology):
    """Return the counts and lists of facts.cpu: sockets, physical_cores, logical_cpus, threads_per_core, online, offline, present, isolated,
    nohz_full, smt, smt_control, cores, caches. A count is null where the machine does not tell its topology.
    """
    online, cores = topology.online, topology.cores
    threads = max((len(core["cpus"]) for core in cores), default=None)
    return {
        "sockets": topology.sockets,
        "physical_cores": len(cores) or None,
        "logical_cpus": len(online) or None,
        "threads_per_core": threads,
        "online": cpulist.render(online) if online else None,
        "offline": cpulist.render(set(topology.present) - set(online)) if online else None,
        "present": cpulist.render(topology.present) if online else None,
        "isolated": _set_aside(root, "isolated", "isolcpus"),
        "nohz_full": _set_aside(root, "nohz_full", "nohz_full"),
        "smt": None if threads is None else threads > 1,
        "smt_control": root.read(_CPU + "/smt/control") or None,
        "cores": [dict(core, cpus=cpulist.render(core["cpus"])) for core in cores],
        "caches": caches(root, online),
    }


def caches(root, online):
    """Return [{level, type, size_bytes, shared_by}]: a cache kind of the machine with the cpulists of who shares one, sorted."""
    found, covered = defaultdict(set), defaultdict(set)
    for number, cpu in enumerate(online):
        if number == 16 and not found:
            break  # a recording that left the levels out
        index = 0
        while True:
            base = f"{_CPU}/cpu{cpu}/cache/index{index}"
            if cpu not in covered[index]:
                level = root.read_int(base + "/level")
                if level is None and index >= 4:
                    break
                sharers = _group(root, cpu, (base + "/shared_cpu_map", base + "/shared_cpu_list")) if level is not None else None
                if sharers:
                    # Every sharer would tell the same: reading it once is what makes a large machine fast.
                    covered[index].update(sharers)
                    found[level, root.read(base + "/type") or None, _cache_size(root, base)].add(cpulist.render(set(sharers) & set(online)))
            index += 1
    return [
        {"level": level, "type": kind, "size_bytes": size, "shared_by": sorted(lists, key=cpulist.parse)}
        for (level, kind, size), lists in sorted(found.items(), key=lambda item: (item[0][0], str(item[0][1]), item[0][2] or 0))
    ]


def numa(root, topology, cpu):
    """Return {nodes, nodes_per_socket, sub_numa}; `cpu` are the facts of cpu.read.

    nodes is [{id, cpus, memory_bytes, distances, kind, hugepages}], [] without NUMA. kind is "memory" for a node without an online CPU
    (CXL, persistent memory, high-bandwidth memory). distances and hugepages have text keys, as JSON wants them.
    """
    ids = sorted(topology.nodes)
    nodes = [
        {
            "id": node,
            "cpus": cpulist.render(topology.nodes[node]),
            "memory_bytes": _memory_bytes(root, node),
            "distances": _distances(root, node, ids),
            "kind": "cpu" if topology.nodes[node] else "memory",
            "hugepages": _hugepages(root, node),
        }
        for node in ids
    ]
    per_socket = _nodes_per_socket(topology)
    return {"nodes": nodes, "nodes_per_socket": per_socket, "sub_numa": sub_numa(per_socket, _dies_per_socket(root, topology), cpu)}


def sub_numa(per_socket, dies, cpu):
    """Return {enabled, kind, reason}: whether the firmware splits a socket into several NUMA nodes.

    kind is what this CPU's firmware calls it: SNC (Intel), NPS (AMD EPYC since Rome), null where it has no such option. The count of nodes
    with CPUs in a socket tells it on every generation; memory-only nodes say nothing of it. `dies` is how many dies a socket has by the kernel.
    """
    kind = microarchitecture.sub_numa_kind(cpu)
    if per_socket is None:
        return {"enabled": None, "kind": kind, "reason": "which NUMA nodes a socket has is not known here"}
    if cpu["hypervisor"]:
        return {"enabled": None, "kind": kind, "reason": "the hypervisor chooses the nodes a virtual machine sees"}
    if per_socket == 1:
        return {"enabled": False, "kind": kind, "reason": "no socket has more than one NUMA node with CPUs"}
    by_build = microarchitecture.dies_that_are_nodes(cpu, dies)
    if by_build and per_socket <= by_build:
        return {"enabled": False, "kind": kind, "reason": f"each of the socket's {by_build} dies is a NUMA node of its own by its build, not by a setting"}
    if kind is None:
        reason = f"{per_socket} NUMA nodes with CPUs a socket; whether by a setting or by this CPU's build is not known"
        return {"enabled": None, "kind": None, "reason": reason}
    if kind == "NPS" and per_socket > 4:
        return {"enabled": True, "kind": kind, "reason": f"{per_socket} NUMA nodes a socket: the firmware makes each L3 cache a node"}
    return {"enabled": True, "kind": kind, "reason": f"{per_socket} NUMA nodes with CPUs a socket"}


def _cpus(root, name):
    """Return the sorted ids in the cpulist file `name`; None where there is none."""
    text = root.read(name)
    if text is None:
        return None
    try:
        return cpulist.parse(text)
    except ValueError:
        return None


def _mask(root, name):
    """Return the sorted ids in the cpumask file `name`: hexadecimal words of 32 bits, the highest first; None where there is none."""
    text = root.read(name)
    if not text or len(text) > 16384 or not re.match(r"[0-9a-fA-F]{1,8}(,[0-9a-fA-F]{8})*\Z", text):
        return None
    mask, ids = int(text.replace(",", ""), 16), []
    while mask:
        lowest = mask & -mask
        ids.append(lowest.bit_length() - 1)
        mask ^= lowest
    return ids


def _group(root, cpu, *names):
    """Return the sorted ids that share something with `cpu`, by the first of the file pairs (mask, list) that names `cpu` itself.

    The mask first: there are AMD machines (Linux 2.6) whose shared_cpu_list names `cpu` alone where shared_cpu_map tells the truth.
    """
    for mask_name, list_name in names:
        for read_ids, name in ((_mask, mask_name), (_cpus, list_name)):
            ids = read_ids(root, name)
            if ids and cpu in ids:
                return ids
    return None


def _online(root, info, directories):
    told = _cpus(root, _CPU + "/online")
    if told:
        return told
    with_topology = {cpu for cpu in directories if root.is_dir(f"{_CPU}/cpu{cpu}/topology")}
    # cpu0 has no file "online" where it cannot go offline; an offline CPU has no topology.
    guessed = [cpu for cpu in directories if root.read(f"{_CPU}/cpu{cpu}/online") != "0" and (not with_topology or cpu in with_topology)]
    return guessed or sorted(info.processors())


def _cores(root, info, online):
    """Return [(socket, core, sorted CPU ids)] by the first CPU; [] unless each online CPU's place is known."""
    members, leader = set(online), {}
    for cpu in online:
        if cpu not in leader:
            base = f"{_CPU}/cpu{cpu}/topology/"
            siblings = _group(root, cpu, (base + "core_cpus", base + "core_cpus_list"), (base + "thread_siblings", base + "thread_siblings_list"))
            for sibling in members.intersection(siblings or ()):
                leader.setdefault(sibling, cpu)
    processors = {} if len(leader) == len(online) else info.processors()
    groups = defaultdict(list)
    for cpu in online:
        groups[leader[cpu] if cpu in leader else _place(root, processors, cpu)].append(cpu)
    if None in groups:
        return []
    found = []
    for cpus in groups.values():
        base = f"{_CPU}/cpu{cpus[0]}/topology/"
        socket, core = root.read_int(base + "physical_package_id"), root.read_int(base + "core_id")
        if socket is None or socket < 0 or core is None:
            processors = processors or info.processors()
            physical, core_id = processors.get(cpus[0], (None, None))
            socket, core = physical if socket is None or socket < 0 else socket, core_id if core is None else core
        found.append((socket, core, cpus))
    return sorted(found, key=lambda core: core[2][0])


def _place(root, processors, cpu):
    """Return a key for the core of `cpu` by its ids: a core id is unique within its socket (and die, book, drawer) alone. None when unknown."""
    base = f"{_CPU}/cpu{cpu}/topology/"
    core = root.read_int(base + "core_id")
    if core is not None:
        return (core, *(root.read_int(base + name) for name in ("drawer_id", "book_id", "physical_package_id", "die_id")))
    place = processors.get(cpu)
    return place if place and None not in place else None


def _sockets(root, cores):
    """Return how many sockets the cores are in: by the package ids, else by who names whom as its package; null when neither is told."""
    if not cores:
        return None
    ids = {core["socket"] for core in cores}
    if None not in ids:
        # s390 counts sockets within their book, and books within their drawer.
        above = {tuple(root.read_int(f"{_CPU}/cpu{core['cpus'][0]}/topology/{name}") for name in ("drawer_id", "book_id")) for core in cores[:1]}
        if above == {(None, None)}:
            return len(ids)
        return len(
            {tuple(root.read_int(f"{_CPU}/cpu{core['cpus'][0]}/topology/{name}") for name in ("drawer_id", "book_id", "physical_package_id")) for core in cores}
        )
    packages = set()
    for core in cores:
        base = f"{_CPU}/cpu{core['cpus'][0]}/topology/"
        names = ((base + "package_cpus", base + "package_cpus_list"), (base + "core_siblings", base + "core_siblings_list"))
        siblings = _group(root, core["cpus"][0], *names)
        if not siblings:
            return None
        packages.add(tuple(siblings))
    return len(packages)


def _set_aside(root, name, parameter):
    """Return the cpulist of CPUs set aside: the kernel's own list `name`, else the boot parameter's; null when neither is told."""
    told = _cpus(root, f"{_CPU}/{name}")
    if told is not None:
        return cpulist.render(told)
    cmdline = root.read("/proc/cmdline")
    if cmdline is None:
        return None
    found = re.search(rf"(?:^|\s){parameter}=(\S+)", cmdline)
    # isolcpus=[flag-list,]<cpu-list>: the flags are words.
    parts = [part for part in found.group(1).split(",") if not part[:1].isalpha()] if found else []
    try:
        return cpulist.render(cpulist.parse(",".join(parts)))
    except ValueError:
        return None


def _node_cpus(root, online):
    """Return {node: its sorted online CPUs}. A CPU belongs to one node: where a broken table names it in several, to the first."""
    found, rest = {}, set(online)
    for node in root.numbered(_NODE, "node"):
        base = f"{_NODE}/node{node}"
        cpus = _cpus(root, base + "/cpulist")
        if cpus is None:
            cpus = _mask(root, base + "/cpumap")
        if cpus is None:
            cpus = root.numbered(base, "cpu")
        # Kernels before 4.13 list offline CPUs too.
        found[node] = sorted(rest.intersection(cpus))
        rest.difference_update(cpus)
    return found


def _memory_bytes(root, node):
    match = re.search(r"MemTotal:\s*(\d{1,18}) kB", root.read(f"{_NODE}/node{node}/meminfo") or "")
    return int(match.group(1)) * 1024 if match else None


def _distances(root, node, ids):
    """Return {"other node": distance}; {} where the machine does not tell them. They are those of the nodes online, in order."""
    values = (root.read(f"{_NODE}/node{node}/distance") or "").split()
    if not all(re.match(r"[0-9]{1,9}\Z", value) for value in values):
        return {}
    if len(values) != len(ids):
        ids = _cpus(root, _NODE + "/possible") or []
    return {str(other): int(value) for other, value in zip(ids, values)} if len(values) == len(ids) else {}


def _hugepages(root, node):
    found = {}
    for kilobytes in memory.hugepage_kilobytes(root, f"{_NODE}/node{node}/hugepages"):
        base = f"{_NODE}/node{node}/hugepages/hugepages-{kilobytes}kB"
        found[str(kilobytes)] = {"total": root.read_int(base + "/nr_hugepages"), "free": root.read_int(base + "/free_hugepages")}
    return found


def _nodes_per_socket(topology):
    sockets = defaultdict(set)
    for core in topology.cores:
        if core["socket"] is None:
            return None
        if core["node"] is not None:
            sockets[core["socket"]].add(core["node"])
    return max((len(nodes) for nodes in sockets.values()), default=None)


def _dies_per_socket(root, topology):
    """Return how many dies the first socket has; 0 when not told (kernels before 5.2)."""
    first = topology.cores[0]["socket"] if topology.cores else None
    dies = {root.read_int(f"{_CPU}/cpu{core['cpus'][0]}/topology/die_id") for core in topology.cores if core["socket"] == first}
    return len(dies - {None})


def _cache_size(root, base):
    match = re.match(r"(\d{1,12})([KMG]?)\Z", root.read(base + "/size") or "")
    return int(match.group(1)) * {"": 1, "K": 1024, "M": 1 << 20, "G": 1 << 30}[match.group(2)] if match else None
