# Copyright (c) 2026, The ainode.cpu authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Kernel cpulists ("0-3,8"): how sysfs, cgroups, systemd and taskset write a set of CPUs or of NUMA nodes.

Source: https://docs.kernel.org/admin-guide/kernel-parameters.html, "cpu lists".
"""

from __future__ import annotations

import re

_RANGE = re.compile(r"(\d{1,7})(?:-(\d{1,7}))?\Z")
# Far above the kernel's NR_CPUS (8192 on x86-64): a typing error must not become a list of millions.
_HIGHEST = 65535


def parse(text):
    """Return the sorted list of ids in the cpulist `text`; the empty list for an empty text.

    Raises ValueError that names the text and the part of it that is no id and no range.
    """
    ids = set()
    text = str(text).strip()
    if not text:
        return []
    for part in text.split(","):
        match = _RANGE.match(part.strip())
        if not match:
            raise ValueError(f"'{text}' is not a cpulist: '{part}' is neither an id nor a range such as 0-3 (write for example 0-3,8)")
        first = int(match.group(1))
        last = first if match.group(2) is None else int(match.group(2))
        if last < first:
            raise ValueError(f"'{text}' is not a cpulist: the range '{part}' runs backwards")
        if last > _HIGHEST:
            raise ValueError(f"'{text}' is not a cpulist: {last} is above the highest possible id, {_HIGHEST}")
        ids.update(range(first, last + 1))
    return sorted(ids)


def render(ids):
    """Return the cpulist of the integers `ids`, in the kernel's own shortest form; "" when there are none."""
    ranges = []
    for number in sorted(set(ids)):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
