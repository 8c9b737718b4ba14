# Copyright (c) 2026, The ainode.cpu authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The audit: one row, with one verdict, for each recommendation of the tuning guide and of this collection.

A row is {id, section, what, expected, live, after_reboot, verdict, reason, remedy}; every value is a text, expected, live and
after_reboot may be None. The verdict is

- pass: the recommendation is met, now and after a reboot;
- fail: it is not, and this collection can put it right (the remedy says how);
- advice: it is not, and only the owner of the hardware, of the firmware or of the plan can change it;
- not_applicable: the host does not own the thing, does not tell it, or was not given it; the reason says which.

Source of the recommendations: the Deep Learning and AI tuning guide for 3rd generation Intel Xeon Scalable processors; the section
of a row is that guide's heading, or "collection" for what this collection adds.
"""

from __future__ import annotations

import re
import textwrap

from ..host import cpulist
from ..programs import ainode_run
from ..state import cpu_power, hugepages, memory_policy, node_plan

# What a node is audited against where the caller expects nothing else: what the roles cpu_power and hugepages set by default, which is the
# guide's wherever it names a value.
RECOMMENDED = {
    "governor": "performance",
    "turbo": True,
    "max_exit_latency_us": 10,
    "transparent_hugepage": "madvise",
    "thp_defrag": "madvise",
    "numa_balancing": 0,
    "zone_reclaim_mode": 0,
    "swappiness": 10,
}

# The exposure of a service that answers requests, on the scale of systemd-analyze security: below 2 is its "OK" with nearly all of it shut.
MOST_EXPOSED = 2.0

VERDICTS = ("fail", "advice", "pass", "not_applicable")

_ACCELERATION = "Introducing Intel® AVX-512 and Intel® Deep Learning Boost"
_BIOS = "BIOS Settings"
_OPENMP = "OpenMP Parameter Settings"
_CORES = "Number of CPU cores"
_VECTOR = "Accelerating Vector Recall in the Recommendation System with Intel® Deep Learning Boost VNNI"
_QUANTIZATION = "AI Neural Network Model Quantization"
_OWN = "collection"


def expectations(facts, given, ignore=()):
    """Return {setting: value} of what the node with these `facts` is audited against: `given`, and RECOMMENDED where that has None or no such key.

    Nothing is expected of the settings in `ignore`. As in the role cpu_power, the exit latency is free on a host with a battery, and where
    `given` names idle states, unless it is given too.
    """
    expected = {**RECOMMENDED, **{name: value for name, value in given.items() if value is not None}}
    if given.get("max_exit_latency_us") is None and (given.get("idle_states_disabled") or (facts.get("platform") or {}).get("battery")):
        del expected["max_exit_latency_us"]
    return {name: value for name, value in expected.items() if name not in ignore}


class _Host:
    """What the judges look at: the facts, the evidence beside them, and what is expected."""

    def __init__(self, facts, evidence, expected):
        self._facts = facts
        self.boot = evidence["boot"]
        self.boots = evidence["boots"]
        self.locked = evidence["locked"]
        self.impossible = evidence["impossible"]
        self.frequency_khz = evidence["frequency_khz"]
        self.resolved_khz = evidence["resolved_khz"]
        self.workloads = evidence["workloads"] or {}
        self.hugepages = evidence["hugepages"]
        self.khugepaged_defrag = evidence["khugepaged_defrag"]
        self.broken_placement = evidence["workloads"] is None
        self.plan = evidence["plan"]
        self.services = evidence["services"]
        self.exposure = evidence["exposure"]
        self.expected = expected

    def fact(self, *path):
        """Return the fact at `path`, or None where there is none."""
        value = self._facts
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        return value


def audit(facts, evidence, expected, checks=()):
    """Return the audit rows of a node, in the guide's order.

    `facts` are those of node_facts, whole or a subset; `evidence` is evidence.collect(); `expected` is expectations(); `checks` are the
    rows of checks.rows(), each of which takes the place of the row with its id, or follows at the end. Raises nothing on facts with gaps.
    """
    host = _Host(facts, evidence, expected)
    rows = {}
    for identity, section, what, remedy, judge in RECOMMENDATIONS:
        finding = judge(host)
        if finding is not None:
            rows[identity] = {
                "id": identity,
                "section": section,
                "what": what,
                "expected": None,
                "live": None,
                "after_reboot": None,
                "reason": "",
                **finding,
                "remedy": "" if finding["verdict"] == "pass" else remedy,
            }
    for row in checks:
        rows[row["id"]] = {**row, "remedy": "" if row["verdict"] == "pass" else row["remedy"]}
    return list(rows.values())


def summary(rows):
    """Return how many of `rows` have each verdict, as {verdict: count}."""
    return {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in VERDICTS}


def table(rows):
    """Return `rows` as a text: what fails first, then advice, then what is right, then what does not apply, by reason; a summary ends it."""
    width = max([len(row["id"]) for row in rows] + [0])
    lines = []
    for verdict in ("fail", "advice", "pass"):
        for row in rows:
            if row["verdict"] == verdict:
                lines.extend(_lines(row, width))
    reasons = {}
    for row in rows:
        if row["verdict"] == "not_applicable":
            reasons.setdefault(row["reason"], []).append(row["id"])
    for reason, identities in reasons.items():
        lines.append(f"{_LABEL['not_applicable']}  {reason}:")
        lines.extend(textwrap.wrap(", ".join(identities), 110, initial_indent=" " * 8, subsequent_indent=" " * 8, break_on_hyphens=False))
    counts = summary(rows)
    lines.append(
        f"{len(rows)} rows: {counts['fail']} fail, {counts['advice']} advice, {counts['pass']} pass, {counts['not_applicable']} not applicable to this host"
    )
    return "\n".join(lines)


_LABEL = {"fail": "FAIL  ", "advice": "advice", "pass": "pass  ", "not_applicable": "n/a   "}


def _lines(row, width):
    """Return the lines of the table for a row that applies; `width` is that of the longest id."""
    head = f"{_LABEL[row['verdict']]}  {row['id']:<{width}}"
    live = " ".join((row["live"] or "-").split())
    if row["verdict"] == "pass":
        return [f"{head}  {live if len(live) <= 80 else live[:79] + '…'}"]
    wanted = f"; expected: {row['expected']}" if row["expected"] not in (None, row["live"]) else ""
    indent = " " * (8 + width + 2)
    return [f"{head}  {live}{wanted}"] + [indent + " ".join(text.split()) for text in (row["reason"], row["remedy"] and "remedy: " + row["remedy"]) if text]


# Findings: what a judge returns --------------------------------------------------------------------------------------------------


def _met(expected, live, after_reboot=None):
    return {"verdict": "pass", "expected": expected, "live": live, "after_reboot": after_reboot}


def _advice(expected, live, reason):
    return {"verdict": "advice", "expected": expected, "live": live, "reason": reason}


def _failed(expected, live, reason, after_reboot=None):
    return {"verdict": "fail", "expected": expected, "live": live, "after_reboot": after_reboot, "reason": reason}


def _not_applicable(reason, live=None, expected=None):
    return {"verdict": "not_applicable", "reason": reason, "live": live, "expected": expected}


# Hardware and firmware: seen, not set --------------------------------------------------------------------------------------------


def _firmware(name, wanted):
    """Return the judge of the BIOS setting `name`, which should be `wanted`."""

    def judge(host):
        live = host.fact("firmware", name, "value")
        if live is None:
            return _not_applicable(host.fact("firmware", name, "reason") or "the operating system does not tell", expected=wanted)
        live = str(live)
        return (
            _met(wanted, live)
            if live == wanted
            else _advice(wanted, live, host.fact("firmware", name, "reason") or "set in the firmware's setup, not from here")
        )

    return judge


def _memory_channels(host):
    populated, available = host.fact("memory", "channels", "populated"), host.fact("memory", "channels", "available")
    if populated is None or not available:
        return _not_applicable(host.fact("memory", "channels", "reason") or "the firmware tables do not name the channels", expected="all")
    live = f"{populated} of {available}"
    return (
        _met("all", live)
        if populated >= available
        else _advice("all", live, f"{available - populated} memory channels are empty: bandwidth is lost in proportion")
    )


def _avx512(host):
    if host.fact("cpu", "isa_level") is None:
        return _not_applicable("AVX-512 is an instruction set of x86-64", live=host.fact("cpu", "architecture"))
    flags = [flag for flag in host.fact("cpu", "isa") or [] if flag.startswith("avx512")]
    if "avx512f" in flags:
        return _met("avx512f", ", ".join(flags))
    return _advice("avx512f", host.fact("cpu", "isa_level"), "the CPU has no AVX-512, or its hypervisor hides it")


def _int8_path(host):
    wanted, live = "amx_int8, avx512_vnni, avx_vnni or asimddp", host.fact("cpu", "int8_path")
    if live is None:
        return _not_applicable("the host does not tell its instruction sets", expected=wanted)
    if live != "none":
        return _met(wanted, live)
    return _advice(wanted, live, "no INT8 dot product instruction: this node gets FP32 or BF16 artefacts, for INT8 without one saturates or is slow")


def _fma_units(host):
    if "avx512f" not in (host.fact("cpu", "isa") or []):
        return _not_applicable("the CPU has no AVX-512", expected="2")
    value, source = host.fact("cpu", "fma_units_512", "value"), host.fact("cpu", "fma_units_512", "source") or ""
    if value is None:
        return _not_applicable(source or "no table names this CPU model", expected="2")
    return _met("2", str(value)) if value >= 2 else _advice("2", str(value), source)


def _network(host):
    speeds = {nic["name"]: nic["speed_mbps"] for nic in host.fact("devices", "nics") or [] if (nic.get("speed_mbps") or 0) > 0}
    wanted = "25 Gbit/s or more"
    if not speeds:
        return _not_applicable("no network interface tells its speed", expected=wanted)
    fastest = max(sorted(speeds), key=lambda name: speeds[name])
    live = f"{fastest}: {speeds[fastest] / 1000:g} Gbit/s"
    if speeds[fastest] >= 25000:
        return _met(wanted, live)
    return _advice(wanted, live, "enough for one node; training across nodes scales with the network")


def _disks(host):
    disks = [disk for disk in host.fact("devices", "disks") or [] if disk.get("rotational") is not None]
    if not disks:
        return _not_applicable("no disk tells whether it rotates", expected="solid state")
    rotating = [disk["name"] for disk in disks if disk["rotational"]]
    if not rotating:
        return _met("solid state", ", ".join(disk["name"] for disk in disks))
    virtual = host.fact("platform", "virtualization") or host.fact("cpu", "hypervisor")
    reason = "a virtual disk counts as rotating unless its hypervisor says otherwise" if virtual else "keep models and indexes on a solid state disk"
    return _advice("solid state", f"rotating: {', '.join(rotating)}", reason)


# Settings of the kernel: live, and after the next boot -----------------------------------------------------------------------------


def _setting(host, name, live, wanted, right, boot):
    """Return the finding on the setting `name`, which the kernel holds and a boot sets anew.

    `live` and `wanted` are texts, `right` is whether they agree; `boot` is what the next boot makes of it, as (text, whether that is right,
    what sets it), or None when nothing known does.
    """
    if name in host.locked:
        return _not_applicable(host.locked[name], live, wanted)
    if name in host.impossible:
        return _failed(wanted, live, host.impossible[name])
    if not host.boots:
        return _met(wanted, live) if right else _failed(wanted, live, "not set")
    after, after_right, source = boot or (None, False, None)
    by = f"a reboot makes it {after} ({source})" if boot else "nothing that is known here sets it at boot"
    if right and after_right:
        return _met(wanted, live, after)
    if right:
        return _failed(wanted, live, f"right now, but {by}", after)
    return _failed(wanted, live, f"drifted: the next boot sets it right ({source})" if after_right else f"not set; {by}", after)


def _boot(host, name, is_right, write=str):
    """Return what the next boot makes of the setting `name`, as `_setting` takes it; `write` gives a value's text, `is_right` judges a value."""
    entry = host.boot.get(name)
    return entry and (write(entry["value"]), is_right(entry["value"]), entry["source"])


