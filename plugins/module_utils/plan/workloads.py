# Copyright (c) 2026, The ainode.cpu authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The plan of a node: the instances of all its services, on cores of their own. A pure function of the facts, the requests and the last plan.

The cores are divided first, then place() puts each service's instances on the cores that are its own. docs/placement.md has the rules.
"""

from __future__ import annotations

import contextlib
import re

from ..host import cpulist
from .placement import instance, place, quota, stays_within, usable_cores, whole

# What a service asks for where its request does not say: the defaults of place().
_DEFAULTS = {
    "workload": None,
    "share": 1,
    "instances": None,
    "cores_per_instance": None,
    "numa_node": None,
    "memory_per_instance": None,
    "allow_cross_node": False,
    "use_isolated": False,
    "kmp_blocktime": 1,
    "omp_proc_bind": "false",
    "env": {},
}
_NAME = re.compile(r"[a-z][a-z0-9-]*\Z")


def plan(facts, services, before=None, reserved_cores=0, replan=False):
    """Return the plan of the node that `facts` (ansible_facts.ainode) describe, for `services` and those of the plan `before`.

    The plan is {"version": 1, "services": {name: {"asked": request, "instances": [...]}}, "shared": [sentence]}. Instances are those of
    place(). A request is {"name", "workload", "share", "instances", "cores_per_instance", "numa_node", "memory_per_instance",
    "allow_cross_node", "use_isolated", "kmp_blocktime", "omp_proc_bind", "env"}, all but the first two optional; "asked" has all but the name.
    `shared` says which services have cores in common, because the node is too small or others had the cores first: elsewhere none have.

    A service of `before` with the same request keeps its cores while they can be used, unless `replan`. One that is not in `services` is
    left as it is. `reserved_cores` are left to the system: the first ones of the first node.

    Raises ValueError that names the service, what was asked for and what there is.
    """
    asked = {}
    for request in services:
        name, options = _request(request)
        if name in asked:
            raise ValueError(f"service '{name}' is listed twice: give it one entry")
        asked[name] = options
    known = (before or {}).get("services") or {}
    placed = {name: service for name, service in known.items() if name not in asked}
    if asked:
        node = _Node(facts, reserved_cores)
        for service in placed.values():
            node.take(service["instances"], service["asked"])
        for name, options in asked.items():
            kept = None if replan or name not in known or known[name]["asked"] != options else node.kept(known[name]["instances"], options)
            if kept:
                placed[name] = {"asked": options, "instances": kept}
        for name, instances in _divide(node, {name: options for name, options in asked.items() if name not in placed}):
            placed[name] = {"asked": asked[name], "instances": instances}
    return {"version": 1, "services": dict(sorted(placed.items())), "shared": _shared(facts, placed)}


def _request(request):
    """Return (name, the request with all its options)."""
    options = {**_DEFAULTS, **{key: value for key, value in request.items() if value is not None}}
    name = options.pop("name", None)
    if not isinstance(name, str) or not _NAME.match(name):
        raise ValueError(f"name '{name}' is no service name: use lower case letters, digits and hyphens, a letter first")
    unknown = sorted(set(options) - set(_DEFAULTS))
    if unknown:
        raise ValueError(f"service '{name}': '{unknown[0]}' is no option: give some of {', '.join(_DEFAULTS)}")
    with _named(name):
        for option, least in (("share", 1), ("instances", 1), ("cores_per_instance", 1), ("numa_node", 0), ("memory_per_instance", 1)):
            if options[option] is not None:
                options[option] = whole(option, options[option], least)
    return name, options


class _Node:
    """The cores of a node, and who has them."""

    def __init__(self, facts, reserved_cores):
        self.facts = facts
        try:
            cores = usable_cores(facts, "batch")
        except ValueError:
            # All are isolated: only services that ask for those have any.
            cores = usable_cores(facts, "batch", use_isolated=True)
        limit = quota(facts)
        budget = len(cores) if limit is None else min(len(cores), limit)
        reserved_cores = whole("reserved_cores", reserved_cores, 0)
        if reserved_cores >= budget:
            quota_text = f" under a CPU quota of {limit}" if budget < len(cores) else ""
            raise ValueError(f"reserved_cores is {reserved_cores}, and the services can use {budget} cores{quota_text}: leave at least one")
        self.reserved = {core.number for core in cores[:reserved_cores]}
        # How many cores all services together may have; only a quota makes that fewer than there are.
        self.budget = None if limit is None else limit - reserved_cores
        self.numbers = _core_numbers(facts)
        self.taken = set()
        self.memory = {}

    def own(self, asked):
        """Return the cores that a service may have if it were alone."""
        cores = [core for core in usable_cores(self.facts, asked["workload"], asked["use_isolated"]) if core.number not in self.reserved]
        if not cores:
            raise ValueError(f"reserved_cores is {len(self.reserved)}, and {asked['workload']} can use no more cores: leave at least one")
        wanted = asked["numa_node"]
        there = sorted({core.node for core in cores} - {None})
        if wanted is not None and wanted not in there:
            raise ValueError(f"numa_node is {wanted}, and the NUMA nodes with usable cores are {', '.join(map(str, there)) or 'not known'}")
        return [core for core in cores if wanted in (None, core.node)]

    def free(self, asked):
        """Return the cores of own() that no service has, no more than a CPU quota has left."""
        cores = [core for core in self.own(asked) if core.number not in self.taken]
        return cores if self.budget is None else cores[: max(0, self.budget - len(self.taken))]

    def common(self, asked):
        """Return the cores for a service that finds none free."""
        cores = self.own(asked)
        return [core for core in cores if core.number in self.taken] or cores[: self.budget]

    def place(self, asked, cores):
        """Return the instances on `cores`, in what memory other services have left."""
        options = {key: value for key, value in asked.items() if key not in ("workload", "share", "numa_node")}
        try:
            return place(self._with_memory_left(), asked["workload"], **options, within={core.cpu for core in cores})
        except ValueError as error:
            raise ValueError(f"{error} ({len(self.taken)} cores are other services')" if self.taken else str(error)) from None

    def take(self, instances, asked, cores=()):
        """Note that a service has the cores and the memory of its `instances`, and `cores` beside."""
        self.taken.update(self._cores(instances), (core.number for core in cores))
        for one in instances:
            nodes = cpulist.parse(one["memory_node"] or "") or [None]
            for number in nodes:
                self.memory[number] = self.memory.get(number, 0) + (asked.get("memory_per_instance") or 0) // len(nodes)

    def kept(self, instances, asked):
        """Take the cores that the instances have, and return these as the node is now; None where one of the cores cannot be used any more."""
        own = {core.cpu: core for core in self.own(asked)}
        cores = [[own.get(cpu) for cpu in cpulist.parse(one["cpus"])] for one in instances]
        if not all(one and None not in one and stays_within(asked["workload"], one, asked["allow_cross_node"]) for one in cores):
            return None
        if self.budget is not None and len(self.taken.union(core.number for one in cores for core in one)) > self.budget:
            return None
        variables = [asked[name] for name in ("kmp_blocktime", "omp_proc_bind", "env")]
        instances = [instance(self.facts, old["name"], one, *variables) for old, one in zip(instances, cores)]
        self.take(instances, asked)
        return instances

    def _cores(self, instances):
        return {self.numbers.get(cpu, cpu) for one in instances for cpu in cpulist.parse(one["cpus"])}

    def _with_memory_left(self):
        """Return the facts with the memory that services have not asked for; never 0 bytes, which is a node that has none."""

        def left(size, number):
            return size and max(1, size - self.memory.get(number, 0))

        numa, memory = self.facts["numa"], self.facts.get("memory") or {}
        return {
            **self.facts,
            "numa": {**numa, "nodes": [{**node, "memory_bytes": left(node.get("memory_bytes"), node["id"])} for node in numa.get("nodes") or []]},
            "memory": {**memory, "total_bytes": left(memory.get("total_bytes"), None)},
        }


def _core_numbers(facts):
    """Return {CPU: its core, by the number that usable_cores() gives it}."""
    return {cpu: number for number, core in enumerate((facts.get("cpu") or {}).get("cores") or []) for cpu in cpulist.parse(core["cpus"])}


def _divide(node, asked):
    """Yield (name, instances) of the services `asked` ({name: request}), which have no cores yet."""
    waiting = []
    for name, options in asked.items():
        with _named(name):
            # Who gives a number takes exactly what that needs, and who may use fewer cores than others chooses before them.
            waiting.append((options["instances"] is None, options["numa_node"] is None, len(node.own(options)), len(waiting), name))
    waiting = [name for *_order, name in sorted(waiting)]
    while waiting:
        name, *waiting = waiting
        options = asked[name]
        with _named(name):
            free = node.free(options)
            own = node.own(options)
            # Who asks for a NUMA node leaves a part of it to those alone that have nowhere else to go.
            rivals = [other for other in waiting if options["numa_node"] is None or set(node.own(asked[other])) <= set(own)]
            portion = _portion(free, own, options["share"], [asked[other]["share"] for other in rivals])
            if not free:
                instances = node.place(options, node.common(options))
                node.take(instances, options)
            elif options["instances"] is None:
                instances = node.place(options, portion)
                node.take(instances, options, portion)
            else:
                instances = _exactly(node, options, free, portion, [asked[other] for other in waiting])
                node.take(instances, options)
        yield name, instances


def _exactly(node, options, free, portion, others):
    """Return the instances of a service that gives their number: on the `free` cores, or on its `portion` where `others` would be left without any."""
    instances = node.place(options, free)
    cpus = {cpu for one in instances for cpu in cpulist.parse(one["cpus"])}
    used = {core.number for core in free if core.cpu in cpus}
    left = {core.number for other in others for core in node.free(other)} - used
    if len(left) < len(others):
        try:
            return node.place(options, portion)
        except ValueError:
            # They do not fit there: the others share.
            pass
    return instances


def _portion(free, own, share, others):
    """Return the cores, out of `free`, of a service with the weight `share`, when services with the weights `others` are still to come.

    `own` are the cores that it would have alone. These are whole NUMA nodes while there is one for each service, else cores in the nodes' order.
    """
    if not others or not free:
        return free
    wanted = len(free) * share / (share + sum(others))
    nodes = {}
    for core in free:
        nodes.setdefault(core.node, []).append(core)
    # What others have left over of a node is no node to be had.
    whole_nodes = [cores for number, cores in nodes.items() if 2 * len(cores) >= sum(core.node == number for core in own)]
    if len(whole_nodes) > len(others):
        sizes = {count: sum(map(len, whole_nodes[:count])) for count in range(1, len(whole_nodes) - len(others) + 1)}
        count = min(sizes, key=lambda count: (abs(sizes[count] - wanted), -count))
        return [core for cores in whole_nodes[:count] for core in cores]
    return free[: max(1, min(int(wanted + 0.5), len(free) - len(others)))]


@contextlib.contextmanager
def _named(name):
    """Name the service in errors within."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"service '{name}': {error}") from None


def _shared(facts, placed):
    """Return a sentence for each two services of `placed` that have cores in common, and one for more threads than a CPU quota lets run."""
    numbers = _core_numbers(facts or {})
    cores = {}
    for name, service in sorted(placed.items()):
        cpus = [cpu for one in service["instances"] for cpu in cpulist.parse(one["cpus"])]
        cores[name] = {numbers.get(cpu, cpu): cpu for cpu in cpus}
    names = list(cores)
    sentences = []
    for number, first in enumerate(names):
        for second in names[number + 1 :]:
            common = cores[first].keys() & cores[second].keys()
            if common:
                sentences.append(f"{first} and {second} share the CPUs {cpulist.render(cores[first][core] for core in common)}")
    limit = quota(facts) if facts else None
    threads = sum(one["threads"] for service in placed.values() for one in service["instances"])
    if limit is not None and threads > limit:
        sentences.append(f"the instances have {threads} threads together, and a CPU quota lets {limit} run at a time")
    return sentences
