# Copyright (c) 2026, The ainode.cpu authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The plan of memory_policy: transparent huge pages, NUMA balancing, zone reclaim and swappiness of a host.

Sources: https://docs.kernel.org/admin-guide/mm/transhuge.html, https://docs.kernel.org/admin-guide/sysctl/vm.html and kernel.html;
sysctl.d(5) and tmpfiles.d(5) for what is set at boot.
"""

from __future__ import annotations

from typing import NamedTuple

from ..host.host import SettingsError, choices, file
from .converge import Plan, Setting

SYSCTL = "/etc/sysctl.d/90-ainode.conf"
TMPFILES = "/etc/tmpfiles.d/ainode-memory.conf"
_THP = "/sys/kernel/mm/transparent_hugepage"


class _Option(NamedTuple):
    """Where an option is set. `highest` is the greatest number that a kernel takes; None is a file of choices or a switch."""

    path: str
    highest: int | None = None


OPTIONS = {
    "transparent_hugepage": _Option(f"{_THP}/enabled"),
    "thp_defrag": _Option(f"{_THP}/defrag"),
    "khugepaged_defrag": _Option(f"{_THP}/khugepaged/defrag"),
    "numa_balancing": _Option("/proc/sys/kernel/numa_balancing", 3),
    "zone_reclaim_mode": _Option("/proc/sys/vm/zone_reclaim_mode", 7),
    "swappiness": _Option("/proc/sys/vm/swappiness", 200),
}


def plan(host, params):
    """Return the Plan for the options of the module memory_policy; an option that is None is not asked for.

    Raises SettingsError for a value that no kernel, or not this one, takes.
    """
    wanted, not_applicable = [], []
    for name, option in OPTIONS.items():
        value = params.get(name)
        if value is None:
            continue
        if option.highest is not None and not 0 <= value <= option.highest:
            raise SettingsError(f"{name} {value} is not a number from 0 to {option.highest}")
        value = str(int(value)) if isinstance(value, (bool, int)) else value
        text = host.read(option.path)
        if text is None:
            not_applicable.append({"setting": name, "reason": f"the kernel of this host has no {option.path}"})
            continue
        if "[" in text and value not in choices(text):
            raise SettingsError(f"{name} '{value}' is not known to this host's kernel: choose one of {', '.join(choices(text))}")
        locked = host.locked_because(option.path)
        if locked:
            not_applicable.append({"setting": name, "reason": f"{option.path}: {locked}"})
            continue
        wanted.append(Setting(name, option.path, value))
    return Plan(settings=tuple(wanted), files=_files(wanted) if params["persist"] else {}, not_applicable=tuple(not_applicable))


def _files(wanted):
    """Return the files that set `wanted` at boot: sysctls in sysctl.d, the others in tmpfiles.d."""
    header = "# Written by ainode.cpu.memory_policy, applied at boot by "
    sysctls = [f"{setting.path[len('/proc/sys/') :].replace('/', '.')} = {setting.wanted}\n" for setting in wanted if setting.path.startswith("/proc/sys/")]
    others = [f"w {setting.path} - - - - {setting.wanted}\n" for setting in wanted if setting.path.startswith("/sys/")]
    files = {}
    if sysctls:
        files[SYSCTL] = file(f"{header}systemd-sysctl.\n{''.join(sysctls)}")
    if others:
        files[TMPFILES] = file(f"{header}systemd-tmpfiles.\n{''.join(others)}")
    return files