def _no_cpufreq(host):
    return host.fact("power", "reason") or "this host has no cpufreq driver"


def _governor(host):
    live, wanted = host.fact("power", "governor"), host.expected.get("governor")
    if wanted is None:
        return _not_applicable("no governor is asked for", ", ".join(live or []) or None)
    if not live:
        return _not_applicable(_no_cpufreq(host), expected=wanted)
    return _setting(host, "governor", ", ".join(live), wanted, live == [wanted], _boot(host, "governor", lambda value: value == wanted))


def _preference(name, numbers):
    """Return the judge of the EPP or EPB: `numbers` maps a name to the numbers that the kernel may show for it."""

    def judge(host):
        if host.expected.get(name) is None:
            return None
        wanted = str(host.expected[name])
        live = [str(value) for value in host.fact("power", name) or []]
        if not live:
            return _not_applicable(f"this host has no {name.upper()}", expected=wanted)
        held = host.fact("power", "driver") in cpu_power.SELF_GOVERNED and host.fact("power", "governor") == ["performance"]
        if name == "epp" and held and wanted not in ("performance", "0"):
            return _not_applicable("the driver holds the EPP at performance under governor performance", ", ".join(live), wanted)
        if wanted == "default" and not set(live) <= {wanted, *cpu_power.EPP_DEFAULT}:
            return _advice(wanted, ", ".join(live), "the kernel reads the default back by another name: whether this is it cannot be told")
        same = {wanted, *(str(number) for number in numbers.get(wanted, ())), *(known for known, known_as in numbers.items() if wanted in map(str, known_as))}
        same.update(cpu_power.EPP_DEFAULT if wanted == "default" else ())
        return _setting(host, name, ", ".join(live), wanted, set(live) <= same, _boot(host, name, lambda value: str(value) in same))

    return judge


