# Copyright (c) 2026, The ainode.cpu authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What the audit reads of a host beside the facts: what the next boot will set, which settings the host does not own, and how workloads are placed."""

from __future__ import annotations

import json
import re

from ..host import cpulist
from ..host.boot import Boot
from ..host.host import UNITS, SettingsError
from ..programs import ainode_run
from ..state import cpu_power, hugepages, memory_policy, node_plan

_CPU = "/sys/devices/system/cpu"

_POWER = ("governor", "epp", "epb", "turbo", "min_frequency_khz", "max_frequency_khz")

# The kernel file that stands for a setting: what may not be written there is not the host's to set.
_FILES = {
    "governor": f"{_CPU}/cpufreq/policy0/scaling_governor",
    "epp": f"{_CPU}/cpufreq/policy0/energy_performance_preference",
    "epb": f"{_CPU}/cpu0/power/energy_perf_bias",
    "turbo": f"{_CPU}/intel_pstate/no_turbo",
    "min_frequency_khz": f"{_CPU}/cpufreq/policy0/scaling_min_freq",
    "max_frequency_khz": f"{_CPU}/cpufreq/policy0/scaling_max_freq",
    "max_exit_latency_us": f"{_CPU}/cpu0/cpuidle/state0/disable",
    **{name: option.path for name, option in memory_policy.OPTIONS.items()},
}


def collect(host, facts, expected):
    """Return the evidence of the host.Host `host`, whose facts are `facts`, on the settings `expected` (as audit.audit takes them):

    boot               {setting: {"value", "source"}}: what the next boot sets; a setting that nothing known decides is missing
    boots              whether a boot sets anything: a container without systemd is started, not booted
    locked             {setting: reason}: what this host does not own
    impossible         {setting: reason}: what is expected and no state module could set here
    frequency_khz      {"min": [], "max": []}: the frequency limits in force, sorted and distinct
    resolved_khz       the same of the limits that the kernel makes of the expected ones
    khugepaged_defrag  "0", "1" or None
    hugepages          {"wanted", "live", "boot"}, each {kB: {node: count}} (the node None without NUMA), source (of boot) and reason (why not
                       applicable); or {"error": text} when this host cannot have what is expected
    workloads          {workload: [instance]}: the placement that ainode-run and the environment files give; None when its file is damaged
    plan               the node's plan, as state.node_plan.read() gives it; None when its file is damaged
    services           [{unit, cpus, memory_policy, memory_nodes, running}]: the pinned units; `running` is the cpulist in force, None when stopped
    exposure           {unit: how exposed systemd rates it, 0 (best) to 10, None where it does not}: the units that answer requests
    """
    platform = facts.get("platform") or {}
    boot = Boot(host, platform.get("kernel"), platform.get("cmdline"), platform.get("init") == "systemd")
    set_at_boot = {**_kernel_power(boot, facts.get("power") or {}), **_unit_power(host, boot), **_memory(boot, facts)}
    return {
        "boot": {name: {"value": value, "source": source} for name, (value, source) in set_at_boot.items()},
        "boots": platform.get("init") == "systemd" or not platform.get("container"),
        "locked": {name: reason for name, reason in ((name, _locked(host, path, platform.get("container"))) for name, path in _FILES.items()) if reason},
        "impossible": _impossible(host, expected),
        "frequency_khz": {end: _limits(host, lambda policy, end=end: host.read_int(f"{policy}/scaling_{end}_freq")) for end in ("min", "max")},
        "resolved_khz": {end: _resolved(host, end, expected.get(f"{end}_frequency_khz")) for end in ("min", "max")},
        "khugepaged_defrag": host.read(memory_policy.OPTIONS["khugepaged_defrag"].path),
        "hugepages": _hugepages(host, boot, facts, expected.get("hugepages") or []),
        "workloads": _workloads(host),
        "plan": _plan(host),
        "services": _services(host),
        "exposure": _exposure(host),
    }


def _locked(host, path, container):
    """Return why the kernel file `path` is not this host's to set, or None. A recording cannot be asked: there the container decides."""
    if not host.is_live:
        return f"recorded inside a container ({container}): the setting belongs to the machine it ran on" if container else None
    return host.locked_because(path) if host.exists(path) else None


