# Copyright (c) 2026, The ainode.cpu authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Which CPUs a service may really use: the cgroup cpusets above it, the CPU quotas above it, and the affinity that it inherits.

A process that starts a thread for each CPU of the machine in a container of four runs slower than with four threads: this is the number to count by.
On a host that systemd runs these are the limits of system.slice, where units start, whatever session reads them: a login may be confined to other
CPUs (AllowedCPUs= of user.slice), and the affinity that systemd's CPUAffinity= gives to everything gives way to a unit's own. Elsewhere, and in a
container, they are those of the reading process.
Sources: https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max, cpuset.cpus.effective), cgroup-v1/cpusets.html,
https://docs.kernel.org/scheduler/sched-bwc.html (cpu.cfs_quota_us). On a recorded machine they are read from the recording as everything else is.
"""

from __future__ import annotations

import posixpath
import re

from ..host import cpulist
from . import platform

_SLICES = ("system.slice", "user.slice", "init.scope", "machine.slice")


def read(root, online):
    """Return {cpus, count, limit, cpuset}: the cpulist of the CPUs in reach, how many of them can run at a time, what limits them the most, and the
    cpulist that no process may leave, null where no cpuset is smaller than the machine.

    limit is affinity, cpuset, quota or null. A quota of 3.5 CPUs counts 3 (a fourth thread would be throttled), one below 1 counts 1.
    All null where the online CPUs are not known.
    """
    if not online:
        return {"cpus": None, "count": None, "limit": None, "cpuset": None}
    units = _runs_units(root)
    allowed, limit = set(online), None
    cpuset = _cpuset(root, units)
    confined = bool(cpuset and allowed - cpuset and allowed & cpuset)
    if confined:
        allowed, limit = allowed & cpuset, "cpuset"
    affinity = None if units else _affinity(root)
    if affinity and allowed - affinity and allowed & affinity:
        allowed, limit = allowed & affinity, "affinity"
    count, quota = len(allowed), _quota(root, units)
    if quota is not None and quota < count:
        count, limit = max(1, int(quota)), "quota"
    return {"cpus": cpulist.render(allowed), "count": count, "limit": limit, "cpuset": cpulist.render(cpuset & set(online)) if confined else None}


def _runs_units(root):
    """Return whether systemd starts services on this machine, outside of whatever container this process is in."""
    session = re.search(r"^\d+:(?:name=systemd)?:/(?:\S*/)?user\.slice/", root.read("/proc/self/cgroup") or "", re.M)
    return platform.container(root) is None and (root.is_dir("/run/systemd/system") or session is not None)


def _affinity(root):
    match = re.search(r"^Cpus_allowed_list:\s*(\S+)", root.read("/proc/self/status") or "", re.M)
    return _parse(match.group(1)) if match else None


def _cpuset(root, units):
    """Return the CPUs that every cpuset above the process has in common; None where no cpuset limits it. `units`: above a unit's."""
    found = None
    for directory in _directories(root, "cpuset", units):
        # v2, v1, and v1 mounted with noprefix; the effective set first, since an empty one inherits.
        for name in ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus", "cpus"):
            cpus = _parse(root.read(f"{directory}/{name}"))
            if cpus:
                found = cpus if found is None else found & cpus
                break
    return found


def _quota(root, units):
    """Return the smallest quota above the process as a number of CPUs; None where there is none. `units`: above a unit's."""
    quotas = []
    for directory in _directories(root, "cpu", units):
        text = root.read(directory + "/cpu.max") or f"{root.read(directory + '/cpu.cfs_quota_us')} {root.read(directory + '/cpu.cfs_period_us')}"
        match = re.match(r"(\d{1,15}) (\d{1,15})\Z", text)
        if match and int(match.group(1)) and int(match.group(2)):
            quotas.append(int(match.group(1)) / int(match.group(2)))
    return min(quotas, default=None)


def _directories(root, controller, units):
    """Return the cgroup directories that `controller` can limit this process in, or with `units` a unit's: v1's and v2's, the innermost first."""
    found = []
    for path, mount_root, mount_point in _groups(root, controller):
        # In a container the mount shows only the part below mount_root; a path outside of it is a host's name for the mount point itself.
        if mount_root != "/":
            path = path[len(mount_root) :] if (path + "/").startswith(mount_root + "/") else "/"
        path = posixpath.normpath("/" + path.lstrip("/"))
        if units:
            path = _slice_of_units(path)
        if ".." in path or not root.is_dir(mount_point + path):
            path = "/"
        while path != "/":
            found.append(mount_point + path)
            path = posixpath.dirname(path)
        found.append(mount_point)
    return found


def _slice_of_units(path):
    """Return the group of system.slice beside, or above, the group `path` of this process."""
    names = path.strip("/").split("/")
    first = next((number for number, name in enumerate(names) if name in _SLICES), 0)
    return "/" + "/".join([*names[:first], "system.slice"])


def _groups(root, controller):
    """Return [(path in the hierarchy, root of the mount, mount point)] of the hierarchies that carry `controller`."""
    paths = {}
    for line in (root.read("/proc/self/cgroup") or "").splitlines():
        number, _colon, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if colon:
            for name in controllers.split(",") if controllers else ["" if number == "0" else None]:
                paths[name] = path
    if "cpuset" not in paths and root.read("/proc/self/cpuset"):
        paths["cpuset"] = root.read("/proc/self/cpuset")
    found = []
    for kind, options, mount_root, mount_point in _mounts(root):
        if kind == "cgroup2" and "" in paths:
            found.append((paths[""], mount_root, mount_point))
        elif kind == "cgroup" and controller in options and controller in paths:
            found.append((paths[controller], mount_root, mount_point))
    return found


def _mounts(root):
    """Return [(file system type, options, root of the mount, mount point)] of the cgroup mounts."""
    found = []
    for line in (root.read("/proc/self/mountinfo") or "").splitlines():
        # 31 23 0:26 /docker/abc /sys/fs/cgroup/cpuset ro,nosuid shared:9 - cgroup cgroup rw,cpuset
        before, dash, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if dash and len(fields) >= 5 and len(kind) >= 3 and kind[0] in ("cgroup", "cgroup2"):
            found.append((kind[0], kind[2].split(","), fields[3], fields[4]))
    if not found:
        for line in (root.read("/proc/mounts") or "").splitlines():
            fields = line.split()
            if len(fields) >= 4 and fields[2] in ("cgroup", "cgroup2"):
                found.append((fields[2], fields[3].split(","), "/", fields[1]))
    return found


def _parse(text):
    try:
        return set(cpulist.parse(text)) if text else None
    except ValueError:
        return None