def _turbo(host):
    if host.expected.get("turbo") is None:
        return None
    turbo, live = host.expected["turbo"], host.fact("power", "turbo", "enabled")
    if live is None:
        return _not_applicable("this host offers no control over turbo", expected=_on(turbo))
    if turbo and not live and host.fact("power", "turbo", "available") is False:
        return _not_applicable("the firmware has turbo disabled", "off", "on")
    return _setting(host, "turbo", _on(live), _on(turbo), live == turbo, _boot(host, "turbo", lambda value: bool(value) == turbo, _on))


def _on(value):
    return "on" if value else "off"


def _frequency(end):
    """Return the judge of the frequency limit at the `end` "min" or "max"."""
    name = f"{end}_frequency_khz"

    def judge(host):
        wanted, live = host.expected.get(name), host.frequency_khz[end]
        if wanted is None:
            return None
        if not live:
            return _not_applicable(_no_cpufreq(host), expected=f"{wanted} kHz")
        right = live == host.resolved_khz[end]
        live = ", ".join(f"{khz} kHz" for khz in live)
        return _setting(host, name, live, f"{wanted} kHz", right, _boot(host, name, lambda value: value == wanted, "{} kHz".format))

    return judge


def _idle_states(host):
    """Judge the idle states: those with a longer exit latency than allowed, and those named, are to be disabled on every CPU."""
    cap, names = host.expected.get("max_exit_latency_us"), host.expected.get("idle_states_disabled") or []
    wanted = " and ".join(([f"none above {cap} µs"] if cap is not None else []) + ([f"not {', '.join(names)}"] if names else []))
    states = host.fact("power", "idle", "states") or []
    if not wanted:
        return _not_applicable("nothing is asked of the idle states")
    if not states:
        return _not_applicable("this host has no idle states to choose from: no cpuidle driver, or a hypervisor owns them", expected=wanted)
    if all(state["disabled"] is None for state in states):
        return _not_applicable("this kernel has no way to disable an idle state", expected=wanted)

    def unwanted(state):
        return state["name"] in names or (cap is not None and (state["latency_us"] or 0) > cap)

    usable = [state for state in states if state["disabled"] != "all"]
    live = "enabled: " + (", ".join(f"{state['name']} ({state['latency_us']} µs)" for state in usable) or "none")
    if not any(unwanted(state) for state in states):
        # The list of states is the processor's and the command line's: it is the same after a boot.
        return _met(wanted, live, live)
    cap_at_boot, names_at_boot = (host.boot.get(name, {}).get("value") for name in ("max_exit_latency_us", "idle_states_disabled"))
    left = [state for state in states if state["name"] not in (names_at_boot or []) and (cap_at_boot is None or (state["latency_us"] or 0) <= cap_at_boot)]
    source = (host.boot.get("max_exit_latency_us") or host.boot.get("idle_states_disabled") or {}).get("source") or "the kernel's default"
    boot = ("enabled: " + (", ".join(state["name"] for state in left) or "none"), not any(map(unwanted, left)), source)
    return _setting(host, "max_exit_latency_us", live, wanted, not any(map(unwanted, usable)), boot)


