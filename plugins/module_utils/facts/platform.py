# Copyright (c) 2026, The ainode.cpu authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The system around the CPU: virtualization, container, kernel, distribution, the init system, and who else tunes this host.

Sources: os-release(5), systemd's container interface (https://systemd.io/CONTAINER_INTERFACE/), sd_booted(3), the state that
systemd keeps of its units below /run/systemd/units.
"""

from __future__ import annotations

import os
import re
import shlex

# What writes governor, EPP or C-states behind our back: the name we report, its unit, its process (the kernel keeps 15 characters).
_TUNERS = (
    ("auto-cpufreq", "auto-cpufreq.service", "auto-cpufreq"),
    ("cpufrequtils", "cpufrequtils.service", None),
    ("power-profiles-daemon", "power-profiles-daemon.service", "power-profiles-"),
    ("tlp", "tlp.service", None),
    ("tuned", "tuned.service", "tuned"),
)


def read(root, hypervisor):
    """Return facts.platform: virtualization, container, kernel, cmdline, distribution {id, version_id, pretty_name}, conflicting_tuners, init,
    battery, sys_writable.
    """
    return {
        "virtualization": hypervisor.lower() if hypervisor else None,
        "container": container(root),
        "kernel": _kernel(root),
        "cmdline": root.read("/proc/cmdline"),
        "distribution": distribution(root),
        "conflicting_tuners": conflicting_tuners(root),
        "init": "systemd" if root.is_dir("/run/systemd/system") else None,
        "battery": battery(root),
        "sys_writable": os.access(root.path("/sys/devices/system"), os.W_OK),
    }


def container(root):
    """Return the container manager that this process runs under (docker, podman, lxc, systemd-nspawn, kubernetes, …), null outside of a container."""
    if root.exists("/var/run/secrets/kubernetes.io"):
        return "kubernetes"
    for name in ("/run/host/container-manager", "/run/systemd/container"):
        manager = root.read(name)
        if manager:
            return manager
    if root.exists("/run/.containerenv"):
        return "podman"
    environment = (root.read_bytes("/proc/1/environ") or b"").split(b"\0")
    manager = next((entry[len(b"container=") :].decode("utf-8", "replace") for entry in environment if entry.startswith(b"container=")), None)
    if manager:
        return manager
    groups = root.read("/proc/self/cgroup") or ""
    for mark, name in (("kubepods", "kubernetes"), ("libpod", "podman"), ("docker", "docker"), ("/lxc", "lxc")):
        # A service of the host is named docker.service; a container has its id below docker/ or in docker-<id>.scope.
        if re.search(rf"{mark}(?!\.service|\.socket)", groups):
            return name
    return "docker" if root.exists("/.dockerenv") else None


def distribution(root):
    """Return {id, version_id, pretty_name} of os-release(5), each null where it is not told."""
    found = {}
    for line in (root.read("/etc/os-release") or root.read("/usr/lib/os-release") or "").splitlines():
        key, equals, value = line.partition("=")
        if equals:
            try:
                found[key.strip()] = " ".join(shlex.split(value))
            except ValueError:
                continue
    return {"id": found.get("ID"), "version_id": found.get("VERSION_ID"), "pretty_name": found.get("PRETTY_NAME")}


def conflicting_tuners(root):
    """Return the sorted names of the services that tune the CPU's power settings by themselves and are active now."""
    # systemd keeps a link invocation:<unit> for each unit that is active, a finished oneshot with RemainAfterExit (tlp) as well.
    active = set(root.names("/run/systemd/units", "invocation:*"))
    if active:
        return [name for name, unit, _process in _TUNERS if "invocation:" + unit in active]
    processes = {root.read(f"/proc/{number}/comm") for number in root.numbered("/proc", "")}
    return [name for name, _unit, process in _TUNERS if process and process in processes]


def battery(root):
    """Return whether a battery powers this machine (not one of a mouse or a headset); null where the kernel has no power supply class."""
    if not root.is_dir("/sys/class/power_supply"):
        return None
    supplies = ["/sys/class/power_supply/" + name for name in root.names("/sys/class/power_supply")]
    return any(root.read(supply + "/type") == "Battery" and root.read(supply + "/scope") != "Device" for supply in supplies)


def _kernel(root):
    release = root.read("/proc/sys/kernel/osrelease")
    if release:
        return release
    version = re.match(r"Linux version (\S+)", root.read("/proc/version") or "")
    return version.group(1) if version else None
