# Copyright (c) 2026, The ainode.cpu authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The plan of hugepages: how many huge pages of which size each NUMA node of a host sets aside.

Sources: https://docs.kernel.org/admin-guide/mm/hugetlbpage.html; tmpfiles.d(5), whose `w` lines systemd writes at boot before any service starts.
"""

from __future__ import annotations

import os
import re

from ..host import baseline, cpulist
from ..host.host import SettingsError, file
from .converge import Plan, Setting

HOST_SIZES = "/sys/kernel/mm/hugepages"
NODES = "/sys/devices/system/node"
TMPFILES = "/etc/tmpfiles.d/ainode-hugepages.conf"
_SIZE = re.compile(r"(\d+)\s*([kKmMgG])(?:i?[bB])?\Z")
_UNITS_KB = {"k": 1, "m": 1 << 10, "g": 1 << 20}
# What a node keeps for everything else: a sixteenth of its memory, and no less than this.
_LEFT_PART, _LEAST_LEFT_KB = 16, 128 << 10
_SHORT = "memory is in use or in too small pieces: ask for fewer, run right after a boot, or reserve them on the kernel command line (hugepagesz=, hugepages=)"


def parse_size(text):
    """Return the kB of a page size written as 2M, 2MB, 2MiB, 2048kB or 1G. Raises SettingsError."""
    match = _SIZE.match(str(text).strip())
    if not match or not int(match.group(1)):
        raise SettingsError(f"'{text}' is not the size of a huge page: write for example 2M or 1G")
    return int(match.group(1)) * _UNITS_KB[match.group(2).lower()]


def shown_size(kilobytes):
    """Return a page size as people write it: 2M, 1G, 64K."""
    for unit in "gm":
        if kilobytes % _UNITS_KB[unit] == 0:
            return f"{kilobytes // _UNITS_KB[unit]}{unit.upper()}"
    return f"{kilobytes}K"


def plan(host, params):
    """Return the Plan for the options of the module hugepages.

    params: {"pages": [{"size", "nodes": {id: count} or None, "total": count or None}], "shortfall": "fail" | "warn", "persist"}.
    Raises SettingsError for what this host cannot have: a size its kernel lacks, a node it lacks, more than a node's memory.
    """
    requests = _requests(params["pages"])
    sizes = sorted(int(match.group(1)) for match in (re.match(r"hugepages-(\d+)kB\Z", name) for name in host.names(HOST_SIZES)) if match)
    if not requests:
        return Plan()
    if not sizes:
        return Plan(not_applicable=({"setting": "pages", "reason": "the kernel of this host has no huge pages (no /sys/kernel/mm/hugepages)"},))
    for size in requests:
        if size not in sizes:
            raise SettingsError(f"this host has no huge pages of {shown_size(size)}: its sizes are {', '.join(map(shown_size, sizes))}")
    wanted, not_applicable = [], []
    counted = {size: _counts(host, size, request) for size, request in requests.items()}
    _check_memory(host, counted)
    for size, counts in counted.items():
        settings = [
            Setting(f"pages {shown_size(size)}", _path(node, size), str(count), tolerant=params["shortfall"] == "warn", hint=_SHORT)
            for node, count in counts.items()
        ]
        locked = next(filter(None, (host.locked_because(setting.path) for setting in settings)), None)
        if locked:
            not_applicable.append({"setting": f"pages {shown_size(size)}", "reason": f"{settings[0].path}: {locked}"})
        else:
            wanted += settings
    files = {TMPFILES: file(_tmpfiles(wanted))} if params["persist"] and wanted else {}
    return Plan(settings=tuple(wanted), files=files, not_applicable=tuple(not_applicable))


def in_use(host, path, value):
    """Return why the count at `path` must not become `value`, or None: the kernel would let go of pages that processes have."""
    folder = os.path.dirname(path)
    total, free = host.read_int(path), host.read_int(folder + "/free_hugepages")
    if not host.is_live:
        # Nobody counts free pages on a recorded machine: they belong to the total that was recorded.
        total = int(baseline.load(host).record("hugepages")["values"].get(path, total))
    if total is None or free is None:
        return None
    # Pages that a process has mapped and not touched are free and promised. The host counts them, not its nodes: they may lie on any.
    promised = min(free, host.read_int(f"{HOST_SIZES}/{os.path.basename(folder)}/resv_hugepages") or 0)
    used = total - free + promised
    if int(value) >= used:
        return None
    reserved = f" or reserved (resv_hugepages: {promised})" if promised else ""
    return f"{path}: {used} of {total} huge pages are in use{reserved}, {value} are wanted: stop what uses them first (see HugePages_ in /proc/PID/smaps)"


def _requests(pages):
    """Return {kB: request} of the option `pages`, each counted one way."""
    requests = {}
    for request in pages:
        size = parse_size(request["size"])
        if size in requests:
            raise SettingsError(f"pages of {shown_size(size)} are asked for twice: give each size once")
        if (request.get("nodes") is None) == (request.get("total") is None):
            raise SettingsError(f"pages of {shown_size(size)}: give either nodes (a count for each NUMA node) or total")
        requests[size] = request
    return requests


def _counts(host, size, request):
    """Return {node: count}; the node None is a host without NUMA."""
    nodes = [node for node in host.numbered(NODES, "node") if host.read(_path(node, size)) is not None]
    usable = [node for node in nodes if _memory_kb(host, node) != 0]
    if request.get("nodes") is not None:
        counts = {_number(node, "node"): _number(count, f"count of pages on node {node}") for node, count in request["nodes"].items()}
        # A kernel without NUMA has one node in all but name.
        if not nodes and set(counts) <= {0}:
            return {None: counts[0]} if counts else {}
        for node in counts:
            if node not in nodes:
                raise SettingsError(f"this host has no NUMA node {node} with huge pages: it has {cpulist.render(nodes) or 'none'}")
            if node not in usable and counts[node]:
                raise SettingsError(f"NUMA node {node} has no memory: huge pages can be on {cpulist.render(usable)}")
        return dict(sorted(counts.items()))
    total = _number(request["total"], "total")
    if not nodes:
        return {None: total}
    # Memory-only nodes (CXL, persistent memory, GPUs) are slow or somebody else's: they get pages only by name.
    near = [node for node in usable if host.read(f"{NODES}/node{node}/cpulist")] or usable
    return {node: total // len(near) + (index < total % len(near)) for index, node in enumerate(near)}


def _number(value, what):
    try:
        number = int(str(value))
    except ValueError:
        number = -1
    if number < 0:
        raise SettingsError(f"{what} '{value}' is not a number from 0 on")
    return number


def _memory_kb(host, node):
    """Return the memory of `node` in kB, None where the host does not tell."""
    match = re.search(r"MemTotal:\s+(\d+) kB", host.read("/proc/meminfo" if node is None else f"{NODES}/node{node}/meminfo") or "")
    return int(match.group(1)) if match else None


def _check_memory(host, counted):
    """Raise SettingsError where the pages of all sizes, {kB: {node: count}}, leave a node less than everything else there needs.

    What does not fit is not tried: a kernel that gives it starves, and as it is asked for at each boot, starves at each boot.
    """
    for node in {node: None for counts in counted.values() for node in counts}:
        pages = {size: counts[node] for size, counts in counted.items() if counts.get(node)}
        memory, taken = _memory_kb(host, node), sum(size * count for size, count in pages.items())
        if memory is None or not taken:
            continue
        left = max(_LEAST_LEFT_KB, memory // _LEFT_PART) if node is None or host.read(f"{NODES}/node{node}/cpulist") else 0
        if taken > memory - left:
            asked = " and ".join(f"{count} huge pages of {shown_size(size)}" for size, count in pages.items())
            where = "this host" if node is None else f"NUMA node {node}"
            raise SettingsError(
                f"{asked} are wanted on {where}: {taken // 1024} MiB of its {memory // 1024} MiB of memory, and everything else there is to keep "
                f"{left // 1024} MiB; ask for fewer"
            )


def _path(node, size):
    folder = HOST_SIZES if node is None else f"{NODES}/node{node}/hugepages"
    return f"{folder}/hugepages-{size}kB/nr_hugepages"


def _tmpfiles(wanted):
    return "# Written by ainode.cpu.hugepages, applied at boot by systemd-tmpfiles.\n" + "".join(
        f"w {setting.path} - - - - {setting.wanted}\n" for setting in wanted
    )