def _memory(name):
    """Return the judge of the memory policy `name`, an option of the module memory_policy."""

    def judge(host):
        live = host.khugepaged_defrag if name == "khugepaged_defrag" else host.fact("memory", name)
        wanted = host.expected.get(name)
        wanted = str(int(wanted)) if isinstance(wanted, bool) else wanted if wanted is None else str(wanted)
        if live is None:
            return _not_applicable(f"the kernel of this host has no {memory_policy.OPTIONS[name].path}", expected=wanted)
        live = str(live)
        if wanted is None:
            return _not_applicable("no value is asked for", live=live)
        return _setting(host, name, live, wanted, live == wanted, _boot(host, name, lambda value: str(value) == wanted))

    return judge


def _hugepages(host):
    pages = host.hugepages
    if not host.expected.get("hugepages"):
        return _not_applicable("no huge pages are asked for, and the guide has no number")
    if "error" in pages:
        return _failed(None, None, pages["error"])
    wanted, live, boot = (_pages(pages[kind]) for kind in ("wanted", "live", "boot"))
    if not pages["wanted"]:
        return _not_applicable(pages["reason"])
    finding = _setting(host, "hugepages", live, wanted, live == wanted, (boot, boot == wanted, pages["source"]))
    if finding["verdict"] == "fail" and boot == wanted and host.expected.get("shortfall") == "warn":
        return _advice(wanted, live, "the kernel granted fewer than asked for, which hugepages_shortfall allows")
    return finding


