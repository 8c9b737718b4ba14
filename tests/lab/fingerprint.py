# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Print what of this host the collection could change, a line each: files with their owner, mode and content, units, and live settings.

Two prints that are equal mean that nothing was left behind, whatever it was. Runs on the node and knows nothing of the collection.
"""

from __future__ import annotations

import glob
import hashlib
import os
import stat
import subprocess

TREES = ["/etc", "/home", "/opt", "/srv", "/usr/lib/systemd", "/usr/local", "/var/lib", "/run/systemd/system"]
# Written by the system itself at any time: clocks, seeds, lists, backups of the user database, linker and package caches.
VOLATILE = {
    "/etc/.pwd.lock", "/etc/group-", "/etc/gshadow-", "/etc/ld.so.cache", "/etc/mtab", "/etc/passwd-", "/etc/resolv.conf", "/etc/shadow-",
    "/etc/subgid-", "/etc/subuid-", "/var/lib/apt", "/var/lib/systemd",
}  # fmt: skip
LIVE = [
    "/proc/sys/kernel/numa_balancing", "/proc/sys/vm/nr_hugepages", "/proc/sys/vm/swappiness", "/proc/sys/vm/zone_reclaim_mode",
    "/sys/devices/system/cpu/cpu*/cpuidle/state*/disable", "/sys/devices/system/cpu/cpu*/power/energy_perf_bias",
    "/sys/devices/system/cpu/cpufreq/*/energy_performance_preference", "/sys/devices/system/cpu/cpufreq/*/scaling_governor",
    "/sys/devices/system/cpu/cpufreq/*/scaling_m??_freq", "/sys/devices/system/cpu/cpufreq/boost",
    "/sys/devices/system/cpu/intel_pstate/no_turbo", "/sys/devices/system/node/node*/hugepages/*/nr_hugepages",
    "/sys/kernel/mm/hugepages/*/nr_hugepages", "/sys/kernel/mm/transparent_hugepage/defrag", "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/kernel/mm/transparent_hugepage/khugepaged/defrag",
]  # fmt: skip


def files():
    """Yield a line for every file, directory and link of TREES."""
    for tree in TREES:
        for directory, names, others in os.walk(tree):
            names[:] = sorted(name for name in names if os.path.join(directory, name) not in VOLATILE)
            for path in sorted(os.path.join(directory, name) for name in names + others):
                if path not in VOLATILE:
                    yield describe(path)


def describe(path):
    status = os.lstat(path)
    line = f"{path} {stat.filemode(status.st_mode)} {status.st_uid}:{status.st_gid}"
    if stat.S_ISLNK(status.st_mode):
        return f"{line} -> {os.readlink(path)}"
    if stat.S_ISREG(status.st_mode):
        with open(path, "rb") as handle:
            return f"{line} {hashlib.sha256(handle.read()).hexdigest()}"
    return line


def live():
    """Yield a line for every live setting that this host has."""
    for pattern in LIVE:
        for path in sorted(glob.glob(pattern)):
            # What a container may not write is the machine's under it, where others may change it meanwhile.
            if not os.access(path, os.W_OK):
                continue
            try:
                with open(path) as handle:
                    yield f"{path} = {handle.read().strip()}"
            except OSError:
                continue


def units():
    """Yield a line for every service that does not come with Debian's own names: loaded, active or failed."""
    if os.path.isdir("/run/systemd/system"):
        command = ["systemctl", "list-units", "--all", "--plain", "--no-legend", "--type=service,timer,path,slice,target", "ainode*"]
        yield from subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


if __name__ == "__main__":
    for line in (*files(), *live(), *units()):
        print(line)
