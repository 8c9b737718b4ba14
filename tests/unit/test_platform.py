# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os

import machines
import pytest
from ansible_collections.ainode.cpu.plugins.module_utils.facts import platform
from ansible_collections.ainode.cpu.plugins.module_utils.host.root import Root


@pytest.fixture
def host(tmp_path):
    """A function that lays a described tree of files and returns its Root."""

    def write(files):
        (tmp_path / "proc").mkdir()
        machines._lay(tmp_path, files)
        return Root(str(tmp_path))

    return write


def test_the_guides_own_machine(described):
    assert platform.read(Root(described("xeon-8380-2s")), None) == {
        "virtualization": None,
        "container": None,
        "kernel": "6.8.0-45-generic",
        "cmdline": "BOOT_IMAGE=/vmlinuz root=/dev/mapper/root ro quiet",
        "distribution": {"id": "ubuntu", "version_id": "24.04", "pretty_name": "Ubuntu 24.04.1 LTS"},
        "conflicting_tuners": [],
        "init": "systemd",
        "battery": None,
        "sys_writable": True,
    }


def test_nothing_told(host):
    assert platform.read(host({}), "KVM") == {
        "virtualization": "kvm",
        "container": None,
        "kernel": None,
        "cmdline": None,
        "distribution": {"id": None, "version_id": None, "pretty_name": None},
        "conflicting_tuners": [],
        "init": None,
        "battery": None,
        "sys_writable": False,
    }


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"/.dockerenv": ""}, "docker"),
        ({"/run/.containerenv": 'engine="podman-4.3.1"', "/.dockerenv": ""}, "podman"),
        ({"/run/systemd/container": "systemd-nspawn"}, "systemd-nspawn"),
        ({"/run/host/container-manager": "podman"}, "podman"),
        ({"/proc/1/environ": "PATH=/bin\0container=lxc\0TERM=linux\0"}, "lxc"),
        ({"/proc/self/cgroup": "5:cpuset:/docker/0123456789abcdef"}, "docker"),
        ({"/proc/self/cgroup": "0::/system.slice/docker-0123456789abcdef.scope"}, "docker"),
        ({"/proc/self/cgroup": "0::/system.slice/docker.service"}, None),  # the daemon itself
        ({"/proc/self/cgroup": "0::/machine.slice/libpod-0123.scope/container"}, "podman"),
        ({"/proc/self/cgroup": "0::/kubepods.slice/kubepods-besteffort.slice"}, "kubernetes"),
        ({"/var/run/secrets/kubernetes.io/": None, "/.dockerenv": ""}, "kubernetes"),
        ({"/proc/self/cgroup": "0::/user.slice/user-0.slice/session-1.scope"}, None),
    ],
)
def test_container(host, files, expected):
    assert platform.container(host(files)) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"/etc/os-release": 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"'}, ("debian", "12", "Debian GNU/Linux 12 (bookworm)")),
        ({"/usr/lib/os-release": "ID=fedora\nVERSION_ID=41\n# a comment\n\nPRETTY_NAME='Fedora Linux 41'"}, ("fedora", "41", "Fedora Linux 41")),
        ({"/etc/os-release": 'ID=arch\nPRETTY_NAME="Arch'}, ("arch", None, None)),  # a quote that does not close
    ],
)
def test_distribution(host, files, expected):
    assert tuple(platform.distribution(host(files)).values()) == expected


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        ([], []),
        (["tuned", "ssh"], ["tuned"]),
        (["tlp", "power-profiles-daemon"], ["power-profiles-daemon", "tlp"]),
        (["auto-cpufreq", "cpufrequtils"], ["auto-cpufreq", "cpufrequtils"]),
        (["ssh"], []),
    ],
)
def test_tuners_by_systemd(host, units, expected):
    """The links point at an invocation id, so they dangle; a process of the same name does not count beside them."""
    root = host({"/run/systemd/units/": None, "/proc/77/comm": "tuned" if not units else "bash"})
    for unit in units:
        os.symlink("0123456789abcdef", root.path(f"/run/systemd/units/invocation:{unit}.service"))
    assert platform.conflicting_tuners(root) == (expected if units else ["tuned"])


@pytest.mark.parametrize(
    ("comm", "expected"),
    [
        ("tuned", ["tuned"]),
        ("power-profiles-", ["power-profiles-daemon"]),
        ("auto-cpufreq", ["auto-cpufreq"]),
        ("tunedd", []),
    ],
)
def test_tuners_without_systemd(host, comm, expected):
    assert platform.conflicting_tuners(host({"/proc/1/comm": "sh", "/proc/4242/comm": comm})) == expected


@pytest.mark.parametrize(
    ("supplies", "expected"),
    [
        ([], False),
        ([("AC", "Mains", None)], False),
        ([("AC", "Mains", None), ("BAT0", "Battery", "System")], True),
        ([("BAT0", "Battery", None)], True),
        ([("hidpp_battery_0", "Battery", "Device")], False),  # a mouse
    ],
)
def test_battery(host, supplies, expected):
    files = {"/sys/class/power_supply/": None}
    for name, kind, scope in supplies:
        files[f"/sys/class/power_supply/{name}/type"] = kind
        if scope:
            files[f"/sys/class/power_supply/{name}/scope"] = scope
    assert platform.battery(host(files)) is expected


def test_kernel_of_a_recording_without_sysctl(host):
    assert platform.read(host({"/proc/version": "Linux version 5.14.0-427.el9.x86_64 (mockbuild@x) #1 SMP"}), None)["kernel"] == "5.14.0-427.el9.x86_64"


def test_this_machine():
    facts = platform.read(Root("/"), None)
    assert facts["kernel"] == os.uname().release
    assert facts["sys_writable"] is os.access("/sys/devices/system", os.W_OK)