def _pages(counts):
    """Return {kB: {node: count}} as a text: "2M: node 0: 512, node 1: 512"."""
    sizes = []
    for size, nodes in sorted(counts.items()):
        by_node = ", ".join(f"{count}" if node is None else f"{count} on node {node}" for node, count in nodes.items())
        sizes.append(f"{hugepages.shown_size(size)} pages: {by_node}")
    return "; ".join(sizes)


def _tuners(host):
    active = host.fact("platform", "conflicting_tuners") or []
    if active:
        return _failed("none", ", ".join(active), "another program sets governor, idle states or memory policies behind our back", ", ".join(active))
    return _met("none", "none", "none")


# Workloads: the placement and its environment, and the services that run by it --------------------------------------------------------

_NO_PLACEMENT = "no workload is placed on this node: the role runtime_env has not been applied"


def _spread(values):
    """Return the distinct `values` as a text, in order of size: "8" or "4, 16"."""
    return ", ".join(sorted({str(value) for value in values}, key=lambda text: (len(text), text)))


def _cpus(instance):
    """Return the CPUs of an instance as a list, [] for a text that is no cpulist (a placement somebody edited)."""
    try:
        return cpulist.parse(instance.get("cpus") or "")
    except ValueError:
        return []


def _threads(host):
    """Judge OMP_NUM_THREADS: the number of physical cores that the instance has, which must be there and be its own."""
    wanted = "the instance's physical cores"
    if host.broken_placement:
        return _failed(wanted, None, f"{ainode_run.PLACEMENT} is not what the role runtime_env writes: ainode-run cannot read it")
    if not host.workloads:
        return _not_applicable(_NO_PLACEMENT, expected=wanted)
    usable = set(cpulist.parse(host.fact("cpu", "usable", "cpus") or host.fact("cpu", "online") or ""))
    core_of = {cpu: number for number, core in enumerate(host.fact("cpu", "cores") or []) for cpu in cpulist.parse(core["cpus"])}
    live, wrong = [], []
    for workload, instances in sorted(host.workloads.items()):
        live.append(f"{workload} {_spread(instance['env'].get('OMP_NUM_THREADS', 'unset') for instance in instances)}")
        for instance in instances:
            cpus, threads = _cpus(instance), str(instance["env"].get("OMP_NUM_THREADS", "unset"))
            cores = len({core_of.get(cpu, -1 - cpu) for cpu in cpus})
            gone = cpulist.render(set(cpus) - usable) if usable else ""
            if threads != str(cores):
                wrong.append(f"{instance['name']} has OMP_NUM_THREADS {threads} on {cores} physical cores")
            elif gone:
                wrong.append(f"{instance['name']} is placed on CPUs that are not usable: {gone}")
    if wrong:
        return _failed(wanted, ", ".join(live), "; ".join(wrong[:3]) + ("" if len(wrong) <= 3 else f" and {len(wrong) - 3} more instances"))
    return _met(wanted, ", ".join(live))


def _variable(name, wanted, is_right):
    """Return the judge of an environment variable of the workloads, whose value the guide leaves to the model."""

    def judge(host):
        if not host.workloads:
            return _not_applicable(_NO_PLACEMENT, expected=wanted)
        found = {workload: {str(instance["env"].get(name, "unset")) for instance in instances} for workload, instances in host.workloads.items()}
        values = set().union(*found.values())
        live = next(iter(values)) if len(values) == 1 else ", ".join(f"{workload} {_spread(found[workload])}" for workload in sorted(found))
        if all(map(is_right, values)):
            return _met(wanted, live)
        return _advice(wanted, live, "another value was asked for")

    return judge


def _is_guides_affinity(value):
    """Return whether KMP_AFFINITY is the guide's, whose "verbose" does no more than print."""
    return [word.strip() for word in value.split(",") if word.strip() != "verbose"] == ["granularity=fine", "compact", "1", "0"]


def _cores(workload, unit, wanted, is_right):
    """Return the judge of the cores an instance of `workload` has; it stays within a `unit` ("node" or "socket") of the machine."""

    def judge(host):
        instances = host.workloads.get(workload)
        if not instances:
            return _not_applicable(f"the workload {workload} is not placed on this node" if host.workloads else _NO_PLACEMENT, expected=wanted)
        sizes = [len(_cpus(instance)) for instance in instances]
        live = f"{_spread(sizes)} ({len(instances)} instance{'s' if len(instances) > 1 else ''})"
        if all(map(is_right, sizes)):
            return _met(wanted, live)
        cores = {}
        for core in host.fact("cpu", "cores") or []:
            cores.setdefault(core.get(unit), []).append(core)
        largest = max(map(len, cores.values())) if cores else max(sizes)
        limit = host.fact("cpu", "usable", "limit")
        limited = f", of which {host.fact('cpu', 'usable', 'count')} CPUs are usable ({limit})" if limit else ""
        return _advice(wanted, live, f"the largest {'NUMA node' if unit == 'node' else unit} has {largest} cores{limited}")

    return judge