def _impossible(host, expected):
    """Return {setting: reason} of the expected values that the state modules refuse on this host."""
    reasons = {}
    for module, options in ((cpu_power, _POWER), (memory_policy, memory_policy.OPTIONS)):
        for name in options:
            try:
                if expected.get(name) is not None:
                    module.plan(host, {name: expected[name], "persist": False, "conflicting_tuners": "ignore"})
            except SettingsError as error:
                reasons[name] = str(error)
    return reasons


def _limits(host, of_policy):
    """Return the sorted distinct values of `of_policy(path)` for the cpufreq policies of the host."""
    values = {of_policy(f"{_CPU}/cpufreq/policy{number}") for number in host.numbered(f"{_CPU}/cpufreq", "policy")}
    return sorted(value for value in values if value is not None)


def _resolved(host, end, khz):
    name = f"scaling_{end}_freq"
    return [] if khz is None else _limits(host, lambda policy: host.read(f"{policy}/{name}") and cpu_power.resolved_khz(host, policy, name, khz))


def _kernel_power(boot, power):
    """Return {setting: (value, source)} of what the kernel itself starts with."""
    found = {}
    governor = boot.parameter("cpufreq.default_governor")
    performance = boot.kernel_option("CPU_FREQ_DEFAULT_GOV_PERFORMANCE")
    if governor:
        found["governor"] = governor
    elif power.get("driver") in cpu_power.SELF_GOVERNED and performance is not None:
        # These drivers know two governors; the build's choice of any other means powersave, their dynamic one.
        found["governor"] = ("performance" if performance == "y" else "powersave", "the kernel's build")
    else:
        for name in cpu_power.GOVERNORS:
            if boot.kernel_option(f"CPU_FREQ_DEFAULT_GOV_{name.upper()}") == "y":
                found["governor"] = (name, "the kernel's build")
    found["max_exit_latency_us"] = (None, "the kernel's default")
    return found


def _unit_power(host, boot):
    """Return {setting: (value, source)} of what ainode-cpu-power.service sets, if it is enabled."""
    text = host.read(cpu_power.CONF)
    if text is None or not boot.unit_enabled(cpu_power.UNIT):
        return {}
    found = {}
    for line in text.splitlines():
        name, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            value = value.strip()
            if name == "idle_states_disabled":
                value = value.split(",")
            elif name in ("turbo", "epb", "min_frequency_khz", "max_frequency_khz", "max_exit_latency_us"):
                value = int(value) if value.isdigit() else value
            found[name] = (value, cpu_power.CONF)
    return found


def _memory(boot, facts):
    """Return {setting: (value, source)} of the memory policies: what a file sets, else the command line, else what the kernel starts with."""
    default = "the kernel's default"
    # https://docs.kernel.org/admin-guide/sysctl/vm.html and mm/transhuge.html name these.
    found = {"swappiness": ("60", default), "zone_reclaim_mode": ("0", default), "thp_defrag": ("madvise", default), "khugepaged_defrag": ("1", default)}
    for word in ("always", "madvise", "never"):
        if boot.kernel_option(f"TRANSPARENT_HUGEPAGE_{word.upper()}") == "y":
            found["transparent_hugepage"] = (word, "the kernel's build")
    balancing = boot.kernel_option("NUMA_BALANCING_DEFAULT_ENABLED")
    if balancing is not None:
        nodes = [node for node in (facts.get("numa") or {}).get("nodes") or [] if node["memory_bytes"] != 0]
        found["numa_balancing"] = ("1" if balancing == "y" and len(nodes) > 1 else "0", "the kernel's build")
    huge, balancing = boot.parameter("transparent_hugepage"), boot.parameter("numa_balancing")
    if huge:
        found["transparent_hugepage"] = huge
    if balancing:
        found["numa_balancing"] = ("1" if balancing[0] == "enable" else "0", balancing[1])
    found.update((name, value) for name, value in ((name, boot.file(option.path)) for name, option in memory_policy.OPTIONS.items()) if value)
    return found


def _hugepages(host, boot, facts, pages):
    """Return the evidence on huge pages, counted where the module hugepages would set them."""
    try:
        plan = hugepages.plan(host, {"pages": pages, "shortfall": "fail", "persist": False})
    except SettingsError as error:
        return {"error": str(error)}
    nodes = [node["id"] for node in (facts.get("numa") or {}).get("nodes") or [] if node["memory_bytes"] != 0] or [None]
    found = {"wanted": {}, "live": {}, "boot": {}, "source": None, "reason": "; ".join(entry["reason"] for entry in plan.not_applicable)}
    sources = []
    for setting in plan.settings:
        match = re.search(r"(?:/node(\d+)/.*)?/hugepages-(\d+)kB/", setting.path)
        node, size = match.group(1) and int(match.group(1)), int(match.group(2))
        found["wanted"].setdefault(size, {})[node] = int(setting.wanted)
        found["live"].setdefault(size, {})[node] = host.read_int(setting.path)
        found["boot"].setdefault(size, {})[node], source = _pages_at_boot(boot, setting.path, node, size, nodes)
        sources += [source] if source not in sources else []
    return {**found, "source": ", ".join(sources)}