def _numa(host):
    """Judge the binding of instances and services: each on the CPUs of one NUMA node with that node's memory, or interleaved over its nodes."""
    wanted = "each instance on one node, with its memory"
    nodes = host.fact("numa", "nodes") or []
    node_of = {cpu: node["id"] for node in nodes for cpu in cpulist.parse(node["cpus"])}
    if len(nodes) < 2:
        return _not_applicable("the host has one NUMA node: there is nothing to choose", expected=wanted)
    bound = [
        {"name": instance["name"], "cpus": _cpus(instance), "policy": instance.get("memory_policy"), "running": None}
        for instances in host.workloads.values()
        for instance in instances
    ]
    planned = _planned(host)
    for service in host.services:
        running = None if service["running"] is None else cpulist.parse(service["running"])
        bound.append({"name": service["unit"], "cpus": _cpus(service), "policy": service["memory_policy"], "running": running})
    if not bound:
        return _not_applicable(_NO_PLACEMENT, expected=wanted)
    wrong, split = [], []
    for service in host.services:
        memory = planned[service["unit"]]["memory_node"] if service["unit"] in planned else service["memory_nodes"]
        if memory != service["memory_nodes"]:
            wrong.append(f"{service['unit']} has its memory on node {service['memory_nodes']}, not on {memory} as the plan says")
    for one in bound:
        homes = {node_of.get(cpu) for cpu in one["cpus"]}
        if one["policy"] != ("bind" if len(homes) == 1 else "interleave"):
            wrong.append(f"{one['name']} is on node {_spread(homes)} with memory policy {one['policy'] or 'default'}")
        if one["running"] not in (None, one["cpus"]):
            wrong.append(f"{one['name']} runs on the CPUs {cpulist.render(one['running'])}, not on {cpulist.render(one['cpus'])}")
        if len(homes) > 1:
            split.append(one["name"])
    live = f"{len(bound) - len(split)} of {len(bound)} on one node"
    if wrong:
        return _failed(wanted, live, "; ".join(wrong[:3]) + ("" if len(wrong) <= 3 else f" and {len(wrong) - 3} more"))
    return {**_met(wanted, live), "reason": f"interleaved over the nodes of a socket: {', '.join(split[:3])}" if split else ""}


def _planned(host):
    """Return {unit: its instance in the plan}."""
    return {
        f"ainode-{name}-{number}.service": one
        for name, service in (host.plan or {"services": {}})["services"].items()
        for number, one in enumerate(service["instances"])
    }


def _shared_cores(host):
    """Judge the units of services: each on the cores that the plan gives it, and no two on the same core."""
    wanted = "each instance on its own cores"
    if host.plan is None:
        return _failed(wanted, None, f"{node_plan.PLAN} is not what the role plan writes: nobody can tell whose the cores are")
    planned = _planned(host)
    usable = set(cpulist.parse(host.fact("cpu", "usable", "cpus") or host.fact("cpu", "online") or ""))
    # What may run everywhere, such as a page that waits for the services, has no cores of its own.
    units = {service["unit"]: _cpus(service) for service in host.services}
    units = {unit: cpus for unit, cpus in units.items() if unit in planned or set(cpus) < usable}
    if not units:
        return _not_applicable("no pinned service is deployed", expected=wanted)
    core_of = {cpu: number for number, core in enumerate(host.fact("cpu", "cores") or []) for cpu in cpulist.parse(core["cpus"])}
    wrong = [
        f"{unit} is on the CPUs {cpulist.render(cpus)}, not on {planned[unit]['cpus']} as the plan says"
        for unit, cpus in units.items()
        if unit in planned and cpus != _cpus(planned[unit])
    ]
    wrong += [
        f"{unit} is not in the plan, which has fewer instances of its service"
        for unit in units
        if unit not in planned and re.sub(r"^ainode-|-\d+\.service$", "", unit) in host.plan["services"]
    ]
    sharing = set()
    for number, first in enumerate(units):
        for second in list(units)[number + 1 :]:
            common = [cpu for cpu in units[first] if core_of.get(cpu, cpu) in {core_of.get(other, other) for other in units[second]}]
            sharing.update((first, second) if common else ())
            # Of units in the plan, those that are elsewhere are named above; what others share the plan says.
            if common and not (first in planned and second in planned):
                wrong.append(f"{first} and {second} share the CPUs {cpulist.render(common)}")
    live = f"{len(units)} instance{'' if len(units) == 1 else 's'}, {len(sharing) or 'none'} on cores that others have too"
    if wrong:
        return _failed(wanted, live, "; ".join(wrong[:3]) + ("" if len(wrong) <= 3 else f" and {len(wrong) - 3} more"))
    if sharing:
        return _advice(wanted, live, "; ".join(host.plan["shared"]))
    return _met(wanted, live)


def _sandbox(host):
    """Judge the units that answer requests by systemd's own rating of what their sandbox leaves open, the worst of a service's instances."""
    wanted = f"{MOST_EXPOSED} or less"
    if not host.exposure:
        return _not_applicable("no service of ours is deployed", expected=wanted)
    worst = {}
    for unit, level in host.exposure.items():
        name = re.sub(r"^ainode-|(-\d+)?\.service$", "", unit)
        worst[name] = max(worst.get(name, 0.0), 0.0 if level is None else level)
    if None in host.exposure.values():
        if not any(worst.values()):
            return _not_applicable("systemd does not run here, or does not rate units", expected=wanted)
        return _failed(wanted, None, "systemd does not rate " + ", ".join(unit for unit, level in host.exposure.items() if level is None))
    live = ", ".join(f"{name} {level}" for name, level in sorted(worst.items()))
    open_ones = [name for name, level in sorted(worst.items()) if level > MOST_EXPOSED]
    if open_ones:
        return _failed(wanted, live, f"more is open to {', '.join(open_ones)} than its role leaves it: look for drop-ins in /etc/systemd/system/ainode-*.d")
    return _met(wanted, live)


# Pieces that other roles deploy -------------------------------------------------------------------------------------------------------


def _not_deployed(role):
    """Return the judge of a piece that its role has not deployed; the role's own check in audit.d takes this row's place once it has."""
    return lambda host: _not_applicable(f"not deployed: the role {role} has put no check into /etc/ainode/audit.d")


def _framework(name, section, what):
    return (f"framework.{name}", section, what, f"run the role frameworks with frameworks_install: [{name}]", _not_deployed("frameworks"))


def _search(name, what):
    return (f"vector_search.{name}", _VECTOR, what, "run the role vector_search", _not_deployed("vector_search"))


def _quantization(name, what):
    return (f"model_service.{name}", _QUANTIZATION, what, "run the role model_service", _not_deployed("model_service"))


_IN_SETUP = "change it in the firmware's setup (BIOS)"
_POWER = "run playbooks/ai-node.yml (role cpu_power)"
_ENVIRONMENT = "run playbooks/ai-node.yml (role runtime_env)"
_PLAN = "give runtime_env_workloads another cores_per_instance, where the node has the cores"
_DIVISION = "run playbooks/ai-node.yml with plan_replan=true, which divides the cores anew, and give a service that is too many to another node"
_PAGES = "run playbooks/ai-node.yml (role hugepages)"