def _pages_at_boot(boot, path, node, size, nodes):
    """Return (count, source) of the huge pages of `size` kB that the next boot gives `node`, one of `nodes`."""

    def share(total):
        """Return what the kernel gives `node` of a total that names no node: the same to each, the rest to the first ones."""
        return total // len(nodes) + (nodes.index(node) < total % len(nodes) if node in nodes else 0)

    found = boot.file(path)
    if found and found[0].isdigit():
        return int(found[0]), found[1]
    default_kb = _kilobytes((boot.parameter("default_hugepagesz") or ["2M"])[0])
    found = boot.file(f"{hugepages.HOST_SIZES}/hugepages-{size}kB/nr_hugepages") or (size == default_kb and boot.file("/proc/sys/vm/nr_hugepages"))
    if found and found[0].isdigit():
        return share(int(found[0])), found[1]
    # On the command line hugepages= counts pages of the size that the hugepagesz= before it names: "512", or by node "0:256,1:256".
    count, source, current_kb = 0, "the kernel's default", default_kb
    for name, value in boot.cmdline:
        if name == "hugepagesz":
            current_kb = _kilobytes(value)
        elif name == "hugepages" and current_kb == size and re.match(r"\d+(:\d+(,\d+:\d+)*)?\Z", value):
            by_node = dict(part.split(":") for part in value.split(",")) if ":" in value else None
            count = share(int(value)) if by_node is None else int(by_node.get(str(node), 0))
            source = "kernel command line, hugepages="
    return count, source


def _kilobytes(size):
    """Return the kB of a page size on the kernel's command line; None for a text that is none."""
    try:
        return hugepages.parse_size(size)
    except SettingsError:
        return None


def _workloads(host):
    text = host.read(ainode_run.PLACEMENT)
    if text is None:
        return {}
    try:
        workloads = {name: list(instances) for name, instances in json.loads(text)["workloads"].items()}
        sound = all(
            isinstance(instance["name"], str) and isinstance(instance["cpus"], str) and isinstance(instance["env"], dict)
            for instances in workloads.values()
            for instance in instances
        )
        return workloads if sound else None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _plan(host):
    try:
        return node_plan.read(host)
    except node_plan.PlanError:
        return None


def _services(host):
    services = []
    for unit in host.names(UNITS, "ainode-*.service"):
        setting = dict(
            line.split("=", 1) for line in (host.read(f"{UNITS}/{unit}") or "").splitlines() if re.match(r"(CPUAffinity|NUMAPolicy|NUMAMask)=", line)
        )
        if "CPUAffinity" in setting:
            services.append(
                {
                    "unit": unit,
                    "cpus": _cpulist(setting["CPUAffinity"]),
                    "memory_policy": setting.get("NUMAPolicy"),
                    "memory_nodes": setting.get("NUMAMask"),
                    "running": _running(host, unit),
                }
            )
    return services


def _exposure(host):
    # What sets the kernel's own settings answers nobody, and could not be shut in.
    units = [unit for unit in host.names(UNITS, "ainode-*.service") if unit != cpu_power.UNIT]
    said = host.rated_units(units)
    return {unit: said.get(unit) for unit in units}


def _running(host, unit):
    """Return the cpulist that the first process of `unit` may run on, None when it has none: cgroup v2, hybrid and v1 in turn."""
    for base in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"):
        process = (host.read(f"{base}/system.slice/{unit}/cgroup.procs") or "").split()
        if process:
            match = re.search(r"^Cpus_allowed_list:\s*(\S+)", host.read(f"/proc/{process[0]}/status") or "", re.MULTILINE)
            return match.group(1) if match else None
    return None


def _cpulist(text):
    """Return systemd's CPUAffinity= (ids and ranges, between spaces or commas) as a kernel cpulist; the text itself when it is none."""
    try:
        return cpulist.render(cpulist.parse(",".join(text.replace(",", " ").split())))
    except ValueError:
        return text