# id, section, what, remedy, judge: in the guide's order, then our own.
RECOMMENDATIONS = [
    ("cpu.int8_path", _ACCELERATION, "The CPU has an INT8 dot product instruction (VNNI)", "use a CPU with VNNI for INT8 work", _int8_path),
    ("bios.hyper_threading", _BIOS, "Hyper-Threading is enabled", _IN_SETUP, _firmware("hyper_threading", "enabled")),
    ("bios.sub_numa", _BIOS, "SNC (sub-NUMA clustering) is disabled", _IN_SETUP, _firmware("sub_numa", "disabled")),
    ("bios.boot_performance_mode", _BIOS, "The boot performance mode is maximum performance", _IN_SETUP, _firmware("boot_performance_mode", "max_performance")),
    ("bios.turbo", _BIOS, "Turbo mode is enabled", _IN_SETUP, _firmware("turbo", "enabled")),
    ("bios.hardware_pstates", _BIOS, "Hardware P-states are in native mode", _IN_SETUP, _firmware("hardware_pstates", "native")),
    ("memory.channels", "Memory", "All memory channels are in use", "put a module of the same size into every channel", _memory_channels),
    ("cpu.avx512", "CPU", "The CPU has AVX-512", "use a CPU with AVX-512, and show it to virtual machines", _avx512),
    ("cpu.fma_units", "CPU", "Each core has two AVX-512 FMA units", "use a CPU with two (Xeon Gold 6 series and above)", _fma_units),
    ("network.speed", "Network", "A network interface of 25 Gbit/s or more", "use a faster network to train across nodes", _network),
    ("storage.ssd", "Hard drive", "Disks are solid state", "use solid state disks", _disks),
    (
        "openmp.threads",
        _OPENMP,
        "OMP_NUM_THREADS is the number of physical cores of the instance",
        _ENVIRONMENT,
        _threads,
    ),
    ("openmp.blocktime", _OPENMP, "KMP_BLOCKTIME is 0 or 1", _ENVIRONMENT, _variable("KMP_BLOCKTIME", "0 or 1", lambda value: value in ("0", "1"))),
    (
        "openmp.affinity",
        _OPENMP,
        "KMP_AFFINITY binds threads to cores, side by side",
        _ENVIRONMENT,
        _variable("KMP_AFFINITY", "granularity=fine,compact,1,0", _is_guides_affinity),
    ),
    ("cores.online", _CORES, "An online instance has 8 to 16 cores", _PLAN, _cores("online", "node", "8 to 16", lambda cores: 8 <= cores <= 16)),
    ("cores.batch", _CORES, "A batch instance has more than 20 cores", _PLAN, _cores("batch", "socket", "more than 20", lambda cores: cores > 20)),
    ("cores.shared", _OWN, "No two instances of services share a core", _DIVISION, _shared_cores),
    ("numa.binding", "NUMA Configuration", "Instances run on one NUMA node and use its memory", _ENVIRONMENT, _numa),
    ("power.governor", "Configuration of Linux Performance Governor", "The CPU frequency governor is performance", _POWER, _governor),
    ("power.idle_states", "CPU C-States Settings", "Idle states that take long to leave are disabled", _POWER, _idle_states),
    ("power.epp", _OWN, "The energy performance preference is as asked for", _POWER, _preference("epp", cpu_power.EPP_NUMBERS)),
    (
        "power.epb",
        _OWN,
        "The energy performance bias is as asked for",
        _POWER,
        _preference("epb", {name: (number,) for name, number in cpu_power.EPB_NAMES.items()}),
    ),
    ("power.turbo", _OWN, "Turbo is switched as asked for", _POWER, _turbo),
    ("power.min_frequency", _OWN, "The lowest frequency is as asked for", _POWER, _frequency("min")),
    ("power.max_frequency", _OWN, "The highest frequency is as asked for", _POWER, _frequency("max")),
    _framework("tensorflow", "Intel® Optimization for TensorFlow* Deep Learning Framework", "TensorFlow works, and computes INT8 on the CPU's best path"),
    _framework("pytorch", "Using PyTorch*, a Deep Learning Framework", "PyTorch works, and computes INT8 on the CPU's best path"),
    _search("int8", "Vector recall computes INT8 distances, with VNNI where the CPU has it"),
    _search("numa_bound", "Each vector search service is bound to a NUMA node"),
    _search("query_per_core", "Each physical core runs one query at a time"),
    _search("whole_dataset", "One index holds the whole data set"),
    _search("restart", "A restart skips loading the index"),
    _quantization("int8", "Models run quantized to INT8 where the CPU has a path for it"),
    _quantization("accuracy", "Quantized models keep their accuracy within the limit given"),
    _framework("neural_compressor", "Intel® Neural Compressor", "Intel Neural Compressor works"),
    _framework(
        "openvino", "Using Intel® Distribution of OpenVINO™ Toolkit for Inference Acceleration", "OpenVINO works, and computes INT8 on the CPU's best path"
    ),
    _framework("sklearnex", "Using Intel® DAAL for Accelerated Machine Learning", "scikit-learn runs the estimators of Intel Extension for Scikit-learn"),
    _framework("onnxruntime", "Intel® Neural Compressor", "ONNX Runtime works, and computes INT8 on the CPU's best path"),
    ("memory.hugepages", _OWN, "Huge pages are set aside on each NUMA node", _PAGES, _hugepages),
    ("memory.transparent_hugepage", _OWN, "Transparent huge pages are as asked for", _PAGES, _memory("transparent_hugepage")),
    ("memory.thp_defrag", _OWN, "Who waits for a transparent huge page is as asked for", _PAGES, _memory("thp_defrag")),
    ("memory.khugepaged_defrag", _OWN, "Collapsing small pages in the background is as asked for", _PAGES, _memory("khugepaged_defrag")),
    ("memory.numa_balancing", _OWN, "The kernel leaves the memory of pinned instances where it is", _PAGES, _memory("numa_balancing")),
    ("memory.zone_reclaim_mode", _OWN, "A full node borrows from others before it reclaims", _PAGES, _memory("zone_reclaim_mode")),
    ("memory.swappiness", _OWN, "The kernel's leaning to swap is as asked for", _PAGES, _memory("swappiness")),
    ("services.sandbox", _OWN, "Services that answer requests are shut in (systemd-analyze security)", "run the role that deploys it again", _sandbox),
    ("tuners.conflicting", _OWN, "No other program tunes the same settings", "stop and disable it, or let it do the tuning and leave ours out", _tuners),
]
